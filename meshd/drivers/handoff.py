"""One handoff: find one peer, pair with it by a passphrase, move a payload, end. What `tether_lite` runs.

Either side may send, receive, or both; each says in its CONFIRM which it wants. Nothing is stored of the meeting.
"""

import contextlib
import errno
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Final

import attrs
import trio

from meshd import status
from meshd.drivers import lan
from meshd.drivers.one_error import one_error
from meshd.drivers.pairing import PAKE_SLOTS, binding_of, pair, system_entropy
from meshd.drivers.payload import Sink, Source, Survey
from meshd.drivers.quic import (
    Closed,
    Connection,
    ConnectionClosedError,
    DialFailedError,
    Endpoint,
    VersionMismatchError,
    open_endpoint,
)
from meshd.drivers.quic_engine import Engine
from meshd.drivers.threads import Offload, in_thread
from meshd.drivers.tls_identity import TlsIdentity
from meshd.drivers.transfer import Outcome, receive_payload, send_payload
from meshd.errors import (
    ConnectionLostError,
    NobodyFoundError,
    RefusedError,
    TetherError,
    UsageError,
    WrongPassphraseError,
)
from meshd.model.address import DEFAULT_PORT, Address
from meshd.model.candidate import Candidate
from meshd.protocol.admission import TRIES, Window
from meshd.protocol.closing import error_for_close, wrong_words
from meshd.protocol.handshake import Role
from meshd.protocol.pairing import PAIRING_DEADLINE, Failed, Paired, Pairing
from meshd.protocol.passphrase import transcript_words
from meshd.protocol.search import Attempt, GiveUp, Miss, Search, Wait
from meshd.wire.constants import CloseCode
from meshd.wire.messages import Profile

DIAL_TIMEOUT: Final = 2.0
"""Seconds to try one announced address: on a LAN an answer takes milliseconds, and the next may be the right one."""

PEER_DIAL_TIMEOUT: Final = 5.0
"""Seconds to try an address given by hand before starting afresh; a lost first packet is repeated after one."""

PING: Final = 3.0
SILENCE: Final = 10.0
"""Seconds. Once paired something is always outstanding: ask for a sign of life, and call silence a lost link."""

ACCEPT_WITHIN: Final = 30.0
PERSON_WITHIN: Final = 300.0
"""Seconds the other side may take to begin: without, and with, a person who compares words there."""

ConfirmWords = Callable[[tuple[str, ...]], Awaitable[bool]]


@attrs.frozen(kw_only=True)
class Settings:
    """How to meet. `timeout` (seconds) bounds the finding and pairing, not the transfer."""

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
    multicast: bool = True
    confirm_words: ConfirmWords | None = None
    offload: Offload = in_thread


@attrs.frozen
class Cargo:
    """What to move: out of a source, into a sink, or both."""

    source: Source | None
    sink: Sink | None


async def listen(settings: Settings, cargo: Cargo) -> list[Outcome]:
    """Open a window, pair with the first who holds the words, and move the payload.

    Raises NobodyFoundError when nobody came in time, WrongPassphraseError when three tries failed, and what a transfer
    raises.
    """
    async with _in_hand(cargo, settings.offload), _listening(settings) as endpoint:
        survey = await _survey(settings, cargo)
        settings.observer(status.Waiting(endpoint.port, settings.number, settings.timeout))
        met = None
        with one_error():
            async with trio.open_nursery() as nursery:
                if settings.multicast:
                    nursery.start_soon(_announce, settings, endpoint.port)
                with trio.move_on_after(settings.timeout):
                    met = await _Door(settings, endpoint, _profile(settings, cargo)).admit_one()
                endpoint.stop_accepting(CloseCode.TAKEN if met else CloseCode.WINDOW_CLOSED)
                nursery.cancel_scope.cancel()
        if met is None:
            raise NobodyFoundError(
                f"Nobody came within {settings.timeout:g} s.",
                "Is the other side on this network? Where multicast is blocked it needs --peer HOST:PORT.",
            )
        return await _hand_over(settings, cargo, survey, *met)


async def connect(settings: Settings, cargo: Cargo) -> list[Outcome]:
    """Find the listener, pair with it, and move the payload.

    Raises NobodyFoundError, WrongPassphraseError, and what a transfer raises.
    """
    opened = open_endpoint(engine=settings.engine, identity=TlsIdentity.generate(), host=settings.host)
    async with _in_hand(cargo, settings.offload), opened as endpoint:
        survey = await _survey(settings, cargo)
        settings.observer(status.Searching(settings.number, settings.timeout))
        with one_error():
            met = await _Seeker(settings, endpoint, _profile(settings, cargo)).find()
        return await _hand_over(settings, cargo, survey, *met)


@contextlib.asynccontextmanager
async def _in_hand(cargo: Cargo, offload: Offload) -> AsyncIterator[None]:
    """Let go of the cargo at the end, however it comes: nothing half received stays."""
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            if cargo.source is not None:
                await offload(cargo.source.close)
            if cargo.sink is not None:
                await offload(cargo.sink.discard)


async def _survey(settings: Settings, cargo: Cargo) -> Survey | None:
    if cargo.source is None:
        return None
    survey = await settings.offload(cargo.source.scan)
    for each in survey.skipped:
        settings.observer(status.LeftOut(str(each.path), each.reason, failed=False))
    for each in survey.unreadable:
        settings.observer(status.LeftOut(str(each.path), each.reason, failed=True))
    return survey


def _profile(settings: Settings, cargo: Cargo) -> Profile:
    return Profile(
        label=settings.label,
        sends=cargo.source is not None,
        receives=cargo.sink is not None,
        verify=settings.confirm_words is not None,
    )


@contextlib.asynccontextmanager
async def _listening(settings: Settings) -> AsyncIterator[Endpoint]:
    """An endpoint on the port that was asked for, or on Tether's own, or on a free one where that is taken."""
    opened = partial(
        open_endpoint, engine=settings.engine, identity=TlsIdentity.generate(), host=settings.host, accept=True
    )
    async with contextlib.AsyncExitStack() as stack:
        wanted = DEFAULT_PORT if settings.port is None else settings.port
        try:
            endpoint = await stack.enter_async_context(opened(port=wanted))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or settings.port is not None:
                where = f"{settings.host or 'any address'}, UDP port {wanted}"
                raise UsageError(
                    f"Cannot listen on {where}: {error.strerror}.", "Choose another --host or --port."
                ) from error
            endpoint = await stack.enter_async_context(opened(port=0))
        yield endpoint


async def _announce(settings: Settings, port: int) -> None:
    # Who listens on one address only must not be looked for at the others.
    interfaces = settings.interfaces or lan.only(settings.host)
    try:
        async with lan.announce(port, settings.number, interfaces):
            await trio.sleep_forever()
    except lan.LanUnavailableError as error:
        settings.observer(status.Warned(f"{error.what} The other side needs --peer HOST:{port}."))


@attrs.define
class _Door:
    """The listener's side of pairing: everybody who comes gets a machine, the first who holds the words gets in."""

    settings: Settings
    endpoint: Endpoint
    profile: Profile
    window: Window = attrs.field(factory=Window)
    slots: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(PAKE_SLOTS))
    static_private: bytes = attrs.field(factory=lambda: secrets.token_bytes(32), repr=False)
    admitted: tuple[Connection, Paired] | None = None

    async def admit_one(self) -> tuple[Connection, Paired]:
        """Wait for one peer that pairs. Raises WrongPassphraseError when the window's tries are spent."""
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    connection = await self.endpoint.accept()
                except VersionMismatchError as error:
                    self.settings.observer(status.Warned(f"Somebody came who cannot be met: {error}"))
                    continue
                nursery.start_soon(self._meet, connection, nursery.cancel_scope)
        if self.admitted is None:
            raise wrong_words()
        return self.admitted

    async def _meet(self, connection: Connection, scope: trio.CancelScope) -> None:
        machine = Pairing(
            Role.B,
            secret=self.settings.secret,
            binding=binding_of(connection),
            static_private=self.static_private,
            profile=self.profile,
            window=self.window,
            entropy=system_entropy,
            now=trio.current_time(),
        )
        stream = None
        with trio.move_on_after(PAIRING_DEADLINE), contextlib.suppress(ConnectionClosedError):
            stream = await connection.accept_stream()
        if stream is None:
            connection.close(CloseCode.TIMED_OUT, "")
            return
        result = await pair(connection, stream, machine, self.slots, self.settings.offload)
        if isinstance(result, Paired):
            # No await lies between a machine's Paired and this line, and tasks only switch at one: the first is first.
            if self.admitted is None:
                self.admitted = (connection, result)
                scope.cancel()
            else:
                connection.close(CloseCode.TAKEN, "")
        elif result.spent:
            why = f"{result.error.what.rstrip('.')} ({connection.peer})"
            self.settings.observer(status.TrySpent(self.window.failed, TRIES - self.window.failed, why))
            if self.window.closed:
                scope.cancel()


@attrs.define
class _Seeker:
    """The connector's side: does what protocol/search.py decides."""

    settings: Settings
    endpoint: Endpoint
    profile: Profile
    window: Window = attrs.field(factory=Window)
    slots: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(PAKE_SLOTS))
    static_private: bytes = attrs.field(factory=lambda: secrets.token_bytes(32), repr=False)
    news: trio.Event = attrs.field(factory=trio.Event)

    async def find(self) -> tuple[Connection, Paired]:
        """Search until somebody pairs. Raises what the search gives up with."""
        settings = self.settings
        search = Search(settings.number, settings.peer, trio.current_time(), settings.timeout)
        async with trio.open_nursery() as nursery:
            if settings.peer is None:
                nursery.start_soon(self._watch_lan, search)
            while True:
                self.news = trio.Event()
                match search.next_step(trio.current_time()):
                    case Attempt(candidate):
                        met = await self._attempt(search, candidate)
                        if met is not None:
                            nursery.cancel_scope.cancel()
                            return met
                    case Wait(until):
                        with trio.move_on_at(until):
                            await self.news.wait()
                    case GiveUp(error):
                        raise error
        raise AssertionError("the search ends inside the nursery")

    async def _watch_lan(self, search: Search) -> None:
        async with lan.browse(self.settings.interfaces) as sightings:
            async for sighting in sightings:
                search.seen(sighting)
                self.news.set()

    async def _attempt(self, search: Search, candidate: Candidate) -> tuple[Connection, Paired] | None:
        miss, why = Miss.UNREACHABLE, ""
        for address in candidate.addresses:
            self.settings.observer(status.Dialling(str(address)))
            try:
                timeout = DIAL_TIMEOUT if self.settings.peer is None else PEER_DIAL_TIMEOUT
                connection = await self.endpoint.dial(address, timeout=timeout)
            except DialFailedError as error:
                why = error.what
                continue
            result = await self._pair(connection)
            if isinstance(result, Paired):
                return connection, result
            miss, why = _miss(result), result.error.what
            if result.spent:
                self.settings.observer(
                    status.TrySpent(self.window.failed, TRIES - self.window.failed, result.error.what)
                )
            break
        search.missed(candidate, miss, trio.current_time(), why)
        return None

    async def _pair(self, connection: Connection) -> Paired | Failed:
        machine = Pairing(
            Role.A,
            secret=self.settings.secret,
            binding=binding_of(connection),
            static_private=self.static_private,
            profile=self.profile,
            window=self.window,
            entropy=system_entropy,
            now=trio.current_time(),
        )
        try:
            stream = await connection.open_stream()
        except ConnectionClosedError as error:
            machine.connection_lost(trio.current_time(), error.closed.code)
            stream = None
        if stream is None:
            failed = machine.next_event()
            assert isinstance(failed, Failed)
            return failed
        return await pair(connection, stream, machine, self.slots, self.settings.offload)


def _miss(failed: Failed) -> Miss:
    if failed.spent:
        return Miss.WRONG if failed.code is CloseCode.WRONG_WORDS else Miss.SILENT
    if failed.code in (CloseCode.WINDOW_CLOSED, CloseCode.TAKEN):
        return Miss.CLOSED
    return Miss.BUSY


async def _hand_over(
    settings: Settings, cargo: Cargo, survey: Survey | None, connection: Connection, paired: Paired
) -> list[Outcome]:
    """Move what the two sides want to move over an admitted connection, and end it in order."""
    connection.watch(ping=PING, silence=SILENCE)
    settings.observer(status.Paired(paired.peer.label, str(connection.peer)))
    try:
        await _compare_words(settings, paired, connection)
        _check_directions(cargo, paired.peer)
        with one_error():
            outcomes = await _move(settings, cargo, survey, connection, paired.peer)
    except ConnectionClosedError as error:
        raise _lost(error.closed, connection) from error
    except WrongPassphraseError:
        connection.close(CloseCode.WORDS_DIFFER, "")
        raise
    except TetherError as error:
        connection.close(CloseCode.REFUSED if isinstance(error, RefusedError) else CloseCode.PROTOCOL, "")
        raise
    except BaseException:
        connection.close(CloseCode.INTERRUPTED, "")
        raise
    connection.close(CloseCode.DONE, "")
    return outcomes


async def _compare_words(settings: Settings, paired: Paired, connection: Connection) -> None:
    """Show the transcript words and wait for a person's yes, if this side was asked to."""
    if settings.confirm_words is None:
        return
    confirm = partial(settings.confirm_words, await settings.offload(partial(transcript_words, paired.handshake_hash)))
    same = False
    with one_error():
        async with trio.open_nursery() as nursery:

            async def notice_the_end() -> None:
                raise ConnectionClosedError(await connection.wait_closed())

            nursery.start_soon(notice_the_end)
            with trio.move_on_after(PERSON_WITHIN):
                same = await confirm()
            nursery.cancel_scope.cancel()
    if not same:
        raise WrongPassphraseError(
            "The words were not confirmed, so nothing was sent.",
            "If they differ on the two screens, someone is between you: do not go on over this network.",
        )


def _check_directions(cargo: Cargo, peer: Profile) -> None:
    """Both sides come to the same result, each from its own cargo and the other's profile."""
    sends, receives = cargo.source is not None, cargo.sink is not None
    if not sends and not peer.sends:
        raise RefusedError("Both sides wait to receive.", "Give one of them something to --send.")
    if (sends and not peer.receives) or (peer.sends and not receives):
        raise RefusedError("Both sides want to send.", "Let one of them receive: listen, or connect --into DIR.")


async def _move(
    settings: Settings, cargo: Cargo, survey: Survey | None, connection: Connection, peer: Profile
) -> list[Outcome]:
    within = PERSON_WITHIN if peer.verify else ACCEPT_WITHIN
    outcomes: list[Outcome] = []

    async def send(source: Source, survey: Survey) -> None:
        stream = await connection.open_stream()
        outcomes.append(await send_payload(stream, source, survey, settings.observer, settings.offload, within))

    async def receive(sink: Sink) -> None:
        stream = None
        with trio.move_on_after(within):
            stream = await connection.accept_stream()
        if stream is None:
            raise ConnectionLostError("The other side did not begin to send in time.")
        outcomes.append(await receive_payload(stream, sink, settings.observer, settings.offload))

    async with trio.open_nursery() as nursery:
        if cargo.source is not None and survey is not None:
            nursery.start_soon(send, cargo.source, survey)
        if cargo.sink is not None and peer.sends:
            nursery.start_soon(receive, cargo.sink)
    return outcomes


def _lost(closed: Closed, connection: Connection) -> TetherError:
    """What a connection that ended before its time means to the person."""
    told = closed.by_peer and not closed.is_transport
    if told and closed.code != CloseCode.DONE and closed.code in CloseCode.__members__.values():
        return error_for_close(closed.code, Role.A if connection.is_client else Role.B, try_taken=False)
    why = f"nothing was heard for {SILENCE:.0f} seconds" if closed.timed_out else closed.reason or "it ended early"
    return ConnectionLostError(
        f"The connection to the other side was lost before the end: {why}.", "What had arrived was not kept; try again."
    )
