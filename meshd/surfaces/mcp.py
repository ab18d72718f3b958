"""`tether-mcp`: the tools for agents (tools/agent_tools.py) over MCP on standard input and output. docs/mcp.md.

It is a process of its own, that of an agent's session: its libraries are heavy and stay out of the daemon, and when it ends
so does the binding of its connection. The server itself is in mcp_server.py, which is loaded when it is served.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click
import trio

from meshd import __version__, config
from meshd.config import ENV_AGENT
from meshd.errors import RefusedError, UsageError
from meshd.surfaces.program import run, said
from meshd.tools.agent_tools import SETS, chosen
from meshd.tools.kinds import AGENT

PROGRAM: Final = "tether-mcp"

INSTALL: Final = "Install it with the program: pip install 'tether-mesh[mcp]'"

ENV_DB: Final = "TETHER_DB"
"""Where Tether's own servers have their database. Its directory is taken for the state directory."""


def state_option(option: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The state directory that was asked for, if one was: --state, TETHER_STATE, or where TETHER_DB lies."""
    if option or environment.get(config.ENV_STATE) or not environment.get(ENV_DB):
        return option
    found = str(Path(environment[ENV_DB]).expanduser().absolute().parent)
    said(f"{ENV_DB} is set: the state directory is {found}. The database itself is not read. Better set TETHER_STATE.")
    return found


def pinned(environment: Mapping[str, str] = os.environ) -> str:
    """The agent that the environment says this is, or none. Raises UsageError."""
    name = environment.get(ENV_AGENT, "")
    try:
        return str(AGENT.check(name)) if name else ""
    except UsageError as error:
        raise UsageError(f"{ENV_AGENT}: {error.what}", error.advice) from error


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--tools",
    "sets",
    metavar="SETS",
    default="",
    help=f"Further sets of tools, with commas between: {', '.join(SETS)}, or all. Each costs tokens in every session.",
)
@click.option(
    "--state",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="The daemon's state directory. [env: TETHER_STATE; else where TETHER_DB lies]",
)
@click.option("--start", is_flag=True, help="Start a daemon when none runs. It stays when this ends.")
@click.version_option(__version__, prog_name=PROGRAM)
def command(sets: str, state: str | None, start: bool) -> None:
    """Mail and content of the mesh as MCP tools, for one session of an agent.

    A client starts this and speaks MCP over its standard input and output. To set one up:

    \b
      tether mcp install claude --agent NAME

    Which agent the session is: TETHER_AGENT_ID, else the first from_agent or for_agent that it gives. No other session can
    be the same one meanwhile.
    """
    tools, agent, directory = chosen(sets), pinned(), state_option(state)
    try:
        from meshd.surfaces.mcp_server import serve
    except ModuleNotFoundError as error:
        raise RefusedError(f"{error.name} is not installed here, which {PROGRAM} needs.", INSTALL) from error
    trio.run(serve, directory, tools, agent, start)


def main() -> None:
    """The console script `tether-mcp`."""
    run(command, PROGRAM)


if __name__ == "__main__":
    main()
