"""Who belongs to a mesh, and what else a roster answers. Revocations: test_roster_revocation.py."""

import attrs
import pytest

from meshd.model.facts import Admit, Found, Rename, countersign
from meshd.model.identity import Identity, node_id, node_text
from meshd.model.record import Log, LogId, Record
from meshd.model.roster import Roster, RosterRecord, Standing
from tests.model.mesh_kit import Mesh, keys_of


@pytest.fixture
def mesh() -> Mesh:
    """f, below it a and b; c below a; d below c."""
    mesh = Mesh()
    mesh.admit("f", "a", "b")
    mesh.admit("a", "c")
    mesh.admit("c", "d")
    return mesh


def test_the_founder_is_the_first_member() -> None:
    mesh = Mesh()
    roster = mesh.roster()
    founder = roster.members[mesh["f"].key]
    assert roster.active() == [founder]
    assert (founder.name, founder.parent, founder.depth, founder.admission) == ("f", None, 0, mesh.id)
    assert (roster.mesh_name, roster.recovery_key) == ("lab", mesh.recovery.key)
    assert founder.identity == mesh["f"].keys.identity
    assert roster.introduction(founder.signing_key) == []


def test_whom_a_member_admits_is_its_child(mesh: Mesh) -> None:
    roster = mesh.roster()
    assert mesh.active() == {"f", "a", "b", "c", "d"}
    c = roster.members[mesh["c"].key]
    assert (c.parent, c.depth) == (mesh["a"].key, 2)
    assert {child.name for child in roster.children(mesh["f"].key)} == {"a", "b"}
    assert [below.name for below in roster.subtree(mesh["a"].key)] == ["c", "d"]
    assert roster.subtree(mesh["d"].key) == []


def test_members_come_from_the_founder_outward(mesh: Mesh) -> None:
    depths = [member.depth for member in mesh.roster().members.values()]
    assert depths == sorted(depths) == [0, 1, 1, 2, 3]


def test_an_introduction_is_the_way_from_the_founder(mesh: Mesh) -> None:
    roster = mesh.roster()
    way = [roster.members[mesh[name].key].admission for name in "acd"]
    assert roster.introduction(mesh["d"].key) == way
    assert roster.introduction(mesh["stranger"].key) == []


def test_without_the_founding_record_nobody_is_a_member(mesh: Mesh) -> None:
    roster = mesh.roster(record for record in mesh.records if record.hash != mesh.id)
    assert roster == Roster(mesh=mesh.id)
    assert roster.limit(mesh["f"].chain) == roster.accepts(mesh["f"].chain) == 0
    assert roster.pin(mesh["f"].chain) is None
    assert not roster.may_revoke(mesh["f"].key, mesh["a"].key)


def test_another_record_with_the_mesh_id_founds_nothing(mesh: Mesh) -> None:
    liar = RosterRecord(mesh.id, mesh["a"].key, 1, 1, Rename("x"))
    assert not mesh.roster([liar]).members


@pytest.mark.parametrize("change", [{"name": "../f"}, {"name": ""}, {"noise_key": bytes(32)}, {"binding": bytes(64)}])
def test_a_founding_record_that_is_not_sound_founds_nothing(mesh: Mesh, change) -> None:
    record = mesh["f"].written[0][1]
    assert isinstance(record.fact, Found)
    broken = attrs.evolve(record, fact=attrs.evolve(record.fact, **change))
    assert not mesh.roster([broken, *mesh.records[1:]]).members


def test_a_second_founding_record_founds_nothing_here(mesh: Mesh) -> None:
    other = Mesh(recovery="")
    assert other.id != mesh.id
    assert mesh.roster([*mesh.records, *other.records]) == mesh.roster()


def test_an_admission_by_a_stranger_admits_nobody(mesh: Mesh) -> None:
    before = mesh.roster()
    mesh.admit("stranger", "e")
    mesh.admit("e", "stranger")
    assert mesh.roster() == before


def test_nobody_is_admitted_unasked(mesh: Mesh) -> None:
    consent = countersign(mesh["e"].keys, mesh.id, mesh["a"].key, "e")
    mesh.write("b", consent)  # e agreed to be admitted by a, not by b
    mesh.write("a", attrs.evolve(consent, name="other"))
    mesh.write("a", attrs.evolve(consent, noise_key=bytes(32)))
    mesh.write("a", attrs.evolve(consent, countersignature=bytes(64)))
    mesh.write("a", countersign(mesh["e"].keys, bytes(32), mesh["a"].key, "e"))  # to another mesh
    assert "e" not in mesh.standings()
    mesh.write("a", consent)
    assert mesh.standings()["e"] == "active"


@pytest.mark.parametrize("name", ["", "-a", "a b", "é", "a/b", "x\n"])
def test_a_name_that_is_none_is_refused(mesh: Mesh, name: str) -> None:
    mesh.write("a", countersign(mesh["e"].keys, mesh.id, mesh["a"].key, name))
    assert "e" not in mesh.standings()


def test_nobody_admits_itself_the_founder_or_the_recovery_words(mesh: Mesh) -> None:
    before = mesh.roster()
    mesh.admit("a", "a", "f")
    mesh.write("a", countersign(mesh.recovery.keys, mesh.id, mesh["a"].key, "words"))
    assert mesh.roster() == before


def test_the_admission_nearest_the_founder_counts(mesh: Mesh) -> None:
    deep = mesh.admit("c", "e")
    assert mesh.roster().members[mesh["e"].key].admission == deep.hash
    near = mesh.admit("b", "e")
    e = mesh.roster().members[mesh["e"].key]
    assert (e.admission, e.parent, e.depth) == (near.hash, mesh["b"].key, 2)


def test_of_two_admissions_as_near_the_lower_hash_counts(mesh: Mesh) -> None:
    hashes = [mesh.admit("a", "e").hash, mesh.admit("b", "e").hash]
    assert mesh.roster().members[mesh["e"].key].admission == min(hashes)


def test_two_who_admit_each_other_are_where_the_others_put_them(mesh: Mesh) -> None:
    mesh.admit("d", "a")
    mesh.admit("c", "a")
    a = mesh.roster().members[mesh["a"].key]
    assert (a.parent, a.depth) == (mesh["f"].key, 1)


def test_a_circle_that_nobody_admitted_is_outside(mesh: Mesh) -> None:
    mesh.admit("e", "g")
    mesh.admit("g", "e")
    assert mesh.active() == {"f", "a", "b", "c", "d"}


def test_a_noise_key_belongs_to_one_machine(mesh: Mesh) -> None:
    thief = keys_of("e")
    stolen = mesh["a"].keys.noise_private
    both = type(thief)(thief.signing_private, stolen)
    refused = mesh.write("c", countersign(both, mesh.id, mesh["c"].key, "e"))
    roster = mesh.roster()
    assert mesh.active() == {"f", "a", "b", "c", "d"}
    assert roster.by_noise(mesh["a"].keys.identity.noise_key) == roster.members[mesh["a"].key]
    (clash,) = roster.clashes
    assert (clash.admission, clash.admitter, clash.newcomer, clash.holder) == (
        refused.hash,
        mesh["c"].key,
        mesh["e"].key,
        mesh["a"].key,
    )


def test_who_was_refused_for_one_noise_key_may_come_in_with_another(mesh: Mesh) -> None:
    mixed = type(keys_of("e"))(keys_of("e").signing_private, mesh["a"].keys.noise_private)
    mesh.write("a", countersign(mixed, mesh.id, mesh["a"].key, "e"))
    mesh.admit("c", "e")
    e = mesh.roster().members[mesh["e"].key]
    assert (e.identity, e.parent) == (mesh["e"].keys.identity, mesh["c"].key)


def test_a_machine_is_called_what_it_called_itself_last(mesh: Mesh) -> None:
    mesh.rename("a", "first")
    mesh.rename("a", "Second")
    mesh.rename("a", "not a name")
    mesh.write("stranger", Rename("x"))
    assert mesh.roster().members[mesh["a"].key].name == "Second"
    mesh["a"].generation = 2
    mesh.rename("a", "third")
    assert mesh.roster().members[mesh["a"].key].name == "third"


def test_finding_members(mesh: Mesh) -> None:
    roster = mesh.roster()
    a = roster.members[mesh["a"].key]
    identity = mesh["a"].keys.identity
    assert roster.by_node(node_id(identity.signing_key)) == roster.by_noise(identity.noise_key) == a
    assert roster.by_node(node_id(bytes(32))) is roster.by_noise(bytes(32)) is None
    assert roster.named("A") == [a]
    assert roster.named(node_text(a.node)[:4].upper()) == roster.named(node_text(a.node)) == [a]
    assert roster.named(node_text(a.node)[:3]) == roster.named("") == roster.named("nobody") == []


def test_a_name_that_looks_like_an_id_hides_nobody(mesh: Mesh) -> None:
    mesh.rename("b", node_text(mesh["a"].keys.identity.node)[:8])
    meant = mesh.roster().named(node_text(mesh["a"].keys.identity.node)[:8])
    assert {member.signing_key for member in meant} == {mesh["a"].key, mesh["b"].key}


def test_a_revoked_machine_gives_its_name_to_the_one_that_follows(mesh: Mesh) -> None:
    mesh.rename("b", "laptop")
    mesh.revoke("f", "b")
    assert [member.standing for member in mesh.roster().named("laptop")] == [Standing.REVOKED]
    mesh.admit("f", "new b")
    mesh.rename("new b", "laptop")
    assert [member.signing_key for member in mesh.roster().named("laptop")] == [mesh["new b"].key]


def test_distrust_is_heard_and_has_no_force(mesh: Mesh) -> None:
    mesh.distrust("a", "b")
    mesh.distrust("c", "b")
    mesh.distrust("d", "b")
    mesh.distrust("d", "b", lifted=True)
    mesh.distrust("stranger", "b")
    roster = mesh.roster()
    assert roster.distrusted == {mesh["b"].key: tuple(sorted((mesh[name].key, "smells") for name in "ac"))}
    assert roster.members[mesh["b"].key].is_active
    mesh.revoke("f", "a", keep=["c"])
    assert mesh.roster().distrusted == {mesh["b"].key: ((mesh["c"].key, "smells"),)}


def test_secrets_stand_until_another_names_them(mesh: Mesh) -> None:
    assert mesh.roster().secrets == ()
    two, other_two = mesh.secret("a", 2), mesh.secret("b", 2)
    assert {secret.hash for secret in mesh.roster().secrets} == {two.hash, other_two.hash}
    three = mesh.secret("f", 3, [two.hash, other_two.hash])
    (current,) = mesh.roster().secrets
    assert (current.hash, current.number, current.author, current.generation, current.sequence) == (
        three.hash,
        3,
        mesh["f"].key,
        1,
        three.sequence,
    )
    assert (current.box_for(mesh["f"].key), current.box_for(mesh["a"].key)) == (b"box", None)


def test_secrets_of_strangers_and_of_what_a_cut_left_out_replace_nothing(mesh: Mesh) -> None:
    kept = mesh.secret("a", 2)
    cut = mesh["b"].cut() if mesh["b"].written else None
    assert cut is None
    mesh.secret("b", 3, [kept.hash])
    mesh.secret("stranger", 4, [kept.hash])
    mesh.revoke("f", "b", cuts=[])
    assert [secret.hash for secret in mesh.roster().secrets] == [kept.hash]


def test_a_secret_of_a_suspended_machine_waits(mesh: Mesh) -> None:
    mesh.secret("c", 2)
    mesh.revoke("f", "a")
    assert mesh.standings()["c"] == "suspended"
    assert mesh.roster().secrets == ()
    mesh.admit("b", "c")
    assert len(mesh.roster().secrets) == 1


def test_a_secret_by_the_recovery_words_counts(mesh: Mesh) -> None:
    secret = mesh.recover(mesh.new_secret(2))
    assert [each.hash for each in mesh.roster().secrets] == [secret.hash]


def test_limits_of_chains(mesh: Mesh) -> None:
    roster = mesh.roster()
    for log in Log:
        assert roster.limit(LogId(mesh["a"].key, log, 7)) is roster.accepts(LogId(mesh["a"].key, log, 7)) is None
        assert roster.limit(LogId(mesh["stranger"].key, log, 1)) == 0
        assert roster.accepts(LogId(mesh["stranger"].key, log, 1)) == 0
    assert roster.limit(LogId(mesh.recovery.key, Log.ROSTER, 1_700_000_000_000)) == 1
    assert roster.limit(LogId(mesh.recovery.key, Log.DATA, 1_700_000_000_000)) == 0
    assert Mesh(recovery="").roster().limit(LogId(b"", Log.ROSTER, 1)) == 0


def test_a_digest_is_of_who_is_what(mesh: Mesh) -> None:
    before = mesh.roster().digest()
    mesh.distrust("a", "b")
    mesh.secret("a", 2)
    assert mesh.roster().digest() == before
    seen = {before}
    for change in (lambda: mesh.rename("a", "x"), lambda: mesh.admit("a", "e"), lambda: mesh.revoke("a", "e")):
        change()
        seen.add(mesh.roster().digest())
    assert len(seen) == 4


def test_a_fold_over_records_as_they_travel(mesh: Mesh) -> None:
    """The same through bytes: encoded, decoded, verified."""
    arrived = []
    for machine in mesh.machines.values():
        for record, place in machine.written:
            again = Record.decode(record.encode())
            assert again.is_authentic()
            arrived.append(RosterRecord.of(again, place.fact))
    assert mesh.roster(arrived) == mesh.roster()


def test_an_admission_is_who_it_says() -> None:
    keys = keys_of("x")
    admit = countersign(keys, bytes(32), bytes(32), "x")
    assert isinstance(admit, Admit)
    assert admit.identity == keys.identity == Identity(admit.signing_key, admit.noise_key, admit.binding)
