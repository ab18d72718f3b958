"""Reaching the control socket, and knowing who is at its other end.

Only processes of one user speak to each other here, and each end asks the kernel, not the other end, who that is: a
server of somebody else's would be told every secret that a client has, and a client of somebody else's could ask for all.
"""

import contextlib
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from meshd.errors import NobodyFoundError, RefusedError, TetherError

SOCKET_NAME: Final = "control.sock"

PATH_LIMIT: Final = 103
"""Bytes of a socket's path that every system takes: sun_path has 108 on Linux and 104 on macOS and BSD, with a zero."""

_DESCRIPTORS: Final = "/proc/self/fd"
_UCRED = struct.Struct("3i")  # unix(7): pid, uid, gid
_XUCRED = struct.Struct("2I")  # the start of struct xucred in sys/ucred.h of macOS and BSD: version, uid
_XUCRED_SIZE: Final = 76
_LOCAL_PEERCRED: Final = 1


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """`path` in a form that fits a socket address, valid inside the block. Raises RefusedError where there is none, OSError."""
    if len(os.fsencode(path)) <= PATH_LIMIT:
        yield str(path)
        return
    if not Path(_DESCRIPTORS).is_dir():
        raise RefusedError(
            f"The path {path} is longer than the {PATH_LIMIT} bytes that a socket's may have.",
            "Choose a state directory with a shorter path.",
        )
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"{_DESCRIPTORS}/{directory}/{path.name}"
    finally:
        os.close(directory)


class Connected(Protocol):
    """A connected socket, Python's or trio's."""

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...


def peer_uid(connected: Connected) -> int:
    """The user at the other end of a Unix socket, when it connected or began to listen."""
    if sys.platform == "linux":
        credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        uid: int = _UCRED.unpack(credentials)[1]
    else:
        credentials = connected.getsockopt(0, _LOCAL_PEERCRED, _XUCRED_SIZE)
        uid = _XUCRED.unpack_from(credentials)[1]
    return uid


def check_daemon(connected: Connected, path: Path) -> None:
    """Raise RefusedError unless the other end runs as this user."""
    uid = peer_uid(connected)
    if uid != os.geteuid():
        raise RefusedError(
            f"{path} is served by another user (uid {uid}): nothing was told to it.",
            "Run this command as that user, or choose your own state directory with --state.",
        )


def unreachable(error: OSError, path: Path) -> TetherError:
    """What a failure to connect means."""
    if isinstance(error, PermissionError):
        return RefusedError(
            f"The socket {path} belongs to another user.", "Run this command as that user, or choose another --state."
        )
    if isinstance(error, FileNotFoundError | ConnectionRefusedError | NotADirectoryError):
        return NobodyFoundError(
            f"No daemon runs on {path.parent}.",
            "Start one for good with `tether service install`, or now with `meshd &`.",
        )
    return NobodyFoundError(f"The daemon on {path.parent} cannot be reached: {error.strerror or error}.")
