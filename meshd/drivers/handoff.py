"""One handoff: meet one peer, move a payload, end. What `tether_lite` runs.

Either side may send, receive, or both; each says in its CONFIRM which it wants. Nothing is stored of the meeting.
"""

import contextlib
import errno
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

import attrs
import trio

from meshd import status
from meshd.drivers.door import PING, SILENCE, Met
from meshd.drivers.meeting import Seeker, Settings, admit_one
from meshd.drivers.one_error import one_error
from meshd.drivers.payload import Sink, Source, Survey
from meshd.drivers.quic import Closed, Connection, ConnectionClosedError, Endpoint, open_endpoint
from meshd.drivers.threads import Offload
from meshd.drivers.tls_identity import TlsIdentity
from meshd.drivers.transfer import Outcome, receive_payload, send_payload
from meshd.drivers.wan import Allocation, allocated
from meshd.errors import (
    ConnectionLostError,
    RefusedError,
    RemoteProtocolError,
    TetherError,
    UsageError,
    WrongPassphraseError,
)
from meshd.model.address import DEFAULT_PORT
from meshd.protocol.closing import error_for_close, other_purpose
from meshd.protocol.handshake import Role
from meshd.protocol.passphrase import transcript_words
from meshd.protocol.transfer import ACCEPT_DEADLINE
from meshd.wire.constants import CloseCode
from meshd.wire.messages import Profile

PERSON_DEADLINE: Final = 300.0
"""Seconds for a person to compare words, on this side or the other."""


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
    with one_error():
        return await _listen(settings, cargo)


async def _listen(settings: Settings, cargo: Cargo) -> list[Outcome]:
    async with _in_hand(cargo, settings.offload), _listening(settings) as endpoint:
        survey = await _survey(settings, cargo)
        async with _number(settings, endpoint) as allocation:
            if allocation is not None and settings.takes_number:
                settings = attrs.evolve(settings, number=allocation.number)
            settings.observer(status.Waiting(endpoint.port, settings.number, settings.timeout))
            met = await admit_one(settings, endpoint, _profile(settings, cargo), allocation)
        return await _hand_over(settings, cargo, survey, met)


async def connect(settings: Settings, cargo: Cargo) -> list[Outcome]:
    """Find the listener, pair with it, and move the payload.

    Raises NobodyFoundError, WrongPassphraseError, and what a transfer raises.
    """
    async with _in_hand(cargo, settings.offload), _dialling(settings) as endpoint:
        survey = await _survey(settings, cargo)
        settings.observer(status.Searching(settings.number, settings.timeout))
        met = await Seeker(settings, endpoint, settings.pairings(_profile(settings, cargo))).find()
        return await _hand_over(settings, cargo, survey, met)


@contextlib.asynccontextmanager
async def _number(settings: Settings, endpoint: Endpoint) -> AsyncIterator[Allocation | None]:
    """A number of a rendezvous server's for this window, where it is to go across the internet."""
    if not settings.is_far:
        yield None
        return
    async with settings.far(endpoint) as wan, allocated(wan) as allocation:
        yield allocation


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
async def _dialling(settings: Settings) -> AsyncIterator[Endpoint]:
    """An endpoint that dials, on any port unless one was asked for."""
    opened = open_endpoint(
        engine=settings.engine, identity=TlsIdentity.generate(), host=settings.host, port=settings.port or 0
    )
    async with contextlib.AsyncExitStack() as stack:
        try:
            endpoint = await stack.enter_async_context(opened)
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or "it is no host"
            raise UsageError(
                f"Cannot send from {settings.host or 'any address'}, UDP port {settings.port or 'any'}: {why}.",
                "Choose another --local-addr.",
            ) from error
        yield endpoint


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
        except UnicodeError:
            raise UsageError(f"{settings.host!r} is not a host.", "Give --host an address of this machine.") from None
        except OSError as error:
            if error.errno != errno.EADDRINUSE or settings.port is not None:
                where = f"{settings.host or 'any address'}, UDP port {wanted}"
                raise UsageError(
                    f"Cannot listen on {where}: {error.strerror}.", "Choose another --host or --port."
                ) from error
            endpoint = await stack.enter_async_context(opened(port=0))
        yield endpoint


async def _hand_over(settings: Settings, cargo: Cargo, survey: Survey | None, met: Met) -> list[Outcome]:
    """Move what the two sides want to move over an admitted connection, and end it in order."""
    connection, paired = met.connection, met.paired
    connection.watch(ping=PING, silence=SILENCE)
    settings.observer(status.Paired(paired.peer.label, str(connection.peer)))
    try:
        await _compare_words(settings, met)
        _check_directions(cargo, paired.peer)
        with one_error():
            outcomes = await _move(settings, cargo, survey, connection, paired.peer)
    except ConnectionClosedError as error:
        raise _lost(error.closed, connection) from error
    except TetherError as error:
        connection.close(_close_code(error), "")
        raise
    except BaseException:
        connection.close(CloseCode.INTERRUPTED, "")
        raise
    connection.close(CloseCode.DONE, "")
    return outcomes


async def _compare_words(settings: Settings, met: Met) -> None:
    """Show the transcript words and wait for a person's yes, if this side was asked to."""
    if settings.confirm_words is None:
        return
    confirm = partial(
        settings.confirm_words, await settings.offload(partial(transcript_words, met.paired.handshake_hash))
    )
    same = False
    with one_error():
        async with trio.open_nursery() as nursery:

            async def notice_the_end() -> None:
                raise ConnectionClosedError(await met.connection.wait_closed())

            nursery.start_soon(notice_the_end)
            with trio.move_on_after(PERSON_DEADLINE):
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
    if peer.join != "no":
        raise other_purpose()
    if not sends and not peer.sends:
        raise RefusedError("Both sides wait to receive.", "Give one of them something to --send.")
    if (sends and not peer.receives) or (peer.sends and not receives):
        raise RefusedError("Both sides want to send.", "Let one of them receive: listen, or connect --into DIR.")


async def _move(
    settings: Settings, cargo: Cargo, survey: Survey | None, connection: Connection, peer: Profile
) -> list[Outcome]:
    within = PERSON_DEADLINE if peer.verify else ACCEPT_DEADLINE
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
        outcomes.append(await receive_payload(connection, stream, sink, settings.observer, settings.offload))

    async with trio.open_nursery() as nursery:
        if cargo.source is not None and survey is not None:
            nursery.start_soon(send, cargo.source, survey)
        if cargo.sink is not None and peer.sends:
            nursery.start_soon(receive, cargo.sink)
    return outcomes


def _close_code(error: TetherError) -> CloseCode:
    """What the other side hears of an error that ended the handoff on this one."""
    match error:
        case WrongPassphraseError():
            return CloseCode.WORDS_DIFFER
        case RefusedError():
            return CloseCode.REFUSED
        case RemoteProtocolError():
            return CloseCode.PROTOCOL
        case ConnectionLostError():
            return CloseCode.TIMED_OUT
        case _:
            return CloseCode.INTERRUPTED


def _lost(closed: Closed, connection: Connection) -> TetherError:
    """What a connection that ended before its time means to the person."""
    if CloseCode.of(closed.told, CloseCode.DONE) is not CloseCode.DONE:
        return error_for_close(closed.told, Role.A if connection.is_client else Role.B, at_stake=False)
    why = f"nothing was heard for {SILENCE:.0f} seconds" if closed.timed_out else closed.reason or "it ended early"
    return ConnectionLostError(
        f"The connection to the other side was lost before the end: {why}.", "What arrived is not complete; try again."
    )
