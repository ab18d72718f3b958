"""What a transfer reads from and writes to, whether a tree of files or a pipe: the pump sees only this.

Sources and sinks are plain blocking code. A driver calls each of them from one worker thread at a time.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import attrs

from meshd.model.entry import Entry

MAX_PIECES = 256
"""Pieces in one answer of `pieces` at most, about 128 small files: a call stays short even where files are empty."""


@attrs.frozen
class Began:
    """An entry starts; what follows is its content until Ended or Failed."""

    entry: Entry


@attrs.frozen
class Content:
    """The next 1 to CHUNK_SIZE (meshd.wire.constants) bytes of the entry in progress."""

    data: bytes


@attrs.frozen
class Ended:
    """The entry in progress is complete; `digest` is the BLAKE3-256 of its content, of b"" for a directory."""

    digest: bytes


@attrs.frozen
class Failed:
    """The entry in progress could not be read to its end as it was declared; the others go on."""

    reason: str


Piece = Began | Content | Ended | Failed


@attrs.frozen
class Skipped:
    """Something under a given path that is not sent, and why. `path` may hold bytes that are not UTF-8."""

    path: Path
    reason: str


@attrs.frozen
class Survey:
    """What there is to send, before any of it is: `size` in bytes is None for a stream, whose end nobody knows."""

    entries: int
    size: int | None
    skipped: Sequence[Skipped] = ()
    unreadable: Sequence[Skipped] = ()


@attrs.frozen
class Refusal:
    """An entry that was not stored, and why. The peer wrote `path`: make it harmless before showing it.

    `index` counts the calls of `begin`, from 0.
    """

    index: int
    path: tuple[str, ...]
    reason: str


@attrs.frozen
class Report:
    """What a sink stored: entries (directories included) and `size` bytes of content.

    `refused` are the late refusals, which `finish` itself brought about; the calls before it answered for the others.
    """

    entries: int
    size: int
    refused: Sequence[Refusal] = ()


class Source(Protocol):
    """Entries and their content, read in order. `may_block`: a call may wait for ever (a pipe), not only for a disk."""

    @property
    def may_block(self) -> bool: ...

    def scan(self) -> Survey:
        """Look at all there is to send; called once, first. Raises UsageError or RefusedError."""

    def pieces(self, budget: int) -> list[Piece]:
        """The next pieces: about `budget` bytes of content (at least one piece), at most MAX_PIECES; [] at the end.

        A pipe waits for its first byte and then answers at once.
        """

    def skip(self, path: tuple[str, ...]) -> None:
        """The receiver refused this entry: read no more of it, nor of anything under it.

        An entry in progress then has neither Ended nor Failed. A path already past is no error: answers cross.
        """

    def close(self) -> None:
        """Let go of what is open; may be called at any time, more than once."""


class Sink(Protocol):
    """Where entries go. Any method but `discard` raises RefusedError when the whole transfer cannot go on (no space).

    `may_block`: a call may wait for ever (a pipe), not only for a disk.
    """

    @property
    def may_block(self) -> bool: ...

    def prepare(self, size: int | None) -> None:
        """The sender says that `size` bytes of content will come (None: nobody knows). Called once, before the rest."""

    def begin(self, entry: Entry) -> str | None:
        """Start an entry. Returns None when it is taken, else the reason why not; its content is then ignored."""

    def write(self, chunk: bytes) -> str | None:
        """More content. Returns the reason when this chunk made the entry refused, once; else None."""

    def end(self, digest: bytes) -> str | None:
        """The entry is complete: `digest` is what its content must hash to. Returns a reason as `write` does."""

    def abandon(self) -> None:
        """The sender could not finish the entry in progress; nothing is answered."""

    def finish(self) -> Report:
        """All entries came: make them last, give them their names. After an error here call `discard`."""

    def discard(self) -> None:
        """Give up: nothing stays under a final name. May be called at any time, more than once; never raises."""
