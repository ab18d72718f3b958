"""Chunks and their list."""

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from meshd.model.announcement import BLOB_LIMIT
from meshd.model.chunks import CHUNK, Chunking, ChunkList, chunk_count, reference


@pytest.mark.parametrize(("size", "count"), [(0, 0), (1, 1), (CHUNK, 1), (CHUNK + 1, 2), (BLOB_LIMIT, 1 << 18)])
def test_how_many_chunks(size: int, count: int) -> None:
    assert chunk_count(size) == count


@given(st.integers(0, 3 * CHUNK))
def test_lengths_make_up_the_size(size: int) -> None:
    chunks = ChunkList(size, bytes(32) * chunk_count(size))
    assert sum(chunks.length(index) for index in range(chunks.count)) == size


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_a_reference_is_what_its_parts_hash_to(size: int) -> None:
    data = blake3(b"chunks").digest(size)
    ref, chunks = reference(data)
    parts = [data[start : start + CHUNK] for start in range(0, size, CHUNK)]
    assert ref.digest == blake3(data).digest()
    assert chunks.digests == b"".join(blake3(part).digest() for part in parts)
    assert ref.list_digest == blake3(chunks.digests).digest()
    assert all(chunks.fits(index, part) for index, part in enumerate(parts))
    if size <= CHUNK:
        assert ChunkList.of_one(ref.digest, size) == chunks


def test_what_does_not_fit() -> None:
    data = blake3(b"fits").digest(CHUNK + 10)
    _, chunks = reference(data)
    first, second = data[:CHUNK], data[CHUNK:]
    assert not chunks.fits(0, bytes([first[0] ^ 1]) + first[1:])
    assert not chunks.fits(0, first[:-1])
    assert not chunks.fits(1, first)
    assert not chunks.fits(1, second + b"\0")
    assert not chunks.fits(0, second)


@pytest.mark.parametrize(("size", "digests"), [(1, 0), (0, 32), (CHUNK + 1, 32), (5, 31), (-1, 0), (BLOB_LIMIT + 1, 0)])
def test_a_list_of_another_length_is_none(size: int, digests: int) -> None:
    with pytest.raises(ValueError, match=r"no list|outside"):
        ChunkList(size, bytes(digests))


def test_a_short_chunk_is_the_last() -> None:
    chunking = Chunking()
    chunking.add(b"short")
    with pytest.raises(AssertionError):
        chunking.add(b"more")
