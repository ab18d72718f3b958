"""Routers of this LAN that say they can open a port: one search by SSDP (UPnP Device Architecture 1.1, 1.3).

Only this is ours; what is then said to a router is a library's (drivers/igd.py). The library searches too, but for as long as
somebody answers, and goes wherever an answer points. Here a search ends, and an answer counts only when it points back
at the machine that it came from, on the LAN that was asked.
"""

import ipaddress
import re
import socket
from collections.abc import Callable
from typing import Final

import attrs
import trio

from meshd.drivers.networks import Interface, local_interfaces

GROUP: Final = ("239.255.255.250", 1900)
"""SSDP's multicast group and port, which routers do not pass on."""

WANTED: Final = (
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",  # one of version 2 answers to it too
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
)
"""What is searched for: some routers answer only to the service. No "everything", which lamps and televisions answer."""

SENDINGS: Final = (0.0, 0.5)
"""Seconds at which the search is sent: a datagram may be lost, and a sleeping radio misses the first."""

SEARCH: Final = 2.5
"""Seconds that a search takes at most: a device may think for one (MX, below), from the second sending on."""

LINGER: Final = 0.5
"""Seconds to wait for others once one has answered."""

INTERFACES_LIMIT: Final = 4
"""Most addresses of ours that are searched from: more than cable and radio is seldom a home's."""

ANSWERS_LIMIT: Final = 64
"""Most datagrams that are read in one search from one address: a router sends six."""

ROUTERS_LIMIT: Final = 4
"""Most routers that a search returns. More than two is a test, or a flood."""

_LOCATION: Final = re.compile(
    rb"^location:[ \t]*(http://([0-9]{1,3}(?:\.[0-9]{1,3}){3})(?::[0-9]{1,5})?/[!-~]{0,400})[ \t]*\r?$",
    re.IGNORECASE | re.MULTILINE,
)


@attrs.frozen
class Router:
    """A device that says it is a router, and has proved nothing."""

    url: str
    """Of its description."""

    host: str
    """Its address on the LAN."""


def private_interfaces(host: str = "") -> tuple[Interface, ...]:
    """This machine's addresses behind which a router may translate; `host` is the only one that is listened on, if any.

    A public address needs no mapping, and whoever is around it is no household. A tunnel's other end is no router of ours.
    """
    anywhere = host in ("", "0.0.0.0", "::")  # noqa: S104  compared, not bound to
    return tuple(
        each
        for each in local_interfaces()
        if (not each.is_virtual if anywhere else str(each.ip.ip) == host)
        and each.ip.version == 4
        and each.ip.ip.is_private
        and not each.ip.ip.is_loopback
    )


async def find_routers(
    interfaces: Callable[[], tuple[Interface, ...]] = private_interfaces, group: tuple[str, int] = GROUP
) -> list[Router]:
    """Ask on the LAN for routers. Takes `SEARCH` seconds at most; those that answered first come first."""
    found: dict[Router, None] = {}
    with trio.move_on_after(SEARCH) as limit:

        def heard(router: Router) -> None:
            if len(found) < ROUTERS_LIMIT:
                found[router] = None
            limit.deadline = min(limit.deadline, trio.current_time() + LINGER)

        async with trio.open_nursery() as nursery:
            for interface in interfaces()[:INTERFACES_LIMIT]:
                nursery.start_soon(_search, interface, group, heard)
    return list(found)


async def _search(interface: Interface, group: tuple[str, int], heard: Callable[[Router], None]) -> None:
    own = interface.ip.ip
    try:
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own.packed)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 2)  # as the architecture wants it
            await sock.bind((str(own), 0))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_send, sock, group)
                for _ in range(ANSWERS_LIMIT):
                    data, (host, *_) = await sock.recvfrom(2048)
                    router = read_answer(data, host)
                    if router is not None and ipaddress.ip_address(host) in interface.ip.network:
                        heard(router)
                nursery.cancel_scope.cancel()
    except* OSError:
        pass  # the address has just gone, or its interface has no multicast: no router there


async def _send(sock: trio.socket.SocketType, group: tuple[str, int]) -> None:
    for after in SENDINGS:
        await trio.sleep(after)
        for wanted in WANTED:
            await sock.sendto(
                f'M-SEARCH * HTTP/1.1\r\nHOST: {group[0]}:{group[1]}\r\nMAN: "ssdp:discover"\r\nMX: 1\r\n'
                f"ST: {wanted}\r\n\r\n".encode(),
                group,
            )


def read_answer(data: bytes, host: str) -> Router | None:
    """The router that this datagram from `host` describes; None when it is no answer, or points elsewhere."""
    location = _LOCATION.search(data) if data.startswith(b"HTTP/1.") else None
    if location is None or location[2].decode() != host:
        return None
    return Router(location[1].decode(), host)
