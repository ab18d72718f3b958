"""Who is on this LAN: DNS-SD over multicast DNS (RFC 6763, 6762). The only importer of zeroconf.

zeroconf runs on threads of its own. Nothing of it crosses into trio but immutable values through a bounded channel, and
everything heard is a hint: a candidate address, never a key. Instance and host names are random for each run (RFC 8882
says what real ones give away); TXT holds a version and, while a pairing window is open, its public number.
"""

import contextlib
import ipaddress
import logging
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import attrs
import ifaddr
import trio
import zeroconf

from meshd.errors import NobodyFoundError, TetherError, UsageError
from meshd.model.address import Address
from meshd.model.candidate import Candidate, Gone, Sighting

SERVICE: Final = "_tether-mesh._udp.local."

TXT_VERSION: Final = "1"
NO_NUMBER: Final = "-"
_CODE_NUMBER: Final = re.compile("[1-9][0-9]{0,2}")
_INSTANCE: Final = re.compile("[0-9a-f]{16}")

ADDRESSES_LIMIT: Final = 8
"""Most addresses taken from one announcement: a machine has few, a liar may list a network."""

SIGHTINGS_QUEUED: Final = 64
"""Most sightings that wait for a connector that is busy with a candidate; more are noise or an attack."""

CLOSE_TIMEOUT: Final = 2.0
"""Seconds to wait for zeroconf's threads at the end; they are daemons, and nothing may keep a handoff waiting."""

ASKING_PORTS: Final = (False, True)
"""Ask from port 5353, which also hears new announcements, and from a port of our own (RFC 6762, 6.7): those answers
come to nobody else here, and at once, where a responder that just spoke to everybody keeps silent a second."""

REREAD_INTERVAL: Final = 5.0
"""Seconds between two looks at this machine's interfaces: a laptop changes networks while it waits."""

VIRTUAL_PREFIXES: Final = (
    *("br-", "docker", "veth", "virbr", "vEthernet", "vmnet"),  # containers, virtual machines, WSL
    *("tailscale", "tap", "tun", "utun", "wg", "zt"),  # tunnels
)
"""Interfaces that seldom lead to the other machine: tunnels, containers, WSL. Their addresses are tried last."""


class LanUnavailableError(TetherError):
    """Multicast DNS cannot be used on this machine, or on the interfaces that were named."""

    exit_code = NobodyFoundError.exit_code


Change = zeroconf.ServiceStateChange

# zeroconf logs what strangers send, names and all, and unasked such lines end on the terminal.
logging.getLogger("zeroconf").setLevel(logging.CRITICAL)

Start = Callable[[zeroconf.Zeroconf], "zeroconf.ServiceBrowser | None"]


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


def check_interfaces(named: Sequence[str]) -> tuple[str, ...]:
    """The IPv4 addresses that multicast DNS is limited to. Raises UsageError for one that is not this machine's."""
    own = {str(ip.ip) for adapter in ifaddr.get_adapters() for ip in adapter.ips if ip.is_IPv4}
    for text in named:
        try:
            address = ipaddress.IPv4Address(text)
        except ValueError:
            advice = f"--interface takes an address of this machine: {', '.join(sorted(own))}."
            raise UsageError(f"{text!r} is not an IPv4 address.", advice) from None
        # All of 127.0.0.0/8 is ours on Linux, whatever the interface lists.
        if str(address) not in own and not address.is_loopback:
            raise UsageError(f"This machine has no address {text}.", f"It has {', '.join(sorted(own))}.")
    return tuple(named)


def only(host: str | None) -> tuple[str, ...] | None:
    """The interfaces to announce a listener on that is bound to `host`: all (), one, or None for what cannot be said.

    Who listens on one address only must not be looked for at the others; names and IPv6 addresses are not resolved here.
    """
    try:
        address = ipaddress.IPv4Address(host or "0.0.0.0")  # noqa: S104  not a bind: it means "no one address"
    except ValueError:
        return () if host == "::" else None
    return () if address.is_unspecified else (str(address),)


@asynccontextmanager
async def announce(port: int, number: int | None, named: Sequence[str] = ()) -> AsyncIterator[None]:
    """Announce a pairing window on UDP `port` until the block ends. Raises LanUnavailableError."""
    instance = secrets.token_hex(8)

    def register(responder: zeroconf.Zeroconf) -> zeroconf.ServiceBrowser | None:
        info = zeroconf.ServiceInfo(
            SERVICE,
            f"{instance}.{SERVICE}",
            port=port,
            properties={"v": TXT_VERSION, "pair": NO_NUMBER if number is None else str(number)},
            server=f"{instance}.local.",
            parsed_addresses=[str(address) for address in _announced(named)],
        )
        # The name is 64 random bits: probing for a conflict would only delay the first answer by most of a second.
        responder.register_service(info, cooperating_responders=True)
        return None

    async with _multicast(named, register, (False,)):
        yield


@asynccontextmanager
async def browse(named: Sequence[str] = ()) -> AsyncIterator[trio.MemoryReceiveChannel[Sighting]]:
    """Announcements as they are heard, until the block ends. Raises LanUnavailableError."""
    token = trio.lowlevel.current_trio_token()
    send, receive = trio.open_memory_channel[Sighting](SIGHTINGS_QUEUED)

    def hand_over(sighting: Sighting) -> None:
        def put() -> None:
            # A full queue is a flood, and what is announced is announced again.
            with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError):
                send.send_nowait(sighting)

        # The program may end while zeroconf's thread is on its way here.
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(put)

    def heard(zeroconf: zeroconf.Zeroconf, service_type: str, name: str, state_change: Change) -> None:
        instance = name.removesuffix("." + SERVICE)
        if not _INSTANCE.fullmatch(instance):
            return  # none of ours, and a name of any other form might be made to hurt who shows it
        gone = state_change is Change.Removed
        hand_over(Gone(instance) if gone else _sighting(zeroconf, instance))

    def start(responder: zeroconf.Zeroconf) -> zeroconf.ServiceBrowser | None:
        # Two questions that are not byte for byte the same: a responder drops the second of those as an echo.
        kind = zeroconf.DNSQuestionType.QU if responder.unicast else zeroconf.DNSQuestionType.QM
        return zeroconf.ServiceBrowser(responder, SERVICE, handlers=[heard], question_type=kind)

    async with _multicast(named, start, ASKING_PORTS):
        yield receive


@asynccontextmanager
async def _multicast(named: Sequence[str], start: Start, own_ports: Sequence[bool]) -> AsyncIterator[None]:
    """Keep responders with `start` done on them, and make them anew whenever this machine's addresses change."""
    # Read first: a change while the responders are being made is then seen at the first look.
    known = local_interfaces()
    responders = await trio.to_thread.run_sync(_open, named, start, own_ports)

    async def follow_changes() -> None:
        nonlocal responders, known
        while True:
            await trio.sleep(REREAD_INTERVAL)
            current = await trio.to_thread.run_sync(local_interfaces)
            if current == known or named:
                continue
            # Not to be left half way, with responders that nobody closes.
            with trio.CancelScope(shield=True), contextlib.suppress(LanUnavailableError):
                await _close_all(responders)
                responders = []
                responders = await trio.to_thread.run_sync(_open, named, start, own_ports)
                known = current  # else between two networks: look again

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow_changes)
        try:
            yield
        finally:
            nursery.cancel_scope.cancel()
            await _close_all(responders)


@attrs.define
class _Responder:
    """One zeroconf with its threads, which `close` ends; a browser's is not among those that zeroconf ends itself."""

    multicast: zeroconf.Zeroconf
    browser: zeroconf.ServiceBrowser | None = None

    def close(self) -> None:
        if self.browser is not None:
            self.browser.cancel()
        self.multicast.close()


def _open(named: Sequence[str], start: Start, own_ports: Sequence[bool]) -> list[_Responder]:
    chosen = list(named) or [str(each.ip.ip) for each in local_interfaces() if each.ip.version == 4]
    responders: list[_Responder] = []
    try:
        if not chosen:
            raise OSError("no IPv4 interface is up")
        for own_port in own_ports:
            version = zeroconf.IPVersion.V4Only
            responder = _Responder(zeroconf.Zeroconf(interfaces=chosen, ip_version=version, unicast=own_port))
            responders.append(responder)
            responder.browser = start(responder.multicast)
    except (OSError, zeroconf.Error) as error:
        _close(responders)
        raise LanUnavailableError(
            f"Multicast DNS does not work here ({error}).", "Give the other side's address with --peer HOST:PORT."
        ) from error
    return responders


async def _close_all(responders: Sequence[_Responder]) -> None:
    with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
        await trio.to_thread.run_sync(_close, responders, abandon_on_cancel=True)


def _close(responders: Sequence[_Responder]) -> None:
    for responder in responders:
        responder.close()


def _announced(named: Sequence[str]) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    if named:
        return [ipaddress.ip_address(text) for text in named]
    interfaces = sorted(local_interfaces(), key=lambda each: (each.is_virtual, each.ip.version))
    return [each.ip.ip for each in interfaces][:ADDRESSES_LIMIT]


def _sighting(responder: zeroconf.Zeroconf, instance: str) -> Sighting:
    """What is known of an instance. Never asks and never waits: a stranger chooses how many instances there are."""
    info = zeroconf.ServiceInfo(SERVICE, f"{instance}.{SERVICE}")
    info.load_from_cache(responder)
    properties = info.decoded_properties
    window, port = properties.get("pair") or "", info.port
    if properties.get("v") != TXT_VERSION or not (window == NO_NUMBER or _CODE_NUMBER.fullmatch(window)) or not port:
        return Gone(instance)  # a daemon without a window, a newer version, nonsense, or only a part so far
    addresses = _preferred(info.parsed_addresses()[:ADDRESSES_LIMIT])
    number = None if window == NO_NUMBER else int(window)
    return Candidate(instance, number, tuple(Address(str(ip), port) for ip in addresses))


def _preferred(hosts: Iterable[str]) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The order to try: in a network of ours, then the rest, with virtual interfaces and loopback last."""
    own = local_interfaces()

    def rank(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int:
        if ip.is_loopback:
            return 4
        shared = [each for each in own if ip.version == each.ip.version and ip in each.ip.network]
        if not shared:
            return 2
        return 1 if all(each.is_virtual for each in shared) else 0

    usable = [ipaddress.ip_address(host.partition("%")[0]) for host in hosts]
    return sorted((ip for ip in usable if not (ip.is_multicast or ip.is_unspecified or ip.is_link_local)), key=rank)
