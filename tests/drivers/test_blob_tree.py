"""Directories in, across, and out again."""

import os
from pathlib import Path

import pytest
from trio.testing import MockClock

from meshd.drivers.blob_export import export_blob, export_directory
from meshd.drivers.blob_files import AbsentError, DamagedError
from meshd.drivers.blob_tree import AddedDirectory, add_directory, fetch_directory, read_manifest
from meshd.drivers.threads import inline
from meshd.errors import RefusedError, UsageError
from meshd.model.manifest import Item, Manifest, file_item
from tests.drivers.blob_kit import MIB, Machine, Rows, linked, machines, noise, open_store


def make(root: Path, *, many: int = 0) -> dict[str, bytes]:
    content = {
        "empty": b"",
        "a.txt": b"hello",
        "same.txt": b"hello",
        "sub/mid": noise(300_000),
        "sub/deep/large": noise(3 * MIB + 1, 2),
        "zz/edge": noise(64 * 1024, 3),
        **{f"many/{number:04}": noise(200, number) for number in range(many)},
    }
    for name, data in content.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / "hollow").mkdir()
    (root / "a.txt").chmod(0o755)
    return content


def read(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


async def add(machine: Machine, root: Path) -> AddedDirectory:
    return await add_directory(machine.store, root, offload=inline)


async def test_in_across_and_out(tmp_path: Path, autojump_clock: MockClock) -> None:
    content = make(tmp_path / "tree", many=1500)
    async with machines(tmp_path, "alice", "bob") as (alice, bob):
        added = await add(alice, tmp_path / "tree")
        assert added.total == sum(map(len, content.values()))
        assert added.entries == len(content) + 5
        assert added.skipped == []
        async with linked(bob, alice):
            manifest = await fetch_directory(bob.store, bob.fetching, added.ref, offload=inline)
        assert manifest.total == added.total
        report = await export_directory(bob.store, added.ref.digest, tmp_path / "out", offload=inline)
    assert report.refused == ()
    assert report.entries == added.entries
    assert read(tmp_path / "out") == content
    assert (tmp_path / "out" / "hollow").is_dir()
    assert os.access(tmp_path / "out" / "a.txt", os.X_OK)
    assert not os.access(tmp_path / "out" / "same.txt", os.X_OK)


async def test_equal_directories_are_one_blob_and_move_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    for name in ("one", "two"):
        make(tmp_path / name)
    async with machines(tmp_path, "alice", "bob") as (alice, bob):
        first, second = await add(alice, tmp_path / "one"), await add(bob, tmp_path / "two")
        assert first == second
        async with linked(bob, alice):
            await fetch_directory(bob.store, bob.fetching, first.ref, offload=inline)
        assert alice.sent == 0


async def test_a_pinned_directory_keeps_its_files(tmp_path: Path, autojump_clock: MockClock) -> None:
    make(tmp_path / "tree")
    async with machines(tmp_path, "alice") as (alice,):
        added = await add(alice, tmp_path / "tree")
        await alice.store.pin(added.ref.digest)
        assert (await alice.store.collect(dry_run=False)).blobs == []
        await alice.store.unpin(added.ref.digest)
        assert len((await alice.store.collect(dry_run=False)).blobs) == 6


async def test_links_are_left_out_and_named(tmp_path: Path, autojump_clock: MockClock) -> None:
    make(tmp_path / "tree")
    (tmp_path / "tree" / "link").symlink_to("a.txt")
    async with machines(tmp_path, "alice") as (alice,):
        added = await add(alice, tmp_path / "tree")
    assert [skipped.path.name for skipped in added.skipped] == ["link"]


async def test_a_file_is_no_directory(tmp_path: Path, autojump_clock: MockClock) -> None:
    (tmp_path / "file").write_bytes(noise(MIB))
    async with machines(tmp_path, "alice") as (alice,):
        with pytest.raises(UsageError, match="no directory"):
            await add(alice, tmp_path / "file")
        assert list((tmp_path / "alice" / "partial").iterdir()) == []


async def test_a_limit_on_all_files_together(tmp_path: Path, autojump_clock: MockClock) -> None:
    make(tmp_path / "tree")
    async with machines(tmp_path, "alice", "bob") as (alice, bob):
        added = await add(alice, tmp_path / "tree")
        async with linked(bob, alice):
            with pytest.raises(RefusedError, match="allowed here"):
                await fetch_directory(bob.store, bob.fetching, added.ref, limit=MIB, offload=inline)
        assert alice.sent < 10_000


async def test_a_holder_that_lost_a_file_is_helped_by_another(tmp_path: Path, autojump_clock: MockClock) -> None:
    content = make(tmp_path / "tree", many=50)
    async with machines(tmp_path, "alice", "bob", "carol") as (alice, bob, carol):
        added = await add(alice, tmp_path / "tree")
        await add(carol, tmp_path / "tree")
        manifest = await read_manifest(alice.store, added.ref.digest, offload=inline)
        for number, item in enumerate(manifest.items):
            if item.digest is not None and number % 3 == 0:
                alice.rows.blobs.remove(item.digest)
        async with linked(bob, alice), linked(bob, carol):
            await fetch_directory(bob.store, bob.fetching, added.ref, patience=60, offload=inline)
        await export_directory(bob.store, added.ref.digest, tmp_path / "out", offload=inline)
    assert read(tmp_path / "out") == content


HOSTILE = ["../up", "/abs", "a//b", "a/./b", "con", "x\\y", ".git/config", ".claude/settings.json", ".mcp.json", "a\tb"]


@pytest.mark.parametrize("path", HOSTILE)
async def test_a_hostile_manifest_writes_nothing_outside(tmp_path: Path, autojump_clock: MockClock, path: str) -> None:
    store = await open_store(tmp_path / "state", Rows())
    ref = await store.add_bytes(b"evil")
    parents = [Item(path.rpartition("/")[0])] if path.rpartition("/")[0] else []
    manifest = await store.add_bytes(
        Manifest.of([file_item("good", ref, False), *parents, file_item(path, ref, False)]).encode()
    )
    report = await export_directory(store, manifest.digest, tmp_path / "out", offload=inline)
    assert read(tmp_path / "out") == {"good": b"evil"}
    assert "/".join(report.refused[-1].path) == path
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "state"]


async def test_protected_names_are_written_when_asked_for(tmp_path: Path, autojump_clock: MockClock) -> None:
    store = await open_store(tmp_path / "state", Rows())
    ref = await store.add_bytes(b"{}")
    manifest = await store.add_bytes(Manifest.of([file_item(".mcp.json", ref, False)]).encode())
    await export_directory(store, manifest.digest, tmp_path / "out", admitted=frozenset([".mcp.json"]), offload=inline)
    assert read(tmp_path / "out") == {".mcp.json": b"{}"}


@pytest.mark.parametrize("said", [3, 5, 0])
async def test_a_size_that_is_not_the_blobs_is_refused(tmp_path: Path, autojump_clock: MockClock, said: int) -> None:
    store = await open_store(tmp_path / "state", Rows())
    ref = await store.add_bytes(b"four")
    large = await store.add_bytes(noise(MIB))
    items = [Item("lie", ref.digest, said), Item("large", large.digest, 10), file_item("true", ref, False)]
    manifest = await store.add_bytes(Manifest.of(items).encode())
    report = await export_directory(store, manifest.digest, tmp_path / "out", offload=inline)
    assert read(tmp_path / "out") == {"true": b"four"}
    assert {refusal.path for refusal in report.refused} == {("lie",), ("large",)}


@pytest.mark.parametrize("size", [10, MIB])
async def test_damage_and_absence_end_an_export(tmp_path: Path, autojump_clock: MockClock, size: int) -> None:
    rows = Rows()
    store = await open_store(tmp_path / "state", rows)
    ref = await store.add_bytes(noise(size))
    manifest = await store.add_bytes(Manifest.of([file_item("f", ref, False)]).encode())
    if size < MIB:
        rows.connection.execute("UPDATE blob_contents SET content = x'00' WHERE digest = ?", (ref.digest,))
    else:
        store.disk.path(ref.digest).write_bytes(bytes(size))
    with pytest.raises(DamagedError):
        await export_directory(store, manifest.digest, tmp_path / "out", offload=inline)
    rows.blobs.remove(ref.digest)
    with pytest.raises(AbsentError):
        await export_directory(store, manifest.digest, tmp_path / "out", offload=inline)
    assert read(tmp_path / "out") == {}


# One file.


@pytest.mark.parametrize("size", [0, 5, 3 * MIB + 1])
async def test_a_blob_becomes_a_file(tmp_path: Path, autojump_clock: MockClock, size: int) -> None:
    store = await open_store(tmp_path / "state", Rows())
    ref = await store.add_bytes(noise(size))
    out = tmp_path / "out"
    await export_blob(store, ref.digest, out, offload=inline)
    assert out.read_bytes() == noise(size)
    with pytest.raises(UsageError, match="already here"):
        await export_blob(store, ref.digest, out, offload=inline)
    out.write_bytes(b"old")
    await export_blob(store, ref.digest, out, overwrite=True, offload=inline)
    assert out.read_bytes() == noise(size)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "state"]


async def test_a_link_under_that_name_is_not_written_through(tmp_path: Path, autojump_clock: MockClock) -> None:
    store = await open_store(tmp_path / "state", Rows())
    ref = await store.add_bytes(b"new")
    (tmp_path / "victim").write_bytes(b"old")
    (tmp_path / "out").symlink_to(tmp_path / "victim")
    with pytest.raises(UsageError):
        await export_blob(store, ref.digest, tmp_path / "out", offload=inline)
    await export_blob(store, ref.digest, tmp_path / "out", overwrite=True, offload=inline)
    assert (tmp_path / "victim").read_bytes() == b"old"
    assert (tmp_path / "out").read_bytes() == b"new"


async def test_bad_places(tmp_path: Path, autojump_clock: MockClock) -> None:
    store = await open_store(tmp_path / "state", Rows())
    ref = await store.add_bytes(b"x")
    with pytest.raises(UsageError, match="directory"):
        await export_blob(store, ref.digest, tmp_path, offload=inline)
    with pytest.raises(UsageError, match="does not exist"):
        await export_blob(store, ref.digest, tmp_path / "no" / "out", offload=inline)
    with pytest.raises(AbsentError):
        await export_blob(store, bytes(32), tmp_path / "out", offload=inline)


async def test_a_damaged_blob_leaves_no_file(tmp_path: Path, autojump_clock: MockClock) -> None:
    store = await open_store(tmp_path / "state", Rows())
    ref = await store.add_bytes(noise(3 * MIB))
    data = bytearray(noise(3 * MIB))
    data[-1] ^= 1
    store.disk.path(ref.digest).write_bytes(data)
    with pytest.raises(DamagedError):
        await export_blob(store, ref.digest, tmp_path / "out", offload=inline)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
