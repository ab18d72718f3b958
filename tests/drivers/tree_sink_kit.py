"""What the tests of the tree sink share: entries sent the way the pump sends them, and a look at the result."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blake3

from meshd.drivers.payload import Report
from meshd.drivers.tree_sink import TreeSink
from meshd.model.entry import Entry, EntryKind

MTIME = 1_234_567_890_123_456_789


def file_entry(path: str, size: int | None, **fields: Any) -> Entry:
    return Entry(tuple(path.split("/")), EntryKind.FILE, size, fields.get("executable", False), fields.get("at", MTIME))


def digest_of(data: bytes) -> bytes:
    return blake3.blake3(data).digest()


def put(sink: TreeSink, path: str, data: bytes = b"data", **fields: Any) -> str | None:
    """Send a whole file. Returns the reason if it was refused at any point."""
    return put_entry(sink, file_entry(path, len(data), **fields), data)


def put_entry(sink: TreeSink, entry: Entry, data: bytes = b"", digest: bytes | None = None) -> str | None:
    answers = [sink.begin(entry)]
    if data:
        answers.append(sink.write(data))
    answers.append(sink.end(digest or digest_of(data)))
    reasons = [answer for answer in answers if answer is not None]
    assert len(reasons) <= 1, "an entry is refused once"
    return reasons[0] if reasons else None


def mkdir(sink: TreeSink, path: str, at: int = MTIME) -> str | None:
    return put_entry(sink, Entry(tuple(path.split("/")), EntryKind.DIRECTORY, 0, False, at))


def found(root: Path) -> dict[str, bytes | None]:
    """All below `root`: content of files, None for directories."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else None for path in root.rglob("*")
    }


def refused(report: Report) -> dict[str, str]:
    """The late refusals."""
    return {"/".join(refusal.path): refusal.reason for refusal in report.refused}


def raising(number: int) -> Callable[..., Any]:
    def call(*arguments: object, **named: object) -> Any:
        raise OSError(number, os.strerror(number))

    return call
