"""What the benchmarks share: our two processes, an sshd of our own on loopback, and medians with their spread."""

import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "TETHER_LAN_INTERFACES": "127.0.0.1", "PYTHONPATH": str(ROOT)}
PASSPHRASE = "bench words that nobody else uses"
DEADLINE = 600.0


class BenchError(Exception):
    """A run did not end as it should, so there is no figure."""


class Side:
    """One `python -m tether_lite`, with its JSON events and the time at which each arrived."""

    def __init__(
        self, *arguments: str, stdin: int | None = subprocess.DEVNULL, stdout: int | None = subprocess.DEVNULL
    ):
        command = [sys.executable, "-m", "tether_lite", *arguments, "--json", "--passphrase", PASSPHRASE]
        self.process = subprocess.Popen(
            command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True
        )

    def wait_for(self, event: str) -> tuple[float, dict[str, object]]:
        """When an event came (seconds, monotonic), and its fields."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            fields = json.loads(line)
            if fields["event"] == event:
                return time.monotonic(), fields
            if fields["event"] == "error":
                raise BenchError(fields["what"])
        raise BenchError(f"{self.process.args} ended before {event}")

    def finish(self) -> None:
        """Wait for success."""
        assert self.process.stderr is not None
        said = self.process.stderr.read()
        if self.process.wait(DEADLINE) != 0:
            raise BenchError(said)

    def stop(self) -> None:
        """End it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


@contextlib.contextmanager
def sides(*made: Side) -> Iterator[None]:
    """Stop these at the end, however it comes."""
    try:
        yield
    finally:
        for side in made:
            side.stop()


@contextlib.contextmanager
def sshd() -> Iterator[list[str]]:
    """An sshd with a key of its own on a free loopback port. Yields the options for scp."""
    server, keygen = shutil.which("sshd") or "/usr/sbin/sshd", shutil.which("ssh-keygen")
    if keygen is None or not Path(server).exists() or shutil.which("scp") is None:
        raise BenchError("this benchmark needs sshd and scp (Debian: openssh-server, openssh-client)")
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        base = Path(folder)
        for name in ("host", "user"):
            subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", base / name], check=True)
        shutil.copy(base / "user.pub", base / "authorized")
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where sshd as root goes to be powerless
        settings = {
            "Port": port,
            "ListenAddress": "127.0.0.1",
            "HostKey": base / "host",
            "AuthorizedKeysFile": base / "authorized",
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "Subsystem": "sftp internal-sftp",
        }
        options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
        daemon = subprocess.Popen([server, "-D", "-f", "/dev/null", *options], stderr=subprocess.DEVNULL)
        try:
            _wait_for_port(port)
            yield [
                *("-q", "-P", str(port), "-i", str(base / "user")),
                *(
                    "-o",
                    "StrictHostKeyChecking=no",
                    "-o",
                    f"UserKnownHostsFile={base / 'known'}",
                    "-o",
                    "BatchMode=yes",
                ),
                *("-o", "Compression=no", "-F", "/dev/null"),
            ]
        finally:
            daemon.terminate()
            daemon.wait()


def _wait_for_port(port: int) -> None:
    give_up = time.monotonic() + 10
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if time.monotonic() > give_up:
            raise BenchError("sshd did not start")
        time.sleep(0.05)


def timed(work: Callable[[], float], runs: int) -> list[float]:
    """Seconds of each of `runs` runs, after one that is not counted."""
    work()
    return [work() for _ in range(runs)]


def spread(values: list[float], digits: int = 2) -> str:
    """Median, and least to most."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
