"""From what a person asked for to the handoff that does it."""

import os
import platform
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

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
from meshd.model.text import LABEL_LIMIT, is_label
from meshd.protocol.passphrase import Secret
from tether_lite import streams, words
from tether_lite.display import Display

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
    interface: tuple[str, ...]
    quic_engine: str | None
    quiet: bool
    as_json: bool

    @property
    def given(self) -> words.Given:
        """Where the words may come from."""
        return words.Given(self.passphrase, self.passphrase_file, self.prompt)


def listen(options: Options, shown: Display, host: str | None, port: int | None) -> Job:
    """The listener's handoff. Raises UsageError."""
    if host == "":
        raise UsageError("--host was given without an address.", "Was a variable empty?")
    secret, made_here = words.for_listener(options.given, warner(shown))
    # A side that only sends has nothing to receive; a listener that says nothing receives to stdout.
    into = "-" if options.into is None and not options.send else options.into
    settings = _settings(shown, options, secret, host=host, port=port)

    def observer(event: status.Event) -> None:
        # Not before the port is open: a code that nobody can use yet would be read out too early.
        if made_here and isinstance(event, status.Waiting):
            shown.code(str(secret.code))
        shown.event(event)

    return partial(handoff.listen, attrs.evolve(settings, observer=observer), _cargo(options, _files(options), into))


def connect(
    options: Options, shown: Display, code: str | None, peer: str | None, host: str | None, port: int | None
) -> Job:
    """The connector's handoff. Raises UsageError."""
    address = peer_address(peer, host, port)
    secret = words.for_connector(code, options.given, warner(shown))
    settings = _settings(shown, options, secret, peer=address)
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
