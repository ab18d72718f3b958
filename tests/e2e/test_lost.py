"""The other side dies, or is stopped, in the middle: whoever is left says so soon, and nothing is half named."""

import signal
import subprocess

import pytest

from tests.processes import sparse

MIB = 1 << 20
SOON = 20.0
"""Seconds within which the survivor of a kill -9 has ended."""


def names_in(directory) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def midway(tether, words):
    """A large directory on its way: (listener, connector) when the first megabytes have been written."""
    (tether.directory / "d").mkdir()
    (tether.directory / "d" / "first").write_text("complete")
    sparse(tether.directory / "d" / "second", 4 << 30)
    listener = tether.listen("--passphrase", words, "--into", "in")
    connector = tether.connect("--passphrase", words, "--send", "d", to=listener)
    listener.event("progress", size=lambda size: size > 4 * MIB)
    return listener, connector


def test_the_sender_is_killed(tether, midway):
    listener, connector = midway
    killed = connector.kill()
    assert "lost before the end" in listener.exits(5, within=SOON).error
    assert listener.ended - killed < SOON
    assert names_in(tether.directory / "in") == [], "what had arrived is gone, its staging directory too"


def test_the_receiver_is_killed_and_its_next_run_cleans_up(tether, words, midway):
    listener, connector = midway
    killed = listener.kill()
    assert "lost before the end" in connector.exits(5, within=SOON).error
    assert connector.ended - killed < SOON
    (left,) = names_in(tether.directory / "in")
    assert left.startswith(".tether-"), "nothing has a final name"
    assert (tether.directory / "in" / left).stat().st_mode & 0o777 == 0o700

    (tether.directory / "small").write_text("next")
    listener = tether.listen("--passphrase", words, "--into", "in")
    tether.connect("--passphrase", words, "--send", "small", to=listener).exits(0)
    listener.exits(0)
    assert names_in(tether.directory / "in") == ["small"]


def test_an_idle_sender_is_killed(tether, words):
    """Nothing is under way but a pipe in which nobody writes: the silence itself is noticed."""
    listener = tether.listen("--passphrase", words)
    connector = tether.connect("--passphrase", words, to=listener, stdin=subprocess.PIPE)
    listener.event("started")
    killed = connector.kill()
    assert "nothing was heard" in listener.exits(5, within=SOON).error
    assert listener.ended - killed < SOON
    assert listener.out == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["ctrl-c", "term", "hup"])
@pytest.mark.parametrize("who", ["listener", "connector"])
def test_one_side_is_stopped(tether, words, who, number):
    """It ends with 130 at once, though it waits for a pipe; the other hears it and does not wait for a silence."""
    listener = tether.listen("--passphrase", words, "--into", "in")
    connector = tether.connect("--passphrase", words, to=listener, stdin=subprocess.PIPE)
    connector.stdin.write(b"some")
    connector.stdin.flush()
    listener.event("progress", size=4)
    stopped, other = (listener, connector) if who == "listener" else (connector, listener)
    stopped.signal(number)
    assert stopped.exits(130, within=5).error.startswith("Interrupted.")
    assert "was stopped" in other.exits(5, within=5).error
    assert names_in(tether.directory / "in") == []


def test_stopped_while_waiting(tether, words):
    listener = tether.listen("--passphrase", words, "--into", "in")
    connector = tether.connect("998-zoo-zoo-zoo", stdin=b"x")
    connector.event("searching")
    for run in (listener, connector):
        run.signal(signal.SIGINT)
        run.exits(130, within=5)
    assert names_in(tether.directory / "in") == []
