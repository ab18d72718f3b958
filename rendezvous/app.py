"""Serving: connections in, the board asked, what it says sent on. One task for each client, which waits for its frames.

Nothing here waits for a client to read: what is told is handed to the engine at once, and who lets it pile up is let go.
"""

import contextlib
import secrets
from collections import Counter
from typing import Final

import attrs
import structlog
import trio

from meshd.drivers.quic import Connection, Endpoint, Limits, Stream, VersionMismatchError
from meshd.drivers.quic_door import source_of
from meshd.drivers.quic_engine import IDLE_TIMEOUT
from meshd.errors import ConnectionLostError, RemoteProtocolError
from meshd.model.address import Address
from meshd.wire.constants import RENDEZVOUS_PROTOCOL, CloseCode
from meshd.wire.framing import HEADER, FrameDecoder
from meshd.wire.rendezvous import (
    CLIENT_FRAMES,
    FRAME_LIMIT,
    Enter,
    Observed,
    ServerMessage,
    Wait,
    decode_client,
    encode,
)
from rendezvous.board import Board, Outcome

ALPNS: Final = (RENDEZVOUS_PROTOCOL,)

DEFAULT_CLIENTS: Final = 10_000
"""Clients at once: some 40 KiB each, so 400 MiB."""

DEFAULT_HANDSHAKES: Final = 400.0
"""Handshakes a second: at two milliseconds each, most of a core."""

CONNECTIONS_PER_SOURCE: Final = 16
"""Clients of one IPv4 address or IPv6 /64: a household and its neighbours behind one router."""

FRAMES_PER_SECOND: Final = 20.0
FRAMES_AT_ONCE: Final = 300
"""Frames of one client: it waits for a whole mesh at once when it comes, and for one member now and then later."""

UNSENT_LIMIT: Final = 64 * 1024
"""Bytes that may wait for a client that does not read: a hundred matches with cards, which nobody honest leaves lying."""

ROUND_TRIP_TIMEOUT: Final = 1.0
"""Seconds that a client's first question waits for the measuring of its round trip; beyond it both begin at once."""

PING: Final = 30.0
"""Quiet seconds before the server asks whether a client is there: clients ping every 15 s, so it need not."""

EXPIRY_GRAIN: Final = 1.0
"""Seconds between two looks at what has expired: nobody minds a second in fifteen minutes."""

WARN_SECONDS: Final = 60.0
"""Seconds between two warnings that newcomers find no place."""


def limits(clients: int = DEFAULT_CLIENTS, handshakes: float | None = DEFAULT_HANDSHAKES) -> Limits:
    """What strangers may cost this server."""
    frames = FRAMES_AT_ONCE * (FRAME_LIMIT + HEADER.size)
    return Limits(
        # Whoever comes says one thing within a round trip: this is half a second of handshakes, and tens of MiB at most.
        unauthenticated=256,
        unauthenticated_per_source=CONNECTIONS_PER_SOURCE,
        # A client says all that it waits for in its first flight.
        unauthenticated_bytes=frames,
        unread_stream=frames,
        unread_connection=frames,
        streams=1,
        accept_queue=256,
        connections=clients,
        handshakes_per_second=handshakes,
    )


@attrs.define
class Counts:
    """What happened since the start."""

    frames: int = 0
    bytes_in: int = 0
    """Of clients' streams; what QUIC adds is not counted."""
    bytes_out: int = 0
    let_go: Counter[str] = attrs.field(factory=Counter)
    """Clients that were ended here, by why."""


@attrs.define(eq=False)
class _Client:
    number: int
    connection: Connection
    place: Address
    """Where it is, as it was shown to be."""
    stream: Stream | None = None
    tokens: float = FRAMES_AT_ONCE
    counted_at: float = 0.0
    measured: bool = False
    moving: bool = False


class Server:
    """Serves the clients of an endpoint that was opened with ALPNS and `limits`."""

    def __init__(self, endpoint: Endpoint, most_clients: int = DEFAULT_CLIENTS) -> None:
        self.endpoint = endpoint
        self.board = Board(secrets.token_bytes, most_clients)
        self.counts = Counts()
        self._clients: dict[int, _Client] = {}
        self._of_source = Counter[bytes]()
        self._next = 0
        self._log = structlog.get_logger()
        self._nursery: trio.Nursery

    async def run(self) -> None:
        """Serve until cancelled. Who is connected then is told by the endpoint's end."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._expire)
            self._nursery.start_soon(self._warn)
            while True:
                # A caller of our kind without a common version has been told so by the driver.
                with contextlib.suppress(VersionMismatchError):
                    connection = await self.endpoint.accept()
                    self._nursery.start_soon(self._serve, connection)

    async def _serve(self, connection: Connection) -> None:
        source = source_of(connection.peer.host)
        if self._of_source[source] >= CONNECTIONS_PER_SOURCE:
            self._let_go(connection, CloseCode.BUSY, "connections")
            return
        self._next += 1
        client = _Client(self._next, connection, connection.peer, counted_at=trio.current_time())
        self._of_source[source] += 1
        self._clients[client.number] = client
        self.board.join(client.number, source, connection.peer)
        self._note("debug", "client.came", client=client.number, address=str(connection.peer))
        try:
            await self._converse(client)
            connection.close(CloseCode.DONE)
        except RemoteProtocolError as error:
            self._note("debug", "client.broke", client=client.number, what=error.what)
            self._let_go(connection, CloseCode.PROTOCOL, "protocol")
        except ConnectionLostError:
            connection.close(CloseCode.DONE)  # a stream that was given up is as good as an end
        finally:
            connection.on_moved = None
            self.board.leave(client.number)
            del self._clients[client.number]
            self._of_source[source] -= 1
            if not self._of_source[source]:
                del self._of_source[source]
            self._note("debug", "client.left", client=client.number)

    async def _converse(self, client: _Client) -> None:
        connection = client.connection
        connection.watch(ping=PING, silence=IDLE_TIMEOUT)
        stream = client.stream = await connection.accept_stream()
        connection.on_moved = lambda: self._moved(client)
        self._tell(client, _observed(connection.peer))
        if connection.path != connection.peer:
            self._moved(client)
        decoder = FrameDecoder(CLIENT_FRAMES)
        while data := await stream.receive_some():
            self.counts.bytes_in += len(data)
            decoder.receive(data)
            while (frame := decoder.next_frame()) is not None:
                self.counts.frames += 1
                if not self._may_speak(client):
                    self._let_go(connection, CloseCode.BUSY, "frames")
                connection.raise_if_closed()
                message = decode_client(*frame)
                connection.admit()
                if isinstance(message, Enter | Wait) and not client.measured:
                    client.measured = True
                    self.board.measured(client.number, await connection.probe(ROUND_TRIP_TIMEOUT))
                self._deliver(self.board.take(client.number, message, trio.current_time()))

    def _may_speak(self, client: _Client) -> bool:
        now = trio.current_time()
        client.tokens = min(FRAMES_AT_ONCE, client.tokens + (now - client.counted_at) * FRAMES_PER_SECOND)
        client.counted_at = now
        client.tokens -= 1
        return client.tokens >= 0

    # What clients are told.

    def _deliver(self, outcomes: list[Outcome]) -> None:
        for number, message in outcomes:
            self._tell(self._clients[number], message)

    def _tell(self, client: _Client, message: ServerMessage) -> None:
        if client.stream is None or client.connection.closed is not None:
            return
        if client.stream.unsent > UNSENT_LIMIT:
            self._let_go(client.connection, CloseCode.BUSY, "does not read")
            return
        data = encode(message)
        self.counts.bytes_out += len(data)
        # Its own task hears of a stream that has ended.
        with contextlib.suppress(ConnectionLostError, trio.ClosedResourceError):
            client.stream.send_now(data)

    def _let_go(self, connection: Connection, code: CloseCode, why: str) -> None:
        if connection.closed is None:
            self.counts.let_go[why] += 1
            connection.close(code, why)

    # Clients that move.

    def _moved(self, client: _Client) -> None:
        if not client.moving:
            client.moving = True
            self._nursery.start_soon(self._follow, client)

    async def _follow(self, client: _Client) -> None:
        # Anybody can write a sender's address: nobody is sent there before a round trip has shown that the client is there.
        connection = client.connection
        while connection.closed is None and client.number in self._clients and client.place != connection.path:
            there = connection.path
            round_trip = await connection.probe(ROUND_TRIP_TIMEOUT)
            if round_trip is not None and there == connection.path and client.number in self._clients:
                client.place = there
                self.board.moved(client.number, there)
                self.board.measured(client.number, round_trip)
                self._tell(client, _observed(there))
                self._note("debug", "client.moved", client=client.number, address=str(there))
        client.moving = False

    # What goes by the clock.

    async def _expire(self) -> None:
        while True:
            await trio.sleep(EXPIRY_GRAIN)
            self._deliver(self.board.expire(trio.current_time()))

    async def _warn(self) -> None:
        told = 0
        while True:
            await trio.sleep(WARN_SECONDS)
            refused = self.endpoint.door.refused.total()
            if refused > told:
                self._note("warning", "newcomers.refused", times=refused - told, clients=self.board.clients)
            told = refused

    def _note(self, level: str, event: str, **fields: object) -> None:
        # Whoever read the log is gone, or its disk is full: no reason for a server to end.
        with contextlib.suppress(OSError):
            getattr(self._log, level)(event, **fields)


def _observed(place: Address) -> Observed:
    return Observed(place.host, place.port)
