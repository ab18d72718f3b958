"""Multicast DNS on loopback: real zeroconf threads, waits for sightings with a deadline, nothing beyond 127.0.0.1."""

import ipaddress
import secrets
import socket
import threading

import pytest
import trio
import zeroconf

from meshd.drivers import lan
from meshd.errors import UsageError
from meshd.model.candidate import Candidate, Gone, Sighting

LOOPBACK = ("127.0.0.1",)
DEADLINE = 10.0


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
        lan.Interface("docker0", ipaddress.ip_interface("172.17.0.1/16")),
        lan.Interface("wlan0", ipaddress.ip_interface("192.168.1.5/24")),
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
