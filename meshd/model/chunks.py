"""Chunks of a blob and the list of their digests. docs/protocol/blobs.md, "Chunks".

A blob is cut every MiB. Its list is the BLAKE3-256 of each chunk, one after another. A blob of one chunk is its own
list, since the chunk is the blob; an empty one has no chunk and an empty list.
"""

from typing import Final

import attrs
from blake3 import blake3

from meshd.model.announcement import BLOB_LIMIT, BlobRef

CHUNK: Final = 1 << 20
"""Bytes of every chunk but the last: a digest costs 1/32,768 of it, and several in flight still fit in small memory."""

DIGEST: Final = 32
"""Bytes of a digest."""


def chunk_count(size: int) -> int:
    """How many chunks a blob of `size` bytes has."""
    return -(-size // CHUNK)


@attrs.frozen
class ChunkList:
    """The chunk digests of one blob of `size` bytes. Raises ValueError when their number does not fit the size."""

    size: int
    digests: bytes = attrs.field(repr=False)

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.size <= BLOB_LIMIT:
            raise ValueError(f"a blob of {self.size:,} bytes is outside the limits")
        if len(self.digests) != self.count * DIGEST:
            raise ValueError(f"{len(self.digests):,} bytes are no list of {self.count:,} chunks")

    @classmethod
    def of_one(cls, digest: bytes, size: int) -> "ChunkList":
        """The list of a blob of one chunk or none, known from the blob's own digest."""
        assert size <= CHUNK
        return cls(size, digest if size else b"")

    @property
    def count(self) -> int:
        return chunk_count(self.size)

    @property
    def digest(self) -> bytes:
        """BLAKE3-256 of the list: what an announcing record signs."""
        return blake3(self.digests).digest()

    def length(self, index: int) -> int:
        """Bytes of the chunk with this index."""
        assert 0 <= index < self.count
        return min(CHUNK, self.size - index * CHUNK)

    def fits(self, index: int, data: bytes | memoryview) -> bool:
        """Whether these bytes are the chunk with this index. About 0.3 ms for a whole chunk."""
        start = index * DIGEST
        return len(data) == self.length(index) and blake3(data).digest() == self.digests[start : start + DIGEST]


class Chunking:
    """Digests of a blob that is read once, chunk by chunk: whole ones, then at most one that is shorter."""

    def __init__(self) -> None:
        self._whole = blake3()
        self._digests = bytearray()
        self._size = 0

    def add(self, chunk: bytes) -> None:
        """The next CHUNK bytes, or the last 1 to CHUNK."""
        assert 0 < len(chunk) <= CHUNK and self._size % CHUNK == 0
        self._whole.update(chunk)
        self._digests += blake3(chunk).digest()
        self._size += len(chunk)

    def result(self) -> tuple[BlobRef, ChunkList]:
        """What was read: its reference and its list."""
        chunks = ChunkList(self._size, bytes(self._digests))
        return BlobRef(digest=self._whole.digest(), size=self._size, list_digest=chunks.digest), chunks


def reference(data: bytes) -> tuple[BlobRef, ChunkList]:
    """The reference and list of some bytes in memory."""
    chunking = Chunking()
    for start in range(0, len(data), CHUNK):
        chunking.add(data[start : start + CHUNK])
    return chunking.result()
