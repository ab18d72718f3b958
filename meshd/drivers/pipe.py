"""One stream of bytes in place of files: standard input as a Source, standard output as a Sink."""

import codecs
import os
import select
import stat
import time

import blake3

from meshd.drivers.payload import Began, Content, Ended, Failed, Piece, Report, Survey
from meshd.errors import LocalProtocolError, RefusedError
from meshd.model.entry import Entry, EntryKind
from meshd.model.text import harmless
from meshd.wire.constants import CHUNK_SIZE

STREAM_NAME = "stdin"
"""The name under which a receiver that writes files stores a stream."""

_NOT_A_DIRECTORY_SINK = "this side writes to its standard output; run it with --into DIR"


class StreamSource:
    """A Source of one entry without a size: what `fd` gives until its end. The caller keeps and closes `fd`."""

    may_block = True

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._hash = blake3.blake3()
        self._began = False
        self._over = False

    def scan(self) -> Survey:
        """One entry; how many bytes, nobody knows."""
        return Survey(1, None)

    def pieces(self, budget: int) -> list[Piece]:
        """Began at once; then, each time, what one read gives. Blocks until there is something."""
        if self._over:
            return []
        if not self._began:
            self._began = True
            return [Began(Entry((STREAM_NAME,), EntryKind.FILE, None, False, time.time_ns()))]
        try:
            data = self._read(max(1, min(CHUNK_SIZE, budget)))
        except OSError as error:
            self._over = True
            return [Failed(f"it could not be read: {error.strerror}")]
        if data:
            self._hash.update(data)
            return [Content(data)]
        self._over = True
        return [Ended(self._hash.digest())]

    def skip(self, path: tuple[str, ...]) -> None:
        """The receiver wants no more of it."""
        self._over = self._over or path == (STREAM_NAME,)

    def close(self) -> None:
        """Read no more."""
        self._over = True

    def _read(self, limit: int) -> bytes:
        while True:
            try:
                return os.read(self._fd, limit)
            except BlockingIOError:  # whoever opened it may have set O_NONBLOCK on the description that we share
                select.select([self._fd], [], [])


class TerminalText:
    """Bytes of a peer's as text that a terminal shows and does not obey, piece by piece."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def harmless(self, data: bytes) -> bytes:
        """UTF-8 in which only line feeds and tabs are left of the controls; a broken character waits for its rest."""
        return harmless(self._decoder.decode(data), keep="\n\t").encode()


class StreamSink:
    """A Sink that writes the first file it is offered to `fd`, and refuses all else. The caller keeps `fd`.

    Bytes go out as they come, so that a file refused half way has been half written: the
    reader of the output learns it only from the exit code. The entry's name is never used. On a terminal, control
    characters are shown as U+FFFD: what arrives is for a person's eyes there, and must not move their cursor.
    """

    may_block = True

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._current: Entry | None = None
        self._taken = False
        self._writing = False
        self._written = 0
        self._hash = blake3.blake3()
        self._complete = False
        self._terminal = TerminalText() if os.isatty(fd) else None

    def prepare(self, size: int | None) -> None:
        """Nothing to prepare: the reader of a pipe has no limit that we could ask for."""

    def begin(self, entry: Entry) -> str | None:
        """Take the first file. Returns why not for a directory or anything after it."""
        if self._current is not None:
            raise LocalProtocolError("begin() before the entry in progress ended")
        self._current = entry
        if entry.kind is EntryKind.DIRECTORY or self._taken:
            return _NOT_A_DIRECTORY_SINK
        self._taken = self._writing = True
        return None

    def write(self, chunk: bytes) -> str | None:
        """Write all of `chunk`. Raises RefusedError when the reader went away or the output cannot be written."""
        if self._current is None:
            raise LocalProtocolError("write() without an entry in progress")
        if not self._writing:
            return None
        if self._current.size is not None and self._written + len(chunk) > self._current.size:
            self._writing = False
            return "it is longer than was declared"
        self._write_out(chunk)
        self._hash.update(chunk)
        self._written += len(chunk)
        return None

    def end(self, digest: bytes) -> str | None:
        """Compare what was written with what was sent. Returns the reason when they differ."""
        entry = self._current
        if entry is None:
            raise LocalProtocolError("end() without an entry in progress")
        reason = None
        if self._writing:
            if entry.size not in (None, self._written):
                reason = "it is shorter than was declared"
            elif self._hash.digest() != digest:
                reason = "its content is not what was sent"
            else:
                self._complete = True
        self._current, self._writing = None, False
        return reason

    def abandon(self) -> None:
        """The sender could not finish the entry in progress; what came of it has been written."""
        if self._current is None:
            raise LocalProtocolError("abandon() without an entry in progress")
        self._current, self._writing = None, False

    def finish(self) -> Report:
        """The report; the output stays open. A file that output was redirected to is flushed to its disk."""
        if stat.S_ISREG(os.fstat(self._fd).st_mode):
            try:
                os.fsync(self._fd)
            except OSError as error:
                raise RefusedError(f"Our output could not be made to last: {error.strerror}.") from None
        return Report(entries=int(self._complete), size=self._written if self._complete else 0)

    def discard(self) -> None:
        """Nothing to undo: what was written is with its reader."""

    def _write_out(self, chunk: bytes) -> None:
        rest = memoryview(self._terminal.harmless(chunk) if self._terminal else chunk)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                select.select([], [self._fd], [])
            except BrokenPipeError:
                raise RefusedError("The reader of our output went away.") from None
            except OSError as error:
                raise RefusedError(f"Our output cannot be written: {error.strerror}.") from None
