"""This machine's addresses, and when they change: a laptop wakes in another network, a cable is pulled.

On Linux the kernel says so over netlink (rtnetlink(7)) as it happens; elsewhere, and where that is not allowed, the addresses
are looked at every second. Only addresses count, not routes: those come and go with every container, and a route that
matters to us seldom changes without an address.
"""

import contextlib
import ipaddress
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, Never

import attrs
import ifaddr
import trio

from meshd.drivers.threads import Offload, in_thread

VIRTUAL_PREFIXES: Final = (
    *("br-", "docker", "veth", "virbr", "vEthernet", "vmnet"),  # containers, virtual machines, WSL
    *("tailscale", "tap", "tun", "utun", "wg", "zt"),  # tunnels
)
"""Interfaces that seldom lead to the other machine: tunnels, containers, WSL. Their addresses are tried last."""

LOOK_EVERY: Final = 1.0
"""Seconds between two looks where the kernel does not tell."""

LOOK_ANYWAY: Final = 30.0
"""Seconds between two looks where it does: a message may have been dropped, and then none says so."""

SETTLE: Final = 0.2
"""Quiet seconds after which a change is taken as whole: an address goes and another comes in several messages."""

SETTLE_LIMIT: Final = 1.0
"""Seconds after which it is looked at even if messages go on."""

_RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x10, 0x100
"""From linux/rtnetlink.h."""


@attrs.frozen
class Interface:
    """One IPv4 or IPv6 address of this machine."""

    name: str
    ip: ipaddress.IPv4Interface | ipaddress.IPv6Interface

    @property
    def is_virtual(self) -> bool:
        return self.name.startswith(VIRTUAL_PREFIXES)


def local_interfaces() -> tuple[Interface, ...]:
    """This machine's addresses; loopback only where there is nothing else."""
    found = []
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            host = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            interface = ipaddress.ip_interface(f"{host}/{ip.network_prefix}")
            # A link-local address means nothing without its scope, which DNS-SD does not carry.
            if not interface.ip.is_link_local:
                found.append(Interface(adapter.nice_name, interface))
    return tuple([each for each in found if not each.ip.ip.is_loopback] or found)


Ring = Callable[[], Awaitable[None]]
"""Waits until something about this machine's networks may have changed; what happened since the last call counts as one."""


@contextlib.contextmanager
def kernel_ring() -> Iterator[Ring | None]:
    """The kernel's own messages about addresses, for the block; None where there are none, or not for us."""
    if sys.platform != "linux":
        yield None
        return
    with contextlib.ExitStack() as stack:
        try:
            netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
            stack.enter_context(netlink)
            netlink.bind((0, _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))
        except OSError:
            yield None  # a sandbox that leaves a service Internet and Unix sockets alone
            return

        async def ring() -> None:
            await trio.lowlevel.wait_readable(netlink)
            # What they say is not read: the addresses are.
            with contextlib.suppress(BlockingIOError):
                while True:
                    try:
                        netlink.recv(65_536)
                    except BlockingIOError:
                        raise
                    except OSError:
                        continue  # ENOBUFS, once: more came than the socket holds

        yield ring


async def watch_addresses(
    changed: Callable[[tuple[Interface, ...]], None],
    *,
    read: Callable[[], tuple[Interface, ...]] = local_interfaces,
    ring: Ring | None = None,
    known: tuple[Interface, ...] | None = None,
    offload: Offload = in_thread,
) -> Never:
    """Call `changed` with this machine's addresses each time that they are others than before, or than `known`.

    Also when they were others for a moment: a peer that saw a packet from another address may go on writing there.
    `changed` never waits. `read`, `ring` and `offload` are what a simulated run replaces.
    """
    with contextlib.ExitStack() as stack:
        rings = ring or stack.enter_context(kernel_ring())
        known = await offload(read) if known is None else known
        flickered = False
        while True:
            current = await offload(read)
            if current != known or flickered:
                known = current
                changed(current)
            flickered = False
            if rings is None:
                await trio.sleep(LOOK_EVERY)
                continue
            with trio.move_on_after(LOOK_ANYWAY) as nothing_heard:
                await rings()
            if not nothing_heard.cancelled_caught:
                flickered = await offload(read) != known
                await _settled(rings)


async def _settled(ring: Ring) -> None:
    with trio.move_on_after(SETTLE_LIMIT):
        while True:
            with trio.move_on_after(SETTLE) as quiet:
                await ring()
            if quiet.cancelled_caught:
                return
