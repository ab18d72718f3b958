"""What is said to a router, by the real process, to a router on loopback whose manners are chosen."""

import time

import pytest

from meshd.drivers import igd, portmap
from meshd.drivers.portmap import Mapped, NotMapped, ask_router, read_answer
from meshd.model.address import Address
from tests.drivers.igd_kit import PUBLIC, Entry, FakeRouter, fake_router, needs_library

pytestmark = needs_library

PORT = 64_327
OTHER = Entry("127.0.0.9", 5000, 0, "somebody")


async def ask(router: FakeRouter, *publics: int, task: str = "map") -> Mapped | NotMapped:
    return await ask_router(task, router.as_found, PORT, 7200, publics or (PORT,))


async def test_a_port_is_mapped_renewed_and_given_back() -> None:
    async with fake_router() as router:
        for _ in range(2):
            assert await ask(router) == Mapped(Address(PUBLIC, PORT), 7200)
            assert router.mappings == {PORT: Entry("127.0.0.1", PORT, 7200)}
        assert router.requests("AddPortMapping")[0] == {
            "NewRemoteHost": "",
            "NewExternalPort": str(PORT),
            "NewProtocol": "UDP",
            "NewInternalPort": str(PORT),
            "NewInternalClient": "127.0.0.1",
            "NewEnabled": "1",
            "NewPortMappingDescription": "Tether",
            "NewLeaseDuration": "7200",
        }
        assert await ask(router, task="unmap") == NotMapped("taken back")
        assert not router.mappings


async def test_a_shorter_lease_is_seen() -> None:
    async with fake_router() as router:
        router.most = 600
        assert await ask(router) == Mapped(Address(PUBLIC, PORT), 600)


@pytest.mark.parametrize("error", [725, 402])
async def test_a_router_that_knows_no_lease(error: int) -> None:
    async with fake_router() as router:
        router.only_for_ever = error
        assert await ask(router) == Mapped(Address(PUBLIC, PORT), 0)
        assert router.mappings[PORT].lease == 0


@pytest.mark.parametrize("manner", ["tells", "refuses", "pretends"])
async def test_a_port_that_somebody_has_stays_theirs(manner: str) -> None:
    """It says whose the port is; or does not, and refuses (718); or says yes, and leaves it to them."""
    async with fake_router() as router:
        router.mappings[PORT] = OTHER
        router.tells_entries = manner != "refuses"
        router.gives_to_nobody = manner == "pretends"
        assert await ask(router, PORT, 50_000) == Mapped(Address(PUBLIC, 50_000), 7200)
        assert router.mappings == {PORT: OTHER, 50_000: Entry("127.0.0.1", PORT, 7200)}


async def test_all_ports_are_taken() -> None:
    async with fake_router() as router:
        router.mappings = {PORT: OTHER, 50_000: OTHER}
        answer = await ask(router, PORT, 50_000)
        assert answer == NotMapped("the router refused: all public ports that were tried are taken")
        router.tells_entries = False
        assert await ask(router, PORT, 50_000) == NotMapped("the router refused: ConflictInMappingEntry")


async def test_only_what_is_ours_is_given_back() -> None:
    async with fake_router() as router:
        router.mappings = {PORT: OTHER, 50_000: Entry("127.0.0.1", PORT, 7200), 50_001: Entry("127.0.0.1", 1, 0)}
        await ask(router, PORT, 50_000, 50_001, task="unmap")
        assert sorted(router.mappings) == [50_001, PORT]
        router.tells_entries = False
        await ask(router, PORT, 50_001, task="unmap")  # perhaps ours, perhaps not
        assert sorted(router.mappings) == [50_001, PORT]


async def test_a_name_in_place_of_an_address_is_not_taken_for_somebody_else() -> None:
    async with fake_router() as router:
        router.mappings[PORT] = Entry("laptop.lan", PORT, 100)
        router.gives_to_nobody = True
        assert await ask(router) == Mapped(Address(PUBLIC, PORT), 100)


@pytest.mark.parametrize("external", ["10.0.0.7", "192.168.1.1", "100.64.3.2", "0.0.0.0", "127.0.0.1", "224.0.0.1"])
async def test_a_second_router_is_told_as_none_and_not_asked_to_map(external: str) -> None:
    async with fake_router() as router:
        router.external = external
        answer = await ask(router)
        assert isinstance(answer, NotMapped) and external in answer.why
        assert not router.requests("AddPortMapping") and not router.mappings


@pytest.mark.parametrize("external", ["", "2001:db8::1", "tether.example", "1.2.3", "&#0;", "9" * 300, "1.2.3.4/8"])
async def test_an_address_that_is_none(external: str) -> None:
    async with fake_router() as router:
        router.external = external
        assert isinstance(await ask(router), NotMapped)
        assert not router.mappings


@pytest.mark.parametrize("error", [501, 606, 718, 724, 728, 999])
async def test_a_refusal(error: int) -> None:
    async with fake_router() as router:
        router.refusal = error
        answer = await ask(router, PORT, 50_000)
        assert isinstance(answer, NotMapped) and answer.why.startswith("the router refused: ")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0" * 5000,
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -7\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n" + b"x" * 5000,
        b"HTTP/1.1 200 OK\r\n\r\n<root><device>" + b"<a>" * 5000,
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\n\r\n",
        b'HTTP/1.1 200 OK\r\n\r\n<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><root>&c;</root>',
        b"HTTP/1.1 200 OK\r\n\r\n<root>" + b"<controlURL>" + b"/" * 5000 + b"</controlURL></root>",
    ],
)
async def test_garbage(raw: bytes) -> None:
    async with fake_router() as router:
        router.raw = raw
        assert isinstance(await ask(router), NotMapped)


@pytest.mark.parametrize(
    "raw", [b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 60_000, b"X: y\r\n" * 10_000], ids=["body", "head"]
)
async def test_an_answer_without_end_costs_little(monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    """The process ends by its limit of memory or by its deadline, and this one never holds a byte of it."""
    monkeypatch.setattr(portmap, "ANSWER", 3.0)
    async with fake_router() as router:
        router.raw, router.endless = raw, True
        began = time.monotonic()
        assert isinstance(await ask(router), NotMapped)
        assert time.monotonic() - began < 6


@pytest.mark.parametrize(
    "control",
    [
        "http://127.0.0.2:{}/control",
        "http://127.0.0.2:{}\\@127.0.0.1/control",
        "http://127.0.0.1@127.0.0.2:{}/control",
        "http://127.0.0.2:{}#@127.0.0.1/control",
        "http://[127.0.0.2]:{}/control",
        "HTTP://127.0.0.2:{}/control",
        "//127.0.0.2:{}/control",
        "@127.0.0.2:{}/control",
    ],
)
async def test_a_description_that_points_elsewhere_is_not_followed(control: str) -> None:
    async with fake_router() as router, fake_router("127.0.0.2") as elsewhere:
        assert await ask(elsewhere) == Mapped(Address(PUBLIC, PORT), 7200)  # it could be reached
        elsewhere.asked.clear()
        router.control = control.format(elsewhere.http)
        await ask(router)
        assert not elsewhere.asked


async def test_nobody_is_there() -> None:
    async with fake_router() as router:
        gone = router.as_found
    assert await ask_router("map", gone, PORT, 7200, (PORT,)) == NotMapped(
        "the router refused: No UPnP device discovered"
    )


async def test_a_python_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fake_router() as router:
        monkeypatch.setattr(portmap.sys, "executable", "/nowhere/python")
        assert await ask(router) == NotMapped(portmap.NO_ANSWER)


async def test_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(igd.sys.modules, "miniupnpc", None)
    assert igd.converse("map", "http://127.0.0.1/", "127.0.0.1", 1, 1, [1]) == ["missing"]
    assert read_answer(b'["missing"]', [1]) == NotMapped(portmap.MISSING, for_ever=True)


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"{", b"\xff", b"[]", b"{}", b"null", b"[1]", b'["mapped"]', b"[" * 500_000),
        b'["mapped","10.0.0.1",1,1]',
        b'["mapped","192.88.99.1",2,1]',  # never asked for
        b'["mapped","192.88.99.1",1,-1]',
        b'["mapped","192.88.99.1","1",1]',
    ],
)
def test_what_the_process_says_is_checked_again(line: bytes) -> None:
    assert read_answer(line, [1]) == NotMapped(portmap.NO_ANSWER)
