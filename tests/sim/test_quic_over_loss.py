"""The real driver over a bad network: 64 KiB there and back, a tenth lost, some doubled and some late."""

import pytest
import trio

from meshd.drivers.quic import Endpoint, open_endpoint
from meshd.drivers.quic_engine import Engine
from meshd.drivers.tls_identity import TlsIdentity
from meshd.model.address import Address
from tests.sim.network import simulated

DATA = bytes(range(256)) * 256
IDENTITY = TlsIdentity.generate()


async def echo_once(server: Endpoint) -> None:
    connection = await server.accept()
    connection.admit()
    stream = await connection.accept_stream()
    while part := await stream.receive_some():
        await stream.send_all(part)
    await stream.send_eof()
    assert (await connection.wait_closed()).by_peer


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("far", ["qh3", "aioquic"])
@pytest.mark.parametrize("near", ["qh3", "aioquic"])
async def test_echo(near, far, seed, autojump_clock):
    async with simulated(seed, loss=0.1, delay=0.015, jitter=0.005, duplicate=0.02, reorder=0.02) as network:
        alice, bob = network.host("alice"), network.host("bob")
        opened_there = open_endpoint(engine=Engine(far), identity=IDENTITY, accept=True, host=bob.address)
        opened_here = open_endpoint(engine=Engine(near), identity=IDENTITY, host=alice.address)
        async with opened_there as server, opened_here as client, trio.open_nursery() as nursery:
            nursery.start_soon(echo_once, server)
            connection = await client.dial(Address(bob.address, server.port), timeout=20)
            connection.admit()
            stream = await connection.open_stream()
            nursery.start_soon(send, stream)
            received = bytearray()
            while part := await stream.receive_some():
                received += part
            assert received == DATA
            connection.close(0, "done")
        assert network.lost
        assert trio.current_time() < 30


async def send(stream):
    await stream.send_all(DATA)
    await stream.send_eof()
