"""Records: everything that is replicated. docs/protocol/records.md.

A header of fixed layout is what is signed and hashed; it names the body by size and BLAKE3, so that the body can be
dropped later without breaking the chain. Nothing is ever encoded again: signatures cover the bytes as they came.
"""

import enum
import re
import struct
from functools import cached_property
from typing import Final

import attrs
from blake3 import blake3

from meshd.errors import RemoteProtocolError
from meshd.model.identity import KEY_SIZE, SIGNATURE_SIZE, Context, Keys, NodeId, is_signed, node_id

FORMAT: Final = 1
"""First byte of every header."""

BODY_LIMIT: Final = 256 * 1024
"""Most bytes of a body; anything larger is a blob."""

TYPE_LIMIT: Final = 32
"""Most characters of a type."""

HASH_SIZE: Final = 32
NO_HASH: Final = bytes(HASH_SIZE)
"""Stands for the record before the first, and for the mesh in the record that founds it."""

_FIXED = struct.Struct(">BB32s32sIQ32sQII32sB")
HEADER_LIMIT: Final = _FIXED.size + TYPE_LIMIT
ENCODED_LIMIT: Final = 4 + HEADER_LIMIT + SIGNATURE_SIZE + BODY_LIMIT
_TYPE = re.compile(r"[a-z][a-z0-9]*(\.[a-z][a-z0-9]*)*")


class Log(enum.IntEnum):
    """Each author keeps two chains a generation."""

    ROSTER = 0
    """Who belongs to the mesh, and fork proofs: exchanged before anything else."""

    DATA = 1
    """All the rest."""


@attrs.frozen
class LogId:
    """One chain: its author's Ed25519 public key (32 bytes), which of the two logs, and the generation, from 1."""

    author: bytes
    log: Log
    generation: int


@attrs.frozen
class Head:
    """How far a chain goes: the last sequence number, from 1, and that record's hash."""

    sequence: int
    hash: bytes


@attrs.frozen(kw_only=True)
class Header:
    """What is signed."""

    mesh: bytes
    """Mesh id, 32 bytes; zeros in the record that founds the mesh, whose hash is the id."""

    author: bytes
    """Ed25519 public key, 32 bytes, so that every record can be checked before anything else is known."""

    log: Log
    generation: int
    """From 1; a restored or copied machine opens the next."""

    sequence: int
    """From 1 in each chain."""

    previous: bytes
    """Hash of the record before; in a chain's first, the last one known of the generation before, or zeros."""

    clock: int
    """Hybrid logical clock, model/clock.py."""

    type: str
    """`handle.value` and the like; what is not known is stored and forwarded, not folded."""

    ttl: int
    """Seconds that the body lives, by its holders' count; 0 for ever."""

    body_size: int
    body_digest: bytes

    @property
    def chain(self) -> LogId:
        return LogId(self.author, self.log, self.generation)

    @property
    def node(self) -> NodeId:
        return node_id(self.author)

    def encode(self) -> bytes:
        """The bytes that are signed and hashed."""
        kind = self.type.encode("ascii")
        return (
            _FIXED.pack(
                FORMAT,
                self.log,
                self.mesh,
                self.author,
                self.generation,
                self.sequence,
                self.previous,
                self.clock,
                self.ttl,
                self.body_size,
                self.body_digest,
                len(kind),
            )
            + kind
        )

    @classmethod
    def decode(cls, data: bytes) -> "Header":
        """Raises RemoteProtocolError for anything that `encode` would not have made."""
        if len(data) < _FIXED.size:
            raise RemoteProtocolError("A record's header is too short.")
        values = _FIXED.unpack_from(data)
        version, log, mesh, author, generation, sequence, previous, clock, ttl, size, digest, length = values
        if version != FORMAT:
            raise RemoteProtocolError(f"A record has format {version}; this program knows {FORMAT}.")
        kind = data[_FIXED.size :].decode("ascii", "replace")
        if len(kind) != length or length > TYPE_LIMIT or not _TYPE.fullmatch(kind):
            raise RemoteProtocolError("A record's type is not one.")
        if log not in tuple(Log) or generation < 1 or sequence < 1 or size > BODY_LIMIT:
            raise RemoteProtocolError("A record's numbers are out of their bounds.")
        return cls(
            mesh=mesh,
            author=author,
            log=Log(log),
            generation=generation,
            sequence=sequence,
            previous=previous,
            clock=clock,
            type=kind,
            ttl=ttl,
            body_size=size,
            body_digest=digest,
        )


@attrs.frozen(slots=False)
class Record:
    """A header with its signature, and the body unless it has been dropped."""

    header: Header
    header_bytes: bytes
    """As signed; `header` is read from it."""

    signature: bytes
    body: bytes | None

    @cached_property
    def hash(self) -> bytes:
        """BLAKE3-256 of the header: the record's name in chains and proofs. The signature is left out on purpose."""
        return blake3(self.header_bytes).digest()

    @property
    def chain(self) -> LogId:
        return self.header.chain

    @property
    def head(self) -> Head:
        return Head(self.header.sequence, self.hash)

    def is_authentic(self) -> bool:
        """Whether the author signed the header and the body, if here, is the one it names. About 0.1 ms."""
        header = self.header
        if self.body is not None and (
            len(self.body) != header.body_size or blake3(self.body).digest() != header.body_digest
        ):
            return False
        return is_signed(header.author, self.signature, Context.RECORD, header.mesh, self.header_bytes)

    def without_body(self) -> "Record":
        return Record(self.header, self.header_bytes, self.signature, None)

    def encode(self) -> bytes:
        """Header length (2 bytes), 1 byte that says whether a body follows, header, signature, body."""
        flag = 0 if self.body is None else 1
        return (
            struct.pack(">HB", len(self.header_bytes), flag) + self.header_bytes + self.signature + (self.body or b"")
        )

    @classmethod
    def decode(cls, data: bytes) -> "Record":
        """Raises RemoteProtocolError. What comes out may still be a forgery: see `is_authentic`."""
        if len(data) < 3:
            raise RemoteProtocolError("A record is too short.")
        length, flag = struct.unpack_from(">HB", data)
        header_bytes = data[3 : 3 + length]
        signature = data[3 + length : 3 + length + SIGNATURE_SIZE]
        body = data[3 + length + SIGNATURE_SIZE :]
        header = Header.decode(header_bytes)
        if len(signature) != SIGNATURE_SIZE or flag > 1 or len(body) != (header.body_size if flag else 0):
            raise RemoteProtocolError("A record's parts do not have the sizes that it names.")
        return cls(header, header_bytes, signature, body if flag else None)


def write_record(
    keys: Keys,
    *,
    mesh: bytes,
    log: Log,
    generation: int,
    previous: Head | None,
    first_previous: bytes = NO_HASH,
    clock: int,
    kind: str,
    body: bytes,
    ttl: int = 0,
) -> Record:
    """The record after `previous` in a chain of ours, signed. `first_previous` is what a chain's first record names."""
    assert len(body) <= BODY_LIMIT and len(keys.identity.signing_key) == KEY_SIZE
    header = Header(
        mesh=mesh,
        author=keys.identity.signing_key,
        log=log,
        generation=generation,
        sequence=1 if previous is None else previous.sequence + 1,
        previous=first_previous if previous is None else previous.hash,
        clock=clock,
        type=kind,
        ttl=ttl,
        body_size=len(body),
        body_digest=blake3(body).digest(),
    )
    header_bytes = header.encode()
    return Record(header, header_bytes, keys.sign(Context.RECORD, mesh, header_bytes), body)
