"""Many members, partitions, links that die at any byte, forks and restored backups: in the end all hold the same.

A seed names a run, and a failure prints it. What is said is drawn; what must hold at the end is not: heads are equal,
nothing was stored twice, and what any of them held at the end of the troubles, and that counts, all of them hold.
"""

import itertools
import random

import pytest

from meshd.model.facts import Rename
from meshd.model.record import Log, LogId
from meshd.protocol.replication_events import Failed, Outsider
from tests.protocol.replication_kit import Member, lab

NAMES = ("a", "b", "c", "d", "e")
SEEDS = range(12)


class Chaos:
    """One run."""

    def __init__(self, seed: int, *, forks: bool, names: tuple[str, ...] = NAMES) -> None:
        self.mesh, self.cluster, self.members = lab(*names, seed=seed)
        self.chance = random.Random(seed + 1)
        self.forks = forks
        self.replaced: list[Member] = []
        self.backups: dict[str, tuple[list[object], int]] = {}
        self.said = 0

    def run(self, turns: int) -> None:
        deeds = [self.talk] * 10 + [self.say] * 4 + [self.link] * 2 + [self.cut, self.rename, self.wait, self.burst]
        if self.forks:
            deeds += [self.backup, self.restore]
        for _ in range(turns):
            self.chance.choice(deeds)()

    def pick(self) -> Member:
        return self.chance.choice(list(self.members.values()))

    def can_write(self, member: Member) -> bool:
        """Whether its chains are not frozen for good: two first records end an author."""
        return all(fork.sequence > 1 for fork in member.roster.forks if fork.chain.author == member.key)

    def talk(self) -> None:
        for _ in range(self.chance.randrange(40)):
            self.cluster.step()

    def say(self) -> None:
        member = self.pick()
        if self.can_write(member):
            self.said += 1
            kind = self.chance.choice(("test.note", "nobody.knows.this", "handle.value"))
            member.say(kind, b"%d " % self.said + b"." * self.chance.choice((0, 100, 3000)))

    def burst(self) -> None:
        for _ in range(30):
            self.say()

    def rename(self) -> None:
        member = self.pick()
        if self.can_write(member):
            self.said += 1
            member.append(Rename(f"{member.name}{self.said}"))

    def link(self) -> None:
        one, two = self.pick(), self.pick()
        if one is not two and not self.cluster.is_linked(one, two):
            self.cluster.join(one, two)

    def cut(self) -> None:
        """Whatever is under way is lost, in the middle of a frame too."""
        if self.cluster.wires:
            self.cluster.cut(self.chance.choice(self.cluster.wires))

    def wait(self) -> None:
        self.cluster.pass_time(self.chance.choice((0.01, 0.06, 1.0, 10.0)))
        for wire in [wire for wire in self.cluster.wires if wire.load() and wire.is_over()]:
            self.cluster.cut(wire)

    def backup(self) -> None:
        member = self.pick()
        # Two first records end an author, and with a founder its mesh: forks of that kind have tests of their own.
        if any(len(member.chains.get(LogId(member.key, log, member.generation), ())) == 0 for log in Log):
            return
        self.backups[member.name] = (list(member.records()), member.generation)

    def restore(self) -> None:
        """A machine goes back to an earlier state, and knows nothing of it."""
        if not self.backups:
            return
        name = self.chance.choice(list(self.backups))
        records, generation = self.backups.pop(name)
        for wire in [wire for wire in self.cluster.wires if name in (wire.one.name, wire.two.name)]:
            self.cluster.cut(wire)
        old = self.members[name]
        self.cluster.members.remove(old)
        self.replaced.append(old)
        fresh = Member(self.mesh, name, generation, f"restored at {self.cluster.now} {self.said}")
        fresh.now = self.cluster.now
        self.members[name] = self.cluster.add(fresh.begin(records))

    def heal(self) -> None:
        """Everybody meets in a chain, which is the longest way that news can take."""
        for wire in list(self.cluster.wires):
            self.cluster.cut(wire)
        around = list(self.members.values())
        self.chance.shuffle(around)
        for one, two in itertools.pairwise(around):
            self.cluster.join(one, two)
        self.cluster.settle(130)

    def check(self) -> None:
        members = list(self.members.values())
        held = {record.hash: record for member in members for record in member.records()}
        for member in members:
            member.events.clear()
        self.heal()
        first = members[0]
        for member in members:
            assert member.heads() == first.heads()
            assert member.roster.digest() == first.roster.digest()
            assert member.stored == len(member.records()) == len({record.hash for record in member.records()})
            assert not [each for each in member.events if isinstance(each, Outsider | Failed)]
            counts = {record.hash for record in member.records()}
            for record in held.values():
                last = member.roster.limit(record.chain)
                if last is None or record.header.sequence <= last:
                    assert record.hash in counts, f"{record.chain.log.name} {record.header.sequence} was lost"
        if not self.forks:
            assert not first.roster.forks
            assert sum(len(each) for chain, each in first.chains.items()) == self.said + 1 + len(members) - 1


@pytest.mark.parametrize("seed", SEEDS)
def test_all_hold_the_same_after_partitions(seed: int) -> None:
    chaos = Chaos(seed, forks=False)
    chaos.run(200)
    chaos.check()


@pytest.mark.parametrize("seed", SEEDS)
def test_all_hold_the_same_after_backups_were_restored(seed: int) -> None:
    chaos = Chaos(seed, forks=True)
    chaos.run(200)
    chaos.check()


def test_a_crowd_in_a_row_agrees() -> None:
    chaos = Chaos(99, forks=True, names=tuple(f"m{number}" for number in range(15)))
    chaos.run(300)
    chaos.check()
    assert len({record.chain for record in chaos.members["f"].records() if record.header.log is Log.DATA}) > 8


def test_a_cluster_repeats_from_its_seed() -> None:
    def carried() -> int:
        chaos = Chaos(3, forks=True)
        chaos.run(150)
        return sum(wire.carried for wire in chaos.cluster.wires)

    assert carried() == carried()
