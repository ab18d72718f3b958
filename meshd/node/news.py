"""What has happened of late: kept for who asks, handed on to who follows. Nobody who is slow holds anybody up."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

import attrs
import trio

from meshd.notices import BlobProgress, Notice, RecordsStored

KEPT: Final = 256
"""Notices that are kept in memory; an hour or a day of what a quiet mesh has to tell."""


@attrs.define(eq=False)
class Listener:
    """Somebody who follows. `kept` is what had happened before; with each notice goes its time, on time.monotonic."""

    kept: tuple[tuple[Notice, float], ...]
    _waiting: deque[tuple[Notice, float]]
    _arrived: trio.Event = attrs.field(factory=trio.Event)
    lost: int = 0
    """Notices that came faster than they were taken."""

    def put(self, happened: tuple[Notice, float]) -> None:
        if len(self._waiting) == self._waiting.maxlen:
            self.lost += 1
        self._waiting.append(happened)
        self._arrived.set()

    async def next(self) -> list[tuple[Notice, float]]:
        """All that waits, once something does."""
        while not self._waiting:
            self._arrived = trio.Event()
            await self._arrived.wait()
        found = list(self._waiting)
        self._waiting.clear()
        return found


class News:
    """One a daemon. `tell` is the `Notify` of all its parts; `also` sees every notice, for the log."""

    def __init__(self, also: Callable[[Notice], None]) -> None:
        self._also = also
        self._kept: deque[tuple[Notice, float]] = deque(maxlen=KEPT)
        self._listeners: set[Listener] = set()

    def tell(self, notice: Notice) -> None:
        """Something happened."""
        self._also(notice)
        happened = notice, time.monotonic()
        if not isinstance(notice, BlobProgress | RecordsStored):  # by the thousand, and worth nothing later
            self._kept.append(happened)
        for listener in self._listeners:
            listener.put(happened)

    @contextlib.contextmanager
    def follow(self, queued: int) -> Iterator[Listener]:
        """Hear of everything from now on, while the block lasts."""
        listener = Listener(tuple(self._kept), deque(maxlen=queued))
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
