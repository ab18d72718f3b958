"""The frames by which members bring each other's records up to date. docs/protocol/records.md, "Frames".

All bodies have a fixed layout, big-endian: what is counted by the byte has no field names on the wire.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import attrs

from meshd.errors import RemoteProtocolError
from meshd.model.record import ENCODED_LIMIT, HASH_SIZE, NO_HASH, Head, Log, LogId, Record
from meshd.wire.constants import Frame
from meshd.wire.framing import encode_frame

_TIP: Final = struct.Struct(">32sIQ32sQ")
_CHAIN: Final = struct.Struct(">32sBI")
_SPAN: Final = struct.Struct(">32sBIQQ")
_SEQUENCE: Final = struct.Struct(">Q")
_NUMBER: Final = struct.Struct(">I")
_ENTRY: Final = struct.Struct(">II")

TIPS_IN_FRAME: Final = 512
"""Chains in one HEADS: 42 KiB, so that other frames come in between where a mesh has thousands."""

SPANS_LIMIT: Final = 128
"""Ranges in one question for records: a round trip fetches what 128 authors wrote while we were away."""

QUESTIONS_LIMIT: Final = 32
"""Hashes in one question: a chain of a billion records is searched in six round trips."""

BATCH_LIMIT: Final = 5 + _ENTRY.size + ENCODED_LIMIT
"""Most bytes of a RECORDS body: the largest record fits, or some thousand small ones."""

TOKEN_SIZE: Final = 8
"""Bytes of a probe, which the echo repeats."""

AGE_LIMIT: Final = (1 << 32) - 1
"""Seconds, 136 years: older is as old."""

COUNT_LIMIT: Final = (1 << 63) - 1
"""Bytes of a chain are counted up to here, as in the store."""

SYNC_FRAMES: Final[dict[int, int]] = {
    Frame.HEADS: 2 + TIPS_IN_FRAME * _TIP.size,
    Frame.ASK_RECORDS: _NUMBER.size + SPANS_LIMIT * _SPAN.size,
    Frame.RECORDS: BATCH_LIMIT,
    Frame.MORE: 0,
    Frame.ASK_HASHES: _CHAIN.size + QUESTIONS_LIMIT * _SEQUENCE.size,
    Frame.HASHES: QUESTIONS_LIMIT * HASH_SIZE,
    Frame.PROBE: TOKEN_SIZE,
    Frame.ECHO: TOKEN_SIZE,
}
"""Most bytes of each frame's body on a sync stream; both sides may send all of them."""


@attrs.frozen
class Tip:
    """How far a chain goes at one side, and how much that is."""

    sequence: int
    hash: bytes

    size: int
    """Bytes of the chain's records as that side counted them when they came: for showing lag, never for deciding."""

    @property
    def head(self) -> Head:
        return Head(self.sequence, self.hash)


@attrs.frozen
class Span:
    """Records `first` to `last` of a chain, both included."""

    chain: LogId
    first: int
    last: int


@attrs.frozen
class Arrived:
    """A record with the seconds that its holders have counted, 0 where it has no time to live."""

    record: Record
    age: int

    @property
    def size(self) -> int:
        """Bytes that it takes in a RECORDS frame."""
        record = self.record
        return _ENTRY.size + 3 + len(record.header_bytes) + len(record.signature) + len(record.body or b"")


@attrs.frozen
class Heads:
    """HEADS: what the sender holds of one log. None: nothing of this chain any more."""

    log: Log
    complete: bool
    """With this frame all chains of the log have been told; later frames tell changes."""

    tips: tuple[tuple[LogId, Tip | None], ...]

    def encode(self) -> bytes:
        """One frame, ready to send."""
        nothing = Tip(0, NO_HASH, 0)
        body = bytearray((self.log, self.complete))
        for chain, tip in self.tips:
            known = tip or nothing
            body += _TIP.pack(chain.author, chain.generation, known.sequence, known.hash, known.size)
        return encode_frame(Frame.HEADS, bytes(body))


@attrs.frozen
class AskRecords:
    """ASK_RECORDS: send these, in this order. It replaces the question before; without spans it takes that back."""

    number: int
    """Of the asker's choosing, from 1; RECORDS that answer repeat it."""

    spans: tuple[Span, ...]

    def encode(self) -> bytes:
        """One frame, ready to send."""
        spans = (
            _SPAN.pack(span.chain.author, span.chain.log, span.chain.generation, span.first, span.last)
            for span in self.spans
        )
        return encode_frame(Frame.ASK_RECORDS, _NUMBER.pack(self.number) + b"".join(spans))


@attrs.frozen
class Records:
    """RECORDS: an answer, or with number 0 what the sender has just written itself."""

    number: int
    last: bool
    """Nothing more answers this question. A push always is its own last."""

    records: tuple[Arrived, ...]

    def encode(self) -> bytes:
        """One frame, ready to send; the caller kept to BATCH_LIMIT with `batches`."""
        body = bytearray(_NUMBER.pack(self.number))
        body.append(self.last)
        for arrived in self.records:
            data = arrived.record.encode()
            body += _ENTRY.pack(min(arrived.age, AGE_LIMIT), len(data))
            body += data
        return encode_frame(Frame.RECORDS, bytes(body))


@attrs.frozen
class More:
    """MORE: one batch has been dealt with, the next may come."""

    def encode(self) -> bytes:
        """One frame, ready to send."""
        return encode_frame(Frame.MORE, b"")


@attrs.frozen
class AskHashes:
    """ASK_HASHES: what are the hashes of these records?"""

    chain: LogId
    sequences: tuple[int, ...]

    def encode(self) -> bytes:
        """One frame, ready to send."""
        chain = _CHAIN.pack(self.chain.author, self.chain.log, self.chain.generation)
        return encode_frame(Frame.ASK_HASHES, chain + b"".join(map(_SEQUENCE.pack, self.sequences)))


@attrs.frozen
class Hashes:
    """HASHES: the answer, one for each in order; None (zeros on the wire) for a record that the sender does not hold."""

    hashes: tuple[bytes | None, ...]

    def encode(self) -> bytes:
        """One frame, ready to send."""
        return encode_frame(Frame.HASHES, b"".join(each or NO_HASH for each in self.hashes))


@attrs.frozen
class Probe:
    """PROBE or ECHO: is your program there?"""

    token: bytes
    echo: bool

    def encode(self) -> bytes:
        """One frame, ready to send."""
        return encode_frame(Frame.ECHO if self.echo else Frame.PROBE, self.token)


Message = Heads | AskRecords | Records | More | AskHashes | Hashes | Probe


def decode(frame: Frame, body: bytes) -> Message:
    """The message of a frame that SYNC_FRAMES allows. Raises RemoteProtocolError."""
    match frame:
        case Frame.HEADS:
            return _heads(body)
        case Frame.ASK_RECORDS:
            return _ask_records(body)
        case Frame.RECORDS:
            return _records(body)
        case Frame.MORE if not body:
            return More()
        case Frame.ASK_HASHES:
            return _ask_hashes(body)
        case Frame.HASHES:
            return Hashes(tuple(None if each == NO_HASH else each for each in _pieces(body, HASH_SIZE, "HASHES", 1)))
        case Frame.PROBE | Frame.ECHO if len(body) == TOKEN_SIZE:
            return Probe(body, frame is Frame.ECHO)
    raise _broken(frame.name)


def batches(arrived: Iterable[Arrived]) -> Iterator[tuple[Arrived, ...]]:
    """Records in their order, cut so that each piece fits a RECORDS frame."""
    piece: list[Arrived] = []
    size = 0
    for each in arrived:
        if piece and size + each.size > BATCH_LIMIT - 5:
            yield tuple(piece)
            piece, size = [], 0
        piece.append(each)
        size += each.size
    if piece:
        yield tuple(piece)


def _heads(body: bytes) -> Heads:
    if len(body) < 2 or body[1] > 1:
        raise _broken("HEADS")
    log = _log(body[0])
    tips: list[tuple[LogId, Tip | None]] = []
    for piece in _pieces(body[2:], _TIP.size, "HEADS"):
        author, generation, sequence, digest, size = _TIP.unpack(piece)
        if size > COUNT_LIMIT or (not sequence and (digest != NO_HASH or size)):
            raise _broken("HEADS")
        tips.append((_chain(author, log, generation), Tip(sequence, digest, size) if sequence else None))
    return Heads(log, bool(body[1]), tuple(tips))


def _ask_records(body: bytes) -> AskRecords:
    if len(body) < _NUMBER.size:
        raise _broken("ASK_RECORDS")
    (number,) = _NUMBER.unpack_from(body)
    spans = []
    for piece in _pieces(body[_NUMBER.size :], _SPAN.size, "ASK_RECORDS"):
        author, log, generation, first, last = _SPAN.unpack(piece)
        if not 1 <= first <= last:
            raise _broken("ASK_RECORDS")
        spans.append(Span(_chain(author, _log(log), generation), first, last))
    if number == 0:
        raise _broken("ASK_RECORDS")
    return AskRecords(number, tuple(spans))


def _records(body: bytes) -> Records:
    if len(body) < 5 or body[4] > 1:
        raise _broken("RECORDS")
    (number,) = _NUMBER.unpack_from(body)
    start, found = 5, []
    while start < len(body):
        if start + _ENTRY.size > len(body):
            raise _broken("RECORDS")
        age, length = _ENTRY.unpack_from(body, start)
        start += _ENTRY.size
        if start + length > len(body):
            raise _broken("RECORDS")
        found.append(Arrived(Record.decode(body[start : start + length]), age))
        start += length
    last = bool(body[4])
    if number == 0 and not (last and found):
        raise _broken("RECORDS")
    return Records(number, last, tuple(found))


def _ask_hashes(body: bytes) -> AskHashes:
    if len(body) < _CHAIN.size:
        raise _broken("ASK_HASHES")
    author, log, generation = _CHAIN.unpack_from(body)
    pieces = _pieces(body[_CHAIN.size :], _SEQUENCE.size, "ASK_HASHES", 1)
    return AskHashes(_chain(author, _log(log), generation), tuple(_SEQUENCE.unpack(piece)[0] for piece in pieces))


def _pieces(body: bytes, size: int, name: str, least: int = 0) -> Sequence[bytes]:
    """`body` in pieces of `size` bytes. How many there may be, SYNC_FRAMES says."""
    if len(body) % size or len(body) < least * size:
        raise _broken(name)
    return [body[start : start + size] for start in range(0, len(body), size)]


def _log(number: int) -> Log:
    if number not in tuple(Log):
        raise RemoteProtocolError("The other side named a log that there is not.")
    return Log(number)


def _chain(author: bytes, log: Log, generation: int) -> LogId:
    if generation < 1:
        raise RemoteProtocolError("The other side named a generation that there is not.")
    return LogId(author, log, generation)


def _broken(name: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"The other side sent a broken {name} message.")
