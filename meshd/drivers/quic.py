"""QUIC over trio: one UDP socket, any number of connections, byte streams on them. It moves bytes and judges nobody.

The engines (`quic_engine.py`) are sans-IO and the connections (`quic_connection.py`) plain data; here one task receives
and one sends. A wake drains a batch of datagrams into the engines, hands out what came of it and marks the connections
that may have something to say; the sending task flushes those, then sleeps until the nearest deadline.

What a stranger can cost is stated in `Limits`. No state exists for an address that has not answered a Retry (RFC 9000
section 8.1.2).
"""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from meshd.drivers.quic_connection import Connection
from meshd.drivers.quic_deadlines import Deadlines
from meshd.drivers.quic_door import Door
from meshd.drivers.quic_engine import CONNECTION_ID_LENGTH, Engine
from meshd.drivers.quic_retry import QUIC_V1, SMALLEST_INITIAL, RetryTokens, parse_long_header
from meshd.drivers.quic_stream import HIGH_WATER, Stream
from meshd.drivers.quic_terms import (
    DEFAULT_LIMITS,
    Closed,
    ConnectionClosedError,
    DialFailedError,
    DriverCode,
    Limits,
    StreamResetError,
    VersionMismatchError,
)
from meshd.drivers.quic_versions import bare_name, exchange_versions
from meshd.drivers.tls_identity import TlsIdentity
from meshd.drivers.udp import Datagram, SocketAddress, UdpSocket
from meshd.errors import ConnectionLostError
from meshd.model.address import Address
from meshd.wire.constants import PROTOCOL

__all__ = [
    "ALPNS",
    "HIGH_WATER",
    "Closed",
    "Connection",
    "ConnectionClosedError",
    "DialFailedError",
    "DriverCode",
    "Endpoint",
    "Limits",
    "Stream",
    "StreamResetError",
    "VersionMismatchError",
    "open_endpoint",
]

ALPNS = (PROTOCOL,)
"""What this program speaks, best first. The driver adds the bare name (`tether`), under which two sides without a common
version tell each other what they speak."""

_FAREWELL = 0.25
"""Seconds that leaving `open_endpoint` waits for closes to settle: somebody waits for the prompt to return."""
_DIALLED_ADDRESSES = 3
"""Addresses of a name that one dial tries, in the resolver's order."""
_REPLIES = 256
"""Answers without state that may wait to be sent; a flood beyond it gets none."""
_NO_ALPN = (0x128, 0x178)
"""TLS alerts by which engines say that no protocol is common: handshake_failure (qh3) and no_application_protocol."""


class Endpoint:
    """A bound UDP port with its connections. Made by `open_endpoint`."""

    def __init__(self, engine: Engine, identity: TlsIdentity, udp: UdpSocket, alpns: tuple[str, ...], limits: Limits):
        self.engine, self.limits, self._udp = engine, limits, udp
        self.port: int = udp.port
        """The bound UDP port."""
        self.own_digest = identity.digest
        self._offered = alpns
        self._bare = bare_name(alpns)
        self.alpns = (*alpns, self._bare)
        self._clients: dict[tuple[str, ...], Any] = {}
        self._server = engine.configuration(is_client=False, alpns=self.alpns, identity=identity)
        self.on_datagram: Callable[[bytes, SocketAddress], None] | None = None
        """Called with each datagram that is not QUIC: its first byte has the fixed bit, 0x40, clear. Must not raise."""
        self._refusal: tuple[int | None, str] | None = None
        self._tokens = RetryTokens()
        self._routes: dict[bytes, Connection] = {}
        self._connections: set[Connection] = set()
        self._deadlines = Deadlines()
        self.door = Door(limits, trio.current_time())
        """Who is let in, and how many were not."""
        self._marked: dict[Connection, None] = {}
        self._replies: list[Datagram] = []
        self._wake, self._emptied = trio.Event(), trio.Event()
        self._offer, self._accepted = trio.open_memory_channel[Connection | VersionMismatchError](limits.accept_queue)
        self._nursery: trio.Nursery

    async def dial(
        self, address: Address, *, timeout: float, alpns: tuple[str, ...] | None = None, ipv4_first: bool = False
    ) -> Connection:
        """Connect within `timeout` seconds; a name's addresses share them, in the resolver's order or `ipv4_first`.

        `alpns` is what to speak, by default what the endpoint does. Raises DialFailedError when nobody answers or what
        answers is not a Tether, VersionMismatchError.
        """
        failure = DialFailedError(f"Nobody answered at {address}.")
        start = trio.current_time()
        with trio.move_on_after(timeout):
            targets = await self._resolve(address, ipv4_first)
            for number, target in enumerate(targets):
                left = start + timeout - trio.current_time()
                with trio.move_on_after(left / (len(targets) - number)):
                    try:
                        return await self._dial(target, alpns or self._offered)
                    except DialFailedError as error:
                        failure = error
        raise failure

    async def _resolve(self, address: Address, ipv4_first: bool) -> list[SocketAddress]:
        try:
            found = [self._udp.local_form(address.host)]
        except ValueError:
            try:
                answers = await trio.socket.getaddrinfo(address.host, address.port, type=trio.socket.SOCK_DGRAM)
            except OSError as error:
                raise DialFailedError(f"The name {address.host} has no address ({error.strerror}).") from error
            except UnicodeError as error:  # IDNA (RFC 3490) forbids it: an empty label, or one above 63 characters
                raise DialFailedError(f"{address.host!r} cannot be the name of a machine.") from error
            found = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
        except OSError as error:
            raise DialFailedError(f"{address} names an interface that is not here.") from error
        usable = [(host, address.port) for host in found if self._udp.can_reach(host)]
        if ipv4_first:
            usable.sort(key=lambda each: ":" in each[0])
        if not usable:
            raise DialFailedError(f"{address} needs IPv6, which this socket does not have.")
        return usable[:_DIALLED_ADDRESSES]

    async def _dial(self, target: SocketAddress, alpns: tuple[str, ...]) -> Connection:
        offered = (*alpns, bare_name(alpns))
        configuration = self._clients.get(offered)
        if configuration is None:
            configuration = self._clients[offered] = self.engine.configuration(is_client=True, alpns=offered)
        connection = Connection(self, self.engine.client(configuration), target, is_client=True, alpns=offered)
        self._add(connection)
        connection.dial()
        try:
            await connection.settled.wait()
            connection.raise_if_closed()
            if connection.alpn != offered[-1]:
                return connection
            raise await exchange_versions(await connection.open_stream(), alpns)
        except BaseException as error:
            connection.close()
            if isinstance(error, ConnectionClosedError):
                raise _dial_failure(error.closed, connection.peer) from error
            raise

    async def accept(self) -> Connection:
        """Wait for a connection whose handshake is complete; its peer is a stranger until `Connection.admit`.

        Raises VersionMismatchError for a caller of our kind without a common version: the endpoint goes on, and the
        caller of this may accept again.
        """
        while True:
            found = await self._accepted.receive()
            if isinstance(found, VersionMismatchError):
                raise found
            if found.closed is None:
                return found

    def can_reach(self, host: str) -> bool:
        """Whether this socket speaks the IP version of a numeric host."""
        return self._udp.can_reach(host)

    def send_datagram(self, data: bytes, address: SocketAddress) -> None:
        """Send a datagram that is not QUIC from this port; dropped when too many wait already."""
        self._reply((data, address))

    def stop_accepting(self, code: int | None = None, reason: str = "") -> None:
        """From now on close every arrival with an application code, or with None answer nobody new at all."""
        self._refusal = (code, reason)

    @property
    def connections(self) -> frozenset[Connection]:
        """All that this endpoint keeps anything of: open ones, closed ones that may have to repeat why, routes."""
        return frozenset(self._connections).union(self._routes.values())

    # What connections ask of their owner (see quic_connection.Owner).

    def mark(self, connection: Connection) -> None:
        self._marked[connection] = None
        self._wake.set()

    def route(self, connection_id: bytes, connection: Connection | None) -> None:
        if connection is None:
            self._routes.pop(connection_id, None)
        else:
            self._routes[connection_id] = connection

    def known(self, connection: Connection) -> None:
        self.door.known(connection)

    def left(self, connection: Connection) -> None:
        self.door.left(connection)

    def forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._deadlines.drop(connection)
        self._marked.pop(connection, None)
        for connection_id in connection.ids:
            self._routes.pop(connection_id, None)
        if not self._connections:
            self._emptied.set()

    def established(self, connection: Connection) -> None:
        if connection.is_client:
            return
        if self._refusal is not None:
            connection.close(self._refusal[0] or 0, self._refusal[1])
        elif connection.alpn == self._bare:
            self._nursery.start_soon(self._answer_versions, connection)
        else:
            self._hand_over(connection)

    def _hand_over(self, found: Connection | VersionMismatchError) -> None:
        try:
            self._offer.send_nowait(found)
        except trio.WouldBlock:
            if isinstance(found, Connection):
                found.close(DriverCode.BUSY, "too many at once")

    async def _answer_versions(self, connection: Connection) -> None:
        try:
            self._hand_over(await exchange_versions(await connection.accept_stream(), self._offered))
            # The dialler closes, once it has read ours; if it does not, the time for authentication ends it.
            await connection.wait_closed()
        except ConnectionLostError:
            connection.close(DriverCode.VERSIONS, "no common version")

    # The two tasks.

    async def _receive(self) -> None:
        while True:
            batch = await self._udp.receive()
            now = trio.current_time()
            groups: dict[tuple[Connection, SocketAddress], list[bytes]] = {}
            for data, address in batch:
                if not data or not data[0] & 0x40:
                    # Without the fixed bit it is not QUIC (RFC 9000 section 17.2).
                    if data and self.on_datagram is not None:
                        self.on_datagram(data, address)
                    continue
                # The destination id of a long header has a length byte; that of a short one is as long as ours are.
                known = (
                    data[6 : 6 + data[5]] if data[0] & 0x80 and len(data) > 5 else data[1 : 1 + CONNECTION_ID_LENGTH]
                )
                connection = self._routes.get(known)
                if connection is None:
                    self._receive_unknown(data, address, now)
                else:
                    groups.setdefault((connection, address), []).append(data)
            for (connection, address), datagrams in groups.items():
                connection.receive(datagrams, address, now)

    def _receive_unknown(self, data: bytes, address: SocketAddress, now: float) -> None:
        """Answer the first datagram of a stranger: with a Retry, and a connection only for who returns its token."""
        ignored = self._refusal is not None and self._refusal[0] is None
        header = None if ignored or len(data) < SMALLEST_INITIAL else parse_long_header(data)
        if header is None or header.version == 0 or self.door.turn_away_if_full():
            return
        if header.version != QUIC_V1:
            self._reply((self.engine.encode_version_negotiation(header), address))
        elif header.is_initial and not header.token:
            retry_id = secrets.token_bytes(CONNECTION_ID_LENGTH)
            token = self._tokens.issue(address, header.destination_id, retry_id, now)
            self._reply((self.engine.encode_retry(header, retry_id, token), address))
        elif header.is_initial:
            original_id = self._tokens.original_id(header.token, address, header.destination_id, now)
            if original_id is not None and self.door.lets_in(address[0], now):
                quic = self.engine.server(self._server, original_id, header.destination_id)
                connection = Connection(self, quic, address, is_client=False, alpns=self.alpns)
                connection.ids.add(header.destination_id)
                self._add(connection)
                self.door.came(connection)
                connection.receive([data], address, now)

    def _reply(self, datagram: Datagram) -> None:
        if len(self._replies) < _REPLIES:
            self._replies.append(datagram)
            self._wake.set()

    def _add(self, connection: Connection) -> None:
        self._connections.add(connection)
        for connection_id in connection.ids:
            self._routes[connection_id] = connection

    async def _send(self) -> None:
        while True:
            now = trio.current_time()
            for connection in self._deadlines.due(now):
                connection.on_deadline(now)
            if self._replies:
                replies, self._replies = self._replies, []
                await self._udp.send(replies)
            while self._marked:
                connection = next(iter(self._marked))
                del self._marked[connection]
                if datagrams := connection.datagrams_to_send(trio.current_time()):
                    connection.send_refused(await self._udp.send(datagrams))
                if connection in self._connections:
                    self._deadlines.put(connection)
            with trio.move_on_at(self._deadlines.next()):
                await self._wake.wait()
            self._wake = trio.Event()

    async def _run(self, scope: trio.CancelScope) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._receive)
                nursery.start_soon(self._send)

    async def _close(self) -> None:
        self.stop_accepting()
        for connection in self._connections:
            connection.close()
        with trio.move_on_after(_FAREWELL):
            while self._connections:
                self._emptied = trio.Event()
                await self._emptied.wait()


def _dial_failure(closed: Closed, address: Address) -> DialFailedError:
    if closed.timed_out:
        return DialFailedError(f"Nobody answered at {address}.", closed)
    if closed.is_transport and closed.code in _NO_ALPN:
        return DialFailedError(f"What answers at {address} is not a Tether.", closed)
    if not closed.by_peer and not closed.is_transport:
        return DialFailedError(f"No connection to {address} came about: {closed.reason}.", closed)
    return DialFailedError(f"{address} answered, but no connection came about (code {closed.code:#x}).", closed)


@asynccontextmanager
async def open_endpoint(
    *,
    engine: Engine,
    identity: TlsIdentity,
    host: str | None = None,
    port: int = 0,
    alpns: tuple[str, ...] = ALPNS,
    accept: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> AsyncIterator[Endpoint]:
    """Bind a UDP port and run an endpoint on it; on leaving, close every connection and stay briefly to repeat that.

    `host` None means all addresses, IPv6 and IPv4, or IPv4 alone where the machine has no IPv6. `port` 0 picks a free one.
    `alpns` is what is spoken, best first, as `name/number`. Without `accept` strangers get no answer. Raises OSError when
    the port is taken or the address not ours.
    """
    udp = await UdpSocket.bind(host, port)
    running = trio.CancelScope(shield=True)
    try:
        endpoint = Endpoint(engine, identity, udp, alpns, limits)
        if not accept:
            endpoint.stop_accepting()
        async with trio.open_nursery() as nursery:
            # Shielded: when the caller is cancelled, the closes still have to leave.
            nursery.start_soon(endpoint._run, running)
            try:
                yield endpoint
            finally:
                with trio.CancelScope(shield=True):
                    await endpoint._close()
                running.cancel()
    except BaseExceptionGroup as group:
        # The nursery is ours, not the caller's: what the caller's own block raised comes out as it went in.
        if len(group.exceptions) > 1:
            raise
        error = group.exceptions[0]
        raise error from error.__cause__
    finally:
        udp.close()
