"""The board: who is told of whom, and who is not. Also against a model of the page, with any asks in any order."""

import random
from collections import Counter
from typing import Any
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import rendezvous.board as board_module
from meshd.model.address import Address
from meshd.wire.rendezvous import (
    Allocate,
    Enter,
    Free,
    Leave,
    Match,
    Nat,
    Numbered,
    Refusal,
    Refused,
    Side,
    Third,
    Wait,
)
from rendezvous.board import (
    ASKS_FOR_EACH,
    ENTRIES_PER_SOURCE,
    LIFETIME,
    NUMBERS_PER_SOURCE,
    SMALLEST_SPAN,
    SPAN,
    TAKEN_SECONDS,
    WAITS_PER_CONNECTION,
    WRONG_PER_SOURCE,
    WRONG_SECONDS,
    Board,
    Outcome,
)

TOPIC = b"t" * 32


def place(client: int) -> Address:
    return Address(f"198.51.100.{client}", 1000 + client)


def board_of(*clients: int, most_clients: int = 1000, seed: int = 1) -> Board:
    """A board on which these are, each from a source of its own."""
    made = Board(random.Random(seed).randbytes, most_clients)
    for each in clients:
        made.join(each, bytes([each]), place(each))
    return made


def allocate(board: Board, client: int, ref: int = 1, now: float = 0.0) -> int:
    ((told, message),) = board.take(client, Allocate(ref, Nat.UNKNOWN), now)
    assert told == client and isinstance(message, Numbered) and message.ref == ref and message.seconds == LIFETIME
    return message.number


def enter(board: Board, client: int, number: int, ref: int = 1, now: float = 0.0) -> list[Outcome]:
    return board.take(client, Enter(ref, number, Nat.ONE_FOR_EACH), now)


def kinds(outcomes: list[Outcome]) -> list[tuple[int, type]]:
    return [(client, type(message)) for client, message in outcomes]


# Numbers


def test_both_are_told_of_each_other_at_once_and_of_the_same_nonce() -> None:
    board = board_of(1, 2)
    board.measured(1, 0.25)
    board.measured(2, 0.05)
    number = allocate(board, 1, ref=7)
    (first, one), (second, two) = enter(board, 2, number, ref=9)
    assert (first, second) == (2, 1) and isinstance(one, Match) and isinstance(two, Match)
    assert one.nonce == two.nonce and len(set(one.nonce)) > 1
    assert (one.ref, one.host, one.port, one.nat) == (9, place(1).host, place(1).port, Nat.UNKNOWN)
    assert (two.ref, two.host, two.port, two.nat) == (7, place(2).host, place(2).port, Nat.ONE_FOR_EACH)
    assert (one.wait_ms, two.wait_ms) == (100, 0), "the nearer one waits half of the difference"
    assert one.card == two.card == b""


def test_whose_round_trip_is_unknown_nobody_waits_for() -> None:
    board = board_of(1, 2)
    board.measured(1, 0.25)
    assert [message.wait_ms for _, message in enter(board, 2, allocate(board, 1))] == [0, 0]


def test_a_third_is_sent_away_and_both_hear_of_it_but_not_all_the_time() -> None:
    board = board_of(1, 2, 3)
    number = allocate(board, 1, ref=5)
    enter(board, 2, number, ref=6)
    assert enter(board, 3, number, now=1.0) == [
        (3, Refused(1, Refusal.TAKEN, TAKEN_SECONDS)),
        (1, Third(5)),
        (2, Third(6)),
    ]
    assert kinds(enter(board, 3, number, now=2.9)) == [(3, Refused)]
    assert kinds(enter(board, 3, number, now=3.0)) == [(3, Refused), (1, Third), (2, Third)]


def test_free_and_leaving_open_the_second_place() -> None:
    board = board_of(1, 2, 3)
    number = allocate(board, 1)
    enter(board, 2, number)
    assert board.take(2, Free(1), 0) == [], "not for who entered to say"
    assert kinds(enter(board, 3, number))[0] == (3, Refused)
    assert board.take(1, Free(1), 0) == []
    assert {client for client, _ in enter(board, 3, number)} == {1, 3}
    assert board.take(3, Leave(1), 0) == []
    assert {client for client, _ in enter(board, 2, number)} == {1, 2}
    board.leave(2)
    assert {client for client, _ in enter(board, 3, number)} == {1, 3}


def test_a_number_ends_with_its_owner_its_leave_or_its_time() -> None:
    for end in ("leave", "gone", "time", "again"):
        board = board_of(1, 2)
        number = allocate(board, 1, ref=4)
        if end == "leave":
            assert board.take(1, Leave(4), 1) == []
        elif end == "gone":
            board.leave(1)
        elif end == "time":
            assert board.expire(LIFETIME - 0.1) == []
            assert board.expire(LIFETIME) == [(1, Refused(4, Refusal.EXPIRED, 1))]
        else:
            allocate(board, 1, ref=4)  # the same ref: the new in place of the old
            assert board.numbers == 1
        (_, refused), *_ = enter(board, 2, number, now=LIFETIME)
        assert refused == Refused(1, Refusal.NO_SUCH_NUMBER, 0)


def test_nobody_enters_a_number_of_its_own() -> None:
    board = board_of(1)
    assert kinds(enter(board, 1, allocate(board, 1), ref=2)) == [(1, Refused)]


def test_two_numbers_a_source_whoever_of_it_asks() -> None:
    board = board_of(1)
    board.join(2, bytes([1]), place(2))
    allocate(board, 1, now=0.0)
    second = allocate(board, 2, now=10.0)
    ((_, refused),) = board.take(2, Allocate(2, Nat.UNKNOWN), 100.0)
    assert refused == Refused(2, Refusal.TOO_MANY, 801), "when the first of them is over"
    board.take(1, Leave(1), 100.0)
    assert allocate(board, 2, ref=2, now=100.0) != second


def test_numbers_are_short_while_few_are_live_and_never_live_twice() -> None:
    board = Board(random.Random(5).randbytes, 10_000)
    drawn = set()
    for client in range(3000):
        board.join(client, client.to_bytes(4, "big"), Address("203.0.113.1", 1))
        number = allocate(board, client)
        assert number <= max(SMALLEST_SPAN, SPAN * client) and number not in drawn
        drawn.add(number)
    assert board.numbers == 3000


def test_wrong_numbers_count_against_their_source_for_a_minute() -> None:
    board = board_of(1, 2, 3)
    board.join(4, bytes([2]), place(4))
    number = allocate(board, 1)
    wrong = number % 100 + 1
    for _ in range(WRONG_PER_SOURCE):
        ((_, refused),) = enter(board, 2, wrong, now=5.0)
        assert refused == Refused(1, Refusal.NO_SUCH_NUMBER, 0)
    for client in (2, 4):
        ((_, refused),) = enter(board, client, number, now=20.0)
        assert refused == Refused(1, Refusal.TOO_MANY, 45), "it is not even told that this one is right"
    assert {client for client, _ in enter(board, 3, number, now=20.0)} == {1, 3}
    board.take(1, Free(1), 21.0)
    assert {client for client, _ in enter(board, 2, number, now=5.0 + WRONG_SECONDS)} == {1, 2}


def test_a_squatter_is_done_after_three_entries_and_the_right_peer_gets_in() -> None:
    """It comes again at every moment, from connections without number; the right peer only when it was told to. The owner
    frees the place after an attempt of 4 s."""
    board = board_of(1, 2)
    squatters = range(10, 26)
    for each in squatters:
        board.join(each, b"squatter", place(each))
    number = allocate(board, 1)
    now, again, freed, matched = 0.0, 1.0, float("inf"), []
    while 2 not in matched:
        now = round(now + 0.1, 1)
        if now >= freed:
            board.take(1, Free(1), now)
            freed = float("inf")
        asking = list(squatters)
        if now >= again:
            asking.append(2)
        for each in asking:
            outcomes = enter(board, each, number, now=now)
            if isinstance(outcomes[0][1], Match):
                matched.append(each)
                freed = now + 4.0
            elif each == 2:
                again = now + TAKEN_SECONDS
    assert len(matched) == ENTRIES_PER_SOURCE + 1
    assert now <= ENTRIES_PER_SOURCE * 4 + TAKEN_SECONDS + 0.5


# Topics


def wait(board: Board, client: int, side: Side, ref: int = 1, topic: bytes = TOPIC, now: float = 0.0) -> list[Outcome]:
    return board.take(client, Wait(ref, topic, side, b"card of %d" % client), now)


def test_two_sides_meet_with_their_cards_and_the_topic_is_empty_again() -> None:
    board = board_of(1, 2, 3)
    assert wait(board, 1, Side.FIRST, ref=3) == []
    (_, two), (_, one) = wait(board, 2, Side.SECOND, ref=4)
    assert isinstance(one, Match) and isinstance(two, Match)
    assert (one.ref, one.card, one.host) == (3, b"card of 2", place(2).host)
    assert (two.ref, two.card, two.host) == (4, b"card of 1", place(1).host)
    assert one.nonce == two.nonce and board.waits == 0
    assert wait(board, 3, Side.SECOND) == []


def test_who_waits_again_on_a_side_takes_the_place_of_the_one_before() -> None:
    board = board_of(1, 2, 3)
    wait(board, 1, Side.FIRST)
    assert wait(board, 2, Side.FIRST) == [(1, Refused(1, Refusal.TAKEN, 0))]
    assert board.waits == 1
    assert {client for client, _ in wait(board, 3, Side.SECOND)} == {2, 3}


def test_a_wait_with_the_same_ref_is_renewed() -> None:
    board = board_of(1)
    wait(board, 1, Side.FIRST, now=0.0)
    assert wait(board, 1, Side.FIRST, now=600.0) == [] and board.waits == 1
    assert board.expire(LIFETIME) == []
    assert board.expire(600.0 + LIFETIME) == [(1, Refused(1, Refusal.EXPIRED, 1))]


def test_nobody_meets_itself() -> None:
    board = board_of(1, 2)
    wait(board, 1, Side.FIRST)
    assert wait(board, 1, Side.SECOND, ref=2) == [(1, Refused(2, Refusal.TAKEN, 0))]
    assert {client for client, _ in wait(board, 2, Side.SECOND)} == {1, 2}


def test_waits_of_a_connection_and_of_all_are_bounded() -> None:
    board = board_of(1)
    for ref in range(1, WAITS_PER_CONNECTION + 1):
        assert wait(board, 1, Side.FIRST, ref=ref, topic=ref.to_bytes(32, "big")) == []
    ((_, refused),) = wait(board, 1, Side.FIRST, ref=999)
    assert isinstance(refused, Refused) and refused.why is Refusal.TOO_MANY and refused.seconds > 0
    assert wait(board, 1, Side.FIRST, ref=1, topic=bytes(32)) == [], "a renewal is none more"

    few = board_of(1, 2, most_clients=2)
    for ref in range(1, ASKS_FOR_EACH * 2 + 1):
        assert wait(few, 1, Side.FIRST, ref=ref, topic=ref.to_bytes(32, "big")) == []
    assert kinds(wait(few, 2, Side.FIRST)) == [(2, Refused)]
    few.take(1, Leave(1), 0)
    assert wait(few, 2, Side.FIRST) == []


def test_asks_that_are_not_there_are_taken_back_in_silence() -> None:
    board = board_of(1)
    assert board.take(1, Leave(5), 0) == board.take(1, Free(5), 0) == []


# Against a model

CLIENTS = st.integers(1, 5)
REFS = st.integers(1, 4)
CAP = 3


class AgainstModel(RuleBasedStateMachine):
    """The page's rules once more, as a table of who asked for what."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.board = Board(random.Random(seed).randbytes, 1)
        self.now = 0.0
        self.here: set[int] = set()
        self.asks: dict[tuple[int, int], dict[str, Any]] = {}
        self.entries: dict[int, Counter[int]] = {}
        self.wrong: dict[int, list[float]] = {}

    @staticmethod
    def source(client: int) -> int:
        return client // 2

    def find(self, **wanted: Any) -> tuple[tuple[int, int], dict[str, Any]] | None:
        found = [(key, ask) for key, ask in self.asks.items() if all(ask.get(k) == v for k, v in wanted.items())]
        assert len(found) <= 1
        return found[0] if found else None

    def drop(self, key: tuple[int, int]) -> None:
        ask = self.asks.pop(key, None)
        if ask is not None and ask["kind"] == "own" and (entered := self.find(kind="enter", number=ask["number"])):
            del self.asks[entered[0]]

    def take(self, client: int, message: Any) -> list[Outcome]:
        if client not in self.here:
            self.board.join(client, bytes([self.source(client)]), place(client))
            self.here.add(client)
        with patch.object(board_module, "WAITS_PER_CONNECTION", CAP):
            return self.board.take(client, message, self.now)

    def room(self, client: int) -> bool:
        return sum(key[0] == client for key in self.asks) < CAP and len(self.asks) < ASKS_FOR_EACH

    def refused(self, outcomes: list[Outcome], client: int, ref: int, why: Refusal) -> None:
        told, message = outcomes[0]
        assert told == client and isinstance(message, Refused) and (message.ref, message.why) == (ref, why)

    def matched(self, outcomes: list[Outcome], one: tuple[int, int], other: tuple[int, int]) -> None:
        found = {(client, message.ref): message for client, message in outcomes}
        assert len(outcomes) == 2 and set(found) == {one, other} and one[0] != other[0]
        for here, there in ((one, other), (other, one)):
            match = found[here]
            assert isinstance(match, Match) and Address(match.host, match.port) == place(there[0])

    @rule(client=CLIENTS, ref=REFS)
    def allocate(self, client: int, ref: int) -> None:
        outcomes = self.take(client, Allocate(ref, Nat.NONE))
        self.drop((client, ref))
        owned = [
            key for key, ask in self.asks.items() if ask["kind"] == "own" and self.source(key[0]) == self.source(client)
        ]
        if not self.room(client) or len(owned) >= NUMBERS_PER_SOURCE:
            self.refused(outcomes, client, ref, Refusal.TOO_MANY)
            return
        ((told, message),) = outcomes
        assert told == client and isinstance(message, Numbered)
        assert self.find(kind="own", number=message.number) is None
        self.asks[client, ref] = {"kind": "own", "number": message.number, "until": self.now + LIFETIME}
        self.entries[message.number] = Counter()

    @rule(client=CLIENTS, ref=REFS, which=st.integers(0, 3), wrong=st.booleans())
    def enter(self, client: int, ref: int, which: int, wrong: bool) -> None:
        live = sorted(ask["number"] for ask in self.asks.values() if ask["kind"] == "own")
        number = live[which % len(live)] if live and not wrong else 1_000_000
        outcomes = self.take(client, Enter(ref, number, Nat.NONE))
        self.drop((client, ref))
        source = self.source(client)
        # A minute that began with the first one.
        times = self.wrong.setdefault(source, [])
        if times and self.now >= times[0] + WRONG_SECONDS:
            times.clear()
        owner = self.find(kind="own", number=number)
        if not self.room(client) or len(times) >= WRONG_PER_SOURCE:
            self.refused(outcomes, client, ref, Refusal.TOO_MANY)
        elif owner is None:
            times.append(self.now)
            self.refused(outcomes, client, ref, Refusal.NO_SUCH_NUMBER)
        elif owner[0][0] == client:
            self.refused(outcomes, client, ref, Refusal.NO_SUCH_NUMBER)
        elif self.entries[number][source] >= ENTRIES_PER_SOURCE:
            self.refused(outcomes, client, ref, Refusal.TOO_MANY)
        elif (entered := self.find(kind="enter", number=number)) is not None:
            self.refused(outcomes, client, ref, Refusal.TAKEN)
            assert {(who, m.ref) for who, m in outcomes[1:] if isinstance(m, Third)} in ({owner[0], entered[0]}, set())
        else:
            self.asks[client, ref] = {"kind": "enter", "number": number, "until": float("inf")}
            self.entries[number][source] += 1
            self.matched(outcomes, (client, ref), owner[0])

    @rule(client=CLIENTS, ref=REFS, topic=st.integers(0, 2), side=st.sampled_from(Side))
    def wait(self, client: int, ref: int, topic: int, side: Side) -> None:
        outcomes = self.take(client, Wait(ref, bytes([topic]) * 32, side, b""))
        self.drop((client, ref))
        other = self.find(kind="wait", topic=topic, side=1 - side)
        if not self.room(client):
            self.refused(outcomes, client, ref, Refusal.TOO_MANY)
            return
        if other is not None and other[0][0] == client:
            self.refused(outcomes, client, ref, Refusal.TAKEN)
            return
        if (former := self.find(kind="wait", topic=topic, side=side)) is not None:
            self.refused(outcomes[:1], *former[0], Refusal.TAKEN)
            outcomes = outcomes[1:]
            del self.asks[former[0]]
        if other is None:
            assert outcomes == []
            self.asks[client, ref] = {"kind": "wait", "topic": topic, "side": side, "until": self.now + LIFETIME}
        else:
            self.matched(outcomes, (client, ref), other[0])
            del self.asks[other[0]]

    @rule(client=CLIENTS, ref=REFS)
    def take_back(self, client: int, ref: int) -> None:
        assert self.take(client, Leave(ref)) == []
        self.drop((client, ref))

    @rule(client=CLIENTS, ref=REFS)
    def free(self, client: int, ref: int) -> None:
        assert self.take(client, Free(ref)) == []
        ask = self.asks.get((client, ref))
        if ask is not None and ask["kind"] == "own" and (entered := self.find(kind="enter", number=ask["number"])):
            del self.asks[entered[0]]

    @rule(client=CLIENTS)
    def leave(self, client: int) -> None:
        if client in self.here:
            self.here.discard(client)
            self.board.leave(client)
            for key in [key for key in self.asks if key[0] == client]:
                self.drop(key)

    @rule(seconds=st.sampled_from([0.5, 3.0, 59.0, 400.0, LIFETIME]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        over = [key for key, ask in self.asks.items() if ask["until"] <= self.now]
        outcomes = self.board.expire(self.now)
        assert sorted((client, message.ref) for client, message in outcomes) == sorted(over)
        assert all(isinstance(message, Refused) and message.why is Refusal.EXPIRED for _, message in outcomes)
        for key in over:
            self.drop(key)

    @invariant()
    def counts_agree(self) -> None:
        if hasattr(self, "board"):
            assert self.board.clients == len(self.here)
            assert self.board.numbers == sum(ask["kind"] == "own" for ask in self.asks.values())
            assert self.board.waits == sum(ask["kind"] == "wait" for ask in self.asks.values())

    def teardown(self) -> None:
        if hasattr(self, "board"):
            for client in list(self.here):
                self.leave(client)
            self.board.expire(self.now + WRONG_SECONDS)
            assert self.board.is_empty


AgainstModel.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestAgainstModel = AgainstModel.TestCase
