"""Chains that were given one number twice: what is left of them, and that a fork undoes nothing."""

import attrs
import pytest

from meshd.model.facts import FORK_LIMIT, Fork, Found
from meshd.model.record import HEADER_LIMIT, NO_HASH, SIGNATURE_SIZE, Head, Log, LogId
from meshd.model.roster import Roster, RosterRecord
from tests.model.mesh_kit import Machine, Mesh


@pytest.fixture
def mesh() -> Mesh:
    """f, below it a and b; c, d and e below a, in records 1 to 3 of a."""
    mesh = Mesh()
    mesh.admit("f", "a", "b")
    mesh.admit("a", "c", "d", "e")
    return mesh


def test_a_chain_counts_until_its_fork(mesh: Mesh) -> None:
    mesh.fork("b", "a", 3)
    roster = mesh.roster()
    assert mesh.active() == {"f", "a", "b", "c", "d"}
    assert roster.limit(mesh["a"].chain) == roster.accepts(mesh["a"].chain) == 2
    assert roster.limit(LogId(mesh["a"].key, Log.DATA, 1)) is None
    assert roster.limit(LogId(mesh["a"].key, Log.ROSTER, 2)) is None
    (fork,) = roster.forks
    assert (fork.chain, fork.sequence, fork.carried) == (mesh["a"].chain, 3, True)


def test_the_first_fork_counts(mesh: Mesh) -> None:
    for sequence in (3, 2, 3):
        mesh.fork("b", "a", sequence)
    assert mesh.roster().limit(mesh["a"].chain) == 1


@pytest.mark.parametrize("log", Log)
def test_two_first_records_freeze_that_log_of_their_author(mesh: Mesh, log: Log) -> None:
    mesh.fork("b", "a", 1, log, generation=2)
    roster = mesh.roster()
    for each in Log:
        limits = [roster.limit(LogId(mesh["a"].key, each, generation)) for generation in (1, 2, 3)]
        assert limits == ([None, 0, 0] if each is log else [None, None, None])


def test_a_founder_that_was_restored_before_its_first_value_takes_no_mesh_down(mesh: Mesh) -> None:
    before = mesh.active()
    mesh.fork("b", "f", 1, Log.DATA)
    assert mesh.active() == before


def test_a_fork_of_a_data_log_is_of_that_one(mesh: Mesh) -> None:
    mesh.fork("b", "a", 7, Log.DATA)
    assert mesh.roster().limit(LogId(mesh["a"].key, Log.DATA, 1)) == 6
    assert mesh.roster().limit(mesh["a"].chain) is None


@pytest.mark.parametrize("carrier", ["a", "stranger"])
def test_a_proof_proves_itself_whoever_carries_it(mesh: Mesh, carrier: str) -> None:
    mesh.fork(carrier, "a", 2)
    roster = mesh.roster()
    assert roster.limit(mesh["a"].chain) == 1
    assert [fork.carried for fork in roster.forks] == [False]  # a's own record is behind its fork
    mesh.fork("b", "a", 2)
    assert [fork.carried for fork in mesh.roster().forks] == [True]


def test_a_proof_about_a_stranger_is_none_of_ours(mesh: Mesh) -> None:
    before = mesh.roster()
    mesh.fork("b", "stranger", 1)
    assert mesh.roster() == before


def broken_proofs(mesh: Mesh) -> dict[str, Fork]:
    def loose(body: bytes, **changes) -> bytes:
        values = {"author": "a", "sequence": 2, "log": Log.ROSTER, "generation": 1} | changes
        return mesh.loose(**values, body=body).without_body().encode()

    good = loose(b"1")
    forged = bytearray(loose(b"2"))
    forged[-1] ^= 1
    other_mesh = Mesh(recovery="")
    return {
        "twice the same": Fork(good, good),
        "another number": Fork(good, loose(b"2", sequence=3)),
        "another author": Fork(good, loose(b"2", author="b")),
        "another log": Fork(good, loose(b"2", log=Log.DATA)),
        "another generation": Fork(good, loose(b"2", generation=2)),
        "another mesh": Fork(good, other_mesh.loose("a", 2, Log.ROSTER, 1, b"2").without_body().encode()),
        "a forged signature": Fork(good, bytes(forged)),
        "the forged first": Fork(bytes(forged), good),
        "junk": Fork(good, b"junk"),
        "nothing": Fork(b"", b""),
        "cut short": Fork(good, loose(b"2")[:-1]),
        "too much": Fork(good, loose(b"2") + b"\0"),
    }


@pytest.mark.parametrize("name", broken_proofs(Mesh()))
def test_a_proof_that_does_not_hold_freezes_nothing(mesh: Mesh, name: str) -> None:
    before = mesh.roster()
    mesh.write("b", broken_proofs(mesh)[name])
    assert mesh.roster() == before


def test_a_proof_may_carry_bodies(mesh: Mesh) -> None:
    one, other = (mesh.loose("a", 2, Log.ROSTER, 1, body).encode() for body in (b"1", b"2"))
    mesh.write("b", Fork(one, other[:-1] + b"3"))
    assert mesh.roster().limit(mesh["a"].chain) is None
    mesh.write("b", Fork(one, other))
    assert mesh.roster().limit(mesh["a"].chain) == 1


def test_every_header_fits_into_a_proof() -> None:
    assert 3 + HEADER_LIMIT + SIGNATURE_SIZE <= FORK_LIMIT


def found_again(mesh: Mesh) -> Mesh:
    """The same machine founds a second mesh."""
    second = Mesh(recovery="other words")
    assert second["f"].key == mesh["f"].key and second.id != mesh.id
    return second


def test_a_machine_that_founds_two_meshes_forked_nothing(mesh: Mesh) -> None:
    first, second = mesh["f"].written[0][0], found_again(mesh)["f"].written[0][0]
    before = mesh.roster()
    mesh.write("b", Fork(first.without_body().encode(), second.without_body().encode()))
    assert mesh.roster() == before


def test_a_record_beside_the_founding_one_freezes_the_founder_and_not_the_mesh(mesh: Mesh) -> None:
    beside = mesh.loose("f", 1, Log.ROSTER, 1, b"2").without_body()
    mesh.write("b", Fork(mesh["f"].written[0][0].without_body().encode(), beside.encode()))
    roster = mesh.roster()
    assert roster.limit(mesh["f"].chain) == roster.accepts(mesh["f"].chain) == 1
    assert mesh.active() == {"f"}


def test_two_records_of_one_number_are_a_fork_without_a_proof(mesh: Mesh) -> None:
    double = attrs.evolve(mesh["a"].written[1][1], hash=bytes(32))
    roster = mesh.roster([*mesh.records, double])
    assert roster.limit(mesh["a"].chain) == 1
    assert [(fork.sequence, fork.carried) for fork in roster.forks] == [(2, False)]
    assert roster == mesh.roster([double, *reversed(mesh.records)])


def test_two_records_at_a_cut_are_one_roster_in_any_order(mesh: Mesh) -> None:
    mesh.revoke("f", "a", cuts=[mesh["a"].cut(2)], keep=["c", "d"])
    double = attrs.evolve(mesh["a"].written[1][1], hash=bytes(32))
    one, other = mesh.roster([*mesh.records, double]), mesh.roster([double, *mesh.records])
    assert one == other
    assert one.limit(mesh["a"].chain) == other.limit(mesh["a"].chain) == 1


def test_a_fork_of_the_recovery_words_is_of_one_generation(mesh: Mesh) -> None:
    mesh.recover(mesh.revocation("c"))
    forked = mesh.recovery.generation
    mesh.recover(mesh.revocation("d"))
    one, other = mesh.recovery.written[0][0], mesh.recovery.written[1][0]
    mesh.machines["recovery words"] = mesh.recovery
    mesh.write("b", mesh.proof("recovery words", 1, Log.ROSTER, forked))
    del mesh.machines["recovery words"]
    assert one.header.generation == forked != other.header.generation
    assert mesh.standings()["c"] == "active"
    assert mesh.standings()["d"] == "revoked"


def test_a_fork_does_not_undo_leaving(mesh: Mesh) -> None:
    mesh.revoke("a", "a", keep=["c"])
    mesh.fork("b", "a", 2)
    assert mesh.standings()["a"] == "revoked"
    mesh.fork("b", "a", 1)
    assert mesh.standings() == {"f": "active", "a": "revoked", "b": "active"}


def test_a_fork_after_the_revocation_takes_nothing_that_the_cut_left(mesh: Mesh) -> None:
    """The thief of a's key cannot take a's children with it, not even by forking the first record."""
    mesh.revoke("f", "a", cuts=[mesh["a"].cut()], keep=["c", "d"])
    before = mesh.roster()
    for sequence in (3, 2, 1):
        mesh.fork("b", "a", sequence)
    after = mesh.roster()
    assert attrs.evolve(after, forks=()) == before
    assert after.limit(mesh["a"].chain) == after.accepts(mesh["a"].chain) == 3
    assert after.pin(mesh["a"].chain) == Head(3, mesh["a"].cut().hash)
    assert after.limit(LogId(mesh["a"].key, Log.DATA, 1)) == 0


def test_a_fork_before_a_data_cut_stays_one(mesh: Mesh) -> None:
    cut = attrs.evolve(mesh["a"].cut(), log=Log.DATA, sequence=9)
    mesh.revoke("f", "a", cuts=[cut])
    chain = LogId(mesh["a"].key, Log.DATA, 1)
    assert mesh.roster().limit(chain) == 9
    mesh.fork("b", "a", 4, Log.DATA)
    assert mesh.roster().limit(chain) == mesh.roster().accepts(chain) == 3


def test_a_machine_that_forked_can_be_revoked_and_its_parent_says_which_branch(mesh: Mesh) -> None:
    mesh.fork("b", "a", 1)
    assert mesh.active() == {"f", "a", "b"}
    mesh.revoke("f", "a", cuts=[mesh["a"].cut(2)], keep=["c", "d", "e"])
    assert mesh.active() == {"f", "b", "c", "d"}


def test_the_zeros_of_a_founding_record_are_no_mesh() -> None:
    mesh = Mesh()
    found = mesh["f"].written[0][1].fact
    assert isinstance(found, Found)
    again = Machine("f").write(NO_HASH, attrs.evolve(found, nonce=bytes([1]) * 32))
    assert isinstance(again, RosterRecord) and again.hash != mesh.id
    assert Roster.fold(mesh.id, [*mesh.records, again]) == mesh.roster()
