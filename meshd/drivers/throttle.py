"""The upload limit: how many bytes a second this machine gives away, over all links together."""

from typing import Final

import trio

SLICE: Final = 64 * 1024
"""Bytes let through at once under a limit: small enough that links take turns and no receiver thinks us dead."""

BURST: Final = 0.1
"""Seconds of the limit that may be saved up while nothing is sent."""


class Throttle:
    """A bucket of bytes that fills at `rate` a second; without a rate it is never empty."""

    def __init__(self, rate: int | None = None) -> None:
        self._rate: int | None = None
        self._tokens, self._filled = 0.0, float("-inf")
        self._changed = trio.Event()
        self._turn = trio.Lock()  # fair: links get their slices one after another
        self.set_rate(rate)

    @property
    def rate(self) -> int | None:
        """Bytes a second, or None."""
        return self._rate

    def set_rate(self, rate: int | None) -> None:
        """From now on so many bytes a second, at least 1; None for no limit. Who waits, waits by the new rate."""
        assert rate is None or rate > 0
        self._rate = rate
        self._tokens = 0.0
        self._filled = float("-inf")
        self._changed.set()
        self._changed = trio.Event()

    async def take(self, size: int) -> None:
        """Wait until `size` bytes, SLICE at most, may go."""
        assert size <= SLICE
        async with self._turn:
            while (wait := self._missing(size)) > 0:
                changed = self._changed
                with trio.move_on_after(wait):
                    await changed.wait()
            self._tokens -= size

    def _missing(self, size: int) -> float:
        """Seconds until there are `size` tokens."""
        if self._rate is None:
            self._tokens = float(size)
            return 0.0
        now = trio.current_time()
        full = max(BURST * self._rate, float(SLICE))
        gained = (now - self._filled) * self._rate if self._filled > float("-inf") else full
        self._tokens, self._filled = min(full, self._tokens + gained), now
        # A sum of many small gains may fall a hair short of whole bytes, and a wait of no length would not end.
        return 0.0 if self._tokens >= size - 1e-3 else (size - self._tokens) / self._rate
