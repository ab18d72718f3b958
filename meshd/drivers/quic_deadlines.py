"""When which connection wants to be looked at: a heap, so that a wake costs as much as is due, not as much as there is."""

import heapq
from typing import Final

from meshd.drivers.quic_connection import Connection

_SLACK: Final = 64
"""Outdated entries that are kept in any case: with few connections the heap is rebuilt once in a while, not all the time."""


class Deadlines:
    """The deadlines of an endpoint's connections. One that moves leaves its old entry behind, to be passed over later."""

    def __init__(self) -> None:
        self._when: dict[Connection, float] = {}
        self._heap: list[tuple[float, int, Connection]] = []
        self._count = 0

    def put(self, connection: Connection) -> None:
        """Take a connection's deadline as it is now; infinity is never due."""
        if self._when.get(connection) == connection.deadline:
            return
        self._when[connection] = connection.deadline
        self._push(connection.deadline, connection)
        if len(self._heap) > 2 * len(self._when) + _SLACK:
            self._heap.clear()
            for each, when in self._when.items():
                self._push(when, each)

    def drop(self, connection: Connection) -> None:
        """Forget a connection."""
        self._when.pop(connection, None)

    def due(self, now: float) -> list[Connection]:
        """Take out those whose time has come: each is `put` again when it has a new deadline."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            when, _, connection = heapq.heappop(self._heap)
            if self._when.get(connection) == when:
                del self._when[connection]
                found.append(connection)
        return found

    def next(self) -> float:
        """The nearest deadline, or infinity."""
        while self._heap and self._when.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else float("inf")

    def _push(self, when: float, connection: Connection) -> None:
        self._count += 1  # two at one moment are told apart by age, since connections have no order
        heapq.heappush(self._heap, (when, self._count, connection))
