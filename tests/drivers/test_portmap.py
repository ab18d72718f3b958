"""When a router is asked, what is told of it, and that it ends: routers and the clock are given."""

import ipaddress
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import attrs
import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from meshd.drivers import portmap, ssdp
from meshd.drivers.networks import Interface
from meshd.drivers.portmap import AGAIN, LEASE, SETTLE, WITHDRAW, Mapped, NotMapped, PortMapping
from meshd.drivers.ssdp import Router, find_routers, read_answer
from meshd.model.address import Address
from meshd.notices import Notice, PortMapped, PortUnmapped
from tests.drivers.igd_kit import PUBLIC, Entry, fake_router, needs_library

PORT = 64_327
HOME, CAFE = Router("http://192.168.1.1/a", "192.168.1.1"), Router("http://10.3.3.1:5000/b", "10.3.3.1")
AT_HOME = Mapped(Address(PUBLIC, PORT), LEASE)


@attrs.define
class World:
    """The routers that there are, each with its answer, and what became of it all."""

    routers: dict[Router, Mapped | NotMapped] = attrs.field(factory=dict)
    searches: list[float] = attrs.field(factory=list)
    asked: list[tuple[float, str, Router, Sequence[int]]] = attrs.field(factory=list)
    told: list[tuple[float, Address | None]] = attrs.field(factory=list)
    notices: list[Notice] = attrs.field(factory=list)
    takes: float = 0.0

    async def find(self) -> list[Router]:
        self.searches.append(trio.current_time())
        await trio.sleep(ssdp.SEARCH)
        return list(self.routers)

    async def ask(self, task: str, router: Router, port: int, lease: int, publics: Sequence[int]) -> Mapped | NotMapped:
        self.asked.append((trio.current_time(), task, router, publics))
        await trio.sleep(self.takes)
        return self.routers.get(router, NotMapped("gone")) if task == "map" else NotMapped("taken back")

    def mapping(self) -> PortMapping:
        return PortMapping(
            PORT,
            lambda address: self.told.append((trio.current_time(), address)),
            self.notices.append,
            find=self.find,
            ask=self.ask,
        )

    def addresses(self) -> list[Address | None]:
        return [address for _, address in self.told]

    def times(self, task: str) -> list[float]:
        return [when for when, each, *_ in self.asked if each == task]


async def test_mapped_renewed_at_half_and_told_once(autojump_clock) -> None:
    world = World({HOME: AT_HOME})
    with trio.move_on_after(4 * LEASE):
        await world.mapping().run()
    assert world.addresses() == [AT_HOME.address] and world.notices == [PortMapped(str(AT_HOME.address))]
    times = world.times("map")
    assert len(times) == 8 and all(LEASE / 2 <= b - a <= LEASE / 2 + SETTLE for a, b in pairwise(times))
    assert len(world.searches) == 1
    # Four ports when it is new, then the one that we have first; at the end that one alone goes back.
    assert world.asked[0][3][0] == PORT and len(world.asked[0][3]) == 4
    assert world.asked[-1][1:] == ("unmap", HOME, (PORT,))


@pytest.mark.parametrize(("lease", "pause"), [(600, 300), (1, portmap.LEASE_FLOOR / 2), (0, LEASE / 2)])
async def test_a_router_with_another_lease(autojump_clock, lease: int, pause: float) -> None:
    world = World({HOME: attrs.evolve(AT_HOME, lease=lease)})
    with trio.move_on_after(ssdp.SEARCH + 3 * (pause + SETTLE) + 1):
        await world.mapping().run()
    assert len(world.times("map")) == 4


async def test_no_router_is_looked_for_less_and_less(autojump_clock) -> None:
    world = World()
    with trio.move_on_after(24 * 3600):
        await world.mapping().run()
    gaps = [b - a for a, b in pairwise(world.searches)]
    assert gaps[0] < AGAIN[0] + 10 and AGAIN[1] <= gaps[-1] < AGAIN[1] + 10 and len(gaps) < 32
    assert world.told == [] and world.asked == [] and world.notices == [PortUnmapped(portmap.NO_ROUTER)]


async def test_a_router_that_goes_and_comes(autojump_clock) -> None:
    world = World({HOME: AT_HOME})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.mapping().run)
        await trio.sleep(10)
        world.routers.clear()
        await trio.sleep(LEASE)
        assert world.addresses() == [AT_HOME.address, None]
        assert [type(each) for each in world.notices] == [PortMapped, PortUnmapped]
        world.routers[HOME] = attrs.evolve(AT_HOME, address=Address("192.88.99.2", PORT))
        await trio.sleep(AGAIN[1])
        assert world.addresses()[2:] == [Address("192.88.99.2", PORT)]
        nursery.cancel_scope.cancel()


async def test_another_network(autojump_clock) -> None:
    """The old router is told, as far as it can be reached, and the new one asked at once."""
    world = World({HOME: AT_HOME})
    mapping = world.mapping()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mapping.run)
        await trio.sleep(100)
        world.routers = {CAFE: NotMapped("no")}
        mapping.network_changed()
        await trio.sleep(10)
        assert [each[1:3] for each in world.asked] == [("map", HOME), ("unmap", HOME), ("map", CAFE)]
        assert world.addresses() == [AT_HOME.address, None]
        world.routers = {CAFE: NotMapped("no"), HOME: AT_HOME}
        mapping.network_changed()
        await trio.sleep(10)
        assert world.addresses() == [AT_HOME.address, None, AT_HOME.address]  # the second of two
        nursery.cancel_scope.cancel()


async def test_the_same_network_again_changes_nothing(autojump_clock) -> None:
    world = World({CAFE: NotMapped("no"), HOME: AT_HOME})
    mapping = world.mapping()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mapping.run)
        await trio.sleep(100)
        mapping.network_changed()
        await trio.sleep(100)
        assert [each[1:3] for each in world.asked] == [("map", CAFE), ("map", HOME), ("map", HOME)]
        assert world.addresses() == [AT_HOME.address]
        nursery.cancel_scope.cancel()


async def test_a_network_that_never_rests_is_not_searched_all_the_time(autojump_clock) -> None:
    world = World()
    mapping = world.mapping()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mapping.run)
        for _ in range(600):
            await trio.sleep(0.1)
            mapping.network_changed()
        assert len(world.searches) <= 60 / SETTLE
        nursery.cancel_scope.cancel()


async def test_what_is_being_asked_for_is_taken_back_too(autojump_clock) -> None:
    world = World({HOME: AT_HOME}, takes=1.0)
    with trio.move_on_after(ssdp.SEARCH + 0.5):
        await world.mapping().run()
    (_, first, _, publics), (_, last, router, back) = world.asked
    assert (first, last, router) == ("map", "unmap", HOME) and back == publics and len(back) == 4


async def test_a_router_that_does_not_let_go_is_left(autojump_clock) -> None:
    world = World({HOME: AT_HOME})
    mapping = world.mapping()
    with trio.move_on_after(100) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mapping.run)
            await trio.sleep(99)
            world.takes = 1000.0
            await trio.sleep_forever()
    assert scope.cancelled_caught and trio.current_time() < 100 + WITHDRAW + 1
    assert world.asked[-1][1] == "unmap"


async def test_without_the_library_it_is_said_once(autojump_clock) -> None:
    world = World({HOME: NotMapped(portmap.MISSING, for_ever=True)})
    mapping = world.mapping()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mapping.run)
        await trio.sleep(1e6)
        mapping.network_changed()
        await trio.sleep(1e6)
        assert len(world.asked) == 1 and world.notices == [PortUnmapped(portmap.MISSING)]
        nursery.cancel_scope.cancel()


# With a router on loopback: the search, the process, and all together.

LOOPBACK = (Interface("lo", ipaddress.ip_interface("127.0.0.1/8")),)


@needs_library
async def test_found_on_loopback_mapped_and_taken_back() -> None:
    told: list[Address | None] = []
    async with fake_router() as router:
        router.mappings[PORT] = Entry("127.0.0.9", 1, 0)
        mapping = PortMapping(PORT, told.append, find=partial(find_routers, lambda: LOOPBACK, router.ssdp))
        with trio.move_on_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mapping.run)
                while not told:
                    await trio.sleep(0.02)
                (public,) = set(router.mappings) - {PORT}
                assert told == [Address(PUBLIC, public)] and public >= 49_152
                nursery.cancel_scope.cancel()
        assert list(router.mappings) == [PORT] and told == [Address(PUBLIC, public)]
    assert "miniupnpc" not in sys.modules


@pytest.mark.parametrize(
    "spoil",
    [
        lambda router: setattr(router, "location", "http://192.0.2.1/desc.xml"),
        lambda router: setattr(router, "location", f"http://127.0.0.2:{router.http}/desc.xml"),
        lambda router: setattr(router, "location", "https://127.0.0.1/desc.xml"),
        lambda router: setattr(router, "location", "http://127.0.0.1@192.0.2.1/"),
        lambda router: setattr(router, "location", "http://127.0.0.1/" + "a" * 500),
        lambda router: setattr(router, "answers", b"\xff" * 1500),
        lambda router: setattr(router, "answers", b""),
        lambda router: setattr(router, "answers", b"NOTIFY * HTTP/1.1\r\nLOCATION: http://127.0.0.1/\r\n\r\n"),
    ],
)
async def test_answers_that_do_not_count(monkeypatch, spoil: Callable[[object], None]) -> None:
    monkeypatch.setattr(ssdp, "SEARCH", 0.8)
    async with fake_router() as router:
        spoil(router)
        assert await find_routers(lambda: LOOPBACK, router.ssdp) == []
        assert router.searches == 6


async def test_an_answer_from_another_network_does_not_count(monkeypatch) -> None:
    monkeypatch.setattr(ssdp, "SEARCH", 0.8)
    async with fake_router() as router:
        assert await find_routers(lambda: LOOPBACK, router.ssdp) == [router.as_found]
        elsewhere = (Interface("lo", ipaddress.ip_interface("127.0.0.2/32")),)
        assert await find_routers(lambda: elsewhere, router.ssdp) == []


async def test_a_flood_of_answers_ends(monkeypatch) -> None:
    monkeypatch.setattr(ssdp, "SEARCH", 1.0)
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))

        async def flood() -> None:
            _, sender = await sock.recvfrom(2048)
            for number in range(100_000):
                await sock.sendto(b"HTTP/1.1 200 OK\r\nLocation: http://127.0.0.1/%d\r\n\r\n" % number, sender)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            with trio.fail_after(5):
                found = await find_routers(lambda: LOOPBACK, sock.getsockname())
            assert len(found) == ssdp.ROUTERS_LIMIT
            nursery.cancel_scope.cancel()


async def test_an_address_that_has_just_gone_is_no_error() -> None:
    gone = (Interface("eth9", ipaddress.ip_interface("192.0.2.77/24")),)
    assert await find_routers(lambda: gone) == []


def test_only_private_addresses_are_searched_from(monkeypatch) -> None:
    def here() -> tuple[Interface, ...]:
        names = ("eth0", "tun0", "eth1", "eth2", "lo", "eth3")
        ips = ("192.168.1.5/24", "10.8.0.2/24", "5.9.0.1/24", "fd00::1/64", "127.0.0.1/8", "100.64.0.9/10")
        return tuple(map(Interface, names, map(ipaddress.ip_interface, ips)))

    monkeypatch.setattr(ssdp, "local_interfaces", here)
    for host, names in (("", ["eth0"]), ("::", ["eth0"]), ("10.8.0.2", ["tun0"]), ("127.0.0.1", []), ("5.9.0.1", [])):
        assert [each.name for each in ssdp.private_interfaces(host)] == names


@given(st.binary(max_size=300))
@example(b"HTTP/1.1 200 OK\r\nLOCATION:http://192.0.2.1:99999/x\r\n\r\n")
def test_any_bytes_can_be_read(data: bytes) -> None:
    for each in (data, b"HTTP/1.1 200 OK\r\nLocation: http://192.0.2.1" + data):
        found = read_answer(each, "192.0.2.1")
        assert found is None or found.url.startswith("http://192.0.2.1")
