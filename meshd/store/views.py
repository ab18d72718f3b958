"""Views of a mesh's data records: what content there is, what it is tagged, who has it, where machines are.

Every row is what one record says; nothing depends on the order in which records came. Which rows count is one number a
chain, set from the roster: a revocation takes effect at once and can be lifted again (docs/protocol/membership.md).
Synchronous; every call belongs inside a job of drivers/storage.py.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeVar

import apsw
import attrs
from blake3 import blake3

from meshd.errors import RefusedError
from meshd.model.announcement import Addresses, Announcement, Blob, BlobRef, Child, Tree, Value
from meshd.model.handle import BLOB, FULL_DIGITS, TREE, Handle
from meshd.model.identity import NodeId, node_id
from meshd.model.record import Header, LogId, Record
from meshd.store import folding
from meshd.store.folding import PREFIX_SIZE, clock_of
from meshd.store.records import INTEGER_LIMIT
from meshd.wire.bodies import decode

T = TypeVar("T", Value, Blob, Tree, Addresses)

MATCHES_LIMIT: Final = 16
"""Contents of one short form that are listed: two are an error already, and a liar can make many."""

REFERENCES_LIMIT: Final = 16
"""Different descriptions of one blob that are handed to a fetch: each may be a lie about its chunks."""


@attrs.frozen
class Found:
    """Content by what it is: the table, `blob` or `tree`, and all 32 bytes of its digest."""

    table: str
    digest: bytes


@attrs.frozen(kw_only=True)
class Metadata:
    """What is known of some content."""

    table: str
    digest: bytes
    size: int
    """Bytes of the content; of a tree, children."""

    origin: NodeId
    """Whose record of it has the earliest clock."""

    clock: int
    """Of that record; model/clock.py."""

    ttl_left: int | None
    """Seconds until the last record of it ends; None: never."""

    tags: tuple[str, ...]
    announcers: tuple[NodeId, ...]
    """Whose records name it, earliest clock first."""

    holders: tuple[NodeId, ...]
    """Addressees that say they have it."""

    blob: Blob | None
    """For a blob: its type, name and total, as the origin says."""


@attrs.frozen
class Entry:
    """One row of a table."""

    digest: bytes
    size: int
    value: bytes | BlobRef
    """Canonical JSON, or the blob that holds it."""


@attrs.frozen
class Reachable:
    """Where a machine says it is, and the clock of the record that says so."""

    addresses: Addresses
    clock: int


class Handles:
    """The views of one mesh."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def fold(self, record: Record, body: Announcement) -> bool:
        """Take in what a stored record says; again is as once. False when it says nothing that can be true.

        `body` is the decoded body. To be called in the job that inserted the record, or later, when quarantine ends.
        What is folded goes by itself when the record's body expires.
        """
        return folding.fold(self._connection, record, body)

    def set_live(self, chain: LogId, upto: int | None) -> None:
        """Let a chain's records count up to this number; 0: none, None: all. Costs one row. A chain starts with None."""
        self._connection.execute(
            "INSERT INTO chain (author, log, generation, upto) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (author, log, generation) DO UPDATE SET upto = excluded.upto",
            (chain.author, int(chain.log), chain.generation, INTEGER_LIMIT if upto is None else upto),
        )

    # Names

    def find(self, table: str | None, digits: str) -> list[Found]:
        """All content that these 12 or 64 digits may name, MATCHES_LIMIT at most; of every table when `table` is None.

        More than one in a table means that the name is refused, naming all. What the short form stood for here first is
        among them also when nobody announces it any more, so that a name cannot quietly change its meaning.
        """
        first = bytes.fromhex(digits)
        last = first + b"\xff" * (FULL_DIGITS // 2 - len(first))
        rows = self._rows(
            "SELECT DISTINCT tab, digest FROM live_handle WHERE digest BETWEEN ? AND ? AND tab = ifnull(?, tab)"
            " ORDER BY digest, tab LIMIT ?",
            *(first, last, table, MATCHES_LIMIT),
        )
        found = [Found(*row) for row in rows]
        if len(digits) < FULL_DIGITS:
            bound = {Found(each.table, self.bound(each.table, digits) or each.digest): None for each in found}
            found = list({**dict.fromkeys(found), **bound})
        return found

    def bound(self, table: str, digits: str) -> bytes | None:
        """The first full digest that this short form stood for here."""
        prefix = bytes.fromhex(digits)[:PREFIX_SIZE]
        row = self._row("SELECT digest FROM binding WHERE tab = ? AND prefix = ?", table, prefix)
        return None if row is None else bytes(row[0])

    # Content

    def value(self, table: str, digest: bytes) -> bytes | BlobRef | None:
        """A value: its canonical JSON, or the blob that holds it; None when nobody announces it."""
        body = self._body(Value, table, digest)
        if body is None:
            return None
        return body.json if body.json is not None else body.blob

    def blob(self, digest: bytes) -> Blob | None:
        """A blob as its earliest record describes it."""
        return self._body(Blob, BLOB, digest)

    def references(self, digest: bytes) -> list[BlobRef]:
        """All descriptions of a blob, or of a value in one, earliest clock first: the size or the list may be a lie."""
        found: dict[BlobRef, None] = {}
        for body in self._descriptions(digest):
            match body:
                case Blob(ref=ref) | Value(blob=BlobRef() as ref):
                    found[ref] = None
        return list(found)

    def content_types(self, digest: bytes) -> set[str]:
        """What a blob is said to be. Whoever says so may lie."""
        return {body.content_type for body in self._descriptions(digest) if isinstance(body, Blob)}

    def announcers(self, digest: bytes) -> set[NodeId]:
        """Whose records name content of this digest."""
        rows = self._rows(
            "SELECT DISTINCT c.author FROM live_handle h JOIN chain c ON c.id = h.chain WHERE h.digest = ?", digest
        )
        return {node_id(row[0]) for row in rows}

    def absent(self, *, after: bytes = b"", limit: int) -> list[tuple[bytes, int]]:
        """Digest and size of blobs that are announced, or are files of a directory that is, and are not held whole; in
        order from past `after` on. The largest size that is said of each; 0 for files of directories."""
        rows = self._rows(
            "SELECT digest, max(size) FROM ("
            " SELECT digest, size FROM live_handle WHERE inline = 0 AND digest > ?1"
            " UNION ALL SELECT p.part, 0 FROM blob_parts p JOIN live_handle h ON h.digest = p.whole WHERE p.part > ?1"
            ") wanted WHERE NOT EXISTS (SELECT 1 FROM blobs b WHERE b.digest = wanted.digest AND b.is_damaged = 0)"
            " GROUP BY digest ORDER BY digest LIMIT ?2",
            *(after, limit),
        )
        return [(row[0], row[1]) for row in rows]

    def latest_absent(self, *, limit: int) -> list[tuple[bytes, int]]:
        """Of the last `limit` descriptions of blobs that came, those of blobs that are not held whole: digest and size."""
        rows = self._rows(
            "SELECT digest, size FROM (SELECT digest, size, record FROM live_handle WHERE inline = 0"
            " ORDER BY record DESC LIMIT ?) latest"
            " WHERE NOT EXISTS (SELECT 1 FROM blobs b WHERE b.digest = latest.digest AND b.is_damaged = 0)"
            " ORDER BY record DESC",
            limit,
        )
        return [(row[0], row[1]) for row in rows]

    def tree(self, digest: bytes) -> tuple[Child, ...] | None:
        """The children of a tree; None when nobody announces it.

        Raises RefusedError when two lists of children share this digest, which covers only their short forms.
        """
        rows = self._rows("SELECT DISTINCT detail FROM live_handle WHERE tab = 'tree' AND digest = ? LIMIT 2", digest)
        if len(list(rows)) > 1:
            raise RefusedError(
                f"Two different trees are announced as {Handle.of(TREE, digest)}.",
                "One of them was made to be taken for the other; ask their authors.",
            )
        body = self._body(Tree, TREE, digest)
        return None if body is None else body.children

    def is_announced(self, digest: bytes) -> bool:
        """Whether any content of this digest counts: what keeps a blob from being collected."""
        return self._row("SELECT 1 FROM live_handle WHERE digest = ? LIMIT 1", digest) is not None

    def metadata(self, table: str, digest: bytes, *, now_ms: int) -> Metadata | None:
        """What is known of some content; None when nobody announces it. `now_ms` is counted time (store/records.py)."""
        rows = list(
            self._rows(
                "SELECT r.header, r.born_ms, h.rank, h.size FROM live_handle h JOIN record r ON r.id = h.record"
                " WHERE h.tab = ? AND h.digest = ? ORDER BY h.rank",
                *(table, digest),
            )
        )
        if not rows:
            return None
        headers = [Header.decode(row[0]) for row in rows]
        ends = [row[1] + header.ttl * 1000 for row, header in zip(rows, headers, strict=True) if header.ttl]
        announcers = tuple(dict.fromkeys(node_id(header.author) for header in headers))
        return Metadata(
            table=table,
            digest=digest,
            size=rows[0][3],
            origin=announcers[0],
            clock=clock_of(rows[0][2]),
            ttl_left=max(0, -((now_ms - max(ends)) // 1000)) if len(ends) == len(rows) else None,
            tags=self.tags(table, digest),
            announcers=announcers,
            holders=tuple(self.holders(digest)),
            blob=self.blob(digest) if table == BLOB else None,
        )

    def holders(self, digest: bytes) -> list[NodeId]:
        """Machines that were meant to have a blob and say that they do."""
        rows = self._rows("SELECT DISTINCT node FROM live_held WHERE digest = ? ORDER BY node", digest)
        return [NodeId(row[0]) for row in rows]

    # Tables and tags

    def tables(self) -> dict[str, int]:
        """Every table with its number of different contents; `blob` and `tree` among them. Reads an index whole."""
        rows = self._rows("SELECT tab, count(DISTINCT digest) FROM live_handle GROUP BY tab ORDER BY tab")
        return {row[0]: row[1] for row in rows}

    def digests_in(self, table: str, *, tag: str | None = None, after: bytes = b"", limit: int) -> list[bytes]:
        """Full digests of a table (or `blob`, `tree`), in order from past `after` on; with `tag`, those that bear it."""
        if tag is None:
            rows = self._rows(
                "SELECT DISTINCT digest FROM live_handle WHERE tab = ? AND digest > ? ORDER BY digest LIMIT ?",
                *(table, after, limit),
            )
        else:
            rows = self._rows(
                "SELECT digest FROM live_tag t WHERE tag = ? AND tab = ? AND digest > ? AND EXISTS"
                " (SELECT 1 FROM live_handle h WHERE h.tab = t.tab AND h.digest = t.digest) ORDER BY digest LIMIT ?",
                *(tag, table, after, limit),
            )
        return [row[0] for row in rows]

    def snapshot(
        self, table: str, *, tag: str | None = None, after: bytes = b"", limit: int, most_bytes: int
    ) -> list[Entry]:
        """A page of a table's values: at most `limit`, and no more than `most_bytes` of JSON, but one at least.

        The next page begins after the last digest of this one; an empty page is the end.
        """
        found: list[Entry] = []
        total = 0
        for digest in self.digests_in(table, tag=tag, after=after, limit=limit):
            value = self.value(table, digest)
            assert value is not None
            inline = len(value) if isinstance(value, bytes) else 0
            total += inline
            if found and total > most_bytes:
                break
            found.append(Entry(digest, value.size if isinstance(value, BlobRef) else inline, value))
        return found

    def tags(self, table: str, digest: bytes) -> tuple[str, ...]:
        """The tags of some content, in order."""
        rows = self._rows("SELECT tag FROM live_tag WHERE tab = ? AND digest = ? ORDER BY tag", table, digest)
        return tuple(row[0] for row in rows)

    def tagged(self, tag: str, *, limit: int) -> list[Found]:
        """Content that bears exactly this tag, by table and digest."""
        rows = self._rows(
            "SELECT tab, digest FROM live_tag t WHERE tag = ? AND EXISTS"
            " (SELECT 1 FROM live_handle h WHERE h.tab = t.tab AND h.digest = t.digest) ORDER BY tab, digest LIMIT ?",
            *(tag, limit),
        )
        return [Found(*row) for row in rows]

    def all_tags(self) -> dict[str, int]:
        """Every tag in use, with the number of contents that bear it. Reads an index whole."""
        rows = self._rows(
            "SELECT tag, count(*) FROM live_tag t WHERE EXISTS"
            " (SELECT 1 FROM live_handle h WHERE h.tab = t.tab AND h.digest = t.digest) GROUP BY tag ORDER BY tag"
        )
        return {row[0]: row[1] for row in rows}

    # Machines

    def addresses(self, node: NodeId) -> Reachable | None:
        """Where a machine last said that it can be reached."""
        row = self._row(
            "SELECT r.header, r.signature, r.body, a.rank FROM live_reachable a JOIN record r ON r.id = a.record"
            " WHERE a.node = ? ORDER BY a.rank DESC LIMIT 1",
            node,
        )
        body = None if row is None else _decoded(row)
        if row is None or not isinstance(body, Addresses):
            return None
        return Reachable(body, clock_of(row[3]))

    def addressed_to(self, node: NodeId, *, limit: int) -> list[Blob]:
        """Blobs that a machine is to fetch and pin, and has not said to hold; earliest clock first."""
        rows = self._rows(
            "SELECT r.header, r.signature, r.body, min(h.rank) FROM addressee a JOIN live_handle h ON h.record = a.record"
            " JOIN record r ON r.id = h.record WHERE a.node = ?1 AND NOT EXISTS"
            " (SELECT 1 FROM live_held k WHERE k.digest = h.digest AND k.node = ?1)"
            " GROUP BY h.digest ORDER BY min(h.rank) LIMIT ?2",
            *(node, limit),
        )
        bodies = (_decoded(row) for row in rows)
        return [body for body in bodies if isinstance(body, Blob)]

    # Comparison

    def contents(self) -> dict[str, Iterator[tuple[Any, ...]]]:
        """Rows of the views, for their digests."""
        return {name: self._rows(statement) for name, statement in _CONTENT.items()}

    def _descriptions(self, digest: bytes) -> list[object]:
        rows = self._rows(
            "SELECT r.header, r.signature, r.body, min(h.rank) FROM live_handle h JOIN record r ON r.id = h.record"
            " WHERE h.digest = ? AND h.tab <> 'tree' AND h.inline = 0 GROUP BY h.detail ORDER BY min(h.rank) LIMIT ?",
            *(digest, REFERENCES_LIMIT),
        )
        return [_decoded(row) for row in rows]

    def _body(self, kind: type[T], table: str, digest: bytes) -> T | None:
        """What the earliest record of some content says, one that carries the content itself before any other."""
        row = self._row(
            "SELECT r.header, r.signature, r.body FROM live_handle h JOIN record r ON r.id = h.record"
            " WHERE h.tab = ? AND h.digest = ? ORDER BY h.inline DESC, h.rank LIMIT 1",
            *(table, digest),
        )
        body = None if row is None else _decoded(row)
        return body if isinstance(body, kind) else None

    def _rows(self, statement: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        return self._connection.execute(statement, values)

    def _row(self, statement: str, *values: Any) -> tuple[Any, ...] | None:
        return next(self._rows(statement, *values), None)


_CONTENT: Final = {
    "values": "SELECT DISTINCT tab, digest, detail FROM live_handle WHERE tab NOT IN ('blob', 'tree') ORDER BY 1, 2, 3",
    "blobs": "SELECT DISTINCT digest, detail FROM live_handle WHERE tab = 'blob' ORDER BY 1, 2",
    "trees": "SELECT DISTINCT digest, detail FROM live_handle WHERE tab = 'tree' ORDER BY 1, 2",
    "tags": "SELECT tab, digest, tag FROM live_tag ORDER BY 1, 2, 3",
    "held": "SELECT DISTINCT digest, node, size FROM live_held ORDER BY 1, 2, 3",
    "addresses": "SELECT node, detail FROM (SELECT node, detail, max(rank) FROM live_reachable GROUP BY node) ORDER BY 1",
}


def _decoded(row: tuple[Any, ...]) -> object:
    """The body of a row of `record`, which was decoded once before it was folded."""
    header: bytes = row[0]
    return decode(Record(Header.decode(header), header, row[1], row[2]))


def digest_rows(rows: Iterable[tuple[Any, ...]]) -> bytes:
    """BLAKE3 over rows, each field behind its length (4 bytes, big-endian)."""
    hasher = blake3()
    for row in rows:
        for field in row:
            data = field if isinstance(field, bytes) else str(field).encode()
            hasher.update(struct.pack(">I", len(data)))
            hasher.update(data)
    return hasher.digest()
