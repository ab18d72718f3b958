"""Whom a connector tries, in which order, and when it stops: decided here without a socket, acted on by the driver.

The rule (docs/protocol/pairing.md, "Tries"): one candidate at a time, three tries in all, whatever was announced. With
a code only its number is tried; with a bare passphrase only windows without a number.
"""

import enum
from typing import Final

import attrs

from meshd.errors import ConnectionLostError, NobodyFoundError, TetherError
from meshd.model.address import Address
from meshd.model.candidate import Candidate, Sighting
from meshd.protocol.admission import TRIES
from meshd.protocol.closing import wrong_words

RETRY_AFTER: Final = 0.5
"""Seconds before a candidate that did not answer, or was busy, is tried again."""

GRACE: Final = 0.5
"""Seconds that a connector whose known candidates all failed listens for another: answers take 0.2 s on a LAN."""

LAN_TIME: Final = 2.0
"""Seconds from its beginning that a search listens to a LAN, however soon everything else has failed."""

CANDIDATES_LIMIT: Final = 64
"""Most candidates held of those that are meant, and of the others; more are noise or an attack, and then an address by
hand is the way. Counted apart, so that announcements of other numbers cannot crowd out the right one."""


WAYS_LEFT: Final = (
    "What is left: a UDP port opened by hand or by the router on one side, and --peer HOST:PORT on the other; or another "
    "network for one of the two."
)
"""For who cannot be joined by punching."""


class Miss(enum.Enum):
    """How an attempt at a candidate ended without a pairing."""

    UNREACHABLE = enum.auto()
    """No answer, or none to the end; costs nothing, is tried again."""
    BUSY = enum.auto()
    """Others are at it just now; costs nothing, is tried again."""
    UNFIT = enum.auto()
    """It takes nobody any more, or cannot be met at all; costs nothing, is not tried again."""
    WRONG = enum.auto()
    """It does not hold our words; a try is spent."""
    SILENT = enum.auto()
    """It did not answer our proof; a try is spent."""


SPENT: Final = frozenset({Miss.WRONG, Miss.SILENT})
"""The misses that cost a try: a proof was sent, and the answer was no, or none."""


@attrs.frozen
class Attempt:
    """Dial this candidate and pair with it; report with `missed` if that fails."""

    candidate: Candidate


@attrs.frozen
class Wait:
    """Nothing to do before `until`, unless something is seen."""

    until: float


@attrs.frozen
class GiveUp:
    """The search is over."""

    error: TetherError


Step = Attempt | Wait | GiveUp


class Search:
    """A connector's search for its listener. Times are seconds of one monotonic clock."""

    def __init__(self, number: int | None, fixed: Address | None, now: float, timeout: float) -> None:
        """Look for the code's `number` (None: a window with a chosen passphrase), or only at the address `fixed`."""
        self._number = number
        self._fixed = fixed is not None
        self.deadline = now + timeout
        self._candidates: dict[str, Candidate] = {}
        self._retry_at: dict[str, float] = {}
        self._ended: dict[str, Miss] = {}
        self._last_end = now
        self._why: dict[str, str] = {}
        self._began = now
        self._wan_open, self._wan_note = False, ""
        self._wan_end: tuple[str, str] | None = None
        if fixed is not None:
            self._candidates[""] = Candidate("", number, (fixed,))

    def seen(self, sighting: Sighting) -> None:
        """Take what was heard on the LAN."""
        if self._fixed:
            return
        if not isinstance(sighting, Candidate):
            if sighting.instance not in self._ended:
                self._candidates.pop(sighting.instance, None)
        elif sighting.addresses:
            alike = [each for each in self._candidates.values() if self._is_meant(each) == self._is_meant(sighting)]
            if sighting.instance in self._candidates or len(alike) < CANDIDATES_LIMIT:
                self._candidates[sighting.instance] = sighting

    def wan_began(self) -> None:
        """Servers are asked as well: what fails meanwhile is not the last of it."""
        self._wan_open = True

    def wan_said(self, what: str) -> None:
        """What is in the way of a server's answer, for who gives up before it comes."""
        self._wan_note = what

    def wan_ended(self, why: str, advice: str) -> None:
        """Nobody will be found by rendezvous any more, for this reason, and this can be done. What a LAN shows is not waited
        for any longer."""
        self._wan_open, self._wan_end = False, (why, advice)

    def missed(self, candidate: Candidate, miss: Miss, now: float, why: str = "") -> None:
        """Report an attempt that failed, and why."""
        self._why[candidate.instance] = why.rstrip(".")
        if miss in (Miss.UNREACHABLE, Miss.BUSY):
            self._retry_at[candidate.instance] = now + RETRY_AFTER
        else:
            self._ended[candidate.instance] = miss
            self._last_end = now

    def _is_meant(self, candidate: Candidate) -> bool:
        return self._fixed or candidate.number == self._number

    @property
    def _meant(self) -> list[Candidate]:
        return [each for each in self._candidates.values() if self._is_meant(each)]

    def next_step(self, now: float) -> Step:
        """What to do now."""
        spent = sum(miss in SPENT for miss in self._ended.values())
        untried = [each for each in self._meant if each.instance not in self._ended]
        if spent >= TRIES or (spent and not untried and not self._wan_open) or (self._fixed and not untried):
            settled = self._last_end + (0 if self._fixed else GRACE)
            return GiveUp(self._failure(untried)) if now >= settled else Wait(settled)
        if now >= self.deadline:
            return GiveUp(self._failure(untried) if spent else self._nobody())
        if not untried:
            # A server that cannot be reached is known at once; a LAN takes a moment to answer.
            until = self.deadline if self._wan_end is None else self._began + LAN_TIME
            return GiveUp(self._nobody()) if now >= until else Wait(min(until, self.deadline))
        due = min(untried, key=lambda each: self._retry_at.get(each.instance, 0))
        at = self._retry_at.get(due.instance, 0)
        return Attempt(due) if at <= now else Wait(min(at, self.deadline))

    def _failure(self, untried: list[Candidate]) -> TetherError:
        misses = self._ended.values()
        if untried:
            return NobodyFoundError(
                f"More than {TRIES} listeners could be meant, and none of the first {TRIES} holds these words: "
                + "; ".join(str(each) for each in self._meant)
                + ".",
                "Use the code that the listener shows, or name its address with --peer HOST:PORT.",
            )
        if Miss.WRONG in misses:
            return wrong_words()
        if Miss.SILENT in misses:
            return ConnectionLostError(
                "The listener fell silent after this side had proved that it holds the words; that try counts.",
                "If that happens again, use other words.",
            )
        return self._nobody()

    def _nobody(self) -> NobodyFoundError:
        if self._fixed:
            why = self._why.get("") or f"Nobody answered at {self._candidates[''].addresses[0]}"
            gone = "" in self._ended
            asked = "Is the listener running, is the port the one it shows, and does a firewall let UDP through?"
            return NobodyFoundError(f"{why}.", "" if gone else asked)
        met = [each for each in self._meant if each.instance in self._why]
        if met:
            said = "; ".join(f"{each}: {self._why[each.instance] or 'no answer'}" for each in met)
            return NobodyFoundError(
                f"A listener is announced, but it could not be met ({said}).",
                "If it is not busy, a firewall may drop UDP on its port; or name its address with --peer HOST:PORT.",
            )
        if self._wan_open:
            so_far = self._wan_note or "The rendezvous servers had not answered by then."
            return NobodyFoundError(f"The listener was not met in time. {so_far}", "Does it still wait? Try again.")
        if self._wan_end is not None:
            why, advice = self._wan_end
            return NobodyFoundError(f"The listener was met neither on this network nor by rendezvous. {why}", advice)
        wanted = "with a chosen passphrase" if self._number is None else f"with number {self._number}"
        others = [each for each in self._candidates.values() if each not in self._meant]
        seen = f" Others are: {'; '.join(str(each) for each in others)}." if others else ""
        return NobodyFoundError(
            f"No listener {wanted} was heard on this network.{seen}",
            "If one is running, multicast may be blocked: name its address with --peer HOST:PORT.",
        )
