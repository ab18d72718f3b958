"""The server's key: its only file. Made once, readable by its owner only, and never replaced by the program."""

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import Final

import platformdirs

from meshd.drivers.tls_identity import TlsIdentity
from meshd.errors import RefusedError

FILE: Final = "key.pem"

ENV_STATE_DIRECTORY: Final = "STATE_DIRECTORY"
"""Where systemd says that a service may keep its state: paths with colons between them (systemd.exec(5))."""

SIZE_LIMIT: Final = 10_000
"""Bytes that are read of a key file; a P-256 key has 241."""


def default_path() -> Path:
    """Where the key is unless somebody says otherwise: the service's state directory, else this user's."""
    of_service = os.environ.get(ENV_STATE_DIRECTORY, "").partition(":")[0]
    return Path(of_service or platformdirs.user_state_dir("tether-rendezvous")) / FILE


def load(path: Path) -> TlsIdentity:
    """The identity whose key is in that file. Raises RefusedError when it is missing, broken, or open to others."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise RefusedError(f"{path} is not a file.", "Name another with --key.")
            if mode & 0o077:
                raise RefusedError(
                    f"{path} can be read by other users of this machine.",
                    "Whoever has it can stand in for this server. Delete it to have another made, or keep it. "
                    f"Run: chmod 600 {path}",
                )
            pem = file.read(SIZE_LIMIT)
    except FileNotFoundError as error:
        raise RefusedError(f"There is no key at {path} yet.", "The server makes one when it first starts.") from error
    except OSError as error:
        raise RefusedError(f"The key {path} cannot be read: {error.strerror}.", "Name another with --key.") from error
    try:
        return TlsIdentity.of_key(pem)
    except (ValueError, TypeError) as error:  # TypeError: it is encrypted
        raise RefusedError(
            f"{path} holds no P-256 key that can be read.",
            "It was left as it is. Put a copy back, or move it away: then a new key is made, which clients must be told.",
        ) from error


def load_or_make(path: Path) -> TlsIdentity:
    """The identity of that file, which is made where there is none: all of it or nothing, and durable. Raises RefusedError."""
    if not os.path.lexists(path):
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make(path)
        except OSError as error:
            raise RefusedError(
                f"The key {path} cannot be made: {error.strerror}.", "Name another with --key."
            ) from error
    return load(path)


def _make(path: Path) -> None:
    part = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.write(fd, TlsIdentity.generate().private_key_pem)
            os.fsync(fd)
        finally:
            os.close(fd)
        # A link never takes the place of a file: of two servers that start at once both use the first one's key.
        with contextlib.suppress(FileExistsError):
            os.link(part, path)
    finally:
        part.unlink()
    names = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(names)
    finally:
        os.close(names)
