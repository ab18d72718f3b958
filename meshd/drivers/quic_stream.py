"""One QUIC stream as trio knows streams: bytes one way, bytes the other way, each with an end of its own."""

import operator
from typing import Protocol

import trio

from meshd.drivers.quic_terms import StreamResetError

HIGH_WATER = 1024 * 1024
"""Bytes of one stream that may wait in the engine before `send_all` waits: a few round trips at 100 MB/s on a LAN."""
_CHUNK = 256 * 1024
"""Bytes handed to the engine at once; each hand-over copies, and a smaller one would wake the sender more often."""


class Carrier(Protocol):
    """What a stream needs of the connection that carries it. On a closed one the commands do nothing."""

    def raise_if_closed(self) -> None:
        """Raise ConnectionClosedError unless the connection is open."""

    def write(self, stream_id: int, data: bytes, fin: bool) -> None:
        """Send bytes, the last ones with `fin`."""

    def reset_stream(self, stream_id: int, code: int) -> None:
        """Give up sending (RESET_STREAM, RFC 9000 section 19.4)."""

    def stop_stream(self, stream_id: int, code: int) -> None:
        """Refuse what the peer still sends (STOP_SENDING, RFC 9000 section 19.5)."""

    def buffered(self, stream_id: int) -> int:
        """Bytes that the engine holds and has not sent once."""

    def took(self, count: int) -> None:
        """So many bytes that the stream was fed are unread no longer."""

    def let_go(self, stream_id: int) -> None:
        """The stream is over, or given up here: what still comes of it is for nobody."""


class Stream(trio.abc.HalfCloseableStream):
    """One bidirectional QUIC stream. One task may send and one may receive at a time."""

    def __init__(self, carrier: Carrier, stream_id: int) -> None:
        self._carrier = carrier
        self.stream_id = stream_id
        """As QUIC numbers it (RFC 9000 section 2.1)."""
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
        if max_bytes is not None and operator.index(max_bytes) < 1:
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
                self._carrier.raise_if_closed()
                self._readable = trio.Event()
                await self._readable.wait()
        finally:
            self._receiving = False
        count = min(len(self._unread), max_bytes or _CHUNK)
        with memoryview(self._unread) as view:
            data = bytes(view[:count])
        del self._unread[:count]
        self._carrier.took(count)
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Hand all bytes to the engine, waiting while it holds more than HIGH_WATER of this stream unsent.

        That they arrived is for the protocol above to hear. Raises StreamResetError when the peer stopped reading,
        ConnectionClosedError, or trio.ClosedResourceError after `send_eof`, `reset` or `aclose`.
        """
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            with memoryview(data) as view:
                for start in range(0, len(view), _CHUNK) or (0,):
                    await self._wait_for_room()
                    self._carrier.write(self.stream_id, bytes(view[start : start + _CHUNK]), False)
        finally:
            self._sending = False

    async def _wait_for_room(self) -> None:
        self._check_sendable()
        while self._carrier.buffered(self.stream_id) > HIGH_WATER:
            self._writable = trio.Event()
            await self._writable.wait()
            self._check_sendable()

    def send_now(self, data: bytes) -> None:
        """Hand bytes to the engine without waiting, however much it holds: for callers that mind `unsent` themselves.

        Raises what `send_all` does.
        """
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._check_sendable()
        self._carrier.write(self.stream_id, data, False)

    @property
    def unsent(self) -> int:
        """Bytes that were handed to the engine and have not left once, 0 when the connection is closed."""
        return self._carrier.buffered(self.stream_id)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until `send_all` would hand over a chunk without waiting."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        await trio.lowlevel.checkpoint()
        await self._wait_for_room()

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
            self._abandon(None, 0)
        await trio.lowlevel.checkpoint()

    def _abandon(self, reset_code: int | None, stop_code: int) -> None:
        self._closed_here = True
        if not self._received_fin and self._reset_code is None:
            self._carrier.stop_stream(self.stream_id, stop_code)
        if not self._sent_fin and self._stopped_code is None:
            if reset_code is None:
                self._finish_sending()
            else:
                self._sent_fin = True
                self._carrier.reset_stream(self.stream_id, reset_code)
        self._drop_unread()
        self._carrier.let_go(self.stream_id)
        self._wake()

    def _finish_sending(self) -> None:
        self._sent_fin = True
        self._carrier.write(self.stream_id, b"", True)
        self._writable.set()
        self._let_go_if_over()

    def _check_sendable(self) -> None:
        if self._closed_here or self._sent_fin:
            raise trio.ClosedResourceError
        if self._stopped_code is not None:
            raise StreamResetError(self._stopped_code)
        self._carrier.raise_if_closed()

    # What its connection tells a stream.

    @property
    def unread(self) -> int:
        """Bytes that arrived and wait for `receive_some`."""
        return len(self._unread)

    def feed(self, data: bytes, fin: bool) -> None:
        """Bytes arrived, in order; `fin` says that they are the last."""
        self._unread += data
        self._received_fin = fin
        self._readable.set()
        self._let_go_if_over()

    def peer_reset(self, code: int) -> None:
        """The peer gave up sending: what is unread of it counts for nothing."""
        self._drop_unread()
        self._reset_code = code
        self._readable.set()
        self._let_go_if_over()

    def peer_stopped(self, code: int) -> None:
        """The peer will read no more."""
        self._stopped_code = code
        self._writable.set()
        self._let_go_if_over()

    def after_sending(self) -> None:
        """The engine has sent what it may: wake a waiting sender when it holds little enough."""
        if not self._writable.is_set() and self._carrier.buffered(self.stream_id) <= HIGH_WATER // 2:
            self._writable.set()

    def connection_closed(self) -> None:
        """Nothing more comes or goes."""
        self._wake()

    def _let_go_if_over(self) -> None:
        received = self._received_fin or self._reset_code is not None
        if received and (self._sent_fin or self._stopped_code is not None):
            self._carrier.let_go(self.stream_id)

    def _drop_unread(self) -> None:
        self._carrier.took(len(self._unread))
        self._unread.clear()

    def _wake(self) -> None:
        self._readable.set()
        self._writable.set()
