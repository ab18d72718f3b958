"""The state directory: everything that this machine keeps, for one person and one daemon.

identity      the machine's keys                     control.sock   where `tether` finds the daemon
generation    the generation, and a mark of the file  config.toml    settings
meshd.lock    held by the daemon, with its pid       incoming/ outgoing/   what passes through, emptied at start
meshes/<16 hexadecimal digits of the mesh id>/       mesh.db, blobs/, partial/
"""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from meshd.drivers.durable import sync_directory, sync_file
from meshd.errors import RefusedError, StoreError

SPACE_FLOOR: Final = 64 << 20
"""Free bytes without which the daemon does not start: the records' own reserve. Blobs keep clear of far more."""

MESH_DIGITS: Final = 16
"""Hexadecimal digits of a mesh id that name its directory."""


@attrs.frozen
class MeshDirectory:
    """What one mesh keeps. Its directories exist, mode 0700."""

    path: Path

    @property
    def database(self) -> Path:
        return self.path / "mesh.db"

    @property
    def blobs(self) -> Path:
        return self.path / "blobs"

    @property
    def partial(self) -> Path:
        return self.path / "partial"


class StateDirectory:
    """A state directory that is ours, private, and locked until `close` or the end of the process."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path) -> "StateDirectory":
        """Make the directory where it is missing, check it, and lock it.

        Raises RefusedError when it is another user's, open to others, or another daemon's (with that one's pid), and
        StoreError when its disk cannot be written.
        """
        with explained(path):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = path.resolve()
            _check_owner(path)
            found = cls(path, _lock(path / "meshd.lock"))
            for each in (found.incoming, found.outgoing):
                _empty(each)
        return found

    def close(self) -> None:
        """Let another daemon have it."""
        os.close(self._lock)

    def __enter__(self) -> "StateDirectory":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def identity(self) -> Path:
        return self.path / "identity"

    @property
    def generation(self) -> Path:
        return self.path / "generation"

    @property
    def socket(self) -> Path:
        return self.path / "control.sock"

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def meshes(self) -> Path:
        return self.path / "meshes"

    @property
    def incoming(self) -> Path:
        return self.path / "incoming"

    @property
    def outgoing(self) -> Path:
        return self.path / "outgoing"

    def mesh(self, mesh: bytes) -> MeshDirectory:
        """The directory of the mesh with this id, made where it is missing. Raises StoreError."""
        found = MeshDirectory(self.meshes / mesh.hex()[:MESH_DIGITS])
        with explained(found.path):
            for each in (self.meshes, found.path, found.blobs, found.partial):
                each.mkdir(mode=0o700, exist_ok=True)
                flush_names(each.parent)
        return found

    def new_mesh(self) -> MeshDirectory:
        """Where a mesh is made, until `place_mesh`: of one that never came to be, the next start leaves nothing."""
        found = MeshDirectory(self.incoming / f"mesh-{secrets.token_hex(8)}")
        with explained(found.path):
            for each in (found.path, found.blobs, found.partial):
                each.mkdir(mode=0o700)
                flush_names(each.parent)
        return found

    def place_mesh(self, made: MeshDirectory, mesh: bytes) -> MeshDirectory:
        """Put a mesh that was made, and is closed, where meshes are: all of it or nothing, durable when this returns.

        Raises StoreError, also when there is one with this id.
        """
        found = MeshDirectory(self.meshes / mesh.hex()[:MESH_DIGITS])
        with explained(found.path):
            self.meshes.mkdir(mode=0o700, exist_ok=True)
            flush_names(self.path)
            if found.path.is_dir() and not found.database.exists():
                shutil.rmtree(found.path)  # no mesh, and nothing of one that anybody could use
            made.path.rename(found.path)
            flush_names(self.meshes)
        return found

    def drop_mesh(self, directory: MeshDirectory) -> None:
        """Delete a mesh that is closed. Out of the meshes first, and at once: half of one must not be opened again.

        Raises StoreError.
        """
        gone = self.outgoing / f"mesh-{secrets.token_hex(8)}"
        with explained(directory.path):
            directory.path.rename(gone)
            flush_names(directory.path.parent)
            shutil.rmtree(gone, ignore_errors=True)  # what stays goes at the next start

    def mesh_directories(self) -> list[MeshDirectory]:
        """The meshes that have a directory with a database, in order of their ids."""
        if not self.meshes.is_dir():
            return []
        found = (MeshDirectory(each) for each in sorted(self.meshes.iterdir()))
        return [each for each in found if each.database.is_file()]

    def free_bytes(self) -> int:
        """Bytes that this user may still write to the disk of the state directory. Raises StoreError."""
        with explained(self.path):
            found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def require_space(self, floor: int = SPACE_FLOOR) -> None:
        """Raises StoreError when fewer than `floor` bytes are free."""
        free = self.free_bytes()
        if free < floor:
            raise StoreError(
                f"The disk of {self.path} has {free >> 20:,} MiB left; {floor >> 20:,} MiB are the least to start with.",
                "Free some space, or choose another directory with --state.",
            )


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise what the disk at `path` does to us as StoreError, with what a person can do."""
    try:
        yield
    except OSError as error:
        advice = {
            errno.EROFS: "Its disk is mounted read-only; choose another directory with --state.",
            errno.ENOSPC: "Its disk is full: free some space.",
            errno.EDQUOT: "Your quota on its disk is used up: free some space.",
            errno.EACCES: "You may not write there; choose another directory with --state.",
            errno.ENOTDIR: "Something on the way is no directory; choose another with --state.",
            errno.EISDIR: "It is a directory: name a file.",
            errno.ENOENT: "Make the directory first, or name another.",
            errno.EEXIST: "It is no directory; choose another with --state.",
        }.get(error.errno or 0, "Look at the disk and its rights.")
        raise StoreError(f"{path} cannot be used: {os.strerror(error.errno or 0)}.", advice) from error


def write_private(path: Path, data: bytes) -> None:
    """Put a file of mode 0600 in place, whole or not at all, durable before this returns. Raises OSError."""
    fresh = path.with_name(path.name + ".new")
    write_new(fresh, data)
    fresh.replace(path)
    flush_names(path.parent)


def write_new(path: Path, data: bytes) -> None:
    """Write and flush a file of mode 0600, over what a crash may have left of the same name. Raises OSError."""
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        sync_file(fd)


def flush_names(directory: Path) -> None:
    """Make the names in a directory last. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_directory(fd)
    finally:
        os.close(fd)


def _check_owner(path: Path) -> None:
    status = path.stat()
    if status.st_uid != os.geteuid():
        raise RefusedError(
            f"{path} belongs to another user (uid {status.st_uid}).", "Choose a directory of your own with --state."
        )
    if stat.S_IMODE(status.st_mode) & 0o077:
        if any(path.iterdir()):
            # Who could look in may have read the keys, or put files there: not for us to cover up.
            raise RefusedError(f"Other users may enter {path}, where keys are kept.", f"Run: chmod 700 {path}")
        path.chmod(0o700)


def _empty(path: Path) -> None:
    """What a run that is over left in passing belongs to nobody."""
    path.mkdir(mode=0o700, exist_ok=True)
    for each in path.iterdir():
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        else:
            each.unlink()


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise RefusedError(
            f"Another meshd (pid {holder}) runs on {path.parent}.", "Stop it first, or give this one its own --state."
        ) from error
    except BaseException:
        os.close(fd)
        raise
    return fd
