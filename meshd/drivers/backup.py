"""Backup of a state directory into one file, and its restoration. The file holds private keys: mode 0600.

It is a tar whose last entry is a manifest with the size and BLAKE3 of every other. A file that was cut off has none, so
half a backup is never taken for one. What is restored is not the machine's latest state, and other members may hold
records of it that the backup lacks: a restored state is left without its mark, so that the next start opens a new
generation (drivers/keys.py). The generation in the manifest is only a floor for that one.
"""

import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Final

import attrs
from blake3 import blake3

from meshd.drivers.durable import can_sync_filesystem, sync_file, sync_filesystem
from meshd.drivers.keys import KeyState, read_keys, unmarked_generation
from meshd.drivers.state import StateDirectory, explained, flush_names, write_private
from meshd.drivers.storage import Storage
from meshd.drivers.threads import Offload, in_thread
from meshd.errors import RefusedError, StoreError
from meshd.store.database import Database

FORMAT: Final = "tether backup 1"
MANIFEST: Final = "manifest.json"
MANIFEST_LIMIT: Final = 64 << 20
"""Most bytes of a manifest: half a million files."""

PIECE: Final = 1 << 20
"""Bytes moved at a time."""

_DATABASE: Final = re.compile(r"meshes/[0-9a-f]{16}/mesh\.db")
_BLOB: Final = re.compile(r"meshes/[0-9a-f]{16}/blobs/([0-9a-f]{2})/\1[0-9a-f]{62}")
_SINGLE: Final = ("identity", "config.toml")


@attrs.frozen
class Saved:
    """What a backup holds, or what was restored from one. `size` is the file's, in bytes."""

    path: Path
    size: int
    meshes: int
    blobs: int


async def backup(
    state: StateDirectory,
    keys: KeyState,
    storages: Iterable[Storage],
    out: Path,
    *,
    blobs: bool,
    overwrite: bool = False,
    offload: Offload = in_thread,
) -> Saved:
    """Write all of `storages`, the keys and the settings to the new file `out`; the daemon goes on meanwhile.

    `overwrite`: an older file at `out` is replaced, once the new one is whole.

    `blobs`: also the blobs that are files; small ones are in the database anyhow. Raises RefusedError where `out`
    exists, StoreError when the disk fails or is full; then there is no `out`.
    """
    copies: dict[str, Path] = {}
    try:
        for storage in storages:
            name = storage.path.parent.name
            copies[name] = state.outgoing / f"backup-{name}.db"
            copies[name].unlink(missing_ok=True)
            await storage.copy_to(copies[name])
        return await offload(lambda: _write(state, keys.generation, copies, out, blobs=blobs, overwrite=overwrite))
    finally:
        for copy in copies.values():
            copy.unlink(missing_ok=True)


async def restore(file: Path, state: StateDirectory, *, offload: Offload = in_thread) -> Saved:
    """Put a backup in place of a state that has no mesh yet; its keys are replaced. To be followed by a start.

    Everything is unpacked beside and verified first: digests, sizes, the key file, each database. Raises RefusedError
    for a state with a mesh in it, StoreError for a file that is no backup or not whole; the state is then as it was.
    """
    return await offload(lambda: _restore(file, state))


def _write(
    state: StateDirectory, generation: int, copies: dict[str, Path], out: Path, *, blobs: bool, overwrite: bool
) -> Saved:
    with explained(out):
        part = out.with_name(f".{out.name}.part") if overwrite else out
        if overwrite:
            part.unlink(missing_ok=True)
        try:
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileExistsError as error:
            raise RefusedError(f"{out} exists.", "Name another file, or say --overwrite.") from error
        try:
            with os.fdopen(fd, "wb") as file:
                sizes = _fill(file, _sources(state, copies, blobs=blobs), generation)
                file.flush()
                sync_file(fd)
            part.replace(out)
            flush_names(out.parent)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return Saved(out, out.stat().st_size, len(copies), sum(1 for name in sizes if _BLOB.fullmatch(name)))


def _sources(state: StateDirectory, copies: dict[str, Path], *, blobs: bool) -> Iterator[tuple[str, Path]]:
    yield from ((name, state.path / name) for name in _SINGLE if (state.path / name).is_file())
    for mesh, copy in copies.items():
        yield f"meshes/{mesh}/mesh.db", copy
        if blobs:
            for path in sorted((state.meshes / mesh / "blobs").glob("*/*")):
                yield path.relative_to(state.path).as_posix(), path


def _fill(file: IO[bytes], sources: Iterable[tuple[str, Path]], generation: int) -> dict[str, tuple[int, str]]:
    entries: dict[str, tuple[int, str]] = {}
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for name, path in sources:
            try:
                source = path.open("rb")
            except FileNotFoundError:
                continue  # a blob that was collected meanwhile
            with source:
                reading = _Hashing(source)
                size = os.fstat(source.fileno()).st_size
                tar.addfile(_entry(name, size), reading)
                entries[name] = size, reading.digest
        manifest = json.dumps({"format": FORMAT, "generation": generation, "files": entries}).encode()
        tar.addfile(_entry(MANIFEST, len(manifest)), io.BytesIO(manifest))
    return entries


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    return entry


class _Hashing(io.RawIOBase):
    """Hashes what is read through it, so that a file is read once."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._hasher = blake3()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self._hasher.update(data)
        return data

    @property
    def digest(self) -> str:
        return self._hasher.hexdigest()


def _restore(file: Path, state: StateDirectory) -> Saved:
    if state.mesh_directories():
        raise RefusedError(
            f"{state.path} has a mesh in it.", "Restore into an empty directory: choose one with --state."
        )
    staging = state.path / "restoring"
    with explained(state.path):
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700)
        try:
            files, generation = _unpack(file, staging)
            _check(staging, files)
            _flush(staging, files)
            _place(staging, state, generation)
        finally:
            shutil.rmtree(staging)
    meshes = sum(1 for name in files if _DATABASE.fullmatch(name))
    return Saved(file, file.stat().st_size, meshes, sum(1 for name in files if _BLOB.fullmatch(name)))


def _unpack(file: Path, staging: Path) -> tuple[dict[str, tuple[int, str]], int]:
    """Write what the file holds below `staging`, and return the manifest that it agrees with."""
    found: dict[str, tuple[int, str]] = {}
    manifest: bytes | None = None
    try:
        with file.open("rb") as source, tarfile.open(fileobj=source, mode="r|") as tar:
            for entry in tar:
                content = tar.extractfile(entry)
                if not entry.isreg() or content is None or manifest is not None or entry.name in found:
                    raise _broken(file, f"an entry {entry.name!r} that no backup has")
                if entry.name == MANIFEST:
                    manifest = content.read(MANIFEST_LIMIT)
                elif entry.name in _SINGLE or _DATABASE.fullmatch(entry.name) or _BLOB.fullmatch(entry.name):
                    found[entry.name] = entry.size, _put(content, staging, entry.name)
                else:
                    raise _broken(file, f"an entry {entry.name!r} that no backup has")
    except FileNotFoundError as error:
        raise StoreError(f"There is no {file}.") from error
    except (IsADirectoryError, PermissionError) as error:
        raise StoreError(f"The backup {file} cannot be read: {error.strerror}.") from error
    except (tarfile.TarError, EOFError) as error:
        raise _broken(file, str(error)) from error
    return found, _agreed(file, manifest, found)


def _agreed(file: Path, manifest: bytes | None, found: dict[str, tuple[int, str]]) -> int:
    """The generation in a manifest that names exactly what was found."""
    if manifest is None:
        raise _broken(file, "its end is missing")
    try:
        said = json.loads(manifest)
        files = {name: (int(size), str(digest)) for name, (size, digest) in said["files"].items()}
        form, generation = said["format"], int(said["generation"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _broken(file, "its manifest is not one") from error
    if form != FORMAT:
        raise StoreError(f"{file} has the format {form!r}; this meshd knows {FORMAT!r}.", "Update Tether here.")
    for name in sorted({*files, *found}):
        if files.get(name) != found.get(name):
            raise _broken(file, f"{name} is not what was saved")
    if "identity" not in files:
        raise _broken(file, "it has no keys")
    return generation


def _put(content: IO[bytes], staging: Path, name: str) -> str:
    """Write one file below `staging`, where nothing is yet; the hexadecimal BLAKE3 of it."""
    for above in reversed(PurePosixPath(name).parents):
        (staging / above).mkdir(mode=0o700, exist_ok=True)
    hasher = blake3()
    fd = os.open(staging / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as target:
        while piece := content.read(PIECE):
            hasher.update(piece)
            target.write(piece)
    return hasher.hexdigest()


def _check(staging: Path, files: dict[str, tuple[int, str]]) -> None:
    """Refuse keys that are none and databases that do not open; forget blobs that the backup left out."""
    try:
        read_keys((staging / "identity").read_bytes())
    except ValueError as error:
        raise StoreError("The backup's key file is damaged.", "Use another backup.") from error
    for name, (_, digest) in files.items():
        blob = _BLOB.fullmatch(name)
        if blob is not None and not name.endswith(digest):
            raise StoreError(f"The backup's blob {digest} is damaged.", "Make the backup anew, or without blobs.")
        if _DATABASE.fullmatch(name):
            _forget_missing(staging / name)


def _forget_missing(path: Path) -> None:
    here = {bytes.fromhex(blob.name) for blob in path.parent.glob("blobs/*/*")}

    def forget(database: Database) -> None:
        for first in range(256):
            for blob in database.blobs.files(first):
                if blob.digest not in here:
                    database.blobs.remove(blob.digest)

    with Database(path) as opened:
        for done in opened.commit([forget]):
            if done.error is not None:
                raise done.error


def _flush(staging: Path, files: Iterable[str]) -> None:
    if can_sync_filesystem():
        fd = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync_filesystem(fd)
        finally:
            os.close(fd)
        return
    for name in files:
        with (staging / name).open("rb") as file:
            sync_file(file.fileno())
    for above in {above for name in files for above in PurePosixPath(name).parents}:
        flush_names(staging / above)


def _place(staging: Path, state: StateDirectory, generation: int) -> None:
    """The meshes last: whatever a crash leaves can be restored into again, and no mesh ever meets foreign keys."""
    if (staging / "config.toml").exists() and not state.config.exists():
        (staging / "config.toml").replace(state.config)
    write_private(state.generation, unmarked_generation(generation))
    (staging / "identity").replace(state.identity)
    flush_names(state.path)
    if (staging / "meshes").exists():
        if state.meshes.exists():
            shutil.rmtree(state.meshes)  # directories without a database: nothing to keep
        (staging / "meshes").replace(state.meshes)
        flush_names(state.path)


def _broken(file: Path, how: str) -> StoreError:
    return StoreError(f"{file} is not a whole backup: {how}.", "Nothing was restored; use another backup.")
