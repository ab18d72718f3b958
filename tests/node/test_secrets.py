"""Mesh secrets as this machine holds them, and who is to make the next."""

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from meshd.model.facts import COUNTER_LIMIT, Sealed, Secret
from meshd.model.record import NO_HASH
from meshd.node import renewal, secrets
from meshd.node.renewal import Notes, answers_for, is_incomplete, is_outdated
from meshd.node.secrets import HeldSecret
from meshd.store.database import Database
from tests.model.mesh_kit import Mesh


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "mesh.db") as found:
        yield found


@pytest.fixture
def mesh() -> Mesh:
    """f, the founder, let in a and b; a let in aa."""
    made = Mesh()
    made.admit("f", "a", "b")
    made.admit("a", "aa")
    return made


def entropy(size: int) -> bytes:
    return b"\x07" * size


def held(number: int, record: bytes | None = None) -> HeldSecret:
    return HeldSecret(record or bytes([number]) * 32, number, bytes([number]) * 32)


def renew(mesh: Mesh, author: str) -> bytes:
    """What a machine that holds everything would write."""
    machine = mesh[author]
    place = len(machine.written) + 1
    return mesh.write(author, secrets.replacement(machine.keys, mesh.roster(), [], entropy, 1, place)).hash


def knows(mesh: Mesh, *records: bytes) -> set[str]:
    return {name for name in mesh.machines if set(records) <= {each.record for each in opened(mesh, name)}}


def opened(mesh: Mesh, name: str) -> list[HeldSecret]:
    return secrets.unsealed(mesh[name].keys, mesh.roster(), [])


def due(mesh: Mesh, notes: Notes | None = None) -> set[str]:
    roster = mesh.roster()
    return {name for name, each in mesh.machines.items() if is_outdated(each.key, roster, notes or Notes())}


def helping(mesh: Mesh, **given: bytes) -> set[str]:
    roster = mesh.roster()
    notes = Notes(given={mesh[name].key: frozenset([record]) for name, record in given.items()})
    return {name for name, each in mesh.machines.items() if is_incomplete(each.key, roster, notes)}


def test_what_is_kept_comes_back_newest_first_and_what_is_not_is_gone(database: Database) -> None:
    database.commit([lambda database: secrets.keep(database, [held(2), held(3), held(1, NO_HASH)])])
    assert [each.number for each in database.look(secrets.held)] == [3, 2, 1]
    database.commit([lambda database: secrets.keep_only(database, [held(3), held(4)])])
    assert database.look(secrets.held) == [held(4), held(3)]
    assert "secret=" not in repr(held(3)), "it is in no log"


def test_notes_come_back(database: Database) -> None:
    def note(database: Database) -> None:
        renewal.note_answered(database, [b"r" * 32])
        renewal.note_given(database, b"k" * 32, [b"1" * 32, b"2" * 32])
        renewal.note_given(database, b"e" * 32, [])

    database.commit([note])
    found = database.look(renewal.load_notes)
    assert found.answered == {b"r" * 32}
    assert found.given == {b"k" * 32: {b"1" * 32, b"2" * 32}, b"e" * 32: frozenset()}
    assert not database.look(secrets.held), "notes are no secrets"


def test_a_new_secret_reaches_all_who_are_active_and_nobody_else(mesh: Mesh) -> None:
    mesh.admit("f", "out")
    mesh.revoke("f", "out")
    record = renew(mesh, "a")
    assert knows(mesh, record) == {"f", "a", "aa", "b"}
    (one,) = {each.secret for name in "fab" for each in opened(mesh, name)}
    assert one == entropy(32)
    assert secrets.unsealed(mesh["f"].keys, mesh.roster(), opened(mesh, "f")) == [], "what is held is not opened again"


def test_a_new_secret_replaces_all_that_its_author_knew(mesh: Mesh) -> None:
    first = renew(mesh, "f")
    second = renew(mesh, "b")
    assert [each.hash for each in mesh.roster().secrets] == [second] != [first]
    assert [each.number for each in mesh.roster().secrets] == [3]


def test_concurrent_secrets_are_both_current_until_the_next(mesh: Mesh) -> None:
    fact_a, fact_b = (
        secrets.replacement(mesh[name].keys, mesh.roster(), [], entropy, 1, len(mesh[name].written) + 1)
        for name in "ab"
    )
    records = {mesh.write("a", fact_a).hash, mesh.write("b", fact_b).hash}
    assert {each.hash for each in mesh.roster().secrets} == records
    assert knows(mesh, *records) == {"f", "a", "aa", "b"}
    assert {each.record for each in secrets.in_use(mesh.roster(), opened(mesh, "f"))} == records
    last = renew(mesh, "f")
    assert [each.hash for each in mesh.roster().secrets] == [last]


def test_a_box_made_for_another_place_opens_nothing_and_harms_nothing(mesh: Mesh) -> None:
    wrong = secrets.replacement(mesh["a"].keys, mesh.roster(), [], entropy, 1, 99)
    mesh.write("a", wrong)
    assert opened(mesh, "f") == []
    mesh.write("b", Secret(number=9, replaces=(), sealed=(Sealed(mesh["f"].key, b"junk"),)))
    assert opened(mesh, "f") == []


def test_a_number_at_its_end_stops_nobody(mesh: Mesh) -> None:
    mesh.secret("b", COUNTER_LIMIT)
    assert renew(mesh, "f") in {each.hash for each in mesh.roster().secrets}


def test_of_one_author_only_the_last_current_secret_is_taken(mesh: Mesh) -> None:
    for _ in range(3):  # none names the one before, as an honest author's would
        place = len(mesh["b"].written) + 1
        fact = secrets.replacement(mesh["b"].keys, mesh.roster(), [], entropy, 1, place)
        last = mesh.write("b", attrs.evolve(fact, replaces=())).hash
    assert len(mesh.roster().secrets) == 3
    assert [each.record for each in opened(mesh, "f")] == [last]


def test_a_newcomer_is_given_what_is_current_or_the_best_there_is(mesh: Mesh) -> None:
    founders = HeldSecret(NO_HASH, 1, b"f" * 32)
    assert secrets.in_use(mesh.roster(), [founders]) == [founders]
    record = renew(mesh, "b")
    assert [each.record for each in secrets.in_use(mesh.roster(), [*opened(mesh, "f"), founders])] == [record]
    assert secrets.in_use(mesh.roster(), [founders]) == [founders], "who lacks the current one has only that"


def test_what_is_replaced_is_kept_within_bounds(mesh: Mesh) -> None:
    record = renew(mesh, "b")
    now = held(2, record)
    kept = secrets.worth_keeping(mesh.roster(), [now, *(held(number % 250 + 3) for number in range(250))])
    assert len(kept) == secrets.PAST_KEPT + 1 and now in kept
    assert secrets.worth_keeping(mesh.roster(), [*kept, *kept]) == kept


def test_who_revokes_answers_for_it_and_only_once(mesh: Mesh) -> None:
    assert due(mesh) == set()
    mesh.revoke("a", "aa")
    assert due(mesh) == {"a"}
    answered = renewal.revocations(mesh.roster())
    renew(mesh, "a")
    assert due(mesh) == {"a"}, "that it made one after all revocations is not in the records"
    assert due(mesh, Notes(answered=answered)) == set()


def test_who_leaves_is_answered_by_its_parent_or_who_is_above(mesh: Mesh) -> None:
    mesh.revoke("aa", "aa")
    assert due(mesh) == {"a"}
    mesh.revoke("a", "a")
    assert due(mesh) == {"f"}, "both are for who is left above them"


def test_when_the_founder_leaves_one_of_the_others_answers(mesh: Mesh) -> None:
    mesh.revoke("f", "f", keep=["a", "b"])
    assert len(due(mesh)) == 1 and due(mesh) < {"a", "b"}


def test_nobody_answers_where_nobody_is_left() -> None:
    mesh = Mesh()
    mesh.revoke("f", "f")
    assert due(mesh) == set()
    assert answers_for(mesh.roster(), mesh.roster().members[mesh["f"].key]) is None


def test_a_revocation_by_the_recovery_words_is_answered_by_the_nearest_above(mesh: Mesh) -> None:
    mesh.recover(mesh.revocation("aa"))
    assert due(mesh) == {"a"}


def test_a_secret_that_an_outcast_can_read_is_replaced_whatever_was_answered(mesh: Mesh) -> None:
    fact = secrets.replacement(mesh["b"].keys, mesh.roster(), [], entropy, 1, 1)
    mesh.revoke("a", "aa")
    answered = Notes(answered=renewal.revocations(mesh.roster()))
    renew(mesh, "a")
    mesh.write("b", fact)
    assert due(mesh, answered) == {"a"}
    renew(mesh, "a")
    assert due(mesh, answered) == set()


def test_the_admitter_helps_whom_the_newest_secret_has_not_reached(mesh: Mesh) -> None:
    record = renew(mesh, "f")
    assert helping(mesh) == set()
    mesh.admit("b", "new")
    assert helping(mesh) == {"b"}
    assert helping(mesh, new=record) == set(), "it got that one when it came in"
    renew(mesh, "b")
    assert helping(mesh) == set()


def test_whom_a_revoker_kept_after_all_it_helps(mesh: Mesh) -> None:
    mesh.revoke("f", "a")
    renew(mesh, "f")
    assert helping(mesh) == set(), "aa is suspended"
    mesh.revoke("f", "a", keep=["aa"])
    assert mesh.standings()["aa"] == "active"
    assert helping(mesh) == {"f"}
    assert due(mesh, Notes()) == {"f"}
