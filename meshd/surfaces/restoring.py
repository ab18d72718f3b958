"""`tether restore`: making a machine of a backup. No daemon runs there yet, so this starts the one program that can."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import click
import trio

from meshd import config
from meshd.surfaces import render
from meshd.surfaces.commands import common_options


def _restore(file: str, state: str | None, **_: Any) -> int:
    chosen = state or (click.get_current_context().obj or {}).get("state")
    directory = config.state_directory(chosen)
    program = [sys.executable, "-m", "meshd", "--state", str(directory), "--restore", str(Path(file).absolute())]
    return trio.run(partial(trio.run_process, program, check=False)).returncode


restore = click.Command(
    "restore",
    params=[click.Argument(["file"], type=click.Path(), metavar="FILE"), *common_options()],
    callback=_restore,
    help="Make a machine of a backup again.\n\nThe file is verified whole before anything is placed, and the state "
    "directory must be empty. The machine goes on under a new generation of its history, so that what it wrote after "
    "the backup is not contradicted. Never run the restored machine and the old one at the same time.\n\n\b\n"
    "Arguments:\n  FILE  What `tether backup` wrote.\n\n\b\nExamples:\n  tether restore tower.tether",
    epilog=render.EXIT_CODES_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
)
