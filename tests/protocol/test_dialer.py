"""When to dial whom: soon at first, seldom later, at once on news, and never everybody at one moment."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.protocol.dialer import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    NEWS_SPREAD,
    PARALLEL,
    PARALLEL_UNKNOWN,
    PROVEN_AFTER,
    Dialer,
)


def dialer_of(*targets: str, known: bool = True, chance: float = 0.0) -> Dialer[str]:
    dialer: Dialer[str] = Dialer(lambda: chance)
    dialer.want(targets, targets if known else (), 0.0)
    return dialer


def pauses(dialer: Dialer[str], target: str, count: int) -> list[float]:
    """The pauses between attempts that fail at once."""
    found, now = [], 0.0
    for _ in range(count):
        at = dialer.next_deadline()
        assert not dialer.next_dials(at - 1e-6)
        assert dialer.next_dials(at) == [target]
        found.append(at - now)
        now = at
        dialer.ended(target, now)
    return found


def test_pauses_double_up_to_a_minute() -> None:
    expected = [min(FIRST_PAUSE / 2 * 2**number, LONGEST_PAUSE / 2) for number in range(12)]
    assert pauses(dialer_of("ann"), "ann", 13)[1:] == pytest.approx(expected)
    longest = pauses(dialer_of("ann", chance=0.999999), "ann", 100)
    assert max(longest) == pytest.approx(LONGEST_PAUSE, rel=1e-3)


def test_machines_that_were_lost_together_do_not_come_back_together() -> None:
    chance = random.Random(1)
    at = []
    for _ in range(50):
        dialer: Dialer[str] = Dialer(chance.random)
        dialer.want(["switch"], ["switch"], 0.0)
        at.append(sum(pauses(dialer, "switch", 7)))
    assert max(at) - min(at) > 5 and len({round(each, 2) for each in at}) > 40


def test_what_is_under_way_is_not_begun_again() -> None:
    dialer = dialer_of("ann")
    assert dialer.next_dials(1.0) == ["ann"]
    assert dialer.next_dials(100.0) == [] and dialer.next_deadline() == math.inf
    dialer.want(["ann"], ["ann"], 100.0)
    dialer.news(100.0)
    assert dialer.next_dials(101.0) == []
    dialer.ended("ann", 101.0)
    assert dialer.next_deadline() == pytest.approx(101.0 + FIRST_PAUSE / 2)


def test_who_is_wanted_no_more_is_left_in_peace() -> None:
    dialer = dialer_of("ann", "bob")
    dialer.want(["bob"], ["bob"], 1.0)
    assert dialer.next_dials(1.0) == ["bob"]
    dialer.want([], [], 1.0)
    dialer.ended("bob", 2.0)
    dialer.want([], [], 2.0)
    assert dialer.next_deadline() == math.inf
    dialer.ended("ann", 3.0)  # reported late, of no account
    assert dialer.next_dials(1e6) == []


def test_attempts_at_once_are_bounded_and_strangers_more_so() -> None:
    members = [f"member {number}" for number in range(20)]
    strangers = [f"stranger {number}" for number in range(20)]
    dialer: Dialer[str] = Dialer(lambda: 0.0)
    dialer.want(strangers, [], 0.0)
    assert len(dialer.next_dials(1.0)) == PARALLEL_UNKNOWN and dialer.next_deadline() == math.inf
    dialer.want(strangers + members, members, 1.0)
    assert dialer.next_deadline() <= 1.0
    begun = dialer.next_dials(1.0)
    assert len(begun) == PARALLEL - PARALLEL_UNKNOWN and set(begun) <= set(members)
    assert dialer.next_deadline() == math.inf
    dialer.ended(begun[0], 1.5)
    assert len(dialer.next_dials(1.5)) == 1


def test_what_is_new_is_not_behind_what_failed() -> None:
    old = [f"old {number}" for number in range(40)]
    dialer: Dialer[str] = Dialer(lambda: 0.0)
    dialer.want(old, [], 0.0)
    for _ in range(10):
        for target in dialer.next_dials(1.0):
            dialer.ended(target, 1.0)
    dialer.want([*old, "new"], [], 50.0)
    assert dialer.next_dials(100.0)[0] == "new"


@pytest.mark.parametrize("target", ["ann", None], ids=["of one", "of all"])
def test_news_is_acted_on_at_once_however_long_it_was_in_vain(target) -> None:
    dialer = dialer_of("ann", "bob", chance=0.9)
    for _ in range(30):
        now = dialer.next_deadline()
        for each in dialer.next_dials(now):
            dialer.ended(each, now)
    assert dialer.next_deadline() > now + 10
    dialer.news(now, target)
    assert dialer.next_deadline() <= now + NEWS_SPREAD
    soon = dialer.next_dials(now + NEWS_SPREAD)
    assert set(soon) == ({"ann"} if target else {"ann", "bob"})
    dialer.ended("ann", now)
    assert dialer.next_deadline() <= now + FIRST_PAUSE


def test_links_that_do_not_last_are_sought_ever_more_seldom_until_one_lasts() -> None:
    dialer: Dialer[str] = Dialer(lambda: 0.0)
    waits = []
    for _ in range(12):
        dialer.unlinked("ann", PROVEN_AFTER - 1)
        dialer.want(["ann"], ["ann"], 100.0)
        waits.append(dialer.next_deadline() - 100.0)
        dialer.want([], [], 100.0)
    assert waits[0] == FIRST_PAUSE / 2 and waits == sorted(waits) and waits[-1] == LONGEST_PAUSE / 2
    dialer.unlinked("ann", PROVEN_AFTER)
    dialer.want(["ann"], ["ann"], 100.0)
    assert dialer.next_deadline() == 100.0


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("want"), st.sets(st.integers(0, 30))),
            st.tuples(st.just("dial"), st.just(0)),
            st.tuples(st.just("end"), st.integers(0, 30)),
            st.tuples(st.just("news"), st.one_of(st.none(), st.integers(0, 30))),
            st.tuples(st.just("wait"), st.floats(0, 100)),
        ),
        max_size=60,
    ),
    st.randoms(use_true_random=False),
)
def test_bounds_hold_whatever_happens_and_nobody_wanted_is_forgotten(steps, chance) -> None:
    dialer: Dialer[int] = Dialer(chance.random)
    now, running, wanted = 0.0, set(), set()
    for what, value in steps:
        match what:
            case "want":
                wanted = value
                dialer.want(value, {each for each in value if each % 2}, now)
            case "dial":
                begun = dialer.next_dials(now)
                assert not running & set(begun) and set(begun) <= wanted
                running |= set(begun)
            case "end" if value in running:
                running.discard(value)
                dialer.ended(value, now)
                dialer.want(wanted, {each for each in wanted if each % 2}, now)
            case "news":
                dialer.news(now, value)
            case "wait":
                now += value
        assert len(running) <= PARALLEL
        assert sum(each % 2 == 0 for each in running) <= PARALLEL_UNKNOWN
    for each in running:
        dialer.ended(each, now)
    dialer.want(wanted, {each for each in wanted if each % 2}, now)
    if wanted:
        assert dialer.next_deadline() <= now + LONGEST_PAUSE
