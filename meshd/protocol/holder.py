"""One member of whom blobs are asked: what it has said, what it owes, how fast it is. See fetching.py."""

import enum
from typing import Final

import attrs

from meshd.model.chunks import CHUNK
from meshd.model.identity import NodeId

WINDOW_LIMIT: Final = 8
"""Chunks asked for and not here, of one holder: 8 MiB cover 0.17 s at 50 MiB/s, which is more than a LAN needs."""

FIRST_WINDOW: Final = 2
"""Chunks asked of a holder whose speed is unknown: one under way and one waiting behind it."""

AHEAD: Final = 0.25
"""Seconds of a holder's work that are asked for ahead: a slow one then never sits on many chunks."""

SILENCE: Final = 30.0
"""Seconds without a byte after which a holder that owes an answer is set aside: the link lives, its program does not."""

RETRY: Final = 5.0
RETRY_LIMIT: Final = 60.0
"""Seconds before a holder that had nothing is asked again: at first, and at most; each time twice as long."""


@attrs.frozen
class Offer:
    """What a holder says the blob is; with a record that announces it, what its author signed."""

    size: int
    list_digest: bytes


class Knows(enum.Enum):
    """What a holder has said."""

    NOTHING = enum.auto()
    ASKED = enum.auto()
    HAS = enum.auto()
    HAS_NOT = enum.auto()
    ASIDE = enum.auto()


@attrs.define(eq=False)
class Holder:
    """A member, from when its link comes until it goes. Times are seconds of the fetch's clock."""

    node: NodeId
    heard: float
    """When bytes came from it, or it began to owe an answer."""

    knows: Knows = Knows.NOTHING
    offer: Offer | None = None
    outstanding: dict[int, float] = attrs.field(factory=dict)
    """Chunks asked for, oldest first, and when: a holder answers in that order."""

    listing: bool = False
    """A part of the list is asked of it."""

    retry_at: float = 0.0
    retry: float = RETRY
    is_damaged: bool = False
    """It said that its copy is, and has delivered nothing since."""

    last: float = 0.0
    """When its last chunk came."""

    _moved: float = 0.0
    _busy: float = 0.0

    @property
    def owes(self) -> bool:
        """Whether an answer of it is due."""
        return self.knows is Knows.ASKED or self.listing or bool(self.outstanding)

    @property
    def rate(self) -> float | None:
        """Bytes a second while it had something to do, recent chunks counting most; None before the first."""
        return self._moved / max(self._busy, 1e-3) if self._moved else None

    @property
    def window(self) -> int:
        """Chunks that may be asked of it at once."""
        rate = self.rate
        return FIRST_WINDOW if rate is None else min(WINDOW_LIMIT, 1 + int(rate * AHEAD / CHUNK))

    def took(self, asked: float, size: int, now: float) -> None:
        """A chunk came that was asked for at `asked`. The last five or so make up the rate."""
        self._moved, self._busy = self._moved * 0.8 + size, self._busy * 0.8 + now - max(asked, self.last)
        self.last = now

    def seconds(self, chunks: int) -> float:
        """How long it takes for so many chunks, as far as we know; of an unknown one we expect the best."""
        rate = self.rate
        return 0.0 if rate is None else chunks * CHUNK / rate

    def due(self, index: int, now: float) -> float:
        """Seconds until a chunk that it owes is here; one that is late is expected to be as late again."""
        position = list(self.outstanding).index(index) + 1
        since = now - max(self.last, self.outstanding[index])
        return max(self.seconds(position) - since, since)

    def delivered(self) -> None:
        """A chunk of it was right: what it failed at before is past. To say that it has the blob is not enough."""
        self.is_damaged, self.retry = False, RETRY

    def has_not(self, now: float) -> None:
        """It has nothing to give now; it is asked again later, and each time later still."""
        self.knows, self.retry_at = Knows.HAS_NOT, now + self.retry
        self.retry = min(2 * self.retry, RETRY_LIMIT)
