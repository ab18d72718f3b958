"""Which blobs are held, and the small ones themselves. The files of the large ones are drivers/blob_files.py's.

Digests are BLAKE3-256, 32 bytes; sizes are bytes; times are wall milliseconds and decide nothing but what is oldest.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, cast

import apsw
import attrs

SMALL_LIMIT: Final = 64 * 1024
"""Bytes up to which a blob is a row: SQLite reads and makes durable small rows faster than a file system does files."""


@attrs.frozen
class HeldBlob:
    """A blob of which this machine has all bytes, or had when it last looked."""

    digest: bytes
    size: int
    list_digest: bytes
    is_file: bool
    """Its bytes are a file of their own; else a row."""

    is_damaged: bool
    """A read found other bytes than the digest says. It is not served, and not counted as held."""

    added_ms: int


@attrs.frozen
class Usage:
    """What the blobs of a mesh take: `size` in bytes of content, damaged ones included."""

    blobs: int
    size: int
    pinned: int
    damaged: int


class Blobs:
    """The blob tables of one database. Every method is one or a few statements; the caller owns the transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def find(self, digest: bytes) -> HeldBlob | None:
        """What is known of a blob here, damaged or not; None when it is not here."""
        row = self._row(_FIND, digest)
        return None if row is None else _held(row)

    def content(self, digest: bytes) -> bytes | None:
        """The bytes of a blob that is a row, unchecked; None for one that is a file or not here."""
        return self._value("SELECT content FROM blob_contents WHERE digest = ?", digest)

    def chunk_list(self, digest: bytes) -> bytes | None:
        """The chunk digests of a blob of more than one chunk, one after another, unchecked; None for any other."""
        return self._value("SELECT list FROM blob_lists WHERE digest = ?", digest)

    def add(self, blob: HeldBlob, *, content: bytes | None = None, chunk_list: bytes | None = None) -> None:
        """Say that a blob is held. A row that was damaged is mended; one that is whole keeps its age.

        `content` belongs to a blob that is no file, `chunk_list` to one of more than one chunk.
        """
        assert blob.is_file == (content is None)
        self._connection.execute(
            "INSERT INTO blobs (digest, size, list_digest, is_file, is_damaged, added_ms) VALUES (?, ?, ?, ?, 0, ?) "
            "ON CONFLICT (digest) DO UPDATE SET size = excluded.size, list_digest = excluded.list_digest, "
            "is_file = excluded.is_file, is_damaged = 0",
            (blob.digest, blob.size, blob.list_digest, int(blob.is_file), blob.added_ms),
        )
        if content is not None:
            self._connection.execute("INSERT OR REPLACE INTO blob_contents VALUES (?, ?)", (blob.digest, content))
        if chunk_list is not None:
            self._connection.execute("INSERT OR REPLACE INTO blob_lists VALUES (?, ?)", (blob.digest, chunk_list))

    def mark_damaged(self, digest: bytes) -> bool:
        """Note that the bytes here are not the blob's. Returns whether that is news."""
        self._connection.execute("UPDATE blobs SET is_damaged = 1 WHERE digest = ? AND is_damaged = 0", (digest,))
        return self._connection.changes() > 0

    def remove(self, digest: bytes) -> None:
        """Forget a blob and what it names. A pin stays: it says what is wanted, not what is held."""
        for statement in _FORGET:
            self._connection.execute(statement, (digest,))

    def pin(self, digest: bytes, now_ms: int) -> None:
        """Want a blob for good, held or not."""
        self._connection.execute("INSERT OR IGNORE INTO blob_pins VALUES (?, ?)", (digest, now_ms))

    def unpin(self, digest: bytes) -> bool:
        """Want it no longer. Returns whether it was pinned."""
        self._connection.execute("DELETE FROM blob_pins WHERE digest = ?", (digest,))
        return self._connection.changes() > 0

    def is_pinned(self, digest: bytes) -> bool:
        """Whether it is wanted for good by itself; parts of a pinned directory are not asked about."""
        return self._row("SELECT 1 FROM blob_pins WHERE digest = ?", digest) is not None

    def pins(self) -> list[bytes]:
        """All that is pinned, oldest pin first."""
        rows = self._connection.execute("SELECT digest FROM blob_pins ORDER BY since_ms, digest")
        return [cast(bytes, row[0]) for row in rows]

    def name_parts(self, whole: bytes, parts: Iterable[bytes]) -> None:
        """Say which blobs a directory's manifest names."""
        self._connection.executemany(
            "INSERT OR IGNORE INTO blob_parts VALUES (?, ?)", ((whole, part) for part in set(parts))
        )

    def missing_of(self, digests: Iterable[bytes]) -> list[bytes]:
        """Those that are not here whole, in the order given."""
        return [digest for digest in digests if (blob := self.find(digest)) is None or blob.is_damaged]

    def files(self, first: int) -> list[HeldBlob]:
        """The blobs that are files and whose digest begins with this byte, by digest: those of one directory."""
        rows = self._connection.execute(_FILES, (bytes([first]), bytes([first]) + b"\xff" * 32))
        return [_held(row) for row in rows]

    def collectable(self, keep: Callable[[bytes], bool]) -> Iterator[HeldBlob]:
        """Blobs that nothing holds here, oldest first: neither pinned, nor kept by `keep`, nor part of one that is."""
        for row in self._connection.execute(_UNPINNED):
            blob = _held(row)
            if not keep(blob.digest) and not any(keep(whole) for whole in self._wholes(blob.digest)):
                yield blob

    def usage(self) -> Usage:
        """Totals over all blobs."""
        row = self._row("SELECT count(*), coalesce(sum(size), 0), coalesce(sum(is_damaged), 0) FROM blobs")
        pinned = self._row("SELECT count(*) FROM blob_pins")
        assert row is not None and pinned is not None
        return Usage(blobs=row[0], size=row[1], pinned=pinned[0], damaged=row[2])

    def _wholes(self, part: bytes) -> list[bytes]:
        rows = self._connection.execute("SELECT whole FROM blob_parts WHERE part = ?", (part,))
        return [cast(bytes, row[0]) for row in rows]

    def _row(self, query: str, *values: bytes) -> tuple[Any, ...] | None:
        return cast("tuple[Any, ...] | None", self._connection.execute(query, values).fetchone())

    def _value(self, query: str, digest: bytes) -> bytes | None:
        row = self._row(query, digest)
        return None if row is None else cast(bytes, row[0])


_FIND: Final = "SELECT digest, size, list_digest, is_file, is_damaged, added_ms FROM blobs WHERE digest = ?"

_FILES: Final = """
    SELECT digest, size, list_digest, is_file, is_damaged, added_ms FROM blobs
    WHERE digest BETWEEN ? AND ? AND is_file = 1 ORDER BY digest
"""

_UNPINNED: Final = """
    SELECT digest, size, list_digest, is_file, is_damaged, added_ms FROM blobs
    WHERE digest NOT IN (SELECT digest FROM blob_pins)
      AND NOT EXISTS (SELECT 1 FROM blob_parts JOIN blob_pins ON whole = blob_pins.digest WHERE part = blobs.digest)
    ORDER BY added_ms, digest
"""

_FORGET: Final = (
    "DELETE FROM blobs WHERE digest = ?",
    "DELETE FROM blob_contents WHERE digest = ?",
    "DELETE FROM blob_lists WHERE digest = ?",
    "DELETE FROM blob_parts WHERE whole = ?",
)


def _held(row: tuple[Any, ...]) -> HeldBlob:
    digest, size, list_digest, is_file, is_damaged, added_ms = row
    return HeldBlob(digest, size, list_digest, bool(is_file), bool(is_damaged), added_ms)
