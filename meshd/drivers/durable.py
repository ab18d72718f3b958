"""Making many small files last: one flush of their file system in place of one each.

The figures are in docs/decisions/0004-durable-trees.md.
"""

import ctypes
import errno
import fcntl
import os
import re
import sys

_SYNCFS_REPORTS_SINCE = (5, 8)
"""Linux version since when syncfs reports a failed write (syncfs(2), VERSIONS); before, it says yes to lost data."""


def _find_syncfs() -> "ctypes._NamedFuncPointer | None":
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if not sys.platform.startswith("linux") or release is None:
        return None
    if (int(release[1]), int(release[2])) < _SYNCFS_REPORTS_SINCE:
        return None
    return getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)


_syncfs = _find_syncfs()


def can_sync_filesystem() -> bool:
    """Whether `sync_filesystem` works here; elsewhere each file needs its own fsync."""
    return _syncfs is not None


def sync_filesystem(fd: int) -> None:
    """Flush the file system that `fd` is on. Raises OSError when a write since `fd` was opened was lost."""
    if _syncfs is None:
        raise OSError(errno.ENOSYS, "this system has no syncfs that reports failures")
    if _syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def sync_file(fd: int) -> None:
    """Flush one file or directory through to the medium. Raises OSError when something of it was lost."""
    full_sync = getattr(fcntl, "F_FULLFSYNC", None)  # on macOS, fsync leaves data in the drive's cache
    if full_sync is None:
        os.fsync(fd)
        return
    try:
        fcntl.fcntl(fd, full_sync)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
            raise
        os.fsync(fd)


def sync_directory(fd: int) -> None:
    """Flush the names in a directory. Raises OSError when some were lost.

    Some file systems cannot flush a directory and say EINVAL (VirtualBox's shared folders): nothing can be done there.
    """
    try:
        sync_file(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
