"""Fetching many small blobs at once: docs/protocol/blobs.md, "Many small ones".

A directory of ten thousand files must not be ten thousand round trips: each request names as many as fit one answer.
Sans-IO; the driver checks and stores what comes. Blobs that no holder brings are `left` for a Fetch each, which waits.
"""

import enum
from collections import deque
from collections.abc import Collection, Sequence
from typing import Final

import attrs

from meshd.model.identity import NodeId
from meshd.protocol.holder import SILENCE
from meshd.wire.fetch import SMALL_BYTES, SMALL_COUNT

AT_ONCE: Final = 2
"""Requests under way at one holder: one is answered while the answer to the other travels."""


class Outcome(enum.Enum):
    """What became of one blob of an answer, its bytes checked against its digest."""

    RIGHT = enum.auto()
    WRONG = enum.auto()
    NOT_THERE = enum.auto()


@attrs.define(eq=False)
class _Holder:
    heard: float
    asked: list[tuple[bytes, ...]] = attrs.field(factory=list)
    has_nothing_new: bool = False
    """It has failed all that is to be had; cleared when something comes back that it was not asked for."""


class Gather:
    """Some small blobs on their way. `wanted` are digests and sizes, none of them twice."""

    def __init__(self, wanted: Sequence[tuple[bytes, int]]) -> None:
        self._sizes = dict(wanted)
        self._todo = deque(self._sizes)
        self._failed: dict[bytes, set[NodeId]] = {}
        self._holders: dict[NodeId, _Holder] = {}

    @property
    def is_over(self) -> bool:
        """Whether nothing is under way and nobody is left to ask for what is missing."""
        return not any(holder.asked or self._has_use_for(node) for node, holder in self._holders.items())

    @property
    def left(self) -> list[bytes]:
        """What nobody brought."""
        return list(self._sizes)

    def add_holder(self, node: NodeId, now: float) -> None:
        """A member is linked."""
        self._holders.setdefault(node, _Holder(now))

    def drop_holder(self, node: NodeId, now: float) -> None:
        """Its link is gone, or it sent something wrong: what it owes is asked of others."""
        holder = self._holders.pop(node, None)
        for asked in holder.asked if holder else ():
            self._return(asked)

    def heard(self, node: NodeId, now: float) -> None:
        """Bytes came from there."""
        if (holder := self._holders.get(node)) is not None:
            holder.heard = now

    def next_request(self, full: Collection[NodeId], now: float) -> tuple[NodeId, tuple[bytes, ...]] | None:
        """Whom to ask for which, now; the driver does ask."""
        for node, holder in self._holders.items():
            if node not in full and len(holder.asked) < AT_ONCE and self._has_use_for(node):
                batch = self._batch(node)
                if batch:
                    if not holder.asked:
                        holder.heard = now
                    holder.asked.append(batch)
                    return node, batch
                holder.has_nothing_new = True
        return None

    def asked(self, node: NodeId, digests: tuple[bytes, ...]) -> bool:
        """Whether just these blobs were asked of this holder, and it owes the answer."""
        holder = self._holders.get(node)
        return holder is not None and digests in holder.asked

    def answered(self, node: NodeId, asked: tuple[bytes, ...], outcomes: Sequence[Outcome], now: float) -> None:
        """An answer to what is `asked` came, and was checked: what became of the first so many of it."""
        if self.asked(node, asked):
            self._holders[node].asked.remove(asked)
        # Else it was dropped while its answer was checked: what was right is here all the same.
        for digest, outcome in zip(asked, outcomes, strict=False):
            if outcome is Outcome.RIGHT:
                self._sizes.pop(digest, None)
            else:
                self._failed.setdefault(digest, set()).add(node)
        self._return(asked)

    def next_deadline(self) -> float | None:
        """When `on_deadline` is due."""
        return min((holder.heard + SILENCE for holder in self._holders.values() if holder.asked), default=None)

    def on_deadline(self, now: float) -> None:
        """Give up holders that owe an answer and have fallen silent."""
        for node, holder in list(self._holders.items()):
            if holder.asked and now >= holder.heard + SILENCE:
                self.drop_holder(node, now)

    def _has_use_for(self, node: NodeId) -> bool:
        return bool(self._todo) and not self._holders[node].has_nothing_new

    def _batch(self, node: NodeId) -> tuple[bytes, ...]:
        """The next blobs for this holder, about one answer of them."""
        batch: list[bytes] = []
        passed: list[bytes] = []
        size = 0
        while self._todo and len(batch) < SMALL_COUNT and size < SMALL_BYTES:
            digest = self._todo.popleft()
            if digest not in self._sizes:
                continue
            if node in self._failed.get(digest, ()):
                passed.append(digest)
                continue
            batch.append(digest)
            size += self._sizes[digest]
        self._todo.extendleft(reversed(passed))
        return tuple(batch)

    def _return(self, digests: Sequence[bytes]) -> None:
        back = [digest for digest in digests if digest in self._sizes]
        self._todo.extendleft(reversed(back))
        if back:
            for holder in self._holders.values():
                holder.has_nothing_new = False
