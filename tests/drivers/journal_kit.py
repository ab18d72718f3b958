"""Machines of a small mesh with real stores, journals and replication, in virtual time and without a network."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import trio
import trio.testing

from meshd.drivers.clocks import Clocks
from meshd.drivers.journal import Journal, open_journal
from meshd.drivers.link import Link, PathKind
from meshd.drivers.storage import Storage, open_storage
from meshd.drivers.sync import Syncing
from meshd.drivers.threads import inline
from meshd.errors import RemoteProtocolError
from meshd.model.announcement import Value
from meshd.model.handle import canonical
from meshd.model.identity import Keys
from meshd.model.record import Record
from meshd.notices import Notice
from tests.model.mesh_kit import Mesh

WALL = 1_700_000_000_000


def value(content: object, table: str = "inline") -> Value:
    return Value(table=table, json=canonical(content), blob=None, tags=())


@attrs.define
class Pen:
    """Keys and a generation, as drivers/keys.KeyState gives them."""

    keys: Keys
    generation: int = 1

    def next_generation(self, above: int = 0) -> int:
        self.generation = max(self.generation, above) + 7
        return self.generation


@attrs.define
class Time:
    """Clocks that follow trio's, but for what a test sets."""

    wall_offset: int = 0
    boot_offset: int = 0

    @property
    def clocks(self) -> Clocks:
        return Clocks(lambda: WALL + self.wall_offset + self._now(), lambda: self.boot_offset + self._now())

    @staticmethod
    def _now() -> int:
        return int(trio.current_time() * 1000)


@attrs.define(eq=False)
class Machine:
    """One of them."""

    name: str
    storage: Storage
    journal: Journal
    syncing: Syncing
    pen: Pen
    time: Time
    notices: list[Notice]

    def saw(self, kind: type) -> list[Notice]:
        return [notice for notice in self.notices if isinstance(notice, kind)]

    async def values(self) -> int:
        """How many values its view counts."""
        return sum((await self.storage.read(lambda database: database.handles.tables())).values())

    async def digests(self) -> dict[str, bytes]:
        return await self.storage.read(lambda database: database.digests())


@contextlib.asynccontextmanager
async def machine(
    mesh: Mesh, name: str, folder: Path, *, time: Time | None = None, generation: int = 1, begin: bool = True
) -> AsyncIterator[Machine]:
    """A machine over `folder / name`.db; a new one begins with all records that `mesh` has."""
    notices: list[Notice] = []
    pen, clocks = Pen(mesh[name].keys, generation), time or Time()
    path = folder / f"{name}.db"
    fresh = not path.exists()
    async with open_storage(path, offload=inline) as storage:
        opened = open_journal(mesh.id, storage, pen, clocks=clocks.clocks, notify=notices.append, offload=inline)
        async with opened as journal:
            if fresh and begin:
                await journal.begin(records(mesh))
            syncing = Syncing(journal, notify=notices.append, entropy=lambda size: bytes(range(size)))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(syncing.run)
                yield Machine(name, storage, journal, syncing, pen, clocks, notices)
                nursery.cancel_scope.cancel()


def records(mesh: Mesh) -> list[Record]:
    return [record for each in mesh.machines.values() for record, _ in each.written]


class Closable:
    """The connection of a link, as far as replication sees it."""

    is_client = True

    def __init__(self) -> None:
        self.code: int | None = None

    def close(self, code: int = 0, reason: str = "") -> None:
        self.code = code


@attrs.define(eq=False)
class Wire:
    """A link between two machines, and the bytes that it carried."""

    links: tuple[Link, Link]
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    carried: int = 0
    errors: list[str] = attrs.field(factory=list)
    over: trio.Event = attrs.field(factory=trio.Event)

    async def run(self, one: Machine, two: Machine) -> None:
        left, right = trio.testing.memory_stream_pair()
        for end in (left, right):
            end.send_stream.send_all = self._counting(end.send_stream.send_all)
        with self.scope:
            async with trio.open_nursery() as nursery:
                for here, link, end in ((one, self.links[0], left), (two, self.links[1], right)):
                    nursery.start_soon(self._serve, here, link, end)
        self.over.set()

    async def _serve(self, here: Machine, link: Link, end: trio.abc.Stream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            try:
                await here.syncing.serve(link, end)
            except RemoteProtocolError as error:
                self.errors.append(error.what)
        self.scope.cancel()

    def _counting(self, send):
        async def counting(data: bytes) -> None:
            self.carried += len(data)
            await send(data)

        return counting


def link_of(here: Machine, there: Machine) -> Link:
    return Link(
        here.journal.mesh,
        there.journal.keys.identity,
        Closable(),
        PathKind.LAN,
        trio.current_time(),
    )


def join(nursery: trio.Nursery, one: Machine, two: Machine) -> Wire:
    """Link two machines."""
    wire = Wire((link_of(one, two), link_of(two, one)))
    nursery.start_soon(wire.run, one, two)
    return wire
