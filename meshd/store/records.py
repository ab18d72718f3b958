"""Records on disk, in chains without gaps. Synchronous; every call belongs inside a job of drivers/storage.py.

Ages are counted in milliseconds of *counted time*: what `resume_count` gave at start, going on by the boot-time clock
(protocol.md section 7: boot-time clock while up, wall clock across restarts). Callers pass it as `now_ms`.
"""

from collections.abc import Iterator
from typing import Any, Final

import apsw
import attrs

from meshd.model.record import Head, Header, Log, LogId, Record

INTEGER_LIMIT: Final = (1 << 63) - 1
"""SQLite's largest integer. Records count in 64 bits without a sign; a peer may name numbers that we cannot look up."""

EXPIRE_AT_ONCE: Final = 5_000
"""Most bodies that one call drops, so that a million that end together do not hold up every other write."""

_COUNTED: Final = "counted time"


class ChainError(Exception):
    """A record does not continue its chain as it is held here. The record was not stored."""


class GapError(ChainError):
    """Records before this one are not held. `held` is the last sequence number that is, 0 for none."""

    def __init__(self, held: int) -> None:
        super().__init__(held)
        self.held = held


class ConflictError(ChainError):
    """The author gave one number to two records. `held` is ours; `certain` says whether the offered one has the same
    number: otherwise it follows a record that we do not have in place of `held`, and the fork lies there or before."""

    def __init__(self, held: Record, certain: bool) -> None:
        super().__init__(held.chain, held.head)
        self.held, self.certain = held, certain


@attrs.frozen
class Stored:
    """A record as it is held."""

    record: Record
    age: int
    """Seconds that its holders have counted up to the `now_ms` of the question, rounded up: no hop makes it younger."""

    arrived_ms: int
    """Counted time of its arrival here."""


@attrs.frozen
class Waiting:
    """A chain in quarantine: `first` and all records after it are stored and forwarded, not folded."""

    chain: LogId
    first: int
    clock: int
    """Of the record numbered `first`; 0 where that one is not held."""


class Records:
    """All records of one mesh."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def insert(self, record: Record, *, age_ms: int, now_ms: int) -> bool:
        """Store a record that is known to be authentic; False if it is held already.

        `age_ms` is the age with which it came. A body whose time is over is not kept. Raises GapError, ConflictError.
        """
        header = record.header
        chain, last, last_hash = self._chain_row(record.chain)
        if header.sequence <= last:
            held = self._at(chain, header.sequence)
            if held.hash == record.hash:
                return False
            raise ConflictError(held, certain=True)
        if header.sequence > last + 1:
            raise GapError(last)
        if last and header.previous != last_hash:
            raise ConflictError(self._at(chain, last), certain=False)
        born = now_ms - age_ms
        # Who belongs to a mesh is no question of time: a roster record that went would change what all others mean.
        due = born + header.ttl * 1000 if header.ttl and header.log is not Log.ROSTER else None
        body = record.body if due is None or due > now_ms else None
        self._connection.execute(
            "INSERT INTO record (chain, sequence, hash, header, signature, body, born_ms, arrived_ms, due_ms)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(chain, header.sequence, record.hash, record.header_bytes, record.signature, body),
                *(born, now_ms, None if body is None else due),
            ),
        )
        size = len(record.header_bytes) + len(record.signature) + len(body or b"")
        self._connection.execute(
            "UPDATE chain SET sequence = ?, hash = ?, bytes = bytes + ? WHERE id = ?",
            (header.sequence, record.hash, size, chain),
        )
        return True

    def get(self, chain: LogId, sequence: int, *, now_ms: int) -> Stored | None:
        """One record, or None where it is not held."""
        found = self.range(chain, sequence, most=1, most_bytes=0, now_ms=now_ms)
        return found[0] if found and found[0].record.header.sequence == sequence else None

    def by_hash(self, digest: bytes) -> Record | None:
        """The record with this hash."""
        row = self._one("SELECT header, signature, body FROM record WHERE hash = ?", digest)
        return None if row is None else _record(row)

    def hash_at(self, chain: LogId, sequence: int) -> bytes | None:
        """The hash of one record: what a search for the first difference asks for."""
        if not 0 < sequence <= INTEGER_LIMIT:
            return None
        row = self._one(
            "SELECT r.hash FROM record r JOIN chain c ON c.id = r.chain"
            " WHERE c.author = ? AND c.log = ? AND c.generation = ? AND r.sequence = ?",
            *(chain.author, int(chain.log), chain.generation, sequence),
        )
        return None if row is None else bytes(row[0])

    def range(self, chain: LogId, first: int, *, most: int, most_bytes: int, now_ms: int) -> list[Stored]:
        """Records of a chain from number `first` on, in order: at most `most`, and no more than `most_bytes` of them as
        encoded, but one at least."""
        found: list[Stored] = []
        if not 0 < first <= INTEGER_LIMIT:
            return found
        total = 0
        rows = self._connection.execute(
            "SELECT header, signature, body, born_ms, arrived_ms FROM record WHERE chain ="
            " (SELECT id FROM chain WHERE author = ? AND log = ? AND generation = ?)"
            " AND sequence >= ? ORDER BY sequence LIMIT ?",
            (chain.author, int(chain.log), chain.generation, first, most),
        )
        for row in rows:
            record = _record(row)
            total += 3 + len(record.header_bytes) + len(record.signature) + len(record.body or b"")
            if found and total > most_bytes:
                break
            found.append(Stored(record, max(0, -((row[3] - now_ms) // 1000)), row[4]))
        return found

    def heads(self, log: Log | None = None) -> dict[LogId, Head]:
        """How far every chain goes here, of one log or of both. Costs a row a chain."""
        rows = self._connection.execute(
            "SELECT author, log, generation, sequence, hash FROM chain WHERE sequence > 0 AND log = ifnull(?, log)",
            (None if log is None else int(log),),
        )
        return {LogId(row[0], Log(row[1]), row[2]): Head(row[3], row[4]) for row in rows}

    def head(self, chain: LogId) -> Head | None:
        """How far one chain goes here."""
        row = self._one(
            "SELECT sequence, hash FROM chain WHERE author = ? AND log = ? AND generation = ? AND sequence > 0",
            *(chain.author, int(chain.log), chain.generation),
        )
        return None if row is None else Head(row[0], row[1])

    def sizes(self) -> dict[LogId, int]:
        """Bytes that the records of each chain had when they came: for quotas by author and for lag."""
        rows = self._connection.execute("SELECT author, log, generation, bytes FROM chain WHERE sequence > 0")
        return {LogId(row[0], Log(row[1]), row[2]): row[3] for row in rows}

    def roster(self) -> list[Record]:
        """All roster records, chain by chain in order."""
        rows = self._connection.execute(
            "SELECT r.header, r.signature, r.body FROM chain c JOIN record r ON r.chain = c.id"
            " WHERE c.log = ? ORDER BY c.author, c.generation, r.sequence",
            (int(Log.ROSTER),),
        )
        return [_record(row) for row in rows]

    def drop_chain(self, chain: LogId) -> None:
        """Forget all records of a roster log, from which nothing was folded into views."""
        assert chain.log is Log.ROSTER
        number, _, _ = self._chain_row(chain)
        self._connection.execute("DELETE FROM record WHERE chain = ?", (number,))
        self._connection.execute(
            "UPDATE chain SET sequence = 0, hash = x'', bytes = 0 WHERE id = ?",
            (number,),
        )

    def expire(self, now_ms: int) -> list[bytes]:
        """Drop bodies whose time is over, and all that was folded from them; hashes of these records.

        At most EXPIRE_AT_ONCE: a list of that length means that there may be more.
        """
        rows = self._connection.execute(
            "UPDATE record SET body = NULL, due_ms = NULL WHERE id IN"
            " (SELECT id FROM record WHERE due_ms IS NOT NULL AND due_ms <= ? ORDER BY due_ms LIMIT ?) RETURNING hash",
            (now_ms, EXPIRE_AT_ONCE),
        )
        return [row[0] for row in rows]

    def next_due_ms(self) -> int | None:
        """Counted time at which the next body goes."""
        row = self._one("SELECT due_ms FROM record WHERE due_ms IS NOT NULL ORDER BY due_ms LIMIT 1")
        return None if row is None else int(row[0])

    def set_quarantined(self, chain: LogId, first: int | None) -> None:
        """Note that record `first` of a chain and all after it wait to be folded; None: none does any more."""
        self._chain_row(chain)
        self._connection.execute(
            "UPDATE chain SET waits_from = ? WHERE author = ? AND log = ? AND generation = ?",
            (first, chain.author, int(chain.log), chain.generation),
        )

    def quarantined(self) -> dict[LogId, Waiting]:
        """The chains that wait."""
        rows = self._connection.execute(
            "SELECT c.author, c.log, c.generation, c.waits_from, r.header FROM chain c"
            " LEFT JOIN record r ON r.chain = c.id AND r.sequence = c.waits_from WHERE c.waits_from IS NOT NULL"
        )
        found = {}
        for author, log, generation, first, header in rows:
            chain = LogId(author, Log(log), generation)
            found[chain] = Waiting(chain, first, 0 if header is None else Header.decode(header).clock)
        return found

    def mark_count(self, now_ms: int, wall_ms: int) -> None:
        """Note how counted time stands to the wall clock. To be called now and then, and before the end."""
        self._connection.execute(
            "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (_COUNTED, f"{now_ms} {wall_ms}".encode()),
        )

    def resume_count(self, wall_ms: int) -> int:
        """Counted time at start: where it was marked, and on by the wall clock. A wall clock set back stops no count."""
        row = self._one("SELECT value FROM meta WHERE key = ?", _COUNTED)
        if row is None:
            return wall_ms
        counted, marked = (int(part) for part in bytes(row[0]).split())
        return counted + max(0, wall_ms - marked)

    def _chain_row(self, chain: LogId) -> tuple[int, int, bytes]:
        """Row id, last sequence and hash of a chain, which gets a row if it has none."""
        key = (chain.author, int(chain.log), chain.generation)
        row = self._one(
            "SELECT id, sequence, hash FROM chain WHERE author = ? AND log = ? AND generation = ?", *key
        ) or self._one(
            "INSERT INTO chain (author, log, generation) VALUES (?, ?, ?) RETURNING id, sequence, hash", *key
        )
        assert row is not None
        return row[0], row[1], row[2]

    def _at(self, chain: int, sequence: int) -> Record:
        row = self._one("SELECT header, signature, body FROM record WHERE chain = ? AND sequence = ?", chain, sequence)
        assert row is not None  # a chain has no gaps
        return _record(row)

    def _one(self, statement: str, *values: object) -> tuple[Any, ...] | None:
        rows: Iterator[tuple[Any, ...]] = self._connection.execute(statement, values)
        return next(rows, None)


def _record(row: tuple[Any, ...]) -> Record:
    header: bytes = row[0]
    return Record(Header.decode(header), header, row[1], row[2])
