"""Streams and files of all sizes, in both directions."""

import os
import subprocess

import pytest

from tests.processes import sparse

MIB = 1 << 20


@pytest.mark.parametrize("size", [0, 3 * MIB + 17], ids=["nothing", "binary"])
def test_a_stream(tether, words, size):
    sent = tether.directory / "sent"
    sent.write_bytes(os.urandom(size))
    listener = tether.listen("--passphrase", words)
    connector = tether.connect("--passphrase", words, to=listener, stdin=sent).exits(0)
    assert listener.exits(0).out == sent.read_bytes()
    assert connector.event("finished")["size"] == listener.event("finished")["size"] == size


def test_files_around_the_size_of_a_chunk(tether, words):
    sizes = {f"file-{size}": size for size in (0, 1, MIB - 1, MIB, MIB + 1)}
    for name, size in sizes.items():
        (tether.directory / name).write_bytes(os.urandom(size))
    listener = tether.listen("--passphrase", words, "--into", "in")
    tether.connect("--passphrase", words, "--send", *sizes, to=listener).exits(0)
    listener.exits(0)
    for name in sizes:
        assert (tether.directory / "in" / name).read_bytes() == (tether.directory / name).read_bytes(), name
    assert {path.name for path in (tether.directory / "in").iterdir()} == set(sizes)


def test_both_directions_at_once(tether, words):
    ours, theirs = tether.directory / "ours", tether.directory / "theirs"
    for path in (ours, theirs):
        path.write_bytes(os.urandom(9 * MIB))
    listener = tether.listen("--passphrase", words, "--send", ours, "--into", "here")
    connector = tether.connect("--passphrase", words, "--send", theirs, "--into", "there", to=listener).exits(0)
    listener.exits(0)
    assert (tether.directory / "here" / "theirs").read_bytes() == theirs.read_bytes()
    assert (tether.directory / "there" / "ours").read_bytes() == ours.read_bytes()
    for run in (listener, connector):
        assert {event["direction"] for event in run.all_of("finished")} == {"send", "receive"}


def test_a_stream_that_is_saved_has_a_name_and_one_file_may_be_a_stream(tether, words):
    listener = tether.listen("--passphrase", words, "--into", ".")
    tether.connect("--passphrase", words, to=listener, stdin=b"piped").exits(0)
    listener.exits(0)
    assert (tether.directory / "stdin").read_bytes() == b"piped"


def test_a_directory_does_not_go_to_a_pipe(tether, words):
    """The one file that fits is written; what does not is listed on both sides, with what to do."""
    (tether.directory / "d").mkdir()
    (tether.directory / "f").write_text("fits")
    listener = tether.listen("--passphrase", words)
    connector = tether.connect("--passphrase", words, "--send", "d", "f", to=listener).exits(6)
    assert listener.exits(6).out == b"fits"
    for run in (listener, connector):
        (refused,) = run.all_of("entry_refused")
        assert refused["path"] == "d" and "--into DIR" in refused["reason"]


def test_stdin_arrives_while_it_is_typed(tether, words):
    """A pipe that stays open is a conversation: nothing waits for more than there is."""
    listener = tether.listen("--passphrase", words)
    connector = tether.connect("--passphrase", words, to=listener, stdin=subprocess.PIPE)
    for line in (b"first\n", b"second\n"):
        before = listener.out
        connector.stdin.write(line)
        connector.stdin.flush()
        listener.event("progress", size=len(before + line))
        assert listener.out == before + line
    connector.stdin.close()
    connector.exits(0)
    listener.exits(0)


def test_a_reader_that_goes_away(tether, words):
    """As `listen | head -c 1`: what was lost was lost on purpose, but neither side calls it done."""
    listener = tether.listen("--passphrase", words, stdout=subprocess.PIPE)
    sent = sparse(tether.directory / "zeros", 64 * MIB)
    connector = tether.connect("--passphrase", words, "--send", sent, to=listener)
    assert listener.stdout.read(1) == b"\0"
    listener.stdout.close()
    assert "reader of our output went away" in listener.exits(6).error
    assert "reader of our output went away" in connector.exits(6).error
