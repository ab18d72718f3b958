"""Every private attribute that `quic_engine.py` leans on, and every habit of a library that it counts on.

A failure here means that a library was upgraded and the engine file has to follow; it is no fault in what uses it.
"""

import ast
import inspect
from pathlib import Path

import pytest

import meshd
from tests.drivers.pairs import ENGINES, engine
from tests.drivers.test_quic_engine import BackToBack


@pytest.fixture(params=ENGINES)
def linked(request):
    both = BackToBack((request.param, request.param), retry=True)
    assert both.shake_hands()
    return both


def test_close_event_and_state(linked):
    for quic in (linked.client, linked.server):
        assert quic._close_event is None
        assert (quic._core.state if linked.near.name == "qh3" else quic._state.name.lower()) == "connected"
    linked.client.close(7, None, "bye")
    linked.round()
    assert linked.server._close_event.error_code == 7
    assert linked.server._close_event.frame_type is None
    state = linked.server._core.state if linked.near.name == "qh3" else linked.server._state.name.lower()
    assert state == "draining"


def test_the_names_of_events(linked):
    module = __import__(f"{linked.near.name}.quic.events", fromlist=["events"])
    fields = {
        "StreamDataReceived": {"stream_id", "data", "end_stream"},
        "HandshakeCompleted": {"alpn_protocol", "session_resumed", "early_data_accepted"},
        "StreamReset": {"stream_id", "error_code"},
        "StopSendingReceived": {"stream_id", "error_code"},
        "ConnectionIdIssued": {"connection_id"},
        "ConnectionIdRetired": {"connection_id"},
        "ConnectionTerminated": {"error_code", "frame_type", "reason_phrase"},
    }
    for name, expected in fields.items():
        assert set(getattr(module, name).__dataclass_fields__) == expected


def test_no_tickets_no_early_data_no_key_log(linked):
    for quic in (linked.client, linked.server):
        assert quic._session_ticket_handler is None and quic._session_ticket_fetcher is None
        configuration = quic.configuration
        assert configuration.session_ticket is None and configuration.secrets_log_file is None
    assert not any("ticket" in event.__class__.__name__.lower() for event in linked.events["client"])


def test_the_quic_bit_is_never_negotiated_away():
    """RFC 9287's transport parameter 0x2ab2: neither library knows it, so none sends it."""
    for name in ENGINES:
        source = inspect.getsource(engine(name)._packet)
        assert "0x2ab2" not in source.lower() and "grease_quic_bit" not in source


def test_aioquic_stream_sender():
    both = BackToBack(("aioquic", "aioquic"), retry=True)
    assert both.shake_hands()
    both.client.send_stream_data(0, b"12345")
    sender = both.client._streams[0].sender
    assert (sender._buffer_stop, sender.highest_offset) == (5, 0)


def test_aioquic_certificate_and_preferred_address():
    both = BackToBack(("aioquic", "aioquic"), retry=True)
    assert both.shake_hands()
    assert both.client.tls._peer_certificate is not None
    assert both.client._remote_preferred_address is None
    assert "_remote_preferred_address" in inspect.getsource(type(both.client)._probe_preferred_address)
    configuration = both.near.configuration(is_client=False, alpns=("tether/1",))
    assert {"certificate", "private_key"} <= set(vars(configuration))


def test_qh3_public_calls():
    both = BackToBack(("qh3", "qh3"), retry=True)
    assert both.shake_hands()
    assert both.client.get_peercert().public_bytes()
    assert both.client.get_send_buffer_size(0) == 0
    assert callable(both.client.receive_many_datagrams)
    assert "preferred_address intentionally stays inactive" in inspect.getsource(type(both.client)._drain_tls)


def test_one_file_imports_the_engines():
    """The engines' names appear in no import, and no quic object's private attribute in any other file."""
    for path in Path(meshd.__file__).parent.rglob("*.py"):
        if path.name == "quic_engine.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
                is_private = node.value.attr == "_quic" and node.attr.startswith("_")
                assert not is_private, f"{path}:{node.lineno} touches a private attribute of an engine"
            assert not any(name.split(".")[0] in ENGINES for name in names), path
