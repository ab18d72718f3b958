"""The files of large blobs: where they lie, how they get there, how they are read. Blocking code, for worker threads.

In a mesh's directory: `blobs/ab/<64 hex>` is a whole blob, `partial/<64 hex>.part` one that is being fetched, and
`partial/<16 hex>.new` one that is being made here and has no digest yet. All of it is on one file system, so that a
blob gets its place by a rename. Source for the order of steps: protocol.md section 9; rename(2), fsync(2).
"""

import contextlib
import errno
import os
import re
import secrets
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from blake3 import blake3

from meshd.drivers.durable import sync_directory, sync_file
from meshd.drivers.tree_sink import FREE_FLOOR
from meshd.errors import RefusedError, UsageError
from meshd.model.announcement import BLOB_LIMIT, BlobRef
from meshd.model.chunks import CHUNK, Chunking, ChunkList

_PART = re.compile(r"([0-9a-f]{64})\.part")
_HEX = re.compile(r"[0-9a-f]{64}")
_FLAGS: Final = os.O_NOFOLLOW | os.O_CLOEXEC
_SEEK_DATA: Final[int | None] = getattr(os, "SEEK_DATA", None)
"""Not on every system; a file system that keeps no holes answers as if all were written."""
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)

READ_AHEAD: Final = 8
"""Chunks that one visit to a thread copies or checks: few visits, and a cancellation waits for 8 MiB at most."""


class BlobDisk:
    """The directory of one mesh's blobs. `floor` is the bytes that stay free on its disk whatever is stored."""

    def __init__(self, directory: Path, floor: int = FREE_FLOOR) -> None:
        self.floor = floor
        self._blobs = directory / "blobs"
        self._partial = directory / "partial"
        self._promised: dict[bytes, int] = {}
        self._promising = threading.Lock()
        with self.errors():
            for made in (self._blobs, self._partial):
                made.mkdir(mode=0o700, exist_ok=True)

    # Space.

    def free(self) -> int:
        """Bytes that an ordinary user may still write here; -1 where the file system does not count."""
        with self.errors():
            status = os.statvfs(self._partial)
        return status.f_bavail * status.f_frsize if status.f_blocks else -1

    def require(self, size: int) -> None:
        """Raise RefusedError unless `size` more bytes leave the floor and what running fetches were promised."""
        free = self.free()
        with self._promising:
            promised = sum(self._promised.values())
        if free >= 0 and free - promised - size < self.floor:
            raise RefusedError(
                f"There is no space for {size:,} bytes: {free:,} are free, {self.floor >> 20} MiB of them stay so.",
                "Free some, let `tether gc` drop blobs that nothing needs, or lower the floor.",
            )

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what the disk says into RefusedError."""
        try:
            yield
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise RefusedError(
                    "There is no space left for blobs.", "Free some on the disk of the state."
                ) from error
            raise RefusedError(f"The blobs' directory cannot be used: {error.strerror or error}.") from error

    # Whole blobs.

    def path(self, digest: bytes) -> Path:
        """Where the blob's file is, if it is one."""
        name = digest.hex()
        return self._blobs / name[:2] / name

    def read_chunk(self, digest: bytes, chunks: ChunkList, index: int) -> bytes | None:
        """The bytes of one chunk, checked; None when the file has others, or cannot be read."""
        try:
            fd = os.open(self.path(digest), os.O_RDONLY | _FLAGS)
            try:
                data = _pread(fd, chunks.length(index), index * CHUNK)
            finally:
                os.close(fd)
        except OSError:
            # A file that is gone and a medium that fails are damage too: either way this copy cannot be served.
            return None
        return data if chunks.fits(index, data) else None

    def remove(self, digest: bytes) -> None:
        """Delete a blob's file, if there is one."""
        with self.errors():
            self.path(digest).unlink(missing_ok=True)

    def place(self, source: Path, digest: bytes, fd: int) -> None:
        """Make a file that is whole and checked last, and give it its place. After an error it counts as lost."""
        target = self.path(digest)
        with self.errors():
            sync_file(fd)
            with contextlib.suppress(FileExistsError):
                target.parent.mkdir(mode=0o700)
                _sync(self._blobs)
            source.rename(target)
            _sync(target.parent)

    # Blobs that are made here.

    def create(self) -> "NewBlob":
        """A file for a blob whose digest is not known yet."""
        path = self._partial / f"{secrets.token_hex(8)}.new"
        with self.errors():
            return NewBlob(self, path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600))

    # Blobs that are fetched.

    def resume(self, digest: bytes, chunks: ChunkList) -> "PartialBlob":
        """The file of a fetch, with what an earlier one left in it. Raises RefusedError when there is no space.

        A damaged copy becomes the start of its own repair: chunks of it that are good need not travel again.
        """
        path = self._part(digest)
        damaged = self.path(digest)
        with self.errors():
            if not path.exists() and damaged.exists():
                damaged.rename(path)
            there = path.stat().st_blocks * 512 if path.exists() else 0
            self.require(max(0, chunks.size - there))
            fd = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)
            try:
                os.ftruncate(fd, chunks.size)
            except BaseException:
                os.close(fd)
                raise
        with self._promising:
            self._promised[digest] = max(0, chunks.size - there)
        return PartialBlob(self, path, fd, digest, chunks)

    def drop_partial(self, digest: bytes) -> None:
        """Delete what a fetch left."""
        with self.errors():
            self._part(digest).unlink(missing_ok=True)

    def stale(self, before: float) -> list[tuple[bytes, int]]:
        """What fetches left that are not running: digest and bytes, of those not written to since `before` (epoch)."""
        with self._promising:
            running = set(self._promised)
        left = self._parts()
        return [(digest, size) for digest, size, written in left if written < before and digest not in running]

    def partial_size(self) -> int:
        """Bytes on the disk of all fetches that have not ended."""
        return sum(size for _, size, _ in self._parts())

    def wrote(self, digest: bytes, size: int) -> None:
        """Bytes that were promised to a fetch are on the disk now."""
        with self._promising:
            if digest in self._promised:
                self._promised[digest] = max(0, self._promised[digest] - size)

    def release(self, digest: bytes) -> None:
        """A fetch needs no more space."""
        with self._promising:
            self._promised.pop(digest, None)

    # Start.

    def sweep_new(self) -> None:
        """Delete what was being made here when the process ended: nobody was told of it."""
        with self.errors():
            for path in self._partial.glob("*.new"):
                path.unlink(missing_ok=True)

    def names(self, first: int) -> dict[bytes, int]:
        """Digest and size of every blob file whose digest begins with this byte."""
        found: dict[bytes, int] = {}
        with self.errors(), contextlib.suppress(FileNotFoundError), os.scandir(self._blobs / f"{first:02x}") as entries:
            for entry in entries:
                if _HEX.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    found[bytes.fromhex(entry.name)] = entry.stat(follow_symlinks=False).st_size
        return found

    def unplace(self, digest: bytes) -> None:
        """Make a blob's file a partial again: it was placed, and the process ended before its row was written."""
        with self.errors():
            self.path(digest).rename(self._part(digest))

    def _parts(self) -> list[tuple[bytes, int, float]]:
        found = []
        with self.errors():
            for path in self._partial.iterdir():
                name = _PART.fullmatch(path.name)
                with contextlib.suppress(FileNotFoundError):  # placed meanwhile
                    if name:
                        status = path.stat()
                        found.append((bytes.fromhex(name[1]), status.st_blocks * 512, status.st_mtime))
        return found

    def _part(self, digest: bytes) -> Path:
        return self._partial / f"{digest.hex()}.part"


class NewBlob:
    """A blob that is being made: `copy` or `write` until its end, then `finish`, then `place`; at last `discard`."""

    def __init__(self, disk: BlobDisk, path: Path, fd: int) -> None:
        self._disk, self._path, self._fd = disk, path, fd
        self._chunking = Chunking()
        self._pending = bytearray()

    def copy(self, source: int) -> bool:
        """Copy and digest the next READ_AHEAD chunks of the file `source`; False at its end. Raises OSError of it."""
        for _ in range(READ_AHEAD):
            data = _read(source, CHUNK)
            self.write(data)
            if len(data) < CHUNK:
                return False
        return True

    def write(self, data: bytes) -> None:
        """The next bytes, of any number."""
        if not self._pending and len(data) == CHUNK:
            self._write(data)
            return
        self._pending += data
        while len(self._pending) >= CHUNK:
            self._write(bytes(self._pending[:CHUNK]))
            del self._pending[:CHUNK]

    def finish(self) -> tuple[BlobRef, ChunkList]:
        """No more follows: what was written."""
        if self._pending:
            self._write(bytes(self._pending))
            self._pending.clear()
        return self._chunking.result()

    def content(self, size: int) -> bytes:
        """All of it, of a blob that turned out to be small."""
        with self._disk.errors():
            return _pread(self._fd, size, 0)

    def place(self, digest: bytes) -> None:
        """Give it its place, durably."""
        self._disk.place(self._path, digest, self._fd)

    def discard(self) -> None:
        """Close it, and delete it unless it was placed. May be called more than once; never raises."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _write(self, chunk: bytes) -> None:
        self._disk.require(len(chunk))
        with self._disk.errors():
            _write(self._fd, chunk)
        self._chunking.add(chunk)


class PartialBlob:
    """A blob that is being fetched: chunks in any order, from several threads at once.

    Which chunks are here is never written down: after a crash they are hashed again, and a hash cannot be out of date.
    """

    def __init__(self, disk: BlobDisk, path: Path, fd: int, digest: bytes, chunks: ChunkList) -> None:
        self.digest, self.chunks = digest, chunks
        self._disk, self._path, self._fd = disk, path, fd
        # Closing while another thread writes would hand the number of this file to the next one that is opened.
        self._lock = threading.Lock()

    def present(self, first: int) -> tuple[list[int], int]:
        """Which of the chunks from `first` on are here and right, and where to go on: READ_AHEAD at a time.

        What was never written is passed over unread: a new fetch would else begin by hashing its whole size in zeros.
        """
        with self._disk.errors(), self._lock:
            first = self._written_from(first)
            end = min(first + READ_AHEAD, self.chunks.count)
            found = [
                index
                for index in range(first, end)
                if self.chunks.fits(index, _pread(self._fd, self.chunks.length(index), index * CHUNK))
            ]
        return found, end

    def _written_from(self, index: int) -> int:
        """The first chunk from this one on that the file has anything of; lseek(2)."""
        if _SEEK_DATA is None:
            return index
        try:
            return os.lseek(self._fd, index * CHUNK, _SEEK_DATA) // CHUNK
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return self.chunks.count

    def write(self, index: int, data: bytes | memoryview) -> bool:
        """Check a chunk and write it. False when it is not what the list says; then nothing is written."""
        if not self.chunks.fits(index, data):
            return False
        with self._disk.errors(), self._lock:
            if self._fd >= 0:  # else the fetch was given up meanwhile
                _check_floor(self._fd, self._disk.floor, len(data))
                _write_at(self._fd, data, index * CHUNK)
                self._disk.wrote(self.digest, len(data))
        return True

    def digest_on(self, whole: blake3, start: int) -> int:
        """Feed what stands in the file from byte `start` on into `whole`; returns where to go on, `size` at the end."""
        with self._disk.errors():
            data = _pread(self._fd, min(READ_AHEAD * CHUNK, self.chunks.size - start), start)
        whole.update(data)
        return start + len(data) if data else self.chunks.size

    def content(self) -> bytes:
        """All of it, of a small blob."""
        with self._disk.errors():
            return _pread(self._fd, self.chunks.size, 0)

    def place(self) -> None:
        """Give it its place, durably."""
        self._disk.place(self._path, self.digest, self._fd)

    def close(self) -> None:
        """Leave it as it is, for a later fetch to go on with. May be called more than once."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
        self._disk.release(self.digest)


def open_regular(path: Path) -> int:
    """Open a file that a person named, to read. Raises UsageError for what is none; the caller closes it."""
    try:
        # A fifo would hold the thread until somebody writes to it.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and status.st_size <= BLOB_LIMIT:
        return fd
    os.close(fd)
    if stat.S_ISREG(status.st_mode):
        raise RefusedError(f"{path} has {status.st_size:,} bytes; a blob has {BLOB_LIMIT:,} at most.")
    raise UsageError(f"{path} is no regular file.")


def _check_floor(fd: int, floor: int, size: int) -> None:
    status = os.fstatvfs(fd)
    if status.f_blocks and status.f_bavail * status.f_frsize - size < floor:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _read(fd: int, size: int) -> bytes:
    """`size` bytes, fewer only at the end."""
    data = os.read(fd, size)
    while 0 < len(data) < size:
        more = os.read(fd, size - len(data))
        if not more:
            break
        data += more
    return data


def _pread(fd: int, size: int, offset: int) -> bytes:
    """`size` bytes from `offset`, fewer only at the end."""
    data = os.pread(fd, size, offset)
    while 0 < len(data) < size:
        more = os.pread(fd, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _write_at(fd: int, data: bytes | memoryview, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, offset)
        rest, offset = rest[written:], offset + written


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync_directory(fd)
    finally:
        os.close(fd)
