"""What this machine alone knows: small facts, addresses, whom it blocks."""

import pytest

from meshd.model.identity import NodeId
from meshd.store.database import Database
from meshd.store.peers import BY_HAND_LIMIT, REMEMBERED_LIMIT, PeerAddress, Source

ANN, BEN = NodeId(bytes(31) + b"a"), NodeId(bytes(31) + b"b")


def test_meta_keeps_the_last_word(database: Database) -> None:
    meta = database.meta
    assert meta.get("secret 1") is None
    meta.set("secret 1", b"\x00one")
    meta.set("secret 2", b"two")
    meta.set("secret 1", b"\xffnew")
    meta.set("secret_", b"an underscore is no wildcard")
    assert meta.get("secret 1") == b"\xffnew"
    assert meta.starting("secret ") == {"secret 1": b"\xffnew", "secret 2": b"two"}
    meta.delete("secret 1")
    assert meta.get("secret 1") is None


def test_an_address_by_hand_is_anybodys_until_it_works(database: Database) -> None:
    peers = database.peers
    assert peers.add_by_hand("host.example", 4000, now_ms=1)
    assert not peers.add_by_hand("host.example", 4000, now_ms=2)
    assert peers.all() == [
        PeerAddress(node=None, host="host.example", port=4000, kind=Source.BY_HAND, added_ms=1),
    ]
    peers.worked(ANN, "host.example", 4000, now_ms=5)
    by_hand = [each for each in peers.of(ANN) if each.kind is Source.BY_HAND]
    assert by_hand == [
        PeerAddress(node=ANN, host="host.example", port=4000, kind=Source.BY_HAND, added_ms=1, last_ok_ms=5)
    ]


def test_an_address_by_hand_of_one_member_is_not_given_to_another(database: Database) -> None:
    peers = database.peers
    peers.add_by_hand("10.0.0.1", 4000, node=ANN, now_ms=1)
    peers.worked(BEN, "10.0.0.1", 4000, now_ms=5)
    assert [each.kind for each in peers.of(ANN)] == [Source.BY_HAND]
    assert [each.kind for each in peers.of(BEN)] == [Source.REMEMBERED]


def test_removing_by_hand_leaves_what_was_learnt(database: Database) -> None:
    peers = database.peers
    peers.add_by_hand("10.0.0.1", 4000, now_ms=1)
    peers.learnt(ANN, [("10.0.0.1", 4000)], now_ms=1)
    assert peers.remove_by_hand("10.0.0.1", 4000)
    assert not peers.remove_by_hand("10.0.0.1", 4000)
    assert [each.kind for each in peers.all()] == [Source.LEARNT]


def test_only_the_last_that_worked_are_remembered(database: Database) -> None:
    for port in range(1, REMEMBERED_LIMIT + 4):
        database.peers.worked(ANN, "10.0.0.1", port, now_ms=port)
    database.peers.worked(ANN, "10.0.0.1", 4, now_ms=100)
    ports = [each.port for each in database.peers.of(ANN)]
    assert len(ports) == REMEMBERED_LIMIT
    assert ports[0] == 4 and ports[1:] == sorted(ports[1:], reverse=True)


def test_what_a_member_says_replaces_what_it_said(database: Database) -> None:
    peers = database.peers
    peers.learnt(ANN, [("10.0.0.1", 1), ("10.0.0.2", 2), ("10.0.0.2", 2)], now_ms=1)
    peers.learnt(BEN, [("10.0.0.9", 9)], now_ms=1)
    peers.worked(ANN, "10.0.0.2", 2, now_ms=5)
    peers.learnt(ANN, [("10.0.0.2", 2), ("10.0.0.3", 3)], now_ms=9)
    learnt = {each.port: (each.added_ms, each.last_ok_ms) for each in peers.of(ANN) if each.kind is Source.LEARNT}
    assert learnt == {2: (1, 5), 3: (9, None)}
    assert [each.port for each in peers.of(BEN)] == [9]


def test_a_person_gives_a_bounded_number(database: Database) -> None:
    for port in range(1, BY_HAND_LIMIT + 1):
        assert database.peers.add_by_hand("10.0.0.1", port, now_ms=1)
    assert not database.peers.add_by_hand("10.0.0.2", 1, now_ms=1)


def test_a_member_that_is_out_leaves_only_what_was_given_by_hand(database: Database) -> None:
    peers = database.peers
    peers.add_by_hand("10.0.0.1", 1, node=ANN, now_ms=1)
    peers.learnt(ANN, [("10.0.0.2", 2)], now_ms=1)
    peers.worked(ANN, "10.0.0.3", 3, now_ms=1)
    peers.forget(ANN)
    assert [(each.node, each.port) for each in peers.all()] == [(None, 1)]


@pytest.mark.parametrize("reason", ["", "lent to a stranger"])
def test_blocking_is_for_one_and_can_be_taken_back(database: Database, reason: str) -> None:
    peers = database.peers
    peers.block(ANN, reason=reason, now_ms=7)
    assert {node: (each.since_ms, each.reason) for node, each in peers.blocked().items()} == {ANN: (7, reason)}
    peers.block(ANN, reason="again", now_ms=9)
    assert peers.blocked()[ANN].since_ms == 7
    assert peers.unblock(ANN) and not peers.unblock(ANN)
    assert peers.blocked() == {}
