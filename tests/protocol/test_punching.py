"""Two punches and the routers between them, without a socket: who gets through, what it costs, and what a lie can do."""

import itertools
import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.model.address import Address
from meshd.protocol.punching import (
    ATTEMPT_SECONDS,
    ATTEMPTS,
    CANDIDATE_EVERY,
    CANDIDATES_LIMIT,
    MET_LIMIT,
    TOTAL_PER_SECOND,
    Ended,
    Opened,
    Pacer,
    Punch,
    may_be_punched,
    preference,
    punch_tag,
    reason,
)
from meshd.wire.rendezvous import PUNCH_SIZE, Nat, Side, encode_punch

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "rendezvous.json").read_text())
KEY = b"k" * 32
A, B, VICTIM = Address("5.0.0.1", 4001), Address("6.0.0.1", 4002), Address("9.9.9.9", 53)
WHOLE = ATTEMPTS * ATTEMPT_SECONDS


def punch(side: Side, *candidates: Address, key: bytes = KEY, seed: int = 1, pacer: Pacer | None = None) -> Punch:
    return Punch(key, side, candidates, now=0.0, pacer=pacer or Pacer(), chance=random.Random(seed).random)


class Run:
    """What a punch sends from 0 to `until`, when nothing comes."""

    def __init__(self, *punches: Punch, until: float = WHOLE + 1) -> None:
        self.sent: list[tuple[float, bytes, Address]] = []
        self.events: list[object] = []
        now = 0.0
        while now <= until:
            for each in punches:
                self.sent += [(now, *datagram) for datagram in each.datagrams_to_send(now)]
                while (event := each.next_event()) is not None:
                    self.events.append(event)
            ends = [end for each in punches if (end := each.next_deadline()) is not None]
            if not ends:
                break
            assert min(ends) > now or any(each.next_deadline() == now for each in punches)
            now = max(min(ends), now + 1e-6)

    def to(self, address: Address) -> list[float]:
        return [when for when, _, target in self.sent if target == address]


def test_datagrams_are_as_published() -> None:
    given = VECTORS["punches"]
    key = bytes.fromhex(given["key"])
    for each in given["datagrams"]:
        made = encode_punch(each["attempt"], punch_tag(key, each["attempt"], Side(each["side"])))
        assert made.hex() == each["datagram"]
        assert punch(Side(1 - each["side"]), A, key=key).is_ours(made)
        assert not punch(Side(each["side"]), A, key=key).is_ours(made), "our own, sent back"


def test_a_candidate_that_never_answers_gets_what_the_page_allows() -> None:
    run = Run(punch(Side.FIRST, VICTIM))
    times = run.to(VICTIM)
    assert len(times) <= 60 and all(len(data) == PUNCH_SIZE for _, data, _ in run.sent)
    assert len(times) > 30, "and is tried all the time"
    for one, two in itertools.pairwise(times):
        assert two - one >= CANDIDATE_EVERY - 1e-9
    assert run.events == [Ended(heard=False)]
    assert {data[1] for _, data, _ in run.sent} == {1, 2, 3}


def test_all_candidates_have_their_first_within_a_moment() -> None:
    many = [Address(f"5.0.0.{number}", 1) for number in range(1, 20)]
    run = Run(punch(Side.FIRST, *many), until=1.0)
    firsts = [run.to(each)[0] for each in many[:CANDIDATES_LIMIT]]
    assert max(firsts) < 0.1 and firsts == sorted(firsts)
    assert {target for _, _, target in run.sent} == set(many[:CANDIDATES_LIMIT])


def test_several_matches_share_the_rates_of_one_machine() -> None:
    pacer = Pacer()
    many = [Address(f"5.0.{number}.1", 1) for number in range(1, 11)]
    punches = [
        punch(Side.FIRST, VICTIM, *many, key=bytes([number]) * 32, seed=number, pacer=pacer) for number in range(10)
    ]
    run = Run(*punches)
    times = sorted(when for when, _, _ in run.sent)
    for first, last in zip(times, times[TOTAL_PER_SECOND:], strict=False):
        assert last - first >= 1.0 - 1e-9
    assert len(run.to(VICTIM)) <= 60
    # Over and done: nothing is kept of addresses.
    pacer.sent(A, 1000.0)
    assert len(pacer._last) == 1


@pytest.mark.parametrize(
    "host", ["224.0.0.1", "255.255.255.255", "0.0.0.0", "127.0.0.1", "::1", "::", "ff02::1", "fe80::1", "x.example"]
)
def test_nobody_is_aimed_at_everybody_or_at_ourselves(host: str) -> None:
    address = Address(host, 4000)
    assert not may_be_punched(address, loopback=False)
    assert not Run(punch(Side.FIRST, address)).sent
    right = encode_punch(1, punch_tag(KEY, 1, Side.SECOND))
    one = punch(Side.FIRST, A)
    one.receive_datagram(right, address, 0.0)
    assert one.next_event() is None and not one.opened


def test_loopback_is_for_tests_and_demos_with_a_server_there() -> None:
    assert may_be_punched(Address("127.0.0.9", 1), loopback=True)
    assert not may_be_punched(Address("224.0.0.1", 1), loopback=True)


class Router:
    """A router on paper: `each` for one port a destination; from whom it lets in: anybody, an address, an address and port."""

    def __init__(self, host: str, each: bool, lets_in: str) -> None:
        self.host, self.each, self.lets_in = host, each, lets_in
        self.ports: dict[Address | None, int] = {}
        self.spoken: dict[int, set[Address]] = {}
        self.seen = self.out(Address("7.0.0.1", 4440))  # the server

    def out(self, target: Address) -> Address:
        port = self.ports.setdefault(target if self.each else None, 5000 + 7 * len(self.ports))
        self.spoken.setdefault(port, set()).add(target)
        return Address(self.host, port)

    def passes(self, source: Address, target: Address) -> bool:
        spoken = self.spoken.get(target.port, set())
        if self.lets_in == "anybody":
            return bool(spoken)
        return source in spoken if self.lets_in == "address and port" else source.host in {s.host for s in spoken}


ROUTERS = {
    "full cone": (False, "anybody"),
    "address-restricted": (False, "address"),
    "port-restricted": (False, "address and port"),
    "symmetric": (True, "address and port"),
}
CANNOT = [{"symmetric"}, {"symmetric", "port-restricted"}]


def through(one: str, other: str, seed: int, loss: float = 0.0, delay: float = 0.03) -> tuple[Punch, Punch, float]:
    """Let two punch through routers of these kinds: both, and when side 0 could dial."""
    chance = random.Random(seed)
    routers = [Router("5.0.0.1", *ROUTERS[one]), Router("6.0.0.1", *ROUTERS[other])]
    sides = [
        punch(Side.FIRST, routers[1].seen, seed=seed),
        punch(Side.SECOND, routers[0].seen, seed=seed + 1),
    ]
    under_way: list[tuple[float, int, bytes, Address, Address]] = []
    now, opened_at = 0.0, float("inf")
    while now < WHOLE + 1 and opened_at == float("inf"):
        for side, each in enumerate(sides):
            for data, target in each.datagrams_to_send(now):
                source = routers[side].out(target)
                if chance.random() >= loss and target.host == routers[1 - side].host:
                    under_way.append((now + delay, 1 - side, data, source, target))
        for arrival in sorted(under_way):
            when, side, data, source, target = arrival
            if when <= now:
                under_way.remove(arrival)
                if routers[side].passes(source, target):
                    sides[side].receive_datagram(data, source, now)
        if sides[0].opened:
            opened_at = now
        now += 0.005
    return sides[0], sides[1], opened_at


@pytest.mark.parametrize("one", ROUTERS)
@pytest.mark.parametrize("other", ROUTERS)
def test_a_path_is_opened_where_there_can_be_one(one: str, other: str) -> None:
    for seed in range(5):
        first, second, at = through(one, other, seed)
        if {one, other} in CANNOT:
            assert at == float("inf") and first.next_event() == second.next_event() == Ended(heard=False)
        else:
            assert at < 1.0
            # Side 0 dials what it heard from; a QUIC packet there passes the other router as the punch did.
            (address,) = first.opened
            assert address.host == "6.0.0.1"


def test_it_comes_through_a_bad_line() -> None:
    times = sorted(through("port-restricted", "port-restricted", seed, loss=0.3)[2] for seed in range(40))
    assert times[20] < 0.7 and times[-1] < ATTEMPT_SECONDS * ATTEMPTS


def test_who_was_not_told_and_is_right_is_met_answered_and_counted() -> None:
    one = punch(Side.FIRST, A)
    one.datagrams_to_send(0.0)
    right = encode_punch(2, punch_tag(KEY, 2, Side.SECOND))
    for number in range(MET_LIMIT + 5):
        one.receive_datagram(right, Address(f"6.0.0.{number + 1}", 9), 1.0)
    events = []
    while (event := one.next_event()) is not None:
        events.append(event)
    assert events == [Opened(Address(f"6.0.0.{number + 1}", 9)) for number in range(MET_LIMIT)]
    assert len(one.candidates) == 1 + MET_LIMIT
    assert one.next_deadline() == 1.0
    assert one.datagrams_to_send(1.0)[0][1] in {event.address for event in events}


def test_a_right_punch_before_its_time_is_answered_when_it_begins() -> None:
    one = Punch(KEY, Side.FIRST, (A,), now=5.0, pacer=Pacer(), chance=random.Random(1).random)
    one.receive_datagram(encode_punch(1, punch_tag(KEY, 1, Side.SECOND)), B, 4.0)
    deadline = one.next_deadline()
    assert deadline is not None and deadline >= 5.0, (
        "before it nothing is sent: an earlier one would be asked for again"
    )
    assert {address for _, address in one.datagrams_to_send(5.0)} <= {A, B}


def test_at_its_end_it_is_over() -> None:
    one = punch(Side.FIRST, A)
    while not one.is_over:
        deadline = one.next_deadline()
        assert deadline is not None and deadline <= WHOLE
        one.datagrams_to_send(deadline)
        assert one.is_over or one.next_deadline() != deadline, "the same deadline twice"
    assert one.next_event() == Ended(False)


def test_what_came_once_is_said_once_and_after_the_end_nothing_is_taken() -> None:
    one = punch(Side.FIRST, A)
    right = encode_punch(1, punch_tag(KEY, 1, Side.SECOND))
    one.datagrams_to_send(0.0)
    one.receive_datagram(right, A, 0.1)
    one.receive_datagram(right, A, 0.2)
    assert one.next_event() == Opened(A) and one.next_event() is None
    one.stop()
    assert one.is_over and one.next_deadline() is None and one.datagrams_to_send(1.0) == []
    one.receive_datagram(right, B, 1.0)
    assert one.next_event() is None


@settings(max_examples=200)
@given(st.binary(max_size=40), st.integers(0, 255))
def test_whatever_else_comes_is_dropped(junk: bytes, attempt: int) -> None:
    one = punch(Side.FIRST, A)
    for datagram in (
        junk,
        bytes([1, attempt]) + junk[:16].ljust(16, b"\0"),
        encode_punch(attempt, punch_tag(KEY, 1, Side.FIRST)),
    ):
        one.receive_datagram(datagram, B, 0.0)
    assert one.next_event() is None and one.candidates == (A,)


def test_a_lan_is_dialled_before_the_internet() -> None:
    lan, six, four = Address("192.168.1.2", 1), Address("2a00::2", 1), Address("5.0.0.1", 1)
    assert sorted((four, six, lan), key=preference) == [lan, six, four]
    assert all(may_be_punched(each, loopback=False) for each in (lan, six, four))


def test_reasons_are_of_what_was_seen() -> None:
    texts = Counter(
        reason(ours, theirs, heard=heard, sent=sent)
        for ours in Nat
        for theirs in Nat
        for heard in (False, True)
        for sent in (0, 5)
    )
    assert len({text.partition(" Mapping seen: ")[0] for text in texts}) == 7
    assert all(text.endswith("attempts of 4 s.") for text in texts)
    each, one = Nat.ONE_FOR_EACH, Nat.ONE_FOR_ALL
    assert "Both routers" in reason(each, each, heard=False, sent=1)
    assert "This side's" in reason(each, one, heard=False, sent=1)
    assert "other side's" in reason(one, each, heard=False, sent=1)
    told = reason(each, Nat.UNKNOWN, heard=False, sent=41)
    assert "another address for each destination on this side, not known on the other; tried: 41 datagrams" in told
