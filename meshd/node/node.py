"""The daemon's inside: one key, one socket, its meshes. The place that knows every part, and owns their tasks."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

import trio

from meshd.config import Loaded
from meshd.drivers.keys import load_or_create
from meshd.drivers.link import Link
from meshd.drivers.networks import Interface, watch_addresses
from meshd.drivers.pairing import system_entropy
from meshd.drivers.quic import Endpoint, VersionMismatchError, open_endpoint
from meshd.drivers.quic_engine import Engine
from meshd.drivers.reception import Reception, answer_members
from meshd.drivers.state import MeshDirectory, StateDirectory
from meshd.drivers.threads import Offload, in_thread
from meshd.drivers.tls_identity import TlsIdentity
from meshd.drivers.wake import watch_for_wakes
from meshd.errors import RefusedError, StoreError
from meshd.model.address import DEFAULT_PORT
from meshd.model.announcement import ADDRESSES_LIMIT, Addresses, Spot
from meshd.node.founding import remove
from meshd.node.machine import Machine
from meshd.node.mesh import Mesh, open_mesh
from meshd.node.neighbours import Neighbours
from meshd.node.news import News
from meshd.node.problems import Problems
from meshd.notices import GenerationOpened, Trouble

DISK_EVERY: Final = 30.0
"""Seconds between two looks at the free space."""


class Node:
    """Made by `open_node`; its tasks run while that block does."""

    def __init__(self, machine: Machine, loaded: Loaded, news: News, problems: Problems, version: str) -> None:
        self.machine, self.loaded, self.news, self.problems, self.version = machine, loaded, news, problems, version
        self.started = time.monotonic()
        self.meshes: dict[bytes, Mesh] = {}
        """Open meshes, by id."""
        self.neighbours = Neighbours(machine, self.meshes)
        self.reception = Reception(
            machine.endpoint,
            self._mismatched,
            answer_members(machine.keys, lambda: [each.membership for each in self.meshes.values()], self._adopt),
        )
        self.stopping = trio.Event()
        """Set when somebody asked the daemon to end."""
        self.disk_free, self.disk_looked = machine.state.free_bytes(), time.monotonic()
        self._scopes: dict[bytes, tuple[trio.CancelScope, trio.Event]] = {}
        self._nursery: trio.Nursery | None = None
        self._interfaces: tuple[Interface, ...] = ()
        self._warned = False

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Open what is on disk, then work until cancelled."""
        async with trio.open_nursery() as self._nursery:
            for directory in self.machine.state.mesh_directories():
                await self._open_known(directory)
            self._nursery.start_soon(self.reception.run)
            self._nursery.start_soon(self.neighbours.run)
            self._nursery.start_soon(watch_for_wakes, self._woke)
            self._nursery.start_soon(partial(watch_addresses, self._moved, known=()))
            self._nursery.start_soon(self._watch_disk)
            task_status.started()

    # Meshes.

    async def open(self, directory: MeshDirectory) -> Mesh:
        """Open a mesh and keep it so. Raises StoreError."""
        assert self._nursery is not None
        mesh: Mesh = await self._nursery.start(self._keep_open, directory)
        return mesh

    async def forget(self, mesh: Mesh) -> None:
        """Close a mesh for good, and delete what was kept of it."""
        scope, closed = self._scopes[mesh.id]
        scope.cancel()
        await closed.wait()
        await self.machine.offload(partial(remove, mesh.directory))

    async def _open_known(self, directory: MeshDirectory) -> None:
        try:
            await self.open(directory)
        except RefusedError as error:
            self.machine.notify(Trouble(error.what, error.advice, "error"))

    async def _keep_open(self, directory: MeshDirectory, task_status: trio.TaskStatus[Mesh]) -> None:
        with trio.CancelScope() as scope:
            async with open_mesh(self.machine, directory) as mesh:
                closed = trio.Event()
                self.meshes[mesh.id], self._scopes[mesh.id] = mesh, (scope, closed)
                mesh.on_secrets.append(self.neighbours.changed)
                try:
                    self.neighbours.changed()
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(mesh.run)
                        nursery.start_soon(self._say_addresses, mesh)
                        task_status.started(mesh)
                finally:
                    del self.meshes[mesh.id], self._scopes[mesh.id]
                    self.neighbours.changed()
                    scope.shield = False
        closed.set()

    def _adopt(self, link: Link) -> None:
        mesh = self.meshes.get(link.mesh)
        if mesh is None:
            link.connection.close()
        else:
            mesh.links.adopt(link)

    # The world around.

    def _woke(self, lost: float) -> None:
        self.neighbours.changed()
        for mesh in self.meshes.values():
            mesh.links.woke()
            mesh.journal.woke()

    def _moved(self, interfaces: tuple[Interface, ...]) -> None:
        self._interfaces = interfaces
        for mesh in self.meshes.values():
            mesh.links.network_changed()
            if self._nursery is not None:
                self._nursery.start_soon(self._say_addresses, mesh)

    async def _say_addresses(self, mesh: Mesh) -> None:
        """Tell a mesh where this machine is. Loopback is not worth telling, unless it is all there is."""
        host = self.machine.settings.host
        hosts = [host] if host else [str(each.ip.ip) for each in self._interfaces if not each.is_virtual]
        spots = tuple(Spot(each, self.machine.endpoint.port) for each in dict.fromkeys(hosts))[:ADDRESSES_LIMIT]
        try:
            if spots:
                await mesh.say_addresses(Addresses(spots=spots))
        except (StoreError, RefusedError) as error:
            self.machine.notify(Trouble(error.what, error.advice, "error"))

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
    state: StateDirectory, loaded: Loaded, news: News, problems: Problems, version: str, *, offload: Offload = in_thread
) -> AsyncIterator[Node]:
    """A node on a locked state directory, at work until the block ends.

    Raises StoreError, RefusedError (disk, keys), UsageError (an address or port that cannot be had).
    """
    settings = loaded.settings
    state.require_space()
    author = await offload(partial(load_or_create, state))
    async with AsyncExitStack() as stack:
        endpoint = await _open_endpoint(stack, settings.host or None, settings.port, Engine(settings.quic_engine))
        machine = Machine(
            state=state,
            author=author,
            endpoint=endpoint,
            settings=settings,
            notify=news.tell,
            entropy=system_entropy,
            offload=offload,
        )
        machine.throttle.set_rate(settings.upload_limit)
        node = Node(machine, loaded, news, problems, version)
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
    raise RefusedError(
        f"UDP port {port if port is not None else DEFAULT_PORT} cannot be had: {failure.strerror}.",
        "Is another program using it? Choose another with port in the settings.",
    ) from failure
