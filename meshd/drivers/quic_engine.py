"""The two QUIC engines behind one face: qh3 (Rust core, fast) and aioquic (pure Python, always installable).

Both are sans-IO and share their calls, so the driver in `quic.py` holds either without knowing which. What differs, and
every attribute that the libraries call private, stands in this file only; `tests/drivers/test_engine_privates.py` fails
when an upgrade takes one of them away. Only the chosen engine is imported: the other would cost start-up time and
memory for nothing.

Never enabled here, whatever a peer offers: session tickets and 0-RTT (no handler, no fetcher is ever set), key logging,
the QUIC bit greasing of RFC 9287 (neither engine has it; the socket's first bit pattern belongs to our demultiplexer),
a server's preferred address (RFC 9000 section 9.6), and QUIC versions other than 1.
"""

import importlib
import importlib.util
import logging
import ssl
from typing import Any, Protocol, cast

import attrs
from cryptography.hazmat.primitives.serialization import Encoding

from meshd.config import EngineName
from meshd.drivers.quic_retry import QUIC_V1, Header
from meshd.drivers.tls_identity import TlsIdentity
from meshd.drivers.udp import Datagram, SocketAddress

CONNECTION_ID_LENGTH = 8
"""Bytes of every connection id that we choose: 64 random bits, so that collisions and guesses stay out of reach."""
IDLE_TIMEOUT = 40.0
"""Seconds after which an engine forgets a silent connection (RFC 9000 section 10.1)."""

_MAX_DATAGRAM = 1232
"""UDP payload that every IPv6 path carries: 1,280 octets less 40 of IPv6 and 8 of UDP. No VPN in between breaks it."""
_FIRST_WINDOW = 256 * 1024
"""First receive window in bytes, for each stream and for the connection. Both engines double a window once half of it is
used, so it keeps ahead of slow start and never binds; but until then a stranger's single frame at a far offset makes
an engine allocate up to a window, which is why it does not start at 16 MiB."""


class QuicConnection(Protocol):
    """What both engines' connections offer under one name."""

    host_cid: bytes

    def connect(self, addr: SocketAddress, now: float) -> None: ...
    def receive_datagram(self, data: bytes, addr: SocketAddress, now: float) -> None: ...
    def datagrams_to_send(self, now: float) -> list[Datagram]: ...
    def get_timer(self) -> float | None: ...
    def handle_timer(self, now: float) -> None: ...
    def get_next_available_stream_id(self, is_unidirectional: bool = False) -> int: ...
    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None: ...
    def reset_stream(self, stream_id: int, error_code: int) -> None: ...
    def stop_stream(self, stream_id: int, error_code: int) -> None: ...
    def send_ping(self, uid: int) -> None: ...
    def close(self, error_code: int = 0, frame_type: int | None = None, reason_phrase: str = "") -> None: ...


@attrs.define
class HandshakeDone:
    """The TLS handshake is complete (RFC 9001 section 4.1.1)."""

    alpn: str | None
    resumed: bool
    """Whether the session was resumed or carried early data: the driver refuses either."""


@attrs.define
class StreamData:
    """Bytes in order on one stream, perhaps none; `fin` when they are the last."""

    stream_id: int
    data: bytes
    fin: bool


@attrs.define
class StreamReset:
    """The peer gave up sending on a stream (RFC 9000 section 19.4)."""

    stream_id: int
    code: int


@attrs.define
class StopSending:
    """The peer will not read more of a stream (RFC 9000 section 19.5)."""

    stream_id: int
    code: int


@attrs.define
class IdIssued:
    """Datagrams may arrive under one more connection id."""

    connection_id: bytes


@attrs.define
class IdRetired:
    """The peer stopped using a connection id."""

    connection_id: bytes


@attrs.define
class PingAnswered:
    """The peer acknowledged the ping with this number (RFC 9000 section 19.2)."""

    number: int


Event = HandshakeDone | StreamData | StreamReset | StopSending | IdIssued | IdRetired | PingAnswered


@attrs.frozen
class Ending:
    """Why an engine ended a connection; `is_application` tells the peer's own code from QUIC's and TLS's."""

    code: int
    reason: str
    is_application: bool
    by_peer: bool
    timed_out: bool


class Engine:
    """One engine, loaded. Stateless: connections and configurations made here belong to the caller."""

    def __init__(self, name: EngineName | None = None) -> None:
        """Import the named engine; None takes qh3 where it is installed and aioquic otherwise."""
        if name is None:
            name = "qh3" if importlib.util.find_spec("qh3") else "aioquic"
        self.name: EngineName = name
        self._configuration = importlib.import_module(f"{name}.quic.configuration")
        self._connection = importlib.import_module(f"{name}.quic.connection")
        self._packet = importlib.import_module(f"{name}.quic.packet")
        # Both log every close as a warning; the driver reports the same as values and exceptions.
        logging.getLogger("quic").setLevel(logging.CRITICAL)

    def configuration(self, *, is_client: bool, alpns: tuple[str, ...], identity: TlsIdentity | None = None) -> Any:
        """Settings for one side, to be shared by all its connections. A server needs an identity."""
        configuration = self._configuration.QuicConfiguration(
            is_client=is_client,
            alpn_protocols=list(alpns),
            connection_id_length=CONNECTION_ID_LENGTH,
            idle_timeout=IDLE_TIMEOUT,
            max_data=_FIRST_WINDOW,
            max_stream_data=_FIRST_WINDOW,
            max_datagram_size=_MAX_DATAGRAM,
            supported_versions=[QUIC_V1],
            # The chain proves nothing here (see tls_identity); that the peer holds the certificate's key is still
            # checked by both engines, and tested.
            verify_mode=ssl.CERT_NONE,
        )
        if identity is not None:
            self._load_identity(configuration, identity)
        return configuration

    def _load_identity(self, configuration: Any, identity: TlsIdentity) -> None:
        if self.name == "qh3":
            configuration.load_cert_chain(identity.certificate_pem, identity.private_key_pem)
            return
        # aioquic's load_cert_chain reads files only, and the key must never be on a disk.
        tls = importlib.import_module("aioquic.tls")
        configuration.certificate = tls.load_pem_x509_certificates(identity.certificate_pem)[0]
        configuration.private_key = tls.load_pem_private_key(identity.private_key_pem)

    def client(self, configuration: Any) -> QuicConnection:
        """A connection that is to dial."""
        return cast(QuicConnection, self._connection.QuicConnection(configuration=configuration))

    def server(self, configuration: Any, original_id: bytes, retry_id: bytes | None) -> QuicConnection:
        """A connection for a client that first wrote to `original_id` and, after a Retry, to `retry_id`."""
        connection = self._connection.QuicConnection(
            configuration=configuration,
            original_destination_connection_id=original_id,
            retry_source_connection_id=retry_id,
        )
        return cast(QuicConnection, connection)

    def encode_retry(self, header: Header, retry_id: bytes, token: bytes) -> bytes:
        """A Retry packet (RFC 9000 section 17.2.5) that answers the Initial with that header."""
        packet: bytes = self._packet.encode_quic_retry(
            version=header.version,
            source_cid=retry_id,
            destination_cid=header.source_id,
            original_destination_cid=header.destination_id,
            retry_token=token,
        )
        return packet

    def encode_version_negotiation(self, header: Header) -> bytes:
        """A Version Negotiation packet (RFC 9000 section 17.2.1) that offers version 1."""
        packet: bytes = self._packet.encode_quic_version_negotiation(
            source_cid=header.destination_id, destination_cid=header.source_id, supported_versions=[QUIC_V1]
        )
        return packet

    def receive(self, connection: QuicConnection, datagrams: list[bytes], address: SocketAddress, now: float) -> None:
        """Feed datagrams that came from one address, in order."""
        if self.name == "qh3":
            cast(Any, connection).receive_many_datagrams(datagrams, address, now)
            return
        for data in datagrams:
            connection.receive_datagram(data, address, now)
        # aioquic would move to the address that a server prefers (RFC 9000 section 9.6); identity here belongs to a
        # connection that was dialled, so the offer is forgotten before anything is sent. qh3 has no such code.
        cast(Any, connection)._remote_preferred_address = None

    def datagrams_to_send(self, connection: QuicConnection, now: float) -> list[Datagram]:
        """Take what is to be sent, with its targets. qh3 writes those of IPv6 with flow label and scope, always 0."""
        return [(data, (address[0], address[1])) for data, address in connection.datagrams_to_send(now)]

    def next_event(self, connection: QuicConnection) -> Event | None:
        """Take the next event that the driver acts on; the engines' other events are passed over."""
        while (event := cast(Any, connection).next_event()) is not None:
            match type(event).__name__:
                case "StreamDataReceived":
                    return StreamData(event.stream_id, event.data, event.end_stream)
                case "HandshakeCompleted":
                    return HandshakeDone(event.alpn_protocol, event.session_resumed or event.early_data_accepted)
                case "StreamReset":
                    return StreamReset(event.stream_id, event.error_code)
                case "StopSendingReceived":
                    return StopSending(event.stream_id, event.error_code)
                case "ConnectionIdIssued":
                    return IdIssued(event.connection_id)
                case "ConnectionIdRetired":
                    return IdRetired(event.connection_id)
                case "PingAcknowledged":
                    return PingAnswered(event.uid)
        return None

    def ending(self, connection: QuicConnection) -> Ending | None:
        """Why the connection is over, as soon as the engine knows.

        The engines announce it publicly only when the draining period is over, three probe time-outs late (RFC 9000
        section 10.2); a person waits for this.
        """
        private = cast(Any, connection)
        event = private._close_event
        if event is None:
            return None
        state = private._core.state if self.name == "qh3" and private._core else private._state.name.lower()
        return Ending(
            code=int(event.error_code),
            reason=event.reason_phrase,
            is_application=event.frame_type is None,
            by_peer=state == "draining",
            timed_out=state == "terminated" and event.reason_phrase == "Idle timeout",
        )

    def send_buffered(self, connection: QuicConnection, stream_id: int) -> int:
        """Bytes of a stream that the engine holds and has not yet sent once. What is in flight is not counted: the
        congestion window and the peer's receive window bound that."""
        private = cast(Any, connection)
        if self.name == "qh3":
            return int(private.get_send_buffer_size(stream_id))
        stream = private._streams.get(stream_id)
        return 0 if stream is None else int(stream.sender._buffer_stop - stream.sender.highest_offset)

    def peer_certificate_der(self, connection: QuicConnection) -> bytes | None:
        """The certificate that the server sent, DER, or None when there is none (then the caller must refuse)."""
        private = cast(Any, connection)
        if self.name == "qh3":
            certificate = private.get_peercert()
            return None if certificate is None else bytes(certificate.public_bytes())
        certificate = private.tls._peer_certificate
        if certificate is None:
            return None
        return bytes(certificate.public_bytes(Encoding.DER))
