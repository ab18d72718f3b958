"""From staging to final names: what has arrived and is on the disk takes its place without harming what is there."""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator

import attrs

from meshd.drivers import nofollow
from meshd.drivers.durable import sync_directory
from meshd.drivers.staging import PREFIX
from meshd.model.entry import EntryKind

ENTRY_ERRORS = frozenset(
    (
        errno.EACCES,
        errno.EEXIST,
        errno.EFBIG,
        errno.EILSEQ,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ENOTEMPTY,
        errno.EPERM,
    )
)
"""Errors about one name or file, for which that entry alone is refused; any other ends the transfer."""

# What file systems without hard links say: FAT and exFAT, some network and user space ones.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EACCES, errno.EXDEV)

_APPEARED = "something of that name appeared here meanwhile"


@attrs.define(eq=False)
class Staged:
    """An entry that waits in staging. Its path is its chain of parents: half a million whole paths would be too many.

    `index` is its place in the order of arrival, refused ones counted.
    `children` are by collision key. `merges` tells that a directory of that path stood at the final place when this
    one began. `refused` is the reason once the final place would not take it.
    """

    name: str
    parent: "Staged | None"
    kind: EntryKind
    index: int = -1
    modified_ns: int = 0
    merges: bool = False
    written: int = 0
    refused: str | None = None
    children: "dict[str, Staged]" = attrs.field(factory=dict)

    def path(self) -> tuple[str, ...]:
        """The parts from the top of the tree; () for the root that holds all given paths."""
        return tuple(node.name for node in reversed([*self._line()][:-1]))

    def _line(self) -> "Iterator[Staged]":
        node: Staged | None = self
        while node is not None:
            yield node
            node = node.parent


def obstacle(kind: EntryKind, there: os.stat_result | None, overwrite: bool) -> str | None:
    """Why an entry of `kind` may not take a name where `there` stands (links not followed); None when it may.

    Directories merge. A file replaces a file when `overwrite`; nothing ever replaces anything of another kind.
    """
    if there is None:
        return None
    if stat.S_ISDIR(there.st_mode):
        return None if kind is EntryKind.DIRECTORY else "a directory of that name is already here"
    if stat.S_ISLNK(there.st_mode):
        return "a link of that name is already here, and links are not followed"
    if not stat.S_ISREG(there.st_mode):
        return "something that is no file has that name here"
    if kind is EntryKind.FILE and overwrite:
        return None
    return "a file of that name is already here"


class Placing:
    """One move of a staged tree to its final names, which can be taken back as long as nothing was overwritten.

    A directory that is new at its final place moves as a whole, in one rename; one that is there already stays what it
    is (mode and time too), and its children are placed one by one. Sets `refused` on what found no place.
    """

    def __init__(self, staging_fd: int, into_fd: int, overwrite: bool) -> None:
        self._staging_fd = staging_fd
        self._into_fd = into_fd
        self._overwrite = overwrite
        self._placed: list[Staged] = []

    def place(self, root: Staged) -> None:
        """Move all below `root` and flush the directories touched. Raises OSError, after which call `undo`."""
        self._place_children(root, self._staging_fd, self._into_fd)

    def undo(self) -> None:
        """Take back every new name, for staging to be removed with it. Files that were replaced stay replaced."""
        for number, node in enumerate(self._placed):
            with contextlib.suppress(OSError), nofollow.directory(node.path()[:-1], self._into_fd) as fd:
                _take_back(node, f"{PREFIX}undone-{number}", fd, self._staging_fd)

    def _place_children(self, parent: Staged, staged_fd: int, final_fd: int) -> None:
        for node in parent.children.values():
            try:
                node.refused = self._place(node, staged_fd, final_fd)
            except OSError as error:
                if error.errno not in ENTRY_ERRORS:
                    raise
                node.refused = f"it could not be given its name: {error.strerror}"
        sync_directory(final_fd)

    def _place(self, node: Staged, staged_fd: int, final_fd: int) -> str | None:
        there = nofollow.look(node.name, final_fd)
        reason = obstacle(node.kind, there, self._overwrite)
        if reason:
            return reason
        if node.kind is EntryKind.DIRECTORY and there is not None:
            with (
                nofollow.directory([node.name], staged_fd) as staged,
                nofollow.directory([node.name], final_fd) as final,
            ):
                self._place_children(node, staged, final)
        elif there is not None:
            os.replace(node.name, node.name, src_dir_fd=staged_fd, dst_dir_fd=final_fd)
        else:
            try:
                _move_new(node, staged_fd, final_fd)
            except (FileExistsError, NotADirectoryError):
                return _APPEARED
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
                return _APPEARED
            self._placed.append(node)
        return None


def _take_back(node: Staged, name: str, final_fd: int, staging_fd: int) -> None:
    try:
        os.rename(node.name, name, src_dir_fd=final_fd, dst_dir_fd=staging_fd)
    except OSError:  # a full disk may refuse the new name; to remove takes no space
        if node.kind is EntryKind.DIRECTORY:
            shutil.rmtree(node.name, ignore_errors=True, dir_fd=final_fd)
        else:
            os.unlink(node.name, dir_fd=final_fd)


def _move_new(node: Staged, staged_fd: int, final_fd: int) -> None:
    """Give a name that was free a moment ago, never taking it from something that has come to be there since."""
    if node.kind is EntryKind.DIRECTORY:
        # rename() replaces an empty directory at most.
        os.rename(node.name, node.name, src_dir_fd=staged_fd, dst_dir_fd=final_fd)
        return
    try:
        # rename() of a file would replace; a link never does. The staged name goes when staging is removed.
        os.link(node.name, node.name, src_dir_fd=staged_fd, dst_dir_fd=final_fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Here the moment between look and rename stays open: such file systems offer nothing better.
        if nofollow.look(node.name, final_fd) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        os.rename(node.name, node.name, src_dir_fd=staged_fd, dst_dir_fd=final_fd)
