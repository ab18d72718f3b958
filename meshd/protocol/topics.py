"""Under what two members look for each other at a rendezvous server, and the card that each leaves there.

Pure; docs/protocol/rendezvous.md, "Topics of members". Both members make the same topic from their static keys, and nobody
else can: X25519 (RFC 7748) and HKDF (RFC 5869).
"""

import hashlib
import hmac
import struct
from collections.abc import Callable, Iterable
from typing import Final

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from meshd.errors import RemoteProtocolError
from meshd.wire.codec import decode_body, encode_body
from meshd.wire.rendezvous import CARD_LIMIT, CardBody, Side

DAY_MS: Final = 86_400_000
"""A topic's life in milliseconds of wall time."""

OVERLAP_MS: Final = 3_600_000
"""Around midnight (UTC) two days' topics are waited under: clocks differ, by less than an hour where anything works."""

SERVERS_ASKED: Final = 2
"""Servers under which a topic is: one that is down keeps nobody apart."""

SECRET_SIZE: Final = 32
_NONCE_SIZE: Final = 12
"""Bytes of ChaCha20-Poly1305's nonce. Random: a pair makes a few cards a day, far from the 2**32 that one key allows."""

CARD_PADDED: Final = 240
"""Bytes to which what is in a card is padded, so that all are alike: eight IPv6 addresses take less."""


@attrs.frozen
class Pair:
    """What one member shares with one other. `side` is 0 for the lower Noise public key."""

    secret: bytes = attrs.field(repr=False)
    side: Side

    @classmethod
    def of(cls, mesh: bytes, private_key: bytes, own_key: bytes, their_key: bytes) -> "Pair":
        """The pair of our Noise key and another member's public one, in one mesh. Raises RemoteProtocolError for a public
        key with which there is no secret (a low-order point: RFC 7748, section 6.1)."""
        try:
            shared = X25519PrivateKey.from_private_bytes(private_key).exchange(
                X25519PublicKey.from_public_bytes(their_key)
            )
        except ValueError:
            raise RemoteProtocolError("That member's key allows no secret.") from None
        return cls(_derive(shared, mesh, b"tether pair v1"), Side.FIRST if own_key < their_key else Side.SECOND)

    def topic(self, day: int) -> bytes:
        """Where to wait on a day, counted since 1970."""
        return hmac.digest(self.secret, b"rendezvous" + struct.pack(">Q", day), hashlib.sha256)

    def topics(self, wall_ms: int) -> tuple[bytes, ...]:
        """Where to wait now: today's topic first, and within an hour of midnight the neighbour's."""
        days = dict.fromkeys(max(0, wall_ms + shift) // DAY_MS for shift in (0, OVERLAP_MS, -OVERLAP_MS))
        return tuple(self.topic(day) for day in days)

    def punch_key(self, nonce: bytes) -> bytes:
        """The key of the tags of one match."""
        return hmac.digest(self.secret, b"punch" + nonce, hashlib.sha256)

    def seal(self, card: CardBody, topic: bytes, entropy: Callable[[int], bytes]) -> bytes:
        """Our card for the other member, under this topic."""
        body = encode_body(card)
        padded = struct.pack(">H", len(body)) + body
        padded += bytes(CARD_PADDED - len(padded))
        nonce = entropy(_NONCE_SIZE)
        box = ChaCha20Poly1305(self._card_key).encrypt(nonce, padded, topic + bytes([self.side]))
        sealed = nonce + box
        assert len(sealed) <= CARD_LIMIT
        return sealed

    def unseal(self, card: bytes, topic: bytes) -> CardBody:
        """What the other member says of itself. Raises RemoteProtocolError when it was not sealed by it, for this topic."""
        other = Side.SECOND if self.side is Side.FIRST else Side.FIRST
        try:
            padded = ChaCha20Poly1305(self._card_key).decrypt(
                card[:_NONCE_SIZE], card[_NONCE_SIZE:], topic + bytes([other])
            )
        except (InvalidTag, ValueError):
            raise RemoteProtocolError("The card that the rendezvous server gave is not from that member.") from None
        if len(padded) != CARD_PADDED:
            raise RemoteProtocolError("A member's card has the wrong length.")
        (length,) = struct.unpack_from(">H", padded)
        return decode_body(CardBody, padded[2 : 2 + length])

    @property
    def _card_key(self) -> bytes:
        return _derive(self.secret, b"", b"tether card v1")


def next_change_ms(wall_ms: int) -> int:
    """The wall time at which topics change next: an hour before midnight, at midnight, an hour after."""
    midnight = (wall_ms // DAY_MS) * DAY_MS
    edges = (midnight + OVERLAP_MS, midnight + DAY_MS - OVERLAP_MS, midnight + DAY_MS)
    return min(edge for edge in edges if edge > wall_ms)


def choose_servers(topic: bytes, servers: Iterable[str]) -> list[str]:
    """All servers, the first SERVERS_ASKED being those to wait at: by rendezvous hashing (Thaler and Ravishankar, 1998), so
    that both members choose alike, and a server that comes or goes moves only its own topics."""

    def weight(server: str) -> bytes:
        return hmac.digest(topic, server.encode(), hashlib.sha256)

    return sorted(dict.fromkeys(servers), key=weight, reverse=True)


def _derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(hashes.SHA256(), SECRET_SIZE, salt or None, info).derive(secret)
