"""The peer book: what is a hint for whom, in which order, and what it takes to sink."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.model.address import Address
from meshd.model.candidate import Gone, Neighbour
from meshd.model.identity import NodeId
from meshd.protocol.peerbook import (
    BY_HAND_LIMIT,
    HINTS_LIMIT,
    LEARNT_LIMIT,
    NEIGHBOURS_LIMIT,
    OCCUPANTS_LIMIT,
    REMEMBERED_LIMIT,
    Hint,
    Kind,
    PeerBook,
)

ANN, BOB, CID = (NodeId(bytes([number]) * 32) for number in range(3))
MEMBERS = [ANN, BOB]


def at(number: int, port: int = 64_327) -> Address:
    return Address(f"10.0.{number // 250}.{number % 250 + 1}", port)


def announced(name: str, *addresses: Address) -> Neighbour:
    return Neighbour(name, (bytes(8),), addresses)


@pytest.fixture
def book() -> PeerBook:
    return PeerBook()


def test_nobody_is_known_at_first(book: PeerBook) -> None:
    assert book.targets(MEMBERS, []) == [] and book.hints(ANN) == [] and book.entries() == []


def test_all_ways_to_a_member_best_first_and_each_address_once(book: PeerBook) -> None:
    book.learn(ANN, [at(4), at(1)])
    book.remember(ANN, at(3), -10.0)
    book.remember(ANN, at(2), -5.0)
    book.add_by_hand(at(3), ANN)
    book.seen(announced("here", at(1)))
    book.met("here", at(1), ANN)
    assert book.hints(ANN) == [
        Hint(at(1), Kind.LAN),
        Hint(at(3), Kind.BY_HAND),
        Hint(at(2), Kind.REMEMBERED),
        Hint(at(4), Kind.LEARNT),
    ]
    assert book.targets(MEMBERS, []) == [ANN]
    assert book.targets(MEMBERS, [ANN]) == []


def test_an_announcement_is_a_strangers_until_somebody_was_met_there(book: PeerBook) -> None:
    assert book.seen(announced("here", at(1), at(2))) == "here"
    assert book.targets(MEMBERS, []) == ["here"]
    assert [each.address for each in book.hints("here")] == [at(1), at(2)]
    book.met("here", at(2), BOB)
    assert book.targets(MEMBERS, []) == [BOB]
    assert book.targets(MEMBERS, [BOB]) == []
    assert {each.address for each in book.hints(BOB)} == {at(1), at(2)}


def test_what_is_announced_again_is_no_news_until_it_is_another_address(book: PeerBook) -> None:
    assert book.seen(announced("here", at(1))) == "here"
    assert book.seen(announced("here", at(1))) is None
    book.met("here", at(1), BOB)
    assert book.seen(announced("here", at(2))) == BOB
    assert book.seen(announced("there")) is None


def test_an_announcement_that_is_taken_back_leaves_what_worked(book: PeerBook) -> None:
    book.seen(announced("here", at(1), at(2)))
    book.confirmed("here", at(1), BOB, 5.0)
    book.seen(Gone("here"))
    assert book.hints(BOB) == [Hint(at(1), Kind.REMEMBERED)]
    assert book.seen(Gone("never")) is None


def test_an_address_by_hand_is_whose_it_turns_out_to_be(book: PeerBook) -> None:
    book.add_by_hand(at(1))
    assert book.targets(MEMBERS, []) == [at(1)]
    book.confirmed(at(1), at(1), ANN, 1.0)
    assert book.targets(MEMBERS, []) == [ANN] and book.targets(MEMBERS, [ANN]) == []
    # It moved to another machine, which shows when it is dialled for the first.
    book.confirmed(ANN, at(1), BOB, 2.0)
    assert book.hints(BOB)[0] == Hint(at(1), Kind.BY_HAND)
    assert book.targets(MEMBERS, [BOB]) == []
    assert book.remove_by_hand(at(1)) and not book.remove_by_hand(at(1))


def test_an_address_by_hand_that_led_to_somebody_who_is_out_is_tried_for_whoever_is_there(book: PeerBook) -> None:
    book.add_by_hand(at(1))
    book.met(at(1), at(1), CID)
    assert book.targets(MEMBERS, []) == [at(1)]


def test_where_another_member_sits_that_is_linked_nobody_is_looked_for(book: PeerBook) -> None:
    book.remember(ANN, at(1), 0.0)
    book.confirmed(ANN, at(1), BOB, 1.0)
    assert book.hints(ANN, [BOB]) == [] and book.targets(MEMBERS, [BOB]) == []
    assert book.targets(MEMBERS, []) == [ANN, BOB]


def test_a_bad_address_sinks_and_is_never_forgotten(book: PeerBook) -> None:
    book.seen(announced("here", at(1)))
    book.met("here", at(1), ANN)
    book.remember(ANN, at(2), 0.0)
    book.failed(at(1), "nobody")
    assert [each.address for each in book.hints(ANN)] == [at(2), at(1)]
    for _ in range(1000):
        book.failed(at(2), "nobody")
        book.failed(at(1), "nobody")
    # Equally bad is as bad as it gets: then the kind counts again.
    assert [each.address for each in book.hints(ANN)] == [at(1), at(2)]
    book.confirmed(ANN, at(2), ANN, 1.0)
    assert [each.address for each in book.hints(ANN)] == [at(2), at(1)]
    assert [(each.failures, each.why) for each in book.entries() if each.address == at(1)] == [(1001, "nobody")]


def test_our_own_address_is_left_out_until_the_network_is_another(book: PeerBook) -> None:
    book.add_by_hand(at(1))
    book.is_ours(at(1))
    assert book.targets(MEMBERS, []) == []
    book.network_changed()
    assert book.targets(MEMBERS, []) == [at(1)]


def test_a_change_of_network_opens_every_question_again(book: PeerBook) -> None:
    book.remember(ANN, at(1), 0.0)
    book.met(ANN, at(1), BOB)
    book.failed(at(1), "nobody")
    book.network_changed()
    assert book.hints(ANN, [BOB]) == [Hint(at(1), Kind.REMEMBERED)]


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "224.0.0.251", "ff02::fb", "255.255.255.255"),
        *("240.0.0.1", "169.254.1.1", "fe80::1", "localhost", "router.example", "", "10.0.0.1 ", "1"),
    ],
)
def test_a_member_cannot_make_us_knock_where_no_other_machine_is(book: PeerBook, host: str) -> None:
    assert not book.learn(ANN, [Address(host, 53)])
    assert book.hints(ANN) == []


def test_what_a_member_says_replaces_what_it_said(book: PeerBook) -> None:
    assert book.learn(ANN, [at(1)])
    assert not book.learn(ANN, [at(1)])
    assert book.learn(ANN, [at(2), Address("2001:db8::1", 1)])
    assert [each.address for each in book.hints(ANN)] == [at(2), Address("2001:db8::1", 1)]
    assert book.learnt(ANN) == (at(2), Address("2001:db8::1", 1))
    assert not book.learn(ANN, [])
    assert book.hints(ANN) == []


def test_the_last_addresses_that_worked_are_kept(book: PeerBook) -> None:
    for number in range(10):
        book.confirmed(ANN, at(number), ANN, float(number))
    assert [each.address for each in book.hints(ANN)] == [at(9 - place) for place in range(REMEMBERED_LIMIT)]
    book.remember(ANN, at(0), -1000.0)
    assert at(0) not in [each.address for each in book.hints(ANN)]


def test_a_flood_of_announcements_is_bounded_and_what_never_answers_makes_room(book: PeerBook) -> None:
    for number in range(NEIGHBOURS_LIMIT):
        assert book.seen(announced(f"{number}", at(number)))
    assert book.seen(announced("late", at(900))) is None
    book.failed(at(7), "nobody")
    book.failed(at(9), "nobody")
    book.failed(at(9), "nobody")
    book.met("9", at(9), ANN)  # a member's, however badly it is reached
    assert book.seen(announced("late", at(900))) == "late"
    assert "7" not in book.targets(MEMBERS, []) and "late" in book.targets(MEMBERS, [])
    assert book.seen(announced("later", at(901))) is None


def test_everything_has_a_bound(book: PeerBook) -> None:
    for number in range(BY_HAND_LIMIT):
        assert book.add_by_hand(at(number))
    assert not book.add_by_hand(at(BY_HAND_LIMIT)) and book.add_by_hand(at(0), ANN)
    book.learn(BOB, [at(1000 + number) for number in range(40)])
    assert len(book.hints(BOB)) == LEARNT_LIMIT
    for number in range(20):
        book.add_by_hand(at(number), BOB)
    assert len(book.hints(BOB)) == HINTS_LIMIT
    for number in range(OCCUPANTS_LIMIT + 100):
        book.failed(at(number % 60_000, 1 + number), "nobody")
    assert len(book._states) == OCCUPANTS_LIMIT


ADDRESSES = st.integers(0, 5).map(at)
NODES = st.sampled_from([ANN, BOB, CID])
NAMES = st.sampled_from(["here", "there"])
TARGETS = st.one_of(NODES, NAMES, ADDRESSES)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("seen"), st.one_of(st.builds(announced, NAMES, ADDRESSES), st.builds(Gone, NAMES))),
        st.tuples(st.just("add_by_hand"), ADDRESSES, st.one_of(st.none(), NODES)),
        st.tuples(st.just("remove_by_hand"), ADDRESSES),
        st.tuples(st.just("remember"), NODES, ADDRESSES, st.floats(-1e6, 1e6)),
        st.tuples(st.just("learn"), NODES, st.lists(ADDRESSES, max_size=3)),
        st.tuples(st.just("met"), TARGETS, ADDRESSES, NODES),
        st.tuples(st.just("confirmed"), TARGETS, ADDRESSES, NODES, st.floats(0, 1e6)),
        st.tuples(st.just("failed"), ADDRESSES, st.just("nobody")),
        st.tuples(st.just("is_ours"), ADDRESSES),
        st.tuples(st.just("network_changed")),
    ),
    max_size=30,
)


@given(STEPS, st.sets(NODES))
def test_whatever_happens_a_target_has_hints_and_is_no_linked_member(steps, linked) -> None:
    book = PeerBook()
    for name, *arguments in steps:
        getattr(book, name)(*arguments)
    targets = book.targets(MEMBERS, linked)
    assert len(set(targets)) == len(targets)
    for target in targets:
        assert target not in linked
        hints = [each.address for each in book.hints(target, linked)]
        assert hints and len(set(hints)) == len(hints)
    assert CID not in targets


@given(STEPS, NODES)
def test_nothing_from_the_network_makes_the_book_forget_what_worked(steps, node) -> None:
    book = PeerBook()
    book.confirmed(node, at(99), node, 2e6)
    for name, *arguments in steps:
        getattr(book, name)(*arguments)
    assert at(99) in [each.address for each in book.hints(node)]


def test_a_path_that_was_punched_comes_after_a_lan_and_is_forgotten_at_its_first_failure(book: PeerBook) -> None:
    book.add_by_hand(at(3), ANN)
    book.punched(ANN, at(9))
    book.seen(announced("here", at(1)))
    book.met("here", at(1), ANN)
    assert [each.kind for each in book.hints(ANN)] == [Kind.LAN, Kind.WAN, Kind.BY_HAND]
    assert [each.kind for each in book.entries() if each.address == at(9)] == [Kind.WAN]
    book.failed(at(9), "no answer")
    assert at(9) not in [each.address for each in book.hints(ANN)]
    book.punched(ANN, at(9))
    assert not book.is_bad(at(9)), "opened anew, it is as good as at first"
    book.confirmed(ANN, at(9), ANN, 5.0)
    assert Hint(at(9), Kind.REMEMBERED) in book.hints(ANN)
    book.punched(BOB, at(8))
    book.network_changed()
    assert not book.hints(BOB)


def test_an_address_is_bad_after_a_few_failures(book: PeerBook) -> None:
    book.add_by_hand(at(1), ANN)
    for bad in (False, False, True, True):
        book.failed(at(1), "no answer")
        assert book.is_bad(at(1)) is bad


def test_of_several_open_paths_that_of_a_lan_is_dialled_first_and_the_others_stay(book: PeerBook) -> None:
    far, six, near = Address("5.0.0.1", 4), Address("2a00::1", 4), at(1, 4)
    for each in (far, near, six):
        book.punched(ANN, each)
    assert [each.address for each in book.hints(ANN)] == [near, six, far]
    book.failed(near, "no answer")
    assert [each.address for each in book.hints(ANN)] == [six, far]
