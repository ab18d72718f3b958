"""Who a machine is: an Ed25519 key that signs, an X25519 key for Noise, and the signature that binds the second to the first.

A node's id is BLAKE3-256 of its signing key. Records, rosters and wires carry keys and ids whole; people see eight
characters and a name. Every signature covers a context string, so that what was signed for one purpose is worth nothing
for another. Sources: RFC 8032 (Ed25519), RFC 7748 (X25519), RFC 4648 section 6 (base32).
"""

import base64
import enum
import struct
from collections.abc import Callable
from typing import Final, NewType

import attrs
from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

KEY_SIZE: Final = 32
"""Bytes of every key here, private or public, and of a node id."""

SIGNATURE_SIZE: Final = 64
"""Bytes of an Ed25519 signature."""

SHORT_LENGTH: Final = 8
"""Characters of a node id that people see: 40 bits, enough to tell machines apart, never to decide anything."""

NodeId = NewType("NodeId", bytes)
"""BLAKE3-256 of a node's Ed25519 public key, 32 bytes."""


class Context(enum.Enum):
    """What a signature is for."""

    BINDING = "tether binding v1"
    RECORD = "tether record v1"
    ADMISSION = "tether admission v1"
    SESSION = "tether session v1"
    JOIN = "tether join v1"


def node_id(signing_key: bytes) -> NodeId:
    """The id of the node with this Ed25519 public key."""
    return NodeId(blake3(signing_key).digest())


def node_text(node: NodeId) -> str:
    """The whole id as text: 52 characters of lower-case base32, no padding."""
    return base64.b32encode(node).decode("ascii").rstrip("=").lower()


def short_text(node: NodeId) -> str:
    """What people see of an id."""
    return node_text(node)[:SHORT_LENGTH]


def signed_bytes(context: Context, *fields: bytes) -> bytes:
    """What a signature covers: the context, then every field behind its length (4 bytes, big-endian)."""
    parts = (context.value.encode("ascii"), *fields)
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def is_signed(signing_key: bytes, signature: bytes, context: Context, *fields: bytes) -> bool:
    """Whether the holder of this Ed25519 key signed these fields for this purpose. Broken keys and signatures: no."""
    try:
        Ed25519PublicKey.from_public_bytes(signing_key).verify(signature, signed_bytes(context, *fields))
    except (InvalidSignature, ValueError):
        return False
    return True


@attrs.frozen
class Identity:
    """The public half: what others know of a node."""

    signing_key: bytes
    """Ed25519 public key, 32 bytes."""

    noise_key: bytes
    """X25519 public key, 32 bytes. It belongs to this node for ever."""

    binding: bytes
    """The signing key's signature over the Noise key, 64 bytes."""

    @property
    def node(self) -> NodeId:
        return node_id(self.signing_key)

    def is_bound(self) -> bool:
        """Whether the signing key signed for the Noise key."""
        return is_signed(self.signing_key, self.binding, Context.BINDING, self.noise_key)


class Keys:
    """The private half: both keys of this machine. It never leaves the machine, and `repr` shows nothing of it."""

    def __init__(self, signing_private: bytes, noise_private: bytes) -> None:
        self._signing = Ed25519PrivateKey.from_private_bytes(signing_private)
        self.noise_private = noise_private
        """X25519 private key, 32 bytes, for handshakes."""
        signing_key = self._signing.public_key().public_bytes_raw()
        noise_key = X25519PrivateKey.from_private_bytes(noise_private).public_key().public_bytes_raw()
        self.identity = Identity(signing_key, noise_key, self.sign(Context.BINDING, noise_key))

    @classmethod
    def generate(cls, entropy: Callable[[int], bytes]) -> "Keys":
        """New keys from 64 random bytes."""
        return cls(entropy(KEY_SIZE), entropy(KEY_SIZE))

    @property
    def signing_private(self) -> bytes:
        """Ed25519 private key, 32 bytes, for the key file alone."""
        return self._signing.private_bytes_raw()

    def sign(self, context: Context, *fields: bytes) -> bytes:
        """Sign these fields for one purpose: 64 bytes."""
        return self._signing.sign(signed_bytes(context, *fields))

    def __repr__(self) -> str:
        return f"Keys({short_text(self.identity.node)})"
