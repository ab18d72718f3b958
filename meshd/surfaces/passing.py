"""Files between a command and the daemon: paths are named to it, and a pipe goes through the state directory.

The daemon reads and writes the files itself, as the same user, so that content crosses no socket. Only a pipe has no
name: what comes in on standard input is laid down in `incoming`, and what goes to standard output picked up in `outgoing`.
Both are inside the state directory, which nobody else can enter, and emptied when the daemon starts.
"""

import contextlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from meshd.errors import RefusedError, StoreError, UsageError

PIPE: Final = "-"


def absolute(path: str) -> str:
    """The path as the daemon, whose working directory is another, can find it."""
    if not path:  # of an unset variable; pathlib would take the working directory for it
        raise UsageError("An empty path was given.", "For the directory that you are in, give a dot.")
    found = str(Path(path).absolute())
    try:
        found.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"The path {path!r} is not valid text.", "Rename it, or give the directory above it."
        ) from None
    return found


def attached(text: str) -> str:
    """A handle as it is; anything else as a path."""
    return text if text.startswith(("h&l_", "hl_")) else absolute(text)


def text_of_stdin(limit: int) -> str:
    """All of standard input, as UTF-8 text of at most `limit` bytes."""
    data = sys.stdin.buffer.read(limit + 1)
    if len(data) > limit:
        raise UsageError(
            f"Standard input has more than the {limit:,} bytes of a message.", "Attach it as a file: --attach FILE."
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError("Standard input is not UTF-8 text.", "Attach it as a file: --attach FILE.") from None


@contextlib.contextmanager
def laid_down(state: Path) -> Iterator[str]:
    """A file with all of standard input, gone at the end of the block."""
    path = incoming(state)
    try:
        lay_down(path, sys.stdin.buffer, "Standard input")
        yield str(path)
    finally:
        path.unlink(missing_ok=True)


def incoming(state: Path) -> Path:
    """A new name for what the daemon is to read."""
    return state / "incoming" / secrets.token_hex(16)


def outgoing(state: Path) -> Path:
    """A new name for what the daemon is to write."""
    return state / "outgoing" / secrets.token_hex(16)


def lay_down(path: Path, source: BinaryIO, what: str) -> None:
    """Write all of `source` to a new file. Raises StoreError, which calls it `what`."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
    except OSError as error:
        raise StoreError(f"{what} cannot be kept in {path.parent}: {error.strerror}.") from error


def pick_up(path: Path, most: int) -> bytes:
    """What the daemon wrote, of at most so many bytes; the file is gone then. Raises RefusedError."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise RefusedError(f"What the daemon wrote to {path} cannot be read: {error.strerror}.") from error
    finally:
        path.unlink(missing_ok=True)
    if len(data) > most:
        raise RefusedError(
            f"This is longer than the {most:,} bytes that are given here.", "Take it as a file, with `tether`."
        )
    return data


@contextlib.contextmanager
def picked_up(state: Path) -> Iterator[str]:
    """A name for the daemon to write to; at the end of the block the file goes to standard output, and away."""
    path = outgoing(state)
    try:
        yield str(path)
        if path.is_dir():
            raise UsageError("This is a directory, and standard output takes one file.", "Give a directory with -o.")
        to_stdout(path)
    finally:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def to_stdout(path: Path) -> None:
    """Write a file to standard output."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise RefusedError(f"What the daemon wrote to {path} cannot be read: {error.strerror}.") from error
    with file:
        shutil.copyfileobj(file, sys.stdout.buffer, 1 << 20)
    sys.stdout.buffer.flush()
