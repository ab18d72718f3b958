"""Noise handshakes: the one place that knows the noise library, and its private attributes."""

import enum
from typing import Final, Literal

from noise.backends.default.keypairs import KeyPair25519
from noise.connection import Keypair, NoiseConnection

from meshd.errors import LocalProtocolError, RemoteProtocolError

MESSAGE_LIMIT: Final = 65_535
"""Most bytes of any Noise message, section 3 of the Noise specification (revision 34)."""

TAG_SIZE: Final = 16
"""Bytes that encryption adds to a plaintext."""

KEY_SIZE: Final = 32
"""Bytes of an X25519 key, private or public, and of a psk."""


Pattern = Literal["XXpsk0", "IK", "K"]
"""XXpsk0 pairs (docs/protocol/pairing.md), IK opens sessions (session.md), K seals one message (sealing.py)."""


class Role(enum.Enum):
    """Who is who, decided by the transport and never by a message: nobody can be talked into the other role."""

    A = "A"
    """Who connects: QUIC client, SPAKE2 side A, Noise initiator."""

    B = "B"
    """Who listens: QUIC server, SPAKE2 side B, Noise responder."""


class HandshakeError(RemoteProtocolError):
    """A message of the peer did not verify. The library's own reasons are not told apart: they would help a guesser."""


class NoiseHandshake:
    """One handshake with `Noise_<pattern>_25519_ChaChaPoly_BLAKE2s`, then the transport that it opens.

    Call `write` and `read` in turn, A first, until `finished`; then `encrypt` and `decrypt` (not with K, whose one
    message is all there is). Whatever the library raises becomes HandshakeError and the object is dead: every later call
    raises LocalProtocolError. Without that rule the library would go on writing after a message that it could not read.

    All keys are 32 bytes. `remote_static` is the peer's public key where the pattern wants it beforehand: for A in IK, for
    both in K. `ephemeral_private` must be fresh random bytes each time: with a fixed one the handshake has no secrecy; B
    in K makes none. Raises LocalProtocolError when a key is missing, not wanted, or of another length.
    """

    def __init__(
        self,
        pattern: Pattern,
        role: Role,
        *,
        static_private: bytes,
        prologue: bytes,
        ephemeral_private: bytes | None = None,
        psk: bytes | None = None,
        remote_static: bytes | None = None,
    ) -> None:
        wanted = {
            "psk": (psk, pattern == "XXpsk0"),
            "remote static": (remote_static, pattern == "K" or (pattern == "IK" and role is Role.A)),
            "ephemeral": (ephemeral_private, pattern != "K" or role is Role.A),
        }
        if any((key is not None) != needed for key, needed in wanted.values()):
            raise LocalProtocolError(f"{pattern} needs other keys in this role")
        if any(
            len(key) != KEY_SIZE for key in (static_private, psk, remote_static, ephemeral_private) if key is not None
        ):
            raise LocalProtocolError("a Noise key has 32 bytes")
        connection = NoiseConnection.from_name(f"Noise_{pattern}_25519_ChaChaPoly_BLAKE2s".encode("ascii"))
        if role is Role.A:
            connection.set_as_initiator()
        else:
            connection.set_as_responder()
        connection.set_prologue(prologue)
        if psk is not None:
            connection.set_psks(psk=psk)
        if remote_static is not None:
            connection.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, remote_static)
        connection.set_keypair_from_private_bytes(Keypair.STATIC, static_private)
        connection.start_handshake()
        # Held because the library drops it with the last message, and with it the peer's static key.
        self._state = connection.noise_protocol.handshake_state
        # Through the state: the public call prints a warning each time that this is for tests only. It is not: entropy
        # comes as an argument here, so that vectors can be replayed through this very class.
        if ephemeral_private is not None:
            self._state.e = KeyPair25519.from_private_bytes(ephemeral_private)
        self._connection: NoiseConnection | None = connection

    @property
    def finished(self) -> bool:
        """Whether the last handshake message has been written or read."""
        return bool(self._alive().handshake_finished)

    @property
    def handshake_hash(self) -> bytes:
        """32 bytes that name this handshake, the same on both sides; no secret. Once finished."""
        if not self.finished:
            raise LocalProtocolError("the handshake hash is known when the handshake is finished")
        return bytes(self._alive().get_handshake_hash())

    @property
    def remote_static(self) -> bytes:
        """The peer's static public key, 32 bytes. Once the message that carries it has been read."""
        self._alive()
        key = getattr(self._state.rs, "public_bytes", None)
        if key is None:
            raise LocalProtocolError("the peer's static key has not come yet")
        return bytes(key)

    @property
    def local_static(self) -> bytes:
        """Our own static public key, 32 bytes."""
        self._alive()
        return bytes(self._state.s.public_bytes)

    def write(self, payload: bytes = b"") -> bytes:
        """Our next handshake message. Raises HandshakeError when the peer's keys admit none."""
        connection = self._alive()
        if connection.handshake_finished or connection._next_fn != connection.write_message:
            raise LocalProtocolError("it is not our turn to write")
        try:
            return bytes(connection.write_message(payload))
        except Exception as error:
            raise self._dead() from error

    def read(self, message: bytes) -> bytes:
        """The payload of the peer's next handshake message. Raises HandshakeError."""
        connection = self._alive()
        if connection.handshake_finished or connection._next_fn != connection.read_message:
            raise LocalProtocolError("it is not our turn to read")
        if len(message) > MESSAGE_LIMIT:
            raise self._dead()
        try:
            return bytes(connection.read_message(message))
        except Exception as error:
            raise self._dead() from error

    def encrypt(self, plaintext: bytes) -> bytes:
        """A transport message over at most 65,519 bytes; the library would encrypt more, and then never decrypt it."""
        connection = self._alive()
        if not connection.handshake_finished or len(plaintext) > MESSAGE_LIMIT - TAG_SIZE:
            raise LocalProtocolError("transport messages come after the handshake, and hold at most 65,519 bytes")
        try:
            return bytes(connection.encrypt(plaintext))
        except Exception as error:
            raise self._dead() from error

    def decrypt(self, message: bytes) -> bytes:
        """The plaintext of the peer's next transport message. Raises HandshakeError."""
        connection = self._alive()
        if not connection.handshake_finished:
            raise LocalProtocolError("transport messages come after the handshake")
        if len(message) > MESSAGE_LIMIT:
            raise self._dead()
        try:
            return bytes(connection.decrypt(message))
        except Exception as error:
            raise self._dead() from error

    def _alive(self) -> NoiseConnection:
        if self._connection is None:
            raise LocalProtocolError("this handshake has failed")
        return self._connection

    def _dead(self) -> HandshakeError:
        self._connection = self._state = None
        return HandshakeError("The other side sent a message that does not verify.")
