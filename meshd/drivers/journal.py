"""One mesh's records: the only way to write them, and the roster that they make. docs/protocol/records.md.

Everything that is written goes through one lock, one job of the storage at a time, so that what is in memory (heads, the
roster, the clock) follows what is on disk in the same order. Callers that come while a job runs share the next one.
"""

import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

import attrs
import trio

from meshd.drivers import intake
from meshd.drivers.clocks import Clocks
from meshd.drivers.herald import Herald
from meshd.drivers.intake import Checked, Outcome, Pen, Rules, Wish
from meshd.drivers.ledger import Ledger, latest_clock
from meshd.drivers.letterbox import Draft, Letterbox
from meshd.drivers.storage import Storage
from meshd.drivers.threads import Offload, in_thread
from meshd.errors import RefusedError, StoreError
from meshd.model import clock
from meshd.model.facts import Fact, Fork, Found
from meshd.model.identity import Identity, Keys, NodeId
from meshd.model.message import SealedMail
from meshd.model.record import NO_HASH, Head, Log, LogId, Record, write_record
from meshd.model.roster import Roster
from meshd.notices import Notify, Trouble
from meshd.store.records import EXPIRE_AT_ONCE, Waiting
from meshd.wire.bodies import Body, encode, type_of
from meshd.wire.sync import BATCH_LIMIT, Arrived, Span, Tip

WORD_WAIT: Final = 5.0
"""Seconds that a first write waits for a peer's word on what it holds of us: a restored machine must not write a number
twice, and one without a network must still write."""

HOLD_PAUSE: Final = 60.0
"""Seconds between two such waits: a member may claim anything, and must not be able to stop our writing."""

AUTHOR_QUOTA: Final = 4 << 30
"""Bytes of records that one author may take here: years of work, and not the whole disk."""

TOGETHER_BYTES: Final = 4 << 20
"""Bytes of bodies that share one commit."""

TOGETHER_COUNT: Final = 512
"""Records that share one commit."""

FEW: Final = 2
"""Records whose signatures are checked in the event loop, 0.1 ms each: the way to a thread and back takes longer."""

SEALED: Final = type_of(SealedMail)
"""Type and log of what a draft becomes."""

TEND_EVERY: Final = 60.0
"""Seconds, at most, between looks for what has expired and what may leave quarantine."""


class Author(Protocol):
    """Who writes here: drivers/keys.KeyState."""

    keys: Keys
    generation: int

    def next_generation(self, above: int = 0) -> int:
        """A generation above both, durable before this returns. Blocking."""


@attrs.frozen
class Accepted:
    """What became of records that arrived."""

    stored: tuple[Record, ...] = ()
    """The new ones, durable and folded."""

    stuck: frozenset[LogId] = frozenset()
    """Chains that did not come as far as the batch went: a gap, a fork, void, or too much for this author."""

    conflicts: frozenset[LogId] = frozenset()
    """Of these, the author's double numbers: a fork lies at or before what came and is to be searched for."""


@attrs.define(eq=False)
class _Asked:
    """A caller of `append` that waits."""

    wishes: list[Wish]
    records: list[Record] | None = None
    error: tuple[type[RefusedError], str, str] | None = None


class Journal:
    """One mesh's journal; made by `open_journal`."""

    def __init__(
        self, mesh: bytes, storage: Storage, author: Author, clocks: Clocks, notify: Notify, offload: Offload
    ) -> None:
        self.mesh = mesh
        self.keys = author.keys
        self.generation = author.generation
        """Under which this machine writes here."""
        self.quota = AUTHOR_QUOTA
        """Bytes that the records of one author may take."""
        self.on_change: list[Callable[[Sequence[Record]], None]] = []
        """Called with records that have become durable, in order; they must return at once and raise nothing."""
        self.on_released: list[Callable[[], None]] = []
        """Called when records that were told of before have left quarantine, and count from now on."""
        self.on_roster: list[Callable[[Roster], None]] = []
        """Called before `on_change` whenever roster records have come."""
        self._ledger = Ledger(mesh, storage, offload)
        self._letterbox = Letterbox(mesh, self.keys, self._identity_of)
        self._storage, self._author, self._clocks = storage, author, clocks
        self._notify, self._offload = notify, offload
        self._lock = trio.Lock()
        self._asked: deque[_Asked] = deque()
        self._counted_from = (0, 0)
        self._word = trio.Event()
        self._hold_until = self._held_at = 0.0
        self._tending = trio.Event()
        self._herald = Herald(mesh, self.keys.identity.signing_key, notify)
        self._carried: set[tuple[LogId, int]] = set()

    @property
    def node(self) -> NodeId:
        """Our own id."""
        return self.keys.identity.node

    @property
    def roster(self) -> Roster:
        """As all stored roster records make it."""
        return self._ledger.roster

    @property
    def waiting(self) -> Mapping[LogId, Waiting]:
        """Chains in quarantine."""
        return self._ledger.waiting

    def heads(self, log: Log | None = None) -> Mapping[LogId, Head]:
        """What is durable here and worth passing on: void records are cut off. Of one log, or of both."""
        return {chain: tip.head for chain, tip in self._ledger.tips.items() if log is None or chain.log is log}

    def tips(self) -> Mapping[LogId, Tip]:
        """As `heads` of both logs, with the bytes of each chain."""
        return dict(self._ledger.tips)

    def tip(self, chain: LogId) -> Tip | None:
        """As `tips`, of one chain."""
        return self._ledger.tips.get(chain)

    def now_ms(self) -> int:
        """Counted time, in which ages and times to live are counted; store/records.py."""
        counted, boot = self._counted_from
        return counted + self._clocks.boot_ms() - boot

    async def open(self) -> None:
        """Read what is in memory from the store. `open_journal` does it, before anything else."""
        wall, boot = self._clocks.wall_ms(), self._clocks.boot_ms()
        self._counted_from = await self._storage.read(lambda database: database.records.resume_count(wall)), boot
        await self._ledger.load()
        self._hold_until = self._held_at = trio.current_time() + WORD_WAIT
        me = self.keys.identity.signing_key
        held = max((chain.generation for chain in self._ledger.chains_of(me)), default=0)
        if held > self.generation:
            await self._open_generation(held, "the store knows of a later one than the key file")
        if all(member.signing_key == me for member in self.roster.active()):
            self.heard_of_ourselves()  # nobody else could know

    # Writing

    async def append(self, *bodies: Body | Draft, ttl: int = 0) -> list[Record]:
        """Write records of ours; return once they are durable and folded. Callers that come together share a commit. A
        draft is sealed as it is written.

        `ttl`: seconds that the bodies live, 0 for ever. Waits up to WORD_WAIT after a start for a peer's word on our own
        records. Raises RefusedError when this machine is no member any more, StoreError when the disk does not take it.
        Cancelled, it may have been written or not.
        """
        asked = _Asked([_wish(body, ttl) for body in bodies])
        with trio.move_on_at(self._hold_until):
            await self._word.wait()
        self._asked.append(asked)
        try:
            # Who gets the lock writes for all who wait for it; they then find their records.
            await self._lock.acquire()
        except trio.Cancelled:
            if asked in self._asked:
                self._asked.remove(asked)
            raise
        try:
            while asked.records is None and asked.error is None:
                with trio.CancelScope(shield=True):
                    await self._write_together()
        finally:
            self._lock.release()
        if asked.error is not None:
            kind, what, advice = asked.error
            raise kind(what, advice)
        assert asked.records is not None
        return asked.records

    async def accept(self, arrived: Iterable[Arrived]) -> Accepted:
        """Check, store and fold records that came from elsewhere, in any order of chains, each chain in its own.

        What is void, too much or out of order is left out; see `Accepted`. Raises RemoteProtocolError for a forgery, and
        then nothing of the batch is taken; StoreError when the disk does not take it.
        """
        return await self._take(arrived, beginning=False)

    async def begin(self, records: Iterable[Record]) -> None:
        """Take in the roster records that found a mesh, or that a newcomer was given, in any order.

        Raises as `accept` does, and RefusedError when the founding record is not among them.
        """
        left = {record.hash: record for record in sorted(records, key=lambda record: record.header.sequence)}
        while left:
            # Each round, the authors whom the last one admitted.
            accepted = await self._take((Arrived(record, 0) for record in left.values()), beginning=True)
            if not accepted.stored:
                break
            for record in accepted.stored:
                del left[record.hash]
        if not self.roster.members:
            raise RefusedError("These records of a mesh do not begin with the one that founds it.")
        self.heard_of_ourselves()

    async def append_as(self, keys: Keys, *facts: Fact) -> list[Record]:
        """Write roster records with the keys of the recovery words. Each is a generation of its own.

        Raises RefusedError when they are not this mesh's.
        """
        author = keys.identity.signing_key
        if not self.roster.recovery_key or author != self.roster.recovery_key:
            raise RefusedError("These are not the recovery words of this mesh.", "Look for a missing or a wrong word.")
        written: list[Record] = []
        for fact in facts:
            wish = _wish(fact, 0)
            wall = self._clocks.wall_ms()
            # Whoever holds the words keeps no counter. Seconds: a header has 32 bits for a generation.
            before = max((chain.generation for chain in self._ledger.chains_of(author)), default=0)
            record = write_record(
                keys,
                mesh=self.mesh,
                log=wish.log,
                generation=max(wall // 1000, before + 1),
                previous=None,
                clock=clock.tick(self._ledger.clock, wall),
                kind=wish.kind,
                body=wish.encoded,
            )
            written += (await self.accept([Arrived(record, 0)])).stored
        return written

    # Reading

    async def read(self, chain: LogId, first: int, most: int, most_bytes: int) -> list[Arrived]:
        """Records of a chain from number `first` on, with their ages: at most `most`, and `most_bytes` unless one alone is
        larger. Void ones are left out."""
        found, _ = await self.read_spans((Span(chain, first, first + most - 1),), most_bytes)
        return found

    async def read_spans(
        self, spans: Sequence[Span], most_bytes: int = BATCH_LIMIT - 5
    ) -> tuple[list[Arrived], tuple[Span, ...]]:
        """As many of these records as fit, in order, and what is left of the spans."""
        reach = {span.chain: tip.sequence for span in spans if (tip := self.tip(span.chain))}
        now = self.now_ms()
        return await self._storage.read(
            lambda database: intake.read(database, spans, lambda chain: reach.get(chain, 0), most_bytes, now)
        )

    async def hashes(self, chain: LogId, sequences: Sequence[int]) -> list[bytes | None]:
        """The hashes of these records; None for what is not here, or void."""
        tip = self.tip(chain)
        reach = tip.sequence if tip else 0
        return await self._storage.read(
            lambda database: [database.records.hash_at(chain, each) if each <= reach else None for each in sequences]
        )

    # Our own history elsewhere

    def heard_of_ourselves(self) -> None:
        """A peer has told what it holds of us, and we hold it too: writing may begin."""
        self._word.set()

    def own_history_elsewhere(self) -> None:
        """A peer says that it holds records of ours that we do not: wait with writing until they are here."""
        now = trio.current_time()
        if now >= self._held_at + HOLD_PAUSE:
            self._word, self._hold_until, self._held_at = trio.Event(), now + WORD_WAIT, now

    async def open_generation(self, why: str) -> int:
        """Go on under a new generation, and tell the person `why`."""
        async with self._lock:
            with trio.CancelScope(shield=True):
                await self._open_generation(self.generation, why)
        return self.generation

    # Branches

    async def drop_branch(self, chain: LogId) -> None:
        """Drop a roster log that is held on another branch than its author's revocation names, so that the one that counts
        can come. Nothing of it counted, nor can; of a fork in it the proof stays. Does nothing for any other chain."""
        async with self._lock:
            pin = self.roster.pin(chain)
            if pin is None or chain.author == self.keys.identity.signing_key or chain not in self._ledger.held:
                return
            at_pin = await self._storage.read(lambda database: database.records.hash_at(chain, pin.sequence))
            if at_pin == pin.hash:
                return
            with trio.CancelScope(shield=True):
                await self._storage.write(lambda database: database.records.drop_chain(chain))
                await self._ledger.dropped(chain)
                for callback in self.on_roster:
                    callback(self.roster)

    # Tending

    async def run(self) -> None:
        """Drop what has expired and fold what leaves quarantine, for ever."""
        while True:
            self._tending = trio.Event()
            try:
                pause = await self.tend()
            except StoreError as error:
                self._notify(Trouble(error.what, error.advice, "error"))
                pause = TEND_EVERY
            with trio.move_on_after(pause):
                await self._tending.wait()

    def woke(self) -> None:
        """Time has passed that the event loop's clock did not count: look now for what has expired."""
        self._tending.set()

    async def tend(self) -> float:
        """Do so once. Returns the seconds until there may be something to do again."""
        now, wall = self.now_ms(), self._clocks.wall_ms()
        due = await self._storage.read(lambda database: database.records.next_due_ms())
        while due is not None and due <= now:
            gone = await self._storage.write(lambda database: database.records.expire(now))
            if len(gone) < EXPIRE_AT_ONCE:
                due = await self._storage.read(lambda database: database.records.next_due_ms())
        async with self._lock:
            for chain in [each.chain for each in self.waiting.values() if not clock.is_ahead(each.clock, wall)]:
                with trio.CancelScope(shield=True):
                    await self._release(chain, now, wall)
                for callback in self.on_released:
                    callback()
        await self._storage.write(lambda database: database.records.mark_count(now, wall))
        ends = [TEND_EVERY]
        ends += [(due - now) / 1000] if due is not None else []
        ends += [(clock.milliseconds(each.clock) - clock.DRIFT_LIMIT - wall) / 1000 for each in self.waiting.values()]
        return max(min(ends), 0.1)

    # Behind the lock

    async def _write_together(self) -> None:
        """Write what waits, as far as it fits in one commit, in the order in which it came."""
        together = [self._asked.popleft()]
        size, count = _weight(together[0])
        while self._asked:
            more, number = _weight(self._asked[0])
            if size + more > TOGETHER_BYTES or count + number > TOGETHER_COUNT:
                break
            size, count = size + more, count + number
            together.append(self._asked.popleft())
        try:
            records = await self._write([wish for asked in together for wish in asked.wishes])
        except RefusedError as error:
            for asked in together:
                asked.error = type(error), error.what, error.advice
            return
        start = 0
        for asked in together:
            asked.records = records[start : start + len(asked.wishes)]
            start += len(asked.wishes)

    async def _write(self, wishes: Sequence[Wish]) -> list[Record]:
        await self._ensure_that_we_count()
        pen = Pen(
            self.mesh,
            self.keys,
            self.generation,
            self._ledger.clock,
            self.now_ms(),
            self._clocks.wall_ms(),
            self._letterbox,
        )
        written = await self._storage.write(lambda database: intake.write(database, wishes, pen))
        self._ledger.clock = written.clock
        bodies = list(zip(written.records, written.bodies, strict=True))
        await self._publish(bodies, written.tips, arrived=False)
        await self._carry_proofs()  # what we wrote may be a revocation that makes a proof's carrier void
        return written.records

    async def _ensure_that_we_count(self) -> None:
        """Refuse to write what nobody would take; leave a chain that is frozen for a new generation."""
        me = self.keys.identity.signing_key
        member = self.roster.members.get(me)
        if member is None or not member.is_active:
            raise RefusedError("This machine is not a member of the mesh any more.", "Join it again, with new keys.")
        if self._is_frozen():
            await self._open_generation(self.generation, "its history here was forked")
            if self._is_frozen():
                raise RefusedError(
                    "This machine's history was forked at its very start: nobody takes its records any more.",
                    "Give it new keys: begin a new state directory, and join again.",
                )

    def _is_frozen(self) -> bool:
        me = self.keys.identity.signing_key
        return any(self.roster.limit(LogId(me, log, self.generation)) is not None for log in Log)

    async def _take(self, arrived: Iterable[Arrived], *, beginning: bool) -> Accepted:
        """Not behind the lock yet: signatures are checked while others write."""
        offered = list(arrived)
        wanted = [each for each in offered if self._may_count(each.record)]
        void = {each.record.chain for each in offered if not self._may_count(each.record)}
        if len(wanted) <= FEW:
            checked = intake.check(self.mesh, wanted)
        else:
            checked = await self._offload(lambda: intake.check(self.mesh, wanted))
        async with self._lock:
            # Once it is durable it must be told of, whatever becomes of who brought it.
            with trio.CancelScope(shield=True):
                outcome = await self._store(checked)
                if not beginning:  # a founder's first record is its own, and news to nobody
                    await self._meet_ourselves(outcome)
                conflicts = await self._prove(outcome.conflicts)
                await self._carry_proofs()
        stored = tuple(each.record for each in outcome.stored)
        return Accepted(stored, frozenset(outcome.stuck | void), conflicts)

    async def _store(self, checked: Sequence[Checked]) -> Outcome:
        rules = Rules(
            self.mesh,
            self.roster.accepts,
            self.roster.limit,
            self.quota,
            self.now_ms(),
            self._clocks.wall_ms(),
            self._letterbox,
        )
        waiting = self._ledger.waiting
        outcome = await self._storage.write(lambda database: intake.store(database, checked, rules, waiting))
        self._ledger.waiting = outcome.waiting
        records = tuple(each.record for each in outcome.stored)
        self._ledger.clock = max(self._ledger.clock, latest_clock(records, outcome.waiting, rules.wall_ms))
        await self._publish([(each.record, each.body) for each in outcome.stored], outcome.tips, arrived=True)
        self._herald.quarantine(waiting, outcome.waiting, self.roster, rules.wall_ms)
        self._herald.over_quota(outcome.over_quota, self.roster)
        if outcome.waiting.keys() - waiting.keys():
            self._tending.set()
        return outcome

    async def _publish(
        self, added: Sequence[tuple[Record, Body | None]], tips: Mapping[LogId, Tip], *, arrived: bool
    ) -> None:
        """Tell everybody of what is durable now."""
        if not added:
            return
        forks = self.roster.forks
        refolded = await self._ledger.stored(added, tips)
        if refolded:
            for callback in self.on_roster:
                callback(self.roster)
        records = [record for record, _ in added]
        for listener in self.on_change:
            listener(records)
        self._herald.stored(records, arrived=arrived)
        self._herald.forks(forks, self.roster)
        if any(record.header.ttl for record in records):
            self._tending.set()

    async def _meet_ourselves(self, outcome: Outcome) -> None:
        """Records of ours that came from elsewhere: this state is a copy's original, or was restored from a backup."""
        me = self.keys.identity.signing_key
        met = [each.record.chain for each in outcome.stored] + [held.chain for held, _ in outcome.conflicts]
        above = max((chain.generation for chain in met if chain.author == me), default=0)
        if above >= self.generation:
            await self._open_generation(
                above, "a peer holds records with this machine's keys that were not written here, or not kept"
            )

    async def _prove(self, conflicts: Sequence[tuple[Record, Record]]) -> frozenset[LogId]:
        """Write a proof of each fork whose first double number this is; the chains where it lies further back."""
        unsettled = set()
        for held, other in conflicts:
            chain, number = held.chain, held.header.sequence
            # Equal predecessors, or none: nothing before differs. Any later pair would prove too, and freeze too little.
            first = number == other.header.sequence and (number == 1 or held.header.previous == other.header.previous)
            known = any(fork.chain == chain and fork.sequence <= number for fork in self.roster.forks)
            if not first:
                unsettled.add(chain)
            elif not known:
                one, two = sorted((held, other), key=lambda record: record.hash)
                await self._testify(Fork(one=one.without_body().encode(), other=two.without_body().encode()))
        return frozenset(unsettled)

    async def _carry_proofs(self) -> None:
        """Write again, once, what only void records prove: who comes later is not given those."""
        for fork in self.roster.forks:
            if not fork.carried and (fork.chain, fork.sequence) not in self._carried:
                self._carried.add((fork.chain, fork.sequence))
                proof = self._ledger.proof_of(fork)
                if proof is not None:
                    await self._testify(proof)

    async def _testify(self, proof: Fork) -> None:
        """Write a proof, if anybody would take our word. Whoever else compares will find the fork as well."""
        member = self.roster.members.get(self.keys.identity.signing_key)
        if member is None or not member.is_active:
            return
        try:
            await self._write([_wish(proof, 0)])
        except RefusedError as error:
            self._notify(Trouble(error.what, error.advice, "warning"))

    async def _open_generation(self, above: int, why: str) -> None:
        self.generation = await self._offload(lambda: self._author.next_generation(above))
        self._herald.generation(self.generation, why)

    async def _release(self, chain: LogId, now_ms: int, wall_ms: int) -> None:
        while (waiting := self._ledger.waiting.get(chain)) and not clock.is_ahead(waiting.clock, wall_ms):
            first = waiting.first
            after = await self._storage.write(
                partial(
                    intake.release,
                    chain=chain,
                    first=first,
                    now_ms=now_ms,
                    wall_ms=wall_ms,
                    letterbox=self._letterbox,
                )
            )
            left = {other: each for other, each in self._ledger.waiting.items() if other != chain}
            self._ledger.waiting = left if after is None else {**left, chain: after}

    def _identity_of(self, author: bytes) -> Identity | None:
        member = self.roster.members.get(author)
        return None if member is None else member.identity

    def _may_count(self, record: Record) -> bool:
        last = self.roster.accepts(record.chain)
        return last is None or record.header.sequence <= last or record.hash == self.mesh


@contextlib.asynccontextmanager
async def open_journal(
    mesh: bytes,
    storage: Storage,
    author: Author,
    *,
    clocks: Clocks | None = None,
    notify: Notify = lambda notice: None,
    offload: Offload = in_thread,
) -> AsyncIterator[Journal]:
    """A mesh's journal, read from its store, tended while the block runs. Raises StoreError."""
    journal = Journal(mesh, storage, author, clocks or Clocks.of_system(), notify, offload)
    await journal.open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal.run)
        yield journal
        nursery.cancel_scope.cancel()


def found_mesh(keys: Keys, found: Found, *, generation: int, wall_ms: int) -> Record:
    """The record that begins a mesh, for `Journal.begin`; its hash is the mesh id."""
    kind, log = type_of(found)
    return write_record(
        keys,
        mesh=NO_HASH,
        log=log,
        generation=generation,
        previous=None,
        clock=clock.at(wall_ms),
        kind=kind,
        body=encode(found),
    )


def _wish(body: Body | Draft, ttl: int) -> Wish:
    if isinstance(body, Draft):
        return Wish(*SEALED, body, body.plaintext, ttl)
    kind, log = type_of(body)
    return Wish(kind, log, body, encode(body), ttl)


def _weight(asked: _Asked) -> tuple[int, int]:
    return sum(len(wish.encoded) for wish in asked.wishes), len(asked.wishes)
