"""Across a simulated internet: a rendezvous server, routers of all kinds, and two who meet, in virtual time."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial

import attrs
import pytest
import trio

from meshd.drivers.handoff import Cargo, connect, listen
from meshd.drivers.meeting import Settings
from meshd.drivers.quic import open_endpoint
from meshd.drivers.threads import inline
from meshd.drivers.wan import open_wan
from meshd.errors import NobodyFoundError, WrongPassphraseError
from meshd.model.server import ServerName
from meshd.protocol.rendezvous import RendezvousClient
from meshd.status import Event, Numbered, Paired, TrySpent, Warned
from meshd.wire.rendezvous import Match, Nat
from rendezvous.app import ALPNS, Server, limits
from rendezvous.board import Board
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
        "lan": False,
        **more,
    }
    return Settings(**values)


@contextlib.asynccontextmanager
async def nothing(*_: object) -> AsyncIterator[None]:
    yield


async def meet(here: World, ann: Host, ben: Host, payload: bytes = b"hello") -> tuple[Side, Side, MemorySink]:
    """Ann listens, ben connects with the number that ann shows; both to their end, or ann let go of after it."""
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


@pytest.mark.parametrize("one", KINDS)
@pytest.mark.parametrize("other", KINDS)
async def test_two_behind_routers_of_all_kinds(autojump_clock: object, one: str, other: str) -> None:
    async with world() as here:
        ann = Router(here.network, "5.0.0.1", *KINDS[one]).host("ann")
        ben = Router(here.network, "6.0.0.1", *KINDS[other]).host("ben")
        listener, connector, sink = await meet(here, ann, ben)
        if {one, other} in CANNOT:
            assert isinstance(connector.error, NobodyFoundError) and connector.took < 15
            assert "maps each destination anew" in connector.error.what or "Both routers" in connector.error.what
            assert any("could not be reached" in each.text for each in listener.saw(Warned))
            assert sink.stored is None
        else:
            assert connector.error is None and listener.error is None
            assert sink.stored == b"hello" and connector.saw(Paired)
            assert connector.took < 3


async def test_a_server_that_is_down_is_passed_over(autojump_clock: object) -> None:
    async with world(servers=1) as here:
        here.servers.insert(0, here.network.host("down", "7.0.0.99"))
        ann, ben = Router(here.network, "5.0.0.1").host("ann"), Router(here.network, "6.0.0.1").host("ben")
        listener, connector, sink = await meet(here, ann, ben)
        assert connector.error is None and sink.stored == b"hello"
        (numbered,) = listener.saw(Numbered)
        assert isinstance(numbered, Numbered) and numbered.server == "7.0.0.1:4440"


async def test_no_server_at_all_is_said_with_each_ones_reason(autojump_clock: object) -> None:
    async with world(servers=0) as here:
        here.servers += [here.network.host(name, f"7.0.0.{number}") for number, name in enumerate(("x", "y"), 1)]
        ann = Router(here.network, "5.0.0.1").host("ann")
        for listens in (True, False):
            cargo = Cargo(None, MemorySink()) if listens else Cargo(MemorySource(b"x"), None)
            side = Side(ann, settings(here, takes_number=True, number=7), cargo, listens)
            await side.run()
            assert isinstance(side.error, NobodyFoundError) and side.took < 30
            assert all(str(name) in side.error.what for name in here.names)
            assert "does this network let UDP out?" in side.error.advice


async def test_a_number_that_no_server_knows_is_said_soon(autojump_clock: object) -> None:
    async with world() as here:
        ben = Router(here.network, "6.0.0.1").host("ben")
        side = Side(ben, settings(here, number=77), Cargo(MemorySource(b"x"), None), False)
        await side.run()
        assert isinstance(side.error, NobodyFoundError) and "knows no number 77" in side.error.what and side.took < 10
        assert "Is the number right" in side.error.advice and "--peer" not in side.error.advice


async def test_who_has_another_key_than_the_setting_says_hears_nothing(autojump_clock: object) -> None:
    async with world(servers=1) as here:
        pinned = [
            attrs.evolve(name, fingerprint=mark) for name in here.names for mark in ("a" * 52, IDENTITY.fingerprint)
        ]
        ann = Router(here.network, "5.0.0.1").host("ann")
        for name, code in zip(pinned, ("another key", "knows no number"), strict=True):
            side = Side(ann, settings(here, servers=(name,), number=7), Cargo(MemorySource(b"x"), None), False)
            await side.run()
            assert code in str(side.error)


async def test_a_squatter_spends_its_entries_and_keeps_nobody_out(autojump_clock: object) -> None:
    """It enters the number again and again, from one place, and never punches."""
    async with world(servers=1) as here:
        ann, ben = Router(here.network, "5.0.0.1").host("ann"), Router(here.network, "6.0.0.1").host("ben")
        squatter = here.network.host("squatter", "8.0.0.8")
        sink = MemorySink()
        one = Side(ann, settings(here, takes_number=True, number=1), Cargo(None, sink), True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.run)
            while not one.saw(Numbered):
                await trio.sleep(0.01)
            (numbered,) = one.saw(Numbered)
            assert isinstance(numbered, Numbered)
            matches = []

            async def squat() -> None:
                opened = open_endpoint(engine=engine("qh3"), identity=IDENTITY)
                enter = partial(squat_on, numbered.number)
                async with (
                    opened as endpoint,
                    open_wan(endpoint, here.names) as wan,
                    wan.servers[0].asking(enter) as asked,
                ):
                    async for event in asked.events:
                        matches.append(type(event).__name__)
                        await trio.sleep(0.05)
                        asked.again()

            nursery.start_soon(squatter.run, squat)
            await trio.sleep(1)
            other = Side(ben, settings(here, number=numbered.number), Cargo(MemorySource(b"hello"), None), False)
            await other.run()
            assert other.error is None, other.error
            await one.over.wait()
            assert sink.stored == b"hello" and other.took < 20
            assert matches.count("Matched") <= 3
            nursery.cancel_scope.cancel()


def squat_on(number: int, client: RendezvousClient, ref: int) -> int:
    return client.enter(number, Nat.UNKNOWN)


async def test_who_knows_the_number_alone_spends_a_try_and_gets_nothing(autojump_clock: object) -> None:
    async with world(servers=1) as here:
        ann, eve = Router(here.network, "5.0.0.1").host("ann"), Router(here.network, "6.0.0.1").host("eve")
        ben = Router(here.network, "9.0.0.1").host("ben")
        sink = MemorySink()
        one = Side(ann, settings(here, takes_number=True, number=1), Cargo(None, sink), True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.run)
            while not one.saw(Numbered):
                await trio.sleep(0.01)
            (numbered,) = one.saw(Numbered)
            assert isinstance(numbered, Numbered)
            guess = settings(here, number=numbered.number, secret=b"wrong-words-here")
            wrong = Side(eve, guess, Cargo(MemorySource(b"evil"), None), False)
            await wrong.run()
            assert isinstance(wrong.error, WrongPassphraseError)
            assert len(one.saw(TrySpent)) == 1
            right = Side(ben, settings(here, number=numbered.number), Cargo(MemorySource(b"hello"), None), False)
            await right.run()
            assert right.error is None and right.took < 3, "the number is open again as soon as that run has failed"
            await one.over.wait()
            assert sink.stored == b"hello"
            nursery.cancel_scope.cancel()


async def test_the_server_carries_no_payload_and_is_not_needed_once_they_have_met(autojump_clock: object) -> None:
    async with world(servers=1) as here:
        ann, ben = Router(here.network, "5.0.0.1").host("ann"), Router(here.network, "6.0.0.1").host("ben")
        through = 0

        def tap(data: bytes, source: tuple[str, int], target: tuple[str, int]) -> None:
            nonlocal through
            through += len(data) if "7.0.0.1" in (source[0], target[0]) else 0

        here.network.tap = tap
        payload = b"p" * 3_000_000
        _, connector, sink = await meet(here, ann, ben, payload)
        assert connector.error is None and sink.stored == payload
        assert 0 < through < 60_000


async def test_a_candidate_that_is_a_victim_draws_what_the_page_allows_and_no_quic_packet(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that lies: it names somebody else's address."""
    async with world(servers=1) as here:
        victim = here.network.host("victim", "9.9.9.9")
        drawn: list[bytes] = []

        def tap(data: bytes, source: tuple[str, int], target: tuple[str, int]) -> None:
            if target[0] == "9.9.9.9":
                drawn.append(data)

        here.network.tap = tap
        take = Board.take

        def lie(self: Board, client: int, message: object, now: float) -> list[tuple[int, object]]:
            told = take(self, client, message, now)
            return [
                (number, attrs.evolve(each, host=victim.address, port=53) if isinstance(each, Match) else each)
                for number, each in told
            ]

        monkeypatch.setattr(Board, "take", lie)
        ann, ben = Router(here.network, "5.0.0.1").host("ann"), Router(here.network, "6.0.0.1").host("ben")
        _, connector, _ = await meet(here, ann, ben)
        assert isinstance(connector.error, NobodyFoundError)
        assert 0 < len(drawn) <= 2 * 60 and all(len(each) <= 64 and not each[0] & 0x40 for each in drawn)


async def test_a_server_that_matches_without_end_keeps_a_window_busy_and_no_more(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(servers=1) as here:
        take = Board.take

        def flood(self: Board, client: int, message: object, now: float) -> list[tuple[int, object]]:
            told = take(self, client, message, now)
            lies = [
                (number, Match(each.ref, f"9.9.{count // 200}.{count % 200 + 1}", 53, bytes(16), 0, Nat.UNKNOWN, b""))
                for number, each in told
                if type(each).__name__ == "Numbered"
                for count in range(200)
            ]
            return [*told, *lies]

        monkeypatch.setattr(Board, "take", flood)
        drawn: Counter[str] = Counter()
        here.network.tap = lambda data, source, target: drawn.update(
            [target[0]] if target[0].startswith("9.9.") else []
        )
        ann = Router(here.network, "5.0.0.1").host("ann")
        one = Side(ann, settings(here, takes_number=True, number=1, timeout=40.0), Cargo(None, MemorySink()), True)
        await one.run()
        assert isinstance(one.error, NobodyFoundError), one.error
        assert sum(drawn.values()) < 40 * 40 and all(count <= 60 for count in drawn.values())


async def test_a_server_that_restarts_gives_a_number_again_and_another_is_told(autojump_clock: object) -> None:
    async with world(servers=0) as here:
        here.servers.append(here.network.host("server", "7.0.0.1"))
        scope = await here.serve(here.servers[0])
        ann, ben = Router(here.network, "5.0.0.1").host("ann"), Router(here.network, "6.0.0.1").host("ben")
        sink = MemorySink()
        one = Side(ann, settings(here, takes_number=True, number=1, timeout=300.0), Cargo(None, sink), True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.run)
            while not one.saw(Numbered):
                await trio.sleep(0.01)
            await trio.sleep(5)
            scope.cancel()
            await trio.sleep(5)
            await here.serve(here.servers[0])
            with trio.move_on_after(60):  # one time in a hundred it is the same number, and then nothing need be told
                while len(one.saw(Numbered)) < 2:
                    await trio.sleep(0.1)
            *_, numbered = one.saw(Numbered)
            assert isinstance(numbered, Numbered)
            other = Side(ben, settings(here, number=numbered.number), Cargo(MemorySource(b"hello"), None), False)
            await other.run()
            assert other.error is None, other.error
            nursery.cancel_scope.cancel()
