"""A pairing window: everybody who comes gets a machine, the first who holds the words gets in."""

from typing import Final

import attrs
import trio

from meshd import status
from meshd.drivers.exchange import READ_SIZE
from meshd.drivers.pairing import PAKE_SLOTS, binding_of, pair, system_entropy
from meshd.drivers.quic import Connection, ConnectionClosedError, Stream, StreamResetError
from meshd.drivers.threads import Offload, in_thread
from meshd.errors import NobodyFoundError, TetherError, WrongPassphraseError
from meshd.protocol.admission import TRIES, Window
from meshd.protocol.handshake import Role
from meshd.protocol.pairing import PAIRING_DEADLINE, Paired, Pairing
from meshd.wire.constants import CloseCode
from meshd.wire.messages import Profile

PING: Final = 3.0
SILENCE: Final = 10.0
"""Seconds. Once paired something is always outstanding: ask for a sign of life, and call silence a lost link."""


@attrs.frozen
class Met:
    """A peer that holds the words, and the admitted connection to it."""

    connection: Connection
    paired: Paired


@attrs.define(kw_only=True)
class Pairings:
    """What all pairings of one side share: the words with their window of tries, one static key, and what is said.

    `static_private` is the machine's own Noise key (32 bytes) where a mesh is joined; a handoff uses one made for it.
    """

    secret: bytes = attrs.field(repr=False)
    profile: Profile
    observer: status.Observer
    offload: Offload = in_thread
    static_private: bytes = attrs.field(repr=False)
    window: Window = attrs.field(factory=Window, init=False)
    slots: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(PAKE_SLOTS), init=False)

    def machine(self, connection: Connection, began: float) -> Pairing:
        """The machine for one connection, whose time began at `began`."""
        return Pairing(
            Role.A if connection.is_client else Role.B,
            secret=self.secret,
            binding=binding_of(connection),
            static_private=self.static_private,
            profile=self.profile,
            window=self.window,
            entropy=system_entropy,
            now=began,
        )

    def report_spent(self, why: str) -> None:
        """Show that a try is gone: whoever guesses is to be seen guessing."""
        self.observer(status.TrySpent(self.window.failed, TRIES - self.window.failed, why))


@attrs.frozen(eq=False)
class Caller:
    """Somebody who dialled us and began to speak: the first stream, what it began with, and when it was opened."""

    connection: Connection
    stream: Stream
    first: bytes
    began: float


async def hear(connection: Connection) -> Caller | None:
    """The first words of a new connection, or None when it ended first; one that says nothing in time is closed.

    Not one limit is touched: the connection stays a stranger's, and the time of what follows counts from `began`.
    """
    with trio.move_on_after(PAIRING_DEADLINE):
        try:
            stream = await connection.accept_stream()
            began = trio.current_time()
            if first := await stream.receive_some(READ_SIZE):
                return Caller(connection, stream, first, began)
        except (ConnectionClosedError, StreamResetError):
            pass
    connection.close(CloseCode.TIMED_OUT, "")
    return None


class Door:
    """One window of `seconds`, from now: `meet` whoever comes, and wait in `admit_one`."""

    def __init__(self, pairings: Pairings, seconds: float) -> None:
        self._pairings, self._seconds = pairings, seconds
        self._closes_at = trio.current_time() + seconds
        self._admitted: Met | None = None
        self._over = trio.Event()
        self._meetings: set[trio.CancelScope] = set()

    async def admit_one(self) -> Met:
        """Wait for one peer that pairs. Afterwards the door is shut, also when this is cancelled.

        Raises NobodyFoundError at the end of the time, WrongPassphraseError when the window's tries are spent.
        """
        try:
            with trio.move_on_at(self._closes_at):
                await self._over.wait()
        finally:
            self._over.set()
            for meeting in self._meetings:
                meeting.cancel()
        if self._admitted is not None:
            return self._admitted
        raise self._nobody()

    async def meet(self, caller: Caller) -> None:
        """Pair with one caller, or tell it why not."""
        connection = caller.connection
        if self.is_over:
            connection.close(self.ending(), "")
            return
        machine = self._pairings.machine(connection, caller.began)
        machine.receive_data(caller.first, trio.current_time())
        with trio.CancelScope() as meeting:
            self._meetings.add(meeting)
            try:
                result = await pair(
                    connection, caller.stream, machine, self._pairings.slots, self._pairings.offload, self.ending
                )
            finally:
                self._meetings.discard(meeting)
            if isinstance(result, Paired):
                # No await lies between a machine's Paired and this line, and tasks only switch at one: the first is
                # first.
                if self._admitted is None:
                    self._admitted = Met(connection, result)
                    self._over.set()
                else:
                    connection.close(CloseCode.TAKEN, "")
            elif result.spent:
                self._pairings.report_spent(f"{result.error.what.rstrip('.')} ({connection.peer})")
                if self._pairings.window.closed:
                    self._over.set()

    @property
    def is_over(self) -> bool:
        """Whether nobody gets in any more."""
        return self._over.is_set()

    def ending(self) -> CloseCode:
        """Why whoever comes now, or is still being met, is told to go."""
        if self._admitted is not None:
            return CloseCode.TAKEN
        is_closed = self._pairings.window.closed or trio.current_time() >= self._closes_at
        return CloseCode.WINDOW_CLOSED if is_closed else CloseCode.INTERRUPTED

    def _nobody(self) -> TetherError:
        if self._pairings.window.closed:
            return WrongPassphraseError(
                f"{TRIES} tries with these words have failed, and the window is closed.",
                "Start again with other words: somebody may be guessing.",
            )
        return NobodyFoundError(
            f"Nobody came within {self._seconds:g} s.",
            "Is the other side on this network? Where multicast is blocked it needs --peer HOST:PORT.",
        )
