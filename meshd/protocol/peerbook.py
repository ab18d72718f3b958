"""Where members may be: every address that was heard of, whom it led to, and in which order to try. No socket, no disk.

An address is a hint, whoever gave it. Announcements can be copied, records grow old, a remembered address may belong to
somebody else by now; what a hint is worth shows when a session over it is confirmed. Nothing that comes from the network
without a proof makes the book forget an address: whoever can answer at one, or keep others from answering, could else
talk us out of the way to a member. A bad address sinks to the end of the order and is tried seldom.

Times are seconds of one monotonic clock.
"""

import enum
import ipaddress
from collections.abc import Collection, Iterable
from typing import Final

import attrs

from meshd.model.address import Address
from meshd.model.candidate import Gone, Neighbour
from meshd.model.identity import NodeId
from meshd.protocol.punching import preference

NEIGHBOURS_LIMIT: Final = 64
"""Announcements of one mesh's that are held: more machines on one LAN are an attack, or find each other by other ways."""

HINTS_LIMIT: Final = 12
"""Most addresses tried in one attempt: at a quarter of a second each, three seconds until the last has its turn."""

REMEMBERED_LIMIT: Final = 4
"""Addresses that worked which are kept a member, the latest: a laptop has home, work and a telephone."""

LEARNT_LIMIT: Final = 8
"""Addresses taken of what a member says about itself (model/announcement.py allows no more)."""

BY_HAND_LIMIT: Final = 256
"""Addresses that a person may give one mesh: it is read from a settings file too, and those have accidents."""

OCCUPANTS_LIMIT: Final = 4096
"""Addresses of which is held what became of them there; the oldest are forgotten first."""

_BAD_AT: Final = 3
"""Failures in a row beyond which an address is no worse: more would let one bad night outweigh for ever."""


class Kind(enum.Enum):
    """How an address was come by, the most promising first. The values are those of `drivers.link.PathKind`."""

    LAN = "lan"
    WAN = "wan"
    """A punch came from there a moment ago (docs/protocol/traversal.md)."""

    BY_HAND = "by hand"
    REMEMBERED = "remembered"
    LEARNT = "learnt"


_ORDER: Final = {kind: place for place, kind in enumerate(Kind)}

Target = NodeId | str | Address
"""Whom to dial: a member by its id; or, while nobody knows which member it is, the instance of an announcement, or an
address given by hand."""


@attrs.frozen
class Hint:
    """An address to try, and how it was come by."""

    address: Address
    kind: Kind


@attrs.frozen(kw_only=True)
class Entry:
    """One line of the book, for people."""

    address: Address
    kind: Kind
    node: NodeId | None
    """Whose it is said or known to be."""

    failures: int
    """Times in a row that it led to no session."""

    why: str
    """What was wrong the last time; empty when nothing was."""

    answered: float | None
    """When a session over it was confirmed last."""


@attrs.define
class _State:
    """What became of trying an address."""

    occupant: NodeId | None = None
    """Who was met there last."""

    answered: float | None = None
    failures: int = 0
    why: str = ""


class PeerBook:
    """The addresses of one mesh's members."""

    def __init__(self) -> None:
        self._neighbours: dict[str, Neighbour] = {}
        self._by_hand: dict[Address, NodeId | None] = {}
        self._remembered: dict[NodeId, list[Address]] = {}
        self._learnt: dict[NodeId, tuple[Address, ...]] = {}
        self._punched: dict[NodeId, list[Address]] = {}
        self._states: dict[Address, _State] = {}
        self._instances: dict[str, NodeId] = {}
        """Whose an announcement is, once somebody was met at one of its addresses."""
        self._ours: set[Address] = set()

    # What is heard.

    def seen(self, sighting: Neighbour | Gone) -> Target | None:
        """Take what was heard on the LAN. Returns whom it is news of, or None when it is no news."""
        if isinstance(sighting, Gone):
            self._neighbours.pop(sighting.instance, None)
            self._instances.pop(sighting.instance, None)
            return None
        instance = sighting.instance
        known = self._neighbours.get(instance)
        if not sighting.addresses or (known is not None and known.addresses == sighting.addresses):
            return None
        if known is None and len(self._neighbours) >= NEIGHBOURS_LIMIT and not self._make_room():
            return None
        self._neighbours[instance] = sighting
        return self._instances.get(instance, instance)

    def _make_room(self) -> bool:
        """Drop an announcement that led nowhere, the one that did so most often; whether there is one."""

        def failures(instance: str) -> int:
            if instance in self._instances:
                return 0
            return min(self._state(each).failures for each in self._neighbours[instance].addresses)

        worst = max(self._neighbours, key=failures)
        if not failures(worst):
            return False
        del self._neighbours[worst]
        return True

    def add_by_hand(self, address: Address, node: NodeId | None = None) -> bool:
        """Note an address that a person gave, and whose it is if that is known. False beyond BY_HAND_LIMIT."""
        if address not in self._by_hand and len(self._by_hand) >= BY_HAND_LIMIT:
            return False
        self._by_hand[address] = node
        return True

    def remove_by_hand(self, address: Address) -> bool:
        """Forget an address that a person gave; whether there was one."""
        had = address in self._by_hand
        self._by_hand.pop(address, None)
        return had

    def remember(self, node: NodeId, address: Address, when: float) -> None:
        """An address where a session with this member was once confirmed; `when` may lie before the clock's zero."""
        state = self._states.setdefault(address, _State())
        state.answered = max(when, state.answered or when)
        kept = self._remembered.setdefault(node, [])
        if address not in kept:
            kept.append(address)
        kept.sort(key=lambda each: -(self._state(each).answered or 0.0))
        del kept[REMEMBERED_LIMIT:]

    def learn(self, node: NodeId, addresses: Iterable[Address]) -> bool:
        """Where a member says that it is, in place of what it said before; whether that is news.

        What cannot be another machine's address is left out: a member must not make us knock at our own doors, or at
        everybody's (RFC 9000 section 21.5 describes the attack, on services that trust loopback).
        """
        usable = tuple([each for each in addresses if _is_unicast(each.host)][:LEARNT_LIMIT])
        before = self._learnt.get(node)
        self._learnt[node] = usable
        return bool(usable) and usable != before

    def punched(self, node: NodeId, address: Address) -> None:
        """A path to this member was opened there just now. It closes by itself, so the first failure forgets it."""
        kept = {address, *self._punched.get(node, ())}
        self._punched[node] = sorted(kept, key=lambda each: (preference(each), str(each)))[:HINTS_LIMIT]
        self._states.setdefault(address, _State()).failures = 0

    def learnt(self, node: NodeId) -> tuple[Address, ...]:
        """Where a member last said that it is."""
        return self._learnt.get(node, ())

    # What came of it.

    def met(self, target: Target, address: Address, node: NodeId) -> None:
        """This member's hint came from the address: whatever it was taken for, it is tried for this member from now on.

        A hint is no proof. Who still holds an old mesh secret can lead us to expect a member where there is none, at
        an address where it answers itself: that address is then tried for nothing.
        """
        self._occupy(address, node)
        if isinstance(target, str) and target in self._neighbours:
            self._instances[target] = node

    def confirmed(self, target: Target, address: Address, node: NodeId, now: float) -> None:
        """A session with this member was confirmed over the address."""
        self.met(target, address, node)
        state = self._states[address]
        state.failures, state.why = 0, ""
        self._punched.pop(node, None)
        self.remember(node, address, now)

    def failed(self, address: Address, why: str) -> None:
        """Nobody was there, or nobody that we would link with."""
        state = self._states.setdefault(address, _State())
        state.failures += 1
        state.why = why
        for punched in self._punched.values():
            if address in punched:
                punched.remove(address)
        self._trim()

    def is_ours(self, address: Address) -> None:
        """Who answers there is this machine."""
        self._ours.add(address)

    def network_changed(self) -> None:
        """This machine's own addresses are others now: who answers where is open again."""
        self._ours.clear()
        self._punched.clear()
        for state in self._states.values():
            state.occupant, state.failures = None, 0

    def is_bad(self, address: Address) -> bool:
        """Whether it led nowhere several times in a row."""
        return self._state(address).failures >= _BAD_AT

    def _occupy(self, address: Address, node: NodeId) -> None:
        self._states.setdefault(address, _State()).occupant = node
        self._trim()

    def _trim(self) -> None:
        while len(self._states) > OCCUPANTS_LIMIT:
            del self._states[next(iter(self._states))]

    # What to do.

    def targets(self, members: Collection[NodeId], linked: Collection[NodeId]) -> list[Target]:
        """Whom to dial: the members that are not linked and of which an address is known, then announcements and
        addresses by hand of which nobody knows whose they are. What is known to be a linked member's is left out."""
        found: list[Target] = [node for node in members if node not in linked and self.hints(node, linked)]
        for instance in self._neighbours:
            if self._instances.get(instance) not in members and self.hints(instance, linked):
                found.append(instance)
        for address, node in self._by_hand.items():
            if (node or self._state(address).occupant) not in members and self.hints(address, linked):
                found.append(address)
        return found

    def hints(self, target: Target, linked: Collection[NodeId] = ()) -> list[Hint]:
        """The addresses to try for a target, best first, each once.

        One where another member was met that is linked now is left out: it would tell us what we know. When that member
        is gone, the address may be anybody's again.
        """
        best: dict[Address, Kind] = {}
        for address, kind in self._all(target):
            occupant = self._state(address).occupant
            elsewhere = occupant is not None and occupant != target and occupant in linked
            if not elsewhere and address not in self._ours:
                best.setdefault(address, kind)

        def rank(address: Address) -> tuple[int, int, float]:
            state = self._state(address)
            return min(state.failures, _BAD_AT), _ORDER[best[address]], -(state.answered or float("-inf"))

        # Sorting keeps the order of those that rank alike: an announcement's addresses come best first.
        return [Hint(address, best[address]) for address in sorted(best, key=rank)[:HINTS_LIMIT]]

    def _all(self, target: Target) -> Iterable[tuple[Address, Kind]]:
        if isinstance(target, Address):
            return [(target, Kind.BY_HAND)]
        if isinstance(target, str):
            neighbour = self._neighbours.get(target)
            return [(each, Kind.LAN) for each in neighbour.addresses] if neighbour else []
        return [
            *(
                (address, Kind.LAN)
                for instance, neighbour in self._neighbours.items()
                if self._instances.get(instance) == target
                for address in neighbour.addresses
            ),
            *(
                (address, Kind.BY_HAND)
                for address, node in self._by_hand.items()
                if (node or self._state(address).occupant) == target
            ),
            *((address, Kind.WAN) for address in self._punched.get(target, ())),
            *((address, Kind.REMEMBERED) for address in self._remembered.get(target, ())),
            *((address, Kind.LEARNT) for address in self._learnt.get(target, ())),
        ]

    def entries(self) -> list[Entry]:
        """All of it, for people: announcements first, then what was given by hand, remembered and learnt."""
        lines: list[tuple[Address, Kind, NodeId | None]] = []
        for instance, neighbour in self._neighbours.items():
            lines += [(each, Kind.LAN, self._instances.get(instance)) for each in neighbour.addresses]
        lines += [(each, Kind.WAN, node) for node, kept in self._punched.items() for each in kept]
        lines += [(each, Kind.BY_HAND, node or self._state(each).occupant) for each, node in self._by_hand.items()]
        lines += [(each, Kind.REMEMBERED, node) for node, kept in self._remembered.items() for each in kept]
        lines += [(each, Kind.LEARNT, node) for node, learnt in self._learnt.items() for each in learnt]
        return [self._entry(*line) for line in lines]

    def _entry(self, address: Address, kind: Kind, node: NodeId | None) -> Entry:
        state = self._state(address)
        return Entry(
            address=address, kind=kind, node=node, failures=state.failures, why=state.why, answered=state.answered
        )

    def _state(self, address: Address) -> _State:
        return self._states.get(address) or _State()


def _is_unicast(host: str) -> bool:
    """Whether this is an IP address that one other machine may have."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False  # names are for people to give: a lookup would tell others what we look for
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    real = mapped or ip
    is_odd = real.is_multicast or real.is_unspecified or real.is_loopback or real.is_reserved or real.is_link_local
    return not is_odd
