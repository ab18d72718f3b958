"""Pipes: a stream as the one entry that is sent, and an output as the place where one file goes."""

import os
import threading
from collections.abc import Iterator

import attrs
import blake3
import pytest

from meshd.drivers.payload import Began, Content, Ended, Failed
from meshd.drivers.pipe import StreamSink, StreamSource, TerminalText
from meshd.errors import LocalProtocolError, RefusedError
from meshd.model.entry import Entry, EntryKind
from meshd.wire.constants import CHUNK_SIZE

FILE = Entry(("a.txt",), EntryKind.FILE, 5, False, 7)
HELLO = blake3.blake3(b"hello").digest()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            continue  # the test closed it


def test_a_stream_is_read_as_it_comes(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    source = StreamSource(reader)
    survey = source.scan()
    assert (survey.entries, survey.size) == (1, None)
    (began,) = source.pieces(CHUNK_SIZE)
    assert isinstance(began, Began)
    assert attrs.evolve(began.entry, modified_ns=0) == Entry(("stdin",), EntryKind.FILE, None, False, 0)
    os.write(writer, b"hel")
    assert source.pieces(CHUNK_SIZE) == [Content(b"hel")]
    os.write(writer, b"lo")
    assert source.pieces(1) == [Content(b"l")]
    os.close(writer)
    assert source.pieces(CHUNK_SIZE) == [Content(b"o")]
    assert source.pieces(CHUNK_SIZE) == [Ended(HELLO)]
    assert source.pieces(CHUNK_SIZE) == []


def test_an_empty_stream_is_an_empty_entry(pipe: tuple[int, int]) -> None:
    os.close(pipe[1])
    source = StreamSource(pipe[0])
    source.pieces(1)
    assert source.pieces(1) == [Ended(blake3.blake3(b"").digest())]


def test_a_source_that_does_not_block_is_waited_for(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(reader, False)
    source = StreamSource(reader)
    source.pieces(1)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.extend(source.pieces(CHUNK_SIZE)))
    thread.start()
    os.write(writer, b"late")
    thread.join()
    assert found == [Content(b"late")]


def test_a_stream_that_was_refused_is_read_no_more(pipe: tuple[int, int]) -> None:
    source = StreamSource(pipe[0])
    source.pieces(1)
    source.skip(("another",))
    os.write(pipe[1], b"x")
    assert source.pieces(1) == [Content(b"x")]
    source.skip(("stdin",))
    assert source.pieces(1) == []


def test_a_stream_that_cannot_be_read_fails() -> None:
    fd = os.open("/", os.O_RDONLY)
    try:
        source = StreamSource(fd)
        source.pieces(1)
        assert source.pieces(1) == [Failed("it could not be read: Is a directory")]
        assert source.pieces(1) == []
    finally:
        os.close(fd)


def test_one_file_goes_to_the_output(pipe: tuple[int, int]) -> None:
    sink = StreamSink(pipe[1])
    sink.prepare(5)
    assert sink.begin(FILE) is None
    assert sink.write(b"hel") is None
    assert os.read(pipe[0], 100) == b"hel"
    assert sink.write(b"lo") is None
    assert sink.end(HELLO) is None
    report = sink.finish()
    assert os.read(pipe[0], 100) == b"lo"
    assert (report.entries, report.size, list(report.refused)) == (1, 5, [])


def test_a_stream_to_the_output_is_counted_with_the_size_it_had(pipe: tuple[int, int]) -> None:
    sink = StreamSink(pipe[1])
    sink.begin(attrs.evolve(FILE, size=None))
    sink.write(b"hello")
    sink.end(HELLO)
    assert sink.finish().size == 5


def test_directories_and_second_files_are_refused_with_what_to_do(pipe: tuple[int, int]) -> None:
    sink = StreamSink(pipe[1])
    directory = Entry(("d",), EntryKind.DIRECTORY, 0, False, 0)
    assert "--into DIR" in (sink.begin(directory) or "")
    assert sink.write(b"never shown") is None
    assert sink.end(blake3.blake3(b"").digest()) is None
    assert sink.begin(FILE) is None
    sink.write(b"hello")
    assert sink.end(HELLO) is None
    assert "--into DIR" in (sink.begin(attrs.evolve(FILE, path=("b",))) or "")
    sink.abandon()
    report = sink.finish()
    assert (report.entries, report.size, list(report.refused)) == (1, 5, [])
    assert os.read(pipe[0], 100) == b"hello"


@pytest.mark.parametrize(
    ("chunks", "digest", "reason"),
    [
        ([b"hell"], blake3.blake3(b"hell").digest(), "shorter"),
        ([b"hello", b"o"], HELLO, "longer"),
        ([b"hullo"], HELLO, "not what was sent"),
    ],
)
def test_a_lying_sender_is_found_out(pipe: tuple[int, int], chunks: list[bytes], digest: bytes, reason: str) -> None:
    sink = StreamSink(pipe[1])
    assert sink.begin(FILE) is None
    answers = [*(sink.write(chunk) for chunk in chunks), sink.end(digest)]
    (answer,) = filter(None, answers)
    assert reason in answer
    assert sink.finish().entries == 0


def test_a_file_that_its_sender_gave_up_is_not_counted(pipe: tuple[int, int]) -> None:
    sink = StreamSink(pipe[1])
    sink.begin(FILE)
    sink.write(b"he")
    sink.abandon()
    assert sink.begin(FILE) is not None, "what stands in the output cannot be taken back"
    assert sink.write(b"hello") is None
    assert sink.end(HELLO) is None
    report = sink.finish()
    assert (report.entries, report.size) == (0, 0)
    assert os.read(pipe[0], 100) == b"he"


def test_the_reader_of_the_output_may_go_away(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    sink = StreamSink(pipe[1])
    sink.begin(FILE)
    with pytest.raises(RefusedError, match="reader of our output went away"):
        sink.write(b"hello")
    sink.discard()


def test_other_failures_of_the_output_name_themselves(pipe: tuple[int, int]) -> None:
    sink = StreamSink(pipe[0])
    sink.begin(FILE)
    with pytest.raises(RefusedError, match="cannot be written: Bad file descriptor"):
        sink.write(b"hello")


@pytest.mark.parametrize("blocking", [True, False])
def test_all_of_a_chunk_is_written_however_short_each_write_is(pipe: tuple[int, int], blocking: bool) -> None:
    reader, writer = pipe
    os.set_blocking(writer, blocking)
    data = os.urandom(CHUNK_SIZE)
    received = bytearray()

    def drain() -> None:
        while len(received) < len(data):
            received.extend(os.read(reader, 60_000))

    thread = threading.Thread(target=drain)
    thread.start()
    sink = StreamSink(writer)
    sink.begin(attrs.evolve(FILE, size=len(data)))
    assert sink.write(data) is None
    thread.join()
    assert bytes(received) == data
    assert sink.end(blake3.blake3(data).digest()) is None


def test_calls_out_of_turn_are_our_own_fault(pipe: tuple[int, int]) -> None:
    sink = StreamSink(pipe[1])
    for call in (lambda: sink.write(b""), lambda: sink.end(b""), sink.abandon):
        with pytest.raises(LocalProtocolError):
            call()
    sink.begin(FILE)
    with pytest.raises(LocalProtocolError):
        sink.begin(FILE)


def test_a_terminal_is_shown_text_and_no_commands() -> None:
    text = TerminalText()
    shown = text.harmless("a\tb\n\x1b[2J\x9b1A\r\u202eabc é".encode())
    assert shown.decode() == "a\tb\n\ufffd[2J\ufffd1A\ufffd\ufffdabc é"


def test_a_character_cut_by_a_chunk_is_shown_whole() -> None:
    text = TerminalText()
    parts = "é".encode()
    assert text.harmless(parts[:1]) + text.harmless(parts[1:]) == parts


def test_output_to_a_terminal_is_made_harmless() -> None:
    controller, terminal = os.openpty()
    try:
        sink = StreamSink(terminal)
        content = b"hi \x1b]0;title\x07\n"
        sink.begin(Entry(("stdin",), EntryKind.FILE, None, False, 0))
        sink.write(content)
        assert sink.end(blake3.blake3(content).digest()) is None
        shown = os.read(controller, 100)
        assert b"\x1b" not in shown and b"\x07" not in shown
        assert shown.startswith(b"hi ")
    finally:
        os.close(controller)
        os.close(terminal)
