"""Files and directory trees read from this disk, entry by entry, in the order in which they are sent.

The walk happens once, before anything is sent, and keeps names only: some 80 bytes an entry. Files are opened when
their turn comes, one component at a time without following links, so that a link put in the place of a file or of a
directory after the walk leads nowhere.
"""

import array
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import attrs
import blake3

from meshd.drivers import nofollow
from meshd.drivers.payload import MAX_PIECES, Began, Content, Ended, Failed, Piece, Skipped, Survey
from meshd.drivers.staging import NAME
from meshd.errors import RefusedError, UsageError
from meshd.model.entry import MAX_ENTRIES, Entry, EntryKind, UnsafeNameError, check_lengths
from meshd.wire.constants import CHUNK_SIZE

_CHANGED = "it changed while it was read"
_REPLACED = "it was replaced after it was listed"
_DIGEST_OF_NOTHING = blake3.blake3(b"").digest()

# Without O_NONBLOCK a fifo put in the place of a file would hold the thread for ever.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


@attrs.frozen
class _Root:
    """A path as the person gave it, the name it is sent under, and which file it was at the walk (device, inode)."""

    given: Path
    name: str
    identity: tuple[int, int]


class _Listing:
    """Names in sending order, parents before children; columns, because a list of objects is five times the size."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.parents = array.array("i")  # -1 for a given path
        self.is_directory = bytearray()

    def __len__(self) -> int:
        return len(self.names)

    def add(self, name: str, parent: int, is_directory: bool) -> int:
        self.names.append(name)
        self.parents.append(parent)
        self.is_directory.append(is_directory)
        return len(self.names) - 1

    def path(self, index: int) -> tuple[str, ...]:
        parts = []
        while index >= 0:
            parts.append(self.names[index])
            index = self.parents[index]
        return tuple(reversed(parts))


class TreeSource:
    """A Source of the files and directories that `paths` name. Call `scan` first, then `pieces` until it gives [].

    A given path is sent under its last component, `.` and `..` under the name of the directory they stand for. A given
    path that is a link is followed, as the person named it; a link inside a directory never is. A directory comes
    before its files, and those before its directories, each in the order of their names. A file that is written to
    while it is read ends with Failed; what cannot be opened is a Began of size 0 and a Failed, so that both sides hear
    of it, and is named by `scan` already.
    """

    may_block = False

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._roots: dict[str, _Root] = {}
        self._listing = _Listing()
        self._skipped: list[Skipped] = []
        self._unreadable: list[Skipped] = []
        self._size = 0
        self._next = 0
        self._refused: set[tuple[str, ...]] = set()
        self._reading: _Reading | None = None
        self._parent: tuple[tuple[str, ...], int] | None = None

    def scan(self) -> Survey:
        """Walk all paths; called once. Raises UsageError (missing, unreadable, `/`, two of one name), RefusedError."""
        for given in self._paths:
            self._add_root(given)
        return Survey(len(self._listing), self._size, self._skipped, self._unreadable)

    def pieces(self, budget: int) -> list[Piece]:
        """The next pieces, with about `budget` bytes of content, at most MAX_PIECES; [] at the end."""
        found: list[Piece] = []
        while len(found) < MAX_PIECES - 1 and (budget > 0 or not found):
            if self._reading is None:
                if not self._start_next(found):
                    break
                continue
            piece = self._reading.next_piece(max(1, min(CHUNK_SIZE, budget)))
            found.append(piece)
            if isinstance(piece, Content):
                budget -= len(piece.data)
            else:
                self._stop_reading()
        return found

    def skip(self, path: tuple[str, ...]) -> None:
        """Read no more of `path`, nor, if it is a directory, of anything under it."""
        if self._reading is not None and self._reading.path == path:
            self._stop_reading()
        self._refused.add(path)

    def close(self) -> None:
        """Close what is open."""
        self._stop_reading()
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None

    # The walk.

    def _add_root(self, given: Path) -> None:
        try:
            status = given.stat()
            # A path that ends in `..` or is `.` has no name of its own.
            name = given.name if given.name not in ("", "..") else given.resolve().name
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            raise UsageError(f"{given} does not exist." if missing else f"{given}: {error.strerror}.") from None
        if not name:
            raise UsageError(f"{given} has no name to be sent under.", "Name the directories in it instead.")
        if name in self._roots:
            raise UsageError(
                f"{self._roots[name].given} and {given} would both be sent as {name}.", "Send one of them."
            )
        reason = _why_not_sent(status, (name,))
        if reason:
            raise UsageError(f"{given} cannot be sent: {reason}.")
        if not os.access(given, os.R_OK):
            raise UsageError(f"{given} cannot be read: permission denied.")
        self._roots[name] = _Root(given, name, (status.st_dev, status.st_ino))
        if not nofollow.is_directory(status):
            self._list(name, -1, status)
            return
        try:
            root_fd = os.open(given, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise UsageError(f"{given} cannot be read: {error.strerror}.") from None
        try:
            self._walk(root_fd, given, name)
        finally:
            os.close(root_fd)

    def _walk(self, root_fd: int, given: Path, name: str) -> None:
        """List a given directory and all below it. A stack of its own: a tree may be deeper than Python's."""
        todo = [(-1, name)]
        while todo:
            parent, name = todo.pop()
            path = (*self._listing.path(parent), name)
            shown = given.joinpath(*path[1:])
            try:
                with nofollow.directory(path[1:], root_fd) as fd:
                    children = sorted(os.listdir(fd))  # noqa: PTH208 (no path leads here, only the descriptor)
                    index = self._list(name, parent, os.fstat(fd))
                    below = [child for child in children if self._visit(fd, child, index, path, shown / child)]
            except OSError as error:
                self._note(self._unreadable, shown, error.strerror or str(error))
                self._listing.add(name, parent, is_directory=True)
            else:
                todo.extend((index, child) for child in reversed(below))

    def _visit(self, fd: int, name: str, parent: int, parent_path: tuple[str, ...], shown: Path) -> bool:
        """List a file, or note why it is not sent. Returns whether it is a directory to walk."""
        try:
            status = nofollow.look(name, fd)
        except OSError as error:
            self._note(self._unreadable, shown, error.strerror or str(error))
            self._listing.add(name, parent, is_directory=False)
            return False
        if status is None:
            return False  # removed since the directory was listed, as if the walk had come later
        reason = _why_not_sent(status, (*parent_path, name))
        if reason:
            self._note(self._skipped, shown, reason)
        elif nofollow.is_directory(status):
            return True
        elif not os.access(name, os.R_OK, dir_fd=fd, effective_ids=os.access in os.supports_effective_ids):
            self._note(self._unreadable, shown, os.strerror(errno.EACCES))
            self._list(name, parent, status)
        else:
            self._list(name, parent, status)
        return False

    def _list(self, name: str, parent: int, status: os.stat_result) -> int:
        self._check_room()
        is_directory = nofollow.is_directory(status)
        if not is_directory:
            self._size += status.st_size
        return self._listing.add(name, parent, is_directory)

    def _note(self, where: list[Skipped], path: Path, reason: str) -> None:
        self._check_room()
        where.append(Skipped(path, reason))

    def _check_room(self) -> None:
        if len(self._listing) + len(self._skipped) + len(self._unreadable) >= MAX_ENTRIES:
            raise RefusedError(
                f"There are more than {MAX_ENTRIES:,} files and directories to send, which is the limit.",
                "Pack them into one file (tar), or send parts of the tree.",
            )

    # Reading.

    def _start_next(self, found: list[Piece]) -> bool:
        """Begin the next entry that nobody refused, with its Began (and all of a directory). False at the end."""
        while self._next < len(self._listing):
            index = self._next
            self._next += 1
            path = self._listing.path(index)
            if path[:-1] in self._refused:
                self._refused.add(path)
            if path in self._refused:
                continue
            kind = EntryKind.DIRECTORY if self._listing.is_directory[index] else EntryKind.FILE
            try:
                fd = self._open(path, kind)
            except OSError as error:
                found.append(Began(Entry(path, kind, 0, False, 0)))
                found.append(Failed(_why_not_opened(error)))
                return True
            self._reading = _Reading(path, kind, fd)
            found.append(Began(self._reading.entry))
            return True
        self.close()
        return False

    def _open(self, path: tuple[str, ...], kind: EntryKind) -> int:
        """Open an entry to read. Raises OSError; ESTALE when it is no longer what was listed."""
        flags = _FILE_FLAGS if kind is EntryKind.FILE else nofollow.DIRECTORY_FLAGS
        root = self._roots[path[0]]
        if len(path) == 1:
            fd = os.open(root.given, flags & ~os.O_NOFOLLOW)
        else:
            fd = os.open(path[-1], flags, dir_fd=self._parent_fd(path[:-1]))
        status = os.fstat(fd)
        is_kind = stat.S_ISREG(status.st_mode) if kind is EntryKind.FILE else stat.S_ISDIR(status.st_mode)
        if not is_kind or (len(path) == 1 and (status.st_dev, status.st_ino) != root.identity):
            os.close(fd)
            raise OSError(errno.ESTALE, _REPLACED)
        return fd

    def _parent_fd(self, path: tuple[str, ...]) -> int:
        """The open directory `path`; the last one is kept, since its files come one after the other."""
        if self._parent is None or self._parent[0] != path:
            root_fd = self._open(path[:1], EntryKind.DIRECTORY)
            try:
                fd = nofollow.open_directory(path[1:], root_fd)
            finally:
                os.close(root_fd)
            if self._parent is not None:
                os.close(self._parent[1])
            self._parent = (path, fd)
        return self._parent[1]

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.close()
            self._reading = None


class _Reading:
    """The entry in progress: an open file or directory, and how far it has been read."""

    def __init__(self, path: tuple[str, ...], kind: EntryKind, fd: int) -> None:
        status = os.fstat(fd)
        is_file = kind is EntryKind.FILE
        self.path = path
        self.size = status.st_size if is_file else 0
        self.entry = Entry(path, kind, self.size, is_file and bool(status.st_mode & 0o111), status.st_mtime_ns)
        self._fd = fd
        self._left = self.size
        self._hash = blake3.blake3()

    def next_piece(self, limit: int) -> Piece:
        """Up to `limit` bytes of content, or the end. After Ended or Failed it is over."""
        if self.entry.kind is EntryKind.DIRECTORY:
            return Ended(_DIGEST_OF_NOTHING)
        try:
            # One byte past the end tells a file that grew, or one whose size says nothing (procfs).
            data = os.read(self._fd, min(limit, self._left) or 1)
            if len(data) > self._left:
                return Failed(_CHANGED)
            if data:
                self._left -= len(data)
                self._hash.update(data)
                return Content(data)
            status = os.fstat(self._fd)
        except OSError as error:
            return Failed(f"it could not be read: {error.strerror}")
        unchanged = (status.st_size, status.st_mtime_ns) == (self.size, self.entry.modified_ns)
        return Ended(self._hash.digest()) if unchanged and not self._left else Failed(_CHANGED)

    def close(self) -> None:
        os.close(self._fd)


def _why_not_sent(status: os.stat_result, path: tuple[str, ...]) -> str | None:
    """Why something found on the disk has no place in a tree on the wire; None when it has."""
    for test, reason in (
        (stat.S_ISLNK, "it is a symbolic link"),
        (stat.S_ISFIFO, "it is a fifo"),
        (stat.S_ISSOCK, "it is a socket"),
        (stat.S_ISCHR, "it is a device"),
        (stat.S_ISBLK, "it is a device"),
    ):
        if test(status.st_mode):
            return reason
    if NAME.fullmatch(path[-1]) and stat.S_ISDIR(status.st_mode):
        return "it is what another transfer is receiving"
    try:
        path[-1].encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    try:
        check_lengths(path)
    except UnsafeNameError as error:
        return error.what
    return None


def _why_not_opened(error: OSError) -> str:
    # ELOOP and ENOTDIR are what O_NOFOLLOW and O_DIRECTORY say of a link; ENXIO is what a socket says.
    if error.errno in (errno.ESTALE, errno.ELOOP, errno.ENOTDIR, errno.EMLINK, errno.ENXIO):
        return _REPLACED
    if error.errno == errno.ENOENT:
        return "it was removed after it was listed"
    return f"it could not be opened: {error.strerror}"
