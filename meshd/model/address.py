"""A place where a peer might answer: a hint, never an identity."""

import attrs

from meshd.errors import UsageError

DEFAULT_PORT = 64327
"""UDP and TCP port that Tether has always used; a free one is taken when it is busy."""


_NEVER = "@/\\"
"""In no host, and typed by habit: user@host, http://host."""


@attrs.frozen
class Address:
    """A host (IP address or name) and a UDP port, 1 to 65,535."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, default_port: int = DEFAULT_PORT) -> "Address":
        """Read `HOST`, `HOST:PORT`, `[V6]:PORT` or a bare IPv6 address. Raises UsageError."""
        host, port_text = text.strip(), ""
        if host.startswith("["):
            host, bracket, rest = host[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                raise UsageError(f"{text!r} is not an address.", "Write an IPv6 address with its port as [::1]:64327.")
            port_text = rest[1:]
        elif host.count(":") == 1:
            host, _, port_text = host.partition(":")
        if not host or any(character.isspace() or character in _NEVER for character in host):
            raise UsageError(f"{text!r} is not an address.", "Write HOST:PORT, for example 192.168.1.20:64327.")
        if not port_text:
            return cls(host, default_port)
        if not (port_text.isascii() and port_text.isdigit() and len(port_text) <= 5 and 0 < int(port_text) < 65_536):
            raise UsageError(f"{port_text!r} is not a port.", "A port is a number from 1 to 65535.")
        return cls(host, int(port_text))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
