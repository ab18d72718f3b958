"""What a person at a terminal sees, and is asked."""

import re
import subprocess

import pytest

from tests.processes import free_port, port_of, sparse

COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|9[0-7])(?:;\d+)*m")
BAR = re.compile(r"Sending.*MiB.*/s.*\d:\d\d")


def test_a_progress_bar_on_a_terminal(tether, words):
    """With its rate and the time that remains. The other side, into a pipe, shows none; nor does NO_COLOR take it away."""
    for environment in ({}, {"NO_COLOR": "1"}):
        sent = sparse(tether.directory / "zeros", 48 << 20)
        listener = tether.start("listen", "--passphrase", words)
        port = listener.says(r"UDP port (\d+)")[1]
        connector = tether.start(
            *("connect", "--passphrase", words, "--peer", f"127.0.0.1:{port}", "--send", sent),
            terminal=True,
            environment=environment,
        )
        connector.exits(0)
        listener.exits(0)
        assert BAR.search(connector.text) and "confirmed by the other side" in connector.text
        assert bool(COLOUR.search(connector.text)) is not bool(environment)
        assert "\x1b" not in listener.text and "Receiving" not in listener.text


def test_quiet_on_a_terminal(tether, words):
    listener = tether.listen("--passphrase", words)
    sent = sparse(tether.directory / "zeros", 8 << 20)
    peer = f"127.0.0.1:{port_of(listener)}"
    connector = tether.start(
        *("connect", "--quiet", "--passphrase", words, "--peer", peer, "--send", sent), terminal=True
    )
    connector.exits(0)
    assert connector.text == ""


def test_words_are_asked_for_and_not_shown(tether, words):
    listener = tether.listen("--passphrase", words)
    connector = tether.connect(to=listener, stdin=b"typed", terminal=True)
    connector.says("Code or passphrase: ")
    connector.type(f"{words}\n")
    connector.exits(0)
    assert listener.exits(0).out == b"typed"
    assert words not in connector.text and words.split()[1] not in connector.text


def ask_both(tether, words):
    """A pair that compares words; both have been asked."""
    listener = tether.start("listen", "--verify", "--passphrase", words, terminal=True)
    port = listener.says(r"UDP port (\d+)")[1]
    connector = tether.start(
        *("connect", "--verify", "--passphrase", words, "--peer", f"127.0.0.1:{port}"), terminal=True, stdin=b"safe"
    )
    shown = [run.says(r"must show: (\w+ \w+ \w+ \w+)\r?\n")[1] for run in (listener, connector)]
    for run in (listener, connector):
        run.says(r"\[y/N\]")
    return listener, connector, shown


def test_four_words_compared_and_confirmed(tether, words):
    listener, connector, shown = ask_both(tether, words)
    assert shown[0] == shown[1]
    listener.type("y\n")
    assert listener.out == b"" and connector.code is None, "nothing moves before both have said yes"
    connector.type("YES\n")
    connector.exits(0)
    assert listener.exits(0).out == b"safe"


@pytest.mark.parametrize("answer", ["n", ""], ids=["no", "enter"])
def test_four_words_denied(tether, words, answer):
    """Enter alone is a no. The side that said yes already hears of it, and nothing has moved."""
    listener, connector, _ = ask_both(tether, words)
    listener.type("y\n")
    connector.type(f"{answer}\n")
    assert "not confirmed" in connector.exits(3).text
    assert "sees other words" in listener.exits(3).text
    assert listener.out == b""


def test_verify_without_anybody_to_ask(tether, words):
    """It is said before anybody is looked for, so that no other side pairs for nothing."""
    connector = tether.connect("--verify", "--passphrase", words, to=free_port(), stdin=b"x").exits(2)
    assert "needs a terminal" in connector.error and not connector.all_of("searching")


def test_one_side_alone_may_verify(tether, words):
    """The other waits, for a person takes longer than a program."""
    listener = tether.start("listen", "--verify", "--passphrase", words, terminal=True)
    port = int(listener.says(r"UDP port (\d+)")[1])
    connector = tether.connect("--passphrase", words, to=port, stdin=subprocess.PIPE)
    connector.stdin.write(b"patient")
    connector.stdin.close()
    listener.says(r"\[y/N\]")
    listener.type("y\n")
    connector.exits(0)
    assert listener.exits(0).out == b"patient"
