"""The command `tether`: every operation of the registry, and what concerns this machine before a daemon runs on it.

Commands are made when they are asked for, and what only some need is loaded there: `tether status` is typed many times a
day, and starts in half the time that way.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Final

import click

from meshd.errors import EXIT_INTERRUPTED, EXIT_USAGE, TetherError, UsageError
from meshd.surfaces import render
from meshd.surfaces.commands import command, common_options
from meshd.tools.operation import Operation
from meshd.tools.registry import GROUPS, OPERATIONS

PROGRAM: Final = "tether"


def _service() -> click.Command:
    from meshd.surfaces.service import service

    return service


def _demo() -> click.Command:
    from meshd.surfaces.demo import demo

    return demo


def _mcp() -> click.Command:
    from meshd.surfaces.mcp_install import mcp

    return mcp


def _restore() -> click.Command:
    from meshd.surfaces.restoring import restore

    return restore


LOCAL: Final[dict[str, tuple[Callable[[], click.Command], str]]] = {
    "demo": (_demo, "Try it: three daemons on this machine pair, replicate, lose one, heal."),
    "mcp": (_mcp, "Give an agent's program the tools of the mesh."),
    "restore": (_restore, "Make a machine of a backup again."),
    "service": (_service, "Run the daemon for good, as a service of this user."),
}
"""Commands that are no operation of a daemon, with how to load each."""


class Group(click.Group):
    """Commands by the next of their words, each made when it is asked for."""

    def __init__(
        self,
        name: str,
        depth: int,
        operations: Sequence[Operation],
        *,
        summary: str,
        options: Sequence[click.Parameter] = (),
        epilog: str | None = None,
    ) -> None:
        super().__init__(
            name,
            params=list(options),
            callback=_remember if options else None,
            help=summary,
            epilog=epilog,
            context_settings={"help_option_names": ["-h", "--help"]},
        )
        self._depth = depth
        self._operations = operations

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the alphabet."""
        words = {each.words[self._depth] for each in self._operations}
        return sorted(words | (set() if self._depth else set(LOCAL)))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or the group, that begins with this word."""
        if not self._depth and cmd_name in LOCAL:
            return LOCAL[cmd_name][0]()
        found = [each for each in self._operations if each.words[self._depth] == cmd_name]
        if not found:
            return None
        own = [command(each) for each in found if len(each.words) == self._depth + 1]
        longer = [each for each in found if len(each.words) > self._depth + 1]
        if not longer:
            return own[0]
        group = Group(cmd_name, self._depth + 1, longer, summary=GROUPS[cmd_name])
        if own:
            group.stand_for(own[0])
        return group

    def stand_for(self, own: click.Command) -> None:
        """Do what this command does where no further word follows."""

        def callback(**given: object) -> object:
            context = click.get_current_context()
            if context.invoked_subcommand is None:
                assert own.callback is not None
                return own.callback(**given)
            context.obj = {**(context.obj or {}), **{name: each for name, each in given.items() if each}}
            return None

        self.params, self.callback, self.help, self.epilog = own.params, callback, own.help, own.epilog
        self.invoke_without_command, self.no_args_is_help = True, False

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Their summaries, without loading what is only named."""
        rows = []
        for word in self.list_commands(ctx):
            local = None if self._depth else LOCAL.get(word)
            summaries = [each.summary for each in self._operations if each.words[self._depth :] == (word,)]
            rows.append((word, local[1] if local else summaries[0] if summaries else GROUPS[word]))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _remember(**options: object) -> None:
    # Given before the command's word, they hold for it unless it has its own.
    click.get_current_context().obj = options


cli = Group(
    PROGRAM,
    0,
    OPERATIONS,
    summary="""The mesh of your machines: who belongs to it, what they share, how they fare.

\b
On a first machine:  tether init, then tether invite
On another:          tether join CODE

A daemon does the work: `tether service install` runs it for good, `meshd &` for now.
""",
    options=[
        click.Option(["--mesh"], metavar="MESH", help="Which mesh, where this machine is in several."),
        *common_options(),
    ],
    epilog=f"{render.EXIT_CODES_HELP}\n\n\b\nShell completion, for bash (zsh and fish alike):\n"
    '  eval "$(_TETHER_COMPLETE=bash_source tether)"',
)


def main() -> None:
    """The console script `tether`."""
    as_json = "--json" in sys.argv
    # A shell starts what runs in the background with SIGINT ignored; who sends one all the same means it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = cli.main(prog_name=PROGRAM, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        code = EXIT_USAGE
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else PROGRAM
        render.error(UsageError(error.format_message(), f"Try {path} --help."), as_json)
        code = EXIT_USAGE
    except (click.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone. What is in the buffer would fail again when the interpreter ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        code = EXIT_INTERRUPTED
    except TetherError as error:
        render.error(error, as_json)
        code = error.exit_code
    sys.exit(code)


if __name__ == "__main__":
    main()
