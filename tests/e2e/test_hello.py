"""The first thing a user tries."""

import json
import subprocess

import pytest

from tests.processes import WITHIN, port_of


def test_a_passphrase_and_a_pipe(tether, words):
    """As in the README: no option but the words. Stdout is the payload and nothing else, stderr says what happened."""
    listener = tether.start("listen", "--passphrase", words)
    port = listener.says(r"UDP port (\d+)")[1]
    connector = tether.start("connect", "--passphrase", words, "--peer", f"127.0.0.1:{port}", stdin=b"hello\n")
    connector.exits(0)
    listener.exits(0)
    assert (listener.out, connector.out) == (b"hello\n", b"")
    assert "Paired with" in listener.text and "Received 1 entry, 6 B" in listener.text
    assert "Paired with" in connector.text and "confirmed by the other side" in connector.text
    assert "\x1b" not in listener.text + connector.text and "\r" not in listener.text + connector.text


def test_the_other_way_round(tether, words, tmp_path):
    (tmp_path / "note.txt").write_bytes(b"hello back\n")
    listener = tether.listen("--passphrase", words, "--send", tmp_path / "note.txt")
    connector = tether.connect("--passphrase", words, "--into", "-", to=listener).exits(0)
    listener.exits(0)
    assert (listener.out, connector.out) == (b"", b"hello back\n")


def test_a_code_is_made_shown_and_found(tether):
    """Nothing is given on the one side, and on the other only what the first shows."""
    listener = tether.listen("--timeout", "60")
    code = listener.event("code")["code"]
    number, *parts = code.split("-")
    assert listener.event("waiting")["number"] == int(number) and len(parts) == 3
    connector = tether.connect(code, stdin=b"found\n").exits(0)
    listener.exits(0)
    assert listener.out == b"found\n"
    assert port_of(listener) in {int(each["address"].rpartition(":")[2]) for each in connector.all_of("dialling")}
    assert not any(word in connector.text for word in ["-".join(parts), " ".join(parts)])


def test_a_code_may_be_typed_carelessly(tether):
    listener = tether.start("listen", "--quiet")
    code = listener.says(r"(?m)^Code: (\d+-\w+-\w+-\w+)$")[1]
    tether.connect(code.upper().replace("-", "  ", 2), stdin=b"x").exits(0)
    listener.exits(0)
    assert listener.out == b"x"
    assert listener.text == f"Code: {code}\n", "quiet shows the code and nothing else"


def test_a_code_needs_no_quotes(tether):
    listener = tether.listen()
    code = listener.event("code")["code"]
    (tether.directory / "note").write_text("a path in between is still a path")
    tether.connect(*code.split("-"), "--send", "note", to=listener).exits(0)
    assert listener.exits(0).out == b"a path in between is still a path"


@pytest.mark.parametrize("engines", [("qh3", "aioquic"), ("aioquic", "qh3")], ids="-".join)
def test_the_engines_understand_each_other(tether, words, engines):
    pytest.importorskip("qh3")
    listener = tether.listen("--passphrase", words, "--quic-engine", engines[0])
    tether.connect("--passphrase", words, to=listener, stdin=b"mixed", environment={"TETHER_QUIC_ENGINE": engines[1]})
    listener.exits(0)
    assert listener.out == b"mixed"
    tether.runs[-1].exits(0)


def test_json_is_one_object_a_line_and_nothing_else(tether, words):
    listener = tether.listen("--passphrase", words)
    connector = tether.connect("--passphrase", words, to=listener, stdin=b"{}").exits(0)
    listener.exits(0)
    for run, kinds in (
        (listener, {"waiting", "paired", "started", "progress", "finished"}),
        (connector, {"searching", "dialling", "paired", "started", "progress", "finished"}),
    ):
        events = [json.loads(line) for line in run.text.splitlines()]
        assert {event["event"] for event in events} == kinds
        assert events[-1]["event"] == "finished" and events[-1]["size"] == 2
    assert listener.out == b"{}"


def test_quiet_prints_nothing_when_all_goes_well(tether, words):
    listener = tether.listen("--passphrase", words)
    connector = tether.start(
        *("connect", "--quiet", "--passphrase", words, "--host", "127.0.0.1", "--port", str(port_of(listener))),
        stdin=b"hush",
    )
    connector.exits(0)
    listener.exits(0)
    assert (connector.text, listener.out) == ("", b"hush")


def test_the_connector_may_come_first(tether, words):
    """It keeps looking within its time-out, here for a listener whose number it knows, by multicast."""
    code = "998-zoo-zone-zero"
    connector = tether.connect(code, "--timeout", str(WITHIN), stdin=b"early")
    connector.event("searching")
    listener = tether.listen(environment={"TETHER_PASSPHRASE": code})
    connector.exits(0)
    listener.exits(0)
    assert listener.out == b"early"


def test_one_peer_and_then_nobody(tether, words):
    """Who comes while a transfer runs hears that the window has its peer, and spends no try."""
    listener = tether.listen("--passphrase", words)
    first = tether.connect("--passphrase", words, to=listener, stdin=subprocess.PIPE)
    listener.event("started")
    second = tether.connect("--passphrase", words, "--timeout", "5", to=listener, stdin=b"late").exits(4)
    assert "has paired with the other side" in second.error
    first.stdin.write(b"mine")
    first.stdin.close()
    first.exits(0)
    listener.exits(0)
    assert listener.out == b"mine" and not second.all_of("try_spent")
