"""A server and its clients on a simulated network: clients say frames and wait for others."""

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import attrs
import pytest
import trio

from meshd.drivers.quic import Connection, Endpoint, Stream, open_endpoint
from meshd.drivers.tls_identity import TlsIdentity
from meshd.errors import ConnectionLostError
from meshd.model.address import Address
from meshd.wire.framing import FrameDecoder
from meshd.wire.rendezvous import SERVER_FRAMES, ClientMessage, Observed, ServerMessage, decode_server, encode
from rendezvous.app import ALPNS, Server, limits
from tests.drivers.pairs import ENGINES, IDENTITY, engine
from tests.sim.network import Host, Network, simulated

every_engine = pytest.mark.parametrize("name", ENGINES)
KEY = TlsIdentity.generate()


class Caller:
    """One connection to a server, with what the server said on it."""

    def __init__(self, endpoint: Endpoint, connection: Connection, stream: Stream) -> None:
        self.endpoint, self.connection, self.stream = endpoint, connection, stream
        self.heard: list[ServerMessage] = []
        self._news = trio.Event()

    async def say(self, *messages: ClientMessage) -> None:
        await self.stream.send_all(b"".join(encode(each) for each in messages))

    async def hear(self, kind: type, within: float = 5.0, **fields: Any) -> Any:
        """Take out the first message of this kind with these fields, waiting for it; what came before it stays."""
        with trio.fail_after(within):
            while True:
                for each in self.heard:
                    if isinstance(each, kind) and all(getattr(each, key) == value for key, value in fields.items()):
                        self.heard.remove(each)
                        return each
                self._news = trio.Event()
                await self._news.wait()

    async def listen(self) -> None:
        decoder = FrameDecoder(SERVER_FRAMES)
        with contextlib.suppress(ConnectionLostError):
            while data := await self.stream.receive_some():
                decoder.receive(data)
                while (frame := decoder.next_frame()) is not None:
                    self.heard.append(decode_server(*frame))
                    self._news.set()

    async def is_closed(self, within: float = 5.0) -> int:
        """Wait for the server to close, and give its code."""
        with trio.fail_after(within):
            closed = await self.connection.wait_closed()
        assert closed.by_peer, closed
        return closed.code


@attrs.define
class Served:
    """A server at work, and callers' hosts."""

    network: Network
    host: Host
    nursery: trio.Nursery
    engine: Any
    server: Server
    target: Address
    count: int = 0
    options: dict[str, Any] = attrs.field(factory=dict)
    _stop: Any = None

    async def caller(
        self, host: Host | None = None, *, endpoint: Endpoint | None = None, timeout: float = 10
    ) -> Caller:
        """Dial from a host of its own, or one that is named; nothing has been said yet."""
        self.count += 1
        if endpoint is None:
            host = host or self.network.host(f"client{self.count}")
            with host:
                endpoint = await self.nursery.start(partial(_keep_open, self.engine))
        connection = await endpoint.dial(self.target, timeout=timeout, alpns=ALPNS)
        connection.admit()
        made = Caller(endpoint, connection, await connection.open_stream())
        self.nursery.start_soon(made.listen)
        return made

    async def start(self) -> None:
        """Bring a server up, with the same key and port."""
        with self.host:
            self.server, self._stop = await self.nursery.start(partial(_serve, self.engine, self.options))
        self.target = Address(self.host.address, self.server.endpoint.port)

    async def stop(self) -> None:
        self._stop()
        await trio.sleep(1)


async def _keep_open(made: Any, task_status: Any) -> None:
    async with open_endpoint(engine=made, identity=IDENTITY) as endpoint:
        task_status.started(endpoint)
        await trio.sleep_forever()


async def _serve(made: Any, options: dict[str, Any], task_status: Any) -> None:
    opened = open_endpoint(engine=made, identity=KEY, port=4440, alpns=ALPNS, accept=True, limits=limits(**options))
    async with opened as endpoint:
        server = Server(endpoint, options.get("clients", 1000))
        with trio.CancelScope() as scope:
            task_status.started((server, scope.cancel))
            await server.run()


@contextlib.asynccontextmanager
async def served(name: str = "qh3", *, seed: int = 1, clients: int = 1000, **link: Any) -> AsyncIterator[Served]:
    async with simulated(seed, **link) as network, trio.open_nursery() as nursery:
        nothing: Any = None
        world = Served(
            network, network.host("server"), nursery, engine(name), nothing, nothing, options={"clients": clients}
        )
        await world.start()
        yield world
        nursery.cancel_scope.cancel()


async def observed(caller: Caller) -> Observed:
    found: Observed = await caller.hear(Observed)
    return found
