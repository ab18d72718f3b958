"""Whom a revocation reaches, what it leaves, who is suspended, and that nobody comes back."""

import pytest

from meshd.model.facts import Cut
from meshd.model.record import Head, Log, LogId
from meshd.model.roster import Roster
from tests.model.mesh_kit import Machine, Mesh


@pytest.fixture
def mesh() -> Mesh:
    """f, below it a and b; c below a; d below c."""
    mesh = Mesh()
    mesh.admit("f", "a", "b")
    mesh.admit("a", "c")
    mesh.admit("c", "d")
    return mesh


@pytest.mark.parametrize(
    ("revoker", "target", "counts"),
    [
        ("f", "a", True),
        ("f", "d", True),
        ("a", "d", True),
        ("c", "d", True),
        ("d", "d", True),
        ("f", "f", True),
        ("d", "c", False),
        ("c", "a", False),
        ("a", "b", False),
        ("b", "a", False),
        ("b", "c", False),
        ("a", "f", False),
        ("stranger", "a", False),
    ],
)
def test_who_may_revoke_whom(mesh: Mesh, revoker: str, target: str, counts: bool) -> None:
    assert mesh.roster().may_revoke(mesh[revoker].key, mesh[target].key) is counts
    before = mesh.standings()
    record = mesh.revoke(revoker, target, reason="lost")
    assert (mesh.standings()[target] == "revoked") is counts
    if counts:
        member = mesh.roster().members[mesh[target].key]
        assert (member.revocation, member.revoked_by, member.reason) == (record.hash, mesh[revoker].key, "lost")
    else:
        assert mesh.standings() == before


def test_strangers_and_the_revoked_cannot_be_told_what_they_may_revoke(mesh: Mesh) -> None:
    mesh.revoke("f", "a", keep=["c"])
    roster = mesh.roster()
    assert not roster.may_revoke(mesh["f"].key, mesh["stranger"].key)
    assert not roster.may_revoke(mesh["a"].key, mesh["c"].key)
    assert roster.may_revoke(mesh["f"].key, mesh["a"].key)  # to correct what it wrote


@pytest.mark.parametrize("target", ["f", "a", "d"])
def test_the_recovery_words_revoke_anybody(mesh: Mesh, target: str) -> None:
    assert mesh.roster().may_revoke(mesh.recovery.key, mesh[target].key)
    mesh.recover(mesh.revocation(target))
    assert mesh.standings()[target] == "revoked"


def test_recovery_words_without_a_key_in_the_mesh_have_no_force() -> None:
    mesh = Mesh(recovery="")
    mesh.admit("f", "a")
    mesh.recover(mesh.revocation("a"))
    assert mesh.active() == {"f", "a"}
    assert not mesh.roster().may_revoke(mesh.recovery.key, mesh["a"].key)
    assert not mesh.roster().may_revoke(b"", mesh["a"].key)


def test_each_record_of_the_recovery_words_is_a_generation(mesh: Mesh) -> None:
    mesh.recover(mesh.revocation("d"))
    mesh.recovery.write(mesh.id, mesh.revocation("a"))  # a second record in that generation
    assert mesh.standings()["d"] == "revoked"
    assert mesh.standings()["a"] == "active"


def test_a_founder_whose_own_key_is_the_recovery_key_is_a_founder() -> None:
    """By the rules of the recovery key only the first of its records would count."""
    mesh = Mesh(recovery="f")
    mesh.admit("f", "a", "b")
    mesh.revoke("f", "a")
    assert mesh.standings() == {"f": "active", "a": "revoked", "b": "active"}


def test_children_of_the_revoked_are_suspended_with_all_below(mesh: Mesh) -> None:
    mesh.revoke("f", "a")
    assert mesh.standings() == {"f": "active", "b": "active", "a": "revoked", "c": "suspended", "d": "suspended"}


def test_children_that_the_record_keeps_stay(mesh: Mesh) -> None:
    mesh.revoke("f", "a", keep=["c"])
    assert mesh.active() == {"f", "b", "c", "d"}
    assert mesh.roster().members[mesh["c"].key].parent == mesh["a"].key


def test_only_children_are_kept(mesh: Mesh) -> None:
    mesh.revoke("f", "a", keep=["d", "stranger", "a"])
    assert mesh.active() == {"f", "b"}


def test_a_later_record_of_the_revoker_keeps_one_more(mesh: Mesh) -> None:
    mesh.revoke("f", "a")
    mesh.revoke("f", "a", keep=["c"])
    assert mesh.active() == {"f", "b", "c", "d"}


def test_who_is_suspended_can_be_admitted_anew(mesh: Mesh) -> None:
    mesh.revoke("f", "a")
    mesh.admit("b", "d")  # deeper than its place was: an admission that stands goes before any that hangs
    assert mesh.active() == {"f", "b", "d"}
    mesh.admit("d", "c")  # and now by its own former child
    assert mesh.active() == {"f", "b", "d", "c"}
    assert mesh.roster().members[mesh["c"].key].parent == mesh["d"].key


def test_what_a_suspended_machine_wrote_waits(mesh: Mesh) -> None:
    mesh.revoke("f", "a")
    roster = mesh.roster()
    for log in Log:
        chain = LogId(mesh["c"].key, log, 1)
        assert (roster.limit(chain), roster.accepts(chain)) == (0, None)


def test_a_cut_says_what_still_counts(mesh: Mesh) -> None:
    mesh.admit("a", "e")
    mesh.revoke("f", "a", cuts=[mesh["a"].cut(1), Cut(Log.DATA, 1, 40, bytes(32))], keep=["c", "e"])
    assert mesh.active() == {"f", "b", "c", "d"}  # e came after the cut: it is nothing, not even suspended
    assert "e" not in mesh.standings()
    roster = mesh.roster()
    assert roster.limit(LogId(mesh["a"].key, Log.ROSTER, 1)) == roster.accepts(mesh["a"].chain) == 1
    assert roster.limit(LogId(mesh["a"].key, Log.DATA, 1)) == 40
    for log in Log:
        assert roster.limit(LogId(mesh["a"].key, log, 2)) == roster.accepts(LogId(mesh["a"].key, log, 2)) == 0


def test_of_two_cuts_of_one_chain_in_a_record_the_stricter_counts(mesh: Mesh) -> None:
    mesh.admit("a", "e")
    mesh.revoke("f", "a", cuts=[mesh["a"].cut(1), mesh["a"].cut(2)])
    assert mesh.roster().limit(mesh["a"].chain) == 1


def test_of_several_cuts_the_one_of_the_revoker_nearest_the_founder_counts(mesh: Mesh) -> None:
    mesh.admit("d", "e")
    mesh.admit("d", "g")
    mesh.revoke("d", "d")  # leaves; all it wrote counts
    mesh.revoke("c", "d", cuts=[])
    mesh.revoke("a", "d", cuts=[mesh["d"].cut(1)], keep=["e"])
    assert mesh.roster().members[mesh["d"].key].revoked_by == mesh["a"].key
    assert (mesh.standings()["e"], "g" in mesh.standings()) == ("active", False)
    mesh.recover(mesh.revocation("d", cuts=[mesh["d"].cut(2)]))
    assert mesh.roster().members[mesh["d"].key].revoked_by == mesh.recovery.key
    assert mesh.standings()["g"] == mesh.standings()["e"] == "suspended"


def test_the_branch_that_a_cut_names_is_the_one_that_counts(mesh: Mesh) -> None:
    right = mesh["a"].cut(1)
    mesh.revoke("f", "a", cuts=[Cut(Log.ROSTER, 1, 1, bytes(32))], keep=["c"])
    roster = mesh.roster()
    assert "c" not in mesh.standings()  # what is here is another branch
    assert (roster.limit(mesh["a"].chain), roster.accepts(mesh["a"].chain)) == (0, 1)
    assert roster.pin(mesh["a"].chain) == Head(1, bytes(32))
    mesh.revoke("f", "a", cuts=[right], keep=["c"])
    assert mesh.standings()["c"] == "active"


def test_until_the_cut_is_here_what_is_before_it_counts(mesh: Mesh) -> None:
    mesh.admit("a", "e")
    mesh.revoke("f", "a", cuts=[Cut(Log.ROSTER, 1, 9, bytes(32))], keep=["c", "e"])
    assert mesh.active() >= {"c", "e"}
    assert mesh.roster().accepts(mesh["a"].chain) == 9


def test_leaving_counts_itself_and_nothing_after_it(mesh: Mesh) -> None:
    mesh.revoke("a", "a", keep=["c"])
    leaving = mesh["a"].cut()
    mesh.admit("a", "e")
    roster = mesh.roster()
    assert mesh.active() == {"f", "b", "c", "d"}
    assert "e" not in mesh.standings()
    assert roster.limit(mesh["a"].chain) == roster.accepts(mesh["a"].chain) == leaving.sequence
    assert roster.pin(mesh["a"].chain) is None
    assert roster.limit(LogId(mesh["a"].key, Log.ROSTER, 2)) == 0


def test_a_second_word_about_itself_changes_nothing(mesh: Mesh) -> None:
    mesh.revoke("a", "a", keep=["c"])
    before = mesh.roster()
    mesh.revoke("a", "a", keep=[])
    mesh["a"].generation = 2
    mesh.revoke("a", "a", keep=["c", "d"])
    assert mesh.roster() == before


def test_the_founding_record_outlives_its_founder(mesh: Mesh) -> None:
    mesh.recover(mesh.revocation("f", cuts=[]))
    roster = mesh.roster()
    assert mesh.standings() == {"f": "revoked"}
    assert roster.limit(mesh["f"].chain) == 1
    mesh.recover(mesh.revocation("f", cuts=[mesh["f"].cut()], keep=["a"]))
    assert mesh.active() == {"a", "c", "d"}


def test_a_revocation_before_the_admission_holds(mesh: Mesh) -> None:
    mesh.revoke("f", "e", cuts=[])
    mesh.admit("b", "e")
    assert mesh.standings()["e"] == "revoked"


def test_a_revocation_after_the_cut_of_its_author_is_void(mesh: Mesh) -> None:
    cut = mesh["a"].cut()
    mesh.revoke("a", "c")
    mesh.revoke("f", "a", cuts=[cut], keep=["c"])
    assert mesh.active() == {"f", "b", "c", "d"}


def test_a_revocation_before_the_cut_of_its_author_holds(mesh: Mesh) -> None:
    mesh.revoke("a", "c", keep=["d"])
    mesh.revoke("f", "a", keep=["c"])
    assert mesh.standings() == {"f": "active", "b": "active", "a": "revoked", "c": "revoked", "d": "active"}


def test_a_revocation_by_one_that_is_suspended_holds(mesh: Mesh) -> None:
    mesh.revoke("c", "d")
    mesh.revoke("f", "a")
    mesh.admit("b", "d")
    assert mesh.standings()["d"] == "revoked"


def test_mutual_revocations(mesh: Mesh) -> None:
    cut = mesh["c"].cut()
    mesh.revoke("c", "a")
    mesh.revoke("a", "c", cuts=[cut], keep=["d"])
    assert mesh.active() == {"f", "a", "b", "d"}


def test_chained_revocations(mesh: Mesh) -> None:
    """c revokes d; a revokes c as of before that; f revokes a as of before that."""
    cut_c, cut_a = mesh["c"].cut(), mesh["a"].cut()
    mesh.revoke("c", "d")
    mesh.revoke("a", "c", cuts=[cut_c], keep=["d"])
    assert mesh.standings()["d"] == "active"
    mesh.revoke("f", "a", cuts=[cut_a], keep=["c"])
    assert mesh.standings() == {"f": "active", "b": "active", "a": "revoked", "c": "active", "d": "revoked"}


BACK = {
    "by whom admitted it before": lambda mesh: mesh.admit("a", "c"),
    "by the founder": lambda mesh: mesh.admit("f", "c"),
    "by another": lambda mesh: mesh.admit("b", "c"),
    "by its own child": lambda mesh: mesh.admit("d", "c"),
    "by one that its child admitted": lambda mesh: (mesh.admit("d", "e"), mesh.admit("e", "c")),
    "by itself": lambda mesh: mesh.admit("c", "c"),
    "by a name": lambda mesh: mesh.rename("c", "phoenix"),
    "by revoking who revoked it": lambda mesh: mesh.revoke("c", "a"),
    "by revoking itself": lambda mesh: mesh.revoke("c", "c", keep=["d"]),
    "by a word of its child": lambda mesh: mesh.revoke("d", "a"),
    "by forking itself": lambda mesh: mesh.fork("b", "c", 1),
    "in another generation": lambda mesh: (setattr(mesh["c"], "generation", 2), mesh.rename("c", "x")),
    "by its child, in another generation": lambda mesh: (setattr(mesh["d"], "generation", 2), mesh.admit("d", "c")),
}


@pytest.mark.parametrize("way", BACK, ids=str)
@pytest.mark.parametrize("revoker", ["a", "c", "f", "recovery words"])
@pytest.mark.parametrize("first", [False, True])
def test_nobody_comes_back(mesh: Mesh, way: str, revoker: str, first: bool) -> None:
    """Whatever is written after the revocation, or was before it."""

    def revoke() -> None:
        revocation = mesh.revocation("c", keep=["d"])
        if revoker == "recovery words":
            mesh.recover(revocation)
        else:
            mesh.write(revoker, revocation)

    if first:
        revoke()
    BACK[way](mesh)
    if not first:
        revoke()
    assert mesh.standings()["c"] == "revoked"
    roster: Roster = mesh.roster()
    assert mesh["c"].key not in {member.signing_key for member in roster.active()}


def test_a_revoked_noise_key_serves_no_other_machine(mesh: Mesh) -> None:
    old = mesh["c"].keys
    mesh.revoke("a", "c", keep=["d"])
    again = Machine("c again")
    again.keys = type(old)(again.keys.signing_private, old.noise_private)
    mesh.machines["c again"] = again
    mesh.admit("d", "c again")
    assert "c again" not in mesh.standings()
    assert len(mesh.roster().clashes) == 1


@pytest.mark.parametrize("name", ["x", "y", "z", "laptop"])
def test_a_second_way_in_that_was_there_all_along_does_not_help(mesh: Mesh, name: str) -> None:
    """Whichever of the two admissions has the lower hash, and so is the one that counts."""
    mesh.admit("a", name)
    mesh.admit("b", name)
    mesh.revoke("a", name)
    assert mesh.standings()[name] == "revoked"


def test_who_admitted_a_machine_may_revoke_it_though_another_is_its_parent(mesh: Mesh) -> None:
    mesh.admit("c", "e")
    mesh.admit("f", "e")
    e = mesh["e"].key
    assert mesh.roster().members[e].parent == mesh["f"].key
    assert mesh.roster().may_revoke(mesh["c"].key, e)
    mesh.revoke("c", "e")
    assert mesh.standings()["e"] == "revoked"


def test_a_circle_of_consent_comes_to_one_end_whoever_dropped_what(mesh: Mesh) -> None:
    """a admitted and revoked x, and agreed to be admitted by what is below x: who heard which first must not matter."""
    mesh.admit("f", "x")
    mesh.admit("a", "x")
    mesh.revoke("a", "x", cuts=[])
    mesh.admit("x", "y")
    without = mesh.roster()
    mesh.admit("y", "a")
    chain = mesh["y"].chain
    stored = without.accepts(chain)
    assert without.members[mesh["x"].key].revoked_by == mesh["a"].key
    assert stored is None and without.limit(chain) == 0  # voided by the patient walk alone: kept, since it may matter
