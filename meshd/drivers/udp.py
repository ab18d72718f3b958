"""One UDP socket for everything a node says by datagram: batches in, batches out, both IP versions.

Addresses cross this border as plain `(host, port)`: an IPv4 address is written as such even on a dual-stack socket, and
the interface of a link-local address is remembered here, because QUIC engines compare paths by these tuples.
"""

import errno
import ipaddress
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Any

import trio

SocketAddress = tuple[str, int]
"""IP address as text, without a scope, and a port: the form in which engines compare paths."""
Datagram = tuple[bytes, SocketAddress]

_BATCH = 64
"""Datagrams taken per wake before anything is answered: enough to spread the cost of a wake, few enough for ACKs."""
_LARGEST = 2048
"""Bytes kept of one datagram. Everything that this program sends fits in an Ethernet frame; longer ones are junk."""
_BUFFER = 4 * 1024 * 1024
"""Bytes asked of the kernel in each direction: 40 ms at 100 MB/s, while the other tasks have the processor."""
_SCOPES = 256
"""Link-local addresses whose interface is remembered; the oldest is forgotten first."""
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE = 10, 23, 3
"""From linux/in.h and linux/in6.h; the socket module does not name them."""
_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104
"""From linux/udp.h: one system call for many datagrams of one size, each way. An engine hands over tens at once, and
without this most of a fast transfer's time goes into system calls."""
_SEGMENTS, _SEGMENTS_BYTES = 64, 65_000
"""What the kernel takes in one such call: 64 datagrams that together still fit in one of the largest size."""


class UdpSocket:
    """A bound socket. One task may receive and one may send at a time."""

    def __init__(self, found: Any, family: int) -> None:
        self._family = family
        self._scopes: dict[str, int] = {}
        self.port: int = found.getsockname()[1]
        # trio's own socket checks every address and visits the scheduler for each datagram, which costs more than the
        # datagram. A socket of the operating system is therefore used directly; one that a test put in its place is not.
        self._simulated = None if found.fileno() >= 0 else found
        self._socket = socket.socket(fileno=found.detach()) if found.fileno() >= 0 else None
        self._segments_out = self._segments_in = False
        if self._socket is not None:
            self._socket.setblocking(False)
            self._segments_out = self._segments_in = sys.platform == "linux"
            if self._segments_in:
                try:
                    self._socket.setsockopt(_SOL_UDP, _UDP_GRO, 1)
                except OSError:
                    self._segments_in = False

    @classmethod
    async def bind(cls, host: str | None, port: int) -> "UdpSocket":
        """Bind to one address, or with None to all, IPv6 and IPv4. Port 0 picks one. Raises OSError."""
        if host is not None:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return await cls._bind(family, host, port)
        try:
            return await cls._bind(socket.AF_INET6, "::", port)
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT):
                raise
            return await cls._bind(socket.AF_INET, "0.0.0.0", port)  # noqa: S104 (asked for by host=None)

    @classmethod
    async def _bind(cls, family: int, host: str, port: int) -> "UdpSocket":
        made = trio.socket.socket(family, socket.SOCK_DGRAM)
        try:
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
            if sys.platform == "linux":
                # QUIC datagrams are never fragmented (RFC 9000 section 14), or path MTU probes would prove nothing.
                if family == socket.AF_INET6:
                    made.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
                made.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
            await made.bind((host, port))
            return cls(made, family)
        except BaseException:
            made.close()
            raise

    def close(self) -> None:
        """Give the port back."""
        if self._socket is not None:
            trio.lowlevel.notify_closing(self._socket.fileno())
            self._socket.close()
        else:
            assert self._simulated is not None
            self._simulated.close()

    def can_reach(self, host: str) -> bool:
        """Whether this socket speaks the IP version of a numeric host."""
        return self._family == socket.AF_INET6 or ":" not in host

    def local_form(self, host: str) -> str:
        """Write a numeric host as engines compare it: an IPv4 address plainly, and without the interface of a link-local
        one, which is remembered. Raises ValueError for a name, OSError for an unknown interface."""
        plain, percent, scope = host.partition("%")
        numeric = ipaddress.ip_address(plain)
        if percent:
            self._remember(str(numeric), int(scope) if scope.isdecimal() else socket.if_nametoindex(scope))
        return str(numeric.ipv4_mapped or numeric) if isinstance(numeric, ipaddress.IPv6Address) else plain

    async def receive(self) -> list[Datagram]:
        """Wait for datagrams and return what is there, at most a batch, at least one."""
        if self._socket is None:
            assert self._simulated is not None
            data, address = await self._simulated.recvfrom(_LARGEST)
            return [(data, self._from_kernel(address))]
        batch: list[Datagram] = []
        while True:
            try:
                while len(batch) < _BATCH:
                    batch += self._take()
            except BlockingIOError:
                pass
            except OSError:
                # An ICMP answer to something sent earlier; the engines' own timers judge whether a peer is gone.
                await trio.lowlevel.checkpoint()
                continue
            if batch:
                await trio.lowlevel.checkpoint()
                return batch
            await trio.lowlevel.wait_readable(self._socket.fileno())

    def _take(self) -> list[Datagram]:
        """One system call's worth: a datagram, or several of one size from one peer that the kernel put together."""
        assert self._socket is not None
        if not self._segments_in:
            data, address = self._socket.recvfrom(_LARGEST)
            return [(data, self._from_kernel(address))]
        data, ancillary, _, address = self._socket.recvmsg(65_535, socket.CMSG_SPACE(4))
        source = self._from_kernel(address)
        size = struct.unpack("i", ancillary[0][2])[0] if ancillary else len(data)
        if size >= len(data):
            return [(data, source)]
        return [(data[start : start + size], source) for start in range(0, len(data), size)]

    async def send(self, datagrams: list[Datagram]) -> OSError | None:
        """Send all, waiting while the kernel's buffer is full. One that the kernel refuses counts as lost on the way,
        as QUIC expects of a network; the refusal is returned for a dialler to report."""
        refused: OSError | None = None
        for run in _runs(datagrams) if self._segments_out else ([datagram] for datagram in datagrams):
            target = self._to_kernel(run[0][1])
            try:
                if self._simulated is not None:
                    await self._simulated.sendto(run[0][0], target)
                elif len(run) == 1:
                    await self._send(run[0][0], target, [])
                else:
                    size = struct.pack("H", len(run[0][0]))
                    parts = b"".join([data for data, _ in run])
                    await self._send(parts, target, [(_SOL_UDP, _UDP_SEGMENT, size)])
            except OSError as error:
                if len(run) > 1:
                    # A kernel or an interface that can not: from now on one by one, these included.
                    self._segments_out = False
                    error_alone = await self.send(run)
                    refused = error_alone or refused
                else:
                    refused = error
        return refused

    async def _send(self, data: bytes, target: tuple[Any, ...], ancillary: list[tuple[int, int, bytes]]) -> None:
        assert self._socket is not None
        while True:
            try:
                if ancillary:
                    self._socket.sendmsg([data], ancillary, 0, target)
                else:
                    self._socket.sendto(data, target)
                return
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket.fileno())

    def _to_kernel(self, address: SocketAddress) -> tuple[Any, ...]:
        host, port = address
        if self._family == socket.AF_INET:
            return host, port
        if ":" not in host:
            return f"::ffff:{host}", port, 0, 0
        return host, port, 0, self._scopes.get(host, 0)

    def _from_kernel(self, address: tuple[Any, ...]) -> SocketAddress:
        host: str = address[0]
        if ":" in host:
            if host.startswith("::ffff:") and "." in host:
                host = host[7:]
            elif len(address) == 4 and address[3]:
                host = host.partition("%")[0]
                self._remember(host, address[3])
        return host, address[1]

    def _remember(self, host: str, scope: int) -> None:
        if self._scopes.get(host) != scope:
            self._scopes[host] = scope
            if len(self._scopes) > _SCOPES:
                del self._scopes[next(iter(self._scopes))]


def _runs(datagrams: list[Datagram]) -> Iterator[list[Datagram]]:
    """Split into runs that one call can send: one target, one size, but for a last one that may be shorter."""
    run: list[Datagram] = []
    for datagram in datagrams:
        if run and not (
            datagram[1] == run[0][1]
            and len(datagram[0]) <= len(run[0][0]) == len(run[-1][0])
            and len(run) < _SEGMENTS
            and (len(run) + 1) * len(run[0][0]) <= _SEGMENTS_BYTES
        ):
            yield run
            run = []
        run.append(datagram)
    if run:
        yield run
