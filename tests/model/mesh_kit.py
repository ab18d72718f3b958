"""A mesh on paper: machines with fixed keys that write real, signed roster records."""

from collections.abc import Iterable

from blake3 import blake3

from meshd.model.clock import at
from meshd.model.facts import (
    Cut,
    Distrust,
    Fact,
    Fork,
    Found,
    Rename,
    Revoke,
    Sealed,
    Secret,
    countersign,
)
from meshd.model.identity import Keys
from meshd.model.record import NO_HASH, Head, Log, LogId, Record, write_record
from meshd.model.roster import Roster, RosterRecord
from meshd.wire.bodies import encode, type_of


def keys_of(name: str) -> Keys:
    return Keys(blake3(f"{name} signs".encode()).digest(), blake3(f"{name} speaks".encode()).digest())


class Machine:
    """One that writes: its keys and its chain."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.keys = keys_of(name)
        self.generation = 1
        self.heads: dict[int, Head] = {}
        self.written: list[tuple[Record, RosterRecord]] = []

    @property
    def key(self) -> bytes:
        return self.keys.identity.signing_key

    @property
    def chain(self) -> LogId:
        return LogId(self.key, Log.ROSTER, self.generation)

    def write(self, mesh: bytes, fact: Fact, clock: int = 1) -> RosterRecord:
        kind, log = type_of(fact)
        record = write_record(
            self.keys,
            mesh=mesh,
            log=log,
            generation=self.generation,
            previous=self.heads.get(self.generation),
            clock=clock,
            kind=kind,
            body=encode(fact),
        )
        self.heads[self.generation] = record.head
        self.written.append((record, RosterRecord.of(record, fact)))
        return self.written[-1][1]

    def cut(self, sequence: int | None = None, generation: int = 1) -> Cut:
        """That record of its chain, by default the last, as a cut names it."""
        places = [each for _, each in self.written if each.generation == generation]
        place = places[-1] if sequence is None else next(each for each in places if each.sequence == sequence)
        return Cut(Log.ROSTER, generation, place.sequence, place.hash)


class Mesh:
    """Machines by name, `f` the founder; `records` are all that were written."""

    def __init__(self, recovery: str = "recovery words") -> None:
        """`recovery` says whose key may recover; nobody's if it is empty."""
        self.machines: dict[str, Machine] = {}
        self.recovery = Machine(recovery)
        founder = self["f"]
        identity = founder.keys.identity
        found = Found(
            mesh_name="lab",
            name="f",
            noise_key=identity.noise_key,
            binding=identity.binding,
            recovery_key=self.recovery.key if recovery else b"",
            nonce=bytes(32),
        )
        self.id = founder.write(NO_HASH, found).hash

    def __getitem__(self, name: str) -> Machine:
        if name not in self.machines:
            self.machines[name] = Machine(name)
        return self.machines[name]

    @property
    def records(self) -> list[RosterRecord]:
        return [record for one in (*self.machines.values(), self.recovery) for _, record in one.written]

    def write(self, author: str, fact: Fact) -> RosterRecord:
        return self[author].write(self.id, fact)

    def admit(self, admitter: str, *newcomers: str) -> RosterRecord:
        for newcomer in newcomers:
            last = self.write(
                admitter, countersign(self[newcomer].keys, self.id, self[admitter].key, newcomer.replace(" ", "-"))
            )
        return last

    def revoke(
        self, revoker: str, target: str, cuts: Iterable[Cut] | None = None, keep: Iterable[str] = (), reason: str = ""
    ) -> RosterRecord:
        """By default with a cut after all that the target wrote."""
        return self.write(revoker, self.revocation(target, cuts, keep, reason))

    def revocation(
        self, target: str, cuts: Iterable[Cut] | None = None, keep: Iterable[str] = (), reason: str = ""
    ) -> Revoke:
        if cuts is None:
            cuts = [self[target].cut()] if self[target].written else []
        return Revoke(
            signing_key=self[target].key,
            cuts=tuple(cuts),
            keep=tuple(self[each].key for each in keep),
            reason=reason,
        )

    def recover(self, fact: Fact) -> RosterRecord:
        """A record by the recovery words: a generation of its own."""
        self.recovery.generation = len(self.recovery.written) + 1000
        return self.recovery.write(self.id, fact, clock=at(self.recovery.generation))

    def rename(self, author: str, name: str) -> RosterRecord:
        return self.write(author, Rename(name))

    def distrust(self, author: str, target: str, lifted: bool = False) -> RosterRecord:
        return self.write(author, Distrust(self[target].key, "smells", lifted))

    def secret(self, author: str, number: int, replaces: Iterable[bytes] = ()) -> RosterRecord:
        return self.write(author, self.new_secret(number, replaces))

    def new_secret(self, number: int, replaces: Iterable[bytes] = ()) -> Secret:
        return Secret(number=number, replaces=tuple(replaces), sealed=(Sealed(self["f"].key, b"box"),))

    def fork(
        self, carrier: str, author: str, sequence: int, log: Log = Log.ROSTER, generation: int = 1
    ) -> RosterRecord:
        """A proof, written by `carrier`, that `author` gave this number twice."""
        return self.write(carrier, self.proof(author, sequence, log, generation))

    def proof(self, author: str, sequence: int, log: Log = Log.ROSTER, generation: int = 1) -> Fork:
        one, other = (self.loose(author, sequence, log, generation, body).without_body() for body in (b"1", b"2"))
        return Fork(one.encode(), other.encode())

    def loose(self, author: str, sequence: int, log: Log, generation: int, body: bytes) -> Record:
        """A record with that number, beside the chain."""
        before = None if sequence == 1 else Head(sequence - 1, bytes(32))
        return write_record(
            self[author].keys,
            mesh=self.id,
            log=log,
            generation=generation,
            previous=before,
            clock=1,
            kind="test.loose",
            body=body,
        )

    def roster(self, records: Iterable[RosterRecord] | None = None) -> Roster:
        return Roster.fold(self.id, self.records if records is None else records)

    def standings(self, records: Iterable[RosterRecord] | None = None) -> dict[str, str]:
        """What the roster says of each machine that it knows, by name."""
        roster = self.roster(records)
        names = {machine.key: name for name, machine in self.machines.items()}
        return {names[key]: member.standing.value for key, member in roster.members.items()}

    def active(self, records: Iterable[RosterRecord] | None = None) -> set[str]:
        return {name for name, standing in self.standings(records).items() if standing == "active"}
