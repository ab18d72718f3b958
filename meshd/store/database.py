"""One mesh's database: all tables behind one connection, and the commit that many writes share.

Synchronous and for one thread at a time. drivers/storage.py keeps it off the event loop and is the way in; the rules of
durability are docs/protocol/storage.md.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar

import apsw
import attrs

from meshd.errors import StoreError
from meshd.store.blobs import Blobs
from meshd.store.connection import explained, make_private, open_connection
from meshd.store.deliveries import Deliveries
from meshd.store.mail import Mail
from meshd.store.meta import Meta
from meshd.store.peers import Peers
from meshd.store.records import Records
from meshd.store.views import Handles, digest_rows

T = TypeVar("T")


@attrs.frozen
class Done(Generic[T]):
    """What became of one job of a commit: its result, or the error that it raised and that undid it alone."""

    value: T | None
    error: Exception | None


class Database:
    """Opened, checked and at this program's schema. Raises StoreError for what is wrong with the file or its disk."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """`read_only`: for one more connection beside the one that writes, in the same process."""
        self.path = path
        self._connection = open_connection(path, read_only=read_only)
        self.records = Records(self._connection)
        self.handles = Handles(self._connection)
        self.blobs = Blobs(self._connection)
        self.mail = Mail(self._connection)
        self.peers = Peers(self._connection)
        self.deliveries = Deliveries(self._connection)
        self.meta = Meta(self._connection)

    def commit(self, jobs: "Sequence[Callable[[Database], T]]") -> list[Done[T]]:
        """Run jobs in order in one transaction, each undone alone when it raises; return once all of it is durable.

        A job sees what the jobs before it wrote. Raises StoreError when the transaction cannot be made durable: then
        nothing of any job is.
        """
        done: list[Done[T]] = []
        with explained(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                for job in jobs:
                    done.append(self._run(job))
                    if not self._connection.in_transaction:  # SQLite itself gave up: disk full, or failing
                        raise _undone(done[-1].error)
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
        return done

    def look(self, job: "Callable[[Database], T]") -> T:
        """Run a job that only reads, on one state of the database. Raises what it raises, and StoreError."""
        with explained(self.path):
            self._connection.execute("BEGIN")
            try:
                return job(self)
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def digests(self) -> dict[str, bytes]:
        """One BLAKE3 a view, over its rows in order: what is said, not by which records or when. Equal on all machines
        that fold the same statements. Reads every view whole."""
        return {name: digest_rows(rows) for name, rows in (self.handles.contents() | self.mail.contents()).items()}

    def copy_to(self, path: Path) -> None:
        """Write one consistent state to a new file of mode 0600, while others write on. Nothing of it is flushed.

        Raises StoreError, also for a file that exists.
        """
        make_private(path, os.O_EXCL)
        with explained(path):
            self._connection.execute("VACUUM INTO ?", (str(path),))

    def close(self) -> None:
        """Close the file. The last to close folds the log into it; without that the next start does."""
        self._connection.close()

    def __enter__(self) -> "Database":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, job: "Callable[[Database], T]") -> Done[T]:
        savepoint = _Savepoint(self._connection)
        value: T | None = None
        with savepoint, explained(self.path):
            value = job(self)
        return Done(None if savepoint.error else value, savepoint.error)


class _Savepoint:
    """Undoes one job whose error goes to whoever asked for it, so that those who share its commit lose nothing."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.error: Exception | None = None

    def __enter__(self) -> None:
        self._connection.execute("SAVEPOINT job")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if error is not None and self._connection.in_transaction:
            self._connection.execute("ROLLBACK TO job")
        if self._connection.in_transaction:
            self._connection.execute("RELEASE job")
        if isinstance(error, Exception):
            self.error = error
        return self.error is not None


def _undone(error: Exception | None) -> StoreError:
    """Why a whole transaction is gone, for those whose own job was not at fault."""
    if isinstance(error, StoreError):
        return error
    return StoreError("The database undid a commit.", "Look at the system's log for disk errors.")
