"""A rendezvous server as a person names it."""

import attrs

from meshd.errors import UsageError
from meshd.model.address import Address

DEFAULT_SERVER_PORT = 4440
"""UDP port of a rendezvous server whose setting names none."""

FINGERPRINT_LENGTH = 52
"""Characters of 32 bytes in base32 without padding."""

_BASE32 = frozenset("abcdefghijklmnopqrstuvwxyz234567")


@attrs.frozen
class ServerName:
    """Where a server is, and the fingerprint of its key if it is to be that one only."""

    address: Address
    fingerprint: str = ""

    @classmethod
    def parse(cls, text: str) -> "ServerName":
        """Read `HOST`, `HOST:PORT`, `[V6]:PORT`, each perhaps with `#FINGERPRINT`. Raises UsageError."""
        where, mark, fingerprint = text.strip().partition("#")
        fingerprint = fingerprint.lower()
        if mark and (len(fingerprint) != FINGERPRINT_LENGTH or not _BASE32.issuperset(fingerprint)):
            raise UsageError(
                f"{text.strip()!r:.120} has a fingerprint that is none.",
                f"It has {FINGERPRINT_LENGTH} characters; `tether-rendezvous fingerprint` shows it on the server.",
            )
        return cls(Address.parse(where, DEFAULT_SERVER_PORT), fingerprint)

    def __str__(self) -> str:
        return str(self.address)


def parse_servers(texts: tuple[str, ...]) -> tuple[ServerName, ...]:
    """Several, each address once. Raises UsageError."""
    found = {name.address: name for name in map(ServerName.parse, texts)}
    return tuple(found.values())
