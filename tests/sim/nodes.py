"""Whole nodes, as a daemon runs them, on a simulated network in virtual time: real records, sessions, links and disks."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import attrs
import trio

from meshd.config import RULES, Loaded, Settings
from meshd.drivers.networks import Interface
from meshd.drivers.portmap import PortMapping
from meshd.drivers.state import StateDirectory
from meshd.drivers.threads import inline
from meshd.model.identity import NodeId
from meshd.node.daemon_calls import NodeContext
from meshd.node.machine import World
from meshd.node.mesh import Mesh
from meshd.node.news import News
from meshd.node.node import Node, open_node
from meshd.node.problems import Problems
from meshd.notices import Notice
from tests.drivers.journal_kit import Time
from tests.sim.network import Host, Network, simulated

PORT = 64_327


@attrs.define(eq=False)
class Machine:
    """One machine: its host, its disk and its clock outlive its node, which `start` and `stop` make and end."""

    name: str
    host: Host
    directory: Path
    nursery: trio.Nursery
    settings: Settings
    time: Time = attrs.field(factory=Time)
    notices: list[Notice] = attrs.field(factory=list)
    node: Node | None = None
    context: NodeContext | None = None
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    _over: trio.Event = attrs.field(factory=trio.Event)

    @property
    def id(self) -> NodeId:
        assert self.node is not None
        return self.node.machine.keys.identity.node

    @property
    def mesh(self) -> Mesh:
        """Its only mesh."""
        assert self.node is not None
        (mesh,) = self.node.meshes.values()
        return mesh

    @property
    def linked(self) -> set[str]:
        """The names of those that it is linked with."""
        return {self.mesh.name_of(node) for node in self.mesh.links.current}

    @property
    def standings(self) -> dict[str, str]:
        return {member.name: member.standing.value for member in self.mesh.roster.members.values()}

    def saw(self, kind: type) -> list[Any]:
        return [notice for notice in self.notices if isinstance(notice, kind)]

    async def start(self) -> "Machine":
        self._scope, self._over = trio.CancelScope(), trio.Event()
        await self.nursery.start(self._run)
        return self

    async def stop(self) -> None:
        self._scope.cancel()
        await self._over.wait()

    async def call(self, operation: str, **arguments: Any) -> Any:
        """What the control socket would."""
        return await getattr(self.context, operation)(**arguments)

    async def value(self, content: str, table: str = "notes") -> str:
        """Collapse a text; its full handle."""
        done = await self.call("collapse", mesh=None, json=f'"{content}"', path=None, table=table, tags=(), ttl=0)
        full: str = done.full
        return full

    async def has(self, handle: str) -> bool:
        from meshd.model.handle import Handle

        digest = Handle.parse(handle).digest
        return await self.mesh.storage.read(lambda database: database.handles.is_announced(digest))

    async def digests(self) -> dict[str, bytes]:
        found = await self.mesh.storage.read(lambda database: database.digests())
        return {**found, "roster": self.mesh.roster.digest()}

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        sources: Any = {rule.key: "default" for rule in RULES}
        loaded = Loaded(self.settings, sources, self.directory / "config.toml")
        problems = Problems()
        here = Interface("eth0", ip_interface(f"{self.host.address}/24"))

        async def watch_addresses(moved: Callable[[tuple[Interface, ...]], None]) -> None:
            moved((here,))
            await trio.sleep_forever()

        async def watch_wakes(woke: Callable[[float], None]) -> None:
            await trio.sleep_forever()

        async def map_ports(mapping: PortMapping) -> None:
            await trio.sleep_forever()  # these routers open no ports when they are asked

        world = World(
            clocks=self.time.clocks,
            offload=inline,
            watch_wakes=watch_wakes,
            watch_addresses=watch_addresses,
            map_ports=map_ports,
        )

        def note(notice: Notice) -> None:
            self.notices.append(notice)
            problems.note(notice)

        try:
            with self.host, self._scope, StateDirectory.open(self.directory) as state:
                async with open_node(state, loaded, News(note), problems, "0", world=world) as self.node:
                    self.context = NodeContext(self.node)
                    task_status.started()
                    await trio.sleep_forever()
        finally:
            self.node = self.context = None
            self._over.set()


@attrs.define
class Lab:
    """A network, and machines on it. Of each pair the link may be cut."""

    network: Network
    nursery: trio.Nursery
    directory: Path
    machines: list[Machine] = attrs.field(factory=list)

    async def machine(self, name: str, host: Host | None = None, **settings: Any) -> Machine:
        made = Machine(
            name,
            host or self.network.host(name),
            self.directory / name,
            self.nursery,
            Settings(lan=False, port=PORT, disk_floor=0, **settings),
        )
        self.machines.append(made)
        return await made.start()

    async def founded(self, *names: str, recovery: bool = False) -> list[Machine]:
        """A mesh of these, all admitted by the first and linked with each other."""
        made = [await self.machine(name) for name in names]
        await made[0].call("init", mesh="lab", name=names[0], recovery=recovery)
        for each in made[1:]:
            await self.join(made[0], each)
        await self.all_linked(*made)
        return made

    async def join(self, member: Machine, newcomer: Machine, wan: bool = False) -> None:
        """`tether invite` and `tether join`, perhaps across the internet."""
        send, receive = trio.open_memory_channel[Any](8)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(member.call, "invite", mesh=None, seconds=60.0, wan=wan, tell=send.send_nowait))
            opened = await receive.receive()
            peer = None if wan else f"{member.host.address}:{PORT}"
            await newcomer.call("join", code=opened.code, peer=peer, name=newcomer.name, seconds=30.0, wan=wan)

    async def all_linked(self, *machines: Machine) -> None:
        names = {each.name for each in machines}
        await until(lambda: all(each.linked >= names - {each.name} for each in machines), "all are linked")

    async def agree(self, *machines: Machine, within: float = 60.0) -> None:
        """Wait until these see the same."""

        async def same() -> bool:
            first, *others = [await each.digests() for each in machines]
            return all(each == first for each in others)

        await until_async(same, "they see the same", within)

    def cut_off(self, machine: Machine, *others: Machine) -> None:
        for other in others or [each for each in self.machines if each is not machine]:
            self.network.cut(machine.host, other.host)

    def bring_back(self, machine: Machine, *others: Machine) -> None:
        for other in others or [each for each in self.machines if each is not machine]:
            self.network.heal(machine.host, other.host)


@contextlib.asynccontextmanager
async def lab(directory: Path, seed: int = 1, **link: float) -> AsyncIterator[Lab]:
    async with simulated(seed, **link) as network, trio.open_nursery() as nursery:
        yield Lab(network, nursery, directory)
        nursery.cancel_scope.cancel()


async def until(holds: Callable[[], object], what: str, within: float = 90.0) -> None:
    """Wait in virtual time until this holds."""

    async def ask() -> object:
        return holds()

    await until_async(ask, what, within)


async def until_async(holds: Callable[[], Awaitable[object]], what: str, within: float = 90.0) -> None:
    with trio.move_on_after(within):
        while True:
            if await holds():
                return
            await trio.sleep(0.05)
    raise AssertionError(f"not within {within:g} s: {what}")
