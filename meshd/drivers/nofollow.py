"""Files and directories reached one component at a time, so that no link on the way is ever followed.

A path given to the kernel as one string follows every link in its middle, whatever flags stand at its end.
"""

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def open_directory(parts: Iterable[str], dir_fd: int) -> int:
    """Open the directory `parts` below `dir_fd`; the caller closes it. Raises OSError (ELOOP, ENOTDIR for a link)."""
    fd = os.dup(dir_fd)
    try:
        for part in parts:
            below = os.open(part, DIRECTORY_FLAGS, dir_fd=fd)
            os.close(fd)
            fd = below
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextlib.contextmanager
def directory(parts: Iterable[str], dir_fd: int) -> Iterator[int]:
    """The directory `parts` below `dir_fd`, closed afterwards. Raises as `open_directory` does."""
    fd = open_directory(parts, dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def look(name: str, dir_fd: int) -> os.stat_result | None:
    """What stands under `name` in a directory, links not followed; None for nothing. Raises other OSErrors."""
    try:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def is_directory(status: os.stat_result) -> bool:
    """Whether a status not followed through a link is that of a directory."""
    return stat.S_ISDIR(status.st_mode)
