"""The hybrid logical clock of records: wall time as far as it helps, order always.

48 bits of milliseconds since 1970 and 16 of counter in one number, so that numbers compare as times do. Source: Kulkarni
and others, Logical Physical Clocks (2014), section 3; here with the physical part in front, as a single integer.
"""

from typing import Final

COUNTER_BITS: Final = 16
CLOCK_LIMIT: Final = 1 << 64
"""A clock value is below this."""

DRIFT_LIMIT: Final = 5 * 60 * 1000
"""Milliseconds that a record may be ahead of our clock; beyond, it waits in quarantine, or it would win all last writes."""


def at(milliseconds: int) -> int:
    """The first clock value of that millisecond."""
    return milliseconds << COUNTER_BITS


def milliseconds(clock: int) -> int:
    """The wall time of a clock value, in ms since 1970."""
    return clock >> COUNTER_BITS


def tick(last: int, wall_ms: int) -> int:
    """The next value after `last`, the highest seen and not in quarantine, when the wall clock shows `wall_ms`.

    A counter that overflows runs into the milliseconds, which is what it is for.
    """
    return max(last + 1, at(wall_ms))


def is_ahead(clock: int, wall_ms: int) -> bool:
    """Whether a record with this clock belongs in quarantine now."""
    return milliseconds(clock) > wall_ms + DRIFT_LIMIT
