"""What programs share that an MCP client starts: standard output is the protocol's, so all else goes to standard error."""

import sys
from pathlib import Path

import click

from meshd.errors import EXIT_INTERRUPTED, EXIT_USAGE, TetherError


def said(line: str) -> None:
    """A line for whoever reads the program's log."""
    print(f"{Path(sys.argv[0]).stem}: {line}", file=sys.stderr, flush=True)


def run(command: click.Command, program: str) -> None:
    """Run the command and end with its exit code, those of all commands (errors.py)."""
    try:
        code = command.main(prog_name=program, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = EXIT_USAGE
    except (click.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    except TetherError as error:
        code = _told(error)
    except BaseExceptionGroup as group:
        # Nurseries wrap what they end with; of one interruption, or one error, that is all there is to say.
        interrupted, rest = group.split(KeyboardInterrupt)
        first = _first(rest or interrupted)
        if isinstance(first, KeyboardInterrupt):
            code = EXIT_INTERRUPTED
        elif isinstance(first, TetherError):
            code = _told(first)
        else:
            raise
    sys.exit(code or 0)


def _told(error: TetherError) -> int:
    said(str(error))
    return error.exit_code


def _first(error: BaseException | None) -> BaseException | None:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
