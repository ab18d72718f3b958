"""From what a person asked for to the handoff that does it."""

import os
import platform
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs

from meshd import config, status
from meshd.drivers import handoff, lan
from meshd.drivers.meeting import Settings
from meshd.drivers.payload import Sink, Source
from meshd.drivers.pipe import StreamSink, StreamSource
from meshd.drivers.quic_engine import Engine
from meshd.drivers.transfer import Outcome
from meshd.drivers.tree_sink import TreeSink
from meshd.drivers.tree_source import TreeSource
from meshd.errors import UsageError
from meshd.model.address import DEFAULT_PORT, Address
from meshd.model.entry import check_admitted
from meshd.model.server import ServerName, parse_servers
from meshd.model.text import LABEL_LIMIT, is_label
from meshd.protocol.passphrase import Secret
from tether_lite import streams, words
from tether_lite.display import CONNECT, CONNECT_WAN, Display

NO_PORT: Final = 0
"""Any free one."""

Job = Callable[[], Awaitable[list[Outcome]]]


@attrs.frozen(kw_only=True)
class Options:
    """What both commands take, under the names of the options."""

    passphrase: str | None = attrs.field(repr=False)
    passphrase_file: Path | None
    prompt: bool
    send: tuple[Path, ...]
    into: str | None
    overwrite: bool
    accept: tuple[str, ...]
    verify: bool
    join: bool
    timeout: float
    wan: bool
    rendezvous: tuple[str, ...]
    interface: tuple[str, ...]
    quic_engine: str | None
    quiet: bool
    as_json: bool

    @property
    def given(self) -> words.Given:
        """Where the words may come from."""
        return words.Given(self.passphrase, self.passphrase_file, self.prompt)


def listen(options: Options, shown: Display, host: str | None, port: int | None, local_addr: str | None) -> Job:
    """The listener's handoff. Raises UsageError."""
    host, port = local_address(host, port, local_addr)
    secret, made_here = words.for_listener(options.given, warner(shown))
    # A side that only sends has nothing to receive; a listener that says nothing receives to stdout.
    into = "-" if options.into is None and not options.send else options.into
    settings = _settings(shown, options, secret, host=host, port=port, takes_number=made_here)

    def observer(event: status.Event) -> None:
        # Not before the port is open, and a server has given its number: a code that nobody can use yet would be read out
        # too early.
        if made_here and isinstance(event, status.Numbered if settings.is_far else status.Waiting):
            assert secret.code is not None and event.number is not None
            shown.code(str(attrs.evolve(secret.code, number=event.number)), CONNECT_WAN if settings.is_far else CONNECT)
        elif isinstance(event, status.Numbered):
            shown.token(event.number)
        shown.event(event)

    return partial(handoff.listen, attrs.evolve(settings, observer=observer), _cargo(options, _files(options), into))


def connect(
    options: Options,
    shown: Display,
    code: str | None,
    peer: str | None,
    host: str | None,
    port: int | None,
    token: int | None,
    local_addr: str | None,
) -> Job:
    """The connector's handoff. Raises UsageError."""
    address = peer_address(peer, host, port)
    if address is not None and options.wan:
        raise UsageError("--peer says where the listener is, and --wan asks a server.", "Give one of them.")
    if token is not None and not options.wan:
        raise UsageError("--token is the number that a rendezvous server gave.", "Give --wan with it.")
    secret = words.for_connector(code, options.given, warner(shown))
    if options.wan and token is None and secret.code is None:
        raise UsageError(
            "With a chosen passphrase the number is told apart.", "Give --token NUMBER, as the listener shows it."
        )
    bind, bind_port = local_address(None, None, local_addr)
    settings = _settings(shown, options, secret, peer=address, token=token, host=bind, port=bind_port)
    source = _files(options)
    if source is None and options.into is None:
        source = StreamSource(streams.payload_in())
        if os.isatty(streams.IN):
            shown.event(status.Warned("Reading from the terminal; end with Ctrl-D."))
    return partial(handoff.connect, settings, _cargo(options, source, options.into))


def peer_address(peer: str | None, host: str | None, port: int | None) -> Address | None:
    """Where the listener is, if that was said. Raises UsageError."""
    if peer is not None and host is not None:
        raise UsageError("--peer and --host say the same.", "Give one of them.")
    if port is not None and host is None:
        raise UsageError("--port needs --host.", "Or give both as --peer HOST:PORT.")
    if peer is not None:
        return Address.parse(peer)
    return None if host is None else Address.parse(host, port or DEFAULT_PORT)


def local_address(host: str | None, port: int | None, local_addr: str | None) -> tuple[str | None, int | None]:
    """Where this side's socket is to be, if that was said: host and port. Raises UsageError."""
    if host == "":
        raise UsageError("--host was given without an address.", "Was a variable empty?")
    if local_addr is None:
        return host, port
    if host is not None or port is not None:
        raise UsageError("--local-addr says what --host and --port say.", "Give one of them.")
    found = Address.parse(local_addr, NO_PORT)
    return found.host, found.port or None


def servers(options: Options) -> tuple[ServerName, ...]:
    """The rendezvous servers, where it is to go across the internet. Raises UsageError."""
    if not options.wan:
        if options.rendezvous:
            raise UsageError("--rendezvous is for going across the internet.", "Give --wan with it.")
        return ()
    return parse_servers(config.rendezvous(options.rendezvous))


def _settings(shown: Display, options: Options, secret: Secret, **more: Any) -> Settings:
    if options.verify:
        words.check_terminal()
    interfaces = lan.check_interfaces(config.lan_interfaces(options.interface))
    try:
        engine = Engine(config.quic_engine(options.quic_engine))
    except ModuleNotFoundError as error:
        raise UsageError(f"The QUIC engine {error.name} is not installed.", "Leave out --quic-engine.") from error
    return Settings(
        engine=engine,
        secret=secret.value,
        number=secret.code.number if secret.code else None,
        label=_label(),
        timeout=options.timeout,
        observer=shown.event,
        interfaces=interfaces,
        servers=servers(options),
        confirm_words=partial(words.confirm, shown.words) if options.verify else None,
        **more,
    )


def _files(options: Options) -> Source | None:
    return TreeSource(options.send) if options.send else None


def _cargo(options: Options, source: Source | None, into: str | None) -> handoff.Cargo:
    """Last of all, since a sink leaves its mark on the disk from the beginning."""
    if into == "":
        raise UsageError("--into was given without a directory.", "Was a variable empty?")
    saves = into is not None and into != "-"
    for name in ("overwrite", "accept"):
        if getattr(options, name) and not saves:
            raise UsageError(f"--{name} is for saving files.", "Give --into DIR with it.")
    sink: Sink | None = None
    if into == "-":
        sink = StreamSink(streams.payload_out())
    elif into is not None:
        sink = TreeSink(Path(into), overwrite=options.overwrite, admitted=check_admitted(options.accept))
    return handoff.Cargo(source, sink)


def _label() -> str:
    """This machine's name, as the other side will see it: nothing on the network shows it."""
    name = platform.node().partition(".")[0][:LABEL_LIMIT]
    return name if is_label(name) else ""


def warner(shown: Display) -> Callable[[str], None]:
    """Shows a note."""
    return lambda text: shown.event(status.Warned(text))
