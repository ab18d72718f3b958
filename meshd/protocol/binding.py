"""What a handshake is bound to: its messages are worth nothing on any other connection. docs/protocol/pairing.md."""

import struct

import attrs

from meshd.wire.constants import PROTOCOL


@attrs.frozen(kw_only=True)
class Binding:
    """One connection. Both sides must see the same four values, or their keys differ and no message verifies."""

    certificate_digest: bytes
    """SHA-256 of the server's certificate, DER as sent. Who ends TLS in the middle shows another certificate."""

    alpn: str
    """As negotiated on this connection."""

    purpose: str = "pair"
    """Keeps a handshake made for one thing from being used for another."""

    protocol: str = PROTOCOL

    def fields(self, role: str, hello_a: bytes, hello_b: bytes) -> bytes:
        """The bytes that go into PAKE identities (`role` A or B) and Noise prologues (AB).

        Every field behind its length (4 bytes, big-endian): without lengths, bytes could move from one field to the
        next and two different connections have one binding. Hellos are the exact frame bodies.
        """
        fields = (
            self.purpose.encode(),
            self.protocol.encode(),
            self.alpn.encode(),
            role.encode(),
            self.certificate_digest,
            hello_a,
            hello_b,
        )
        return b"".join(struct.pack(">I", len(field)) + field for field in fields)
