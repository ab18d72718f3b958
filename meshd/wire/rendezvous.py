"""What a rendezvous server and its clients say, and the datagrams that peers punch with. docs/protocol/rendezvous.md."""

import enum
import ipaddress
import struct
from collections.abc import Iterable
from typing import Annotated, Final

import attrs
from msgspec import Meta

from meshd.errors import RemoteProtocolError
from meshd.model.address import Address
from meshd.wire.codec import decode_body, encode_body
from meshd.wire.constants import Frame
from meshd.wire.framing import encode_frame

FRAME_LIMIT: Final = 1024
"""Most bytes of any frame's body: a card of CARD_LIMIT and the rest of WAIT or MATCH."""

CARD_LIMIT: Final = 512
"""Most bytes of a sealed candidate list: eight addresses, padded."""

NONCE_SIZE: Final = 16
"""Bytes of the nonce of a match."""

TOPIC_SIZE: Final = 32
"""Bytes of a topic."""

NUMBER_LIMIT: Final = 999_999
"""Largest number of a code: ten times more windows than one server lets live, and still read aloud."""

_PORT: Final = struct.Struct(">H")

_HOST_LIMIT: Final = 45
"""Longest IP address as text: an IPv6 one that holds an IPv4 one."""


class Nat(enum.IntEnum):
    """How a machine's router maps it, as two servers saw it (RFC 4787, section 4.1)."""

    UNKNOWN = 0
    ONE_FOR_ALL = 1
    """Endpoint-independent: one address and port for all destinations."""

    ONE_FOR_EACH = 2
    """Another for each destination: often called symmetric."""

    NONE = 3
    """The machine has the address itself that servers see."""


class Side(enum.IntEnum):
    """Which of the two who meet: the first dials."""

    FIRST = 0
    """The connector of a pairing; the member with the lower Noise public key."""

    SECOND = 1


class Refusal(enum.IntEnum):
    """Why a server does not do what it was asked."""

    TAKEN = 1
    """Two are there already."""

    NO_SUCH_NUMBER = 2
    TOO_MANY = 3
    """More than this source, or this connection, may have."""

    EXPIRED = 4
    """Its time is over; ask anew."""


Ref = Annotated[int, Meta(ge=1, le=(1 << 32) - 1)]
Number = Annotated[int, Meta(ge=1, le=NUMBER_LIMIT)]
Topic = Annotated[bytes, Meta(min_length=TOPIC_SIZE, max_length=TOPIC_SIZE)]
Card = Annotated[bytes, Meta(max_length=CARD_LIMIT)]
MatchNonce = Annotated[bytes, Meta(min_length=NONCE_SIZE, max_length=NONCE_SIZE)]
Host = Annotated[str, Meta(min_length=2, max_length=_HOST_LIMIT)]
Port = Annotated[int, Meta(ge=1, le=65_535)]
Seconds = Annotated[int, Meta(ge=0, le=86_400)]


@attrs.frozen
class Allocate:
    """ALLOCATE: a number for a pairing window."""

    ref: Ref
    nat: Nat


@attrs.frozen
class Enter:
    """ENTER: whoever allocated this number."""

    ref: Ref
    number: Number
    nat: Nat


@attrs.frozen
class Wait:
    """WAIT: whoever waits under the topic on the other side. With a `ref` in use it renews that one."""

    ref: Ref
    topic: Topic
    side: Side
    card: Card


@attrs.frozen
class Leave:
    """LEAVE: what was asked with this `ref` is wanted no more."""

    ref: Ref


@attrs.frozen
class Free:
    """FREE: the run with who entered led nowhere; the number is open for the next."""

    ref: Ref


@attrs.frozen
class Observed:
    """OBSERVED: where the client's datagrams come from."""

    host: Host
    port: Port


@attrs.frozen
class Numbered:
    """NUMBER: it is yours for so many seconds."""

    ref: Ref
    number: Number
    seconds: Seconds


@attrs.frozen
class Match:
    """MATCH: the other is at this address. Begin in `wait_ms`, so that both begin together."""

    ref: Ref
    host: Host
    port: Port
    nonce: MatchNonce
    wait_ms: Annotated[int, Meta(ge=0, le=5_000)]
    nat: Nat
    card: Card


@attrs.frozen
class Refused:
    """REFUSED: not done. Ask again after `seconds`; 0: it would be in vain."""

    ref: Ref
    why: Refusal
    seconds: Seconds


@attrs.frozen
class Third:
    """THIRD: somebody else came for this, and was sent away."""

    ref: Ref


FROM_CLIENT: Final[dict[Frame, type]] = {
    Frame.ALLOCATE: Allocate,
    Frame.ENTER: Enter,
    Frame.WAIT: Wait,
    Frame.LEAVE: Leave,
    Frame.FREE: Free,
}

FROM_SERVER: Final[dict[Frame, type]] = {
    Frame.OBSERVED: Observed,
    Frame.NUMBER: Numbered,
    Frame.MATCH: Match,
    Frame.REFUSED: Refused,
    Frame.THIRD: Third,
}

_FRAMES: Final = {kind: frame for frame, kind in (FROM_CLIENT | FROM_SERVER).items()}

CLIENT_FRAMES: Final[dict[int, int]] = dict.fromkeys(FROM_CLIENT, FRAME_LIMIT)
"""What a server takes from a client, and how long each may be."""

SERVER_FRAMES: Final[dict[int, int]] = dict.fromkeys(FROM_SERVER, FRAME_LIMIT)
"""What a client takes from a server."""

ClientMessage = Allocate | Enter | Wait | Leave | Free
ServerMessage = Observed | Numbered | Match | Refused | Third


def encode(message: ClientMessage | ServerMessage) -> bytes:
    """One frame, ready to send."""
    return encode_frame(_FRAMES[type(message)], encode_body(message))


def decode_client(frame: Frame, body: bytes) -> ClientMessage:
    """What a client said. Raises RemoteProtocolError."""
    message: ClientMessage = decode_body(FROM_CLIENT[frame], body)
    return message


def decode_server(frame: Frame, body: bytes) -> ServerMessage:
    """What a server said; addresses are IP addresses, each in its one spelling. Raises RemoteProtocolError."""
    message: ServerMessage = decode_body(FROM_SERVER[frame], body)
    if isinstance(message, Observed | Match):
        try:
            return attrs.evolve(message, host=plain_host(ipaddress.ip_address(message.host)))
        except ValueError:
            raise RemoteProtocolError("The rendezvous server named an address that is none.") from None
    return message


def plain_host(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """The one spelling of an address: two would be counted, and written to, as two. Raises ValueError for one with an
    interface, whose name may hold anything."""
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            raise ValueError("an interface of somebody else's machine")
        return str(ip.ipv4_mapped or ip)
    return str(ip)


def address_of(message: Observed | Match) -> Address:
    """The address in it."""
    return Address(message.host, message.port)


# Cards: what one member tells the other, sealed (protocol/topics.py).

CANDIDATES_LIMIT: Final = 8
"""Addresses in a card."""


_Packed = Annotated[bytes, Meta(min_length=6, max_length=18)]
"""An address in network order, 4 or 16 bytes, and a port, 2 bytes."""


@attrs.frozen
class CardBody:
    """What is inside a card."""

    nat: Nat
    places: Annotated[list[_Packed], Meta(max_length=CANDIDATES_LIMIT)]

    @classmethod
    def of(cls, nat: Nat, addresses: Iterable[Address]) -> "CardBody":
        """A card with the first CANDIDATES_LIMIT of these IP addresses, each once."""
        packed = dict.fromkeys(ipaddress.ip_address(each.host).packed + _PORT.pack(each.port) for each in addresses)
        return cls(nat, list(packed)[:CANDIDATES_LIMIT])

    def addresses(self) -> list[Address]:
        """Those that are addresses; what else a member may have written is left out."""
        found = []
        for each in self.places:
            (port,) = _PORT.unpack(each[-_PORT.size :])
            host = each[: -_PORT.size]
            if len(host) in (4, 16) and port:
                found.append(Address(plain_host(ipaddress.ip_address(host)), port))
        return list(dict.fromkeys(found))


# Punches.

PUNCH: Final = 0x01
"""First byte of a punch: QUIC's fixed bit, 0x40, is clear (RFC 9000, section 17.2)."""

PUNCH_TAG_SIZE: Final = 16
PUNCH_SIZE: Final = 2 + PUNCH_TAG_SIZE
"""Bytes of a punch: far less than what any answer of ours could amplify."""


def encode_punch(attempt: int, tag: bytes) -> bytes:
    """The datagram of one attempt."""
    return bytes((PUNCH, attempt)) + tag


def decode_punch(datagram: bytes) -> tuple[int, bytes] | None:
    """Attempt and tag; None for anything that is no punch."""
    if len(datagram) != PUNCH_SIZE or datagram[0] != PUNCH:
        return None
    return datagram[1], datagram[2:]
