"""Routers for the simulated network: hosts behind them, translated as RFC 4787 describes.

router = Router(network, "5.0.0.1", mapping=Mapping.ONE_FOR_ALL, filtering=Filtering.ADDRESS_AND_PORT)
ann = router.host("ann")
"""

import enum
import itertools

from meshd.drivers.udp import SocketAddress
from tests.sim.network import Host, Network


class Mapping(enum.Enum):
    ONE_FOR_ALL = enum.auto()
    ONE_FOR_EACH = enum.auto()
    """Another port for each destination."""


class Filtering(enum.Enum):
    """From whom a mapped port takes datagrams."""

    NONE = enum.auto()
    ADDRESS = enum.auto()
    ADDRESS_AND_PORT = enum.auto()


class Router:
    """One router with one public IPv4 address. Mappings last for ever; `renumber` drops them all."""

    _numbers = itertools.count(1)

    def __init__(
        self,
        network: Network,
        address: str,
        mapping: Mapping = Mapping.ONE_FOR_ALL,
        filtering: Filtering = Filtering.ADDRESS_AND_PORT,
        *,
        hairpin: bool = False,
        blocked: bool = False,
    ) -> None:
        self.network, self.address, self.mapping, self.filtering = network, address, mapping, filtering
        self.hairpin, self.blocked = hairpin, blocked
        self.name = f"router {address}"
        self._net = next(self._numbers)
        self._hosts: dict[str, Host] = {}
        self._ports: dict[tuple[SocketAddress, SocketAddress | None], int] = {}
        self._inside: dict[int, SocketAddress] = {}
        self._spoken: dict[int, set[SocketAddress]] = {}
        self._next = 40_000
        network.place(self, address)

    def host(self, name: str) -> Host:
        """A host behind it, with a private address."""
        made = self.network.host(name, f"192.168.{self._net}.{len(self._hosts) + 2}")
        made.router = self
        self._hosts[made.address] = made
        return made

    def renumber(self, address: str) -> None:
        """The router gets another address of its provider."""
        self.network.displace(self.address)
        self.address = address
        self.network.place(self, address)
        self._ports.clear()
        self._inside.clear()
        self._spoken.clear()

    def outbound(self, source: SocketAddress, target: SocketAddress) -> SocketAddress | None:
        if self.blocked or (target[0] == self.address and not self.hairpin):
            return None
        key = (source, None if self.mapping is Mapping.ONE_FOR_ALL else target)
        if key not in self._ports:
            self._next += 7
            self._ports[key] = self._next
            self._inside[self._next] = source
        port = self._ports[key]
        self._spoken.setdefault(port, set()).add(target)
        return self.address, port

    def deliver(self, data: bytes, source: SocketAddress, target: SocketAddress) -> None:
        inside = self._inside.get(target[1])
        if inside is None or not self._lets_in(source, target[1]):
            return
        self._hosts[inside[0]].deliver(data, source, inside)

    def _lets_in(self, source: SocketAddress, port: int) -> bool:
        spoken = self._spoken[port]
        match self.filtering:
            case Filtering.NONE:
                return True
            case Filtering.ADDRESS:
                return any(each[0] == source[0] for each in spoken)
            case Filtering.ADDRESS_AND_PORT:
                return source in spoken
