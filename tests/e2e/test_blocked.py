"""Pipes that do not move: whoever waits on one still hears what becomes of the other side."""

import os
import subprocess

from tests.e2e.test_lost import SOON, names_in


def test_a_receiver_whose_output_is_stuck_notices_that_the_sender_died(tether, words):
    """`listen | less`: the pipe is full and nobody reads on, while the sender is killed."""
    reading, writing = os.pipe()
    try:
        listener = tether.listen("--passphrase", words, stdout=writing)
        connector = tether.connect("--passphrase", words, to=listener, stdin=subprocess.PIPE)
        connector.stdin.write(bytes(1 << 20))
        connector.stdin.flush()
        listener.event("paired")
        connector.event("progress", size=lambda size: size >= 1 << 20)
        killed = connector.kill()
        listener.exits(5, within=SOON)
        assert listener.ended - killed < SOON
    finally:
        os.close(reading)
        os.close(writing)


def test_a_pipe_that_nobody_wants_is_read_no_further(tether, words):
    """The name is taken there, and the sender's input never ends: both sides end all the same."""
    (tether.directory / "in").mkdir()
    (tether.directory / "in" / "stdin").write_text("mine")
    listener = tether.listen("--passphrase", words, "--into", "in")
    connector = tether.connect("--passphrase", words, to=listener, stdin=subprocess.PIPE)
    for side in (connector.exits(6), listener.exits(6)):
        assert "already here" in side.event("entry_refused")["reason"]
    assert names_in(tether.directory / "in") == ["stdin"]
    assert (tether.directory / "in" / "stdin").read_text() == "mine"
