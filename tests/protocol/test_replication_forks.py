"""Forks: found by any two that compare, frozen at the first difference, proven to everybody. Copies and backups."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.model.facts import Cut, Rename
from meshd.model.record import Log, LogId
from meshd.protocol.difference import Search
from meshd.protocol.replication import Replication
from meshd.protocol.replication_events import BranchDue, OwnChainElsewhere
from meshd.wire.sync import QUESTIONS_LIMIT, Tip
from tests.protocol.replication_kit import Member, lab, proofs_of


@given(st.integers(1, 10**9), st.data())
def test_a_search_finds_the_first_difference_in_few_questions(length: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(1, length))
    search, rounds = Search(length), 0
    while search.found is None:
        questions = search.questions()
        assert 0 < len(questions) <= QUESTIONS_LIMIT and len(set(questions)) == len(questions)
        ours = [b"same" if each < first else b"ours" for each in questions]
        theirs = [b"same" if each < first else b"theirs" for each in questions]
        assert search.narrow(questions, ours, theirs)
        rounds += 1
    assert search.found == first and rounds <= 6


def test_a_search_stops_where_a_record_is_missing() -> None:
    search = Search(10)
    assert not search.narrow(search.questions(), [b"x"] * 9, [None] * 9)


class Lie:
    """`liar` gave `a` and `b` the same `common` records, and then others to each."""

    def __init__(self, common: int, one: int, two: int, log: Log = Log.DATA) -> None:
        mesh, self.cluster, members = lab("a", "b", "c", "liar")
        self.cluster_mesh = mesh
        self.a, self.b, self.c, self.f = (members[name] for name in "abcf")
        liar = members["liar"]
        twin = Member(mesh, "liar")
        self.chain = LogId(liar.key, log, 1)

        def say(teller: Member, text: str) -> None:
            if log is Log.DATA:
                teller.say("test.note", text.encode())
            else:
                teller.append(Rename(text))

        for number in range(common):
            say(liar, f"common{number}")
        twin.begin(liar.records())
        for teller, count, hearer in ((liar, one, self.a), (twin, two, self.b)):
            for number in range(count):
                say(teller, f"{hearer.name}{number}")
            hearer.begin([record for record in teller.records() if record.hash not in hearer.seen])

    @property
    def honest(self) -> tuple[Member, ...]:
        return self.a, self.b, self.c, self.f

    def meet(self, *pairs: tuple[Member, Member]) -> None:
        for one, two in pairs:
            self.cluster.join(one, two)
        self.cluster.settle()

    def is_frozen(self, first: int, *members: Member) -> bool:
        """Whether these hold the proof and count the chain up to the number before."""
        return all(
            each.roster.limit(self.chain) == first - 1
            and (first == 1 or each.tips[self.chain].sequence == first - 1)
            and (self.chain, first) in proofs_of(each)
            for each in members
        )


SHAPES = [(0, 1, 1), (1, 1, 1), (5, 3, 3), (5, 1, 60), (5, 60, 1), (100, 40, 33)]
LONG = [(1000, 1, 1), (3000, 700, 500)]


@pytest.mark.parametrize(
    ("common", "one", "two", "log"),
    [(*shape, log) for shape in SHAPES for log in Log] + [(*shape, Log.DATA) for shape in LONG],
)
def test_a_fork_is_frozen_at_the_first_difference(common: int, one: int, two: int, log: Log) -> None:
    lie = Lie(common, one, two, log)
    lie.meet((lie.a, lie.b))
    assert lie.is_frozen(common + 1, lie.a, lie.b)
    assert lie.a.heads() == lie.b.heads()
    lie.meet((lie.b, lie.c), (lie.c, lie.f))
    assert lie.is_frozen(common + 1, lie.c, lie.f)
    assert all(each.heads() == lie.a.heads() for each in lie.honest)
    if log is Log.DATA:
        assert len(lie.c.chains.get(lie.chain, [])) == common, "void records were passed on"


def test_a_fork_is_found_when_only_a_third_hears_both_sides() -> None:
    lie = Lie(10, 4, 9)
    lie.meet((lie.a, lie.c))
    assert lie.c.tips[lie.chain].sequence == 14
    lie.meet((lie.c, lie.b))
    assert lie.is_frozen(11, *(lie.a, lie.b, lie.c))


def test_a_fork_costs_little_to_find() -> None:
    lie = Lie(3000, 700, 700)
    wire = lie.cluster.join(lie.a, lie.b)
    lie.cluster.settle()
    assert lie.is_frozen(3001, lie.a, lie.b)
    assert wire.carried < 16_000


def test_a_fork_that_is_known_is_not_searched_again() -> None:
    lie = Lie(10, 4, 4)
    lie.meet((lie.a, lie.b))
    proofs = len(proofs_of(lie.a))
    lie.cluster.cut(lie.cluster.wires[0])
    wire = lie.cluster.join(lie.a, lie.b)
    lie.cluster.settle(200)
    assert len(proofs_of(lie.a)) == len(proofs_of(lie.b)) == proofs <= 2
    assert wire.carried < 4_000


@pytest.mark.parametrize(("common", "one", "two"), [(0, 1, 1), (2, 3, 3), (2, 1, 4), (2, 6, 2)])
def test_the_branch_that_a_revocation_names_comes_in_place_of_the_other(common: int, one: int, two: int) -> None:
    lie = Lie(common, one, two, Log.ROSTER)
    named = lie.b.tips[lie.chain]
    lie.f.append(lie.cluster_mesh.revocation("liar", cuts=[Cut(Log.ROSTER, 1, named.sequence, named.hash)]))
    lie.meet((lie.f, lie.a))
    for each in (lie.f, lie.a):
        assert each.tips[lie.chain].hash != named.hash, "nobody had the right branch to give"
    lie.meet((lie.a, lie.b))
    lie.cluster.settle(100)
    assert lie.f.heads() == lie.a.heads(), "it has gone from one to the next"
    assert lie.a.heads() == lie.b.heads() and lie.a.tips[lie.chain].head == named.head
    assert lie.a.roster.digest() == lie.b.roster.digest()
    assert lie.a.roster.members[lie.chain.author].name == f"b{two - 1}"
    assert (lie.chain, common + 1) in proofs_of(lie.a), "the proof of the fork is everybody's to see"
    lie.meet((lie.a, lie.c))
    assert lie.c.tips[lie.chain].head == named.head


def test_a_branch_that_nobody_shows_drops_nothing() -> None:
    lie = Lie(1, 2, 2, Log.ROSTER)
    nowhere = Cut(Log.ROSTER, 1, 3, bytes(31) + b"!")
    lie.f.append(lie.cluster_mesh.revocation("liar", cuts=[nowhere]))
    lie.meet((lie.f, lie.a), (lie.f, lie.b), (lie.a, lie.b))
    lie.cluster.settle(100)
    assert len(lie.a.chains[lie.chain]) == len(lie.b.chains[lie.chain]) == 3
    assert not lie.a.saw(BranchDue) and not lie.b.saw(BranchDue)


def test_a_restored_backup_takes_up_its_own_records_before_it_writes() -> None:
    mesh, cluster, members = lab("a", "b")
    a, b = members["a"], members["b"]
    for number in range(10):
        a.say("test.note", b"%d" % number)
    backup = a.records()
    cluster.join(a, b)
    cluster.settle()
    for number in range(5):
        a.say("test.note", b"after the backup %d" % number)
    cluster.settle()
    cluster.cut(cluster.wires[0])
    restored = cluster.add(Member(mesh, "a").begin(backup))
    cluster.join(restored, b)
    while not restored.heard_of_itself:
        assert cluster.step(), "it never heard of itself"
    assert restored.saw(OwnChainElsewhere) and restored.generation > 1
    assert restored.records() and len(restored.chains[LogId(a.key, Log.DATA, 1)]) == 15
    restored.say("test.note", b"new")
    cluster.settle()
    assert restored.heads() == b.heads() and not proofs_of(b)


def test_a_restored_backup_that_wrote_before_it_met_anybody_is_frozen_where_it_forked_and_goes_on() -> None:
    mesh, cluster, members = lab("a", "b", "c")
    a, b, c = members["a"], members["b"], members["c"]
    for number in range(10):
        a.say("test.note", b"%d" % number)
    restored = Member(mesh, "a").begin(a.records())
    for number in range(5):
        a.say("test.note", b"lost %d" % number)
    cluster.join(a, b)
    cluster.settle()
    cluster.cut(cluster.wires[0])
    cluster.add(restored)
    restored.say("test.note", b"written alone")
    cluster.join(restored, b)
    cluster.settle()
    assert restored.generation > 1
    restored.say("test.note", b"under a new generation")
    cluster.join(b, c)
    cluster.settle()
    chain = LogId(a.key, Log.DATA, 1)
    for each in (restored, b, c):
        assert each.roster.limit(chain) == 10 == each.tips[chain].sequence
        assert each.tips[LogId(a.key, Log.DATA, restored.generation)].sequence == 1
    assert restored.heads() == b.heads() == c.heads()


def test_who_claims_our_history_and_brings_nothing_changes_nothing() -> None:
    _, cluster, members = lab("a", "b")
    a, b = members["a"], members["b"]
    a.say("test.note", b"one")
    cluster.join(a, b)
    cluster.settle()
    chain = LogId(a.key, Log.DATA, 1)
    b.tips[chain] = Tip(1000, bytes([9]) * 32, 10)
    b.machine.stored({chain: b.tips[chain]}, cluster.now)
    b.tips[chain] = Tip(1, a.tips[chain].hash, 10)
    cluster.settle(5)
    assert a.saw(OwnChainElsewhere) and a.generation == 1
    b.machine.stored({chain: b.tips[chain]}, cluster.now)
    a.say("test.note", b"two")
    cluster.settle(100)
    assert b.tips[chain] == a.tips[chain]


def test_who_lies_about_hashes_only_costs_a_few_questions() -> None:
    _, cluster, members = lab("a", "b")
    a, b = members["a"], members["b"]
    for number in range(100):
        a.say("test.note", b"%d" % number)
    b.begin([record for record in a.records() if record.hash not in b.seen])
    chain = LogId(a.key, Log.DATA, 1)
    b.machine = Replication(b.key, b.roster, {**b.tips, chain: Tip(100, bytes(31) + b"!", 10)})
    wire = cluster.join(a, b)
    cluster.settle(100)
    assert not proofs_of(a) and a.roster.limit(chain) is None
    assert wire.carried < 40_000
