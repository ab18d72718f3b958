"""Time that this machine lost: it slept, or the program was stopped. Whoever is told looks after its links at once.

Two signs. While a machine sleeps its boot-time clock runs on and the others stand still, so the two drift apart. And a
short timer that fires late shows a program that was stopped (SIGSTOP, a frozen container, a virtual machine that was
moved), where both clocks ran on.
"""

import sys
import time
from collections.abc import Callable
from typing import Final, Never

import trio

LOOK_EVERY: Final = 0.5
"""Seconds between two looks: a fresh link is wanted within five of a wake."""

SLEPT: Final = 1.0
"""Seconds that the clocks must drift apart: adjusting them makes milliseconds, and a sleep of less harms no link."""

STOPPED: Final = 5.0
"""Seconds that the timer must be late: a busy machine may make it wait for a second or two."""

Clock = Callable[[], float]
"""Seconds since some moment."""


def boot_clock() -> float:
    """Seconds since boot, sleep included."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.clock_gettime(time.CLOCK_MONOTONIC)  # on macOS this one counts sleep


def awake_clock() -> float:
    """Seconds that this machine was awake since boot."""
    if sys.platform == "darwin":
        return time.clock_gettime(time.CLOCK_UPTIME_RAW)
    return time.clock_gettime(time.CLOCK_MONOTONIC)


async def watch_for_wakes(
    woke: Callable[[float], None], *, boot: Clock = boot_clock, awake: Clock = awake_clock
) -> Never:
    """Call `woke` with the seconds that were lost, each time that some were. `woke` never waits; tests give the clocks."""
    while True:
        booted, began = boot(), awake()
        await trio.sleep(LOOK_EVERY)
        passed = boot() - booted
        slept = passed - (awake() - began)
        late = passed - LOOK_EVERY
        if slept > SLEPT or late > STOPPED:
            woke(max(slept, late))
