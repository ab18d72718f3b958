"""What to dial when: everybody who is not linked, soon at first and seldom later. No socket; chance is an argument.

Whoever is away may be away for a week, so attempts spread out to one a minute; and whatever could have changed the outcome
(an announcement, a wake from sleep, another network) begins anew at once. The spread is random on both counts: machines
that lost each other at one moment, when a switch was pulled, do not all come back at one moment.
"""

import math
from collections.abc import Callable, Collection
from typing import Final, Generic, TypeVar

import attrs

FIRST_PAUSE: Final = 0.5
"""Seconds after the first attempt that failed; each later pause is twice as long."""

LONGEST_PAUSE: Final = 60.0
"""Seconds between attempts at most."""

NEWS_SPREAD: Final = 0.25
"""Seconds over which the attempts that news sets off are spread: a person does not notice, a small machine does."""

PARALLEL: Final = 8
"""Attempts at once: an attempt that gets no answer takes seconds, and a mesh may have many machines that are off."""

PARALLEL_UNKNOWN: Final = 4
"""Of those, attempts at strangers, of which nobody knows which member they are: whoever floods the LAN with announcements
that never answer cannot keep us from dialling the members whose addresses we know."""

PROVEN_AFTER: Final = 60.0
"""Seconds that a link must last before its end begins with short pauses again: two machines that replace each other's
links, or a peer that drops every link, are not chased twice a second for ever."""

T = TypeVar("T")


@attrs.define
class _Aim:
    """One that we want to be linked with."""

    is_known: bool
    due: float
    failures: int = 0
    running: bool = False


class Dialer(Generic[T]):
    """Call `next_dials` at every deadline and after every call here, start what it gives, and report each with `ended`.

    Times are seconds of one monotonic clock; `chance` gives a number from 0 up to 1.
    """

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._aims: dict[T, _Aim] = {}
        self._brief: dict[T, int] = {}
        """Links in a row that did not last, where there were any."""

    def want(self, targets: Collection[T], known: Collection[T], now: float) -> None:
        """These are to be dialled, of which `known` are members; what is new among them soon. What is not named any more
        is left in peace; an attempt under way is the caller's to end, and to report."""
        for target in targets:
            aim = self._aims.get(target)
            if aim is None:
                brief = self._brief.get(target, 0)
                due = now + (self._pause(brief) if brief else self._spread())
                aim = self._aims[target] = _Aim(True, due, brief)
            aim.is_known = target in known
        wanted = set(targets)
        for target in [each for each, aim in self._aims.items() if each not in wanted and not aim.running]:
            del self._aims[target]

    def next_dials(self, now: float) -> list[T]:
        """What to dial now, within the bounds; each counts as under way from here on."""
        dials = []
        running = [aim for aim in self._aims.values() if aim.running]
        free = PARALLEL - len(running)
        free_unknown = PARALLEL_UNKNOWN - sum(not aim.is_known for aim in running)

        def rank(item: tuple[T, _Aim]) -> tuple[bool, int, float]:
            # Members first; then whoever was tried in vain least often, so that what is new is not behind a flood.
            return not item[1].is_known, item[1].failures, item[1].due

        for target, aim in sorted(self._aims.items(), key=rank):
            if aim.running or aim.due > now or free <= 0 or (not aim.is_known and free_unknown <= 0):
                continue
            aim.running = True
            free -= 1
            free_unknown -= not aim.is_known
            dials.append(target)
        return dials

    def next_deadline(self) -> float:
        """When to ask again, infinity for never. What is due but has no place waits for one that ends."""
        running = [aim for aim in self._aims.values() if aim.running]
        is_full = len(running) >= PARALLEL
        is_full_unknown = sum(not aim.is_known for aim in running) >= PARALLEL_UNKNOWN
        waiting = [
            aim.due
            for aim in self._aims.values()
            if not (aim.running or is_full or (is_full_unknown and not aim.is_known))
        ]
        return min(waiting, default=math.inf)

    def ended(self, target: T, now: float) -> None:
        """An attempt is over. Unless `want` says otherwise it is made again after a pause, longer each time."""
        aim = self._aims.get(target)
        if aim is not None and aim.running:
            aim.running = False
            aim.failures += 1
            aim.due = now + self._pause(aim.failures)

    def unlinked(self, target: T, lasted: float) -> None:
        """A link with this one is over, whoever dialled, after so many seconds. Say so before it is wanted again."""
        if lasted < PROVEN_AFTER:
            self._brief[target] = self._brief.get(target, 0) + 1
        else:
            self._brief.pop(target, None)

    def news(self, now: float, target: T | None = None) -> None:
        """Something changed for one target, or for all: what was tried in vain is tried again now."""
        for each in list(self._aims) if target is None else [target]:
            self._brief.pop(each, None)
            aim = self._aims.get(each)
            if aim is not None:
                aim.failures = 0
                aim.due = min(aim.due, now + self._spread())

    def _pause(self, failures: int) -> float:
        """From half of the pause up to all of it: never at once, and never all together."""
        pause = min(FIRST_PAUSE * 2.0 ** min(failures - 1, 16), LONGEST_PAUSE)
        return pause * (1 + self._chance()) / 2

    def _spread(self) -> float:
        return NEWS_SPREAD * self._chance()
