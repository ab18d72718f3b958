"""Both machines of a transfer: docs/protocol/transfer.md.

Sans-IO: bytes and the time go in, bytes and events come out. The driver reads and writes the disk: it feeds a Sender
what a source gave, hands a Receiver's events to a sink, and says `written` when the sink has taken them, which is what
lets the sender go on. A machine that has failed sends what it still must (its ABORT) and then nothing.

All times are seconds of one monotonic clock.
"""

import enum
from collections import deque
from typing import Final

import attrs
from blake3 import blake3

from meshd.errors import ConnectionLostError, LocalProtocolError, RefusedError, RemoteProtocolError, TetherError
from meshd.model.entry import MAX_ENTRIES, Entry, EntryKind, ListingDigest
from meshd.wire.codec import decode_body, encode_body
from meshd.wire.constants import (
    CHUNK_SIZE,
    DIGEST_SIZE,
    REASON_LIMIT,
    RECEIVER_FRAMES,
    SENDER_FRAMES,
    WINDOW,
    Frame,
)
from meshd.wire.framing import HEADER, FrameDecoder, encode_frame
from meshd.wire.messages import (
    Abort,
    End,
    EntryEnd,
    EntryFailed,
    EntryHeader,
    Offer,
    Pull,
    RefuseEntry,
    Stored,
)

ACCEPT_DEADLINE: Final = 30.0
"""Seconds a sender waits for the first PULL; the driver gives more when a person at the other side compares words."""

STORE_DEADLINE: Final = 600.0
"""Seconds a sender waits for STORED after END: a slow disk may have gigabytes to flush, and pings show a live link."""

GRANT_STEP: Final = WINDOW // 4
"""Bytes of frames between two PULLs: four a window keep the sender busy without a PULL for every chunk."""


@attrs.frozen
class Accepted:
    """The receiver takes the offer."""


@attrs.frozen
class EntryRefused:
    """The receiver does not want the entry with this index, from 0, in the order of `begin`."""

    index: int
    reason: str


@attrs.frozen
class Confirmed:
    """The receiver has stored all that it did not refuse: the only success there is for a sender."""

    entries: int
    size: int


@attrs.frozen
class Offered:
    """A payload is offered; `accept` or `abort` answers."""

    offer: Offer


@attrs.frozen
class Began:
    """The entry with this index, from 0, begins."""

    index: int
    entry: Entry


@attrs.frozen
class Content:
    """Verified bytes of the entry that is open."""

    data: bytes


@attrs.frozen
class Ended:
    """The open entry is complete; `digest` is the sender's word for its BLAKE3-256, for the sink to compare."""

    digest: bytes


@attrs.frozen
class Dropped:
    """The sender gave the open entry up."""

    reason: str


@attrs.frozen
class AllSent:
    """Nothing more comes and the listing agrees; `stored` answers once all is durable."""

    entries: int
    size: int


@attrs.frozen
class Failed:
    """This direction has ended without success."""

    error: TetherError


SenderEvent = Accepted | EntryRefused | Confirmed | Failed
ReceiverEvent = Offered | Began | Content | Ended | Dropped | AllSent | Failed


class SenderState(enum.Enum):
    OFFERED = enum.auto()
    BETWEEN = enum.auto()
    IN_ENTRY = enum.auto()
    ENDED = enum.auto()
    DONE = enum.auto()
    FAILED = enum.auto()


class ReceiverState(enum.Enum):
    WAITING = enum.auto()
    DECIDING = enum.auto()
    BETWEEN = enum.auto()
    IN_ENTRY = enum.auto()
    ENDED = enum.auto()
    STORED = enum.auto()
    FAILED = enum.auto()


_S, _R = SenderState, ReceiverState

SENDER_TAKES: Final[dict[tuple[SenderState, Frame], SenderState]] = {
    (_S.OFFERED, Frame.PULL): _S.BETWEEN,
    (_S.BETWEEN, Frame.PULL): _S.BETWEEN,
    (_S.IN_ENTRY, Frame.PULL): _S.IN_ENTRY,
    (_S.ENDED, Frame.PULL): _S.ENDED,
    (_S.BETWEEN, Frame.REFUSE_ENTRY): _S.BETWEEN,
    (_S.IN_ENTRY, Frame.REFUSE_ENTRY): _S.IN_ENTRY,
    (_S.ENDED, Frame.REFUSE_ENTRY): _S.ENDED,
    (_S.ENDED, Frame.STORED): _S.DONE,
    (_S.OFFERED, Frame.RECEIVER_ABORT): _S.FAILED,
    (_S.BETWEEN, Frame.RECEIVER_ABORT): _S.FAILED,
    (_S.IN_ENTRY, Frame.RECEIVER_ABORT): _S.FAILED,
    (_S.ENDED, Frame.RECEIVER_ABORT): _S.FAILED,
}
"""What a sender takes, and the state it leads to. A pair that is not here breaks the protocol."""

RECEIVER_TAKES: Final[dict[tuple[ReceiverState, Frame], ReceiverState]] = {
    (_R.WAITING, Frame.OFFER): _R.DECIDING,
    (_R.BETWEEN, Frame.ENTRY): _R.IN_ENTRY,
    (_R.IN_ENTRY, Frame.CHUNK): _R.IN_ENTRY,
    (_R.IN_ENTRY, Frame.ENTRY_END): _R.BETWEEN,
    (_R.IN_ENTRY, Frame.ENTRY_FAILED): _R.BETWEEN,
    (_R.BETWEEN, Frame.END): _R.ENDED,
    (_R.WAITING, Frame.SENDER_ABORT): _R.FAILED,
    (_R.DECIDING, Frame.SENDER_ABORT): _R.FAILED,
    (_R.BETWEEN, Frame.SENDER_ABORT): _R.FAILED,
    (_R.IN_ENTRY, Frame.SENDER_ABORT): _R.FAILED,
}
"""What a receiver takes, and the state it leads to. A pair that is not here breaks the protocol."""


def _clip(reason: str) -> str:
    return reason[:REASON_LIMIT]


class Sender:
    """Sends one payload. Created with its OFFER already queued; `wants_more` says when to feed it."""

    def __init__(self, offer: Offer, now: float, accept_within: float = ACCEPT_DEADLINE) -> None:
        self._decoder = FrameDecoder(RECEIVER_FRAMES)
        self._events: deque[SenderEvent] = deque()
        # Frames wait here until a PULL admits them; the driver feeds only while `wants_more`, which bounds it.
        self._held: deque[bytes] = deque()
        self._urgent = bytearray(encode_frame(Frame.OFFER, encode_body(offer)))
        self._sent = 0
        self._limit = 0
        self._listing = ListingDigest()
        self._entry: Entry | None = None
        self._begun = 0
        self._ended = 0
        self._entry_size = 0
        self._size = 0
        self._refused: set[int] = set()
        self._failed_entries: set[int] = set()
        self._deadline: float | None = now + accept_within
        self.state = SenderState.OFFERED

    @property
    def _failed(self) -> bool:
        return self.state is SenderState.FAILED

    @property
    def wants_more(self) -> bool:
        """Whether everything fed so far fits what the receiver granted, and more would."""
        return self.state in (SenderState.BETWEEN, SenderState.IN_ENTRY) and not self._held and self._sent < self._limit

    @property
    def room(self) -> int:
        """Bytes of frames that the receiver still admits."""
        return self._limit - self._sent

    def begin(self, entry: Entry, now: float) -> int:
        """Open the next entry; returns its index, from 0."""
        self._require(SenderState.BETWEEN)
        header = EntryHeader(
            path=list(entry.path),
            kind=entry.kind.value,
            size=entry.size,
            executable=entry.executable,
            modified_ns=entry.modified_ns,
        )
        self._hold(Frame.ENTRY, encode_body(header))
        self._entry, self._entry_size = entry, 0
        self._begun += 1
        self.state = SenderState.IN_ENTRY
        return self._begun - 1

    def content(self, data: bytes, now: float) -> None:
        """Send bytes of the open entry, 1 to CHUNK_SIZE of them."""
        self._require(SenderState.IN_ENTRY)
        if not 0 < len(data) <= CHUNK_SIZE:
            raise LocalProtocolError(f"a chunk holds 1 to {CHUNK_SIZE} bytes, not {len(data)}")
        self._hold(Frame.CHUNK, blake3(data).digest() + data)
        self._entry_size += len(data)

    def end_entry(self, digest: bytes, now: float) -> None:
        """Close the open entry; `digest` is the BLAKE3-256 of all its content."""
        self._require(SenderState.IN_ENTRY)
        assert self._entry is not None
        self._hold(Frame.ENTRY_END, encode_body(EntryEnd(digest)))
        self._listing.add(attrs.evolve(self._entry, size=self._entry_size), digest)
        self._ended += 1
        self._size += self._entry_size
        self.state = SenderState.BETWEEN

    def fail_entry(self, reason: str, now: float) -> None:
        """Give the open entry up: it was refused, or could not be read to its end. The receiver drops it."""
        self._require(SenderState.IN_ENTRY)
        self._hold(Frame.ENTRY_FAILED, encode_body(EntryFailed(_clip(reason))))
        self._failed_entries.add(self._begun - 1)
        self.state = SenderState.BETWEEN

    def end(self, now: float) -> None:
        """Say that nothing more comes; `Confirmed` is the answer to wait for."""
        self._require(SenderState.BETWEEN)
        self._hold(Frame.END, encode_body(End(self._ended, self._size, self._listing.digest())))
        self._deadline = now + STORE_DEADLINE
        self.state = SenderState.ENDED

    def abort(self, error: TetherError, now: float) -> None:
        """End this direction without success and tell the receiver why."""
        if self.state not in (SenderState.DONE, SenderState.FAILED):
            self._urgent += encode_frame(Frame.SENDER_ABORT, encode_body(Abort(_clip(error.what))))
            self._fail(error)

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes of the receiver's half of the stream. What they break ends in a Failed event."""
        if self._failed:
            return
        try:
            self._decoder.receive(data)
            while not self._failed and (frame := self._decoder.next_frame()) is not None:
                self._take(*frame, now)
        except RemoteProtocolError as error:
            self._fail(error)

    def next_event(self) -> SenderEvent | None:
        """The oldest event that the driver has not taken, or None."""
        return self._events.popleft() if self._events else None

    def data_to_send(self, now: float) -> bytes:
        """Bytes for the stream: as many whole frames as the receiver has granted."""
        parts = [bytes(self._urgent)] if self._urgent else []
        self._urgent.clear()
        while self._held and self._sent + len(self._held[0]) <= self._limit:
            frame = self._held.popleft()
            self._sent += len(frame)
            parts.append(frame)
        return b"".join(parts)

    def next_deadline(self) -> float | None:
        """When `on_deadline` is due."""
        return self._deadline

    def on_deadline(self, now: float) -> None:
        """A time-out of the receiver's, if it is due."""
        if self._deadline is not None and now >= self._deadline:
            waited = "accept the payload" if self.state is SenderState.OFFERED else "confirm that it stored the payload"
            self.abort(ConnectionLostError(f"The other side did not {waited} in time.", "Look at its screen."), now)

    def _take(self, kind: Frame, body: bytes, now: float) -> None:
        state = SENDER_TAKES.get((self.state, kind))
        if state is None:
            raise RemoteProtocolError(f"The receiver sent {kind.name} out of turn.")
        if kind is Frame.PULL:
            limit = decode_body(Pull, body).limit
            if limit < self._limit:
                raise RemoteProtocolError("The receiver took back what it had granted.")
            self._limit = limit
            if self.state is SenderState.OFFERED:
                self._deadline = None
                self._events.append(Accepted())
        elif kind is Frame.REFUSE_ENTRY:
            refusal = decode_body(RefuseEntry, body)
            if refusal.index >= self._begun:
                raise RemoteProtocolError("The receiver refused an entry that was never sent.")
            self._refused.add(refusal.index)
            self._events.append(EntryRefused(refusal.index, refusal.reason))
        elif kind is Frame.STORED:
            stored = decode_body(Stored, body)
            if self._held:
                raise RemoteProtocolError("The receiver confirmed a payload before it had all of it.")
            kept = self._ended - len(self._refused - self._failed_entries)
            if stored.digest != self._listing.digest() or stored.entries != kept or stored.size > self._size:
                raise RemoteProtocolError("The receiver confirmed something else than was sent.")
            self._deadline = None
            self._events.append(Confirmed(stored.entries, stored.size))
        else:
            reason = decode_body(Abort, body).reason
            self._fail(RefusedError(f"The other side refused: {reason}"))
            return
        self.state = state

    def _hold(self, kind: Frame, body: bytes) -> None:
        self._held.append(encode_frame(kind, body))

    def _require(self, state: SenderState) -> None:
        if self.state is not state:
            raise LocalProtocolError(f"a sender that is {self.state.name} was used as if it were {state.name}")

    def _fail(self, error: TetherError) -> None:
        self._held.clear()
        self._deadline = None
        self.state = SenderState.FAILED
        self._events.append(Failed(error))


class Receiver:
    """Receives one payload. `accept` after Offered, `written` after each batch of events, `stored` after AllSent."""

    def __init__(self) -> None:
        self._decoder = FrameDecoder(SENDER_FRAMES)
        self._events: deque[ReceiverEvent] = deque()
        self._out = bytearray()
        self._received = 0
        self._limit = 0
        self._listing = ListingDigest()
        self._entry: Entry | None = None
        self._begun = 0
        self._ended = 0
        self._entry_size = 0
        self._size = 0
        self.state = ReceiverState.WAITING

    @property
    def _failed(self) -> bool:
        return self.state is ReceiverState.FAILED

    def accept(self, now: float) -> None:
        """Take the offer: the first PULL."""
        self._require(ReceiverState.DECIDING)
        self.state = ReceiverState.BETWEEN
        self._grant(WINDOW)

    def written(self, now: float) -> None:
        """Say that all events given so far are dealt with, so that the sender may go on."""
        if self.state in (ReceiverState.BETWEEN, ReceiverState.IN_ENTRY):
            limit = self._received + WINDOW
            if limit - self._limit >= GRANT_STEP:
                self._grant(limit)

    def refuse_entry(self, index: int, reason: str, now: float) -> None:
        """Tell the sender that an entry, by its index, is not wanted or was not kept. Allowed until `stored`."""
        if self.state not in (ReceiverState.BETWEEN, ReceiverState.IN_ENTRY, ReceiverState.ENDED):
            raise LocalProtocolError(f"a receiver that is {self.state.name} cannot refuse an entry")
        self._send(Frame.REFUSE_ENTRY, RefuseEntry(index, _clip(reason)))

    def stored(self, entries: int, size: int, now: float) -> None:
        """Confirm: `entries` of `size` bytes in all are durable, and nothing else is outstanding."""
        self._require(ReceiverState.ENDED)
        self._send(Frame.STORED, Stored(self._listing.digest(), entries, size))
        self.state = ReceiverState.STORED

    def abort(self, error: TetherError, now: float) -> None:
        """End this direction without success and tell the sender why."""
        if self.state not in (ReceiverState.STORED, ReceiverState.FAILED):
            self._send(Frame.RECEIVER_ABORT, Abort(_clip(error.what)))
            self._fail(error)

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes of the sender's half of the stream. What they break ends in a Failed event."""
        if self._failed:
            return
        try:
            self._decoder.receive(data)
            while not self._failed and (frame := self._decoder.next_frame()) is not None:
                self._take(*frame)
        except RemoteProtocolError as error:
            self._fail(error)

    def next_event(self) -> ReceiverEvent | None:
        """The oldest event that the driver has not taken, or None."""
        return self._events.popleft() if self._events else None

    def data_to_send(self, now: float) -> bytes:
        """Bytes for the stream."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def next_deadline(self) -> float | None:
        """None: a sender may be fed by a person's pipe. The connection's own pings notice when it is gone."""
        return None

    def on_deadline(self, now: float) -> None:
        """Nothing is ever due."""

    def _take(self, kind: Frame, body: bytes) -> None:
        state = RECEIVER_TAKES.get((self.state, kind))
        if state is None:
            raise RemoteProtocolError(f"The sender sent {kind.name} out of turn.")
        if kind not in (Frame.OFFER, Frame.SENDER_ABORT):
            self._received += HEADER.size + len(body)
            if self._received > self._limit:
                raise RemoteProtocolError("The sender sent more than it was granted.")
        if kind is Frame.OFFER:
            self._events.append(Offered(decode_body(Offer, body)))
        elif kind is Frame.ENTRY:
            if self._begun == MAX_ENTRIES:
                raise RemoteProtocolError(f"The sender sent more than {MAX_ENTRIES:,} entries.")
            header = decode_body(EntryHeader, body)
            self._entry = Entry(
                path=tuple(header.path),
                kind=EntryKind(header.kind),
                size=header.size,
                executable=header.executable,
                modified_ns=header.modified_ns,
            )
            self._entry_size = 0
            self._events.append(Began(self._begun, self._entry))
            self._begun += 1
        elif kind is Frame.CHUNK:
            data = body[DIGEST_SIZE:]
            if not data:
                raise RemoteProtocolError("The sender sent an empty chunk.")
            if blake3(data).digest() != body[:DIGEST_SIZE]:
                raise RemoteProtocolError(
                    "A chunk arrived that is not what the sender hashed: bad memory on one side, or a broken program."
                )
            self._entry_size += len(data)
            self._events.append(Content(data))
        elif kind is Frame.ENTRY_END:
            assert self._entry is not None
            digest = decode_body(EntryEnd, body).digest
            self._listing.add(attrs.evolve(self._entry, size=self._entry_size), digest)
            self._ended += 1
            self._size += self._entry_size
            self._events.append(Ended(digest))
        elif kind is Frame.ENTRY_FAILED:
            self._events.append(Dropped(decode_body(EntryFailed, body).reason))
        elif kind is Frame.END:
            end = decode_body(End, body)
            if (end.entries, end.size, end.digest) != (self._ended, self._size, self._listing.digest()):
                raise RemoteProtocolError("The sender's listing is not what it sent.")
            self._events.append(AllSent(end.entries, end.size))
        else:
            self._fail(RefusedError(f"The other side gave up: {decode_body(Abort, body).reason}"))
            return
        self.state = state

    def _grant(self, limit: int) -> None:
        self._limit = limit
        self._send(Frame.PULL, Pull(limit))

    def _send(self, kind: Frame, message: object) -> None:
        self._out += encode_frame(kind, encode_body(message))

    def _require(self, state: ReceiverState) -> None:
        if self.state is not state:
            raise LocalProtocolError(f"a receiver that is {self.state.name} was used as if it were {state.name}")

    def _fail(self, error: TetherError) -> None:
        self.state = ReceiverState.FAILED
        self._events.append(Failed(error))
