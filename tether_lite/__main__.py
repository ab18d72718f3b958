"""The command `python -m tether_lite`: reads arguments, builds a handoff, and turns its end into an exit code."""

import os
import platform
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

import attrs
import click
import trio

from meshd import config, status
from meshd.drivers import handoff, lan
from meshd.drivers.meeting import Settings
from meshd.drivers.one_error import one_error
from meshd.drivers.payload import Sink, Source
from meshd.drivers.pipe import StreamSink, StreamSource
from meshd.drivers.quic_engine import Engine
from meshd.drivers.threads import in_thread
from meshd.drivers.transfer import Outcome
from meshd.drivers.tree_sink import TreeSink
from meshd.drivers.tree_source import TreeSource
from meshd.errors import EXIT_CODES, EXIT_INTERRUPTED, EXIT_REFUSED, TetherError, UsageError
from meshd.model.address import DEFAULT_PORT, Address
from meshd.protocol.pairing import is_label
from meshd.protocol.passphrase import Secret
from meshd.wire.constants import LABEL_LIMIT
from tether_lite import display, words

PROGRAM: Final = "python -m tether_lite"
LISTEN_TIMEOUT: Final = 600.0
CONNECT_TIMEOUT: Final = 30.0

EXIT_CODES_HELP: Final = "\b\nExit codes:\n" + "\n".join(f"  {code:>3}  {text}" for code, text in EXIT_CODES.items())


class PathsCommand(click.Command):
    """A command whose `--send` takes every path that follows it, as a shell's `*` gives them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write `--send a b` as `--send a --send b`; what is no path (a code, say) stays where it is."""
        spread: list[str] = []
        taking = False
        for position, arg in enumerate(args):
            if position and args[position - 1] == "--send":
                taking = True
            elif arg.startswith("-"):
                taking = False
            elif taking and os.path.lexists(arg):
                spread.append("--send")
            spread.append(arg)
        return super().parse_args(ctx, spread)


def common_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that both commands have."""
    options = [
        click.option(
            "--passphrase",
            metavar="WORDS",
            help="A passphrase of your choice, the same on both sides. Others on this machine can see it in `ps`.",
        ),
        click.option(
            "--passphrase-file",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="Read the passphrase or code from the first line of FILE.",
        ),
        click.option("--prompt", is_flag=True, help="Ask for the passphrase or code on the terminal."),
        click.option(
            "--send",
            metavar="PATH...",
            multiple=True,
            type=click.Path(path_type=Path),
            help="Send these files and directories.",
        ),
        click.option(
            "--into",
            metavar="DIR",
            help="Save what arrives in DIR, under its own names; `-` writes a single file or stream to stdout.",
        ),
        click.option("--overwrite", is_flag=True, help="Let files that arrive replace files of the same name."),
        click.option(
            "--accept",
            metavar="NAME",
            multiple=True,
            help="Take entries of this name, like .git, that are refused because programs obey them. Repeatable.",
        ),
        click.option("--verify", is_flag=True, help="Show four words to compare aloud, and wait for a yes."),
        click.option(
            "--interface",
            metavar="ADDRESS",
            multiple=True,
            help=f"Limit multicast to this IPv4 address of this machine. Repeatable. [env: {config.ENV_LAN_INTERFACES}]",
        ),
        click.option(
            "--quic-engine",
            metavar="NAME",
            help=f"{' or '.join(config.ENGINES)}; default qh3 where installed. [env: {config.ENV_QUIC_ENGINE}]",
        ),
        click.option("--quiet", is_flag=True, help="Print the code, refusals and errors only."),
        click.option("--json", "as_json", is_flag=True, help="Print events to stderr as JSON, one object a line."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def timeout_option(default: float) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """`--timeout`, with the command's own default."""
    return click.option(
        "--timeout",
        metavar="SECONDS",
        type=click.FloatRange(min=0.1, max=86_400),
        default=default,
        show_default=True,
        help="How long to wait for the other side. A transfer that has begun is not timed.",
    )


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"{EXIT_CODES_HELP}\n\n\b\nShell completion, for bash (zsh and fish alike):\n"
    '  eval "$(_TETHER_LITE_COMPLETE=bash_source tether-lite)"',
)
def cli() -> None:
    """Hand any payload from one machine to another, encrypted, with no server and no address.

    \b
    On one machine:      python -m tether_lite listen > file
    On the other:        python -m tether_lite connect CODE < file

    The listener shows the CODE. Or agree on a passphrase and give it to both sides.
    """


@cli.command(cls=PathsCommand, epilog=EXIT_CODES_HELP)
@click.option("--host", metavar="ADDRESS", help="Listen on this address only.")
@click.option(
    "--port",
    metavar="PORT",
    type=click.IntRange(1, 65_535),
    help=f"Listen on this UDP port. [default: {DEFAULT_PORT}, or a free one]",
)
@timeout_option(LISTEN_TIMEOUT)
@common_options
def listen(host: str | None, port: int | None, **options: Any) -> None:
    """Wait for one peer and take what it sends, to stdout or with --into to a directory.

    Without a passphrase a code is made and shown. After three wrong tries, or one peer, it is over.

    \b
    Examples:
      python -m tether_lite listen > backup.tar
      python -m tether_lite listen --into ~/Downloads
      python -m tether_lite listen --send report.pdf
    """
    run(partial(_listen, host, port), options)


@cli.command(cls=PathsCommand, epilog=EXIT_CODES_HELP)
@click.argument("code", required=False)
@click.option("--peer", metavar="HOST:PORT", help="Where the listener is, when multicast does not reach it.")
@click.option("--host", metavar="HOST", help="The same as --peer, with --port.")
@click.option("--port", metavar="PORT", type=click.IntRange(1, 65_535), help=f"With --host. [default: {DEFAULT_PORT}]")
@timeout_option(CONNECT_TIMEOUT)
@common_options
def connect(code: str | None, peer: str | None, host: str | None, port: int | None, **options: Any) -> None:
    """Find the listener that showed CODE, or that has the same passphrase, and send it stdin or --send PATHs.

    The listener may be started later, within the time-out. Without CODE or passphrase you are asked for it.

    \b
    Examples:
      tar c project | python -m tether_lite connect 7-abandon-ability-able
      python -m tether_lite connect 7-abandon-ability-able --send project notes.txt
      python -m tether_lite connect --passphrase "shared secret" --into .
    """
    run(partial(_connect, code, peer, host, port), options)


_closed_at_start: set[int] = set()
"""Which of the standard streams, by number, this process was started without."""

Job = Callable[[display.Display, dict[str, Any]], Callable[[], Awaitable[list[Outcome]]]]


def _listen(
    host: str | None, port: int | None, shown: display.Display, options: dict[str, Any]
) -> Callable[[], Awaitable[list[Outcome]]]:
    sources = options["passphrase"], options["passphrase_file"], options["prompt"]
    secret, made_here = words.for_listener(*sources, warn=_warn(shown))
    source = TreeSource(options["send"]) if options["send"] else None
    # A side that only sends has nothing to receive; a listener that says nothing receives to stdout.
    into = options["into"] if source or options["into"] else "-"
    settings = _settings(shown, options, secret, host=host, port=port)
    cargo = handoff.Cargo(source, _sink(into, options))

    def observer(event: status.Event) -> None:
        # Not before the port is open: a code that nobody can use yet would be read out too early.
        if made_here and isinstance(event, status.Waiting):
            shown.code(str(secret.code), PROGRAM)
        shown.event(event)

    return partial(handoff.listen, attrs.evolve(settings, observer=observer), cargo)


def _connect(
    code: str | None,
    peer: str | None,
    host: str | None,
    port: int | None,
    shown: display.Display,
    options: dict[str, Any],
) -> Callable[[], Awaitable[list[Outcome]]]:
    if peer is not None and host is not None:
        raise UsageError("--peer and --host say the same.", "Give one of them.")
    if port is not None and host is None:
        raise UsageError("--port needs --host.", "Or give both as --peer HOST:PORT.")
    address = Address.parse(peer) if peer is not None else None
    if host is not None:
        address = Address.parse(host, port or DEFAULT_PORT)
    sources = options["passphrase"], options["passphrase_file"], options["prompt"]
    secret = words.for_connector(code, *sources, warn=_warn(shown))
    source: Source | None = TreeSource(options["send"]) if options["send"] else None
    if source is None and options["into"] is None:
        if 0 in _closed_at_start:
            raise UsageError("There is no standard input to send.", "Give something to --send.")
        source = StreamSource(0)
        if os.isatty(0):
            shown.event(status.Warned("Reading from the terminal; end with Ctrl-D."))
    settings = _settings(shown, options, secret, peer=address)
    return partial(handoff.connect, settings, handoff.Cargo(source, _sink(options["into"], options)))


def _settings(shown: display.Display, options: dict[str, Any], secret: Secret, **more: Any) -> Settings:
    interfaces = lan.check_interfaces(config.lan_interfaces(options["interface"]))
    try:
        engine = Engine(config.quic_engine(options["quic_engine"]))
    except ModuleNotFoundError as error:
        raise UsageError(f"The QUIC engine {error.name} is not installed.", "Leave out --quic-engine.") from error
    return Settings(
        engine=engine,
        secret=secret.value,
        number=secret.code.number if secret.code else None,
        label=_label(),
        timeout=options["timeout"],
        observer=shown.event,
        interfaces=interfaces,
        confirm_words=partial(_confirm, shown) if options["verify"] else None,
        **more,
    )


def _sink(into: str | None, options: dict[str, Any]) -> Sink | None:
    if into is None or into == "-":
        unused = [name for name in ("overwrite", "accept") if options[name]]
        if unused:
            raise UsageError(f"--{unused[0]} is for saving files.", "Give --into DIR with it.")
    if into is None:
        return None
    if into == "-":
        if 1 in _closed_at_start:
            raise UsageError("There is no standard output to write to.", "Give --into DIR.")
        return StreamSink(1)
    return TreeSink(Path(into), overwrite=options["overwrite"], admitted=frozenset(options["accept"]))


def _label() -> str:
    """This machine's name, as the other side will see it: nothing on the network shows it."""
    name = platform.node().partition(".")[0][:LABEL_LIMIT]
    return name if is_label(name) else ""


def _warn(shown: display.Display) -> Callable[[str], None]:
    return lambda text: shown.event(status.Warned(text))


async def _confirm(shown: display.Display, compared: tuple[str, ...]) -> bool:
    """Show the words and wait for a person's yes on the terminal, which stdin need not be."""
    shown.words(compared)
    return await in_thread(_ask, abandon=True)


def _ask() -> bool:
    try:
        with Path("/dev/tty").open("r+b", buffering=0) as terminal:
            terminal.write(b"Are they the same on both screens? [y/N] ")
            answer = b""
            while not answer.endswith(b"\n") and (more := terminal.read(100)):
                answer += more
    except OSError as error:
        raise UsageError("--verify needs a terminal to ask on.", "Leave it out where nobody watches.") from error
    return answer.strip().lower() in (b"y", b"yes")


def run(job: Job, options: dict[str, Any]) -> None:
    """Build the job, run it, and exit with the code of how it ended."""
    shown = display.choose(options["quiet"], options["as_json"])
    outcomes = None
    try:
        outcomes = trio.run(_until_signal, job(shown, options))
    except KeyboardInterrupt:  # before or after trio ran, at the prompt for example
        pass
    except TetherError as error:
        shown.close()
        shown.error(error.what, error.advice, error.exit_code)
        _leave(error.exit_code)
    shown.close()
    if outcomes is None:
        shown.error("Interrupted.", "", EXIT_INTERRUPTED)
        _leave(EXIT_INTERRUPTED)
    elif refused := sum(outcome.refused for outcome in outcomes):
        shown.error(
            f"Not everything was stored: {display.count_text(refused, 'entry')} refused, listed above.",
            "",
            EXIT_REFUSED,
        )
        _leave(EXIT_REFUSED)


def _leave(code: int) -> NoReturn:
    """End at once: a thread may still wait for ever on a pipe that nobody will write to. Every line is flushed as said."""
    os._exit(code)


async def _until_signal(work: Callable[[], Awaitable[list[Outcome]]]) -> list[Outcome] | None:
    """Run `work`; on SIGINT, SIGTERM or SIGHUP cancel it, which closes the connection and cleans up, and return None."""
    outcomes = None
    with one_error():
        async with trio.open_nursery() as nursery:

            async def wait_for_signal() -> None:
                with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
                    async for _ in signals:
                        nursery.cancel_scope.cancel()
                        return

            nursery.start_soon(wait_for_signal)
            outcomes = await work()
            nursery.cancel_scope.cancel()
    return outcomes


def _open_missing_streams() -> None:
    """Give stdin, stdout and stderr something where they are closed, or the next socket would take their place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            _closed_at_start.add(number)
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def main() -> None:
    """The console script `tether-lite`."""
    _open_missing_streams()
    cli(prog_name=PROGRAM if sys.argv[0].endswith("__main__.py") else None)


if __name__ == "__main__":
    main()
