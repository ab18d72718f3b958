"""The fetch machine against simulated holders, in virtual time."""

import random

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.errors import LocalProtocolError, RefusedError
from meshd.model.chunks import CHUNK, ChunkList, chunk_count
from meshd.protocol.fetching import MOST_OUTSTANDING, Everything, Fetch, List, Reason, Starved, State
from meshd.protocol.holder import RETRY, SILENCE, Offer
from tests.protocol.holders import SimHolder, World

MIB = 1 << 20
DIGEST = b"\x07" * 32


def listing(size: int, seed: int = 0) -> ChunkList:
    return ChunkList(size, blake3(bytes([seed])).digest(chunk_count(size) * 32))


GOOD, BAD = listing(100 * MIB), listing(100 * MIB, 1)


def offer(chunks: ChunkList) -> Offer:
    return Offer(chunks.size, chunks.digest)


def holder(name: str, chunks: ChunkList | None = GOOD, rate: float = 50 * MIB, **more: object) -> SimHolder:
    return SimHolder(name, chunks, rate, **more)


def world(*holders: SimHolder, **options: object) -> World:
    return World(Fetch(DIGEST, 0.0, **options), list(holders))


# Speed.


def test_one_holder_is_kept_busy() -> None:
    assert world(holder("a")).run() < 2.0 * 1.02


def test_one_far_away_is_kept_busy_too() -> None:
    assert world(holder("a", rate=20 * MIB, delay=0.1)).run() < 5.0 * 1.15


def test_two_equal_ones_take_half_the_time() -> None:
    assert world(holder("a"), holder("b")).run() < 1.0 * 1.1


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
def test_a_slow_holder_costs_almost_nothing(share: float) -> None:
    alone = world(holder("a", listing(512 * MIB))).run()
    both = world(holder("a", listing(512 * MIB)), holder("slow", listing(512 * MIB), rate=50 * MIB * share)).run()
    assert both < alone * 1.02


def test_many_slow_ones_help() -> None:
    took = world(*(holder(str(n), listing(200 * MIB), rate=5 * MIB) for n in range(8))).run()
    assert took < 200 / 40 * 1.15


def test_a_holder_that_becomes_slow_does_not_set_the_pace() -> None:
    there = world(holder("a"), holder("b"))
    there.at(0.5, lambda: setattr(next(each for each in there.holders.values() if each.name == "b"), "rate", MIB / 10))
    assert there.run() < 2.2


def test_little_is_moved_twice() -> None:
    there = world(holder("a"), holder("b", rate=5 * MIB), holder("c", rate=MIB))
    there.run()
    assert sum(each.sent for each in there.holders.values()) <= 104 * MIB


def test_outstanding_is_bounded() -> None:
    there = world(*(holder(str(n)) for n in range(5)))
    most = 0
    for step in range(1, 60):
        there.run(until=step * 0.01)
        most = max(most, sum(len(each.outstanding) for each in there.fetch._holders.values()))
    assert 0 < most <= MOST_OUTSTANDING


# Resuming.


def test_what_is_present_is_not_asked_for() -> None:
    there = world(holder("a"))
    there.present = set(range(60))
    there.run()
    assert next(iter(there.holders.values())).sent == 40 * MIB
    assert there.fetch.outlook.done == 100 * MIB


def test_all_present_moves_nothing() -> None:
    there = world(holder("a"))
    there.present = set(range(100))
    there.run()
    assert there.done
    assert there.fetch.moved == 0


@pytest.mark.parametrize("size", [0, 1, CHUNK])
def test_one_chunk_needs_no_list_from_anybody(size: int) -> None:
    chunks = ChunkList.of_one(DIGEST, size)
    there = world(holder("a", chunks, lists=b""))
    there.run()
    assert there.done


# Holders that come, go, and fail.


def test_a_lost_holder_is_replaced() -> None:
    there = world(holder("a"), holder("b"))
    there.at(0.5, lambda: there.lose("a"))
    assert there.run() < 2.0
    assert there.done


def test_a_new_holder_helps() -> None:
    there = world(holder("a", rate=10 * MIB))
    there.at(1.0, lambda: there.join(holder("b", rate=40 * MIB)))
    assert there.run() < 3.2


def test_with_nobody_left_the_file_is_let_go_and_taken_up_again() -> None:
    there = world(holder("a", rate=10 * MIB))
    there.at(2.0, lambda: there.lose("a"))
    there.at(60.0, lambda: there.join(holder("b", rate=10 * MIB)))
    assert there.run() == pytest.approx(68, abs=1)
    kinds = [type(event) for event in there.events]
    assert kinds == [List, Starved, List, Everything]


def test_a_link_that_comes_back_at_once_costs_no_second_look() -> None:
    there = world(holder("a", rate=10 * MIB))
    there.at(2.0, lambda: there.lose("a"))
    there.at(4.0, lambda: there.join(holder("a", rate=10 * MIB)))
    there.run()
    assert [type(event) for event in there.events] == [List, Everything]


def test_one_that_sends_a_wrong_chunk_is_set_aside_by_name() -> None:
    there = world(holder("a"), holder("mallory", spoil=lambda index: index == 40))
    there.run()
    assert there.done
    assert there.aside in ([], [("mallory", Reason.WRONG)])
    alone = world(holder("mallory", spoil=lambda index: index == 40))
    alone.run(until=100)
    assert (alone.done, alone.aside) == (False, [("mallory", Reason.WRONG)])


def test_one_whose_copy_is_damaged_is_named_once_and_asked_again_later() -> None:
    there = world(holder("a", damaged_at=50))
    there.run(until=3.0)
    assert there.aside == [("a", Reason.DAMAGED)]
    assert there.fetch.outlook.damaged == tuple(there.holders)
    there.run(until=40.0)
    assert len(there.aside) == 1
    next(iter(there.holders.values())).damaged_at = None
    there.run(until=200.0)
    assert there.done


def test_a_silent_one_is_set_aside_and_others_go_on() -> None:
    there = world(holder("a", rate=5 * MIB), holder("b", silent_after=0.3))
    there.run()
    assert there.done
    assert there.aside in ([], [("b", Reason.SILENT)])
    alone = world(holder("b", silent_after=0.3))
    alone.run(until=SILENCE + 5)
    assert alone.aside == [("b", Reason.SILENT)]


def test_who_had_nothing_is_asked_again() -> None:
    there = world(holder("a", None))
    there.at(RETRY - 1, lambda: setattr(next(iter(there.holders.values())), "chunks", GOOD))
    assert there.run() == pytest.approx(RETRY + 2, abs=0.5)


def test_late_bytes_of_nobody_are_nothing() -> None:
    fetch = Fetch(DIGEST, 0.0)
    node = holder("ghost").node
    assert not fetch.arrived(node, 0, CHUNK, 1.0)
    fetch.verified(node, 0, 1.0)
    fetch.wrong(node, 0, 1.0)
    fetch.listed(node, 0, b"", 1.0)
    fetch.looked_up(node, offer(GOOD), 1.0)
    fetch.refused(node, is_damaged=True, now=1.0)
    fetch.drop_holder(node, 1.0)
    assert fetch.next_event() is None
    with pytest.raises(LocalProtocolError):
        fetch.resumed(set(), 1.0)
    with pytest.raises(LocalProtocolError):
        fetch.not_whole(1.0)


# Lists: signed, unsigned, false.


def test_a_signed_list_wins_over_any_number_of_others() -> None:
    liars = [holder(str(n), BAD) for n in range(5)]
    there = world(*liars, holder("honest"), announced=offer(GOOD))
    there.run()
    assert there.done
    assert there.events[0] == List(GOOD)
    assert all(liar.sent == 0 for liar in liars)


def test_an_unsigned_list_that_makes_no_whole_sets_its_senders_aside_and_the_next_is_tried() -> None:
    there = world(holder("x", BAD), holder("y", BAD), holder("honest"))
    there.is_whole = lambda: [each for each in there.events if isinstance(each, List)][-1] == List(GOOD)
    there.run()
    assert there.done
    assert sorted(there.aside) == [("x", Reason.LIED), ("y", Reason.LIED)]
    assert [each for each in there.events if isinstance(each, List)] == [List(BAD), List(GOOD)]


def test_a_signed_list_that_makes_no_whole_is_given_up_too() -> None:
    """Whoever announces a blob with a false list must not keep others from having it."""
    there = world(holder("author", BAD), holder("honest"), announced=offer(BAD))
    there.is_whole = lambda: [each for each in there.events if isinstance(each, List)][-1] == List(GOOD)
    there.run()
    assert there.done


def test_a_list_that_is_not_what_was_named_is_asked_of_another() -> None:
    there = world(holder("x", lists=BAD.digests), holder("honest"))
    there.run()
    assert there.done
    assert there.aside in ([], [("x", Reason.LIED)])
    assert there.events[-2 if there.aside else 0] in (List(GOOD), Everything())


@pytest.mark.parametrize("lists", [GOOD.digests[:-32], GOOD.digests + bytes(32), b"short"])
def test_a_list_of_another_length_is_a_lie(lists: bytes) -> None:
    there = world(holder("x", lists=lists))
    there.run(until=20)
    assert there.aside == [("x", Reason.LIED)]


def test_a_false_list_of_one_chunk_is_seen_without_it() -> None:
    there = world(holder("x", ChunkList.of_one(DIGEST, 100), offer=Offer(100, bytes(32))))
    there.run(until=20)
    assert there.aside == [("x", Reason.LIED)]


def test_a_list_of_several_pages() -> None:
    chunks = listing(40_000 * MIB)
    there = world(holder("a", chunks))
    there.present = set(range(39_990))
    there.run()
    assert there.done


def test_several_pages_survive_their_sender() -> None:
    chunks = listing(100_000 * MIB)
    there = world(holder("a", chunks, delay=1.0), holder("b", chunks, delay=1.0))
    there.present = set(range(99_999))
    there.at(2.5, lambda: there.lose("a"))
    there.run()
    assert there.done


def test_too_large_fails_before_anything_moves() -> None:
    there = world(holder("a"), limit=50 * MIB)
    there.run()
    assert isinstance(there.failed, RefusedError)
    assert next(iter(there.holders.values())).sent == 0
    assert there.fetch.state is State.FAILED


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_happens_an_honest_holder_that_stays_is_enough(seed: int) -> None:
    """Liars, slow ones, silent ones and links that come and go, at random: it ends, and with the true list."""
    chance = random.Random(seed)
    chunks = listing(40 * MIB)
    odd = []
    for number in range(chance.randrange(5)):
        odd.append(
            holder(
                f"odd{number}",
                chance.choice([chunks, chunks, listing(40 * MIB, 1), listing(39 * MIB, 2), None]),
                rate=10
                ** chance.uniform(5, 8),  # a list that nobody signed costs at worst a blob at its sender's speed
                delay=chance.uniform(0, 0.2),
                spoil=chance.choice([lambda _: False, lambda index: index % 7 == 3]),
                damaged_at=chance.choice([None, None, 20]),
                silent_after=chance.choice([float("inf"), 1.0]),
            )
        )
    there = world(*odd, holder("honest", chunks, rate=20 * MIB))
    there.is_whole = lambda: [each for each in there.events if isinstance(each, List)][-1] == List(chunks)
    for each in odd:
        if chance.random() < 0.4:
            there.at(chance.uniform(0, 4), lambda name=each.name: there.lose(name))
    there.run(until=5000)
    assert there.done
    assert ("honest", Reason.WRONG) not in there.aside
