"""The messages that open a session. docs/protocol/session.md."""

from typing import Annotated, Final

import attrs
from msgspec import Meta

from meshd.wire.constants import Frame
from meshd.wire.messages import Digest, Nonce, Version

TAG_SIZE: Final = 16
"""Bytes of a tag or hint: they only select, and 128 bits never meet by chance."""

TAGS: Final = 3
"""Tags in every hello: a member that was away during the last two changes of the mesh secret still finds one it knows.
Always as many, filled up with random bytes, since the number of secrets would tell one mesh from another."""

INTRODUCTION_RECORDS: Final = 8
"""Most admissions in an introduction: as deep as a tree of machines gets where people invite people."""

INTRODUCTION_LIMIT: Final = 12 * 1024
"""Most bytes of an introduction: with all else of a handshake it stays below what a stranger may send, 16 KiB."""

_HELLO_LIMIT: Final = 256
_NOISE_LIMIT: Final = 96
"""The first message of IK, 32 + 48 + 16 bytes; the second has 48. Payloads are empty."""
_CONFIRM_LIMIT: Final = 512
"""Bytes of a CONFIRM besides its introduction: keys, a signature, the tag of the encryption."""

FRAMES_OF_A: Final[dict[int, int]] = {
    Frame.SESSION_HELLO: _HELLO_LIMIT,
    Frame.NOISE: _NOISE_LIMIT,
    Frame.CONFIRM: _CONFIRM_LIMIT + INTRODUCTION_LIMIT,
}
"""What B takes from A, and how long each may be."""

FRAMES_OF_B: Final[dict[int, int]] = {
    Frame.SESSION_HELLO: _HELLO_LIMIT,
    Frame.NOISE: _NOISE_LIMIT,
    Frame.CONFIRM: _CONFIRM_LIMIT,
}
"""What A takes from B."""

Tag = Annotated[bytes, Meta(min_length=TAG_SIZE, max_length=TAG_SIZE)]
Versions = Annotated[list[Version], Meta(min_length=1, max_length=8)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
Introduction = Annotated[list[bytes], Meta(max_length=INTRODUCTION_RECORDS)]


@attrs.frozen
class HelloA:
    """SESSION_HELLO of who dialled. `tags` name the mesh to who holds one of its secrets, and nothing to others."""

    versions: Versions
    nonce: Nonce
    tags: Annotated[list[Tag], Meta(min_length=TAGS, max_length=TAGS)]


@attrs.frozen
class HelloB:
    """SESSION_HELLO of who answers. `hint` names the member that answers to who holds that secret."""

    versions: Versions
    nonce: Nonce
    hint: Tag


@attrs.frozen
class ConfirmA:
    """CONFIRM of who dialled, inside Noise: who it is, and how it was admitted (records, the newest last)."""

    mesh: Digest
    signing_key: Digest
    signature: Signature
    introduction: Introduction


@attrs.frozen
class ConfirmB:
    """CONFIRM of who answers, inside Noise: A has called it by its key and knows the rest."""

    signature: Signature
