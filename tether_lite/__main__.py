"""The command `python -m tether_lite`: reads arguments, builds a handoff, and turns its end into an exit code."""

import math
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

import click
import trio

from meshd import config
from meshd.drivers.one_error import one_error
from meshd.drivers.transfer import Outcome
from meshd.errors import EXIT_CODES, EXIT_INTERRUPTED, EXIT_REFUSED, EXIT_USAGE, TetherError
from meshd.model.address import DEFAULT_PORT
from meshd.protocol.passphrase import NUMBER_LIMIT
from tether_lite import display, jobs, joining, streams

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
            if arg.startswith("--send=") or (position and args[position - 1] == "--send"):
                taking = True
            elif arg.startswith("-"):
                taking = False
            elif taking and os.path.lexists(arg):
                spread.append("--send")
            spread.append(arg)
        return super().parse_args(ctx, spread)


class Seconds(click.FloatRange):
    """A number of seconds; what is not a number at all is within every range, as Python compares."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number, if it is one."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return seconds


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
            type=click.Path(file_okay=False, allow_dash=True),
            help="Save what arrives in DIR, under its own names; `-` writes a single file or stream to stdout.",
        ),
        click.option("--overwrite", is_flag=True, help="Let files that arrive replace files of the same name."),
        click.option(
            "--accept",
            metavar="NAME",
            multiple=True,
            help="Take entries of this name, like .git, that are refused because programs obey them. Repeatable.",
        ),
        click.option(
            "--join",
            is_flag=True,
            help="Take the other machine into this one's mesh (listen), or enter its mesh (connect). Needs the daemon.",
        ),
        click.option("--verify", is_flag=True, help="Show four words to compare aloud, and wait for a yes."),
        click.option(
            "--wan",
            is_flag=True,
            help="Go across the internet too: a rendezvous server swaps the two addresses, the payload goes directly.",
        ),
        click.option(
            "--rendezvous",
            "--relay-url",
            metavar="HOST:PORT",
            multiple=True,
            help=f"A rendezvous server for --wan. Repeatable; none is built in. [env: {config.ENV_RENDEZVOUS}]",
        ),
        click.option(
            "--interface",
            metavar="ADDRESS",
            multiple=True,
            help=f"Limit multicast to this IPv4 address of this machine. Repeatable. [env: {config.ENV_LAN_INTERFACES}]",
        ),
        click.option(
            "--quic-engine",
            type=click.Choice(config.ENGINES),
            help=f"The QUIC engine; default qh3 where installed. [env: {config.ENV_QUIC_ENGINE}]",
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
        type=Seconds(min=0.1, max=86_400),
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
@click.option("--local-addr", metavar="HOST[:PORT]", help="The same as --host and --port.")
@timeout_option(LISTEN_TIMEOUT)
@common_options
def listen(host: str | None, port: int | None, local_addr: str | None, **options: Any) -> None:
    """Wait for one peer and take what it sends, to stdout or with --into to a directory.

    Without a passphrase a code is made and shown. After three wrong tries, or one peer, it is over.

    \b
    Examples:
      python -m tether_lite listen > backup.tar
      python -m tether_lite listen --into ~/Downloads
      python -m tether_lite listen --send report.pdf
      python -m tether_lite listen --join
      python -m tether_lite listen --wan --rendezvous meet.example.org
    """
    build = (joining if options["join"] else jobs).listen
    run(partial(build, host=host, port=port, local_addr=local_addr), options)


@cli.command(cls=PathsCommand, epilog=EXIT_CODES_HELP)
@click.argument("code", nargs=-1)
@click.option("--peer", metavar="HOST:PORT", help="Where the listener is, when multicast does not reach it.")
@click.option("--host", metavar="HOST", help="The same as --peer, with --port.")
@click.option("--port", metavar="PORT", type=click.IntRange(1, 65_535), help=f"With --host. [default: {DEFAULT_PORT}]")
@click.option(
    "--token",
    metavar="NUMBER",
    type=click.IntRange(1, NUMBER_LIMIT),
    help="With --wan and a passphrase of your choice: the number that the listener shows.",
)
@click.option("--local-addr", metavar="HOST[:PORT]", help="Send from this address of this machine.")
@timeout_option(CONNECT_TIMEOUT)
@common_options
def connect(
    code: tuple[str, ...],
    peer: str | None,
    host: str | None,
    port: int | None,
    token: int | None,
    local_addr: str | None,
    **options: Any,
) -> None:
    """Find the listener that showed CODE, or that has the same passphrase, and send it stdin or --send PATHs.

    The listener may be started later, within the time-out. Without CODE or passphrase you are asked for it.

    \b
    Examples:
      tar c project | python -m tether_lite connect 7-crystal-clock-tower
      python -m tether_lite connect 7-crystal-clock-tower --send project notes.txt
      python -m tether_lite connect --passphrase "shared secret" --into .
      python -m tether_lite connect --join 7-crystal-clock-tower
      python -m tether_lite connect --wan --rendezvous meet.example.org 7-crystal-clock-tower
    """
    build = (joining if options["join"] else jobs).connect
    where = {"peer": peer, "host": host, "port": port, "token": token, "local_addr": local_addr}
    run(partial(build, code=" ".join(code) or None, **where), options)


def run(build: Callable[[jobs.Options, display.Display], jobs.Job], fields: dict[str, Any]) -> None:
    """Build the job, run it, and exit with the code of how it ended."""
    options = jobs.Options(**fields)
    shown = display.choose(options.quiet, options.as_json)
    outcomes = None
    try:
        outcomes = trio.run(_until_signal, build(options, shown))
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
            f"Not everything was stored: {display.count_text(refused, 'entry')} refused.",
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


def main() -> None:
    """The console script `tether-lite`."""
    streams.fill_missing()
    # A shell starts what runs in the background with SIGINT ignored; who sends one all the same means it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    as_json = "--json" in sys.argv
    try:
        code = cli(prog_name=display.PROGRAM if sys.argv[0].endswith("__main__.py") else None, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        code = EXIT_USAGE
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else display.PROGRAM
        display.choose(quiet=True, as_json=as_json).error(error.format_message(), f"Try {command} --help.", EXIT_USAGE)
        code = EXIT_USAGE
    except click.Abort:
        code = EXIT_INTERRUPTED
    sys.exit(code)


if __name__ == "__main__":
    main()
