"""The bodies of all frames, as values. Types and bounds are checked while decoding; see docs/protocol/."""

from typing import Annotated, Literal

import attrs
from msgspec import Meta

from meshd.model.entry import MAX_ENTRIES
from meshd.model.text import LABEL_LIMIT
from meshd.wire.constants import DIGEST_SIZE, REASON_LIMIT

Version = Annotated[int, Meta(ge=1, le=65_535)]
Nonce = Annotated[bytes, Meta(min_length=32, max_length=32)]
Digest = Annotated[bytes, Meta(min_length=DIGEST_SIZE, max_length=DIGEST_SIZE)]
Size = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Count = Annotated[int, Meta(ge=0, le=MAX_ENTRIES)]
Reason = Annotated[str, Meta(max_length=REASON_LIMIT)]
Label = Annotated[str, Meta(max_length=LABEL_LIMIT)]
# A path's own rules (255 bytes a part, no separators) belong to model/entry.py, which refuses an entry and not the
# connection; these bounds are wider, so that such an entry can be refused by its name.
Part = Annotated[str, Meta(max_length=4096)]
Path = Annotated[list[Part], Meta(min_length=1, max_length=1024)]


@attrs.frozen
class Hello:
    """HELLO: the versions a side speaks, and 32 random bytes that make its transcript its own."""

    versions: Annotated[list[Version], Meta(min_length=1, max_length=8)]
    nonce: Nonce


@attrs.frozen
class Profile:
    """CONFIRM, inside Noise: what a side wants of this connection, and its chosen label."""

    label: Label
    sends: bool
    receives: bool
    verify: bool
    join: Literal["no", "admit", "enter"] = "no"
    """Whether this is about a mesh: `admit` into it, or `enter` it. An older program leaves it out, and means no."""


@attrs.frozen
class Offer:
    """OFFER: what is about to come. `size` in bytes, None for a stream; `skipped` counts what the sender leaves out."""

    stream: bool
    entries: Count
    size: Size | None
    skipped: Count


@attrs.frozen
class EntryHeader:
    """ENTRY: a file or directory begins. `size` in bytes (None for a stream); `modified_ns` since the epoch."""

    path: Path
    kind: Literal["file", "dir"]
    size: Size | None
    executable: bool
    modified_ns: Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]


@attrs.frozen
class EntryEnd:
    """ENTRY_END: BLAKE3-256 of the whole entry."""

    digest: Digest


@attrs.frozen
class EntryFailed:
    """ENTRY_FAILED: the entry ends here, incomplete."""

    reason: Reason


@attrs.frozen
class End:
    """END: how much was sent in all, and the digest of the listing."""

    entries: Count
    size: Size
    digest: Digest


@attrs.frozen
class Pull:
    """PULL: the sender may have sent `limit` bytes of frames in all."""

    limit: Size


@attrs.frozen
class RefuseEntry:
    """REFUSE_ENTRY: the entry with this index, from 0, is not wanted."""

    index: Count
    reason: Reason


@attrs.frozen
class Stored:
    """STORED: what the receiver kept, and the digest of the listing as it computed it."""

    digest: Digest
    entries: Count
    size: Size


@attrs.frozen
class Abort:
    """ABORT: this direction has failed."""

    reason: Reason
