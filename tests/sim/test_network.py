"""The simulated network itself: what it does to datagrams, and that the same seed does the same."""

import errno
import socket

import pytest
import trio

from tests.sim.network import run, simulated


async def udp(host, port=0, family=socket.AF_INET):
    with host:
        made = trio.socket.socket(family, socket.SOCK_DGRAM)
        await made.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
        return made


async def test_a_datagram_arrives_after_the_delay(autojump_clock):
    async with simulated(1, delay=0.25) as network:
        alice, bob = network.host("alice"), network.host("bob")
        one, other = await udp(alice), await udp(bob, 1234)
        start = trio.current_time()
        await one.sendto(b"hello", (bob.address, 1234))
        assert await other.recvfrom(100) == (b"hello", (alice.address, one.getsockname()[1]))
        assert trio.current_time() - start == pytest.approx(0.25)
        await one.sendto(b"hello", (bob.address, 1234))
        assert (await other.recvfrom(2))[0] == b"he"


async def test_dual_stack(autojump_clock):
    async with simulated(1) as network:
        alice, bob = network.host("alice"), network.host("bob")
        one, other = await udp(alice, family=socket.AF_INET6), await udp(bob, 7, family=socket.AF_INET6)
        await one.sendto(b"4", (f"::ffff:{bob.address}", 7, 0, 0))
        assert (await other.recvfrom(9))[1][0] == f"::ffff:{alice.address}"
        await one.sendto(b"6", ("fd00::2", 7, 0, 0))
        assert (await other.recvfrom(9))[1][0] == "fd00::1"
        four_only = network.host("four", "10.9.9.9")
        with four_only, pytest.raises(OSError, match=os_error(errno.EADDRNOTAVAIL)):
            await udp(four_only, family=socket.AF_INET6)
        with pytest.raises(OSError, match=os_error(errno.ENETUNREACH)):
            await (await udp(four_only)).sendto(b"6", ("fd00::2", 7))


def os_error(number):
    import os

    return os.strerror(number)


async def test_ports(autojump_clock):
    async with simulated(1) as network:
        alice = network.host("alice")
        first = await udp(alice, 99)
        with pytest.raises(OSError, match=os_error(errno.EADDRINUSE)):
            await udp(alice, 99)
        with pytest.raises(OSError, match=os_error(errno.EADDRINUSE)):
            await udp(alice, 99, family=socket.AF_INET6)
        first.close()
        await udp(alice, 99)
        ports = {(await udp(alice)).getsockname()[1] for _ in range(5)}
        assert len(ports) == 5
        with alice, pytest.raises(OSError, match=os_error(errno.EADDRNOTAVAIL)):
            await trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM).bind(("10.77.0.1", 0))
        with pytest.raises(OSError, match="UDP only"):
            trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)


async def test_closing_wakes_and_cancelling_loses_nothing(autojump_clock):
    async with simulated(1) as network:
        alice, bob = network.host("alice"), network.host("bob")
        one, other = await udp(alice), await udp(bob, 7)
        with trio.move_on_after(1) as scope:
            await other.recvfrom(9)
        assert scope.cancelled_caught
        await one.sendto(b"x", (bob.address, 7))
        assert (await other.recvfrom(9))[0] == b"x"
        async with trio.open_nursery() as nursery:

            async def wait():
                with pytest.raises(trio.ClosedResourceError):
                    await other.recvfrom(9)

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            other.close()
        other.close()


async def fates(seed, count=400, **link):
    """Numbers of the datagrams that arrived, in order, with their times."""
    async with simulated(seed, **link) as network:
        alice, bob = network.host("alice"), network.host("bob")
        one, other = await udp(alice), await udp(bob, 7)
        for number in range(count):
            await one.sendto(number.to_bytes(4, "big") + bytes(number), (bob.address, 7))
        found = []
        with trio.move_on_after(10):
            while True:
                data, _ = await other.recvfrom(2000)
                found.append((int.from_bytes(data[:4], "big"), round(trio.current_time(), 9)))
        return found, network


def test_the_same_seed_does_the_same():
    link = {"loss": 0.1, "jitter": 0.01, "duplicate": 0.1, "reorder": 0.1}

    async def twice(seed):
        return (await fates(seed, **link))[0]

    first = run(twice, 5)
    assert first == run(twice, 5)
    assert first != run(twice, 6)


async def test_loss(autojump_clock):
    found, network = await fates(3, loss=0.25)
    assert 60 <= 400 - len(found) <= 140
    assert network.sent == 400 and network.lost == 400 - len(found)
    assert found == sorted(found)


async def test_duplication(autojump_clock):
    found, _ = await fates(3, duplicate=0.25)
    assert 460 <= len(found) <= 540 and len({number for number, _ in found}) == 400


@pytest.mark.parametrize("change", [{"jitter": 0.01}, {"reorder": 0.1}])
async def test_reordering(change, autojump_clock):
    found, _ = await fates(3, **change)
    numbers = [number for number, _ in found]
    assert sorted(numbers) == list(range(400)) and numbers != sorted(numbers)


async def test_mtu(autojump_clock):
    found, _ = await fates(3, mtu=28 + 4 + 99)
    assert [number for number, _ in found] == list(range(100))


async def test_a_receivers_buffer_is_finite(autojump_clock):
    async with simulated(1, mtu=70_000) as network:
        alice, bob = network.host("alice"), network.host("bob")
        one, other = await udp(alice), await udp(bob, 7)
        for _ in range(40):
            await one.sendto(bytes(60_000), (bob.address, 7))
        await trio.sleep(1)
        assert len(other._arrived) == 17


async def test_cut_heal_and_a_link_of_its_own(autojump_clock):
    async with simulated(1) as network:
        alice, bob, carol = network.host("alice"), network.host("bob"), network.host("carol")
        one, other, third = await udp(alice), await udp(bob, 7), await udp(carol, 7)
        network.cut(alice, bob)
        network.at(2, network.heal, alice, bob)
        network.link(alice, carol, delay=1.0)
        for _ in range(3):
            await one.sendto(b"x", (bob.address, 7))
            await trio.sleep(0.9)
        await trio.sleep(0.5)
        assert len(other._arrived) == 0
        await one.sendto(b"y", (bob.address, 7))
        assert (await other.recvfrom(9))[0] == b"y"
        start = trio.current_time()
        await one.sendto(b"z", (carol.address, 7))
        await third.recvfrom(9)
        assert trio.current_time() - start == pytest.approx(1.0)


async def test_unknown_targets_and_loopback(autojump_clock):
    async with simulated(1) as network:
        alice = network.host("alice")
        one, other = await udp(alice), await udp(alice, 7)
        with pytest.raises(OSError, match=os_error(errno.EHOSTUNREACH)):
            await one.sendto(b"x", ("192.0.2.1", 7))
        await one.sendto(b"nobody listens", (alice.address, 8))
        await one.sendto(b"x", ("127.0.0.1", 7))
        assert await other.recvfrom(9) == (b"x", ("127.0.0.1", one.getsockname()[1]))


async def test_virtual_time_is_required():
    with pytest.raises(RuntimeError, match="virtual time"):
        async with simulated(1):
            pass


async def test_a_failure_names_the_seed(autojump_clock):
    with pytest.raises(BaseExceptionGroup) as caught:
        async with simulated(4711, loss=0.5):
            raise ZeroDivisionError
    assert "4711" in caught.value.__notes__[0]
