"""Introductions and welcomes: which records let a machine in, and which rosters a newcomer believes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import RemoteProtocolError
from meshd.model.facts import Rename
from meshd.model.identity import Keys
from meshd.model.record import Log, Record, write_record
from meshd.protocol.introduction import introduced
from meshd.protocol.joining import Offered
from meshd.protocol.welcome import check_roll
from tests.protocol.back_to_back import fixed_bytes
from tests.protocol.joining_kit import Mesh
from tests.protocol.session_kit import ALICE, BOB, CAROL, keys

DAVE, EVE = keys("dave"), keys("eve")


def path(mesh: Mesh, *steps: tuple[Keys, Keys]) -> list[bytes]:
    return [mesh.admit(parent, child).encode() for parent, child in steps]


def who(mesh: Mesh, newcomer: Keys, records: list[bytes]) -> object:
    me = newcomer.identity
    return introduced(mesh.roster(), me.noise_key, me.signing_key, records)


def known_and_news(*news: tuple[Keys, Keys]) -> tuple[Mesh, list[bytes]]:
    """A mesh of Alice and Bob as we know it, and admissions that we have not heard of."""
    mesh = Mesh()
    mesh.admit(ALICE, BOB)
    held = list(mesh.records)
    records = [mesh.records[1].encode(), *path(mesh, *news)]
    mesh.records[:] = held
    return mesh, records


def test_a_machine_that_an_active_member_admitted() -> None:
    mesh, records = known_and_news((BOB, CAROL))
    assert who(mesh, CAROL, records) == CAROL.identity
    assert who(mesh, CAROL, records[1:]) == CAROL.identity


def test_a_path_of_several_that_are_new_here() -> None:
    mesh, records = known_and_news((BOB, CAROL), (CAROL, DAVE), (DAVE, EVE))
    assert who(mesh, EVE, records) == EVE.identity
    assert who(mesh, EVE, records[2:]) is None
    assert who(mesh, DAVE, records) is None
    assert who(mesh, EVE, [records[0], records[2], records[1], records[3]]) is None
    assert who(mesh, EVE, []) is None


def test_what_a_revoked_machine_admits_does_not_come_in() -> None:
    mesh, records = known_and_news((BOB, CAROL), (CAROL, DAVE))
    mesh.revoke(ALICE, BOB)
    assert who(mesh, CAROL, records) is None
    assert who(mesh, DAVE, records) is None


def test_a_revoked_machine_does_not_come_back_by_an_introduction() -> None:
    mesh, records = known_and_news()
    mesh.revoke(ALICE, BOB)
    assert who(mesh, BOB, records) is None
    again = mesh.admit(ALICE, BOB)
    mesh.records.remove(again)
    assert who(mesh, BOB, [again.encode()]) is None


def test_a_noise_key_belongs_to_one_machine() -> None:
    thief = Keys(fixed_bytes("thief"), BOB.noise_private)
    mesh, records = known_and_news((ALICE, thief))
    assert who(mesh, thief, records) is None
    twice = Keys(fixed_bytes("twice"), CAROL.noise_private)
    mesh, records = known_and_news((BOB, CAROL), (CAROL, twice))
    assert who(mesh, twice, records) is None


def test_the_keys_are_those_of_the_session() -> None:
    mesh, records = known_and_news((BOB, CAROL))
    roster, me = mesh.roster(), CAROL.identity
    assert introduced(roster, DAVE.identity.noise_key, me.signing_key, records) is None
    assert introduced(roster, me.noise_key, DAVE.identity.signing_key, records) is None


def test_records_of_another_mesh_or_kind_prove_nothing() -> None:
    mesh, _ = known_and_news()
    other = Mesh(nonce="another")
    assert who(mesh, CAROL, path(other, (ALICE, CAROL))) is None
    rename = mesh.write(BOB, Rename("carol")).encode()
    assert who(mesh, CAROL, [rename]) is None
    admission = mesh.admit(BOB, CAROL)
    mesh.records.remove(admission)
    elsewhere = write_record(
        BOB,
        mesh=mesh.id,
        log=Log.DATA,
        generation=1,
        previous=None,
        clock=0,
        kind="roster.admit",
        body=admission.body or b"",
    )
    assert who(mesh, CAROL, [elsewhere.encode()]) is None
    assert who(mesh, CAROL, [admission.without_body().encode()]) is None
    assert who(mesh, CAROL, [admission.encode()]) == CAROL.identity


def test_a_signature_that_is_not_the_members_proves_nothing() -> None:
    mesh, records = known_and_news((BOB, CAROL))
    true = Record.decode(records[1])
    forged = Record(true.header, true.header_bytes, bytes(64), true.body)
    assert who(mesh, CAROL, [forged.encode()]) is None
    unasked = write_record(
        BOB,
        mesh=mesh.id,
        log=Log.ROSTER,
        generation=1,
        previous=None,
        clock=0,
        kind="roster.admit",
        body=(true.body or b"").replace(b"newcomer", b"somebody"),
    )
    assert who(mesh, CAROL, [unasked.encode()]) is None


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_junk_introduces_nobody(records: list[bytes]) -> None:
    assert who(Mesh(), CAROL, records) is None


@given(st.data())
def test_no_changed_bit_introduces(data: st.DataObject) -> None:
    mesh, records = known_and_news((BOB, CAROL))
    changed = bytearray(records[1])
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert who(mesh, CAROL, [bytes(changed)]) is None


# What a newcomer believes


def offered(of: Mesh, **changes: object) -> Offered:
    values = {"mesh": of.id, "mesh_name": of.name, "admitter": ALICE.identity, "name": "bob"}
    return Offered(**(values | changes))


def joined() -> Mesh:
    mesh = Mesh()
    mesh.admit(ALICE, BOB, "bob")
    return mesh


def test_a_roster_with_both_in_it() -> None:
    mesh = joined()
    roll = check_roll(offered(mesh), BOB.identity, mesh.encoded)
    assert roll.records == tuple(mesh.records)
    assert roll.roster.members[BOB.identity.signing_key].is_active


def test_records_of_unknown_types_and_broken_bodies_are_kept_and_not_folded() -> None:
    mesh = joined()
    for kind, body in (("roster.later", b"\x00"), ("roster.name", b"\xc1")):
        record = write_record(
            CAROL, mesh=mesh.id, log=Log.ROSTER, generation=1, previous=None, clock=0, kind=kind, body=body
        )
        mesh.records.append(record)
    roll = check_roll(offered(mesh), BOB.identity, mesh.encoded)
    assert len(roll.records) == 4 and set(roll.roster.members) == {ALICE.identity.signing_key, BOB.identity.signing_key}


def wrong_rosters() -> dict[str, tuple[Offered, list[bytes]]]:
    mesh, other = joined(), Mesh(nonce="another")
    value = write_record(
        ALICE, mesh=mesh.id, log=Log.DATA, generation=1, previous=None, clock=0, kind="handle.value", body=b""
    )
    forged = Record(mesh.records[1].header, mesh.records[1].header_bytes, bytes(64), mesh.records[1].body)
    revoked = joined()
    revoked.revoke(ALICE, BOB)
    gone = joined()
    gone.revoke(ALICE, ALICE)
    return {
        "nothing": (offered(mesh), []),
        "without the founding record": (offered(mesh), mesh.encoded[1:]),
        "without us": (offered(mesh), mesh.encoded[:1]),
        "another mesh id": (offered(mesh, mesh=other.id), mesh.encoded),
        "another mesh's records": (offered(mesh), other.encoded),
        "both meshes": (offered(mesh), mesh.encoded + other.encoded),
        "another name": (offered(mesh, mesh_name="work"), mesh.encoded),
        "another admitter": (offered(mesh, admitter=CAROL.identity), mesh.encoded),
        "data": (offered(mesh), [*mesh.encoded, value.encode()]),
        "a forged record": (offered(mesh), [mesh.encoded[0], forged.encode()]),
        "no record": (offered(mesh), [*mesh.encoded, b"x"]),
        "ourselves revoked": (offered(revoked), revoked.encoded),
        "the admitter revoked": (offered(gone), gone.encoded),
    }


WRONG = wrong_rosters()


@pytest.mark.parametrize("name", WRONG)
def test_a_roster_that_is_not_right_is_not_believed(name: str) -> None:
    offer, records = WRONG[name]
    with pytest.raises(RemoteProtocolError):
        check_roll(offer, BOB.identity, records)
