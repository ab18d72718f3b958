"""Opening a mesh's database: what is set on every connection, the numbered schema, and errors in plain words.

SQLite by apsw, which brings its own: versions up to 3.51.2 can lose a write-ahead log (docs/protocol/storage.md).
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import apsw

from meshd.errors import StoreError

APPLICATION_ID: Final = 0x7465_7468
"""`teth` in the file's header, so that another program's database is never taken for ours."""

SQLITE_FLOOR: Final = (3, 51, 3)
"""First SQLite without the fault that resets a write-ahead log wrongly and corrupts the file."""

BUSY_MS: Final = 5_000
"""Milliseconds to wait for a lock. Only our own connections can hold one: the state directory has one daemon."""

CACHE_KIB: Final = 8 * 1024
"""Page cache of one connection. With the readers', a small part of what a daemon may take."""

WAL_LIMIT: Final = 64 << 20
"""Bytes that the write-ahead log keeps on disk once it is empty: a burst must not occupy its size for ever."""

_SCHEMA: Final = Path(__file__).parent / "schema"


def open_connection(path: Path, *, read_only: bool = False) -> apsw.Connection:
    """A connection with everything set. One that writes makes the file (mode 0600) and brings its schema up to date.

    Raises StoreError: no access, no space, another program's file, a newer schema, damage.
    """
    if _number(SQLITE_FLOOR) > apsw.SQLITE_VERSION_NUMBER:
        raise StoreError(
            f"This apsw brings SQLite {apsw.sqlite_lib_version()}, which can damage its files.", "Install a newer apsw."
        )
    with explained(path):
        if read_only:
            connection = apsw.Connection(os.fspath(path), flags=apsw.SQLITE_OPEN_READONLY)
        else:
            make_private(path)
            connection = apsw.Connection(os.fspath(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            _configure(connection, path, read_only=read_only)
        except BaseException:
            connection.close()
            raise
    return connection


def schema_files() -> list[Path]:
    """The schema's steps in order; the first has number 1 and none is left out."""
    found = sorted(_SCHEMA.glob("[0-9]*.sql"))
    assert [int(path.name[:4]) for path in found] == list(range(1, len(found) + 1))
    return found


@contextlib.contextmanager
def explained(path: Path | str) -> Iterator[None]:
    """Raise what a disk does to SQLite, or to us, as StoreError with what a person can do. `path` is the database."""
    try:
        yield
    except apsw.FullError as error:
        raise StoreError(
            f"No space is left on the disk of {path}.", "Free some; nothing that was acknowledged is lost."
        ) from error
    except (apsw.ReadOnlyError, apsw.CantOpenError, apsw.PermissionsError) as error:
        raise StoreError(
            f"{path} cannot be written: {error}.", "Is the disk mounted read-only, or the directory another user's?"
        ) from error
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise damaged(path, str(error)) from error
    except (apsw.BusyError, apsw.LockedError) as error:
        raise StoreError(f"Another program holds {path}.", "Only meshd may open it; end the other one.") from error
    except apsw.IOError as error:
        raise StoreError(f"The disk of {path} failed: {error}.", "Look at the system's log for disk errors.") from error


def make_private(path: Path, *flags: int) -> None:
    """Make the file with mode 0600, unless it exists: SQLite gives its log and index files the mode of the database.

    `flags` are more of open(2)'s. Raises StoreError.
    """
    wanted = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | sum(flags)
    try:
        os.close(os.open(path, wanted, 0o600))
    except OSError as error:
        raise StoreError(
            f"{path} cannot be opened for writing: {error.strerror}.",
            "Is the disk mounted read-only or full, or the directory another user's?",
        ) from error


def damaged(path: Path | str, how: str) -> StoreError:
    """The error for a database that does not hold together."""
    said = " ".join(how.replace("*** in database main ***", "").split())  # SQLite's report has lines; an error is one
    return StoreError(
        f"{path} is damaged: {said}.", "Set it aside and restore a backup; the other members have the rest."
    )


def _configure(connection: apsw.Connection, path: Path, *, read_only: bool) -> None:
    connection.set_busy_timeout(BUSY_MS)
    for name, value in (
        ("trusted_schema", 0),  # a prepared file runs no functions of its own
        ("cell_size_check", 1),  # damage is found when a page is read, before it is built upon
        ("mmap_size", 0),  # with a mapped file an I/O error is a signal that ends the daemon
        ("cache_size", -CACHE_KIB),
    ):
        connection.pragma(name, value)
    # Else a statement whose plan might depend on a value is compiled anew for each value: that takes longer than running it.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    if read_only:
        return
    found, application = connection.pragma("user_version"), connection.pragma("application_id")
    steps = schema_files()
    if application not in (0, APPLICATION_ID) or (application == 0 and _is_used(connection)):
        raise StoreError(f"{path} is a database of another program.", "Choose another state directory.")
    if found > len(steps):
        raise StoreError(
            f"{path} was written by a newer meshd (schema {found}; this one knows {len(steps)}).",
            "Update Tether on this machine. Nothing was changed.",
        )
    if connection.pragma("journal_mode", "wal") != "wal":
        raise StoreError(f"The file system of {path} allows no write-ahead log.", "Use a local disk.")
    # FULL: the log is flushed before a commit returns. NORMAL would lose acknowledged writes with the power.
    connection.pragma("synchronous", "full")
    connection.pragma("fullfsync", 1)  # macOS: fsync alone leaves data in the drive's cache
    connection.pragma("checkpoint_fullfsync", 1)
    connection.pragma("journal_size_limit", WAL_LIMIT)
    connection.pragma("foreign_keys", 1)
    if found and (trouble := connection.pragma("quick_check", 1)) != "ok":
        raise damaged(path, str(trouble))
    for number, step in enumerate(steps[found:], found + 1):
        # Each step is one transaction with its number: a crash leaves the step before, whole.
        connection.execute(
            f"BEGIN IMMEDIATE; {step.read_text(encoding='utf-8')}; PRAGMA application_id = {APPLICATION_ID};"
            f" PRAGMA user_version = {number}; COMMIT"
        )


def _is_used(connection: apsw.Connection) -> bool:
    return next(connection.execute("SELECT 1 FROM sqlite_schema"), None) is not None


def _number(version: tuple[int, int, int]) -> int:
    major, minor, patch = version
    return major * 1_000_000 + minor * 1_000 + patch
