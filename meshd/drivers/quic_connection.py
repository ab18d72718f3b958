"""One QUIC connection and its streams: an engine, what it said, and who waits for it. No socket, no tasks.

The endpoint in `quic.py` feeds datagrams in and takes datagrams and the next deadline out. Every call into an engine
that a peer can influence goes through `Connection._call`, so that it can end this connection at most.
"""

import errno
import hashlib
from collections.abc import Callable
from typing import Protocol

import trio

from meshd.drivers.quic_engine import (
    IDLE_TIMEOUT,
    Engine,
    Event,
    HandshakeDone,
    IdIssued,
    IdRetired,
    PingAnswered,
    QuicConnection,
    StopSending,
    StreamData,
    StreamReset,
)
from meshd.drivers.quic_stream import Stream
from meshd.drivers.quic_terms import Closed, ConnectionClosedError, DriverCode, Limits
from meshd.drivers.udp import Datagram, SocketAddress
from meshd.model.address import Address

_LINGER = 1.0
"""Seconds at most for which a lost CONNECTION_CLOSE is repeated to a peer that still talks (RFC 9000 section 10.2.1)."""
_PING = 15.0
"""Quiet seconds before a ping unless `watch` says otherwise: two may be lost before an engine forgets the connection."""
UNANSWERED = 10.0
"""Seconds without a datagram after which something that was sent to the peer in vain is reason enough to give it up. A
machine that has moved or died is found out by the first record for it, not by the last keepalive."""
_ASK_AGAIN = 3.0
"""Seconds between pings meanwhile: an engine repeats what was lost ever later, and flow control may hold it back."""
_PROBE_AGAIN = 0.25
"""Seconds after which a probe asks again: qh3 was seen not to repeat a lost ping within a second."""
_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EACCES, errno.EINVAL)


class Owner(Protocol):
    """What a connection needs of the endpoint that it belongs to."""

    engine: Engine
    limits: Limits
    own_digest: bytes

    def mark(self, connection: "Connection") -> None:
        """Something may have to be sent, or a deadline moved."""

    def route(self, connection_id: bytes, connection: "Connection | None") -> None:
        """Datagrams for this id belong to that connection from now on, or to nobody."""

    def established(self, connection: "Connection") -> None:
        """The handshake is complete and as required."""

    def known(self, connection: "Connection") -> None:
        """It is admitted: the limits on strangers count it no more."""

    def left(self, connection: "Connection") -> None:
        """It is closed."""

    def forget(self, connection: "Connection") -> None:
        """Nothing of this connection matters any more."""


class Connection:
    """One QUIC connection whose handshake is complete. Made by `Endpoint.dial` and `Endpoint.accept`."""

    def __init__(
        self, owner: Owner, quic: QuicConnection, remote: SocketAddress, *, is_client: bool, alpns: tuple[str, ...]
    ) -> None:
        now = trio.current_time()
        self._owner, self._quic, self._alpns = owner, quic, alpns
        self._engine, self._limits = owner.engine, owner.limits
        self.is_client = is_client
        self.peer = Address(*remote)
        """Where the handshake took place; path validated. Later moves of the peer do not change it."""
        self.path = self.peer
        """Where the engine writes to now: the peer may have moved (RFC 9000, section 9)."""
        self.on_moved: Callable[[], None] | None = None
        """Called when `path` has changed. Must not raise, nor wait."""
        self.alpn = ""
        self.certificate_digest = b"" if is_client else owner.own_digest
        """SHA-256 of the server's certificate as sent, 32 bytes: what the protocols above bind."""
        self.certificate = b""
        """The server's certificate as sent, DER, for who dialled."""
        self.closed: Closed | None = None
        """How it ended, None while it is open."""
        self.ids = {quic.host_cid}
        self._streams: dict[int, Stream] = {}
        self._next_peer_stream = 1 if is_client else 0
        self._stream_queue: list[Stream] = []
        self._stream_arrived = trio.Event()
        self._unread = self._received = 0
        self.admitted = False
        # Who dials decides for itself how long to wait for a stranger it has chosen.
        self._admit_by = float("inf") if is_client else now + self._limits.unauthenticated_seconds
        self.settled, self._ended = trio.Event(), trio.Event()
        self._ping_every = self._silence = float("inf")
        self._heard = self._pinged = now
        self._spoke = float("inf")
        """When the first thing was sent that nothing was heard after."""
        self._pings = 0
        self._probes: dict[int, trio.Event] = {}
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
        self.write(stream_id, b"", False)
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

    @property
    def streams(self) -> frozenset[Stream]:
        """The streams of which a direction is still open, and which were not given up here."""
        return frozenset(self._streams.values())

    def admit(self) -> None:
        """The peer is authenticated: lift the limits on strangers."""
        self.admitted = True
        self._owner.known(self)

    def watch(self, *, ping: float, silence: float) -> None:
        """Ask for a sign of life after `ping` quiet seconds (less up to a fifth), and count the connection as lost after
        `silence` seconds without a datagram. Callers shorten both while something is outstanding."""
        self._ping_every, self._silence = ping * self._jitter, silence
        self._owner.mark(self)

    async def probe(self, timeout: float) -> float | None:
        """Ask for a sign of life now: seconds until the peer's program answered, or None when it did not in `timeout`
        seconds, or the connection is over.

        Only the answer to this very ping counts. After a sleep datagrams of long ago come out of the kernel's buffer,
        from a peer that has given the connection up since.
        """
        await trio.lowlevel.checkpoint()
        began, answered, numbers = trio.current_time(), trio.Event(), set[int]()
        try:
            with trio.move_on_after(timeout):
                while self.closed is None and not answered.is_set():
                    numbers.add(number := self._ping(trio.current_time()))
                    self._probes[number] = answered
                    self._owner.mark(self)
                    with trio.move_on_after(_PROBE_AGAIN):
                        await answered.wait()
        finally:
            for number in numbers:
                del self._probes[number]
        return trio.current_time() - began if self.closed is None and answered.is_set() else None

    def _ping(self, now: float) -> int:
        self._pings += 1
        self._pinged = now
        self._spoke = min(self._spoke, now)
        if self.closed is None:
            self._call(self._quic.send_ping, self._pings)
        return self._pings

    def close(self, code: int = 0, reason: str = "") -> None:
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
                self._finish(Closed(DriverCode.INTERNAL, f"{type(error).__name__}: {error}", by_peer=False))

    def _command(self, operation: Callable[..., object], *arguments: object) -> None:
        if self.closed is None:
            self._call(operation, *arguments)
            self._owner.mark(self)

    # What streams ask of their connection (see quic_stream.Carrier).

    def raise_if_closed(self) -> None:
        if self.closed is not None:
            raise ConnectionClosedError(self.closed)

    def write(self, stream_id: int, data: bytes, fin: bool) -> None:
        self._spoke = min(self._spoke, trio.current_time())
        self._command(self._quic.send_stream_data, stream_id, data, fin)

    def reset_stream(self, stream_id: int, code: int) -> None:
        self._command(self._quic.reset_stream, stream_id, code)

    def stop_stream(self, stream_id: int, code: int) -> None:
        self._command(self._quic.stop_stream, stream_id, code)

    def buffered(self, stream_id: int) -> int:
        return 0 if self.closed else self._engine.send_buffered(self._quic, stream_id)

    def took(self, count: int) -> None:
        self._unread -= count

    def let_go(self, stream_id: int) -> None:
        self._streams.pop(stream_id, None)

    # What the endpoint does with its connections.

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
        self._heard, self._spoke = now, float("inf")
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
                    stream.peer_reset(code)
            case StopSending(stream_id, code):
                if (stream := self._stream(stream_id)) is not None:
                    stream.peer_stopped(code)
            case PingAnswered(number):
                if number in self._probes:
                    self._probes[number].set()

    def _on_handshake(self, event: HandshakeDone) -> None:
        certificate = self._engine.peer_certificate_der(self._quic) if self.is_client else b""
        if event.resumed or event.alpn not in self._alpns or certificate is None:
            self.close(DriverCode.HANDSHAKE, "handshake not as required")
            return
        self.alpn = event.alpn or ""
        if self.is_client:
            self.certificate, self.certificate_digest = certificate, hashlib.sha256(certificate).digest()
        self.watch(ping=_PING, silence=IDLE_TIMEOUT)
        self.settled.set()
        self._owner.established(self)

    def _stream(self, stream_id: int) -> Stream | None:
        """The stream of an event, opening those of the peer's up to that number (RFC 9000 section 2.1); None when it was
        given up here or the peer went too far."""
        if stream_id & 1 == int(self.is_client):
            if stream_id & 2:
                self.close(DriverCode.STREAMS, "no unidirectional streams here")
                return None
            while self._next_peer_stream <= stream_id:
                stream = Stream(self, self._next_peer_stream)
                self._streams[stream.stream_id] = stream
                self._stream_queue.append(stream)
                self._next_peer_stream += 4
                if not self.admitted and self._next_peer_stream // 4 > self._limits.unauthenticated_streams:
                    self.close(DriverCode.UNAUTHENTICATED, "too many streams before authentication")
                    return None
                if len(self._streams) > self._limits.streams or len(self._stream_queue) > self._limits.streams:
                    self.close(DriverCode.STREAMS, "too many streams")
                    return None
            self._stream_arrived.set()
        return self._streams.get(stream_id)

    def _on_stream_data(self, event: StreamData) -> None:
        size = len(event.data)
        self._received += size
        stream = self._stream(event.stream_id)
        if not self.admitted and self._received > self._limits.unauthenticated_bytes:
            self.close(DriverCode.UNAUTHENTICATED, "too much before authentication")
        if stream is None or self.closed is not None:
            return
        self._unread += size
        if stream.unread + size > self._limits.unread_stream or self._unread > self._limits.unread_connection:
            self.close(DriverCode.UNREAD, "sent more than is being read")
            return
        stream.feed(event.data, event.fin)

    def send_refused(self, error: OSError | None) -> None:
        """Hear from the endpoint whether this machine's own network refused a datagram: for a dialler, that is final."""
        if error is not None and not self.settled.is_set() and error.errno in _NO_WAY:
            self.close(DriverCode.HANDSHAKE, error.strerror or "no way there")

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
        if now >= self._lost_at():
            self._call(self._quic.close, DriverCode.SILENCE, None, "silence")
            why = f"nothing heard for {now - self._heard:.0f} s"
            self._finish(Closed(DriverCode.SILENCE, why, False, timed_out=True))
        elif not self.admitted and now >= self._admit_by:
            self.close(DriverCode.UNAUTHENTICATED, "not authenticated in time")
        elif now >= self._ping_at():
            # Whether it is answered is not looked at: any datagram from the peer is as good a sign of life.
            self._ping(now)

    def _lost_at(self) -> float:
        if self._silence == float("inf"):
            return self._silence  # not connected yet: whoever dials has a time-out of its own
        return min(self._heard + self._silence, self._spoke + UNANSWERED)

    def _ping_at(self) -> float:
        every = self._ping_every
        quiet = max(self._heard, self._pinged) + every
        return min(quiet, max(self._spoke, self._pinged) + min(_ASK_AGAIN, every))

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
        if datagrams and datagrams[-1][1] != (self.path.host, self.path.port):
            self.path = Address(*datagrams[-1][1])
            if self.on_moved is not None:
                self.on_moved()
        for stream in self._streams.values():
            stream.after_sending()
        timer = self._quic.get_timer()
        if timer is None:
            timer = float("inf")
        elif timer <= now:
            # An engine's timer that stays in the past must not keep the sending task spinning (granularity: RFC 9002
            # section 6.1.2).
            timer = now + 0.001
        self.deadline = min(
            timer,
            self._lost_at(),
            self._ping_at(),
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
        self._owner.left(self)
        for stream in self._streams.values():
            stream.connection_closed()
        for answered in self._probes.values():
            answered.set()
        self._stream_arrived.set()
        self.settled.set()
        self._ended.set()
        self._owner.mark(self)
