"""Which session is the link: two ends that never ask each other come to one answer."""

import itertools

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import LocalProtocolError
from meshd.model.identity import NodeId
from meshd.protocol.linking import (
    CROSSING,
    REPLACED_LIMIT,
    REPLACED_WITHIN,
    TOLD_AGAIN,
    Chosen,
    LetGo,
    Linking,
    Session,
    TwoHolders,
)

LOW, HIGH = b"\x01" * 32, b"\x02" * 32
PEER = NodeId(b"p" * 32)


def events_of(linking: Linking[str]) -> list[object]:
    return list(iter(linking.next_event, None))


def end(own: bytes = LOW) -> Linking[str]:
    return Linking(own)


def confirm(linking: Linking[str], name: str, *, ours: bool, at: float, peer_key: bytes = HIGH) -> list[object]:
    linking.confirmed(PEER, peer_key, Session(name, ours, at))
    return events_of(linking)


def test_one_session_is_the_link() -> None:
    assert confirm(end(), "a", ours=True, at=0.0) == [Chosen(PEER, "a")]


def test_sessions_that_cross_the_lower_keys_stays() -> None:
    low = end()
    confirm(low, "ours", ours=True, at=0.0)
    assert confirm(low, "theirs", ours=False, at=CROSSING) == [LetGo(PEER, "theirs", "ours", closes_loser=True)]
    low = end()
    confirm(low, "theirs", ours=False, at=0.0)
    assert confirm(low, "ours", ours=True, at=1.0) == [
        Chosen(PEER, "ours"),
        LetGo(PEER, "theirs", "ours", closes_loser=True),
    ]
    high = end(HIGH)
    confirm(high, "ours", ours=True, at=0.0, peer_key=LOW)
    assert confirm(high, "theirs", ours=False, at=1.0, peer_key=LOW) == [
        Chosen(PEER, "theirs"),
        LetGo(PEER, "ours", "theirs", closes_loser=False),
    ]


@pytest.mark.parametrize("ours", [True, False])
def test_otherwise_the_newer_stays(ours: bool) -> None:
    late = end()
    confirm(late, "old", ours=not ours, at=0.0)
    assert confirm(late, "new", ours=ours, at=CROSSING + 0.1)[0] == Chosen(PEER, "new")
    again = end()
    confirm(again, "old", ours=ours, at=0.0)
    assert confirm(again, "new", ours=ours, at=1.0) == [
        Chosen(PEER, "new"),
        LetGo(PEER, "old", "new", closes_loser=ours),
    ]


def test_the_loser_takes_the_place_of_a_winner_that_dies() -> None:
    low = end()
    confirm(low, "ours", ours=True, at=0.0)
    confirm(low, "theirs", ours=False, at=1.0)
    low.ended(PEER, "ours")
    assert events_of(low) == [Chosen(PEER, "theirs")]
    low.ended(PEER, "theirs")
    low.ended(PEER, "theirs")
    assert events_of(low) == []
    assert confirm(low, "next", ours=False, at=2.0) == [Chosen(PEER, "next")]


def test_a_loser_that_ends_changes_nothing() -> None:
    low = end()
    confirm(low, "ours", ours=True, at=0.0)
    confirm(low, "theirs", ours=False, at=1.0)
    low.ended(PEER, "theirs")
    assert events_of(low) == []


def test_a_session_is_confirmed_once() -> None:
    low = end()
    confirm(low, "a", ours=True, at=0.0)
    with pytest.raises(LocalProtocolError):
        low.confirmed(PEER, HIGH, Session("a", True, 1.0))


def test_more_than_three_in_a_minute_are_told_once() -> None:
    low = end()
    for number in range(REPLACED_LIMIT):
        low.outlived(PEER, float(number))
    assert events_of(low) == []
    low.outlived(PEER, 10.0)
    assert events_of(low) == [TwoHolders(PEER)]
    for number in range(20):
        low.outlived(PEER, 11.0 + number)
    assert events_of(low) == []
    for number in range(REPLACED_LIMIT + 1):
        low.outlived(PEER, 10.0 + TOLD_AGAIN + number)
    assert events_of(low) == [TwoHolders(PEER)]


def test_replacements_now_and_then_are_nothing_to_tell() -> None:
    low = end()
    for number in range(100):
        low.outlived(PEER, number * (REPLACED_WITHIN / REPLACED_LIMIT + 0.1))
    assert events_of(low) == []


def test_our_own_session_replaced_by_none_of_ours_is_another_holder() -> None:
    low = end()
    for number in range(REPLACED_LIMIT + 1):
        confirm(low, f"{number}", ours=True, at=float(number))
        low.replaced(PEER, float(number))
        low.ended(PEER, f"{number}")
    assert events_of(low) == [TwoHolders(None)]


def test_our_own_session_replaced_by_a_newer_one_of_ours_is_not() -> None:
    low = end()
    confirm(low, "0", ours=True, at=0.0)
    for number in range(1, 10):
        confirm(low, f"{number}", ours=True, at=float(number))
        low.replaced(PEER, float(number))
        low.ended(PEER, f"{number - 1}")
        assert not any(isinstance(each, TwoHolders) for each in events_of(low))


@attrs.define
class End:
    """One of the two, as a driver would run it: what it holds for the link, and what it closes."""

    linking: Linking[str]
    current: str | None = None
    to_close: list[str] = attrs.field(factory=list)

    def take(self) -> None:
        for event in events_of(self.linking):
            match event:
                case Chosen(_, handle):
                    self.current = handle
                case LetGo(_, loser, _, True):
                    self.to_close.append(loser)


def test_both_ends_choose_one_and_only_one_of_them_closes_the_other_in_any_order() -> None:
    """Two sessions that cross, confirmed at each end in any order and up to nearly ten seconds apart."""
    steps = [("low", "x"), ("high", "x"), ("low", "y"), ("high", "y")]
    for order in itertools.permutations(steps):
        ends = {"low": End(Linking(LOW)), "high": End(Linking(HIGH))}
        for number, (name, session) in enumerate(order):
            dialler = "low" if session == "x" else "high"
            key = HIGH if name == "low" else LOW
            ends[name].linking.confirmed(PEER, key, Session(session, name == dialler, number * 3.0))
            ends[name].take()
        assert (ends["low"].current, ends["high"].current) == ("x", "x")
        assert (ends["low"].to_close, ends["high"].to_close) == (["y"], [])


@given(
    st.lists(
        st.tuples(st.sampled_from(["confirm", "end"]), st.integers(0, 5), st.booleans(), st.floats(0, 30)), max_size=20
    ),
    st.booleans(),
)
def test_there_is_a_link_exactly_while_there_is_a_session(steps, is_low) -> None:
    side = End(Linking(LOW if is_low else HIGH))
    standing, now = set(), 0.0
    for what, number, ours, pause in steps:
        now += pause
        name = f"{number}"
        if what == "confirm" and name not in standing:
            standing.add(name)
            side.linking.confirmed(PEER, HIGH if is_low else LOW, Session(name, ours, now))
        elif what == "end":
            standing.discard(name)
            side.linking.ended(PEER, name)
            if side.current == name:
                side.current = None
        side.take()
        assert (side.current in standing) if standing else (side.current is None)
