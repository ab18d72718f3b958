"""Both ends of a stream on which one side asks for blobs and the other answers. docs/protocol/blobs.md, "Fetching".

Sans-IO. `Asking` numbers requests and gives each answer back beside the request that it answers; which blob, chunk and
holder to ask for is decided in fetching.py and gathering.py. `Answering` only reads: what is held, and in which order
it is sent, is the driver's to know. What a peer breaks raises RemoteProtocolError, and the link ends.
"""

from collections import deque
from typing import Final

import attrs

from meshd.errors import RemoteProtocolError
from meshd.model.chunks import CHUNK
from meshd.wire.fetch import (
    ANSWER_FRAMES,
    LIST_PAGE,
    REQUEST_FRAMES,
    SMALL_BYTES,
    Answer,
    Chunk,
    Holds,
    List,
    Lookup,
    NotServed,
    Request,
    Small,
    Want,
    WantList,
    WantSmall,
    decode_answer,
    decode_request,
    encode,
)
from meshd.wire.framing import FrameDecoder

LINK_OUTSTANDING: Final = 10 << 20
"""Bytes that may be asked for and not yet here on one link, over all fetches: below what a stream's reader may leave
unread (drivers/quic_terms.py) with room to spare, and 0.2 s at 50 MiB/s."""

_FITTING: Final[dict[type, tuple[type, ...]]] = {
    Lookup: (Holds, NotServed),
    WantList: (List, NotServed),
    Want: (Chunk, NotServed),
    WantSmall: (Small,),
}
"""What may answer what. A pair that is not here breaks the protocol."""

_COST: Final[dict[type, int]] = {Lookup: 0, WantList: LIST_PAGE, Want: CHUNK, WantSmall: SMALL_BYTES}
"""Most bytes, about, that an answer brings."""


@attrs.frozen
class Answered:
    """A request of ours, and what the holder says to it."""

    request: Request
    answer: Answer


class Asking:
    """The asker's end. `ask` while not `is_full`; feed `receive_data`; take `next_event` until it is None."""

    def __init__(self) -> None:
        self._decoder = FrameDecoder(ANSWER_FRAMES)
        self._out = bytearray()
        self._events: deque[Answered] = deque()
        self._open: dict[int, Request] = {}
        self._next = 0
        self._outstanding = 0

    @property
    def is_full(self) -> bool:
        """Whether as much is asked for as may be on its way."""
        return self._outstanding >= LINK_OUTSTANDING

    @property
    def awaited(self) -> set[bytes]:
        """Blobs of which an answer is awaited, those of WANT_SMALL aside."""
        return {request.digest for request in self._open.values() if not isinstance(request, WantSmall)}

    def lookup(self, digest: bytes) -> None:
        """Ask whether the blob is held."""
        self._ask(Lookup(self._next, digest))

    def want_list(self, digest: bytes, first: int) -> None:
        """Ask for its list, from this chunk on."""
        self._ask(WantList(self._next, digest, first))

    def want(self, digest: bytes, index: int) -> None:
        """Ask for a chunk."""
        self._ask(Want(self._next, digest, index))

    def want_small(self, digests: tuple[bytes, ...]) -> None:
        """Ask for small blobs, whole."""
        self._ask(WantSmall(self._next, digests))

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes of the holder's half of the stream. Raises RemoteProtocolError."""
        self._decoder.receive(data)
        while (frame := self._decoder.next_frame()) is not None:
            answer = decode_answer(*frame)
            request = self._open.pop(answer.number, None)
            if request is None or not isinstance(answer, _FITTING[type(request)]):
                raise RemoteProtocolError(f"The other side sent a {frame[0].name} that nobody asked for.")
            if isinstance(answer, Small) and isinstance(request, WantSmall):
                _check_small(request, answer)
            self._outstanding -= _COST[type(request)]
            self._events.append(Answered(request, answer))

    def next_event(self) -> Answered | None:
        """The oldest answer that the driver has not taken, or None."""
        return self._events.popleft() if self._events else None

    def data_to_send(self, now: float) -> bytes:
        """Bytes for the stream."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def _ask(self, request: Request) -> None:
        self._open[request.number] = request
        self._next += 1
        self._outstanding += _COST[type(request)]
        self._out += encode(request)


class Answering:
    """The holder's end: requests, in the order in which they came."""

    def __init__(self) -> None:
        self._decoder = FrameDecoder(REQUEST_FRAMES)

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes of the asker's half of the stream."""
        self._decoder.receive(data)

    def next_request(self) -> Request | None:
        """The next whole request, or None. Raises RemoteProtocolError.

        Decoded only when it is taken: what a peer sends ahead of our answers stays bytes.
        """
        frame = self._decoder.next_frame()
        return None if frame is None else decode_request(*frame)


def _check_small(request: WantSmall, answer: Small) -> None:
    if len(answer.found) > len(request.digests):
        raise RemoteProtocolError("The other side sent more blobs than were asked for.")
