"""Topics that two members make alike and nobody else can, cards, and which servers are asked."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import RemoteProtocolError
from meshd.model.address import Address
from meshd.model.identity import Keys
from meshd.protocol.topics import DAY_MS, OVERLAP_MS, SERVERS_ASKED, Pair, choose_servers, next_change_ms
from meshd.wire.rendezvous import CANDIDATES_LIMIT, CARD_LIMIT, CardBody, Nat, Side
from tests.model.mesh_kit import keys_of

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "rendezvous.json").read_text())
MESH, OTHER_MESH = b"m" * 32, b"o" * 32


def pair(one: Keys, other: Keys, mesh: bytes = MESH) -> Pair:
    return Pair.of(mesh, one.noise_private, one.identity.noise_key, other.identity.noise_key)


ANN, BEN, EVE = keys_of("ann"), keys_of("ben"), keys_of("eve")
CARD = CardBody.of(Nat.ONE_FOR_ALL, [Address(f"2001:db8:1111:2222::{number}", 65_535) for number in range(20)])


def test_it_is_as_published() -> None:
    given = VECTORS["pair"]
    mesh, private, public = (
        bytes.fromhex(given["mesh"]),
        [bytes.fromhex(each) for each in given["private"]],
        [bytes.fromhex(each) for each in given["public"]],
    )
    first = Pair.of(mesh, private[0], public[0], public[1])
    second = Pair.of(mesh, private[1], public[1], public[0])
    assert first.secret == second.secret == bytes.fromhex(given["secret"])
    assert first.side == given["side_of_the_first"] and {first.side, second.side} == set(Side)
    for each in given["topics"]:
        assert first.topic(each["day"]).hex() == each["topic"]
    card = given["card_of_the_first"]
    found = second.unseal(bytes.fromhex(card["card"]), second.topic(card["day"]))
    assert found.addresses() == [Address("192.168.1.5", 64_327), Address("2001:db8::5", 64_327)]
    assert found.nat is Nat.ONE_FOR_EACH and found == CardBody.of(found.nat, found.addresses())
    assert first.seal(found, first.topic(card["day"]), lambda size: bytes.fromhex(card["nonce"])).hex() == card["card"]
    punches = VECTORS["punches"]
    assert first.punch_key(bytes.fromhex(punches["nonce"])).hex() == punches["key"]


def test_both_make_the_same_and_nobody_else_does() -> None:
    assert pair(ANN, BEN).secret == pair(BEN, ANN).secret
    others = {pair(ANN, EVE).secret, pair(BEN, EVE).secret, pair(ANN, BEN, OTHER_MESH).secret}
    assert len({*others, pair(ANN, BEN).secret}) == 4
    assert pair(ANN, BEN).secret.hex() not in repr(pair(ANN, BEN))


@given(st.integers(0, 40_000), st.integers(0, DAY_MS - 1))
def test_clocks_that_differ_by_less_than_an_hour_share_a_topic(day: int, in_day: int) -> None:
    both = pair(ANN, BEN)
    wall = day * DAY_MS + in_day
    topics = both.topics(wall)
    assert topics[0] == both.topic(day) and len(set(topics)) == len(topics) <= 2
    assert len(topics) == 1 or in_day < OVERLAP_MS or in_day >= DAY_MS - OVERLAP_MS or day == 0
    for off in (-OVERLAP_MS + 1, OVERLAP_MS - 1):
        if wall + off >= 0:
            assert set(topics) & set(both.topics(wall + off))
    change = next_change_ms(wall)
    assert wall < change <= wall + DAY_MS
    assert set(both.topics(change - 1)) == set(topics) or in_day == DAY_MS - 1


def test_no_topic_is_of_two_days() -> None:
    both = pair(ANN, BEN)
    assert len({both.topic(day) for day in range(1000)}) == 1000


def test_cards_are_of_one_length_and_open_for_the_other_alone() -> None:
    ann, ben = pair(ANN, BEN), pair(BEN, ANN)
    topic, entropy = ann.topic(1), bytes
    sealed = ann.seal(CARD, topic, entropy)
    assert len(sealed) == len(ann.seal(CardBody(Nat.UNKNOWN, []), topic, entropy)) <= CARD_LIMIT
    assert ben.unseal(sealed, topic) == CARD and len(CARD.addresses()) == CANDIDATES_LIMIT
    for reader, where, what in (
        (ann, topic, sealed),  # our own, given back
        (ben, ann.topic(2), sealed),
        (pair(EVE, ANN), topic, sealed),
        (ben, topic, sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (ben, topic, b""),
        (ben, topic, bytes(CARD_LIMIT)),
    ):
        with pytest.raises(RemoteProtocolError):
            reader.unseal(what, where)


def test_a_key_that_allows_no_secret_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        Pair.of(MESH, ANN.noise_private, ANN.identity.noise_key, bytes(32))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12, unique=True), st.binary(min_size=32, max_size=32))
def test_both_choose_the_same_servers_and_one_that_goes_moves_only_its_own(numbers: list[int], topic: bytes) -> None:
    servers = [f"server{number}.example:4440" for number in numbers]
    chosen = choose_servers(topic, servers)
    assert sorted(chosen) == sorted(servers) and chosen == choose_servers(topic, reversed(servers))
    for gone in servers:
        left = choose_servers(topic, [each for each in servers if each != gone])
        assert left == [each for each in chosen if each != gone]


def test_topics_spread_over_the_servers() -> None:
    servers = [f"server{number}" for number in range(10)]
    both = pair(ANN, BEN)
    asked = [each for day in range(1000) for each in choose_servers(both.topic(day), servers)[:SERVERS_ASKED]]
    assert all(140 < asked.count(each) < 260 for each in servers)
