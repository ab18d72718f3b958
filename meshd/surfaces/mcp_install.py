"""`tether mcp install`: the configuration by which an agent's program starts `tether-mcp`, shown or written."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import click

from meshd import config
from meshd.config import ENV_AGENT
from meshd.errors import RefusedError, UsageError
from meshd.surfaces import client_files, render
from meshd.surfaces.client_files import Entry
from meshd.surfaces.commands import common_options
from meshd.surfaces.mcp import INSTALL
from meshd.surfaces.mcp import PROGRAM as SERVER
from meshd.tools.agent_tools import SETS, chosen
from meshd.tools.kinds import AGENT

NAME: Final = "tether"
"""What the server is called in a client's configuration."""


class Client(NamedTuple):
    """A program that speaks MCP, and its file."""

    path: Callable[[bool], Path]
    """For this user; or, where there is such a thing and it is not asked for this user, for the project here."""

    section: str
    merged: Callable[[str, str, str, Entry], str]
    mode: Callable[[bool], int] = lambda _: 0o600
    """Of a new file: others may read that of a project, which may hold no more than they know."""


def _claude(user: bool) -> Path:
    return Path.home() / ".claude.json" if user else Path(".mcp.json")


def _codex(_: bool) -> Path:
    return Path(os.environ.get("CODEX_HOME") or Path.home() / ".codex") / "config.toml"


def _gemini(_: bool) -> Path:
    return Path.home() / ".gemini" / "settings.json"


CLIENTS: Final = {
    "claude": Client(_claude, "mcpServers", client_files.merged_json, lambda user: 0o600 if user else 0o644),
    "codex": Client(_codex, "mcp_servers", client_files.merged_toml),
    "gemini": Client(_gemini, "mcpServers", client_files.merged_json),
}


def entry(agent: str, state: str, sets: str, start: bool) -> Entry:
    """What a client has to know: a command line, since many are started from no shell and know no PATH of it."""
    script = Path(sys.executable).with_name(SERVER)
    command = [str(script)] if script.exists() else [sys.executable, "-m", "meshd.surfaces.mcp"]
    options = [*(["--tools", sets] if sets else []), *(["--start"] if start else [])]
    environment = {**({ENV_AGENT: agent} if agent else {}), **({config.ENV_STATE: state} if state else {})}
    found: Entry = {"command": command[0], "args": [*command[1:], *options]}
    return {**found, "env": environment} if environment else found


def _install(
    client: str, agent: str | None, tools: str, start: bool, user: bool, write: bool, state: str | None, as_json: bool
) -> None:
    if not client_files.is_complete():
        raise RefusedError("What tether-mcp needs is not installed here.", INSTALL)
    found = CLIENTS[client]
    if user and found.path(True) == found.path(False):
        raise UsageError(f"{client} has one file for each user.", "Leave out --user.")
    chosen(tools)
    name = str(AGENT.check(agent)) if agent else ""
    directory = state or (click.get_current_context().obj or {}).get("state") or os.environ.get(config.ENV_STATE)
    made = entry(name, str(config.state_directory(directory)) if directory else "", tools, start)
    path = found.path(user)
    changed = None
    if write:
        changed = client_files.change(
            path, found.mode(user), lambda text: found.merged(text, found.section, NAME, made)
        )
    if as_json:
        click.echo(
            json.dumps({"client": client, "path": str(path.absolute()), "server": made, "changed": bool(changed)})
        )
    elif write:
        click.echo(f"{path}: {'the server is in it' if changed else 'nothing to change'}. Start {client} anew.")
    else:
        click.echo(found.merged("", found.section, NAME, made).rstrip())
        click.echo(f"This goes into {path}; --write puts it there.", err=True)
    if not name:
        click.echo(
            "No --agent: each session is who its first call says. Agents that are to be woken need a name.", err=True
        )


mcp = click.Group(
    "mcp",
    commands=[
        click.Command(
            "install",
            params=[
                click.Argument(["client"], type=click.Choice(list(CLIENTS))),
                click.Option(["--agent"], metavar="NAME", help=f"Which agent its sessions are: sets {ENV_AGENT}."),
                click.Option(
                    ["--tools"], metavar="SETS", default="", help=f"Further sets of tools: {', '.join(SETS)}, or all."
                ),
                click.Option(["--start"], is_flag=True, help="Have it start the daemon when none runs."),
                click.Option(
                    ["--user"], is_flag=True, help="Of claude: for all projects, not the one in this directory."
                ),
                click.Option(
                    ["--write"], is_flag=True, help="Put it into the client's file; the one before stays as .bak."
                ),
                *common_options(),
            ],
            callback=_install,
            help="Show the configuration by which an agent's program starts tether-mcp, or write it.\n\n"
            "\b\nExamples:\n"
            "  tether mcp install claude --agent reviewer --write   .mcp.json of this project\n"
            "  tether mcp install codex --agent codex               shown only",
            short_help="Show, or write, the configuration by which an agent's program starts tether-mcp.",
            epilog=render.EXIT_CODES_HELP,
            context_settings={"help_option_names": ["-h", "--help"]},
        )
    ],
    help="Give an agent's program the tools of the mesh.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
