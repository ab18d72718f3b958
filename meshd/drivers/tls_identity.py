"""The TLS certificate of one run: self-signed, P-256, its key in memory only.

TLS encrypts and orders here; it does not say who somebody is. The protocols above bind the SHA-256 of this certificate
into their own key confirmation, so the certificate needs no name, no issuer and no lasting key. P-256 and not Ed25519:
qh3 leaves Ed25519 out of the signature schemes that it offers, and the handshake then stalls without an error.
"""

import base64
import hashlib
from datetime import UTC, datetime

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_ALWAYS = (datetime(2000, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
"""Validity that never binds (RFC 5280 section 4.1.2.5): the time of the run would tell a stranger this clock's error."""


@attrs.frozen
class TlsIdentity:
    """A certificate and its private key.

    `certificate_der` is what goes over the wire, byte for byte; both PEM fields are what the engines read.
    """

    certificate_der: bytes
    certificate_pem: bytes
    private_key_pem: bytes = attrs.field(repr=False)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the certificate as sent: 32 bytes."""
        return hashlib.sha256(self.certificate_der).digest()

    @classmethod
    def generate(cls) -> "TlsIdentity":
        """Make a fresh key and certificate from the system's entropy; takes about a millisecond."""
        return cls._of(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def of_key(cls, private_key_pem: bytes) -> "TlsIdentity":
        """A fresh certificate for a key that lasts: a rendezvous server's. Raises ValueError for anything but P-256."""
        key = serialization.load_pem_private_key(private_key_pem, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError("not a P-256 key")
        return cls._of(key)

    @property
    def fingerprint(self) -> str:
        """What a client may pin."""
        return fingerprint(self.certificate_der)

    @classmethod
    def _of(cls, key: ec.EllipticCurvePrivateKey) -> "TlsIdentity":
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tether")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_ALWAYS[0])
            .not_valid_after(_ALWAYS[1])
            .sign(key, hashes.SHA256())
        )
        return cls(
            certificate_der=certificate.public_bytes(serialization.Encoding.DER),
            certificate_pem=certificate.public_bytes(serialization.Encoding.PEM),
            private_key_pem=key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )


def has_fingerprint(certificate_der: bytes, wanted: str) -> bool:
    """Whether a peer's certificate is of that key. What a stranger calls a certificate may be none."""
    try:
        return fingerprint(certificate_der) == wanted
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        return False


def fingerprint(certificate_der: bytes) -> str:
    """SHA-256 of the certificate's SubjectPublicKeyInfo in lower-case base32 without padding, 52 characters: the same for
    every certificate of one key (RFC 7469, section 2.4, pins likewise)."""
    key = x509.load_der_x509_certificate(certificate_der).public_key()
    info = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.b32encode(hashlib.sha256(info).digest()).decode().rstrip("=").lower()
