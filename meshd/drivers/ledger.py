"""What a journal has in memory of its store: how far every chain goes, how far it counts, and the roster.

A machine's heads are what it tells its peers; records behind a cut or a fork stay on disk as they came, and are neither
told of nor folded (docs/protocol/membership.md, "void").
"""

from collections.abc import Iterable, Mapping

import attrs

from meshd.drivers.storage import Storage
from meshd.drivers.threads import Offload
from meshd.errors import RemoteProtocolError
from meshd.model import clock
from meshd.model.evidence import read_fork
from meshd.model.facts import Admit, Distrust, Fact, Fork, Found, Rename, Revoke, Secret
from meshd.model.record import Log, LogId, Record
from meshd.model.roster import ForkedChain, Roster, RosterRecord
from meshd.store.database import Database
from meshd.store.records import Waiting
from meshd.wire.bodies import Body, decode
from meshd.wire.sync import Tip

_FACTS = (Found, Admit, Revoke, Secret, Rename, Distrust, Fork)


@attrs.frozen
class _Loaded:
    tips: dict[LogId, Tip]
    facts: list[RosterRecord]
    waiting: dict[LogId, Waiting]
    clock: int


class Ledger:
    """Heads, limits and the roster. Only the journal changes it, behind its lock."""

    def __init__(self, mesh: bytes, storage: Storage, offload: Offload) -> None:
        self.roster = Roster(mesh=mesh)
        self.held: dict[LogId, Tip] = {}
        """All that is on disk, void or not."""
        self.tips: dict[LogId, Tip] = {}
        """The same, cut off where it becomes void."""
        self.waiting: dict[LogId, Waiting] = {}
        """Chains in quarantine."""
        self.clock = 0
        """The highest hybrid clock of what counts and is not in quarantine."""
        self._mesh, self._storage, self._offload = mesh, storage, offload
        self._facts: dict[bytes, RosterRecord] = {}
        self._limits: dict[LogId, int | None] = {}

    async def load(self) -> None:
        """Read all of it from the store, and let the views count what the roster says."""
        loaded = await self._storage.read(_load)
        self.held, self.waiting, self.clock = loaded.tips, loaded.waiting, loaded.clock
        self._facts = {fact.hash: fact for fact in loaded.facts}
        await self._refold()

    async def stored(self, added: Iterable[tuple[Record, Body | None]], tips: Mapping[LogId, Tip]) -> bool:
        """Take in what has just become durable. Returns whether the roster was folded anew."""
        self.held.update(tips)
        facts = [RosterRecord.of(record, body) for record, body in added if isinstance(body, _FACTS)]
        if facts:
            self._facts.update((fact.hash, fact) for fact in facts)
            await self._refold()
        else:
            await self._cut(tips)
        return bool(facts)

    async def dropped(self, chain: LogId) -> None:
        """A roster log is not on disk any more."""
        self.held.pop(chain, None)
        self.tips.pop(chain, None)
        self._facts = {digest: fact for digest, fact in self._facts.items() if fact.chain != chain}
        await self._refold()

    def proof_of(self, fork: ForkedChain) -> Fork | None:
        """The proof of a fork that some record here carries."""
        for record in self._facts.values():
            if isinstance(record.fact, Fork):
                proof = read_fork(self._mesh, record.fact)
                if proof is not None and (proof.chain, proof.sequence) == (fork.chain, fork.sequence):
                    return record.fact
        return None

    def chains_of(self, author: bytes) -> list[LogId]:
        """What is held of one author."""
        return [chain for chain in self.held if chain.author == author]

    async def _refold(self) -> None:
        facts = list(self._facts.values())
        self.roster = await self._offload(lambda: Roster.fold(self._mesh, facts))
        changed = {}
        for chain in self.held:
            limit = self.roster.limit(chain)
            if limit != self._limits.get(chain):
                changed[chain] = limit
        if changed:
            await self._storage.write(lambda database: _set_live(database, changed))
            self._limits.update(changed)
        await self._cut(self.held)

    async def _cut(self, chains: Iterable[LogId]) -> None:
        """Work out how much of these chains is worth telling of."""
        long: dict[LogId, int] = {}
        for chain in chains:
            held, last = self.held[chain], self.roster.accepts(chain)
            self._limits.setdefault(chain, self.roster.limit(chain))  # the store set it with the chain's first record
            if last is None or last >= held.sequence:
                self.tips[chain] = held
            elif last == 0:
                self.tips.pop(chain, None)
            elif (known := self.tips.get(chain)) is None or known.sequence != last:
                long[chain] = last
        if long:
            hashes = await self._storage.read(
                lambda database: {chain: database.records.hash_at(chain, last) for chain, last in long.items()}
            )
            for chain, found in hashes.items():
                assert found is not None  # a chain has no gaps
                self.tips[chain] = Tip(long[chain], found, self.held[chain].size)


def _load(database: Database) -> _Loaded:
    records = database.records
    sizes = records.sizes()
    waiting = records.quarantined()
    latest, tips = 0, {}
    for chain, head in records.heads().items():
        tips[chain] = Tip(head.sequence, head.hash, sizes[chain])
        last = head.sequence if chain not in waiting else waiting[chain].first - 1
        found = records.get(chain, last, now_ms=0) if chain.log is Log.DATA and last else None
        latest = max(latest, found.record.header.clock if found else 0)
    facts = []
    for record in records.roster():
        fact = _fact(record)
        if fact is not None:
            facts.append(RosterRecord.of(record, fact))
    return _Loaded(tips, facts, waiting, latest)


def _fact(record: Record) -> Fact | None:
    try:
        body = decode(record)
    except RemoteProtocolError:
        return None  # signed nonsense: kept for its chain, see intake.check
    return body if isinstance(body, _FACTS) else None


def _set_live(database: Database, limits: Mapping[LogId, int | None]) -> None:
    for chain, limit in limits.items():
        database.handles.set_live(chain, limit)


def latest_clock(records: Iterable[Record], waiting: Mapping[LogId, Waiting], wall_ms: int) -> int:
    """The highest clock among these that our own may follow. A roster record's may be far ahead: it is not followed."""
    return max(
        (
            record.header.clock
            for record in records
            if record.chain not in waiting and not clock.is_ahead(record.header.clock, wall_ms)
        ),
        default=0,
    )
