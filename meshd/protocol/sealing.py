"""Sealing: a few bytes for one member, in a record that everybody carries. docs/protocol/membership.md, "Mesh secrets".

`Noise_K_25519_ChaChaPoly_BLAKE2s` (Noise revision 34, section 7.4): both static keys are known, one message, no answer.
The limits of that pattern are ours: who steals the recipient's key later reads old boxes, and the recipient could have
made a box itself, which is why a box counts only inside a record that its author signed.
"""

import struct
from collections.abc import Callable
from typing import Final

import attrs

from meshd.errors import LocalProtocolError
from meshd.model.identity import KEY_SIZE, Keys
from meshd.protocol.handshake import TAG_SIZE, NoiseHandshake, Role
from meshd.wire.constants import PROTOCOL

PAYLOAD_LIMIT: Final = 96
"""Most bytes to seal: a key and two digests."""

OVERHEAD: Final = KEY_SIZE + TAG_SIZE
"""Bytes that sealing adds: an ephemeral key and the tag."""


@attrs.frozen(kw_only=True)
class Place:
    """Where a box stands: it opens nowhere else."""

    purpose: str
    mesh: bytes
    author: bytes
    """Signing key of the record's author, 32 bytes."""

    recipient: bytes
    """Signing key of whom it is for, 32 bytes."""

    generation: int
    sequence: int

    @property
    def prologue(self) -> bytes:
        """What both sides must agree on: every field behind its length (4 bytes, big-endian)."""
        fields = (
            self.purpose.encode(),
            PROTOCOL.encode(),
            self.mesh,
            self.author,
            self.recipient,
            struct.pack(">Q", self.generation),
            struct.pack(">Q", self.sequence),
        )
        return b"".join(struct.pack(">I", len(field)) + field for field in fields)


def seal(
    keys: Keys, recipient_noise_key: bytes, place: Place, payload: bytes, entropy: Callable[[int], bytes]
) -> bytes:
    """A box of `len(payload)` + 48 bytes. `entropy` gives 32 fresh random bytes. About 1 ms.

    Raises HandshakeError for a key of the recipient's that admits no secret (a low-order point).
    """
    if len(payload) > PAYLOAD_LIMIT or place.author != keys.identity.signing_key:
        raise LocalProtocolError("only a few bytes are sealed, and only in a record of our own")
    handshake = NoiseHandshake(
        "K",
        Role.A,
        static_private=keys.noise_private,
        remote_static=recipient_noise_key,
        prologue=place.prologue,
        ephemeral_private=entropy(KEY_SIZE),
    )
    return handshake.write(payload)


def unseal(keys: Keys, author_noise_key: bytes, place: Place, box: bytes) -> bytes:
    """What is in a box for us. Raises HandshakeError when it is not for us, not from there, or was made for elsewhere."""
    if place.recipient != keys.identity.signing_key:
        raise LocalProtocolError("that box is for somebody else")
    handshake = NoiseHandshake(
        "K", Role.B, static_private=keys.noise_private, remote_static=author_noise_key, prologue=place.prologue
    )
    return handshake.read(box)
