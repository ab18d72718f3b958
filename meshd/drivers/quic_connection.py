"""One QUIC connection and its streams: an engine, what it said, and who waits for it. No socket, no tasks.

The endpoint in `quic.py` feeds datagrams in and takes datagrams and the next deadline out. Every call into an engine
that a peer can influence goes through `Connection._call`, so that it can end this connection at most.
"""

import errno
import hashlib
from collections.abc import Callable
from enum import IntEnum
from typing import Protocol

import attrs
import trio

from meshd.drivers.quic_engine import (
    Engine,
    Event,
    HandshakeDone,
    IdIssued,
    IdRetired,
    Pong,
    QuicConnection,
    StopSending,
    StreamData,
    StreamReset,
)
from meshd.drivers.udp import Datagram, SocketAddress
from meshd.errors import ConnectionLostError
from meshd.model.address import Address

HIGH_WATER = 1024 * 1024
"""Bytes of one stream that may wait in the engine before `send_all` waits: a few round trips at 100 MB/s on a LAN."""
_CHUNK = 256 * 1024
"""Bytes handed to the engine at once; each hand-over copies, and a smaller one would wake the sender more often."""
_LINGER = 1.0
"""Seconds at most for which a lost CONNECTION_CLOSE is repeated to a peer that still talks (RFC 9000 section 10.2.1)."""


_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EACCES, errno.EINVAL)


class CloseCode(IntEnum):
    """Application error codes that the driver itself closes with; the protocols above use codes below 0x7400."""

    DONE = 0
    UNAUTHENTICATED = 0x7401
    UNREAD = 0x7402
    STREAMS = 0x7403
    BUSY = 0x7404
    HANDSHAKE = 0x7405
    VERSIONS = 0x7406
    SILENCE = 0x7407
    INTERNAL = 0x7408


@attrs.frozen
class Limits:
    """What peers may cost. The first five hold for an accepted connection until `admit()`.

    They bind the caller as well: before a dialler has heard that it is admitted it may send no more than
    `unauthenticated_bytes`, all on its first stream.
    """

    unauthenticated: int = 64
    """Accepted connections at once that nobody has vouched for. Each costs tens of kilobytes: a few megabytes in all."""
    unauthenticated_per_source: int = 4
    """The same for one IPv4 address or one IPv6 /64, which is what one customer holds. Loopback counts alike."""
    unauthenticated_streams: int = 1
    """Streams before `admit()`: a handshake is a conversation and needs one."""
    unauthenticated_bytes: int = 16 * 1024
    """Stream bytes received before `admit()`: several times the longest pairing."""
    unauthenticated_seconds: float = 10.0
    """Seconds from the first datagram to `admit()`."""
    unread_stream: int = 16 * 1024 * 1024
    """Bytes received on a stream and not read. Engines widen their windows as data arrives, not as it is read, so a
    hostile sender is held by this alone; honest ones are held to half of it by the credits of the protocol above."""
    unread_connection: int = 64 * 1024 * 1024
    """The same over all streams of a connection: a node with ten hostile peers still fits in a small machine."""
    streams: int = 256
    """Streams of a peer's that are open or waiting for `accept_stream`; engines let a peer open 100 to 128 at first."""
    accept_queue: int = 64
    """Connections that wait for `accept`; later ones are closed."""


DEFAULT_LIMITS = Limits()


@attrs.frozen
class Closed:
    """How a connection ended."""

    code: int
    """The closing side's application code, or with `is_transport` a QUIC or TLS one (RFC 9000 section 20)."""
    reason: str
    """Text from whoever closed: untrusted when `by_peer`."""
    by_peer: bool
    timed_out: bool = False
    """Nothing was heard for too long."""
    is_transport: bool = False


class ConnectionClosedError(ConnectionLostError, trio.BrokenResourceError):
    """The connection that this stream or call needed is closed."""

    def __init__(self, closed: Closed) -> None:
        if closed.timed_out:
            what = "The connection was lost: the other side fell silent."
        elif closed.by_peer:
            what = f"The other side closed the connection (code {closed.code:#x})."
        else:
            what = f"The connection was closed here (code {closed.code:#x})."
        super().__init__(what)
        self.closed = closed


class StreamResetError(ConnectionLostError, trio.BrokenResourceError):
    """The peer gave up sending on this stream, or reading it; `code` is the application's."""

    def __init__(self, code: int) -> None:
        super().__init__(f"The other side gave up a transfer (code {code:#x}).")
        self.code = code


class Stream(trio.abc.HalfCloseableStream):
    """One bidirectional QUIC stream. One task may send and one may receive at a time."""

    def __init__(self, connection: "Connection", stream_id: int) -> None:
        self.connection = connection
        self.stream_id = stream_id
        self._unread = bytearray()
        self._received_fin = False
        self._reset_code: int | None = None
        self._stopped_code: int | None = None
        self._sent_fin = False
        self._closed_here = False
        self._receiving = self._sending = False
        self._readable, self._writable = trio.Event(), trio.Event()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return some bytes, b"" at the end. What had arrived before the connection ended is still handed out.

        Raises StreamResetError, ConnectionClosedError, or trio.ClosedResourceError after `aclose`.
        """
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this stream")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint()
            while not self._unread:
                if self._closed_here:
                    raise trio.ClosedResourceError
                if self._reset_code is not None:
                    raise StreamResetError(self._reset_code)
                if self._received_fin:
                    return b""
                self.connection.raise_if_closed()
                self._readable = trio.Event()
                await self._readable.wait()
        finally:
            self._receiving = False
        count = min(len(self._unread), max_bytes or _CHUNK)
        with memoryview(self._unread) as view:
            data = bytes(view[:count])
        del self._unread[:count]
        self.connection._unread -= count
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Hand all bytes to the engine, waiting while it holds more than HIGH_WATER of this stream unsent.

        That they arrived is for the protocol above to hear. Raises StreamResetError when the peer stopped reading,
        ConnectionClosedError, or trio.ClosedResourceError after `send_eof`, `reset` or `aclose`.
        """
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        connection = self.connection
        try:
            await trio.lowlevel.checkpoint()
            with memoryview(data) as view:
                for start in range(0, len(view), _CHUNK) or (0,):
                    self._check_sendable()
                    while connection._send_buffered(self.stream_id) > HIGH_WATER:
                        self._writable = trio.Event()
                        connection._blocked.add(self)
                        await self._writable.wait()
                        self._check_sendable()
                    connection._send(self.stream_id, bytes(view[start : start + _CHUNK]), False)
        finally:
            self._sending = False
            connection._blocked.discard(self)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until `send_all` would hand over a chunk without waiting."""
        await trio.lowlevel.checkpoint()
        while self.connection._send_buffered(self.stream_id) > HIGH_WATER:
            self._check_sendable()
            self._writable = trio.Event()
            self.connection._blocked.add(self)
            await self._writable.wait()

    async def send_eof(self) -> None:
        """Say that nothing more follows; the other direction stays open."""
        await trio.lowlevel.checkpoint()
        if not self._sent_fin:
            self._check_sendable()
            self._finish_sending()

    def reset(self, code: int) -> None:
        """Give up both directions at once: what is unsent is dropped, and the peer sees StreamResetError(code)."""
        if not self._closed_here:
            self._abandon(code, code)

    async def aclose(self) -> None:
        """End the sending direction in order, and refuse whatever more the peer sends."""
        if not self._closed_here:
            self._abandon(None, CloseCode.DONE)
        await trio.lowlevel.checkpoint()

    def _abandon(self, reset_code: int | None, stop_code: int) -> None:
        self._closed_here = True
        if not self._received_fin and self._reset_code is None:
            self.connection._command(self.connection._quic.stop_stream, self.stream_id, stop_code)
        if not self._sent_fin and self._stopped_code is None:
            if reset_code is None:
                self._finish_sending()
            else:
                self._sent_fin = True
                self.connection._command(self.connection._quic.reset_stream, self.stream_id, reset_code)
        self.connection._unread -= len(self._unread)
        self._unread.clear()
        self.connection._streams.pop(self.stream_id, None)
        self._wake()

    def _finish_sending(self) -> None:
        self._sent_fin = True
        self.connection._send(self.stream_id, b"", True)
        self.connection._forget_if_done(self)

    def _check_sendable(self) -> None:
        if self._closed_here or self._sent_fin:
            raise trio.ClosedResourceError
        if self._stopped_code is not None:
            raise StreamResetError(self._stopped_code)
        self.connection.raise_if_closed()

    def _wake(self) -> None:
        self._readable.set()
        self._writable.set()


class Owner(Protocol):
    """What a connection needs of the endpoint that it belongs to."""

    engine: Engine
    limits: Limits
    alpns: tuple[str, ...]
    own_digest: bytes

    def mark(self, connection: "Connection") -> None:
        """Something may have to be sent, or a deadline moved."""

    def route(self, connection_id: bytes, connection: "Connection | None") -> None:
        """Datagrams for this id belong to that connection from now on, or to nobody."""

    def established(self, connection: "Connection") -> None:
        """The handshake is complete and as required."""

    def forget(self, connection: "Connection") -> None:
        """Nothing of this connection matters any more."""


class Connection:
    """One QUIC connection whose handshake is complete. Made by `Endpoint.dial` and `Endpoint.accept`."""

    def __init__(self, owner: Owner, quic: QuicConnection, remote: SocketAddress, is_client: bool) -> None:
        now = trio.current_time()
        self._owner, self._quic = owner, quic
        self._engine, self._limits = owner.engine, owner.limits
        self.is_client = is_client
        self.peer = Address(*remote)
        """Where the handshake took place; path validated. Later moves of the peer do not change it."""
        self.alpn = ""
        self.certificate_digest = b"" if is_client else owner.own_digest
        """SHA-256 of the server's certificate as sent, 32 bytes: what the protocols above bind."""
        self.rtt: float | None = None
        """Smoothed round trip in seconds, acknowledgement delay included; None before the first ping came back."""
        self.closed: Closed | None = None
        """How it ended, None while it is open."""
        self.ids = {quic.host_cid}
        self._streams: dict[int, Stream] = {}
        self._blocked: set[Stream] = set()
        self._next_peer_stream = 1 if is_client else 0
        self._stream_queue: list[Stream] = []
        self._stream_arrived = trio.Event()
        self._unread = self._received = 0
        self.admitted = is_client
        self._admit_by = now + self._limits.unauthenticated_seconds
        self.settled, self._ended = trio.Event(), trio.Event()
        self._ping_every = self._silence = float("inf")
        self._heard = self._pinged = now
        self._ping_id, self._ping_open = 0, False
        # Jitter from the random connection id: links opened together do not ping together, and tests stay repeatable
        # where it matters, since it only ever shortens the interval.
        self._jitter = 1 - quic.host_cid[0] / 1280
        self._farewell: list[Datagram] | None = None
        self._repeat_farewell, self._late = False, 0
        self._forget_at = float("inf")
        self.deadline = now

    async def open_stream(self) -> Stream:
        """Open a bidirectional stream; the peer learns of it with its first byte. Raises ConnectionClosedError."""
        await trio.lowlevel.checkpoint()
        self.raise_if_closed()
        stream_id = self._quic.get_next_available_stream_id()
        stream = self._streams[stream_id] = Stream(self, stream_id)
        self._send(stream_id, b"", False)
        self.raise_if_closed()
        return stream

    async def accept_stream(self) -> Stream:
        """Wait for the next stream that the peer opened, in the order of their numbers. Raises ConnectionClosedError."""
        await trio.lowlevel.checkpoint()
        while not self._stream_queue:
            self.raise_if_closed()
            self._stream_arrived = trio.Event()
            await self._stream_arrived.wait()
        return self._stream_queue.pop(0)

    def admit(self) -> None:
        """The peer is authenticated: lift the limits on strangers. A dialled connection is never under them."""
        self.admitted = True

    def watch(self, *, ping: float, silence: float) -> None:
        """Ask for a sign of life after `ping` quiet seconds (less up to a fifth), and count the connection as lost after
        `silence` seconds without a datagram. Callers shorten both while something is outstanding."""
        self._ping_every, self._silence = ping * self._jitter, silence
        self._owner.mark(self)

    def probe(self) -> None:
        """Ask for a sign of life now: after a suspend or a change of address."""
        if self.closed is None:
            self._ping(trio.current_time())
            self._owner.mark(self)

    def close(self, code: int, reason: str) -> None:
        """Send CONNECTION_CLOSE with an application code (0 to 2**62 - 1) and a reason, dropping what is unsent.

        Does nothing on a closed connection. The datagram leaves as soon as the endpoint's sending task runs.
        """
        if self.closed is None:
            self._call(self._quic.close, code, None, reason)
            self._finish(Closed(code, reason, by_peer=False))

    async def wait_closed(self) -> Closed:
        """Wait for the end, whoever brings it about."""
        await self._ended.wait()
        assert self.closed is not None
        return self.closed

    def _call(self, operation: Callable[..., object], *arguments: object) -> None:
        # The one broad except. What an engine raises on hostile input is by definition unforeseen (both have had such
        # faults), and it must cost this peer's connection and not the node.
        try:
            operation(*arguments)
        except Exception as error:
            if self.closed is None:
                self._finish(Closed(CloseCode.INTERNAL, f"{type(error).__name__}: {error}", by_peer=False))

    def _command(self, operation: Callable[..., object], *arguments: object) -> None:
        if self.closed is None:
            self._call(operation, *arguments)
            self._owner.mark(self)

    def _send(self, stream_id: int, data: bytes, fin: bool) -> None:
        self._command(self._quic.send_stream_data, stream_id, data, fin)

    def _send_buffered(self, stream_id: int) -> int:
        return 0 if self.closed else self._engine.send_buffered(self._quic, stream_id)

    def raise_if_closed(self) -> None:
        if self.closed is not None:
            raise ConnectionClosedError(self.closed)

    def dial(self) -> None:
        """Start the handshake of a dialled connection."""
        self._command(self._quic.connect, (self.peer.host, self.peer.port), trio.current_time())

    def receive(self, datagrams: list[bytes], address: SocketAddress, now: float) -> None:
        if self.closed is not None:
            # Answer the 1st, 2nd, 4th, 8th ... so that two closing ends cannot keep each other awake.
            self._late += 1
            self._repeat_farewell = self._late & (self._late - 1) == 0
            self._owner.mark(self)
            return
        self._heard = now
        self._call(self._engine.receive, self._quic, datagrams, address, now)
        self._pump()
        self._owner.mark(self)

    def _pump(self) -> None:
        """Act on what the engine has to say. Also after its timers: an idle time-out comes from there."""
        while self.closed is None and (event := self._engine.next_event(self._quic)) is not None:
            self._on_event(event)
        if self.closed is None and (ending := self._engine.ending(self._quic)) is not None:
            self._finish(
                Closed(ending.code, ending.reason, ending.by_peer, ending.timed_out, not ending.is_application)
            )

    def _on_event(self, event: Event) -> None:
        match event:
            case StreamData():
                self._on_stream_data(event)
            case IdIssued(connection_id):
                self.ids.add(connection_id)
                self._owner.route(connection_id, self)
            case IdRetired(connection_id):
                self.ids.discard(connection_id)
                self._owner.route(connection_id, None)
            case HandshakeDone():
                self._on_handshake(event)
            case StreamReset(stream_id, code):
                if (stream := self._stream(stream_id)) is not None:
                    self._unread -= len(stream._unread)
                    stream._unread.clear()
                    stream._reset_code = code
                    stream._readable.set()
                    self._forget_if_done(stream)
            case StopSending(stream_id, code):
                if (stream := self._stream(stream_id)) is not None:
                    stream._stopped_code = code
                    stream._writable.set()
                    self._forget_if_done(stream)
            case Pong(uid):
                if uid == self._ping_id and self._ping_open:
                    self._ping_open = False
                    sample = trio.current_time() - self._pinged
                    self.rtt = sample if self.rtt is None else (7 * self.rtt + sample) / 8

    def _on_handshake(self, event: HandshakeDone) -> None:
        certificate = self._engine.peer_certificate_der(self._quic) if self.is_client else b""
        if event.resumed or event.alpn not in self._owner.alpns or certificate is None:
            self.close(CloseCode.HANDSHAKE, "handshake not as required")
            return
        self.alpn = event.alpn or ""
        if self.is_client:
            self.certificate_digest = hashlib.sha256(certificate).digest()
        self.watch(ping=15.0, silence=40.0)
        self.probe()
        self.settled.set()
        self._owner.established(self)

    def _stream(self, stream_id: int) -> Stream | None:
        """The stream of an event, opening those of the peer's up to that number (RFC 9000 section 2.1); None when it was
        given up here or the peer went too far."""
        if stream_id & 1 == int(self.is_client):
            if stream_id & 2:
                self.close(CloseCode.STREAMS, "no unidirectional streams here")
                return None
            while self._next_peer_stream <= stream_id:
                stream = Stream(self, self._next_peer_stream)
                self._streams[stream.stream_id] = stream
                self._stream_queue.append(stream)
                self._next_peer_stream += 4
                if not self.admitted and self._next_peer_stream > 4 * self._limits.unauthenticated_streams:
                    self.close(CloseCode.UNAUTHENTICATED, "too many streams before authentication")
                    return None
                if len(self._streams) > self._limits.streams or len(self._stream_queue) > self._limits.streams:
                    self.close(CloseCode.STREAMS, "too many streams")
                    return None
            self._stream_arrived.set()
        return self._streams.get(stream_id)

    def _on_stream_data(self, event: StreamData) -> None:
        stream = self._stream(event.stream_id)
        if stream is None:
            return
        size = len(event.data)
        self._received += size
        if not self.admitted and self._received > self._limits.unauthenticated_bytes:
            self.close(CloseCode.UNAUTHENTICATED, "too much before authentication")
            return
        stream._unread += event.data
        self._unread += size
        if len(stream._unread) > self._limits.unread_stream or self._unread > self._limits.unread_connection:
            self.close(CloseCode.UNREAD, "sent more than is being read")
            return
        stream._received_fin = event.fin
        stream._readable.set()
        if event.fin:
            self._forget_if_done(stream)

    def _forget_if_done(self, stream: Stream) -> None:
        received = stream._received_fin or stream._reset_code is not None
        if received and (stream._sent_fin or stream._stopped_code is not None):
            self._streams.pop(stream.stream_id, None)

    def _ping(self, now: float) -> None:
        self._ping_id += 1
        self._pinged, self._ping_open = now, True
        self._call(self._quic.send_ping, self._ping_id)

    def send_refused(self, error: OSError | None) -> None:
        """Hear from the endpoint whether this machine's own network refused a datagram: for a dialler, that is final."""
        if error is not None and not self.settled.is_set() and error.errno in _NO_WAY:
            self.close(CloseCode.HANDSHAKE, error.strerror or "no way there")

    def on_deadline(self, now: float) -> None:
        """Whatever is due: the engine's timer, a ping, silence, a stranger's time. May be called early."""
        self._owner.mark(self)
        if self.closed is not None:
            if now >= self._forget_at:
                self._owner.forget(self)
            return
        timer = self._quic.get_timer()
        if timer is not None and now >= timer:
            self._call(self._quic.handle_timer, now)
            self._pump()
        if self.closed is not None:
            return
        if now >= self._heard + self._silence:
            self._call(self._quic.close, CloseCode.SILENCE, None, "silence")
            self._finish(Closed(CloseCode.SILENCE, f"nothing heard for {self._silence:g} s", False, timed_out=True))
        elif not self.admitted and now >= self._admit_by:
            self.close(CloseCode.UNAUTHENTICATED, "not authenticated in time")
        elif now >= max(self._heard, self._pinged) + self._ping_every:
            self._ping(now)

    def datagrams_to_send(self, now: float) -> list[Datagram]:
        """What is to be sent now; sets the next deadline and wakes the senders for whom there is room."""
        datagrams: list[Datagram] = []
        if self.closed is None:

            def collect() -> None:
                datagrams.extend(self._engine.datagrams_to_send(self._quic, now))

            self._call(collect)
            self._pump()
        if self.closed is not None:
            return datagrams + self._say_farewell(now)
        for stream in list(self._blocked):
            if self._engine.send_buffered(self._quic, stream.stream_id) <= HIGH_WATER // 2:
                self._blocked.discard(stream)
                stream._writable.set()
        timer = self._quic.get_timer()
        if timer is None:
            timer = float("inf")
        elif timer <= now:
            # An engine's timer that stays in the past must not keep the sending task spinning (granularity: RFC 9002
            # section 6.1.2).
            timer = now + 0.001
        self.deadline = min(
            timer,
            self._heard + self._silence,
            max(self._heard, self._pinged) + self._ping_every,
            float("inf") if self.admitted else self._admit_by,
        )
        return datagrams

    def _say_farewell(self, now: float) -> list[Datagram]:
        if self._farewell is None:
            self._farewell = []
            if self.closed is not None and not self.closed.by_peer:

                def collect() -> None:
                    assert self._farewell is not None
                    self._farewell.extend(self._engine.datagrams_to_send(self._quic, now))

                self._call(collect)
            timer = self._quic.get_timer() if self._farewell else now
            self._forget_at = now if timer is None else min(timer, now + _LINGER)
            self._repeat_farewell = True
        self.deadline = self._forget_at
        if not self._repeat_farewell:
            return []
        self._repeat_farewell = False
        return self._farewell

    def _finish(self, closed: Closed) -> None:
        self.closed = closed
        for stream in self._streams.values():
            stream._wake()
        self._stream_arrived.set()
        self.settled.set()
        self._ended.set()
        self._owner.mark(self)
