"""From a data record to the rows of the views: what a member's statement is worth, by the same rule on every machine.

Bodies come from members. What is not what it says it is leaves no row: JSON that is not canonical would give one value
two handles, and a table called `blob` would pass for one.
"""

import struct
from typing import Any, Final

import apsw
import attrs
from blake3 import blake3

from meshd.errors import UsageError
from meshd.model.announcement import Addresses, Announcement, Blob, BlobRef, Held, Tag, Tree, Value
from meshd.model.handle import (
    BLOB,
    RESERVED_TABLES,
    TREE,
    Handle,
    canonical,
    digest_of,
    is_table,
    parse_json,
    tree_digest,
)
from meshd.model.record import Record
from meshd.wire.bodies import encode

PREFIX_SIZE: Final = 6
"""Bytes of a digest in a short form."""


@attrs.frozen
class Content:
    """What a record announces."""

    table: str
    """A table's name, `blob` or `tree`."""

    digest: bytes
    size: int
    """Bytes; of a tree, children."""

    inline: bool
    """It is in the record itself."""


def fold(connection: apsw.Connection, record: Record, body: Announcement) -> bool:
    """Write the rows of a stored record; a second time changes nothing. False when it says nothing that can be true."""
    row = next(
        connection.execute("SELECT id, chain FROM record WHERE hash = ? AND body IS NOT NULL", (record.hash,)), None
    )
    if row is None:
        return False
    place = (row[0], row[1], record.header.sequence)
    match body:
        case Value() | Blob() | Tree():
            return _fold_content(connection, place, record, body)
        case Tag():
            if not _is_kind(body.table):
                return False
            words = {**dict.fromkeys(body.add, 1), **dict.fromkeys(body.remove, 0)}
            _fold_tags(connection, place, record, (body.table, body.digest), words)
        case Held():
            _insert(connection, "held", *place, record.header.node, body.digest, body.size)
        case Addresses():
            _insert(connection, "reachable", *place, rank(record), record.header.node, detail(body))
    return True


def content(body: Value | Blob | Tree) -> Content | None:
    """What a body announces, or None when it is not what it says. A blob behind a digest is checked by who fetches it."""
    match body:
        case Blob(ref=ref):
            return Content(BLOB, ref.digest, ref.size, inline=False)
        case Tree(children=children) if all(_is_kind(child.table) for child in children):
            digest = tree_digest(Handle.of(child.table, child.digest) for child in children)
            return Content(TREE, digest, len(children), inline=True)
        case Value(table=table, json=bytes(json), blob=None) if is_table(table) and _is_canonical(json):
            return Content(table, digest_of(json), len(json), inline=True)
        case Value(table=table, json=None, blob=BlobRef() as ref) if is_table(table):
            return Content(table, ref.digest, ref.size, inline=False)
    return None


def rank(record: Record) -> bytes:
    """The place of a record in the one order on which all machines agree: clock, then author, then hash."""
    return struct.pack(">Q", record.header.clock) + record.header.author + record.hash


def clock_of(ranked: bytes) -> int:
    """The clock in a rank."""
    return int.from_bytes(ranked[:8], "big")


def detail(body: Announcement) -> bytes:
    """BLAKE3 of what a body says, tags left out: they are a view of their own."""
    return blake3(encode(attrs.evolve(body, tags=()) if isinstance(body, Value | Blob | Tree) else body)).digest()


def _fold_content(
    connection: apsw.Connection, place: tuple[int, int, int], record: Record, body: Value | Blob | Tree
) -> bool:
    found = content(body)
    if found is None:
        return False
    _insert(
        *(connection, "handle", *place, rank(record)),
        *(found.table, found.digest, found.size, int(found.inline), detail(body)),
    )
    # Only what counts now may take a name for good.
    connection.execute(
        "INSERT OR IGNORE INTO binding SELECT ?, ?, ? FROM chain WHERE id = ? AND upto >= ?",
        (found.table, found.digest[:PREFIX_SIZE], found.digest, place[1], place[2]),
    )
    _fold_tags(connection, place, record, (found.table, found.digest), dict.fromkeys(body.tags, 1))
    if isinstance(body, Blob):
        for node in body.addressees:
            _insert(connection, "addressee", place[0], node)
    return True


def _fold_tags(
    connection: apsw.Connection,
    place: tuple[int, int, int],
    record: Record,
    about: tuple[str, bytes],
    words: dict[str, int],
) -> None:
    for tag, state in words.items():
        _insert(connection, "tagged", *place, rank(record), *about, tag, state)


def _is_kind(table: str) -> bool:
    return is_table(table) or table in RESERVED_TABLES


def _is_canonical(json: bytes) -> bool:
    """Whether a handle of these bytes is the one that everybody else would give to the same value."""
    try:
        return canonical(parse_json(json)) == json
    except UsageError:
        return False


def _insert(connection: apsw.Connection, table: str, *values: Any) -> None:
    connection.execute(_INSERT[table], values)


_INSERT: Final = {
    "handle": "INSERT OR IGNORE INTO handle VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    "tagged": "INSERT OR IGNORE INTO tagged VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    "addressee": "INSERT OR IGNORE INTO addressee VALUES (?, ?)",
    "held": "INSERT OR IGNORE INTO held VALUES (?, ?, ?, ?, ?, ?)",
    "reachable": "INSERT OR IGNORE INTO reachable VALUES (?, ?, ?, ?, ?, ?)",
}
