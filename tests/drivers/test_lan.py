"""Multicast DNS on loopback: real zeroconf threads, waits for sightings with a deadline, nothing beyond 127.0.0.1."""

import ipaddress
import json
import secrets
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import zeroconf
from hypothesis import given
from hypothesis import strategies as st

from meshd.drivers import lan, networks
from meshd.errors import UsageError
from meshd.model.candidate import Candidate, Gone, Invitation, Neighbour, Sighting

LOOPBACK = ("127.0.0.1",)
DEADLINE = 10.0
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "finding.json").read_text())


async def sighting_of(sightings: trio.MemoryReceiveChannel[Sighting], port: int) -> Candidate:
    """The candidate at `port`; other tests may announce theirs beside it."""
    with trio.fail_after(DEADLINE):
        while True:
            sighting = await sightings.receive()
            if isinstance(sighting, Candidate) and sighting.addresses[0].port == port:
                return sighting


def free_port() -> int:
    return 20_000 + secrets.randbelow(20_000)


@pytest.mark.parametrize("number", [None, 7, 999])
async def test_who_asks_finds_who_announced_before(number: int | None) -> None:
    port = free_port()
    async with lan.announce(port, number, LOOPBACK), lan.browse(LOOPBACK) as sightings:
        found = await sighting_of(sightings, port)
    assert found.number == number
    assert str(found.addresses[0]) == f"127.0.0.1:{port}"


async def test_who_listens_hears_who_announces_later_and_leaves() -> None:
    port = free_port()
    async with lan.browse(LOOPBACK) as sightings:
        async with lan.announce(port, 12, LOOPBACK):
            found = await sighting_of(sightings, port)
        with trio.fail_after(DEADLINE):
            while await sightings.receive() != Gone(found.instance):
                pass


async def test_names_on_the_network_are_random_and_tell_nothing() -> None:
    ports = (free_port(), free_port())
    instances = []
    for port in ports:
        async with lan.announce(port, None, LOOPBACK), lan.browse(LOOPBACK) as sightings:
            instances.append((await sighting_of(sightings, port)).instance)
    assert instances[0] != instances[1]
    assert all(len(bytes.fromhex(instance)) == 8 for instance in instances)


async def test_cancelling_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    with trio.CancelScope() as scope:
        async with lan.announce(free_port(), None, LOOPBACK), lan.browse(LOOPBACK):
            scope.cancel()
            await trio.sleep_forever()
    running = [thread.name for thread in threading.enumerate() if "zeroconf" in thread.name.lower()]
    assert not running
    assert threading.active_count() <= before + 2  # trio keeps idle worker threads for a while


@pytest.mark.parametrize("named", ["192.0.2.254", "::1", "localhost", ""])
def test_an_interface_that_is_not_ours_is_refused_with_those_that_are(named: str) -> None:
    with pytest.raises(UsageError, match=r"127\.0\.0\.1"):
        lan.check_interfaces([named])


def test_interfaces_of_ours_are_taken() -> None:
    assert lan.check_interfaces(["127.0.0.1", "127.0.0.2"]) == ("127.0.0.1", "127.0.0.2")


def test_addresses_are_tried_in_the_order_in_which_they_are_likely_to_lead_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = (
        networks.Interface("docker0", ipaddress.ip_interface("172.17.0.1/16")),
        networks.Interface("wlan0", ipaddress.ip_interface("192.168.1.5/24")),
    )
    monkeypatch.setattr(lan, "local_interfaces", lambda: own)
    heard = ["127.0.0.1", "172.17.0.9", "10.9.9.9", "192.168.1.7", "224.0.0.1", "0.0.0.0", "169.254.1.1"]
    order = [str(ip) for ip in lan._preferred(heard)]
    assert order == ["192.168.1.7", "172.17.0.9", "10.9.9.9", "127.0.0.1"]


def tell_everybody(*names: str) -> None:
    """Multicast an answer that gives these instances and nothing else of them, as any host on the LAN may."""
    answer = zeroconf.DNSOutgoing(0x8400)
    for name in names:
        answer.add_answer_at_time(zeroconf.DNSPointer(lan.SERVICE, 12, 1, 120, f"{name}.{lan.SERVICE}"), 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        for packet in answer.packets():
            sender.sendto(packet, ("224.0.0.251", 5353))


async def test_a_stranger_can_neither_stall_nor_end_a_search(capfd: pytest.CaptureFixture[str]) -> None:
    """Sixty instances without addresses, and names that would hurt a terminal; then the listener that is meant."""
    port = free_port()
    async with lan.browse(LOOPBACK) as sightings:
        tell_everybody("\x1b]0;owned\x07", "a" * 63, "ff" * 20)
        tell_everybody(*(secrets.token_hex(8) for _ in range(60)))
        async with lan.announce(port, 7, LOOPBACK):
            assert (await sighting_of(sightings, port)).number == 7
        closing = trio.current_time()
    assert trio.current_time() - closing < lan.CLOSE_TIMEOUT
    assert capfd.readouterr().err == ""


async def neighbour_at(presence: lan.Presence, port: int, tags: tuple[bytes, ...]) -> Neighbour:
    with trio.fail_after(DEADLINE):
        async for sighting in presence.heard:
            if isinstance(sighting, Neighbour) and sighting.addresses[0].port == port and sighting.tags == tags:
                return sighting
    raise AssertionError("nothing more is heard")


async def test_daemons_hear_of_each_other_of_what_changes_and_never_of_themselves() -> None:
    port, other_port = free_port(), free_port()
    tags, later = (b"\x00" * 8, b"\xff" * 8), tuple(bytes([number]) * 8 for number in range(8))
    async with lan.attend(port, lan.Said(tags), LOOPBACK) as ann:
        async with lan.attend(other_port, lan.Said((b"12345678",)), LOOPBACK) as bob:
            found = await neighbour_at(bob, port, tags)
            assert found.instance == ann.instance and str(found.addresses[0]) == f"127.0.0.1:{port}"
            await neighbour_at(ann, other_port, (b"12345678",))
            await ann.say(lan.Said(later))
            assert (await neighbour_at(bob, port, later)).instance == ann.instance
        with trio.fail_after(DEADLINE):
            heard = [sighting async for sighting in _until_gone(ann, bob.instance)]
        assert all(each.instance != ann.instance for each in heard)


async def _until_gone(presence: lan.Presence, instance: str) -> AsyncIterator[Neighbour | Gone]:
    async for sighting in presence.heard:
        yield sighting
        if sighting == Gone(instance):
            return


async def test_a_daemons_window_is_found_while_it_is_open_and_only_then() -> None:
    port = free_port()
    async with lan.attend(port, lan.Said((b"12345678",)), LOOPBACK) as daemon, lan.browse(LOOPBACK) as sightings:
        await daemon.say(lan.Said((b"12345678",), Invitation(7)))
        assert (await sighting_of(sightings, port)).number == 7
        await daemon.say(lan.Said((b"12345678",)))
        with trio.fail_after(DEADLINE):
            while await sightings.receive() != Gone(daemon.instance):
                pass


def info_of(text: dict[str, str]) -> zeroconf.ServiceInfo:
    return zeroconf.ServiceInfo(lan.SERVICE, f"x.{lan.SERVICE}", port=7, properties=text, parsed_addresses=["10.1.1.1"])


@pytest.mark.parametrize("vector", VECTORS["neighbours"])
def test_published_texts_of_neighbours(vector) -> None:
    found = lan._understood(info_of(vector["text"]), "x", lan._neighbour)
    assert found is not None and [tag.hex() for tag in found.tags] == vector["tags"]


@pytest.mark.parametrize("vector", VECTORS["not_neighbours"], ids=lambda vector: vector["why"])
def test_texts_that_are_no_neighbours(vector) -> None:
    assert lan._understood(info_of(vector["text"]), "x", lan._neighbour) is None


@given(st.dictionaries(st.sampled_from(["v", "tags", "pair", "x"]), st.text(max_size=150), max_size=4))
def test_no_text_of_a_strangers_raises(text) -> None:
    for read in (lan._neighbour, lan._candidate):
        found = lan._understood(info_of({key: value[:60] for key, value in text.items()} | {"v": "1"}), "x", read)
        assert found is None or found.instance == "x"


def test_the_longest_announcement_fits_one_string() -> None:
    """RFC 6763, section 6.1: 255 bytes."""
    text = lan._text([b"\xff" * 8] * 8, Invitation(999))
    assert max(len(f"{key}={value}") for key, value in text.items()) <= 255
