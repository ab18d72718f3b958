"""The blob tables: what is held, pinned, named, and may go."""

from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from meshd.store.blobs import Blobs, HeldBlob

SCHEMA = Path(__file__).parents[2] / "meshd" / "store" / "schema" / "0003_blobs.sql"


@pytest.fixture
def blobs() -> Blobs:
    connection = apsw.Connection(":memory:")
    connection.execute(SCHEMA.read_text())
    return Blobs(connection)


def held(number: int, *, size: int = 10, is_file: bool = False, age: int | None = None) -> HeldBlob:
    return HeldBlob(
        bytes([number]) * 32, size, bytes([number + 100]) * 32, is_file, False, number if age is None else age
    )


def add(blobs: Blobs, blob: HeldBlob) -> HeldBlob:
    blobs.add(blob, content=None if blob.is_file else b"x" * blob.size)
    return blob


def nothing(_: bytes) -> bool:
    return False


def going(blobs: Blobs, keep: Callable[[bytes], bool] = nothing) -> list[int]:
    return [blob.digest[0] for blob in blobs.collectable(keep)]


def test_what_is_added_is_found(blobs: Blobs) -> None:
    small = add(blobs, held(1))
    large = held(2, size=3 << 20, is_file=True)
    blobs.add(large, chunk_list=b"l" * 96)
    assert (blobs.find(small.digest), blobs.find(large.digest), blobs.find(bytes(32))) == (small, large, None)
    assert (blobs.content(small.digest), blobs.content(large.digest)) == (b"x" * 10, None)
    assert (blobs.chunk_list(small.digest), blobs.chunk_list(large.digest)) == (None, b"l" * 96)


def test_a_damaged_one_is_news_once_and_mended_by_a_good_one(blobs: Blobs) -> None:
    blob = add(blobs, held(1))
    assert blobs.mark_damaged(blob.digest)
    assert not blobs.mark_damaged(blob.digest)
    assert blobs.missing_of([blob.digest]) == [blob.digest]
    add(blobs, held(1, age=99))
    assert blobs.find(blob.digest) == blob, "it keeps its age"
    assert blobs.missing_of([blob.digest]) == []


def test_missing_keeps_the_order(blobs: Blobs) -> None:
    add(blobs, held(5))
    wanted = [held(number).digest for number in (9, 5, 3, 7)]
    assert blobs.missing_of(wanted) == [wanted[0], wanted[2], wanted[3]]


def test_removed_is_gone_but_for_its_pin(blobs: Blobs) -> None:
    blob = add(blobs, held(1))
    blobs.pin(blob.digest, 1)
    blobs.name_parts(blob.digest, [held(2).digest])
    blobs.remove(blob.digest)
    assert blobs.find(blob.digest) is None
    assert blobs.content(blob.digest) is None
    assert blobs.is_pinned(blob.digest)
    add(blobs, held(2))
    blobs.pin(blob.digest, 1)
    assert going(blobs) == [2], "a manifest that is gone keeps nothing"


def test_oldest_go_first(blobs: Blobs) -> None:
    for number, age in ((1, 30), (2, 10), (3, 20)):
        add(blobs, held(number, age=age))
    assert going(blobs) == [2, 3, 1]


def test_pinned_and_kept_stay_with_their_parts(blobs: Blobs) -> None:
    for number in range(1, 8):
        add(blobs, held(number))
    blobs.name_parts(held(1).digest, [held(2).digest, held(3).digest])
    blobs.name_parts(held(4).digest, [held(5).digest])
    blobs.pin(held(1).digest, 0)
    assert going(blobs, lambda digest: digest == held(4).digest) == [6, 7]
    assert blobs.unpin(held(1).digest)
    assert not blobs.unpin(held(1).digest)
    assert going(blobs) == [1, 2, 3, 4, 5, 6, 7]


def test_pins_are_listed_oldest_first(blobs: Blobs) -> None:
    for number, since in ((1, 5), (2, 3), (3, 4)):
        blobs.pin(held(number).digest, since)
    blobs.pin(held(1).digest, 1)
    assert [digest[0] for digest in blobs.pins()] == [2, 3, 1], "a second pin does not change the first"


def test_files_of_one_directory(blobs: Blobs) -> None:
    add(blobs, held(1, is_file=True))
    add(blobs, held(2, is_file=True))
    add(blobs, HeldBlob(b"\xff" * 32, 1, bytes(32), True, False, 0))
    add(blobs, held(3))
    assert [blob.digest[0] for blob in blobs.files(2)] == [2]
    assert [blob.digest[0] for blob in blobs.files(255)] == [255]
    assert blobs.files(3) == []


def test_usage(blobs: Blobs) -> None:
    add(blobs, held(1, size=5))
    add(blobs, held(2, size=7))
    blobs.mark_damaged(held(2).digest)
    blobs.pin(held(9).digest, 0)
    usage = blobs.usage()
    assert (usage.blobs, usage.size, usage.damaged, usage.pinned) == (2, 12, 1, 1)
