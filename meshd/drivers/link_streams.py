"""The streams of a link: who opens which, and who serves it. docs/protocol/session.md, "Streams".

Every stream but the first starts with an OPEN frame that says what it is for. The dialler opens the one that syncs
records; each side opens one to fetch blobs, so that bulk has one stream a direction (decision 0006).
"""

import enum
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from meshd.drivers.link import Link
from meshd.drivers.one_error import one_error
from meshd.drivers.quic import ConnectionClosedError, Stream, StreamResetError
from meshd.errors import RemoteProtocolError, TetherError
from meshd.wire.constants import CloseCode, Frame
from meshd.wire.framing import HEADER, encode_frame

OPEN_DEADLINE: Final = 10.0
"""Seconds for the first bytes of a stream that the peer opened."""

Serve = Callable[[Link, Stream], Awaitable[None]]


class Purpose(enum.IntEnum):
    """What a stream is for: the one byte of an OPEN frame."""

    SYNC = 1
    FETCH = 2
    JOIN = 3


OPEN_SIZE: Final = HEADER.size + 1
"""Bytes of an OPEN frame."""


def open_frame(purpose: Purpose) -> bytes:
    """The OPEN frame for this purpose, ready to send."""
    return encode_frame(Frame.OPEN, bytes([purpose]))


async def read_purpose(stream: Stream) -> Purpose:
    """What a stream that the peer opened is for; not a byte more is read.

    Raises RemoteProtocolError for anything but an OPEN frame, also when it does not come in time.
    """
    head = b""
    with trio.move_on_after(OPEN_DEADLINE):
        while len(head) < OPEN_SIZE:
            data = await stream.receive_some(OPEN_SIZE - len(head))
            if not data:
                break
            head += data
    if len(head) < OPEN_SIZE or HEADER.unpack_from(head) != (Frame.OPEN, 1):
        raise RemoteProtocolError("The other side opened a stream without saying what for.")
    try:
        return Purpose(head[HEADER.size])
    except ValueError:
        raise RemoteProtocolError("The other side opened a stream for something unknown.") from None


async def serve_link(link: Link, *, sync: Serve, ask: Serve, answer: Serve) -> str:
    """Run a link's streams until it ends, and return why it did.

    `sync` gets the stream for records, `ask` ours for blobs that we want, `answer` the peer's. When one of them ends,
    the link does; but of a link that is `leaving` only records are left.
    """
    connection = link.connection
    blobs: list[trio.CancelScope] = []
    waiting = {Purpose.SYNC: sync, Purpose.FETCH: answer}
    if link.dialled_here:
        del waiting[Purpose.SYNC]
    why = ""

    async def run(serve: Serve, stream: Stream) -> None:
        with trio.CancelScope() as scope:
            if serve is not sync:
                blobs.append(scope)
                end_blobs_if_leaving()
            await serve(link, stream)
            nursery.cancel_scope.cancel()

    def end_blobs_if_leaving() -> None:
        if link.leaving.is_set():
            for scope in blobs:
                scope.cancel()

    async def notice_leaving() -> None:
        await link.leaving.wait()
        end_blobs_if_leaving()

    async def open_own(purpose: Purpose, serve: Serve) -> None:
        stream = await connection.open_stream()
        await stream.send_all(open_frame(purpose))
        await run(serve, stream)

    async def serve_theirs(stream: Stream) -> None:
        serve = waiting.pop(await read_purpose(stream), None)
        if serve is None:
            raise RemoteProtocolError("The other side opened a stream that it may not, or twice.")
        await run(serve, stream)

    async def accept() -> None:
        while True:
            nursery.start_soon(serve_theirs, await connection.accept_stream())

    try:
        with one_error():
            async with trio.open_nursery() as nursery:
                if link.dialled_here:
                    nursery.start_soon(open_own, Purpose.SYNC, sync)
                nursery.start_soon(open_own, Purpose.FETCH, ask)
                nursery.start_soon(accept)
                nursery.start_soon(notice_leaving)
    except RemoteProtocolError as error:
        why = error.what
        connection.close(CloseCode.PROTOCOL, "")
    except (ConnectionClosedError, StreamResetError):
        pass
    except BaseExceptionGroup as group:
        # Cancelled in the moment in which the connection ended: who cancelled must not be told of a lost connection.
        _, others = group.split((ConnectionClosedError, StreamResetError))
        if others is not None:
            raise others from None
    except TetherError as error:
        why = error.what  # our own disk, mostly: this link cannot go on, and the daemon can
    finally:
        connection.close(CloseCode.DONE, "")
    if connection.closed is not None and not why:
        why = connection.closed.reason or ("closed by the other side" if connection.closed.by_peer else "closed here")
    return why
