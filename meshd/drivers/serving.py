"""A holder's end: answers what a linked member asks for, one request after another, from what is whole here.

Partials are offered to nobody. Protocol.md section 9 would allow it where the list was signed; then a member could pass
on chunks of a blob whose whole nobody has seen yet, to save time that two members on one LAN do not miss.
"""

from typing import Final

import trio

from meshd.drivers.blob_files import BlobStore, DamagedError
from meshd.drivers.link import Link
from meshd.drivers.quic import Stream
from meshd.drivers.throttle import SLICE, Throttle
from meshd.errors import RemoteProtocolError, TetherError
from meshd.model.chunks import DIGEST
from meshd.protocol.asking import Answering
from meshd.wire.constants import Frame
from meshd.wire.fetch import (
    LIST_PAGE,
    SMALL_BYTES,
    Absence,
    Holds,
    Lookup,
    NotServed,
    Request,
    Small,
    Want,
    WantList,
    WantSmall,
    encode,
    raw_head,
)

SEND_DEADLINE: Final = 60.0
"""Seconds in which a peer must take what it asked for, a chunk or, under a limit, a slice: 18 KB/s and less is lost."""


class Serving:
    """Serves one mesh's blobs. The throttle may be shared by several."""

    def __init__(self, store: BlobStore, throttle: Throttle) -> None:
        self._store = store
        self._throttle = throttle

    async def serve(self, link: Link, stream: Stream) -> None:
        """Answer until the peer ends the stream. Raises RemoteProtocolError, and what the stream raises.

        Requests that come faster than answers go stay in the stream, whose reader bounds them.
        """
        answering = Answering()
        while data := await stream.receive_some():
            answering.receive_data(data, trio.current_time())
            while (request := answering.next_request()) is not None:
                try:
                    parts = await self._answer(request)
                except RemoteProtocolError:
                    raise
                except DamagedError:
                    parts = [encode(NotServed(request.number, Absence.DAMAGED))]
                except TetherError:  # not here, or our disk fails: for the asker it is the same
                    parts = [encode(NotServed(request.number, Absence.ABSENT))]
                for part in parts:
                    await self._send(stream, part)

    async def _answer(self, request: Request) -> list[bytes]:
        match request:
            case Lookup(number, digest):
                blob, _ = await self._store.whole(digest)
                return [encode(Holds(number, blob.size, blob.list_digest))]
            case WantList(number, digest, first):
                _, chunks = await self._store.whole(digest)
                page = chunks.digests[first * DIGEST : (first + LIST_PAGE) * DIGEST]
                if not page:
                    raise RemoteProtocolError("The other side asked for more of a list than there is.")
                return [raw_head(Frame.LIST, number, len(page)), page]
            case Want(number, digest, index):
                _, chunks = await self._store.whole(digest)
                if index >= chunks.count:
                    raise RemoteProtocolError("The other side asked for a chunk that its blob does not have.")
                data = await self._store.chunk(digest, index)
                return [raw_head(Frame.BLOB_CHUNK, number, len(data)), data]
            case WantSmall(number, digests):
                return [encode(Small(number, tuple(await self._store.small(digests, SMALL_BYTES))))]

    async def _send(self, stream: Stream, data: bytes) -> None:
        view = memoryview(data)
        while view:
            length = len(view) if self._throttle.rate is None else SLICE
            if self._throttle.rate is not None:
                await self._throttle.take(min(length, len(view)))
            with trio.move_on_after(SEND_DEADLINE) as waiting:
                await stream.send_all(view[:length])
            if waiting.cancelled_caught:
                raise RemoteProtocolError("The other side asks for blobs and does not take them.")
            view = view[length:]
