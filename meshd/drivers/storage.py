"""The way to a mesh's database from the event loop: one writer in a thread, commits shared by who comes together.

A flush to disk takes a millisecond or more whatever it covers. So writes that wait at the same time share one
transaction and one flush: ten thousand of them take seconds, not minutes. docs/protocol/storage.md.
"""

import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final, TypeVar, cast

import attrs
import trio

from meshd.drivers.threads import Offload, in_thread
from meshd.errors import StoreError
from meshd.store.database import Database, Done

T = TypeVar("T")

WAITING_LIMIT: Final = 1024
"""Writes that may wait; more wait to be let in. Each holds its records in memory until they are on disk."""

TOGETHER_LIMIT: Final = 256
"""Writes that share one commit: enough to make the flush cheap, few enough that the first need not wait long."""

READERS: Final = 2
"""Connections that read: a long listing does not keep a short question waiting."""


@attrs.define(eq=False)
class _Asked:
    """A write on its way. Once `taken` it is carried to its end, whatever becomes of who asked."""

    job: Callable[[Database], object]
    taken: bool = False
    outcome: Done[object] | None = None


class Storage:
    """One mesh's database; made by `open_storage`."""

    def __init__(self, writer: Database, offload: Offload) -> None:
        self._writer = writer
        self._offload = offload
        self._room = trio.Semaphore(WAITING_LIMIT)
        self._asked: deque[_Asked] = deque()
        self._writing = trio.Lock()
        self._readers: list[Database] = []
        self._reading = trio.Semaphore(READERS)
        self._closed = False

    @property
    def path(self) -> Path:
        """The database's file."""
        return self._writer.path

    async def write(self, job: Callable[[Database], T]) -> T:
        """Run `job` in the writer's thread and return its result once what it wrote is durable.

        What `job` raises is raised here, and undoes only what `job` did. Raises StoreError when the disk fails the
        commit: then nothing of it is there. Cancelled means the same; a job that has begun is waited for.
        """
        asked = _Asked(job)
        async with self._room:
            self._asked.append(asked)
            try:
                # Who gets the lock commits for all who wait for it; they then find their outcome and pass it on.
                await self._writing.acquire()
            except trio.Cancelled:
                if not asked.taken:
                    self._asked.remove(asked)
                    raise
                # It is being written. Trio cancels the caller at its next wait; first it must know how this ended.
                with trio.CancelScope(shield=True):
                    await self._writing.acquire()
            try:
                if asked.outcome is None:
                    await self._commit_waiting()
            finally:
                self._writing.release()
        assert asked.outcome is not None
        if asked.outcome.error is not None:
            raise asked.outcome.error
        return cast(T, asked.outcome.value)

    async def read(self, job: Callable[[Database], T]) -> T:
        """Run `job`, which only reads, on one state of the database; it sees every write that was acknowledged."""
        async with self._reading:
            self._refuse_when_closed()
            path = self.path
            reader = (
                self._readers.pop() if self._readers else await self._offload(lambda: Database(path, read_only=True))
            )
            try:
                return await self._offload(lambda: reader.look(job))
            finally:
                self._readers.append(reader)

    async def copy_to(self, path: Path) -> None:
        """Write one consistent state to the new file `path`, not flushed; writes go on meanwhile. Raises StoreError."""
        self._refuse_when_closed()
        await self._offload(lambda: _copy(self.path, path))

    async def close(self) -> None:
        """Let those who wait already finish, then close the file."""
        with trio.CancelScope(shield=True):
            async with self._writing:
                self._closed = True
            for _ in range(READERS):
                await self._reading.acquire()
            for database in (*self._readers, self._writer):  # the writer last: it folds the log into the file
                await self._offload(database.close)
            for _ in range(READERS):
                self._reading.release()

    async def _commit_waiting(self) -> None:
        """Commit what waits, in the order in which it came, up to TOGETHER_LIMIT. The caller's own is among the first."""
        together = [self._asked.popleft() for _ in range(min(len(self._asked), TOGETHER_LIMIT))]
        for asked in together:
            asked.taken = True
        jobs = [asked.job for asked in together]
        outcomes = [_failed("The daemon failed while it wrote this.") for _ in together]
        try:
            self._refuse_when_closed()
            with trio.CancelScope(shield=True):
                outcomes = await self._offload(lambda: self._writer.commit(jobs))
        except StoreError as error:
            outcomes = [_failed(error.what, error.advice) for _ in together]
        finally:
            for asked, outcome in zip(together, outcomes, strict=True):
                asked.outcome = outcome

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise StoreError("The daemon is ending and writes nothing more.")


@contextlib.asynccontextmanager
async def open_storage(path: Path, *, offload: Offload = in_thread) -> AsyncIterator[Storage]:
    """Open a mesh's database, which is checked and brought up to date first; close it on leaving. Raises StoreError."""
    storage = Storage(await offload(lambda: Database(path)), offload)
    try:
        yield storage
    finally:
        await storage.close()


def _failed(what: str, advice: str = "") -> Done[object]:
    """An error of one's own for each: an exception that is raised twice gathers both tracebacks."""
    return Done(None, StoreError(what, advice))


def _copy(source: Path, target: Path) -> None:
    with Database(source, read_only=True) as database:
        database.copy_to(target)
