"""Who of those that dial us is let in: places for strangers, places in all, and how many handshakes a second.

Whoever finds no place hears nothing: QUIC's client repeats its first datagram, ever later, and gets in if there is one by then.
"""

import ipaddress
from collections import Counter
from enum import StrEnum

from meshd.drivers.quic_connection import Connection
from meshd.drivers.quic_terms import Limits


class NoPlace(StrEnum):
    """Why somebody was not let in; the names are counted by."""

    FULL = "full"
    """`Limits.connections` are open."""
    STRANGERS = "strangers"
    """Too many that nobody has vouched for."""
    SOURCE = "source"
    """Too many of those from the same source."""
    HANDSHAKES = "handshakes"
    """More than `Limits.handshakes_per_second`."""


class Door:
    """Counts accepted connections, so that a newcomer costs the same however many there are."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._inside: set[Connection] = set()
        self._strangers: dict[Connection, bytes] = {}
        self._of_source = Counter[bytes]()
        self._handshakes, self._counted_at = self._most_at_once, now
        self.refused = Counter[NoPlace]()
        """How often somebody was not let in; a client that repeats itself counts again."""

    @property
    def inside(self) -> int:
        """Accepted connections that are not closed."""
        return len(self._inside)

    @property
    def full(self) -> bool:
        """Whether the places in all are taken."""
        return self._limits.connections is not None and len(self._inside) >= self._limits.connections

    def turn_away_if_full(self) -> bool:
        """Whether a newcomer is to get no answer at all, not even a Retry."""
        if self.full:
            self.refused[NoPlace.FULL] += 1
        return self.full

    def lets_in(self, host: str, now: float) -> bool:
        """Whether a handshake may begin with who has shown to be at this address; it counts as one begun."""
        why = self._objection(host, now)
        if why is not None:
            self.refused[why] += 1
        elif self._limits.handshakes_per_second is not None:
            self._handshakes -= 1
        return why is None

    def came(self, connection: Connection) -> None:
        """It was let in, and is a stranger."""
        source = source_of(connection.peer.host)
        self._inside.add(connection)
        self._strangers[connection] = source
        self._of_source[source] += 1

    def known(self, connection: Connection) -> None:
        """It is a stranger no more, if it was one."""
        source = self._strangers.pop(connection, None)
        if source is not None:
            self._of_source[source] -= 1
            if not self._of_source[source]:
                del self._of_source[source]

    def left(self, connection: Connection) -> None:
        """It is closed."""
        self.known(connection)
        self._inside.discard(connection)

    @property
    def _most_at_once(self) -> float:
        return self._limits.handshakes_per_second or 0.0

    def _objection(self, host: str, now: float) -> NoPlace | None:
        if self.full:
            return NoPlace.FULL
        if len(self._strangers) >= self._limits.unauthenticated:
            return NoPlace.STRANGERS
        if self._of_source.get(source_of(host), 0) >= self._limits.unauthenticated_per_source:
            return NoPlace.SOURCE
        if (rate := self._limits.handshakes_per_second) is not None:
            # One second's worth may come at once.
            self._handshakes = min(self._most_at_once, self._handshakes + (now - self._counted_at) * rate)
            self._counted_at = now
            if self._handshakes < 1:
                return NoPlace.HANDSHAKES
        return None


def source_of(host: str) -> bytes:
    """What counts as one source: an IPv4 address (4 bytes), or an IPv6 /64 (8 bytes), which is what one customer holds."""
    packed = ipaddress.ip_address(host).packed
    return packed[:8] if len(packed) == 16 else packed
