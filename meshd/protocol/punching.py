"""Opening a path through two routers: small datagrams to all candidates until one comes back. docs/protocol/traversal.md.

Calling contract: give a `Punch` what comes with `receive_datagram`; after every call take events with `next_event`, send
what `datagrams_to_send` gives, and call it again at `next_deadline`. One `Pacer` for all punches of a machine keeps the
rates. Times: seconds of one monotonic clock. Whatever comes never raises.
"""

import hashlib
import hmac
import ipaddress
import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from meshd.model.address import Address
from meshd.wire.rendezvous import PUNCH_TAG_SIZE, Nat, Side, decode_punch, encode_punch

ATTEMPTS: Final = 3
"""Nearly every path that can be opened is opened in the first (DCUtR, libp2p's measurements: 97.6 % of successes)."""

ATTEMPT_SECONDS: Final = 4.0
"""Length of an attempt: two dozen tries for each candidate, and three of them within a person's patience."""

CANDIDATE_EVERY: Final = 0.205
"""Seconds between two datagrams to one candidate, a little over a fifth: who is named and is none gets five a second at
most, however the sums are rounded."""

SPACING: Final = (0.01, 0.2)
"""Seconds between two datagrams of one punch, drawn evenly: routers that see a burst drop it."""

TOTAL_PER_SECOND: Final = 40
"""Datagrams of all punches of a machine."""

CANDIDATES_LIMIT: Final = 8
"""Candidates that are told."""

MET_LIMIT: Final = 8
"""Candidates that are added because a right punch came from there."""


@attrs.frozen
class Opened:
    """A right punch came from this address: the path is open towards us, and ours is answered."""

    address: Address


@attrs.frozen
class Ended:
    """All attempts are over. Punches that came are no failure of punching."""

    heard: bool


Event = Opened | Ended


class Pacer:
    """The rates of one machine, over all its punches."""

    def __init__(self) -> None:
        self._sent: deque[float] = deque(maxlen=TOTAL_PER_SECOND)
        self._last: dict[Address, float] = {}

    def free_at(self, address: Address, now: float) -> float:
        """When a datagram may go there; `now` or before means at once."""
        total = self._sent[0] + 1.0 if len(self._sent) == TOTAL_PER_SECOND else -math.inf
        return max(total, self._last.get(address, -math.inf) + CANDIDATE_EVERY)

    def sent(self, address: Address, now: float) -> None:
        """One has gone there."""
        self._sent.append(now)
        self._last.pop(address, None)
        self._last[address] = now
        while self._last and next(iter(self._last.values())) < now - CANDIDATE_EVERY:
            del self._last[next(iter(self._last))]


class Punch:
    """One match."""

    def __init__(
        self,
        key: bytes,
        side: Side,
        candidates: Iterable[Address],
        *,
        now: float,
        pacer: Pacer,
        chance: Callable[[], float],
        loopback: bool = False,
    ) -> None:
        """`key` makes the tags; `now` is when to begin; `chance` gives numbers from 0 to 1. `loopback` says whether such
        addresses may be candidates: where the server that made the match is on loopback itself."""
        other = Side.SECOND if side is Side.FIRST else Side.FIRST
        numbers = range(1, ATTEMPTS + 1)
        self._ours = {attempt: punch_tag(key, attempt, side) for attempt in numbers}
        self._theirs = {attempt: punch_tag(key, attempt, other) for attempt in numbers}
        self._loopback, self._pacer, self._chance = loopback, pacer, chance
        usable = [each for each in candidates if may_be_punched(each, loopback=loopback)]
        self._told = list(dict.fromkeys(usable))[:CANDIDATES_LIMIT]
        self._met: list[Address] = []
        self._due: dict[Address, float] = dict.fromkeys(self._told, now)
        self._spoken_to: set[Address] = set()
        self._opened: set[Address] = set()
        self._began, self._next_at = now, now
        self._over = False
        self._events: deque[Event] = deque()
        self.sent = 0
        """Datagrams sent."""

    @property
    def opened(self) -> frozenset[Address]:
        """From where right punches came."""
        return frozenset(self._opened)

    @property
    def candidates(self) -> tuple[Address, ...]:
        """Where it was tried, those that were met behind."""
        return (*self._told, *self._met)

    @property
    def is_over(self) -> bool:
        """Whether nothing more is sent."""
        return self._over

    def next_event(self) -> Event | None:
        """The next event, None when there is none."""
        return self._events.popleft() if self._events else None

    def is_ours(self, datagram: bytes) -> bool:
        """Whether a datagram belongs to this match."""
        found = decode_punch(datagram)
        return found is not None and hmac.compare_digest(self._theirs.get(found[0], b""), found[1])

    def receive_datagram(self, datagram: bytes, source: Address, now: float) -> None:
        """Take one for which `is_ours` holds; any other is dropped."""
        if self._over or not self.is_ours(datagram) or source in self._opened:
            return
        if source not in self._due:
            if len(self._met) >= MET_LIMIT or not may_be_punched(source, loopback=self._loopback):
                return
            self._met.append(source)
        self._opened.add(source)
        # At once: until ours has come the other side cannot know that its path is open.
        self._due[source], self._next_at = -math.inf, now
        self._events.append(Opened(source))

    def stop(self) -> None:
        """It has led to a link, or nobody wants it any more."""
        self._over = True

    def next_deadline(self) -> float | None:
        """When `datagrams_to_send` has something to do."""
        if self._over:
            return None
        due = min(self._due.values(), default=math.inf)
        return max(self._began, min(max(due, self._next_at), self._ends_at))

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        """What is due: at most one to each candidate."""
        if self._over or now < self._began:
            return []
        attempt = min(int((now - self._began) / ATTEMPT_SECONDS) + 1, ATTEMPTS)
        if now >= self._ends_at:
            self._over = True
            self._events.append(Ended(bool(self._opened)))
            return []
        found = []
        for address, due in sorted(self._due.items(), key=lambda each: each[1]):
            if due > now or self._next_at > now:
                break
            free_at = self._pacer.free_at(address, now)
            if free_at > now:
                self._due[address] = free_at
                continue
            self._pacer.sent(address, now)
            self._spoken_to.add(address)
            self.sent += 1
            found.append((encode_punch(attempt, self._ours[attempt]), address))
            shortest, longest = SPACING
            self._due[address] = now + CANDIDATE_EVERY
            first_round = len(self._spoken_to) < len(self._due)
            self._next_at = now + shortest + (0.0 if first_round else (longest - shortest) * self._chance())
        return found

    @property
    def _ends_at(self) -> float:
        return self._began + ATTEMPTS * ATTEMPT_SECONDS


def punch_tag(key: bytes, attempt: int, side: Side) -> bytes:
    """What a datagram of an attempt carries, from one side: 16 bytes."""
    return hmac.digest(key, bytes([attempt, side]), hashlib.sha256)[:PUNCH_TAG_SIZE]


def may_be_punched(address: Address, *, loopback: bool) -> bool:
    """Whether this is an address that one other machine may have: a list of candidates must not aim us at everybody, or at
    our own services."""
    try:
        ip = ipaddress.ip_address(address.host)
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    real = mapped or ip
    if real.is_loopback:
        return loopback
    return not (real.is_multicast or real.is_unspecified or real.is_reserved or real.is_link_local)


def preference(address: Address) -> int:
    """The order in which to dial: a private address is a LAN's, and IPv6 needs no translation."""
    ip = ipaddress.ip_address(address.host)
    if ip.is_private:
        return 0
    return 1 if ip.version == 6 else 2


_SEEN: Final = {
    Nat.UNKNOWN: "not known",
    Nat.ONE_FOR_ALL: "one address for all destinations",
    Nat.ONE_FOR_EACH: "another address for each destination",
    Nat.NONE: "no translation",
}


def reason(ours: Nat, theirs: Nat, *, heard: bool, sent: int) -> str:
    """Why a match led to no link, for people: what is likely, what was seen of both routers, and what was tried."""
    tried = f"{sent} datagrams in {ATTEMPTS} attempts of {ATTEMPT_SECONDS:g} s"
    return (
        f"{_why(ours, theirs, heard=heard, sent=sent)} Mapping seen: {_SEEN[ours]} on this side, {_SEEN[theirs]} on the "
        f"other; tried: {tried}."
    )


def _why(ours: Nat, theirs: Nat, *, heard: bool, sent: int) -> str:
    if heard:
        return "Punches came through, and no connection over them did."
    if not sent:
        return "The other side gave no address that can be tried."
    each, both = Nat.ONE_FOR_EACH, (ours, theirs)
    if both == (each, each):
        return "Both routers map each destination anew, so neither side can tell the other where it is."
    if each in both:
        whose = "This side's router" if ours is each else "The other side's router"
        return f"{whose} maps each destination anew, and the other one, likely, lets in only what it has sent to."
    if Nat.UNKNOWN in both:
        return "Nothing came through. How the routers map was not seen: that needs two rendezvous servers."
    return "Nothing came through: UDP between the two networks is blocked, or an address was wrong."
