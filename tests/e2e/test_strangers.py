"""Somebody in the middle, somebody with a recording, and a listener who only wants to hear a guess."""

import contextlib
import socket

import pytest

from meshd.wire.constants import CloseCode, Frame
from meshd.wire.framing import encode_frame
from tests.e2e.strangers import Middle, Mute, Recorder, replay_messages, running
from tests.processes import WITHIN, port_of


def test_a_man_in_the_middle_gets_the_counted_tries_and_no_bytes(tether, words):
    """Right words at both ends, real QUIC ended and begun anew between them. What he heard is worth nothing elsewhere."""
    listener = tether.listen("--passphrase", words)
    payload = b"not for anybody else"
    with running(Middle(port_of(listener)).serve) as middle:
        for number in (1, 2, 3):
            connector = tether.connect("--passphrase", words, to=middle.port, stdin=payload).exits(3)
            assert "someone between you" in connector.error and not connector.all_of("paired")
            assert listener.event("try_spent", failed=number)["why"].startswith("Wrong words, or someone between you")
    assert listener.exits(3).out == b""
    assert len(middle.seen) == 3 and all(middle.seen), "he stood there: the handshakes went through him"
    assert not any(payload in seen or words.encode() in seen for seen in middle.seen)

    fresh = tether.listen("--passphrase", words)
    assert replay_messages(port_of(fresh), middle.seen[0]) == CloseCode.WRONG_WORDS
    assert fresh.event("try_spent")["failed"] == 1
    tether.connect("--passphrase", words, to=fresh, stdin=b"mine").exits(0)
    assert fresh.exits(0).out == b"mine"


def test_the_middle_would_carry_whoever_does_not_bind(tether, words):
    """The same middle hands on what it is given unharmed: it is the binding that stops it above, not a broken relay."""
    listener = tether.listen("--passphrase", words)
    with running(Middle(port_of(listener)).serve) as middle:
        assert replay_messages(middle.port, encode_frame(Frame.HELLO, b"x")) == CloseCode.PROTOCOL
    assert not listener.all_of("try_spent")


def test_a_recorded_session_gets_nowhere(tether, words):
    """Every datagram of a session that succeeded, again to a listener with the same words on a port of its own."""
    listener = tether.listen("--passphrase", words)
    with running(Recorder(port_of(listener)).serve) as recorder:
        tether.connect("--passphrase", words, to=recorder.port, stdin=b"once").exits(0)
    assert listener.exits(0).out == b"once" and len(recorder.sent) > 5 and recorder.answered > 5

    fresh = tether.listen("--passphrase", words)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.connect(("127.0.0.1", port_of(fresh)))
        for data in recorder.sent * 2:
            with contextlib.suppress(ConnectionRefusedError):
                again.send(data)
        again.settimeout(WITHIN)
        assert again.recv(2048)[0] & 0xF0 == 0xF0, "only a Retry answers, which costs the listener nothing"
    tether.connect("--passphrase", words, to=fresh, stdin=b"twice").exits(0)
    assert fresh.exits(0).out == b"twice"
    assert not fresh.all_of("try_spent") and len(fresh.all_of("paired")) == 1


@pytest.mark.parametrize(("answer", "code"), [(None, 5), (CloseCode.BUSY, 5), (CloseCode.WRONG_WORDS, 3)])
def test_a_listener_who_has_seen_the_proof_has_spent_the_try(tether, words, answer, code):
    """It could have tested a guess with it, so whatever it says, or does not say, gives the try not back."""
    mute = Mute("a guess", answer)
    with running(mute.serve) as port:
        connector = tether.connect("--passphrase", words, to=port, stdin=b"secret").exits(code)
    (spent,) = connector.all_of("try_spent")
    assert spent["failed"] == mute.proofs == 1
    assert connector.error and not connector.all_of("paired")
