"""Backup and restore: whole or not at all, and never a fork."""

import io
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from meshd.drivers import backup as backup_module
from meshd.drivers.backup import Saved, backup, restore
from meshd.drivers.durable import can_sync_filesystem
from meshd.drivers.keys import load_or_create
from meshd.drivers.state import StateDirectory
from meshd.drivers.storage import open_storage
from meshd.drivers.threads import inline
from meshd.errors import RefusedError, StoreError
from meshd.store.blobs import HeldBlob
from meshd.store.database import Database
from tests.store.kit import MESH, Author, value

BLOB = b"a large blob" * 10_000
DIGEST = blake3(BLOB).digest()
MACHINE = b"this machine"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDirectory]:
    """With keys, settings, one mesh of a few records, and one blob that is a file."""
    with StateDirectory.open(tmp_path / "old") as opened:
        load_or_create(opened, machine_id=MACHINE)
        opened.config.write_text("[daemon]\n")
        mesh = opened.mesh(MESH)
        place = mesh.blobs / DIGEST.hex()[:2]
        place.mkdir()
        (place / DIGEST.hex()).write_bytes(BLOB)
        yield opened


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[StateDirectory]:
    with StateDirectory.open(tmp_path / "new") as opened:
        yield opened


async def save(state: StateDirectory, out: Path, *, blobs: bool = True) -> Saved:
    keys = load_or_create(state, machine_id=MACHINE)
    author = Author(1)
    records = [author.say(value(n)) for n in range(5)]
    held = HeldBlob(DIGEST, len(BLOB), DIGEST, is_file=True, is_damaged=False, added_ms=1)

    def fill(database: Database) -> None:
        for record in records:
            database.records.insert(record, age_ms=0, now_ms=0)
        database.blobs.add(held)

    async with open_storage(state.mesh(MESH).database, offload=inline) as storage:
        await storage.write(fill)
        return await backup(state, keys, [storage], out, blobs=blobs, offload=inline)


@pytest.mark.parametrize("whole_disk", [True, False])
async def test_what_was_saved_comes_back(
    state: StateDirectory, fresh: StateDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_disk: bool
) -> None:
    monkeypatch.setattr(backup_module, "can_sync_filesystem", lambda: whole_disk and can_sync_filesystem())
    out = tmp_path / "saved.tar"
    saved = await save(state, out)
    assert (saved.meshes, saved.blobs, saved.size) == (1, 1, out.stat().st_size)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert list(state.outgoing.iterdir()) == []
    assert await restore(out, fresh, offload=inline) == saved
    mesh = fresh.mesh(MESH)
    assert (mesh.blobs / DIGEST.hex()[:2] / DIGEST.hex()).read_bytes() == BLOB
    assert fresh.config.read_text() == "[daemon]\n"
    with Database(mesh.database) as database, Database(state.mesh(MESH).database) as before:
        assert database.records.heads() == before.records.heads() != {}
        assert database.blobs.find(DIGEST) is not None
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in fresh.path.rglob("*")}
    assert all(mode & 0o077 == 0 for mode in modes.values()), modes
    assert not (fresh.path / "restoring").exists()


async def test_a_restored_machine_opens_a_new_generation(
    state: StateDirectory, fresh: StateDirectory, tmp_path: Path
) -> None:
    """Also over keys that an empty state had made for itself, and above the generation of the backup."""
    load_or_create(state, machine_id=MACHINE).next_generation(above=50_000)
    before = load_or_create(state, machine_id=MACHINE)
    await save(state, tmp_path / "saved.tar")
    load_or_create(fresh, machine_id=MACHINE)
    await restore(tmp_path / "saved.tar", fresh, offload=inline)
    found = load_or_create(fresh, machine_id=MACHINE)
    assert found.keys.identity == before.keys.identity
    assert found.copied and found.generation > before.generation > 50_000


async def test_without_blobs_none_is_claimed(state: StateDirectory, fresh: StateDirectory, tmp_path: Path) -> None:
    saved = await save(state, tmp_path / "saved.tar", blobs=False)
    assert saved.blobs == 0
    await restore(tmp_path / "saved.tar", fresh, offload=inline)
    with Database(fresh.mesh(MESH).database) as database:
        assert database.blobs.find(DIGEST) is None
        assert len(database.records.heads()) == 1


async def test_nothing_is_written_over(state: StateDirectory, tmp_path: Path) -> None:
    out = tmp_path / "saved.tar"
    out.write_text("precious")
    with pytest.raises(RefusedError, match="exists"):
        await save(state, out)
    assert out.read_text() == "precious"


async def test_a_backup_that_fails_leaves_no_file(
    state: StateDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backup_module, "sync_file", full)
    with pytest.raises(StoreError, match="free some space"):
        await save(state, tmp_path / "saved.tar")
    assert not (tmp_path / "saved.tar").exists()
    assert list(state.outgoing.iterdir()) == []


async def test_a_state_with_a_mesh_is_left_alone(state: StateDirectory, tmp_path: Path) -> None:
    await save(state, tmp_path / "saved.tar")
    before = contents(state)
    with pytest.raises(RefusedError, match="has a mesh"):
        await restore(tmp_path / "saved.tar", state, offload=inline)
    assert contents(state) == before


async def test_half_a_backup_is_none(state: StateDirectory, fresh: StateDirectory, tmp_path: Path) -> None:
    out = tmp_path / "saved.tar"
    saved = await save(state, out)
    before = contents(fresh)
    whole = out.read_bytes()
    # The tar's end is padding: a file cut inside that is still whole.
    for length in [0, 1, 511, *range(512, saved.size - tarfile.RECORDSIZE, saved.size // 40)]:
        out.write_bytes(whole[:length])
        with pytest.raises(StoreError):
            await restore(out, fresh, offload=inline)
        assert contents(fresh) == before


async def test_a_flipped_byte_is_found(state: StateDirectory, fresh: StateDirectory, tmp_path: Path) -> None:
    out = tmp_path / "saved.tar"
    await save(state, out)
    whole = out.read_bytes()
    before = contents(fresh)
    with tarfile.open(out) as tar:
        places = [(entry.offset_data, entry.size) for entry in tar]
    for start, size in places:
        for place in {start, start + size // 2, start + size - 1}:
            changed = bytearray(whole)
            changed[place] ^= 0x01
            out.write_bytes(changed)
            with pytest.raises(StoreError):
                await restore(out, fresh, offload=inline)
            assert contents(fresh) == before


def rewrite(source: Path, target: Path, change: Callable[[tarfile.TarFile], None]) -> None:
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        change(new)
        for entry in old:
            new.addfile(entry, old.extractfile(entry))


def add(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Callable[[tarfile.TarFile], None]:
    def change(tar: tarfile.TarFile) -> None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname, entry.size = kind, link, 1 if kind == tarfile.REGTYPE else 0
        tar.addfile(entry, io.BytesIO(b"x"))

    return change


@pytest.mark.parametrize(
    "change",
    [
        add("../escaped"),
        add("/tmp/escaped"),
        add("meshes/../../escaped"),
        add("control.sock"),
        add("generation"),
        add("identity"),
        add("config.toml", tarfile.SYMTYPE, "/etc/passwd"),
        add("meshes", tarfile.SYMTYPE, "/tmp"),
        add("config.toml", tarfile.LNKTYPE, "identity"),
        add("meshes/0001020304050607/blobs/ab/" + "cd" * 32),
        add("meshes", tarfile.DIRTYPE),
        add("manifest.json"),
    ],
)
async def test_what_no_backup_has_is_refused(
    state: StateDirectory, fresh: StateDirectory, tmp_path: Path, change: Callable[[tarfile.TarFile], None]
) -> None:
    await save(state, tmp_path / "saved.tar")
    rewrite(tmp_path / "saved.tar", tmp_path / "hostile.tar", change)
    before = contents(fresh)
    with pytest.raises(StoreError):
        await restore(tmp_path / "hostile.tar", fresh, offload=inline)
    assert contents(fresh) == before
    assert not list(tmp_path.rglob("escaped"))


async def test_a_file_that_is_no_backup_is_refused(fresh: StateDirectory, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="There is no"):
        await restore(tmp_path / "missing.tar", fresh, offload=inline)
    for content in (b"", b"a diary " * 1000, bytes(20_000)):
        (tmp_path / "diary").write_bytes(content)
        with pytest.raises(StoreError, match="not a whole backup"):
            await restore(tmp_path / "diary", fresh, offload=inline)


@pytest.mark.parametrize("step", range(3))
async def test_a_restore_that_was_cut_off_can_be_done_again(
    state: StateDirectory, fresh: StateDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """At no moment is there a mesh beside keys that are not its machine's."""
    await save(state, tmp_path / "saved.tar")
    identity = load_or_create(state, machine_id=MACHINE).keys.identity
    load_or_create(fresh, machine_id=MACHINE)
    renames = 0
    replace = Path.replace

    def cut(self: Path, target: Path) -> Path:
        nonlocal renames
        if "restoring" in self.parts:
            renames += 1
            if renames == step + 1:
                raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", cut)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(KeyboardInterrupt):
        await restore(tmp_path / "saved.tar", fresh, offload=inline)
    monkeypatch.undo()
    assert fresh.mesh_directories() == []
    await restore(tmp_path / "saved.tar", fresh, offload=inline)
    found = load_or_create(fresh, machine_id=MACHINE)
    assert found.keys.identity == identity and found.copied
    assert len(fresh.mesh_directories()) == 1


def contents(state: StateDirectory) -> dict[str, bytes]:
    return {str(path.relative_to(state.path)): path.read_bytes() for path in state.path.rglob("*") if path.is_file()}
