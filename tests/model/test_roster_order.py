"""One set of records, one roster: in all orders of small sets, in some of larger ones; and what no order lets happen."""

import itertools
import random
import time
from collections.abc import Callable

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.model.facts import countersign
from meshd.model.record import Log, LogId
from meshd.model.roster import Roster, RosterRecord, Standing
from tests.model.mesh_kit import Mesh

NAMES = "fabcdegh"
names = st.sampled_from(NAMES)
numbers = st.integers(0, 20)


def small_mesh() -> Mesh:
    mesh = Mesh()
    mesh.admit("f", "s")
    mesh.admit("s", "c")
    return mesh


def stolen_child(mesh: Mesh) -> None:
    mesh.revoke("s", "f", cuts=[])
    mesh.revoke("s", "c", cuts=[])
    mesh.admit("s", "evil")
    mesh.revoke("f", "s", cuts=[mesh["s"].cut(1)], keep=["c"])


def mutual(mesh: Mesh) -> None:
    mesh.revoke("s", "c", cuts=[])
    mesh.revoke("c", "s", cuts=[])
    mesh.revoke("f", "s", cuts=[mesh["s"].cut(1)], keep=["c"])
    mesh.admit("f", "c")


def in_a_circle(mesh: Mesh) -> None:
    mesh.admit("c", "s")
    mesh.revoke("c", "s", keep=["c"])
    mesh.revoke("s", "c", keep=["s"])
    mesh.fork("c", "s", 2)


def chained(mesh: Mesh) -> None:
    mesh.admit("c", "d")
    mesh.revoke("c", "d")
    mesh.revoke("s", "c", cuts=[mesh["c"].cut(1)], keep=["d"])
    mesh.revoke("f", "s", cuts=[mesh["s"].cut(1)], keep=["c"])


EXPECTED: dict[Callable[[Mesh], None], dict[str, str]] = {
    stolen_child: {"f": "active", "s": "revoked", "c": "active"},
    mutual: {"f": "active", "s": "revoked", "c": "active"},
    chained: {"f": "active", "s": "revoked", "c": "active", "d": "revoked"},
    in_a_circle: {"f": "active", "s": "active", "c": "active"},
}


@pytest.mark.parametrize("story", EXPECTED, ids=lambda story: story.__name__)
def test_all_orders_of_a_small_set(story: Callable[[Mesh], None]) -> None:
    mesh = small_mesh()
    story(mesh)
    records = mesh.records
    assert len(records) == 7
    roster = mesh.roster()
    assert mesh.standings() == EXPECTED[story]
    order = list(roster.members)
    for permuted in itertools.permutations(records):
        again = Roster.fold(mesh.id, permuted)
        assert again == roster and list(again.members) == order


@pytest.mark.parametrize("story", EXPECTED, ids=lambda story: story.__name__)
def test_every_subset_of_a_small_set_arrives_at_the_same(story: Callable[[Mesh], None]) -> None:
    """What is folded on the way leaves nothing behind: a roster is made of its records, not of what was before."""
    mesh = small_mesh()
    story(mesh)
    for count in range(len(mesh.records) + 1):
        for some in itertools.combinations(mesh.records, count):
            roster = Roster.fold(mesh.id, some)
            assert Roster.fold(mesh.id, [*reversed(some), *some]) == roster


def all_limits(mesh: Mesh, roster: Roster) -> list[int | None]:
    chains = [
        LogId(machine.key, log, generation)
        for machine in (*mesh.machines.values(), mesh.recovery)
        for log in Log
        for generation in (1, 2)
    ]
    return [one(chain) for chain in chains for one in (roster.limit, roster.accepts)]


class Script:
    """Draws what machines write: anything that keys allow, sensible or not."""

    def __init__(self, data: st.DataObject, mesh: Mesh, circles: bool = True) -> None:
        """`circles`: whether somebody may agree to be admitted by one below it."""
        self.draw = data.draw
        self.mesh = mesh
        self.circles = circles

    def admissions(self, count: int) -> None:
        """A tree over NAMES, so that most of what follows is about members."""
        for place, name in enumerate(NAMES[1 : count + 1]):
            self.mesh.admit(NAMES[self.draw(st.integers(0, place))], name)

    def cuts(self, target: str) -> list:
        written = [record for _, record in self.mesh[target].written]
        chosen = self.draw(st.none() | st.sampled_from(written)) if written else None
        if chosen is None:
            return []
        return [self.mesh[target].cut(chosen.sequence, chosen.generation)]

    def anything(self, author: str, without: tuple[str, ...] = ()) -> None:
        mesh, draw = self.mesh, self.draw
        kinds = ["admit", "revoke", "name", "secret", "distrust", "generation", "fork", "recover"]
        kind = draw(st.sampled_from([kind for kind in kinds if kind not in without]))
        other = draw(names)
        match kind:
            case "admit":
                if self.circles or NAMES.index(author) < NAMES.index(other):
                    mesh.admit(author, other)
            case "revoke":
                mesh.revoke(author, other, self.cuts(other), keep=draw(st.lists(names, max_size=3)))
            case "name":
                mesh.rename(author, draw(st.sampled_from(["x", "y", "no name"])))
            case "secret":
                mesh.secret(author, draw(st.integers(2, 5)), draw(st.lists(st.sampled_from(mesh.records)).map(hashes)))
            case "distrust":
                mesh.distrust(author, other, draw(st.booleans()))
            case "generation":
                mesh[author].generation = 2
            case "fork":
                mesh.fork(author, other, draw(st.integers(1, 4)), draw(st.sampled_from(Log)))
            case "recover":
                if draw(numbers) == 0:
                    mesh.recover(mesh.revocation(other, self.cuts(other)))


def hashes(records: list) -> list[bytes]:
    return [record.hash for record in records]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_order_and_doubles_make_one_roster(data: st.DataObject) -> None:
    mesh = Mesh()
    script = Script(data, mesh)
    script.admissions(data.draw(st.integers(0, len(NAMES) - 1)))
    for _ in range(data.draw(numbers)):
        script.anything(data.draw(names))
    roster = mesh.roster()
    shuffled = data.draw(st.permutations(mesh.records))
    doubled = shuffled + shuffled[: data.draw(numbers)]
    again = Roster.fold(mesh.id, doubled)
    assert again == roster
    assert list(again.members) == list(roster.members)
    assert again.digest() == roster.digest()
    assert all_limits(mesh, again) == all_limits(mesh, roster)


def accepted(roster: Roster, records: list[RosterRecord]) -> list[RosterRecord]:
    """What a machine with this roster stores of these."""
    limits = [roster.accepts(LogId(record.author, Log.ROSTER, record.generation)) for record in records]
    return [record for record, last in zip(records, limits, strict=True) if last is None or record.sequence <= last]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_void_records_change_nothing(data: st.DataObject) -> None:
    """They are not passed on, so a machine that never got them must come to the same roster."""
    mesh = Mesh()
    script = Script(data, mesh)
    script.admissions(data.draw(st.integers(0, len(NAMES) - 1)))
    for _ in range(data.draw(numbers)):
        script.anything(data.draw(names), without=("fork",))
    roster = mesh.roster()
    passed_on = accepted(roster, mesh.records)
    again = Roster.fold(mesh.id, passed_on)
    assert again.digest() == roster.digest()
    assert attrs.evolve(again, clashes=()) == attrs.evolve(roster, clashes=())
    assert all_limits(mesh, again) == all_limits(mesh, roster)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_who_hears_in_pieces_and_drops_what_is_void_comes_to_the_same(data: st.DataObject) -> None:
    """From any part of the records: take what the roster at hand accepts, fold, and again, as machines do that meet."""
    mesh = Mesh()
    script = Script(data, mesh)
    script.admissions(data.draw(st.integers(0, len(NAMES) - 1)))
    for _ in range(data.draw(numbers)):
        script.anything(data.draw(names), without=("fork",))
    first, *rest = mesh.records
    roster = Roster.fold(mesh.id, [first, *data.draw(st.lists(st.sampled_from(rest)) if rest else st.just([]))])
    for _ in range(3 * len(mesh.records)):
        before, roster = roster, Roster.fold(mesh.id, accepted(roster, mesh.records))
        if roster == before:
            break
    assert attrs.evolve(roster, clashes=()) == attrs.evolve(mesh.roster(), clashes=())


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_stolen_child_changes_nothing_once_its_parent_revokes_it(data: st.DataObject) -> None:
    """Whatever its thief wrote before it was found out and after, in this generation and the next, forks included."""
    mesh = Mesh()
    script = Script(data, mesh)
    script.admissions(data.draw(st.integers(1, len(NAMES) - 1)))
    for _ in range(data.draw(st.integers(0, 4))):
        script.anything(data.draw(names), without=("fork",))
    before = mesh.roster()
    present = {member.signing_key: name for name in NAMES if (member := before.members.get(mesh[name].key))}
    pairs = sorted(
        (present[member.parent], present[member.signing_key])
        for member in before.members.values()
        if member.parent in present and before.members[member.parent].is_active
    )
    if not pairs:
        return
    parent, stolen = data.draw(st.sampled_from(pairs))
    thief = mesh[stolen]
    honest = list(thief.written)
    last = [mesh[stolen].cut(record.sequence, record.generation) for _, record in honest[-1:]]
    mesh.revoke(parent, stolen, last, keep=data.draw(st.lists(names, max_size=4)))
    expected = mesh.roster()
    assert expected.members[thief.key].revoked_by is not None

    for victim in NAMES:
        mesh.revoke(stolen, victim, cuts=[], keep=[stolen])
    for number in range(9):
        mesh.admit(stolen, f"evil {number}")
        mesh.admit(f"evil {number}", stolen)
    thief.generation = 2
    for _ in range(data.draw(st.integers(0, 5))):
        script.anything(stolen, without=("fork", "recover"))
    if honest and data.draw(st.booleans()):
        # The thief shows two records of one number to somebody, who writes down the proof.
        mesh.fork("f", stolen, data.draw(st.integers(1, honest[-1][1].sequence)), generation=honest[-1][1].generation)
    found = Roster.fold(mesh.id, data.draw(st.permutations(mesh.records)))
    assert found.members == expected.members
    assert found.secrets == expected.secrets
    assert all_limits(mesh, found) == all_limits(mesh, expected)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_who_is_revoked_stays_out(data: st.DataObject) -> None:
    """Whoever admits it anew, whatever it writes itself, now or earlier, in any generation.

    Unless who revoked it had agreed to be admitted by it or by one below: docs/protocol/membership.md, "What remains".
    """
    mesh = Mesh()
    script = Script(data, mesh, circles=False)
    script.admissions(data.draw(st.integers(1, len(NAMES) - 1)))
    for _ in range(data.draw(st.integers(0, 3))):
        script.anything(data.draw(names), without=("fork",))
    target = data.draw(names)
    may = mesh.roster().may_revoke
    above = [name for name in NAMES if may(mesh[name].key, mesh[target].key)]
    if not above:
        return
    mesh.revoke(data.draw(st.sampled_from(above)), target, script.cuts(target))
    assert mesh.roster().members[mesh[target].key].standing is Standing.REVOKED
    for _ in range(data.draw(st.integers(1, 6))):
        match data.draw(st.sampled_from(["it writes", "it forks itself", "it is admitted"])):
            case "it writes":
                script.anything(target, without=("fork", "recover"))
            case "it forks itself":
                mesh.fork("f", target, data.draw(st.integers(1, 3)), generation=data.draw(st.integers(1, 2)))
            case _:
                mesh.admit(data.draw(names), target)
    assert target not in mesh.active()


def test_a_large_mesh_is_folded_in_a_moment() -> None:
    """1,000 members, 5,000 records. The bound is loose: a fold that is not linear would take minutes."""
    mesh, chance = Mesh(), random.Random(3)
    present = ["f"]
    for number in range(999):
        mesh.admit(chance.choice(present[-40:]), f"n{number}")
        present.append(f"n{number}")
    for number in range(4000):
        author, other = chance.choice(present), chance.choice(present)
        match number % 4:
            case 0:
                mesh.admit(author, other)
            case 1:
                mesh.revoke(author, other)
            case 2:
                mesh.rename(author, f"x{number}")
            case _:
                mesh.distrust(author, other)
    records = mesh.records
    assert len(records) == 5000
    mesh.roster()
    began = time.process_time()
    roster = mesh.roster()
    assert time.process_time() - began < 1
    assert len(roster.members) == 1000


@pytest.mark.parametrize("shape", ["one admits one 3,000 times", "a circle of all", "a chain"])
def test_a_hostile_shape_costs_no_more(shape: str) -> None:
    mesh = Mesh()
    mesh.admit("f", "n0")
    match shape:
        case "one admits one 3,000 times":
            for number in range(3000):
                mesh.write("n0", countersign(mesh["n1"].keys, mesh.id, mesh["n0"].key, f"x{number}"))
        case "a circle of all":
            for number in range(1, 60):
                mesh.admit("n0", f"n{number}")
            for one, other in itertools.permutations(range(1, 60), 2):
                mesh.admit(f"n{one}", f"n{other}")
        case _:
            for number in range(999):
                mesh.admit(f"n{number}", f"n{number + 1}")
    mesh.roster()
    began = time.process_time()
    mesh.roster()
    assert time.process_time() - began < 1
