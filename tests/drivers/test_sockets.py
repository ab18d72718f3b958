"""Real sockets on loopback, and trio's own contract suite for streams."""

import socket

import pytest
import trio
import trio.testing

from meshd.drivers.quic import DialFailedError, open_endpoint
from meshd.drivers.udp import UdpSocket
from meshd.model.address import Address
from tests.drivers.pairs import IDENTITY, engine, every_engine, every_pair, read_all


@every_pair
async def test_echo_on_loopback(pair):
    async with (
        open_endpoint(engine=engine(pair[1]), identity=IDENTITY, host="127.0.0.1", accept=True) as server,
        open_endpoint(engine=engine(pair[0]), identity=IDENTITY, host="127.0.0.1") as client,
    ):
        with trio.fail_after(20):
            near = await client.dial(Address("127.0.0.1", server.port), timeout=10)
            far = await server.accept()
            near.admit()
            far.admit()
            stream = await near.open_stream()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, bytes(1_000_000))
                other = await far.accept_stream()
                received = 0
                while received < 1_000_000:
                    received += len(await other.receive_some())
            await other.send_eof()
            assert await read_all(stream) == b""
            near.close(3, "done")
            assert (await far.wait_closed()).code == 3


@every_engine
async def test_dual_stack_socket_is_reached_by_both_versions_and_by_name(name):
    """An endpoint that dials itself has one engine at both ends."""
    async with open_endpoint(engine=engine(name), identity=IDENTITY, accept=True) as server:
        for host in ("127.0.0.1", "localhost", *(["::1"] if socket.has_dualstack_ipv6() else [])):
            near = await server.dial(Address(host, server.port), timeout=10)
            await server.accept()
            assert near.peer.host in ("127.0.0.1", "::1")


async def test_a_taken_port_raises():
    # One engine: the socket is asked before it.
    async with open_endpoint(engine=engine("qh3"), identity=IDENTITY, host="127.0.0.1") as first:
        with pytest.raises(OSError, match="in use"):
            async with open_endpoint(engine=engine("qh3"), identity=IDENTITY, host="127.0.0.1", port=first.port):
                pass


async def test_ipv6_from_an_ipv4_socket():
    # One engine: the socket is asked before it.
    async with open_endpoint(engine=engine("qh3"), identity=IDENTITY, host="127.0.0.1") as client:
        with pytest.raises(DialFailedError, match="IPv6"):
            await client.dial(Address("::1", 9), timeout=5)


async def test_without_ipv6_the_socket_falls_back(monkeypatch):
    genuine = trio.socket.socket

    def no_ipv6(family=socket.AF_INET, *rest):
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return genuine(family, *rest)

    monkeypatch.setattr(trio.socket, "socket", no_ipv6)
    udp = await UdpSocket.bind(None, 0)
    assert udp.port and not udp.can_reach("::1") and udp.can_reach("127.0.0.1")
    udp.close()


SIZES = [1200] * 50 + [700] + [1200] * 3 + [5, 1] + [1452] * 60


@pytest.mark.parametrize("segments", [True, False])
@pytest.mark.parametrize("host", [None, "127.0.0.1"])
async def test_datagrams_keep_their_borders(host, segments):
    """Whether or not the kernel takes and gives several at once."""
    one, other = await UdpSocket.bind(host, 0), await UdpSocket.bind(host, 0)
    one._segments_out &= segments
    try:
        sent = [bytes([number]) * size for number, size in enumerate(SIZES)]
        assert await one.send([(data, ("127.0.0.1", other.port)) for data in sent]) is None
        received = []
        with trio.fail_after(5):
            while len(received) < len(sent):
                received += await other.receive()
        assert [data for data, _ in received] == sent
        assert {address for _, address in received} == {("127.0.0.1", one.port)}
    finally:
        one.close()
        other.close()


async def test_a_kernel_without_segmentation_is_served_one_by_one(monkeypatch):
    one, other = await UdpSocket.bind("127.0.0.1", 0), await UdpSocket.bind("127.0.0.1", 0)

    class Refusing:
        def __init__(self, real):
            self.real = real

        def sendmsg(self, *arguments):
            raise OSError(22, "Invalid argument")

        def __getattr__(self, name):
            return getattr(self.real, name)

    try:
        one._socket, one._segments_out = Refusing(one._socket), True
        assert await one.send([(b"x" * 100, ("127.0.0.1", other.port))] * 5) is None
        assert not one._segments_out
        received = []
        with trio.fail_after(5):
            while len(received) < 5:
                received += await other.receive()
    finally:
        one.close()
        other.close()


async def test_a_full_kernel_buffer_is_waited_for():
    receiver, sender = await UdpSocket.bind("127.0.0.1", 0), await UdpSocket.bind("127.0.0.1", 0)
    try:
        assert await sender.send([(bytes(1200), ("127.0.0.1", receiver.port))] * 5000) is None
        assert await sender.send([(b"x", ("255.255.255.255", 9))]) is not None
        assert (await receiver.receive())[0] == (bytes(1200), ("127.0.0.1", sender.port))
    finally:
        receiver.close()
        sender.close()


async def test_the_forms_of_numeric_hosts():
    udp = await UdpSocket.bind("127.0.0.1", 0)
    try:
        assert udp.local_form("::ffff:192.0.2.1") == "192.0.2.1"
        assert udp.local_form("2001:DB8:0::1") == "2001:db8::1"
        assert udp.local_form("fe80::1%7") == "fe80::1" and udp._scopes == {"fe80::1": 7}
        with pytest.raises(ValueError, match="appear"):
            udp.local_form("example.org")
        for number in range(1000):
            udp.local_form(f"fe80::{number:x}%7")
        assert len(udp._scopes) == 256
    finally:
        udp.close()


@every_pair
async def test_the_contract_of_trio_streams(pair):
    """On real time: the suite sends in a loop until it fails, and virtual time stands still for who never waits."""
    async with (
        open_endpoint(engine=engine(pair[1]), identity=IDENTITY, host="127.0.0.1", accept=True) as server,
        open_endpoint(engine=engine(pair[0]), identity=IDENTITY, host="127.0.0.1") as client,
    ):
        near = await client.dial(Address("127.0.0.1", server.port), timeout=10)
        far = await server.accept()
        near.admit()
        far.admit()

        async def make():
            stream = await near.open_stream()
            await stream.send_all(b"!")
            other = await far.accept_stream()
            assert await other.receive_some(1) == b"!"
            return stream, other

        with trio.fail_after(30):
            await trio.testing.check_half_closeable_stream(make, None)
