"""What the machines of a session ask and tell, and the two numbers that select. docs/protocol/session.md."""

import hashlib
import hmac

import attrs

from meshd.errors import ConnectionLostError
from meshd.model.identity import Identity, NodeId
from meshd.wire.constants import CloseCode
from meshd.wire.session import TAG_SIZE


class SessionError(ConnectionLostError):
    """No session came about. `code` is what the connection was closed with, by either side."""

    def __init__(self, code: CloseCode, what: str, advice: str = "") -> None:
        super().__init__(what, advice)
        self.code = code


def session_tag(secret: bytes, nonce_a: bytes) -> bytes:
    """What names a mesh in A's hello: 16 bytes that only holders of this mesh secret (32 bytes) can tell from random."""
    return hmac.digest(secret, b"session" + nonce_a, hashlib.sha256)[:TAG_SIZE]


def session_hint(secret: bytes, nonce_a: bytes, nonce_b: bytes, node: NodeId) -> bytes:
    """What names the member that answers in B's hello, 16 bytes."""
    return hmac.digest(secret, b"node" + nonce_a + nonce_b + node, hashlib.sha256)[:TAG_SIZE]


@attrs.frozen
class Hinted:
    """To A: a member answers. Find it among those we know (`is_of`), then `call` it, or `give_up`."""

    hint: bytes
    nonce_a: bytes
    nonce_b: bytes
    secrets: tuple[bytes, ...] = attrs.field(repr=False)

    def is_of(self, node: NodeId) -> bool:
        """Whether the hint names this node. It is a hint: the handshake proves."""
        return any(
            hmac.compare_digest(self.hint, session_hint(secret, self.nonce_a, self.nonce_b, node))
            for secret in self.secrets
        )


@attrs.frozen
class Tagged:
    """To B: somebody means a mesh. Find it among ours (`is_of`), then `choose` it; if it is none, `choose_none`."""

    tags: tuple[bytes, ...]
    nonce_a: bytes

    def is_of(self, secret: bytes) -> bool:
        """Whether a tag was made with this mesh secret."""
        mine = session_tag(secret, self.nonce_a)
        # All are compared before any counts, so that how long it takes says nothing about which.
        found = [hmac.compare_digest(mine, tag) for tag in self.tags]
        return any(found)


@attrs.frozen
class Claimed:
    """To B: the peer holds both these keys. Whether it may come in is for the roster: `accept` or `refuse`."""

    mesh: bytes
    noise_key: bytes
    signing_key: bytes
    introduction: tuple[bytes, ...]
    """Encoded records, not looked at, the newest last."""


@attrs.frozen
class Confirmed:
    """The session stands. For B its CONFIRM is still to be sent; then the first stream is over."""

    mesh: bytes
    peer: Identity
    handshake_hash: bytes
    """The same 32 bytes on both sides."""


@attrs.frozen
class Failed:
    """There is no session; nothing more may be sent. Close with `error.code`."""

    error: SessionError


Event = Hinted | Tagged | Claimed | Confirmed | Failed
