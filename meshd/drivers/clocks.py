"""The clocks that records need: what people call the time, and one that counts on while the machine sleeps."""

import time
from collections.abc import Callable

import attrs


@attrs.frozen
class Clocks:
    """Both in milliseconds; tests and simulations give their own."""

    wall_ms: Callable[[], int]
    """Since 1970, as the system has it: anybody may set it."""

    boot_ms: Callable[[], int]
    """From some moment on, never set, and counting through a suspend: ages are counted by it."""

    @classmethod
    def of_system(cls) -> "Clocks":
        """This machine's. CLOCK_MONOTONIC where there is no CLOCK_BOOTTIME: macOS's counts through a suspend as well."""
        which = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
        return cls(lambda: time.time_ns() // 1_000_000, lambda: time.clock_gettime_ns(which) // 1_000_000)
