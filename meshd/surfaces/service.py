"""`tether service`: the daemon as a service of this user, under systemd."""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import trio

from meshd import config
from meshd.errors import EXIT_REFUSED, EXIT_USAGE, RefusedError, StoreError
from meshd.surfaces import render
from meshd.surfaces.commands import common_options

UNIT: Final = "meshd.service"

BOOTED: Final = Path("/run/systemd/system")
"""There when systemd manages the system: sd_booted(3)."""

TEMPLATE: Final = f"""\
# The daemon of Tether Mesh, as a service of one user: systemctl --user enable --now meshd
# `tether service install` writes this file for the program that it is part of.
[Unit]
Description=Tether Mesh daemon
StartLimitIntervalSec=60
StartLimitBurst=5

[Service]
Type=notify
{{environment}}ExecStart={{program}}
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=2
# Wrong settings ({EXIT_USAGE}) and a directory that may not be used ({EXIT_REFUSED}) do not get better by trying again.
RestartPreventExitStatus={EXIT_USAGE} {EXIT_REFUSED}
TimeoutStopSec=20

# What a service of a user can be fenced with by seccomp alone. Fences of the file system are left out: they need user
# namespaces, which some systems forbid, and the daemon reads and writes the very paths that its user names to it.
UMask=0077
NoNewPrivileges=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
LimitCORE=0

[Install]
WantedBy=default.target
"""


def unit(program: str, state: str = "") -> str:
    """The unit's text for a command line, and a state directory if it is not the usual one."""
    environment = f"Environment={_quoted(f'{config.ENV_STATE}={state}')}\n" if state else ""
    return TEMPLATE.replace("{environment}", environment).replace("{program}", program)


def _quoted(text: str) -> str:
    # systemd.syntax(7): C-style escapes inside quotes, % begins a specifier, and $ a variable.
    return json.dumps(text, ensure_ascii=False).replace("%", "%%")


def unit_path() -> Path:
    """Where systemd looks for the units of this user."""
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(home) / "systemd" / "user" / UNIT


def _check_systemd() -> None:
    if not BOOTED.is_dir():
        raise RefusedError(
            "No systemd runs on this machine.", "Start the daemon by hand, or as your system starts things: meshd &"
        )
    if not os.environ.get("XDG_RUNTIME_DIR"):
        raise RefusedError(
            "There is no session of systemd for this user.", "Log in directly, not with su or sudo; or start: meshd &"
        )


def _run(*command: str) -> int:
    try:
        return trio.run(partial(trio.run_process, command, check=False)).returncode
    except FileNotFoundError as error:
        raise RefusedError(f"{command[0]} is not installed here.") from error


def _systemctl(*arguments: str) -> None:
    if code := _run("systemctl", "--user", *arguments):
        raise RefusedError(f"systemctl --user {' '.join(arguments)} failed with {code}.", "See its words above.")


def _install(state: str | None, **_: Any) -> None:
    _check_systemd()
    chosen = state or (click.get_current_context().obj or {}).get("state") or os.environ.get(config.ENV_STATE)
    program = f"{_quoted(sys.executable)} -m meshd".replace("$", "$$")
    path = unit_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(unit(program, str(config.state_directory(chosen)) if chosen else ""), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}.") from error
    _systemctl("daemon-reload")
    _systemctl("enable", "--now", UNIT)
    click.echo(f"Wrote {path}; the daemon runs and starts with your session.")
    click.echo("To have it run while you are not logged in: loginctl enable-linger")


def _uninstall(**_: Any) -> None:
    _check_systemd()
    path = unit_path()
    if not path.exists():
        raise RefusedError(f"{path} is not there: nothing was installed.")
    _systemctl("disable", "--now", UNIT)
    path.unlink()
    _systemctl("daemon-reload")
    click.echo(f"Removed {path}. The state directory stays as it is.")


def _status(**_: Any) -> int:
    _check_systemd()
    return _run("systemctl", "--user", "status", "--no-pager", UNIT)


def _logs(follow: bool, **_: Any) -> int:
    _check_systemd()
    return _run("journalctl", "--user", "--unit", UNIT, "--no-pager", *(["--follow"] if follow else ["--lines", "200"]))


def _command(name: str, callback: Any, summary: str, *options: click.Parameter) -> click.Command:
    return click.Command(
        name,
        params=[*options, *common_options()],
        callback=callback,
        help=summary,
        epilog=render.EXIT_CODES_HELP,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


service = click.Group(
    "service",
    commands=[
        _command("install", _install, "Install the daemon as a service of this user, and start it."),
        _command("uninstall", _uninstall, "Stop the service and remove it. Nothing else is deleted."),
        _command("status", _status, "Show what systemd knows of it."),
        _command(
            "logs",
            _logs,
            "Show its log.",
            click.Option(["--follow", "-f"], is_flag=True, help="Go on until interrupted."),
        ),
    ],
    help="Run the daemon for good, as a service of this user, under systemd.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
