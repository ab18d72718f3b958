"""The daemon's inside: one key, one socket, its meshes. The place that knows every part, and owns their tasks."""

import errno
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

import trio

from meshd.config import Loaded
from meshd.drivers.keys import load_or_create
from meshd.drivers.link import Link
from meshd.drivers.networks import Interface
from meshd.drivers.one_error import one_error
from meshd.drivers.portmap import PortMapping
from meshd.drivers.quic import Endpoint, VersionMismatchError, open_endpoint
from meshd.drivers.quic_engine import Engine
from meshd.drivers.reception import Reception, answer_members
from meshd.drivers.state import MeshDirectory, StateDirectory
from meshd.drivers.tls_identity import TlsIdentity
from meshd.drivers.wan import Wan
from meshd.errors import RefusedError, StoreError, TetherError
from meshd.model.address import DEFAULT_PORT
from meshd.model.announcement import ADDRESSES_LIMIT, Addresses, Spot
from meshd.model.record import Record
from meshd.model.server import parse_servers
from meshd.node.founding import place
from meshd.node.machine import Machine, World
from meshd.node.mesh import Mesh, open_mesh
from meshd.node.neighbours import Neighbours
from meshd.node.news import News
from meshd.node.problems import Problems
from meshd.node.secrets import HeldSecret
from meshd.node.wan import Seeking
from meshd.notices import GenerationOpened, Trouble

DISK_EVERY: Final = 30.0
"""Seconds between two looks at the free space."""

ADDRESSES_EVERY: Final = 10.0
"""Seconds between two records of this machine's addresses: every member keeps each for ever, and a network may flap."""

ADDRESSES_AGAIN: Final = 60.0
"""Seconds until what the disk refused of them is tried again."""


class Node:
    """Made by `open_node`; its tasks run while that block does."""

    def __init__(
        self, machine: Machine, loaded: Loaded, news: News, problems: Problems, version: str, world: World
    ) -> None:
        self.machine, self.loaded, self.news, self.problems, self.version = machine, loaded, news, problems, version
        self.host = loaded.settings.host
        """The address that it listens on alone; empty: on all. A reload does not change it."""
        self._world = world
        self.started = time.monotonic()
        self.meshes: dict[bytes, Mesh] = {}
        """Open meshes, by id."""
        self.unopened: list[RefusedError] = []
        """What is wrong with meshes that are on disk and could not be opened."""
        self.neighbours = Neighbours(machine, self.meshes)
        self.reception = Reception(
            machine.endpoint,
            self._mismatched,
            answer_members(machine.keys, lambda: [each.membership for each in self.meshes.values()], self._adopt),
        )
        self._mapping: PortMapping | None = None
        self.seeking: Seeking | None = None
        """Looks for members across the internet, where the settings name a server."""
        if names := parse_servers(loaded.settings.rendezvous):
            wan = Wan(machine.endpoint, names, self._seen)
            self.seeking = Seeking(machine, self.meshes, wan)
            if loaded.settings.port_mapping:
                port, host = machine.endpoint.port, loaded.settings.host
                self._mapping = PortMapping(port, self.seeking.map_to, notify=machine.notify, host=host)
        self.stopping = trio.Event()
        """Set when somebody asked the daemon to end."""
        self.disk_free, self.disk_looked = machine.state.free_bytes(), time.monotonic()
        self._scopes: dict[bytes, tuple[trio.CancelScope, trio.Event]] = {}
        self._entering = trio.Lock()
        self._address_news = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._interfaces: tuple[Interface, ...] = ()
        self._warned = False

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Open what is on disk, then work until cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                for directory in self.machine.state.mesh_directories():
                    await self._open_known(directory)
                self._nursery.start_soon(self.reception.run)
                self._nursery.start_soon(self.neighbours.run)
                self._nursery.start_soon(self._world.watch_wakes, self._woke)
                self._nursery.start_soon(self._world.watch_addresses, self._moved)
                self._nursery.start_soon(self._watch_disk)
                if self.seeking is not None:
                    self._nursery.start_soon(self.seeking.run)
                if self._mapping is not None:
                    self._nursery.start_soon(self._world.map_ports, self._mapping)
                task_status.started()
        finally:
            self._nursery = None

    # Meshes.

    async def enter(self, mesh: bytes, records: Sequence[Record], held: Sequence[HeldSecret]) -> Mesh:
        """Begin with a mesh that was founded, or that let this machine in; it is durable and open, or nothing is there.

        Whoever asked may go away meanwhile: it is done to its end. Raises RefusedError, StoreError.
        """
        with trio.CancelScope(shield=True):
            async with self._entering:
                known = self.meshes.get(mesh)
                if known is None:
                    known = await self.open(await place(self.machine, mesh, records, held))
                else:
                    await known.come_back(records, held)
        assert known is not None  # nobody cancels that scope
        return known

    async def open(self, directory: MeshDirectory) -> Mesh:
        """Open a mesh and keep it so. Raises RefusedError, StoreError."""
        if self._nursery is None:
            raise RefusedError("The daemon is ending.")
        mesh: Mesh = await self._nursery.start(self._keep_open, directory)
        return mesh

    async def forget(self, mesh: Mesh) -> None:
        """Close a mesh for good, and delete what was kept of it, whether or not who asked waits for it. Raises StoreError."""
        with trio.CancelScope(shield=True):
            async with self._entering:
                if self.meshes.get(mesh.id) is not mesh:
                    return  # somebody else was quicker
                scope, closed = self._scopes[mesh.id]
                scope.cancel()
                await closed.wait()
                await self.machine.offload(partial(self.machine.state.drop_mesh, mesh.directory))

    async def _open_known(self, directory: MeshDirectory) -> None:
        """One mesh that cannot be used keeps nobody from the others."""
        try:
            await self.open(directory)
        except RefusedError as error:
            self.unopened.append(error)
            self.machine.notify(Trouble(error.what, error.advice, "error"))

    async def _keep_open(self, directory: MeshDirectory, task_status: trio.TaskStatus[Mesh]) -> None:
        closed = trio.Event()
        opened = False
        try:
            with one_error(), trio.CancelScope() as scope:
                async with open_mesh(self.machine, directory) as mesh:
                    self.meshes[mesh.id], self._scopes[mesh.id] = mesh, (scope, closed)
                    mesh.on_secrets.append(self.neighbours.changed)
                    if self.seeking is not None:
                        mesh.links.on_change.append(self.seeking.changed)
                        mesh.journal.on_roster.append(self.seeking.changed)
                        self.seeking.changed()
                    try:
                        self.neighbours.changed()
                        async with trio.open_nursery() as nursery:
                            nursery.start_soon(mesh.run)
                            nursery.start_soon(self._say_addresses, mesh)
                            opened = True
                            task_status.started(mesh)
                    finally:
                        del self.meshes[mesh.id], self._scopes[mesh.id]
                        self.neighbours.changed()
        except TetherError as error:
            if not opened:
                raise
            advice = f"The mesh {mesh.name} is closed until the daemon starts anew. {error.advice}".strip()
            self.machine.notify(Trouble(error.what, advice, "error"))
        finally:
            closed.set()

    def _adopt(self, link: Link) -> None:
        mesh = self.meshes.get(link.mesh)
        if mesh is None:
            link.connection.close()
        else:
            mesh.links.adopt(link)

    # The world around.

    def _seen(self) -> None:
        if self.seeking is not None and self.seeking.seen() and self._mapping is not None:
            self._mapping.network_changed()

    def _woke(self, lost: float) -> None:
        self.neighbours.changed()
        if self.seeking is not None:
            self.seeking.woke()
        for mesh in self.meshes.values():
            mesh.links.woke()
            mesh.journal.woke()

    def _moved(self, interfaces: tuple[Interface, ...]) -> None:
        self._interfaces = interfaces
        self._address_news.set()
        self._address_news = trio.Event()
        for mesh in self.meshes.values():
            mesh.links.network_changed()
        if self.seeking is not None:
            self.seeking.moved(interfaces)
        if self._mapping is not None:
            self._mapping.network_changed()

    async def _say_addresses(self, mesh: Mesh) -> None:
        """Keep a mesh informed of where this machine is. Loopback is told only where there is nothing else."""
        while True:
            news, roster = self._address_news, mesh.roster_changed
            hosts = [self.host] if self.host else [str(each.ip.ip) for each in self._interfaces if not each.is_virtual]
            spots = tuple(Spot(each, self.machine.endpoint.port) for each in dict.fromkeys(hosts))[:ADDRESSES_LIMIT]
            try:
                if spots and await mesh.say_addresses(Addresses(spots=spots)):
                    await trio.sleep(ADDRESSES_EVERY)
            except RefusedError as error:
                self.machine.notify(Trouble(error.what, error.advice, "error"))
                await trio.sleep(ADDRESSES_AGAIN)
            else:
                await (news if mesh.is_in else roster).wait()

    async def _watch_disk(self) -> None:
        while True:
            try:
                self.disk_free = await self.machine.offload(self.machine.state.free_bytes)
            except StoreError as error:
                self.machine.notify(Trouble(error.what, error.advice, "error"))
            self.disk_looked = time.monotonic()
            await trio.sleep(DISK_EVERY)

    def _mismatched(self, error: VersionMismatchError) -> None:
        if not self._warned:  # once: strangers may come as often as they like
            self._warned = True
            self.machine.notify(Trouble(f"Somebody came who cannot be met: {error.what}", error.advice, "warning"))


@asynccontextmanager
async def open_node(
    state: StateDirectory, loaded: Loaded, news: News, problems: Problems, version: str, *, world: World | None = None
) -> AsyncIterator[Node]:
    """A node on a locked state directory, at work until the block ends.

    Raises StoreError, RefusedError (disk, keys), UsageError (an address or port that cannot be had).
    """
    settings, world = loaded.settings, world or World()
    state.require_space()
    author = await world.offload(partial(load_or_create, state))
    async with AsyncExitStack() as stack:
        endpoint = await _open_endpoint(stack, settings.host or None, settings.port, Engine(settings.quic_engine))
        machine = Machine(
            state=state,
            author=author,
            endpoint=endpoint,
            settings=settings,
            notify=news.tell,
            entropy=world.entropy,
            clocks=world.clocks,
            offload=world.offload,
        )
        machine.throttle.set_rate(settings.upload_limit)
        node = Node(machine, loaded, news, problems, version, world)
        if author.copied:
            why = "the state directory was copied or restored, and its history may go on elsewhere"
            news.tell(GenerationOpened("", author.generation, why))
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            yield node
            nursery.cancel_scope.cancel()


async def _open_endpoint(stack: AsyncExitStack, host: str | None, port: int | None, engine: Engine) -> Endpoint:
    """On the port that was asked for; else on the usual one, or any while that is another's."""
    identity = TlsIdentity.generate()
    for choice in (DEFAULT_PORT, 0) if port is None else (port,):
        try:
            return await stack.enter_async_context(
                open_endpoint(engine=engine, identity=identity, host=host, port=choice, accept=True)
            )
        except OSError as error:
            failure = error
    if host is not None and (failure.errno == errno.EADDRNOTAVAIL or isinstance(failure, socket.gaierror)):
        raise RefusedError(f"{host} is no address of this machine.", "Change host in the settings.") from failure
    raise RefusedError(
        f"UDP port {port if port is not None else DEFAULT_PORT} cannot be had: {failure.strerror}.",
        "Is another program using it? Choose another with port in the settings.",
    ) from failure
