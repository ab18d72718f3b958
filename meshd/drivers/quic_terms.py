"""The words in which the QUIC driver talks to its callers: limits, endings and errors."""

from enum import IntEnum

import attrs
import trio

from meshd.errors import ConnectionLostError


class DriverCode(IntEnum):
    """Application error codes that the driver itself closes with; the protocols above use codes below 0x7400.

    | code | name | said when |
    |---|---|---|
    | 0x7401 | UNAUTHENTICATED | a stranger sent too much, opened a second stream or took too long before `admit` |
    | 0x7402 | UNREAD | the peer sent more than is being read |
    | 0x7403 | STREAMS | the peer opened too many streams, or a unidirectional one |
    | 0x7404 | BUSY | more callers came at once than can wait for `accept` |
    | 0x7405 | HANDSHAKE | the handshake is not as required (resumed, another ALPN name, no certificate), or no way there |
    | 0x7406 | VERSIONS | no version in common, and the lists were not exchanged either |
    | 0x7407 | SILENCE | nothing was heard of the peer for too long |
    | 0x7408 | INTERNAL | the engine raised; this is known here only, the peer hears nothing more |
    """

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
    """What peers may cost. The first five hold until `admit()`; numbers and time only for accepted connections, since
    who dials chose the stranger.

    They bind the caller as well: before a dialler has heard that it is admitted it may send no more than
    `unauthenticated_bytes`, all on its first stream.
    """

    unauthenticated: int = 64
    """Accepted connections at once that nobody has vouched for. Each costs tens of kilobytes: a few megabytes in all."""
    unauthenticated_per_source: int = 4
    """The same for one IPv4 address or one IPv6 /64, which is what one customer holds. Loopback counts alike."""
    unauthenticated_streams: int = 1
    """Streams opened by the peer before `admit()`: a handshake is a conversation and needs one. Of a dialled peer it is
    its next that may come before we know that we are admitted; its first bytes are an offer."""
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
    connections: int | None = None
    """Accepted connections in all, admitted or not; while there are so many a newcomer gets no answer. None: as many as
    come. A node has tens, and each of them was admitted; a server of strangers names what its memory holds."""
    handshakes_per_second: float | None = None
    """Handshakes that may begin, and as many at once; beyond it a newcomer gets no answer. Each costs a millisecond or two
    of a core, which a server wants to keep for those who are in. None: no such limit."""


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

    @property
    def told(self) -> int | None:
        """The application code when it was the peer who closed with one; None for an end of any other kind."""
        return self.code if self.by_peer and not self.is_transport else None


class ConnectionClosedError(ConnectionLostError, trio.BrokenResourceError):
    """The connection that this stream or call needed is closed."""

    def __init__(self, closed: Closed) -> None:
        if closed.timed_out:
            what = "The connection was lost: the other side fell silent."
        elif closed.by_peer:
            what = f"The other side closed the connection (code {closed.code:#x})."
        else:
            what = f"The connection was closed here (code {closed.code:#x}): {closed.reason}."
        super().__init__(what)
        self.closed = closed


class StreamResetError(ConnectionLostError, trio.BrokenResourceError):
    """The peer gave up sending on this stream, or reading it; `code` is the application's."""

    def __init__(self, code: int) -> None:
        super().__init__(f"The other side gave up a transfer (code {code:#x}).")
        self.code = code


class DialFailedError(ConnectionLostError):
    """Nobody who speaks our protocol answered there in time. `closed` tells how an answer ended, if there was one."""

    def __init__(self, what: str, closed: Closed | None = None) -> None:
        super().__init__(what)
        self.closed = closed


class VersionMismatchError(ConnectionLostError):
    """Both sides are Tethers, of versions that have nothing in common."""

    def __init__(self, ours: tuple[int, ...], theirs: tuple[int, ...]) -> None:
        this_is_older = max(ours) < max(theirs)
        speaks = [", ".join(map(str, versions)) for versions in (theirs, ours)]
        older = "this side is older" if this_is_older else "the other side is older"
        super().__init__(
            f"The other side speaks tether version {speaks[0]} only, this side {speaks[1]}: {older}.",
            "Update it." if this_is_older else "Update the other side.",
        )
        self.this_is_older = this_is_older
