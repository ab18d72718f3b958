"""How two sides meet: the listener's window, the connector's search, and the pairing of whoever comes.

What to try and when to stop is decided in protocol/search.py and protocol/admission.py; this acts on it.
"""

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

import attrs
import trio

from meshd import status
from meshd.drivers import lan
from meshd.drivers.door import Door, Met, Pairings
from meshd.drivers.one_error import one_error
from meshd.drivers.pairing import pair, system_entropy
from meshd.drivers.quic import (
    Connection,
    ConnectionClosedError,
    DialFailedError,
    Endpoint,
    VersionMismatchError,
)
from meshd.drivers.quic_engine import Engine
from meshd.drivers.reception import Reception
from meshd.drivers.threads import Offload, in_thread
from meshd.drivers.wan import Allocation, Wan, WanSearch, open_wan
from meshd.model.address import Address
from meshd.model.candidate import Candidate
from meshd.model.server import ServerName
from meshd.protocol.handshake import KEY_SIZE
from meshd.protocol.pairing import Failed, Paired
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
    lan: bool = True
    """Whether a connector listens for announcements, where no `peer` is given."""

    servers: tuple[ServerName, ...] = ()
    """Rendezvous servers, where this is to go across the internet too."""

    wan: Wan | None = None
    """What keeps in touch with them, where that is there already."""

    token: int | None = None
    """The number that a server gave the listener; None for that of the code."""

    takes_number: bool = False
    """The listener's code is made here, and gets the number that a server gives."""

    def far(self, endpoint: Endpoint) -> AbstractAsyncContextManager[Wan]:
        """The servers, for as long as two look for each other."""
        return contextlib.nullcontext(self.wan) if self.wan is not None else open_wan(endpoint, self.servers)

    @property
    def is_far(self) -> bool:
        """Whether servers are asked."""
        return bool(self.servers) or self.wan is not None

    def pairings(self, profile: Profile, static_private: bytes | None = None) -> Pairings:
        """The pairings of one run with these words; without a static key (32 bytes) of its own, one is made for it."""
        return Pairings(
            secret=self.secret,
            profile=profile,
            observer=self.observer,
            offload=self.offload,
            static_private=static_private or system_entropy(KEY_SIZE),
        )


async def admit_one(
    settings: Settings, endpoint: Endpoint, profile: Profile, allocation: Allocation | None = None
) -> Met:
    """The listener's side: open a window, announce it here and under an allocated number, and wait for one peer that pairs.

    Raises NobodyFoundError at the time-out, WrongPassphraseError when the window's tries are spent.
    """

    def observe(event: status.Event) -> None:
        if allocation is not None and isinstance(event, status.TrySpent):
            allocation.failed()
        settings.observer(event)

    door = Door(attrs.evolve(settings, observer=observe).pairings(profile), settings.timeout)
    warned = False

    def mismatched(error: VersionMismatchError) -> None:
        # Once: strangers may come as often as they like.
        nonlocal warned
        if not warned:
            warned = True
            settings.observer(status.Warned(f"Somebody came who cannot be met: {error}"))

    reception = Reception(endpoint, mismatched)
    with one_error(), reception.opened(door):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_announce, settings, endpoint.port)
            nursery.start_soon(reception.run)
            if allocation is not None:
                nursery.start_soon(receive_entrants, settings, allocation)
            try:
                return await door.admit_one()
            finally:
                endpoint.stop_accepting(door.ending())
                nursery.cancel_scope.cancel()


async def receive_entrants(settings: Settings, allocation: Allocation) -> None:
    """Punch for whoever enters the number that a server gave, and tell the person of it, for ever."""

    def numbered(number: int) -> None:
        settings.observer(status.Numbered(number, str(allocation.server.name)))

    numbered(allocation.number)
    await allocation.receive(lambda text: settings.observer(status.Warned(text)), numbered)


async def _announce(settings: Settings, port: int) -> None:
    interfaces = settings.interfaces or lan.only(settings.host)
    if interfaces is None:
        settings.observer(status.Warned(f"Not announced on the LAN: the other side needs --peer HOST:{port}."))
        return
    try:
        async with settings.announce(port, settings.number, interfaces):
            await trio.sleep_forever()
    except lan.LanUnavailableError as error:
        settings.observer(status.Warned(f"{error.what} The other side needs --peer HOST:{port}."))


@attrs.define
class _Dialled:
    """What dialling a candidate came to: a connection, or why there is none."""

    miss: Miss
    why: str = ""
    connection: Connection | None = None


@attrs.define
class Seeker:
    """The connector's side: does what protocol/search.py decides."""

    settings: Settings
    endpoint: Endpoint
    pairings: Pairings
    news: trio.Event = attrs.field(factory=trio.Event, init=False)

    async def find(self) -> Met:
        """Search until somebody pairs. Raises what the search gives up with."""
        settings = self.settings
        search = Search(settings.number, settings.peer, trio.current_time(), settings.timeout)
        met = None
        with one_error():
            async with trio.open_nursery() as nursery:
                if settings.peer is None and settings.lan:
                    nursery.start_soon(self._watch_lan, search)
                if settings.is_far:
                    nursery.start_soon(self._watch_wan, search)
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

    async def _watch_wan(self, search: Search) -> None:
        settings = self.settings
        number = settings.number if settings.token is None else settings.token
        assert number is not None  # whoever made these settings has asked for it

        def found(candidate: Candidate) -> None:
            search.seen(candidate)
            self.news.set()

        def ended(why: str, advice: str) -> None:
            search.wan_ended(why, advice)
            self.news.set()

        async with settings.far(self.endpoint) as wan:
            search.wan_began()
            await WanSearch(wan, number, settings.number, found, ended, search.wan_said).run()
            await trio.sleep_forever()  # what was found is still being dialled: keep the mapping

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
        if result.code is CloseCode.PURPOSE and self.settings.peer is not None:
            raise result.error  # by hand only: anybody who announces something might say so
        if result.spent:
            self.pairings.report_spent(result.error.what)
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
        machine = self.pairings.machine(connection, trio.current_time())
        try:
            stream = await connection.open_stream()
        except ConnectionClosedError as error:
            machine.connection_lost(trio.current_time(), error.closed.told)
            failed = machine.next_event()
            assert isinstance(failed, Failed)
            return failed
        return await pair(
            connection, stream, machine, self.pairings.slots, self.pairings.offload, lambda: CloseCode.INTERRUPTED
        )


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
