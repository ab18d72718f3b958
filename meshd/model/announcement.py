"""Bodies of data records: what a member says about content and about itself. docs/protocol/records.md and blobs.md.

Sizes are checked as the values are made, so that decoding checks them too. Digests are BLAKE3-256, 32 bytes.
"""

from typing import Final

import attrs

from meshd.model.bounds import each, number, optional, size
from meshd.model.identity import KEY_SIZE

INLINE_LIMIT: Final = 192 * 1024
"""Most bytes of JSON that travel inside a record; a longer value is a blob that the record names."""

BLOB_LIMIT: Final = 1 << 38
"""Most bytes of a blob, 256 GiB: its chunk list is 8 MiB then."""

TAGS_LIMIT: Final = 32
"""Tags that one record may add or take away."""

TAG_LIMIT: Final = 63
"""Most characters of a tag."""

CHILDREN_LIMIT: Final = 2048
"""Children of a tree: what a record's body holds with every digest in full."""

ADDRESSES_LIMIT: Final = 16
"""Addresses that a machine may name: it has few, a liar may list a network."""

ADDRESSEES_LIMIT: Final = 64
"""Machines that one blob may be meant for."""

_DIGEST = size(KEY_SIZE, KEY_SIZE)
_TAGS = each(TAGS_LIMIT, size(1, TAG_LIMIT))
_TABLE = size(1, 32)


@attrs.frozen(kw_only=True)
class BlobRef:
    """Some bytes, by what they are."""

    digest: bytes = attrs.field(validator=_DIGEST)
    size: int = attrs.field(validator=number(0, BLOB_LIMIT))
    list_digest: bytes = attrs.field(validator=_DIGEST)
    """BLAKE3 of the chunk list: the digests of all chunks, one after another (one chunk: 32 bytes, none: no bytes)."""


@attrs.frozen(kw_only=True)
class Value:
    """`handle.value`: JSON under a table; `json` holds its canonical bytes, or `blob` names them where they are long."""

    table: str = attrs.field(validator=_TABLE)
    json: bytes | None = attrs.field(validator=optional(size(0, INLINE_LIMIT)))
    blob: BlobRef | None
    tags: tuple[str, ...] = attrs.field(validator=_TAGS)


@attrs.frozen(kw_only=True)
class Blob:
    """`handle.blob`: bytes, a file, or a directory (whose bytes are then a manifest, model/manifest.py)."""

    ref: BlobRef
    content_type: str = attrs.field(validator=size(0, 127))
    name: str = attrs.field(validator=size(0, 255))
    """As the author's machine called it; empty for bytes without a name."""

    total: int = attrs.field(validator=number(0, (1 << 63) - 1))
    """Bytes in all: the size, or for a directory the sum of its files."""

    tags: tuple[str, ...] = attrs.field(validator=_TAGS)
    addressees: tuple[bytes, ...] = attrs.field(validator=each(ADDRESSEES_LIMIT, _DIGEST))
    """Node ids of the machines that are to fetch and pin it at once."""


@attrs.frozen(kw_only=True)
class Child:
    """One child of a tree: its table and full digest."""

    table: str = attrs.field(validator=_TABLE)
    digest: bytes = attrs.field(validator=_DIGEST)


@attrs.frozen(kw_only=True)
class Tree:
    """`handle.tree`: an ordered list of handles. The tree's own digest covers their short forms (RFC 8785 list)."""

    children: tuple[Child, ...] = attrs.field(validator=size(0, CHILDREN_LIMIT))
    tags: tuple[str, ...] = attrs.field(validator=_TAGS)


@attrs.frozen(kw_only=True)
class Tag:
    """`handle.tag`: tags put on or taken off. Of several words about one tag the last by clock, then author, counts."""

    table: str = attrs.field(validator=_TABLE)
    digest: bytes = attrs.field(validator=_DIGEST)
    add: tuple[str, ...] = attrs.field(validator=_TAGS)
    remove: tuple[str, ...] = attrs.field(validator=_TAGS)


@attrs.frozen(kw_only=True)
class Held:
    """`blob.held`: the author has a blob that was addressed to it, whole, checked and pinned."""

    digest: bytes = attrs.field(validator=_DIGEST)
    size: int = attrs.field(validator=number(0, (1 << 63) - 1))


@attrs.frozen
class Spot:
    """An IP address and a UDP port of a machine."""

    host: str = attrs.field(validator=size(0, 64))
    port: int = attrs.field(validator=number(1, 65_535))


@attrs.frozen(kw_only=True)
class Addresses:
    """`node.addresses`: where the author's machine says it can be reached; the newest counts."""

    spots: tuple[Spot, ...] = attrs.field(validator=size(0, ADDRESSES_LIMIT))


Announcement = Value | Blob | Tree | Tag | Held | Addresses
