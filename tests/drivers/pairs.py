"""Two endpoints on a simulated network, for every pairing of the engines."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import attrs
import pytest

from meshd.drivers.quic import ALPNS, Connection, Endpoint, Limits, Stream, open_endpoint
from meshd.drivers.quic_engine import Engine
from meshd.drivers.tls_identity import TlsIdentity
from meshd.model.address import Address
from tests.sim.network import Host, Network, simulated

ENGINES = ("qh3", "aioquic")
PAIRS = [(client, server) for client in ENGINES for server in ENGINES]
every_pair = pytest.mark.parametrize("pair", PAIRS, ids="-".join)
every_engine = pytest.mark.parametrize("name", ENGINES)
IDENTITY = TlsIdentity.generate()

engine = cache(Engine)


@attrs.define
class World:
    """Alice dials, Bob accepts."""

    network: Network
    alice: Host
    bob: Host
    client: Endpoint
    server: Endpoint
    near: Connection = attrs.field(init=False)
    far: Connection = attrs.field(init=False)

    @property
    def target(self) -> Address:
        return Address(self.bob.address, self.server.port)


@asynccontextmanager
async def endpoints(
    pair: tuple[str, str],
    *,
    seed: int = 1,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    identity: TlsIdentity = IDENTITY,
    client_alpns: tuple[str, ...] = ALPNS,
    server_alpns: tuple[str, ...] = ALPNS,
    accept: bool = True,
    **link: Any,
) -> AsyncIterator[World]:
    async with simulated(seed, **link) as network:
        alice, bob = network.host("alice"), network.host("bob")
        with bob:
            opened = open_endpoint(
                engine=engine(pair[1]), identity=identity, accept=accept, limits=limits, alpns=server_alpns
            )
            async with opened as server:
                with alice:
                    opened = open_endpoint(engine=engine(pair[0]), identity=IDENTITY, limits=limits, alpns=client_alpns)
                    async with opened as client:
                        yield World(network, alice, bob, client, server)


@asynccontextmanager
async def linked(pair: tuple[str, str], *, admit: bool = True, **options: Any) -> AsyncIterator[World]:
    """`endpoints` with one connection between them."""
    async with endpoints(pair, **options) as world:
        world.near = await world.client.dial(world.target, timeout=20)
        world.far = await world.server.accept()
        if admit:
            world.near.admit()
            world.far.admit()
        yield world


async def open_pair(world: World) -> tuple[Stream, Stream]:
    """A stream as both sides hold it; one byte has gone over it."""
    near = await world.near.open_stream()
    await near.send_all(b"!")
    far = await world.far.accept_stream()
    assert await far.receive_some(1) == b"!"
    return near, far


async def read_all(stream: Stream) -> bytes:
    """Everything up to the end of a stream."""
    data = bytearray()
    while part := await stream.receive_some():
        data += part
    return bytes(data)
