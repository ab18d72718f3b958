"""A blob store over a database in memory, and machines that fetch from each other over streams in memory."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import apsw
import attrs
import trio
from blake3 import blake3

from meshd.drivers.blob_files import BlobStore, HasBlobs
from meshd.drivers.fetching import Fetching
from meshd.drivers.link import Link, PathKind
from meshd.drivers.serving import Serving
from meshd.drivers.threads import inline
from meshd.drivers.throttle import Throttle
from meshd.model.announcement import BlobRef
from meshd.model.identity import Identity, NodeId, node_text
from meshd.notices import Notice
from meshd.store.blobs import Blobs

T = TypeVar("T")
SCHEMA = Path(__file__).parents[2] / "meshd" / "store" / "schema" / "0003_blobs.sql"
MIB = 1 << 20


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that do not repeat, the same for the same seed."""
    return blake3(seed.to_bytes(8, "big")).digest(size)


class Rows:
    """The blob tables, in memory."""

    def __init__(self) -> None:
        connection = apsw.Connection(":memory:")
        connection.execute(SCHEMA.read_text())
        self.connection = connection
        self.blobs = Blobs(connection)

    async def write(self, job: Callable[[HasBlobs], T]) -> T:
        await trio.lowlevel.checkpoint()
        with self.connection:
            return job(self)

    async def read(self, job: Callable[[HasBlobs], T]) -> T:
        await trio.lowlevel.checkpoint()
        return job(self)


@attrs.define(eq=False)
class Machine:
    """One member: its store, what it fetches with, and what it was told."""

    name: str
    directory: Path
    rows: Rows
    store: BlobStore
    fetching: Fetching
    throttle: Throttle
    serving: Serving
    notices: list[Notice]
    sent: int = 0

    @property
    def identity(self) -> Identity:
        return identity(self.name)

    def told(self, kind: type[T]) -> list[T]:
        return [notice for notice in self.notices if isinstance(notice, kind)]


def identity(name: str) -> Identity:
    return Identity(name.encode().ljust(32, b"."), bytes(32), bytes(64))


def names(node: NodeId) -> str:
    known = {identity(name).node: name for name in ("alice", "bob", "carol", "dave", "mallory")}
    return known.get(node, node_text(node))


async def open_store(directory: Path, rows: Rows, **options: Any) -> BlobStore:
    directory.mkdir(exist_ok=True)
    return await BlobStore.open(directory, rows, **{"offload": inline, "floor": 0, **options})


@asynccontextmanager
async def machines(tmp_path: Path, *called: str) -> AsyncIterator[list[Machine]]:
    """Machines that run until the end of the block; nobody is linked yet."""
    async with trio.open_nursery() as nursery:
        made = []
        for name in called:
            rows, notices = Rows(), cast("list[Notice]", [])
            store = await open_store(tmp_path / name, rows)
            fetching = Fetching(store, names, notices.append, mesh="home", offload=inline)
            throttle = Throttle()
            made.append(
                Machine(name, tmp_path / name, rows, store, fetching, throttle, Serving(store, throttle), notices)
            )
            nursery.start_soon(fetching.run)
        yield made
        nursery.cancel_scope.cancel()


class Counting:
    """A stream that counts what is sent on it, and takes time for it when it has a rate in bytes a second."""

    def __init__(self, stream: Any, count: Callable[[int], None], rate: float | None) -> None:
        self._stream, self._count, self._rate = stream, count, rate

    async def send_all(self, data: bytes) -> None:
        self._count(len(data))
        if self._rate:
            await trio.sleep(len(data) / self._rate)
        await self._stream.send_all(bytes(data))

    async def receive_some(self, limit: int | None = None) -> bytes:
        return cast(bytes, await self._stream.receive_some(256 * 1024 if limit is None else limit))


@asynccontextmanager
async def linked(asker: Machine, holder: Machine, rate: float | None = None) -> AsyncIterator[trio.CancelScope]:
    """`asker` may ask `holder` until the block ends, or the scope that it gives is cancelled."""
    near, far = trio.testing.memory_stream_pair()

    def count(size: int) -> None:
        holder.sent += size

    scope = trio.CancelScope()

    async def both() -> None:
        with scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(run_one, asker.fetching.attach, holder, near)
                inner.start_soon(run_one, holder.serving.serve, asker, Counting(far, count, rate))

    async def run_one(serve: Callable[[Link, Any], Any], peer: Machine, stream: Any) -> None:
        await serve(Link(bytes(32), peer.identity, cast(Any, None), PathKind.LAN, trio.current_time()), stream)
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(both)
        await trio.testing.wait_all_tasks_blocked()
        yield scope
        scope.cancel()


async def put(machine: Machine, data: bytes) -> BlobRef:
    return await machine.store.add_bytes(data)


def flip(machine: Machine, digest: bytes, at: int) -> None:
    """Change one bit of a blob's file, as a failing disk would."""
    path = machine.store.disk.path(digest)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
