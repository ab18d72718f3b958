"""A blob store on a real disk, over a database in memory."""

import os
from pathlib import Path

import pytest
from blake3 import blake3
from trio.testing import MockClock

from meshd.drivers import blob_disk
from meshd.drivers.blob_disk import BlobDisk
from meshd.drivers.blob_files import PARTIAL_AGE, AbsentError, BlobStore, DamagedError
from meshd.errors import RefusedError, UsageError
from meshd.model.chunks import reference
from meshd.wire.fetch import Absence
from tests.drivers.blob_kit import MIB, Rows, noise, open_store

SIZES = [0, 1, 64 * 1024, 64 * 1024 + 1, MIB, MIB + 1, 9 * MIB, 9 * MIB + 5]


@pytest.fixture
def rows() -> Rows:
    return Rows()


def files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("size", SIZES)
async def test_bytes_and_files_are_the_same_blob(
    tmp_path: Path, rows: Rows, autojump_clock: MockClock, size: int
) -> None:
    store = await open_store(tmp_path / "state", rows)
    data = noise(size)
    (tmp_path / "file").write_bytes(data)
    ref = await store.add_file(tmp_path / "file")
    assert ref == reference(data)[0] == await store.add_bytes(data)
    assert await store.read(ref.digest, size) == data
    assert await store.holds(ref.digest)
    assert len(files(tmp_path / "state")) == (size > 64 * 1024), "stored once, small ones as rows"
    assert (await store.usage()).usage.size == size


async def test_a_store_survives_its_end(tmp_path: Path, rows: Rows, autojump_clock: MockClock) -> None:
    store = await open_store(tmp_path, rows)
    large, small = await store.add_bytes(noise(3 * MIB)), await store.add_bytes(b"small")
    again = await open_store(tmp_path, rows)
    assert await again.read(large.digest, 3 * MIB) == noise(3 * MIB)
    assert await again.read(small.digest, 5) == b"small"


async def test_what_is_not_here(tmp_path: Path, rows: Rows, autojump_clock: MockClock) -> None:
    store = await open_store(tmp_path, rows)
    assert not await store.holds(bytes(32))
    with pytest.raises(AbsentError):
        await store.read(bytes(32), 10)
    ref = await store.add_bytes(b"longer")
    with pytest.raises(RefusedError, match="allowed"):
        await store.read(ref.digest, 5)


async def test_what_is_no_file_is_refused(tmp_path: Path, rows: Rows, autojump_clock: MockClock) -> None:
    store = await open_store(tmp_path / "state", rows)
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "missing", "."):
        with pytest.raises(UsageError):
            await store.add_file(tmp_path / name)
    assert files(tmp_path / "state") == []


async def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path, rows: Rows, autojump_clock: MockClock) -> None:
    path = tmp_path / "file"
    path.write_bytes(noise(20 * MIB))

    async def meddle(work: object, *, abandon: bool = False) -> object:
        result = work()
        if "copy" in repr(work):
            os.utime(path, ns=(1, 1))
        return result

    store = await BlobStore.open(tmp_path, rows, floor=0, offload=meddle)
    with pytest.raises(UsageError, match="changed"):
        await store.add_file(path)
    assert list((tmp_path / "partial").iterdir()) == []


@pytest.mark.parametrize("size", [100, 3 * MIB])
@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
async def test_damage_is_found_told_once_and_never_handed_out(
    tmp_path: Path, rows: Rows, autojump_clock: MockClock, size: int, how: str
) -> None:
    told: list[bytes] = []
    store = await open_store(tmp_path, rows, on_damaged=told.append)
    ref = await store.add_bytes(noise(size))
    content = bytearray(noise(size))
    content[size // 2] ^= 1
    if size > MIB:
        path = store.disk.path(ref.digest)
        {
            "flip": lambda: path.write_bytes(content),
            "cut": lambda: os.truncate(path, size // 2),
            "remove": path.unlink,
        }[how]()
    else:
        value = {"flip": bytes(content), "cut": bytes(content[:50]), "remove": b""}[how]
        rows.connection.execute("UPDATE blob_contents SET content = ?", (value,))
    for _ in range(2):
        with pytest.raises(DamagedError):
            await store.read(ref.digest, size)
    assert told == [ref.digest]
    assert not await store.holds(ref.digest)
    assert await store.missing([ref.digest]) == [ref.digest]
    await store.add_bytes(noise(size))
    assert await store.read(ref.digest, size) == noise(size)


async def test_a_false_list_in_the_database_is_damage(tmp_path: Path, rows: Rows, autojump_clock: MockClock) -> None:
    store = await open_store(tmp_path, rows)
    ref = await store.add_bytes(noise(3 * MIB))
    again = await open_store(tmp_path, rows)
    rows.connection.execute("UPDATE blob_lists SET list = ?", (bytes(96),))
    with pytest.raises(DamagedError):
        await again.chunk(ref.digest, 0)


async def test_many_small_ones_in_one_answer(tmp_path: Path, rows: Rows, autojump_clock: MockClock) -> None:
    store = await open_store(tmp_path, rows)
    refs = [await store.add_bytes(noise(1000, seed)) for seed in range(5)]
    large = await store.add_bytes(noise(MIB))
    rows.connection.execute("UPDATE blob_contents SET content = x'00' WHERE digest = ?", (refs[1].digest,))
    asked = [refs[0].digest, refs[1].digest, bytes(32), large.digest, refs[2].digest]
    found = await store.small(asked, 1 << 20)
    assert found == [noise(1000, 0), Absence.DAMAGED, Absence.ABSENT, Absence.LARGE, noise(1000, 2)]
    assert not await store.holds(refs[1].digest)
    assert len(await store.small([ref.digest for ref in refs], 1500)) == 3


# After a crash.


async def test_what_was_being_made_is_swept(tmp_path: Path, rows: Rows, autojump_clock: MockClock) -> None:
    await open_store(tmp_path, rows)
    (tmp_path / "partial" / "0123456789abcdef.new").write_bytes(b"x")
    await open_store(tmp_path, rows)
    assert files(tmp_path) == []


async def test_a_file_without_a_row_is_a_partial_again(tmp_path: Path, rows: Rows, autojump_clock: MockClock) -> None:
    """The process ended between the rename and the row: nothing of it need travel again."""
    store = await open_store(tmp_path, rows)
    ref = await store.add_bytes(noise(5 * MIB))
    again = await open_store(tmp_path, Rows())
    assert not await again.holds(ref.digest)
    _, chunks = reference(noise(5 * MIB))
    file = await again.resume(ref.digest, chunks)
    assert file.present(0)[0] == [0, 1, 2, 3, 4]
    assert await again.keep_fetched(file) == ref
    file.close()
    assert await again.read(ref.digest, 5 * MIB) == noise(5 * MIB)


@pytest.mark.skipif(not hasattr(os, "SEEK_DATA"), reason="this system does not tell holes")
async def test_what_was_never_written_is_not_read(tmp_path: Path, rows: Rows, autojump_clock: MockClock) -> None:
    """A new fetch of 1 TiB would else begin with an hour of hashing zeros."""
    store = await open_store(tmp_path, rows)
    data = noise(20 * MIB)
    ref, chunks = reference(data)
    file = await store.resume(ref.digest, chunks)
    assert file.present(0) == ([], 20)
    assert file.write(17, data[17 * MIB : 18 * MIB])
    assert file.present(0) == ([17], 20)
    file.close()


async def test_a_row_without_a_file_is_forgotten(tmp_path: Path, rows: Rows, autojump_clock: MockClock) -> None:
    """A database restored without its blobs."""
    store = await open_store(tmp_path, rows)
    ref = await store.add_bytes(noise(5 * MIB))
    store.disk.path(ref.digest).unlink()
    again = await open_store(tmp_path, rows)
    assert await again.find(ref.digest) is None


async def test_a_file_of_another_size_is_damaged(tmp_path: Path, rows: Rows, autojump_clock: MockClock) -> None:
    store = await open_store(tmp_path, rows)
    ref = await store.add_bytes(noise(5 * MIB))
    os.truncate(store.disk.path(ref.digest), MIB)
    again = await open_store(tmp_path, rows)
    with pytest.raises(DamagedError):
        await again.whole(ref.digest)


# Fetched.


async def test_chunks_in_any_order_and_what_is_wrong_is_not_written(
    tmp_path: Path, rows: Rows, autojump_clock: MockClock
) -> None:
    store = await open_store(tmp_path, rows)
    data = noise(3 * MIB + 7)
    ref, chunks = reference(data)
    file = await store.resume(ref.digest, chunks)
    assert file.write(3, data[3 * MIB :])
    assert not file.write(0, data[MIB : 2 * MIB])
    assert file.write(1, data[MIB : 2 * MIB])
    file.close()
    file = await store.resume(ref.digest, chunks)
    assert file.present(0) == ([1, 3], 4)
    assert await store.keep_fetched(file) is None, "the whole is checked, whatever the caller believes"
    file.write(0, data[:MIB])
    file.write(2, data[2 * MIB : 3 * MIB])
    assert await store.keep_fetched(file) == ref
    file.close()
    assert await store.read(ref.digest, len(data)) == data
    assert [path.parent.parent.name for path in files(tmp_path)] == ["blobs"]


async def test_writing_after_the_end_harms_nobody(tmp_path: Path, rows: Rows, autojump_clock: MockClock) -> None:
    """A chunk may still be on its way to the disk when a fetch is given up; its file's number may be another's then."""
    store = await open_store(tmp_path, rows)
    data = noise(2 * MIB)
    ref, chunks = reference(data)
    file = await store.resume(ref.digest, chunks)
    file.close()
    file.close()
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    try:
        assert file.write(0, data[:MIB])
        assert os.fstat(other).st_size == 0
    finally:
        os.close(other)


# Space.


async def test_the_floor_is_kept(tmp_path: Path, rows: Rows, autojump_clock: MockClock) -> None:
    store = await open_store(tmp_path, rows, floor=1 << 60)
    (tmp_path / "file").write_bytes(noise(3 * MIB))
    for size in (10, 3 * MIB):
        with pytest.raises(RefusedError, match="no space"):
            await store.add_bytes(noise(size))
    with pytest.raises(RefusedError, match="no space"):
        await store.add_file(tmp_path / "file")
    with pytest.raises(RefusedError, match="no space"):
        await store.resume(*(lambda ref, chunks: (ref.digest, chunks))(*reference(noise(3 * MIB))))
    assert [path.name for path in files(tmp_path)] == ["file"]


async def test_what_running_fetches_were_promised_is_not_promised_twice(
    tmp_path: Path, rows: Rows, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(tmp_path, rows)
    monkeypatch.setattr(store.disk, "free", lambda: 5 * MIB)
    one, other = reference(noise(3 * MIB, 1)), reference(noise(3 * MIB, 2))
    first = await store.resume(one[0].digest, one[1])
    with pytest.raises(RefusedError, match="no space"):
        await store.resume(other[0].digest, other[1])
    for index in range(2):
        first.write(index, noise(3 * MIB, 1)[index * MIB : (index + 1) * MIB])
    (await store.resume(other[0].digest, other[1])).close()
    first.close()


async def test_a_disk_that_fails_is_an_answer(
    tmp_path: Path, rows: Rows, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(tmp_path, rows)

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(blob_disk, "sync_file", fail)
    with pytest.raises(RefusedError, match="Input/output"):
        await store.add_bytes(noise(3 * MIB))
    assert files(tmp_path) == []
    assert (await store.usage()).usage.blobs == 0


# Kept and dropped.


async def test_collecting(tmp_path: Path, rows: Rows, autojump_clock: MockClock) -> None:
    now = 1000.0
    store = await open_store(tmp_path, rows, wall=lambda: now)
    refs = []
    for seed in range(6):
        refs.append(await store.add_bytes(noise(MIB, seed)))
        now += 10
    await store.pin(refs[0].digest)
    await store.name_parts(refs[1].digest, [refs[2].digest])
    keep = {refs[1].digest}.__contains__
    would = await store.collect(dry_run=True, keep=keep)
    assert [blob.digest for blob in would.blobs] == [refs[3].digest, refs[4].digest, refs[5].digest]
    assert would.size == 3 * MIB
    assert len(files(tmp_path)) == 6
    assert len((await store.collect(dry_run=True, keep=keep, cap=5 * MIB)).blobs) == 1
    assert len((await store.collect(dry_run=True, keep=keep, grace=15)).blobs) == 2
    assert (await store.collect(dry_run=False, keep=keep)).blobs == would.blobs
    assert len(files(tmp_path)) == 3
    with pytest.raises(AbsentError):
        await store.chunk(refs[3].digest, 0)
    assert await store.pins() == [refs[0].digest]
    assert await store.unpin(refs[0].digest)
    assert not await store.is_pinned(refs[0].digest)


async def test_a_blob_that_is_dropped_while_it_is_known_is_absent_not_damaged(
    tmp_path: Path, rows: Rows, autojump_clock: MockClock
) -> None:
    told: list[bytes] = []
    store = await open_store(tmp_path, rows, on_damaged=told.append)
    ref = await store.add_bytes(noise(2 * MIB))
    await store.chunk(ref.digest, 0)
    known = dict(store._known)
    await store.collect(dry_run=False)
    store._known.update(known)  # a reader that looked it up just before
    with pytest.raises(AbsentError):
        await store.chunk(ref.digest, 1)
    assert told == []


async def test_old_partials_go(tmp_path: Path, rows: Rows, autojump_clock: MockClock) -> None:
    store = await open_store(tmp_path, rows)
    made = []
    for seed in range(2):
        data = noise(2 * MIB, seed)
        ref, chunks = reference(data)
        file = await store.resume(ref.digest, chunks)
        file.write(0, data[:MIB])
        made.append(file)
    made[0].close()
    assert (await store.collect(dry_run=False)).partials == 0
    for path in (tmp_path / "partial").iterdir():
        os.utime(path, (1, path.stat().st_mtime - PARTIAL_AGE - 1))
    assert (await store.collect(dry_run=False)).partials >= MIB
    assert [path.stem for path in (tmp_path / "partial").iterdir()] == [made[1].digest.hex()], "one is running"
    made[1].close()


async def test_lists_in_memory_are_few(tmp_path: Path, rows: Rows, autojump_clock: MockClock) -> None:
    store = await open_store(tmp_path, rows)
    for seed in range(10):
        await store.whole((await store.add_bytes(noise(MIB + 1, seed))).digest)
    assert len(store._known) == 4


def test_a_link_in_the_place_of_a_blob_is_not_followed(tmp_path: Path) -> None:
    disk = BlobDisk(tmp_path, 0)
    data = noise(MIB)
    ref, chunks = reference(data)
    (tmp_path / "elsewhere").write_bytes(data)
    path = disk.path(ref.digest)
    path.parent.mkdir()
    path.symlink_to(tmp_path / "elsewhere")
    assert blake3(data).digest() == ref.digest
    assert disk.read_chunk(ref.digest, chunks, 0) is None
