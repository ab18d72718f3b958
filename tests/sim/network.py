"""A UDP network in one process: real drivers, simulated wires, virtual time.

    async def test_something(autojump_clock):
        async with simulated(seed=7, loss=0.1) as network:
            alice, bob = network.host("alice"), network.host("bob")
            with bob:  # sockets made in this block, and in tasks started in it, are bob's
                async with open_endpoint(..., accept=True) as endpoint: ...

Sockets come through trio's own door for this, `trio.socket.set_custom_socket_factory`, and time from
`trio.testing.MockClock`, so that the code under test notices nothing. No threads, no real sockets, no real waiting.

What happens to a datagram is drawn from a generator of its own for each direction of each pair of hosts, seeded by the
network's seed and their names: the same datagrams in the same order meet the same fate. A run as a whole repeats as far
as the code under test does; QUIC's keys and connection ids and trio's order of tasks are not ours to seed.
"""

import contextvars
import errno
import heapq
import ipaddress
import os
import random
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import attrs
import trio
import trio.testing

SocketAddress = tuple[str, int]

_RECEIVE_BUFFER = 1024 * 1024
"""Bytes that a socket holds unread; what comes on top is lost, as in a kernel."""
_FIRST_PORT = 50_000

_current_host: contextvars.ContextVar["Host | None"] = contextvars.ContextVar("simulated host", default=None)


@attrs.frozen
class Link:
    """What one direction between two hosts does to datagrams."""

    loss: float = 0.0
    """Probability that a datagram vanishes."""
    delay: float = 0.005
    """Seconds from one host to the other."""
    jitter: float = 0.0
    """Seconds at most on top of `delay`, evenly drawn: alone enough to change the order."""
    duplicate: float = 0.0
    """Probability that a datagram arrives twice."""
    reorder: float = 0.0
    """Probability that a datagram is held back for four times the delay."""
    mtu: int = 1500
    """Largest IP packet in bytes that passes; larger ones vanish, as where ICMP is filtered."""


class Receiver(Protocol):
    """Who may be sent to: a host, or a router that passes it on."""

    name: str

    def deliver(self, data: bytes, source: SocketAddress, target: SocketAddress) -> None: ...


class Router(Protocol):
    """What a host is behind."""

    def outbound(self, source: SocketAddress, target: SocketAddress) -> SocketAddress | None:
        """The source that the others see; None where it goes no further."""


class Network:
    """Hosts, the links between them and everything under way."""

    def __init__(self, seed: int, link: Link) -> None:
        self.seed = seed
        self.sent = self.lost = 0
        """Datagrams handed to the network, and those of them that never arrived."""
        self.tap: Callable[[bytes, SocketAddress, SocketAddress], None] | None = None
        """Called with every datagram sent: data, source, target."""
        self._default = link
        self._links: dict[tuple[str, str], Link] = {}
        self._chance: dict[tuple[str, str], random.Random] = {}
        self._cut: set[frozenset[str]] = set()
        self._by_address: dict[str, Receiver] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._changed = trio.Event()

    def host(self, name: str, *addresses: str) -> "Host":
        """Add a host. Without addresses it gets one of IPv4 and one of IPv6."""
        number = len({id(host) for host in self._by_address.values()}) + 1
        found = Host(self, name, addresses or (f"10.0.0.{number}", f"fd00::{number:x}"))
        self.place(found, *found.addresses)
        return found

    def place(self, receiver: "Receiver", *addresses: str) -> None:
        """Let what is sent to these addresses come there."""
        for address in addresses:
            if address in self._by_address:
                raise ValueError(f"{address} is taken")
            self._by_address[address] = receiver

    def displace(self, *addresses: str) -> None:
        """Undo `place`."""
        for address in addresses:
            del self._by_address[address]

    def link(self, one: "Host", other: "Host", **changes: Any) -> None:
        """Give the pair of hosts a link of its own, both ways: the network's, with changes."""
        changed = attrs.evolve(self._links.get((one.name, other.name), self._default), **changes)
        self._links[one.name, other.name] = self._links[other.name, one.name] = changed

    def cut(self, one: "Host", other: "Host") -> None:
        """Let nothing pass between two hosts; what is under way still arrives."""
        self._cut.add(frozenset((one.name, other.name)))

    def heal(self, one: "Host", other: "Host") -> None:
        """Undo `cut`."""
        self._cut.discard(frozenset((one.name, other.name)))

    def at(self, delay: float, action: Callable[..., None], *arguments: Any) -> None:
        """Call an action after so many seconds: `network.at(5, network.cut, alice, bob)`."""
        self._schedule(trio.current_time() + delay, lambda: action(*arguments))

    def inject(self, data: bytes, source: SocketAddress, target: SocketAddress) -> None:
        """Let a datagram arrive at once, from whatever address: a forger's door, without loss or delay."""
        receiver = self._by_address.get(target[0])
        if receiver is not None:
            receiver.deliver(data, source, target)

    def send(self, data: bytes, sender: "Host", source: SocketAddress, target: SocketAddress) -> None:
        """Take a datagram from a host and decide what becomes of it."""
        self.sent += 1
        if self.tap is not None:
            self.tap(data, source, target)
        receiver = sender if target[0] in ("127.0.0.1", "::1") else self._by_address.get(target[0])
        if (
            receiver is not sender
            and sender.router is not None
            and getattr(receiver, "router", None) is not sender.router
        ):
            passed = sender.router.outbound(source, target)
            if passed is None:
                self.lost += 1
                return
            source = passed
        if receiver is None or getattr(receiver, "router", None) not in (None, sender.router):
            raise OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
        direction = (sender.name, receiver.name)
        link = Link(delay=0.0, mtu=65_536) if receiver is sender else self._links.get(direction, self._default)
        chance = self._chance.get(direction)
        if chance is None:
            # Text seeds are hashed alike in every process; tuples are not.
            chance = self._chance[direction] = random.Random(f"{self.seed}:{direction[0]}>{direction[1]}")
        # Drawn in any case, so that a change of one probability moves no other decision.
        lost, twice, late, spread, again = (chance.random() for _ in range(5))
        header = 48 if ":" in target[0] else 28
        if lost < link.loss or len(data) + header > link.mtu or frozenset(direction) in self._cut:
            self.lost += 1
            return
        arrival = trio.current_time() + link.delay * (4 if late < link.reorder else 1) + link.jitter * spread
        self._schedule(arrival, lambda: receiver.deliver(data, source, target))
        if twice < link.duplicate:
            self._schedule(arrival + link.delay * again, lambda: receiver.deliver(data, source, target))

    def _schedule(self, when: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (when, self._count, action))
        if self._queue[0][1] == self._count:
            self._changed.set()

    async def run(self) -> None:
        """Deliver for ever."""
        while True:
            while self._queue and self._queue[0][0] <= trio.current_time():
                heapq.heappop(self._queue)[2]()
            self._changed = trio.Event()
            with trio.move_on_at(self._queue[0][0] if self._queue else float("inf")):
                await self._changed.wait()


class Host:
    """A machine with addresses. As a context manager: the code in the block runs on it."""

    def __init__(self, network: Network, name: str, addresses: tuple[str, ...]) -> None:
        self.router: Router | None = None
        """What stands between it and the others (tests/sim/nat.py)."""
        self.network, self.name, self.addresses = network, name, addresses
        self._ports: dict[int, list[SimulatedSocket]] = {}
        self._next_port = _FIRST_PORT
        self._tokens: list[contextvars.Token[Host | None]] = []

    @property
    def address(self) -> str:
        """The first address: what others dial."""
        return self.addresses[0]

    def __enter__(self) -> "Host":
        self._tokens.append(_current_host.set(self))
        return self

    def __exit__(self, *_: object) -> None:
        _current_host.reset(self._tokens.pop())

    async def run(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Await a function as if on this host; for `nursery.start_soon(host.run, function, ...)`."""
        with self:
            return await function(*arguments)

    def bind(self, bound: "SimulatedSocket", port: int) -> int:
        """Give a socket a port, or the next free one for 0. Raises OSError when it is taken."""
        if port == 0:
            while self._next_port in self._ports:
                self._next_port += 1
            port = self._next_port
        if any(other.overlaps(bound) for other in self._ports.get(port, ())):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        self._ports.setdefault(port, []).append(bound)
        return port

    def release(self, bound: "SimulatedSocket", port: int) -> None:
        """Take a port back."""
        self._ports[port].remove(bound)
        if not self._ports[port]:
            del self._ports[port]

    def deliver(self, data: bytes, source: SocketAddress, target: SocketAddress) -> None:
        """Hand a datagram to the socket that is bound there, if one is."""
        for bound in self._ports.get(target[1], ()):
            if bound.hears(target[0]):
                bound.arrive(data, source)
                return

    def source_for(self, target: str) -> str:
        """The address that this host sends from to that target. Raises OSError without one of its IP version."""
        if target in ("127.0.0.1", "::1"):
            return target
        for address in self.addresses:
            if (":" in address) == (":" in target):
                return address
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))


class SimulatedSocket:
    """What the driver uses of `trio.socket.SocketType`, for UDP."""

    def __init__(self, factory: "_Factory", family: int) -> None:
        self._network = factory.network
        self.family, self.type, self.proto = family, socket.SOCK_DGRAM, 0
        self._host: Host | None = None
        self._bound: SocketAddress = ("", 0)
        self._v6only = False
        self._arrived: deque[tuple[bytes, SocketAddress]] = deque()
        self._held = 0
        self._readable = trio.Event()
        self._closed = False

    def fileno(self) -> int:
        """-1: there is nothing of the operating system behind this."""
        return -1

    def setsockopt(self, level: int, option: int, value: Any, _length: int | None = None) -> None:
        """Only IPV6_V6ONLY means something here."""
        if (level, option) == (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
            self._v6only = bool(value)

    async def bind(self, address: tuple[Any, ...]) -> None:
        """Bind to an address of a host, or to all of those of the host whose block this runs in."""
        await trio.lowlevel.checkpoint()
        name, port = address[0], address[1]
        host = self._network._by_address.get(name) or _current_host.get()
        if host is None or (name not in ("", "0.0.0.0", "::", "127.0.0.1", "::1", *host.addresses)):
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        if self.family == socket.AF_INET6 and not any(":" in each for each in host.addresses):
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        self._bound = (name, port)
        self._bound = (name, host.bind(self, port))
        self._host = host

    def getsockname(self) -> tuple[Any, ...]:
        """The bound address in the family's form."""
        return self._bound if self.family == socket.AF_INET else (*self._bound, 0, 0)

    def overlaps(self, other: "SimulatedSocket") -> bool:
        """Whether two sockets on one port would hear the same datagrams."""
        samples = ("0.0.0.0", "::", "127.0.0.1", "::1", self._bound[0], other._bound[0])
        return any(self.hears(sample) and other.hears(sample) for sample in samples)

    def hears(self, address: str) -> bool:
        """Whether a datagram to that address of the host is for this socket."""
        if self._bound[0] == "::":
            return ":" in address or not self._v6only
        return self._bound[0] == address or (self._bound[0] in ("", "0.0.0.0") and ":" not in address)

    def arrive(self, data: bytes, source: SocketAddress) -> None:
        """Take a datagram from the network."""
        if self._held + len(data) <= _RECEIVE_BUFFER:
            self._arrived.append((data, source))
            self._held += len(data)
            self._readable.set()

    async def recvfrom(self, size: int, _flags: int = 0) -> tuple[bytes, tuple[Any, ...]]:
        """Wait for a datagram; what exceeds `size` of it is cut off."""
        await trio.lowlevel.checkpoint()
        while not self._arrived:
            self._check_open()
            self._readable = trio.Event()
            await self._readable.wait()
        data, (host, port) = self._arrived.popleft()
        self._held -= len(data)
        if self.family == socket.AF_INET6:
            return data[:size], (host if ":" in host else f"::ffff:{host}", port, 0, 0)
        return data[:size], (host, port)

    async def sendto(self, data: bytes, address: tuple[Any, ...]) -> int:
        """Send a datagram. Never waits: this network has no bandwidth, only delay."""
        self._check_open()
        if self._host is None:
            await self.bind(("::" if self.family == socket.AF_INET6 else "0.0.0.0", 0))
            assert self._host is not None
        host = address[0].removeprefix("::ffff:") if "." in address[0] else address[0]
        target = (str(ipaddress.ip_address(host)), address[1])
        own = self._bound[0] if self._bound[0] in self._host.addresses else self._host.source_for(target[0])
        self._network.send(bytes(data), self._host, (own, self._bound[1]), target)
        return len(data)

    def close(self) -> None:
        """Free the port; a waiting `recvfrom` raises trio.ClosedResourceError."""
        if not self._closed:
            self._closed = True
            if self._host is not None:
                self._host.release(self, self._bound[1])
            self._arrived.clear()
            self._readable.set()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError


class _Factory(trio.abc.SocketFactory):
    def __init__(self, network: Network) -> None:
        self.network = network

    def socket(self, family: Any = None, type: Any = None, proto: Any = None) -> Any:  # noqa: A002 (trio's name)
        if type != socket.SOCK_DGRAM:
            raise OSError(errno.EPROTONOSUPPORT, "the simulated network carries UDP only")
        return SimulatedSocket(self, family)


@asynccontextmanager
async def simulated(seed: int, **link: Any) -> AsyncIterator[Network]:
    """Put a simulated network in the place of the system's, for the block; keywords are the fields of `Link`.

    The run needs a `trio.testing.MockClock` that jumps by itself: pytest-trio's `autojump_clock`, or `run`. An error
    that leaves the block carries the seed as a note.
    """
    if not isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock):
        raise RuntimeError("a simulated network needs virtual time: use the autojump_clock fixture or network.run")
    network = Network(seed, Link(**link))
    before = trio.socket.set_custom_socket_factory(_Factory(network))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(network.run)
            yield network
            nursery.cancel_scope.cancel()
    except BaseException as error:
        error.add_note(f"simulated network: seed {seed}, {link}")
        raise
    finally:
        trio.socket.set_custom_socket_factory(before)


def run(function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    """`trio.run` in virtual time that never waits."""
    return trio.run(function, *arguments, clock=trio.testing.MockClock(autojump_threshold=0))
