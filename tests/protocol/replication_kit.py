"""Members of a mesh in memory: each a replication machine over a dictionary of records, wired by pipes that break.

`Member` is the least journal that there can be (drivers/journal.py is the real one): it checks signatures, keeps chains
without gaps, cuts off what is void and writes proofs of forks. Nothing here waits: a simulation says who speaks when.
"""

import random
from collections.abc import Iterable, Sequence
from typing import get_args

import attrs

from meshd.model.clock import at
from meshd.model.evidence import read_fork
from meshd.model.facts import Fact, Fork
from meshd.model.record import Head, Log, LogId, Record, write_record
from meshd.model.roster import Roster, RosterRecord
from meshd.protocol.replication import Replication
from meshd.protocol.replication_events import (
    BranchDue,
    Event,
    Failed,
    FarewellDue,
    HashesDue,
    Outsider,
    OwnHeadsKnown,
    ReadDue,
    RecordsArrived,
)
from meshd.wire.bodies import Body, decode, encode, type_of
from meshd.wire.sync import BATCH_LIMIT, Arrived, Span, Tip
from tests.model.mesh_kit import Mesh

FACTS = get_args(Fact)


class Member:
    """One machine of a mesh, with what it holds."""

    def __init__(self, mesh: Mesh, name: str, generation: int = 1, leap: str = "") -> None:
        """`leap` is what the steps of its generations are drawn from, as drivers/keys.py draws them."""
        self.mesh, self.name = mesh, name
        self.keys = mesh[name].keys
        self.key = mesh[name].key
        self.generation = generation
        self._leaps = random.Random(f"{name} {leap}")
        self.chains: dict[LogId, list[Record]] = {}
        self._sizes: dict[LogId, int] = {}
        self.stored = 0
        """Records taken in, each time that one was."""
        self.seen: set[bytes] = set()
        self.roster = Roster(mesh=mesh.id)
        self.tips: dict[LogId, Tip] = {}
        self.events: list[Event] = []
        self.heard_of_itself = False
        self.full = False
        """Its disk takes nothing."""
        self.machine = Replication(self.key, self.roster, {})
        self.now = 0.0

    def begin(self, records: Iterable[Record]) -> "Member":
        """Start with these records, as a newcomer does or after a restart."""
        for record in records:
            self._keep(record)
        self._fold()
        self.machine = Replication(self.key, self.roster, self.tips)
        return self

    # What a journal does

    def append(self, *bodies: Body) -> list[Record]:
        """Write and publish."""
        return self.publish([self._write(body) for body in bodies])

    def say(self, kind: str, body: bytes = b"", ttl: int = 0) -> Record:
        """A data record of any type, also one that nobody knows."""
        return self.publish([self._sign(Log.DATA, kind, body, ttl)])[0]

    def publish(self, records: list[Record]) -> list[Record]:
        self._tell(records)
        return records

    def accept(self, arrived: Sequence[Arrived]) -> tuple[set[LogId], set[LogId]]:
        """Take in what may be; chains that are stuck, and of them those in conflict."""
        stuck, conflicts, stored = set(), set(), []
        proofs: list[Fork] = []
        for each in arrived:
            record, chain, number = each.record, each.record.chain, each.record.header.sequence
            assert record.is_authentic()
            held, last = self.chains.get(chain, []), self.roster.accepts(chain)
            if (last is not None and number > last) or number > len(held) + 1:
                stuck.add(chain)
            elif number <= len(held):
                if held[number - 1].hash != record.hash:
                    stuck.add(chain)
                    self._conflict(held[number - 1], record, conflicts, proofs)
            elif held and record.header.previous != held[-1].hash:
                stuck.add(chain)
                conflicts.add(chain)
            else:
                self._keep(record)
                stored.append(record)
        self._tell(stored)
        if any(each.chain.author == self.key and each.chain.generation >= self.generation for each in stored):
            self._leap()
        for proof in proofs:
            if self.roster.members[self.key].is_active:
                self.append(proof)
        return stuck, conflicts

    def drop(self, chain: LogId) -> None:
        """Drop a branch that counts for nothing."""
        for record in self.chains.pop(chain):
            self.seen.discard(record.hash)
        del self._sizes[chain]
        self._fold()
        self.machine.roster_changed(self.roster, self.tips, self.now)

    def _conflict(self, held: Record, other: Record, conflicts: set[LogId], proofs: list[Fork]) -> None:
        number = held.header.sequence
        if number > 1 and held.header.previous != other.header.previous:
            conflicts.add(held.chain)
        elif not any(fork.chain == held.chain and fork.sequence <= number for fork in self.roster.forks):
            one, two = sorted((held, other), key=lambda record: record.hash)
            proofs.append(Fork(one.without_body().encode(), two.without_body().encode()))
        if held.chain.author == self.key and held.chain.generation >= self.generation:
            self._leap()

    def _leap(self) -> None:
        self.generation += self._leaps.randint(1, 4096)

    def _write(self, body: Body) -> Record:
        kind, log = type_of(body)
        return self._sign(log, kind, encode(body), 0)

    def _sign(self, log: Log, kind: str, body: bytes, ttl: int) -> Record:
        chain = LogId(self.key, log, self.generation)
        if self.roster.limit(chain) is not None:
            self._leap()
            chain = LogId(self.key, log, self.generation)
        held = self.chains.get(chain, [])
        record = write_record(
            self.keys,
            mesh=self.mesh.id,
            log=log,
            generation=self.generation,
            previous=held[-1].head if held else None,
            clock=at(1),
            kind=kind,
            body=body,
            ttl=ttl,
        )
        self._keep(record)
        return record

    def _keep(self, record: Record) -> None:
        held = self.chains.setdefault(record.chain, [])
        assert record.header.sequence == len(held) + 1 and record.hash not in self.seen
        held.append(record)
        self.seen.add(record.hash)
        self._sizes[record.chain] = self._sizes.get(record.chain, 0) + Arrived(record, 0).size
        self.stored += 1

    def _tell(self, records: list[Record]) -> None:
        if not records:
            return
        refold = any(record.header.log is Log.ROSTER for record in records)
        self._fold(refold=refold, changed={record.chain for record in records})
        if refold:
            self.machine.roster_changed(self.roster, self.tips, self.now)
        chains = {record.chain for record in records}
        self.machine.stored({chain: self.tips[chain] for chain in chains if chain in self.tips}, self.now)
        self.machine.appended([record for record in records if record.header.author == self.key], self.now)

    def _fold(self, *, refold: bool = True, changed: Iterable[LogId] = ()) -> None:
        if refold:
            facts = []
            for chain, held in self.chains.items():
                for record in held if chain.log is Log.ROSTER else ():
                    body = decode(record)
                    if isinstance(body, FACTS):
                        facts.append(RosterRecord.of(record, body))
            self.roster = Roster.fold(self.mesh.id, facts)
            self.tips = {}
        for chain in self.chains if refold else changed:
            held = self.chains[chain]
            last = self.roster.accepts(chain)
            reach = len(held) if last is None else min(last, len(held))
            if reach:
                self.tips[chain] = Tip(reach, held[reach - 1].hash, self._sizes[chain])

    # What a driver does

    def work(self, link: int) -> None:
        """Answer what a link's events ask for."""
        while (event := self.machine.next_event(link)) is not None:
            self.events.append(event)
            match event:
                case RecordsArrived() if self.full:
                    self.machine.refused(event, self.now)
                case RecordsArrived():
                    stuck, conflicts = self.accept(event.records)
                    self.machine.accepted(event, stuck, conflicts, self.now)
                case ReadDue():
                    self.machine.serve(event, *self.read(event.spans))
                case HashesDue():
                    held = self.chains.get(event.chain, [])
                    tip = self.tips.get(event.chain)
                    reach = tip.sequence if tip else 0
                    found = [held[each - 1].hash if 1 <= each <= reach else None for each in event.sequences]
                    self.machine.hashes(event, found, self.now)
                case FarewellDue():
                    self.machine.farewell(event, self.read(event.spans)[0], b"farewell")
                case BranchDue():
                    self.drop(event.chain)
                case OwnHeadsKnown():
                    self.heard_of_itself = True

    def read(self, spans: Sequence[Span]) -> tuple[list[Arrived], tuple[Span, ...]]:
        found: list[Arrived] = []
        room = BATCH_LIMIT - 5
        for index, span in enumerate(spans):
            tip = self.tips.get(span.chain)
            for number in range(span.first, min(span.last, tip.sequence if tip else 0) + 1):
                each = Arrived(self.chains[span.chain][number - 1], 0)
                if found and each.size > room:
                    return found, (Span(span.chain, number, span.last), *spans[index + 1 :])
                found.append(each)
                room -= each.size
        return found, ()

    # What tests ask

    def heads(self) -> dict[LogId, Head]:
        return {chain: tip.head for chain, tip in self.tips.items()}

    def records(self) -> list[Record]:
        return [record for held in self.chains.values() for record in held]

    def saw(self, kind: type) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


@attrs.define(eq=False)
class Wire:
    """A link between two members: bytes under way each way, delivered in pieces of any size."""

    one: Member
    two: Member
    number_of_one: int
    number_of_two: int
    under_way: dict[int, bytearray] = attrs.field(factory=lambda: {0: bytearray(), 1: bytearray()})
    carried: int = 0

    @classmethod
    def between(cls, one: Member, two: Member) -> "Wire":
        return cls(one, two, one.machine.linked(two.key, one.now), two.machine.linked(one.key, two.now))

    @property
    def ends(self) -> tuple[tuple[Member, int], tuple[Member, int]]:
        return (self.one, self.number_of_one), (self.two, self.number_of_two)

    def load(self) -> bool:
        """Put on the wire what both have to send; whether anything is under way."""
        for side, (member, number) in enumerate(self.ends):
            member.work(number)
            data = member.machine.data_to_send(number, member.now)
            self.under_way[side] += data
            self.carried += len(data)
        return any(self.under_way.values())

    def deliver(self, side: int, count: int) -> None:
        """So many bytes of what `side` sent reach the other."""
        data = bytes(self.under_way[side][:count])
        del self.under_way[side][:count]
        member, number = self.ends[1 - side]
        member.machine.receive_data(number, data, member.now)
        member.work(number)

    def cut(self) -> None:
        for member, number in self.ends:
            member.machine.unlinked(number, member.now)

    def is_over(self) -> bool:
        """Whether either side has given up on the other."""
        return any(
            isinstance(event, Failed | Outsider) and event.link == number
            for member, number in self.ends
            for event in member.events
        )


class Cluster:
    """Members and the wires between them; one clock for all."""

    def __init__(self, seed: int = 0) -> None:
        self.chance = random.Random(seed)
        self.now = 0.0
        self.members: list[Member] = []
        self.wires: list[Wire] = []

    def add(self, member: Member) -> Member:
        self.members.append(member)
        member.now = self.now
        return member

    def join(self, one: Member, two: Member) -> Wire:
        self.wires.append(Wire.between(one, two))
        return self.wires[-1]

    def cut(self, wire: Wire) -> None:
        self.wires.remove(wire)
        wire.cut()

    def is_linked(self, one: Member, two: Member) -> bool:
        return any({wire.one.name, wire.two.name} == {one.name, two.name} for wire in self.wires)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for member in self.members:
            member.now = self.now
            due = member.machine.next_deadline()
            if due is not None and due <= self.now:
                member.machine.on_deadline(self.now)

    def step(self) -> bool:
        """Deliver some bytes of some wire. False when nothing is under way."""
        loaded = [wire for wire in self.wires if wire.load()]
        if not loaded:
            return False
        wire = self.chance.choice(loaded)
        side = self.chance.choice([side for side, data in wire.under_way.items() if data])
        wire.deliver(side, self.chance.choice((1, 7, 100, 5_000, 1 << 20)))
        return True

    def settle(self, seconds: float = 0.0) -> None:
        """Run until all are silent, and for so many seconds more."""
        until = self.now + max(seconds, 0.2)
        while True:
            steps = 0
            while self.step():
                steps += 1
                assert steps < 200_000, "they never stop talking"
            if self.now >= until:
                return
            self.pass_time(0.1)


def lab(*names: str, seed: int = 0, recovery: str = "recovery words") -> tuple[Mesh, Cluster, dict[str, Member]]:
    """A mesh whose founder `f` has admitted `names`, and a member for each, all holding that roster."""
    mesh = Mesh(recovery)
    if names:
        mesh.admit("f", *names)
    cluster = Cluster(seed)
    records = [record for record, _ in mesh["f"].written]
    members = {name: cluster.add(Member(mesh, name).begin(records)) for name in ("f", *names)}
    return mesh, cluster, members


def proofs_of(member: Member) -> list[tuple[LogId, int]]:
    """Which forks the records of a member prove."""
    found = []
    for record in member.records():
        body = decode(record)
        if isinstance(body, Fork):
            proof = read_fork(member.mesh.id, body)
            assert proof is not None and proof.holds()
            found.append((proof.chain, proof.sequence))
    return found
