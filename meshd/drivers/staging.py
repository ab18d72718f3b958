"""A private directory beside the final names, where a tree waits until all of it has arrived.

It is inside the directory that receives, hence on its file system, so that giving a final name is a rename. A lock
(flock) on it says that its maker lives: a process that was killed leaves its directory without a lock, and the next
one to receive there removes it.
"""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil

from meshd.drivers import nofollow

PREFIX = ".tether-"
"""What our names begin with in a directory that receives; no entry may claim one at the top of its tree."""

NAME = re.compile(r"\.tether-[0-9a-f]{16}\.part")
_ATTEMPTS = 8


class Staging:
    """A new staging directory in `into_fd`, mode 0700 and locked. Raises OSError when it cannot be made."""

    def __init__(self, into_fd: int) -> None:
        self._into_fd = into_fd
        for _ in range(_ATTEMPTS):
            self.name = f"{PREFIX}{secrets.token_hex(8)}.part"
            os.mkdir(self.name, 0o700, dir_fd=into_fd)
            try:
                self.fd = os.open(self.name, nofollow.DIRECTORY_FLAGS, dir_fd=into_fd)
            except FileNotFoundError:
                continue  # another process took it for abandoned before we could lock it
            if self._is_ours():
                return
            os.close(self.fd)
        raise OSError(errno.EBUSY, "other processes keep removing the staging directory")

    def remove(self) -> None:
        """Delete it and all in it, then release the lock. Never raises: what resists is left to a later sweep."""
        if self.fd >= 0:
            shutil.rmtree(self.name, ignore_errors=True, dir_fd=self._into_fd)
            os.close(self.fd)
            self.fd = -1

    def _is_ours(self) -> bool:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # no locks on this file system: a sweep gets none either, and leaves the directory alone
        there = nofollow.look(self.name, self._into_fd)
        return there is not None and os.path.samestat(there, os.fstat(self.fd))


def sweep(into_fd: int) -> None:
    """Remove the staging directories of this user in `into_fd` that no living process has locked."""
    for name in os.listdir(into_fd):
        if NAME.fullmatch(name):
            with contextlib.suppress(OSError):
                _remove_if_abandoned(name, into_fd)


def _remove_if_abandoned(name: str, into_fd: int) -> None:
    fd = os.open(name, nofollow.DIRECTORY_FLAGS, dir_fd=into_fd)
    try:
        if os.fstat(fd).st_uid == os.geteuid():
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(name, ignore_errors=True, dir_fd=into_fd)
    finally:
        os.close(fd)
