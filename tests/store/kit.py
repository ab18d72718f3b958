"""Authors who write records, for tests of what keeps them."""

import contextlib
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

from meshd.model.announcement import Value
from meshd.model.clock import at
from meshd.model.handle import canonical
from meshd.model.identity import Keys, NodeId
from meshd.model.record import Head, Log, LogId, Record, write_record
from meshd.store.database import Database
from meshd.wire.bodies import Body, encode, type_of

MESH = bytes(range(32))

_made = itertools.count(1)


@contextlib.contextmanager
def fresh() -> Iterator[Database]:
    """A database of its own, for each example of a property."""
    with tempfile.TemporaryDirectory() as directory, Database(Path(directory) / "mesh.db") as opened:
        yield opened


class Author:
    """Writes a chain or several. Clocks go on by one millisecond a record unless a test says otherwise."""

    def __init__(self, number: int | None = None) -> None:
        seed = (next(_made) if number is None else number).to_bytes(32, "big")
        self.keys = Keys(seed, seed)
        self.heads: dict[LogId, Head] = {}
        self.now = 1_000_000

    @property
    def node(self) -> NodeId:
        return self.keys.identity.node

    @property
    def data(self) -> LogId:
        return LogId(self.keys.identity.signing_key, Log.DATA, 1)

    def say(self, body: Body, *, ttl: int = 0, clock: int | None = None, generation: int = 1) -> Record:
        kind, log = type_of(body)
        return self.write(kind, encode(body), log=log, ttl=ttl, clock=clock, generation=generation)

    def write(
        self,
        kind: str,
        body: bytes,
        *,
        log: Log = Log.DATA,
        ttl: int = 0,
        clock: int | None = None,
        generation: int = 1,
        after: Head | None = None,
    ) -> Record:
        """`after`: the record that this one follows, where that is not the last one; for forks."""
        chain = LogId(self.keys.identity.signing_key, log, generation)
        self.now += 1
        record = write_record(
            self.keys,
            mesh=MESH,
            log=log,
            generation=generation,
            previous=after or self.heads.get(chain),
            clock=at(self.now) if clock is None else clock,
            kind=kind,
            body=body,
            ttl=ttl,
        )
        self.heads[chain] = record.head
        return record


def value(content: object, table: str = "inline", tags: tuple[str, ...] = ()) -> Value:
    return Value(table=table, json=canonical(content), blob=None, tags=tags)


def keep(database: Database, *records: Record, age_ms: int = 0, now_ms: int = 0) -> list[bool]:
    """Insert records, each by a job of its own in one commit; raises the first error of one."""
    done = database.commit(
        [lambda d, record=record: d.records.insert(record, age_ms=age_ms, now_ms=now_ms) for record in records]
    )
    for each in done:
        if each.error is not None:
            raise each.error
    return [bool(each.value) for each in done]


def told(database: Database, author: Author, body: Body, **how: int) -> Record:
    """Write a record, insert and fold it in one commit."""
    record = author.say(body, **how)
    fold(database, record, body)
    return record


def fold(database: Database, record: Record, body: Body, *, now_ms: int = 0) -> bool:
    def job(opened: Database) -> bool:
        opened.records.insert(record, age_ms=0, now_ms=now_ms)
        return opened.handles.fold(record, body)

    (done,) = database.commit([job])
    if done.error is not None:
        raise done.error
    assert done.value is not None
    return done.value
