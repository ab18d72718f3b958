"""Files and directories from a hostile peer, written to this disk.

Everything is written into a staging directory first and is given its final name when all of it has arrived, been
checked and reached the disk. What one entry does wrong costs that entry; what the disk does wrong ends the transfer.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import attrs
import blake3

from meshd.drivers import nofollow, staging
from meshd.drivers.durable import can_sync_filesystem, sync_directory, sync_file, sync_filesystem
from meshd.drivers.payload import Refusal, Report
from meshd.drivers.placing import ENTRY_ERRORS, Placing, Staged, obstacle
from meshd.errors import LocalProtocolError, RefusedError, UsageError
from meshd.model.entry import (
    Entry,
    EntryKind,
    UnsafeNameError,
    admits_repository,
    check_entry,
    collision_key,
)

FREE_FLOOR = 256 << 20
"""Bytes left free on the disk whatever a peer sends: what a system needs to log, to update and to be cleaned up with,
and little enough that a small board or a tmpfs of 1 GiB can still receive."""

FLUSH_AT_ONCE = 8 << 20
"""Bytes from which a file is flushed when it ends, not with the others before the names are given: the wait is then
spent while the next entries arrive."""

FEW_ENTRIES = 64
"""Entries up to which each is flushed by itself. Beyond, one flush of the file system takes less time, though it waits
for what other programs wrote there too (docs/decisions/0004-durable-trees.md)."""

_PARENT_REFUSED = "its directory was refused"
_ADVICE = "Free some, or name a directory on another disk."
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@attrs.define
class _Incoming:
    """The entry in progress. `node` is None once it is refused; `fd` is None then, and for a directory."""

    index: int
    entry: Entry
    node: Staged | None = None
    fd: int | None = None
    written: int = 0
    hash: blake3.blake3 = attrs.field(factory=blake3.blake3)


@attrs.frozen
class _Parent:
    """The directory that entries go to now: its open staged and (if there is one) final directory."""

    node: Staged
    staged_fd: int
    final_fd: int | None
    is_repository: bool

    def close(self) -> None:
        os.close(self.staged_fd)
        if self.final_fd is not None:
            os.close(self.final_fd)


class TreeSink:
    """A Sink that writes below the directory `into`, which is made if only its last part is missing.

    `overwrite` lets a file replace a file. `admitted` are the protected names that the person asked for, as
    `check_admitted` gives them. `floor` is in bytes. Up to `few` entries are flushed one by one. Modes are 0644, 0755
    for executables and directories, less the umask. Times of change are kept, but for those of directories that were
    here before. Raises UsageError when `into` cannot be written to. Sizes, times and how many entries there may be, hence
    the memory for them, were bounded before they come here (meshd/wire/messages.py, meshd/protocol/transfer.py).

    Whoever kills the process while `finish` gives names may leave some entries placed and others not, each of them
    whole; a tree that is new here comes in one step.
    """

    may_block = False

    def __init__(
        self,
        into: Path,
        *,
        overwrite: bool = False,
        admitted: frozenset[str] = frozenset(),
        floor: int = FREE_FLOOR,
        few: int = FEW_ENTRIES,
    ) -> None:
        self._into = into
        self._overwrite = overwrite
        self._admitted = admitted
        self._floor = floor
        self._few = few
        self._root = Staged("", None, EntryKind.DIRECTORY, merges=True)
        self._nodes: list[Staged] = []
        self._offered = 0
        self._refused_directories: set[bytes] = set()
        self._incoming: _Incoming | None = None
        self._parent: _Parent | None = None
        self._into_fd = _open_into(into)
        try:
            staging.sweep(self._into_fd)
            self._staging = staging.Staging(self._into_fd)
        except OSError as error:
            os.close(self._into_fd)
            raise UsageError(f"{into} cannot be written to: {error.strerror}.") from None

    def prepare(self, size: int | None) -> None:
        """Raises RefusedError when `size` bytes cannot fit, before any of them is sent; each entry is asked again."""
        with self._fatal_errors():
            if not self._has_room(size or 0):
                kept = f"{self._floor >> 20} MiB are kept free"
                raise RefusedError(f"There is no space in {self._into} for {size or 0:,} bytes ({kept}).", _ADVICE)

    def begin(self, entry: Entry) -> str | None:
        """Start an entry. Returns None, or why it is refused. Raises RefusedError (no space, a failing disk)."""
        if self._incoming is not None:
            raise LocalProtocolError("begin() before the entry in progress ended")
        self._incoming = _Incoming(self._offered, entry)
        self._offered += 1
        with self._fatal_errors():
            try:
                reason = self._why_not(entry) or self._create(self._incoming)
            except OSError as error:
                if error.errno not in ENTRY_ERRORS:
                    raise
                reason = f"it could not be made here: {error.strerror}"
        return self._refuse(reason) if reason else None

    def write(self, chunk: bytes) -> str | None:
        """More content, of any length. Returns why it is refused when this chunk is the one too much."""
        incoming = self._current()
        if incoming.node is None:
            return None
        written = incoming.written + len(chunk)
        if incoming.entry.size is not None and written > incoming.entry.size:
            return self._refuse("it is longer than was declared")
        with self._fatal_errors():
            if not self._has_room(len(chunk)):
                return self._refuse(self._no_room())
            rest = memoryview(chunk)
            while rest and incoming.fd is not None:
                try:
                    rest = rest[os.write(incoming.fd, rest) :]
                except OSError as error:
                    if error.errno != errno.EFBIG:
                        raise
                    return self._refuse("it is larger than a file may be here")
        incoming.hash.update(chunk)
        incoming.written = written
        return None

    def end(self, digest: bytes) -> str | None:
        """The entry is complete; its size and BLAKE3-256 must be what was declared. Returns why it is refused."""
        incoming = self._current()
        reason = None
        if incoming.node is not None:
            if incoming.entry.size not in (None, incoming.written):
                reason = self._refuse("it is shorter than was declared")
            elif incoming.hash.digest() != digest:
                reason = self._refuse("its content is not what was sent")
            else:
                with self._fatal_errors():
                    self._keep(incoming, incoming.node)
        self._incoming = None
        return reason

    def abandon(self) -> None:
        """The sender could not finish the entry in progress: what came of it is removed."""
        if self._current().node is not None:
            self._refuse("the sender gave it up")
        self._incoming = None

    def finish(self) -> Report:
        """Flush everything, give the final names, remove staging. Raises RefusedError, then nothing new stays."""
        if self._incoming is not None:
            raise LocalProtocolError("finish() before the entry in progress ended")
        self._leave_parent()
        with self._fatal_errors():
            self._set_directory_times()
            self._flush()
            placing = Placing(self._staging.fd, self._into_fd, self._overwrite)
            try:
                placing.place(self._root)
            except BaseException:
                placing.undo()
                raise
        report = self._report()
        self.discard()
        return report

    def discard(self) -> None:
        """Remove staging and all in it. Called any number of times, also after `finish`."""
        if self._incoming is not None and self._incoming.fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._incoming.fd)
        self._incoming = None
        self._leave_parent()
        if self._into_fd >= 0:
            self._staging.remove()
            os.close(self._into_fd)
            self._into_fd = -1

    # One entry.

    def _current(self) -> _Incoming:
        if self._incoming is None:
            raise LocalProtocolError("no entry is in progress")
        return self._incoming

    def _why_not(self, entry: Entry) -> str | None:
        """What the entry alone tells against it, before anything of it touches the disk."""
        try:
            check_entry(entry, self._admitted)
        except UnsafeNameError as error:
            return error.what
        if len(entry.path) == 1 and entry.path[0].casefold().startswith(staging.PREFIX):
            return f"names that begin with {staging.PREFIX} are for what is still arriving"
        if entry.kind is EntryKind.DIRECTORY and entry.size != 0:
            return "it is a directory with a declared size"
        return None

    def _create(self, incoming: _Incoming) -> str | None:
        """Make the entry in staging, unless something of this transfer or of `into` is in its way."""
        entry = incoming.entry
        name, is_directory = entry.path[-1], entry.kind is EntryKind.DIRECTORY
        found = self._find_directory(entry.path[:-1])
        if found is None:
            is_refused = _mark(entry.path[:-1]) in self._refused_directories
            return _PARENT_REFUSED if is_refused else "its directory was not sent before it"
        if collision_key(name) in found.children:
            return "another entry of this transfer has that name, or one that some systems take for it"
        parent = self._enter(found)
        if parent.is_repository and not admits_repository(entry.path, self._admitted):
            return "a repository is here whose hooks run; more is put into it only when HEAD is asked for by name"
        there = nofollow.look(name, parent.final_fd) if parent.final_fd is not None else None
        reason = obstacle(entry.kind, there, self._overwrite)
        if reason:
            return reason
        if not self._has_room(entry.size or 0):
            return self._no_room()
        if is_directory:
            os.mkdir(name, 0o755, dir_fd=parent.staged_fd)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            incoming.fd = os.open(name, flags, 0o755 if entry.executable else 0o644, dir_fd=parent.staged_fd)
        node = Staged(name, found, entry.kind, incoming.index, entry.modified_ns, merges=there is not None)
        found.children[collision_key(name)] = incoming.node = node
        return None

    def _find_directory(self, path: tuple[str, ...]) -> Staged | None:
        node = self._root
        for part in path:
            below = node.children.get(collision_key(part))
            if below is None or below.name != part or below.kind is not EntryKind.DIRECTORY:
                return None
            node = below
        return node

    def _enter(self, node: Staged) -> _Parent:
        """Open the directory `node`; the last one is kept, since its entries come one after the other."""
        if self._parent is not None and self._parent.node is node:
            return self._parent
        self._leave_parent()
        path = node.path()
        staged_fd = nofollow.open_directory(path, self._staging.fd)
        final_fd = None
        try:
            if node.merges:
                with contextlib.suppress(FileNotFoundError):  # removed since: then nothing is in the way
                    final_fd = nofollow.open_directory(path, self._into_fd)
            is_repository = final_fd is not None and _is_bare_repository(final_fd)
        except BaseException:
            os.close(staged_fd)
            if final_fd is not None:
                os.close(final_fd)
            raise
        self._parent = _Parent(node, staged_fd, final_fd, is_repository)
        return self._parent

    def _leave_parent(self) -> None:
        if self._parent is not None:
            self._parent.close()
            self._parent = None

    def _keep(self, incoming: _Incoming, node: Staged) -> None:
        if incoming.fd is not None:
            os.utime(incoming.fd, ns=(node.modified_ns, node.modified_ns))
            if incoming.written >= FLUSH_AT_ONCE:
                sync_file(incoming.fd)
            fd, incoming.fd = incoming.fd, None
            os.close(fd)  # raises what network file systems report only now
        node.written = incoming.written
        self._nodes.append(node)

    def _refuse(self, reason: str) -> str:
        """Refuse the entry in progress and remove what there is of it; `end` or `abandon` still has to come."""
        incoming = self._current()
        entry, node, fd = incoming.entry, incoming.node, incoming.fd
        incoming.node = incoming.fd = None
        if entry.kind is EntryKind.DIRECTORY:
            self._refused_directories.add(_mark(entry.path))
        if fd is not None:
            with contextlib.suppress(OSError):  # a full disk may say so only now; it is no loss
                os.close(fd)
        if node is not None and node.parent is not None:
            del node.parent.children[collision_key(node.name)]
            with self._fatal_errors():
                staged_fd = self._enter(node.parent).staged_fd
                if entry.kind is EntryKind.DIRECTORY:
                    os.rmdir(node.name, dir_fd=staged_fd)
                else:
                    os.unlink(node.name, dir_fd=staged_fd)
        return reason

    # Space and errors.

    def _has_room(self, size: int) -> bool:
        status = os.fstatvfs(self._staging.fd)
        if status.f_blocks == 0:
            return True  # a file system that does not count, as some network ones
        return status.f_bavail * status.f_frsize - size >= self._floor

    def _no_room(self) -> str:
        return f"there is no space for it here ({self._floor >> 20} MiB are kept free)"

    @contextlib.contextmanager
    def _fatal_errors(self) -> Iterator[None]:
        """Turn what the disk says into the error that ends the transfer."""
        try:
            yield
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise RefusedError(f"There is no space left in {self._into}.", _ADVICE) from error
            raise RefusedError(f"{self._into} cannot be written to: {error.strerror or error}.") from error

    # The end.

    def _set_directory_times(self) -> None:
        """Last of all, since each file made in a directory changes its time; children first, for the same reason."""
        for node in reversed(self._nodes):
            if node.kind is EntryKind.DIRECTORY:
                with nofollow.directory(node.path(), self._staging.fd) as fd:
                    os.utime(fd, ns=(node.modified_ns, node.modified_ns))

    def _flush(self) -> None:
        if len(self._nodes) > self._few and can_sync_filesystem():
            sync_filesystem(self._staging.fd)
            return
        for node in self._nodes:
            with nofollow.directory(node.path()[:-1], self._staging.fd) as parent_fd:
                fd = os.open(node.name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=parent_fd)
                try:
                    (sync_directory if node.kind is EntryKind.DIRECTORY else sync_file)(fd)
                finally:
                    os.close(fd)

    def _report(self) -> Report:
        refused = []
        entries = size = 0
        for node in self._nodes:  # a directory comes before what is in it, so that its refusal is known here
            if node.refused is None and node.parent is not None and node.parent.refused is not None:
                node.refused = _PARENT_REFUSED
            if node.refused is not None:
                refused.append(Refusal(node.index, node.path(), node.refused))
                continue
            entries += 1
            size += node.written
        return Report(entries=entries, size=size, refused=refused)


def _open_into(into: Path) -> int:
    """Open the directory that receives, made if need be. The person named it: links in its path are followed."""
    try:
        with contextlib.suppress(FileExistsError):
            into.mkdir()
            parent_fd = os.open(into.absolute().parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                sync_directory(parent_fd)
            finally:
                os.close(parent_fd)
        return os.open(into, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise UsageError(f"{into.parent} does not exist.", "Make it first, or name another directory.") from None
    except OSError as error:
        raise UsageError(f"{into} cannot be written to: {error.strerror}.") from None


def _is_bare_repository(fd: int) -> bool:
    """Whether Git takes this directory for a repository, so that a file put under `hooks` would run."""
    head = nofollow.look("HEAD", fd)
    is_mark = head is not None and not nofollow.is_directory(head)
    return is_mark and all(nofollow.look(name, fd) is not None for name in ("objects", "refs"))


def _mark(path: tuple[str, ...]) -> bytes:
    """Sixteen bytes to remember a refused directory by, in place of a path of up to 4,096."""
    return blake3.blake3("\0".join(path).encode("utf-8", "surrogatepass")).digest(16)
