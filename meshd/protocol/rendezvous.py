"""A client's conversation with one rendezvous server, over one connection. docs/protocol/rendezvous.md.

Calling contract: feed the stream to `receive_data`, send what `data_to_send` gives, take all events with `next_event`. There
is no timer: QUIC's own silence ends a connection, and what is asked is asked anew on the next. Bytes from a server never
raise: they end in `Failed`.
"""

from collections import deque
from typing import Final

import attrs

from meshd.errors import LocalProtocolError, RemoteProtocolError
from meshd.model.address import Address
from meshd.wire.framing import FrameDecoder
from meshd.wire.rendezvous import (
    SERVER_FRAMES,
    Allocate,
    Enter,
    Free,
    Leave,
    Match,
    Nat,
    Numbered,
    Observed,
    Refusal,
    Refused,
    ServerMessage,
    Side,
    Third,
    Wait,
    address_of,
    decode_server,
    encode,
)

ASKED_LIMIT: Final = 256
"""Things asked of one server at a time; it takes no more (docs/protocol/rendezvous.md, "Caps")."""

OUT_LIMIT: Final = 256 * 1024
"""Bytes that may wait for a server: all that may be asked of it at once, with cards."""


@attrs.frozen
class Seen:
    """Where the server sees us now."""

    address: Address


@attrs.frozen
class Given:
    """The number that was asked for with `ref`, for so many seconds."""

    ref: int
    number: int
    seconds: int


@attrs.frozen
class Matched:
    """The other is there. `after` seconds from now both begin."""

    ref: int
    address: Address
    nonce: bytes
    after: float
    nat: Nat
    card: bytes


@attrs.frozen
class Denied:
    """The server does not do what was asked with `ref`, which is over. Asked anew after `seconds` it may; 0: never."""

    ref: int
    why: Refusal
    seconds: int


@attrs.frozen
class Crowded:
    """A third came for what was asked with `ref`, and was sent away."""

    ref: int


@attrs.frozen
class Failed:
    """The server broke the protocol: end the connection."""

    why: str


Event = Seen | Given | Matched | Denied | Crowded | Failed


class RendezvousClient:
    """One connection."""

    def __init__(self) -> None:
        self._decoder = FrameDecoder(SERVER_FRAMES)
        self._out = bytearray()
        self._events: deque[Event] = deque()
        self._refs: dict[int, type] = {}
        self._last = 0
        self._over = False

    # What we ask. Each returns the number by which answers name it.

    def allocate(self, nat: Nat) -> int:
        """A number for a pairing window of ours."""
        ref = self._new(Allocate)
        self._say(Allocate(ref, nat))
        return ref

    def enter(self, number: int, nat: Nat) -> int:
        """Whoever allocated this number."""
        ref = self._new(Enter)
        self._say(Enter(ref, number, nat))
        return ref

    def wait(self, topic: bytes, side: Side, card: bytes, ref: int = 0) -> int:
        """The other side of a topic; with the `ref` of an earlier one, renew that."""
        ref = ref if self._refs.get(ref) is Wait else self._new(Wait)
        self._say(Wait(ref, topic, side, card))
        return ref

    def leave(self, ref: int) -> None:
        """Take any of these back."""
        if self._refs.pop(ref, None) is not None:
            self._say(Leave(ref))

    def free(self, ref: int) -> None:
        """The run with who entered our number led nowhere."""
        if self._refs.get(ref) is Allocate:
            self._say(Free(ref))

    def greet(self) -> None:
        """Say something, so that the server says where it sees us: it hears of a stream with the first byte."""
        self._last += 1
        self._say(Leave(self._last))

    def is_asked(self, ref: int) -> bool:
        """Whether an answer to this may still come."""
        return ref in self._refs

    def _new(self, kind: type) -> int:
        if len(self._refs) >= ASKED_LIMIT:
            raise LocalProtocolError("more is asked of one server than it takes")
        self._last += 1
        self._refs[self._last] = kind
        return self._last

    def _say(self, message: Allocate | Enter | Wait | Leave | Free) -> None:
        if len(self._out) > OUT_LIMIT:
            self._fail("The rendezvous server does not read what it is told.")
        else:
            self._out += encode(message)

    # The stream.

    def data_to_send(self) -> bytes:
        """Bytes for the server."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def next_event(self) -> Event | None:
        """The next event, None when there is none."""
        return self._events.popleft() if self._events else None

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the server, in pieces of any size."""
        if self._over:
            return
        self._decoder.receive(data)
        try:
            while (frame := self._decoder.next_frame()) is not None:
                self._take(decode_server(*frame))
        except RemoteProtocolError as error:
            self._fail(error.what)

    def _fail(self, why: str) -> None:
        if not self._over:
            self._over = True
            self._events.append(Failed(why))

    def _take(self, message: ServerMessage) -> None:
        if isinstance(message, Observed):
            self._events.append(Seen(address_of(message)))
            return
        kind = self._refs.get(message.ref)
        if kind is None:
            if message.ref > self._last:
                raise RemoteProtocolError("The rendezvous server answered what was not asked.")
            return  # it was taken back while the answer was under way
        match message:
            case Numbered(ref, number, seconds) if kind is Allocate:
                self._events.append(Given(ref, number, seconds))
            case Match():
                if kind is Wait:
                    del self._refs[message.ref]
                after = message.wait_ms / 1000
                found = Matched(message.ref, address_of(message), message.nonce, after, message.nat, message.card)
                self._events.append(found)
            case Refused(ref, why, seconds):
                del self._refs[ref]
                self._events.append(Denied(ref, why, seconds))
            case Third(ref):
                self._events.append(Crowded(ref))
            case _:
                raise RemoteProtocolError("The rendezvous server answered something else than what was asked.")
