"""Starting the daemon for a program that was told to: detached, as if from a shell, and waited for until it answers."""

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import BinaryIO, Final

import trio

from meshd import config
from meshd.errors import NobodyFoundError, StoreError, TimedOutError

UP_WITHIN: Final = 20.0
"""Seconds until it has to answer; one or two are usual."""

LOG_NAME: Final = "started.log"
"""In the state directory: what a daemon that nobody watches says. Begun anew at each such start."""

_ASK_EVERY: Final = 0.1
_LAST_WORDS: Final = 300


async def start(state: Path, connect: Callable[[], Awaitable[None]]) -> None:
    """Start a daemon on `state` and return when `connect` does. Raises TetherError.

    When two do this at once, the directory's lock lets one daemon live, and both are served by that.
    """
    log = state / LOG_NAME
    process = await _started(state, log)
    with trio.move_on_after(UP_WITHIN):
        while True:
            ended = process.poll() is not None
            try:
                await connect()
                return
            except NobodyFoundError as error:
                if ended:
                    raise NobodyFoundError(f"The daemon ended by itself. {last_words(log)}".rstrip(), "") from error
            await trio.sleep(_ASK_EVERY)
    raise TimedOutError(f"The daemon does not answer after {UP_WITHIN:g} s.", f"What it says is in {log}.")


async def _started(state: Path, log: Path) -> trio.Process:
    environment = {**os.environ, config.ENV_STATE: str(state)}
    environment.pop("NOTIFY_SOCKET", None)  # a service manager that waits for us would take it for us
    try:
        with _begun(state, log) as said:
            return await trio.lowlevel.open_process(
                [sys.executable, "-m", "meshd"],
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
    except OSError as error:
        raise StoreError(f"No daemon can be started on {state}: {error.strerror}.") from error


def _begun(state: Path, log: Path) -> BinaryIO:
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    return os.fdopen(fd, "wb")


def last_words(log: Path) -> str:
    """The last line of a log, which mostly says why."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    return next((line[:_LAST_WORDS] for line in reversed(lines) if line.strip()), "")
