"""What an endpoint reads and answers before it keeps anything of a stranger: the long header, and the token of a Retry.

Both are our own and the same for either engine.
"""

import hashlib
import hmac
import ipaddress
import secrets

import attrs

from meshd.drivers.udp import SocketAddress

QUIC_V1 = 1
"""The one version of QUIC that is spoken here (RFC 9000 section 15)."""
SMALLEST_INITIAL = 1200
"""A datagram that opens a connection is at least this long (RFC 9000 section 14.1); shorter ones get no answer."""
_TOKEN_LIFETIME = 30
"""Seconds for which a Retry token is good. Clients return it at once (RFC 9000 section 8.1.4)."""


@attrs.frozen
class Header:
    """The part of a long header that an endpoint without state looks at (RFC 9000 section 17.2)."""

    version: int
    is_initial: bool
    destination_id: bytes
    source_id: bytes
    token: bytes


def parse_long_header(data: bytes) -> Header | None:
    """Read a long header, or None for a short header and for anything that is none.

    Written here once instead of per engine: only the parts that RFC 8999 keeps for all versions, and of version 1 the
    packet type and an Initial's token.
    """
    try:
        if not data[0] & 0x80:
            return None
        version = int.from_bytes(data[1:5], "big")
        at = 5
        destination_id = data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
        source_id = data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
        if len(data) < at or (version == QUIC_V1 and max(len(destination_id), len(source_id)) > 20):
            return None
        token = b""
        is_initial = version == QUIC_V1 and data[0] & 0x30 == 0
        if is_initial:
            size = 1 << (data[at] >> 6)
            length = int.from_bytes(data[at : at + size], "big") & ((1 << (8 * size - 2)) - 1)
            token = data[at + size : at + size + length]
            if len(token) < length:
                return None
    except IndexError:
        return None
    return Header(version, is_initial, destination_id, source_id, token)


class RetryTokens:
    """Proof that a client receives at the address it sends from, kept by the client (RFC 9000 section 8.1.2).

    One authenticated token for both engines: qh3's own costs an RSA operation for every datagram that a stranger sends
    and never expires.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def issue(self, address: SocketAddress, original_id: bytes, retry_id: bytes, now: float) -> bytes:
        """Make the token that goes with a Retry from `retry_id` to a client that first wrote to `original_id`."""
        issued = int(now).to_bytes(8, "big")
        return issued + original_id + self._tag(address, original_id, retry_id, issued)

    def original_id(self, token: bytes, address: SocketAddress, retry_id: bytes, now: float) -> bytes | None:
        """Return the connection id that the client first wrote to, or None when the token is not good here and now."""
        issued, original_id, tag = token[:8], token[8:-16], token[-16:]
        # 8 of time, 16 of tag and at most 20 of connection id (RFC 9000 section 17.2); strangers send tokens of any length.
        if not 24 <= len(token) <= 44 or not hmac.compare_digest(
            tag, self._tag(address, original_id, retry_id, issued)
        ):
            return None
        return original_id if now - int.from_bytes(issued, "big") <= _TOKEN_LIFETIME else None

    def _tag(self, address: SocketAddress, original_id: bytes, retry_id: bytes, issued: bytes) -> bytes:
        host = ipaddress.ip_address(address[0]).packed
        parts = (issued, host, address[1].to_bytes(2, "big"), original_id, retry_id)
        text = b"".join(bytes([len(part)]) + part for part in parts)
        return hmac.digest(self._key, text, hashlib.sha256)[:16]
