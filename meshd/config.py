"""Settings that come from the environment: their names, and what their texts mean. Options of a command come before them."""

import os
from typing import Final, Literal

from meshd.errors import UsageError

ENV_PASSPHRASE: Final = "TETHER_PASSPHRASE"  # noqa: S105  a name, no secret
"""The passphrase or code, for scripts: unlike an argument it is not shown by `ps` to other users."""

ENV_QUIC_ENGINE: Final = "TETHER_QUIC_ENGINE"
"""`qh3` or `aioquic`; otherwise qh3 where it is installed."""

ENV_LAN_INTERFACES: Final = "TETHER_LAN_INTERFACES"
"""IPv4 addresses of this machine, separated by commas or spaces, that multicast DNS is limited to."""

EngineName = Literal["aioquic", "qh3"]

ENGINES: Final[tuple[EngineName, ...]] = ("aioquic", "qh3")


def quic_engine(option: str | None) -> EngineName | None:
    """The engine that was asked for, or None for the default. Raises UsageError for an unknown name."""
    name = option or os.environ.get(ENV_QUIC_ENGINE) or None
    for known in ENGINES:
        if name == known:
            return known
    if name is None:
        return None
    raise UsageError(f"{name!r} is not a QUIC engine.", f"Use one of {', '.join(ENGINES)} ({ENV_QUIC_ENGINE}).")


def lan_interfaces(options: tuple[str, ...]) -> tuple[str, ...]:
    """The addresses that were asked for, unchecked; none means all."""
    return options or tuple(os.environ.get(ENV_LAN_INTERFACES, "").replace(",", " ").split())
