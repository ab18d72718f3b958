"""Who is on this LAN: DNS-SD over multicast DNS (RFC 6763, 6762). The only importer of zeroconf.

zeroconf runs on threads of its own. Nothing of it crosses into trio but immutable values through a bounded channel, and
everything heard is a hint: a candidate address, never a key. Instance and host names are random for each run (RFC 8882
says what real ones give away); TXT holds a version, for a daemon the tags of its meshes, and while a pairing window is open
its public number.

A pairing window is announced with `announce` and looked for with `browse`; a daemon is there for good, with `attend`.
"""

import contextlib
import ipaddress
import logging
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import attrs
import ifaddr
import trio
import zeroconf

from meshd.drivers.networks import local_interfaces, watch_addresses
from meshd.errors import NobodyFoundError, TetherError, UsageError
from meshd.model.address import Address
from meshd.model.candidate import Candidate, Gone, Invitation, Neighbour, Sighting
from meshd.protocol.lantags import TAGS_LIMIT

SERVICE: Final = "_tether-mesh._udp.local."

TXT_VERSION: Final = "1"
NO_NUMBER: Final = "-"
_CODE_NUMBER: Final = re.compile("[1-9][0-9]{0,2}")
_INSTANCE: Final = re.compile("[0-9a-f]{16}")
_TAGS: Final = re.compile(f"[0-9a-f]{{16}}(?:,[0-9a-f]{{16}}){{0,{TAGS_LIMIT - 1}}}")

ADDRESSES_LIMIT: Final = 8
"""Most addresses taken from one announcement: a machine has few, a liar may list a network."""

SIGHTINGS_QUEUED: Final = 64
"""Most sightings that wait for a connector that is busy with a candidate; more are noise or an attack."""

RETRY_AFTER: Final = 2.0
"""Seconds before multicast is tried again on a network that came but does not carry it yet."""

CLOSE_TIMEOUT: Final = 2.0
"""Seconds to wait for zeroconf's threads at the end; they are daemons, and nothing may keep a handoff waiting."""

ASKING_PORTS: Final = (False, True)
"""Ask from port 5353, which also hears new announcements, and from a port of our own (RFC 6762, 6.7): those answers
come to nobody else here, and at once, where a responder that just spoke to everybody keeps silent a second."""


class LanUnavailableError(TetherError):
    """Multicast DNS cannot be used on this machine, or on the interfaces that were named."""

    exit_code = NobodyFoundError.exit_code


Change = zeroconf.ServiceStateChange

# zeroconf logs what strangers send, names and all, and unasked such lines end on the terminal.
logging.getLogger("zeroconf").setLevel(logging.CRITICAL)

Start = Callable[[zeroconf.Zeroconf], "zeroconf.ServiceBrowser | None"]
Text = dict[str, str]
T = TypeVar("T")


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
        _register(responder, _info(instance, port, _text((), Invitation(number)), named))
        return None

    async with _multicast(named, register, (False,)):
        yield


@asynccontextmanager
async def browse(named: Sequence[str] = ()) -> AsyncIterator[trio.MemoryReceiveChannel[Sighting]]:
    """Pairing windows as they are heard of, until the block ends. Raises LanUnavailableError."""
    send, receive = trio.open_memory_channel[Sighting](SIGHTINGS_QUEUED)
    heard = _listener(send, _candidate)

    def start(responder: zeroconf.Zeroconf) -> zeroconf.ServiceBrowser | None:
        # Two questions that are not byte for byte the same: a responder drops the second of those as an echo.
        kind = zeroconf.DNSQuestionType.QU if responder.unicast else zeroconf.DNSQuestionType.QM
        return zeroconf.ServiceBrowser(responder, SERVICE, handlers=[heard], question_type=kind)

    async with _multicast(named, start, ASKING_PORTS):
        yield receive


@attrs.frozen
class Said:
    """What a daemon announces: the tags of its meshes (protocol/lantags.py), and whether it has a pairing window open."""

    tags: tuple[bytes, ...] = ()
    invitation: Invitation | None = None


class Presence:
    """A daemon on its LANs. Made by `attend`."""

    def __init__(self, said: Said, heard: trio.MemoryReceiveChannel[Neighbour | Gone]) -> None:
        self.instance = secrets.token_hex(8)
        """The random name under which this run is announced."""
        self.heard = heard
        """Other daemons as they come, change and go; never this one."""
        self.said = said
        self._update: Callable[[], Awaitable[None]]

    async def say(self, said: Said) -> None:
        """Announce this from now on; takes most of a second when it is other than before."""
        if said != self.said:
            self.said = said
            await self._update()


@asynccontextmanager
async def attend(port: int, said: Said, named: Sequence[str] = ()) -> AsyncIterator[Presence]:
    """Announce a daemon on UDP `port` and hear of others until the block ends. Raises LanUnavailableError.

    Announcing and asking share one responder: a daemon runs for weeks, and each costs threads, sockets and wakes.
    """
    send, receive = trio.open_memory_channel[Neighbour | Gone](SIGHTINGS_QUEUED)
    presence = Presence(said, receive)
    heard = _listener(send, _neighbour, presence.instance)

    def info() -> zeroconf.ServiceInfo:
        return _info(presence.instance, port, _text(presence.said.tags, presence.said.invitation), named)

    def start(responder: zeroconf.Zeroconf) -> zeroconf.ServiceBrowser | None:
        _register(responder, info())
        return zeroconf.ServiceBrowser(responder, SERVICE, handlers=[heard])

    async with _multicast(named, start, (False,)) as responders:
        presence._update = lambda: responders.each(lambda responder: responder.update_service(info()))
        yield presence


def _text(tags: Iterable[bytes], invitation: Invitation | None) -> Text:
    """The strings of a TXT record."""
    text = {"v": TXT_VERSION}
    if spoken := ",".join(tag.hex() for tag in tags):
        text["tags"] = spoken
    if invitation is not None:
        text["pair"] = NO_NUMBER if invitation.number is None else str(invitation.number)
    return text


def _info(instance: str, port: int, text: Text, named: Sequence[str]) -> zeroconf.ServiceInfo:
    return zeroconf.ServiceInfo(
        SERVICE,
        f"{instance}.{SERVICE}",
        port=port,
        properties=text,
        server=f"{instance}.local.",
        parsed_addresses=[str(address) for address in _announced(named)],
    )


def _register(responder: zeroconf.Zeroconf, info: zeroconf.ServiceInfo) -> None:
    # The name is 64 random bits: probing for a conflict would only delay the first answer by most of a second.
    responder.register_service(info, cooperating_responders=True)


def _listener(
    send: trio.MemorySendChannel[T | Gone], read: Callable[[zeroconf.ServiceInfo, str], T | None], own: str = ""
) -> Callable[..., None]:
    """What a browser calls in its thread: hands over what `read` makes of an announcement, but not of our `own`."""
    token = trio.lowlevel.current_trio_token()

    def hand_over(sighting: T | Gone) -> None:
        def put() -> None:
            # A full queue is a flood, and what is announced is announced again.
            with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError):
                send.send_nowait(sighting)

        # The program may end while zeroconf's thread is on its way here.
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(put)

    def heard(zeroconf: zeroconf.Zeroconf, service_type: str, name: str, state_change: Change) -> None:
        instance = name.removesuffix("." + SERVICE)
        if not _INSTANCE.fullmatch(instance) or instance == own:
            return  # none of ours, and a name of any other form might be made to hurt who shows it
        gone = state_change is Change.Removed
        hand_over(Gone(instance) if gone else _read(zeroconf, instance, read) or Gone(instance))

    return heard


@asynccontextmanager
async def _multicast(named: Sequence[str], start: Start, own_ports: Sequence[bool]) -> AsyncIterator["_Responders"]:
    """Keep responders with `start` done on them, and make them anew whenever this machine's addresses change."""
    # Read first: a change while the responders are being made is then seen at the first look.
    known = local_interfaces()
    responders = _Responders(named, start, own_ports)
    await responders.open()
    changed = trio.Event()

    async def follow_changes() -> None:
        await watch_addresses(lambda _: changed.set(), known=known)

    async def make_anew() -> None:
        nonlocal changed
        while True:
            await changed.wait()
            changed = trio.Event()
            try:
                await responders.open()
            except LanUnavailableError:
                await trio.sleep(RETRY_AFTER)
                changed.set()

    async with trio.open_nursery() as nursery:
        if not named:
            nursery.start_soon(follow_changes)
            nursery.start_soon(make_anew)
        try:
            yield responders
        finally:
            nursery.cancel_scope.cancel()
            await responders.close()


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


def _close(responders: Sequence[_Responder]) -> None:
    for responder in responders:
        responder.close()


@attrs.define
class _Responders:
    """The responders of one announcement or search: one for each of `own_ports`."""

    _named: Sequence[str]
    _start: Start
    _own_ports: Sequence[bool]
    _all: list[_Responder] = attrs.field(factory=list, init=False)
    _lock: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    async def open(self) -> None:
        """Make them, in place of those that are. Raises LanUnavailableError, and then there are none."""
        # Not to be left half way, with responders that nobody closes.
        with trio.CancelScope(shield=True):
            async with self._lock:
                await self._close()
                self._all = await trio.to_thread.run_sync(_open, self._named, self._start, self._own_ports)

    async def each(self, action: Callable[[zeroconf.Zeroconf], None]) -> None:
        """Do this on every one, in a thread."""
        async with self._lock:
            for responder in self._all:
                # One whose loop is stuck: the next that is made says it.
                with contextlib.suppress(zeroconf.Error):
                    await trio.to_thread.run_sync(action, responder.multicast)

    async def close(self) -> None:
        with trio.CancelScope(shield=True):
            async with self._lock:
                await self._close()

    async def _close(self) -> None:
        with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await trio.to_thread.run_sync(_close, self._all, abandon_on_cancel=True)
        self._all = []


def _announced(named: Sequence[str]) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    if named:
        return [ipaddress.ip_address(text) for text in named]
    interfaces = sorted(local_interfaces(), key=lambda each: (each.is_virtual, each.ip.version))
    return [each.ip.ip for each in interfaces][:ADDRESSES_LIMIT]


def _read(
    responder: zeroconf.Zeroconf, instance: str, read: Callable[[zeroconf.ServiceInfo, str], T | None]
) -> T | None:
    """What is known of an instance. Never asks and never waits: a stranger chooses how many instances there are."""
    info = zeroconf.ServiceInfo(SERVICE, f"{instance}.{SERVICE}")
    info.load_from_cache(responder)
    return _understood(info, instance, read)


def _understood(
    info: zeroconf.ServiceInfo, instance: str, read: Callable[[zeroconf.ServiceInfo, str], T | None]
) -> T | None:
    if info.decoded_properties.get("v") != TXT_VERSION or not info.port:
        return None  # a newer version, nonsense, or only a part so far
    return read(info, instance)


def _candidate(info: zeroconf.ServiceInfo, instance: str) -> Candidate | None:
    window = info.decoded_properties.get("pair") or ""
    if not (window == NO_NUMBER or _CODE_NUMBER.fullmatch(window)):
        return None  # a daemon without a window
    return Candidate(instance, None if window == NO_NUMBER else int(window), _addresses(info))


def _neighbour(info: zeroconf.ServiceInfo, instance: str) -> Neighbour | None:
    tags = info.decoded_properties.get("tags") or ""
    if not _TAGS.fullmatch(tags):
        return None  # a pairing command, or a daemon without a mesh
    return Neighbour(instance, tuple(bytes.fromhex(tag) for tag in tags.split(",")), _addresses(info))


def _addresses(info: zeroconf.ServiceInfo) -> tuple[Address, ...]:
    port = info.port or 0
    return tuple(Address(str(ip), port) for ip in _preferred(info.parsed_addresses()[:ADDRESSES_LIMIT]))


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
