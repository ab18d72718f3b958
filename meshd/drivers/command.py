"""Short-lived programs that the daemon runs: no shell, nothing to read from, a deadline, and little output or none.

Each has a process group of its own, which is killed whole when its time is over: what it has started is not left behind.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

import attrs
import trio

from meshd.config import ENV_PASSPHRASE

SECRETS = (ENV_PASSPHRASE,)
"""Variables that no other program is given."""

MANAGER = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
"""What a service manager gives the daemon for itself: another program could speak in its name."""


@attrs.frozen
class Ended:
    """How a program ended."""

    code: int | None
    """Its exit code, negative for a signal; None: it took too long, or said too much, and was killed."""

    output: bytes = b""


def plain_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What other programs are given of the daemon's environment."""
    return {name: value for name, value in environment.items() if name not in (*SECRETS, *MANAGER)}


async def run_command(argv: Sequence[str], *, environment: Mapping[str, str], within: float, limit: int = 0) -> Ended:
    """Run a program for `within` seconds at most, and keep its output, of at most `limit` bytes; with 0 none is read.

    Raises OSError when it cannot be started. Nothing of it runs when this is over because of a deadline or cancellation.
    """
    process = await trio.lowlevel.open_process(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if limit else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    code, output = None, bytearray()
    try:
        with trio.move_on_after(within):
            if process.stdout is None or await _read(process.stdout, output, limit):
                code = await process.wait()
    finally:
        with trio.CancelScope(shield=True):
            if code is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
            if process.stdout is not None:
                await process.stdout.aclose()
    return Ended(code, bytes(output))


async def _read(stream: trio.abc.ReceiveStream, output: bytearray, limit: int) -> bool:
    """Read to the end; False when there was more than `limit`."""
    async for data in stream:
        output += data
        if len(output) > limit:
            del output[limit:]
            return False
    return True
