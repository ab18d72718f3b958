"""Blocking work off the event loop: one door, so that a simulated run, whose clock does not wait for threads, stays inline."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import trio

T = TypeVar("T")


class Offload(Protocol):
    """Runs blocking work and waits for it.

    `abandon`: on cancellation leave the work to its thread and go. Only for work that may block for ever and whose result
    nobody misses (a read from a person's pipe); disk work is waited for, or it would race with the cleaning up after it.
    """

    async def __call__(self, work: Callable[[], T], *, abandon: bool = False) -> T: ...


async def in_thread(work: Callable[[], T], *, abandon: bool = False) -> T:
    """Offload to one of trio's worker threads."""
    return await trio.to_thread.run_sync(work, abandon_on_cancel=abandon)


async def inline(work: Callable[[], T], *, abandon: bool = False) -> T:
    """Do the work at once, here. For virtual time, where a thread's work would take no time at all or all of it."""
    await trio.lowlevel.checkpoint()
    return work()
