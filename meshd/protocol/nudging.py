"""When the reader of unread mail is told, and reminded: docs/protocol/mail.md, "Wake". No terminal, no store, no clock.

What is told is that there is mail, all of it that is unread at that moment: the **batch**. So a burst is one line, and so is
what came in a night. What comes later is told in a batch of its own after a pause, and the longer nobody reads, the longer
is the pause: whoever floods an agent that is away gets a few lines an hour into its terminal, and not one for each message.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

REMINDER_GAPS: Final = (300.0, 600.0, 1800.0)
"""Seconds from one line about a batch to the next reminder: 5, 15 and 45 minutes after it was told, and later where the
pane was busy. Gaps and not moments, so that what a pause held back does not come in a row when it ends."""

PAUSE_READ: Final = 1.0
"""Seconds between two tellings at least, where all that was told has been read: somebody is there, and answers come fast."""

PAUSE_UNREAD: Final = 30.0
"""The same where something told is unread: the reader knows already that there is mail. Doubled with each such telling."""

PAUSE_LONGEST: Final = 2700.0
"""Where that ends: as long as a batch is reminded of."""

RETRY: Final = (2.0, 60.0)
"""Seconds after a try that failed (a pane was busy, a draft stood there) until the next, doubled from the first to the
second. A look costs a few short processes, and whoever types is done within a minute or away for long."""


@attrs.frozen
class Outcome:
    """What came of one try to tell a reader."""

    told: bool
    what: str
    """In words, without anything of a message."""


@attrs.frozen
class Tell:
    """Tell this agent now."""

    agent: str
    letters: tuple[bytes, ...]
    """All that is unread, oldest first; never empty."""

    reminder: int
    """Which one this is, from 1; 0 for the first line about a batch."""


@attrs.define
class _Reader:
    unread: tuple[bytes, ...] = ()
    batch: frozenset[bytes] = frozenset()
    """What was told and is unread."""
    told_at: float | None = None
    reminders: int = 0
    unheeded: int = 0
    """Batches told in a row without one of their messages being read."""
    failures: int = 0
    not_before: float = -math.inf
    is_paused: bool = False
    running: Tell | None = None

    @property
    def has_news(self) -> bool:
        return any(each not in self.batch for each in self.unread)

    def due(self) -> float:
        """When to tell, infinity for never."""
        if self.is_paused or self.running is not None or not self.unread:
            return math.inf
        return max(min(self._news_due(), self._reminder_due()), self.not_before)

    def _news_due(self) -> float:
        if not self.has_news:
            return math.inf
        return -math.inf if self.told_at is None else self.told_at + self._pause()

    def _reminder_due(self) -> float:
        if not self.batch or self.told_at is None or self.reminders >= len(REMINDER_GAPS):
            return math.inf
        return self.told_at + REMINDER_GAPS[self.reminders]

    def _pause(self) -> float:
        if not self.batch:
            return PAUSE_READ
        return min(PAUSE_UNREAD * 2.0 ** min(max(self.unheeded - 1, 0), 16), PAUSE_LONGEST)

    def tell(self, agent: str, now: float) -> Tell:
        is_new = self.has_news and self._news_due() <= now
        self.running = Tell(agent, self.unread, 0 if is_new else self.reminders + 1)
        return self.running


class Nudging:
    """Call `next_tells` at every deadline and after every call here, carry out what it gives, report each with `ended`.

    Only agents that were added are told. Times are seconds of one monotonic clock.
    """

    def __init__(self) -> None:
        self._readers: dict[str, _Reader] = {}
        self._all_paused = False

    # Settings.

    def add(self, agent: str) -> None:
        """This agent has a way to be told. Nothing changes for one that had."""
        self._readers.setdefault(agent, _Reader())

    def remove(self, agent: str) -> None:
        """It has none any more. A try that runs counts for nothing."""
        self._readers.pop(agent, None)

    def pause(self, agent: str | None, paused: bool) -> None:
        """Tell this agent, or with None everybody, nothing until that is taken back. It counts from now on."""
        if agent is None:
            self._all_paused = paused
        elif agent in self._readers:
            self._readers[agent].is_paused = paused

    def restore(self, agent: str, batch: Iterable[bytes], reminders: int, told_at: float) -> None:
        """What an agent was told before this program started anew, before anything is said of its unread mail."""
        reader = self._readers[agent]
        reader.batch, reader.reminders, reader.told_at = frozenset(batch), reminders, told_at
        reader.unheeded = 1

    # What happens.

    def unread(self, agent: str, letters: Sequence[bytes]) -> None:
        """All that is unread now, oldest first. What was and is not has been read, closed, or has expired."""
        reader = self._readers.get(agent)
        if reader is None:
            return
        reader.unread = tuple(dict.fromkeys(letters))
        left = reader.batch & frozenset(reader.unread)
        if left != reader.batch:
            reader.unheeded = 0
        if not left:
            reader.reminders = 0
        if not reader.unread:
            reader.failures = 0
        reader.batch = left

    def ended(self, tell: Tell, told: bool, now: float) -> None:
        """A try is over. One that failed costs no reminder."""
        reader = self._readers.get(tell.agent)
        if reader is None or reader.running is not tell:
            return  # it was taken off meanwhile
        reader.running = None
        if not told:
            first, longest = RETRY
            reader.not_before = now + min(first * 2.0 ** min(reader.failures, 16), longest)
            reader.failures += 1
            return
        reader.failures, reader.not_before, reader.told_at = 0, -math.inf, now
        reader.batch = frozenset(tell.letters) & frozenset(reader.unread)
        reader.reminders = tell.reminder if reader.batch else 0
        if not tell.reminder:
            reader.unheeded = reader.unheeded + 1 if reader.batch else 0

    # What to do.

    def next_tells(self, now: float) -> list[Tell]:
        """Whom to tell now, one try at a time for each agent."""
        if self._all_paused:
            return []
        return [reader.tell(agent, now) for agent, reader in self._readers.items() if reader.due() <= now]

    def next_deadline(self) -> float:
        """When to ask again, infinity for never."""
        return math.inf if self._all_paused else min((each.due() for each in self._readers.values()), default=math.inf)

    def is_wanted(self, tell: Tell) -> bool:
        """Whether a try that runs is still to be made: not paused since, and something of it unread."""
        reader = self._readers.get(tell.agent)
        if reader is None or reader.running is not tell or self._all_paused or reader.is_paused:
            return False
        return not frozenset(tell.letters).isdisjoint(reader.unread)

    # How it stands.

    def told(self, agent: str) -> frozenset[bytes]:
        """What the agent was told and has not read."""
        reader = self._readers.get(agent)
        return frozenset() if reader is None else reader.batch

    def reminders(self, agent: str) -> int:
        """How many reminders the present batch has had."""
        reader = self._readers.get(agent)
        return 0 if reader is None else reader.reminders

    def told_at(self, agent: str) -> float | None:
        """When the agent was last told, None for never."""
        reader = self._readers.get(agent)
        return None if reader is None else reader.told_at
