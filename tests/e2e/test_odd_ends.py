"""Closed, broken and full standard streams, and people who change their minds at a question."""

import re
import subprocess
import sys
from collections.abc import Callable

import attrs
import blake3
import pytest

from meshd.drivers.payload import Began, Content, Ended, Piece, Survey
from meshd.model.entry import Entry, EntryKind
from tests.e2e.strangers import connect_all, settings
from tests.processes import port_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/dev/full and descriptors as Linux has them")


def closed(redirection: str) -> tuple[str, ...]:
    """Run under a shell that closes a standard stream, as cron jobs and careless scripts do."""
    return ("sh", "-c", f'exec "$@" {redirection}', "sh")


def no_traceback(*runs) -> None:
    for run in runs:
        assert "Traceback" not in run.text, run.text[-2000:]


def test_a_full_output(tether, words):
    """A redirection to a disk that is full: refused on both sides, as any other lack of room."""
    with open("/dev/full", "wb") as full:  # noqa: PTH123 (not a file)
        listener = tether.listen("--passphrase", words, stdout=full)
        connector = tether.connect("--passphrase", words, to=listener, stdin=b"too much").exits(6)
        listener.exits(6)
    for run in (listener, connector):
        assert "output cannot be written: No space left" in run.error


@attrs.define
class SlowDisk:
    """A Source whose second read takes as long as `until` does."""

    until: Callable[[], object]
    reads: int = 0
    may_block = False

    def scan(self) -> Survey:
        return Survey(1, 1)

    def pieces(self, budget: int) -> list[Piece]:
        self.reads += 1
        if self.reads == 1:
            return [Began(Entry(("slow",), EntryKind.FILE, 1, False, 0)), Content(b"x")]
        self.until()
        return [Ended(blake3.blake3(b"x").digest())]

    def skip(self, path: tuple[str, ...]) -> None:
        """Reads on."""

    def close(self) -> None:
        """Nothing is open."""


def test_a_refusal_while_the_disk_is_read(tether, words):
    """The read that was under way ends after the refusal came, and what it gives goes nowhere."""
    with open("/dev/full", "wb") as full:  # noqa: PTH123 (not a file)
        listener = tether.listen("--passphrase", words, stdout=full)
        slow = SlowDisk(lambda: listener.event("error"))
        (ending,) = connect_all([settings(words, port_of(listener))], lambda: slow)
    listener.exits(6)
    assert (slow.reads, ending.code) == (2, 6)
    assert "No space left" in str(ending.error)


def test_no_input_at_all(tether, words):
    run = tether.connect("--passphrase", words, prefix=closed("<&-"), to=9).exits(2)
    assert "no standard input" in run.error and not run.all_of("searching")


def test_no_output_at_all(tether, words):
    run = tether.start("listen", "--json", "--passphrase", words, prefix=closed(">&-")).exits(2)
    assert "no standard output" in run.error and not run.all_of("waiting")


def test_no_place_for_messages(tether, words):
    """Without stderr nothing is said; in particular not into the payload."""
    listener = tether.listen("--passphrase", words)
    connector = tether.connect("--passphrase", words, "--into", "-", to=listener, prefix=closed("2>&-"))
    connector.exits(6)
    assert connector.out == b""
    listener.exits(6)


def test_a_reader_of_messages_that_goes_away(tether, words):
    """`2>&1 | head -n 1` fetches what the listener says first, and then reads no more: the payload arrives all the same."""
    first_line = ("sh", "-c", '{ "$@" 2>&1 >payload; echo $? >code; } | head -n 1', "sh")
    listener = tether.start("listen", "--passphrase", words, prefix=first_line, stdout=subprocess.PIPE)
    port = int(re.search(r"UDP port (\d+)", listener.stdout.readline().decode())[1])
    tether.connect("--passphrase", words, to=port, stdin=b"for the file").exits(0)
    listener.exits(0)
    assert (tether.directory / "payload").read_bytes() == b"for the file"
    assert (tether.directory / "code").read_text() == "0\n"


@pytest.mark.parametrize("key", ["\x03", "\x04"], ids=["ctrl-c", "ctrl-d"])
def test_a_prompt_that_is_left(tether, key):
    run = tether.connect(terminal=True, stdin=b"x")
    run.says("Code or passphrase: ")
    run.type(key)
    run.exits(130 if key == "\x03" else 2)
    no_traceback(run)


def test_a_comparison_that_is_left(tether, words):
    """Ctrl-C at the question: stopped here, and the other side hears that it was."""
    listener = tether.listen("--passphrase", words)
    connector = tether.connect("--verify", "--passphrase", words, to=listener, stdin=b"x", terminal=True)
    connector.says(r"\[y/N\]")
    connector.type("\x03")
    connector.exits(130)
    assert "was stopped" in listener.exits(5).error
    no_traceback(connector)


def test_input_from_a_terminal(tether, words):
    """What is typed there is sent line by line, up to Ctrl-D."""
    listener = tether.listen("--passphrase", words)
    peer = f"127.0.0.1:{port_of(listener)}"
    connector = tether.start(
        *("connect", "--passphrase", words, "--peer", peer), terminal=True, prefix=closed("</dev/tty")
    )
    connector.says("end with Ctrl-D")
    connector.type("dear diary\n")
    listener.event("progress", size=11)
    connector.type("\x04")
    connector.exits(0)
    assert listener.exits(0).out == b"dear diary\n"


def test_both_directions_and_one_refusal(tether, words):
    """What one direction refuses is listed on both sides, and the other direction completes."""
    for name in ("ours", "theirs"):
        (tether.directory / name).write_text(name)
    (tether.directory / "here").mkdir()
    (tether.directory / "here" / "theirs").write_text("before")
    listener = tether.listen("--passphrase", words, "--send", "ours", "--into", "here")
    connector = tether.connect("--passphrase", words, "--send", "theirs", "--into", "there", to=listener).exits(6)
    listener.exits(6)
    assert (tether.directory / "here" / "theirs").read_text() == "before"
    assert (tether.directory / "there" / "ours").read_text() == "ours"
    assert [event["direction"] for event in listener.all_of("entry_refused")] == ["receive"]
    assert [event["direction"] for event in connector.all_of("entry_refused")] == ["send"]


def test_by_ipv6(tether, words):
    listener = tether.listen("--passphrase", words)
    run = tether.start(*("connect", "--passphrase", words, "--peer", f"[::1]:{port_of(listener)}"), stdin=b"six")
    run.exits(0)
    assert listener.exits(0).out == b"six"
