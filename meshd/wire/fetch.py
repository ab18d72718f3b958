"""The frames by which members ask each other for blobs. docs/protocol/blobs.md, "Fetching".

Every request carries a number of the asker's choosing, every answer that of its request. Chunks and lists are raw
bytes behind the number (4 bytes, big-endian); the rest is MessagePack.
"""

import enum
import struct
from typing import Annotated, Final, Literal

import attrs
from msgspec import Meta

from meshd.errors import RemoteProtocolError
from meshd.model.announcement import BLOB_LIMIT
from meshd.model.chunks import CHUNK, DIGEST, chunk_count
from meshd.wire.codec import decode_body, encode_body
from meshd.wire.constants import Frame
from meshd.wire.framing import HEADER
from meshd.wire.messages import Digest

NUMBER_LIMIT: Final = 1 << 32
"""Requests are numbered below this; no link lives long enough to use them up."""

LIST_PAGE: Final = 32 * 1024
"""Digests in one LIST: 1 MiB, so that the list of the largest blob passes in as flat a memory as its chunks."""

SMALL_COUNT: Final = 256
"""Blobs that one WANT_SMALL may name."""

SMALL_BYTES: Final = 1 << 20
"""Bytes of content at which a SMALL ends, though more was asked for: an answer then is no larger than a chunk."""

SMALL_SIZE: Final = 64 * 1024
"""Most bytes of a blob that WANT_SMALL brings."""

Number = Annotated[int, Meta(ge=0, lt=NUMBER_LIMIT)]
Index = Annotated[int, Meta(ge=0, lt=chunk_count(BLOB_LIMIT))]


Content = Annotated[bytes, Meta(max_length=SMALL_SIZE)]
Missing = Annotated[int, Meta(ge=0, le=2)]


class Absence(enum.IntEnum):
    """Why a blob is not served."""

    ABSENT = 0
    DAMAGED = 1
    """The copy here is other bytes than its digest says."""

    LARGE = 2
    """It is no small blob: WANT brings it. Only in SMALL."""


@attrs.frozen
class Lookup:
    """LOOKUP: do you hold this blob, and as what?"""

    number: Number
    digest: Digest


@attrs.frozen
class WantList:
    """WANT_LIST: its chunk list from this chunk on, as far as one LIST holds."""

    number: Number
    digest: Digest
    first: Index


@attrs.frozen
class Want:
    """WANT: one chunk."""

    number: Number
    digest: Digest
    index: Index


@attrs.frozen
class WantSmall:
    """WANT_SMALL: these blobs, whole, each of 64 KiB at most."""

    number: Number
    digests: Annotated[tuple[Digest, ...], Meta(min_length=1, max_length=SMALL_COUNT)]


@attrs.frozen
class Holds:
    """HOLDS: the blob is here, whole."""

    number: Number
    size: Annotated[int, Meta(ge=0, le=BLOB_LIMIT)]
    list_digest: Digest


@attrs.frozen
class List:
    """LIST: digests of chunks, one after another."""

    number: int
    digests: bytes


@attrs.frozen
class Chunk:
    """BLOB_CHUNK: the bytes of the chunk that was asked for."""

    number: int
    data: bytes | memoryview


@attrs.frozen
class Small:
    """SMALL: for the first so many of the blobs asked for, at least one, the content or why it is not here."""

    number: Number
    found: Annotated[tuple[Content | Missing, ...], Meta(min_length=1, max_length=SMALL_COUNT)]
    """An integer is an Absence: MessagePack in classes cannot tell an enumeration from bytes."""


@attrs.frozen
class NotServed:
    """NOT_SERVED: the blob is not here, or the copy here is damaged."""

    number: Number
    why: Absence


Request = Lookup | WantList | Want | WantSmall
Answer = Holds | List | Chunk | Small | NotServed

_REQUESTS: Final[dict[int, type[Request]]] = {
    Frame.LOOKUP: Lookup,
    Frame.WANT_LIST: WantList,
    Frame.WANT: Want,
    Frame.WANT_SMALL: WantSmall,
}
_ANSWERS: Final[dict[int, type[Holds | Small | NotServed]]] = {
    Frame.HOLDS: Holds,
    Frame.SMALL: Small,
    Frame.NOT_SERVED: NotServed,
}
_FRAMES: Final = {kind: Frame(frame) for frame, kind in (*_REQUESTS.items(), *_ANSWERS.items())}
_NUMBER: Final = struct.Struct(">I")

REQUEST_FRAMES: Final[dict[int, int]] = {
    Frame.LOOKUP: 128,
    Frame.WANT_LIST: 128,
    Frame.WANT: 128,
    Frame.WANT_SMALL: 64 + SMALL_COUNT * (DIGEST + 2),
}
"""Most bytes of each frame's body that a holder takes."""

ANSWER_FRAMES: Final[dict[int, int]] = {
    Frame.HOLDS: 128,
    Frame.LIST: _NUMBER.size + LIST_PAGE * DIGEST,
    Frame.BLOB_CHUNK: _NUMBER.size + CHUNK,
    # What passes the limit of content is the last blob, and each has a few bytes before it.
    Frame.SMALL: 64 + SMALL_BYTES + SMALL_SIZE + SMALL_COUNT * 16,
    Frame.NOT_SERVED: 128,
}
"""Most bytes of each frame's body that an asker takes."""


def encode(message: Request | Holds | Small | NotServed) -> bytes:
    """One frame, ready to send."""
    body = encode_body(message)
    return HEADER.pack(_FRAMES[type(message)], len(body)) + body


def raw_head(frame: Literal[Frame.LIST, Frame.BLOB_CHUNK], number: int, length: int) -> bytes:
    """What goes before `length` raw bytes; apart from them, so that a chunk is not copied to be sent."""
    return HEADER.pack(frame, _NUMBER.size + length) + _NUMBER.pack(number)


def decode_request(frame: Frame, body: bytes) -> Request:
    """Raises RemoteProtocolError."""
    return decode_body(_REQUESTS[frame], body)


def decode_answer(frame: Frame, body: bytes) -> Answer:
    """Raises RemoteProtocolError. That an answer fits its request is for protocol/asking.py to see."""
    if frame not in (Frame.LIST, Frame.BLOB_CHUNK):
        return decode_body(_ANSWERS[frame], body)
    if len(body) <= _NUMBER.size:
        raise RemoteProtocolError(f"The other side sent a {frame.name} with nothing in it.")
    (number,) = _NUMBER.unpack_from(body)
    rest = memoryview(body)[_NUMBER.size :]
    return Chunk(number, rest) if frame is Frame.BLOB_CHUNK else List(number, bytes(rest))
