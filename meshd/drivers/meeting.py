"""How two sides meet: the listener's door, the connector's search, and the pairing of whoever comes.

What to try and when to stop is decided in protocol/search.py and protocol/admission.py; this acts on it.
"""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

import attrs
import trio

from meshd import status
from meshd.drivers import lan
from meshd.drivers.one_error import one_error
from meshd.drivers.pairing import PAKE_SLOTS, binding_of, pair, system_entropy
from meshd.drivers.quic import (
    Connection,
    ConnectionClosedError,
    DialFailedError,
    Endpoint,
    VersionMismatchError,
)
from meshd.drivers.quic_engine import Engine
from meshd.drivers.threads import Offload, in_thread
from meshd.errors import NobodyFoundError, WrongPassphraseError
from meshd.model.address import Address
from meshd.model.candidate import Candidate
from meshd.protocol.admission import TRIES, Window
from meshd.protocol.handshake import Role
from meshd.protocol.pairing import PAIRING_DEADLINE, Failed, Paired, Pairing
from meshd.protocol.search import Attempt, GiveUp, Miss, Search, Wait
from meshd.wire.constants import CloseCode
from meshd.wire.messages import Profile

DIAL_TIMEOUT: Final = 2.0
"""Seconds to try one announced address: on a LAN an answer takes milliseconds, and the next may be the right one."""

DIAL_STAGGER: Final = 0.25
"""Seconds between dialling an address of a candidate and dialling its next (RFC 8305, section 8)."""

PEER_DIAL_TIMEOUT: Final = 5.0
"""Seconds to try an address given by hand before starting afresh; a lost first packet is repeated after one."""

ConfirmWords = Callable[[tuple[str, ...]], Awaitable[bool]]
Announce = Callable[[int, int | None, Sequence[str]], AbstractAsyncContextManager[None]]


@attrs.frozen(kw_only=True)
class Settings:
    """How to meet. `timeout` (seconds) bounds the finding and pairing, not the transfer.

    `host` and `port` are where to listen, `peer` whom to dial in place of searching, `interfaces` what multicast DNS is
    limited to. `confirm_words` asks a person to compare the transcript words. `announce` and `offload` are what a
    simulated run replaces.
    """

    engine: Engine
    secret: bytes = attrs.field(repr=False)
    number: int | None
    label: str
    timeout: float
    observer: status.Observer
    host: str | None = None
    port: int | None = None
    peer: Address | None = None
    interfaces: tuple[str, ...] = ()
    confirm_words: ConfirmWords | None = None
    announce: Announce = lan.announce
    offload: Offload = in_thread


@attrs.frozen
class Met:
    """A peer that holds the words, and the admitted connection to it."""

    connection: Connection
    paired: Paired


@attrs.define
class _Side:
    """What both sides need: one window, and one static key for all its pairings."""

    settings: Settings
    endpoint: Endpoint
    profile: Profile
    window: Window = attrs.field(factory=Window, init=False)
    slots: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(PAKE_SLOTS), init=False)
    static_private: bytes = attrs.field(factory=lambda: secrets.token_bytes(32), repr=False, init=False)

    def pairing(self, connection: Connection) -> Pairing:
        """The machine for one connection."""
        return Pairing(
            Role.A if connection.is_client else Role.B,
            secret=self.settings.secret,
            binding=binding_of(connection),
            static_private=self.static_private,
            profile=self.profile,
            window=self.window,
            entropy=system_entropy,
            now=trio.current_time(),
        )

    def report_spent(self, why: str) -> None:
        """Show that a try is gone: whoever guesses is to be seen guessing."""
        self.settings.observer(status.TrySpent(self.window.failed, TRIES - self.window.failed, why))


@attrs.define
class Door(_Side):
    """The listener's side: everybody who comes gets a machine, the first who holds the words gets in."""

    admitted: Met | None = attrs.field(default=None, init=False)
    closes_at: float = attrs.field(default=float("inf"), init=False)
    warned: bool = attrs.field(default=False, init=False)

    async def admit_one(self) -> Met:
        """Wait for one peer that pairs.

        Raises NobodyFoundError at the time-out, WrongPassphraseError when the window's tries are spent.
        """
        settings = self.settings
        self.closes_at = trio.current_time() + settings.timeout
        with one_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._announce)
                with trio.move_on_at(self.closes_at):
                    await self._accept()
                self.endpoint.stop_accepting(self._ending())
                nursery.cancel_scope.cancel()
        if self.admitted is not None:
            return self.admitted
        if self.window.closed:
            raise WrongPassphraseError(
                f"{TRIES} tries with these words have failed, and the window is closed.",
                "Start again with other words: somebody may be guessing.",
            )
        raise NobodyFoundError(
            f"Nobody came within {settings.timeout:g} s.",
            "Is the other side on this network? Where multicast is blocked it needs --peer HOST:PORT.",
        )

    async def _announce(self) -> None:
        settings, port = self.settings, self.endpoint.port
        interfaces = settings.interfaces or lan.only(settings.host)
        if interfaces is None:
            settings.observer(status.Warned(f"Not announced on the LAN: the other side needs --peer HOST:{port}."))
            return
        try:
            async with settings.announce(port, settings.number, interfaces):
                await trio.sleep_forever()
        except lan.LanUnavailableError as error:
            settings.observer(status.Warned(f"{error.what} The other side needs --peer HOST:{port}."))

    async def _accept(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    connection = await self.endpoint.accept()
                except VersionMismatchError as error:
                    # Once: strangers may come as often as they like.
                    if not self.warned:
                        self.warned = True
                        self.settings.observer(status.Warned(f"Somebody came who cannot be met: {error}"))
                    continue
                nursery.start_soon(self._meet, connection, nursery.cancel_scope)

    async def _meet(self, connection: Connection, scope: trio.CancelScope) -> None:
        stream = None
        with trio.move_on_after(PAIRING_DEADLINE):
            try:
                stream = await connection.accept_stream()
            except ConnectionClosedError:
                return
        if stream is None:
            connection.close(CloseCode.TIMED_OUT, "")
            return
        result = await pair(
            connection, stream, self.pairing(connection), self.slots, self.settings.offload, self._ending
        )
        if isinstance(result, Paired):
            # No await lies between a machine's Paired and this line, and tasks only switch at one: the first is first.
            if self.admitted is None:
                self.admitted = Met(connection, result)
                scope.cancel()
            else:
                connection.close(CloseCode.TAKEN, "")
        elif result.spent:
            self.report_spent(f"{result.error.what.rstrip('.')} ({connection.peer})")
            if self.window.closed:
                scope.cancel()

    def _ending(self) -> CloseCode:
        """Why pairings that are under way end when this side stops them."""
        if self.admitted is not None:
            return CloseCode.TAKEN
        is_closed = self.window.closed or trio.current_time() >= self.closes_at
        return CloseCode.WINDOW_CLOSED if is_closed else CloseCode.INTERRUPTED


@attrs.define
class _Dialled:
    """What dialling a candidate came to: a connection, or why there is none."""

    miss: Miss
    why: str = ""
    connection: Connection | None = None


@attrs.define
class Seeker(_Side):
    """The connector's side: does what protocol/search.py decides."""

    news: trio.Event = attrs.field(factory=trio.Event, init=False)

    async def find(self) -> Met:
        """Search until somebody pairs. Raises what the search gives up with."""
        settings = self.settings
        search = Search(settings.number, settings.peer, trio.current_time(), settings.timeout)
        met = None
        with one_error():
            async with trio.open_nursery() as nursery:
                if settings.peer is None:
                    nursery.start_soon(self._watch_lan, search)
                while met is None:
                    self.news = trio.Event()
                    match search.next_step(trio.current_time()):
                        case Attempt(candidate):
                            met = await self._attempt(search, candidate)
                        case Wait(until):
                            with trio.move_on_at(until):
                                await self.news.wait()
                        case GiveUp(error):
                            raise error
                nursery.cancel_scope.cancel()
        return met

    async def _watch_lan(self, search: Search) -> None:
        async with lan.browse(self.settings.interfaces) as sightings:
            async for sighting in sightings:
                search.seen(sighting)
                self.news.set()

    async def _attempt(self, search: Search, candidate: Candidate) -> Met | None:
        dialled = _Dialled(Miss.UNREACHABLE)
        with trio.move_on_at(search.deadline):
            dialled = await self._dial(candidate)
        if dialled.connection is None:
            search.missed(candidate, dialled.miss, trio.current_time(), dialled.why)
            return None
        result = await self._pair(dialled.connection)
        if isinstance(result, Paired):
            return Met(dialled.connection, result)
        if result.spent:
            self.report_spent(result.error.what)
        search.missed(candidate, _miss(result), trio.current_time(), result.error.what)
        return None

    async def _dial(self, candidate: Candidate) -> "_Dialled":
        """Dial the addresses one shortly after the other, and keep the first connection (RFC 8305, section 5).

        Raises VersionMismatchError for an address by hand only: anybody may announce anything, and what one announcement
        leads to must not end the search.
        """
        by_hand = self.settings.peer is not None
        dialled = _Dialled(Miss.UNREACHABLE)

        async def dial(address: Address, delay: float) -> None:
            await trio.sleep(delay)
            self.settings.observer(status.Dialling(str(address)))
            try:
                connection = await self.endpoint.dial(address, timeout=PEER_DIAL_TIMEOUT if by_hand else DIAL_TIMEOUT)
            except DialFailedError as error:
                dialled.why = error.what
            except VersionMismatchError as error:
                if by_hand:
                    raise
                dialled.miss, dialled.why = Miss.UNFIT, error.what
            else:
                if dialled.connection is None:
                    dialled.connection = connection
                    nursery.cancel_scope.cancel()
                else:
                    connection.close(CloseCode.DONE, "")

        async with trio.open_nursery() as nursery:
            for place, address in enumerate(candidate.addresses):
                nursery.start_soon(dial, address, place * DIAL_STAGGER)
        return dialled

    async def _pair(self, connection: Connection) -> Paired | Failed:
        machine = self.pairing(connection)
        try:
            stream = await connection.open_stream()
        except ConnectionClosedError as error:
            machine.connection_lost(trio.current_time(), error.closed.told)
            failed = machine.next_event()
            assert isinstance(failed, Failed)
            return failed
        return await pair(connection, stream, machine, self.slots, self.settings.offload, lambda: CloseCode.INTERRUPTED)


def _miss(failed: Failed) -> Miss:
    if failed.spent:
        return Miss.WRONG if failed.code is CloseCode.WRONG_WORDS else Miss.SILENT
    match failed.code:
        case CloseCode.BUSY:
            return Miss.BUSY
        case CloseCode.TIMED_OUT | CloseCode.INTERRUPTED:
            return Miss.UNREACHABLE
        case _:
            return Miss.UNFIT
