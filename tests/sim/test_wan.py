"""Across a simulated internet: a rendezvous server, routers of all kinds, and two who meet, in virtual time."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest
import trio

from meshd.drivers.handoff import Cargo, connect, listen
from meshd.drivers.meeting import Settings
from meshd.drivers.quic import open_endpoint
from meshd.drivers.threads import inline
from meshd.errors import NobodyFoundError
from meshd.model.server import ServerName
from meshd.status import Event, Numbered, Paired, Warned
from rendezvous.app import ALPNS, Server, limits
from tests.drivers.pairs import IDENTITY, engine
from tests.sim.handoffs import MemorySink, MemorySource
from tests.sim.nat import Filtering, Mapping, Router
from tests.sim.network import Host, Network, simulated

PORT = 4440
KINDS = {
    "full cone": (Mapping.ONE_FOR_ALL, Filtering.NONE),
    "address-restricted": (Mapping.ONE_FOR_ALL, Filtering.ADDRESS),
    "port-restricted": (Mapping.ONE_FOR_ALL, Filtering.ADDRESS_AND_PORT),
    "symmetric": (Mapping.ONE_FOR_EACH, Filtering.ADDRESS_AND_PORT),
}
CANNOT = [{"symmetric"}, {"symmetric", "port-restricted"}]


@attrs.define(eq=False)
class World:
    network: Network
    nursery: trio.Nursery
    servers: list[Host] = attrs.field(factory=list)

    async def serve(self, host: Host) -> trio.CancelScope:
        """A rendezvous server on a host, until its scope is cancelled."""
        scope = trio.CancelScope()

        async def run(task_status: trio.TaskStatus[None]) -> None:
            with host, scope:
                opened = open_endpoint(
                    engine=engine("qh3"), identity=IDENTITY, port=PORT, alpns=ALPNS, accept=True, limits=limits()
                )
                async with opened as endpoint:
                    task_status.started()
                    await Server(endpoint).run()

        await self.nursery.start(run)
        return scope

    @property
    def names(self) -> tuple[ServerName, ...]:
        return tuple(ServerName.parse(f"{host.address}:{PORT}") for host in self.servers)


@contextlib.asynccontextmanager
async def world(servers: int = 2, seed: int = 1, **link: float) -> AsyncIterator[World]:
    link = {"delay": 0.02, **link}
    async with simulated(seed, **link) as network, trio.open_nursery() as nursery:
        made = World(network, nursery)
        for number in range(servers):
            made.servers.append(network.host(f"server{number}", f"7.0.0.{number + 1}"))
            await made.serve(made.servers[-1])
        yield made
        nursery.cancel_scope.cancel()


@attrs.define(eq=False)
class Side:
    """One command at its host."""

    host: Host
    settings: Settings
    cargo: Cargo
    listens: bool
    events: list[Event] = attrs.field(factory=list)
    error: BaseException | None = None
    over: trio.Event = attrs.field(factory=trio.Event)
    took: float = 0.0

    async def run(self) -> None:
        began = trio.current_time()
        settings = attrs.evolve(self.settings, observer=self.events.append)
        try:
            with self.host:
                await (listen if self.listens else connect)(settings, self.cargo)
        except Exception as error:
            self.error = error
        self.took = trio.current_time() - began
        self.over.set()

    def saw(self, kind: type) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


def settings(here: World, **more: object) -> Settings:
    values: dict[str, object] = {
        "engine": engine("qh3"),
        "secret": b"crystal-clock-tower",
        "number": None,
        "label": "",
        "timeout": 60.0,
        "observer": lambda event: None,
        "interfaces": (),
        "announce": nothing,
        "offload": inline,
        "servers": here.names,
        **more,
    }
    return Settings(**values)


@contextlib.asynccontextmanager
async def nothing(*_: object) -> AsyncIterator[None]:
    yield


async def meet(
    here: World, ann: Host, ben: Host, monkeypatch: pytest.MonkeyPatch, payload: bytes = b"hello"
) -> tuple[Side, Side, MemorySink]:
    """Ann listens, ben connects with the number that ann shows; both to their end, or ann let go of after it."""
    monkeypatch.setattr("meshd.drivers.meeting.lan.browse", lambda interfaces: nowhere())
    sink = MemorySink()
    one = Side(ann, settings(here, takes_number=True, number=1), Cargo(None, sink), True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        with trio.fail_after(10):
            while not one.saw(Numbered):
                await trio.sleep(0.01)
        (numbered,) = one.saw(Numbered)
        assert isinstance(numbered, Numbered)
        other = Side(ben, settings(here, number=numbered.number), Cargo(MemorySource(payload), None), False)
        await other.run()
        if other.error is None:
            await one.over.wait()
        else:
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
    return one, other, sink


@contextlib.asynccontextmanager
async def nowhere() -> AsyncIterator[trio.MemoryReceiveChannel[object]]:
    send, receive = trio.open_memory_channel[object](0)
    async with send, receive:
        yield receive


@pytest.mark.parametrize("one", KINDS)
@pytest.mark.parametrize("other", KINDS)
async def test_two_behind_routers_of_all_kinds(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch, one: str, other: str
) -> None:
    async with world() as here:
        ann = Router(here.network, "5.0.0.1", *KINDS[one]).host("ann")
        ben = Router(here.network, "6.0.0.1", *KINDS[other]).host("ben")
        listener, connector, sink = await meet(here, ann, ben, monkeypatch)
        if {one, other} in CANNOT:
            assert isinstance(connector.error, NobodyFoundError) and connector.took < 15
            assert "maps each destination anew" in connector.error.what or "Both routers" in connector.error.what
            assert any("could not be reached" in each.text for each in listener.saw(Warned))
            assert sink.stored is None
        else:
            assert connector.error is None and listener.error is None
            assert sink.stored == b"hello" and connector.saw(Paired)
            assert connector.took < 3
