"""`python -m rendezvous` as a real process, and scripted clients of it over loopback."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import trio

from meshd.drivers.quic import Endpoint, open_endpoint
from meshd.drivers.quic_engine import Engine
from meshd.drivers.tls_identity import TlsIdentity
from meshd.model.address import Address
from rendezvous.app import ALPNS
from tests.daemons import ROOT, WITHIN
from tests.rendezvous.kit import Caller

IDENTITY = TlsIdentity.generate()


class Process:
    """One server on 127.0.0.1, or on a `host` of another namespace that `prefix` leads to. `start` waits until it says
    that it is ready."""

    def __init__(
        self, directory: Path, *, prefix: Sequence[str] = (), host: str = "127.0.0.1", **environment: str
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.host, self._prefix = directory, host, tuple(prefix)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "XDG_STATE_HOME": str(directory / "state"),
            "PYTHONPATH": str(ROOT),
            **environment,
        }
        self.process: subprocess.Popen[str] | None = None
        self.log_path = directory / "log"
        self.ready: dict[str, Any] = {}

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """A command that ends by itself."""
        return subprocess.run(
            [sys.executable, "-m", "rendezvous", *arguments],
            env=self.environment,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=WITHIN,
        )

    def start(self, *arguments: str, metrics: str = "off") -> "Process":
        serve = [sys.executable, "-m", "rendezvous", "serve", "--host", self.host, "--json", "--metrics", metrics]
        if "--port" not in arguments:
            arguments = ("--port", "0", *arguments)
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._prefix, *serve, *arguments],
                env=self.environment,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it ended with {self.process.wait(WITHIN)}: {self.log}"
        self.ready = json.loads(line)
        return self

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def address(self) -> Address:
        return Address(self.host, self.ready["port"])

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def memory(self) -> int:
        """Bytes that are resident."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(WITHIN)

    def close(self) -> None:
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()


@contextlib.contextmanager
def processes(directory: Path) -> Iterator[Callable[..., Process]]:
    made: list[Process] = []

    def make(**environment: str) -> Process:
        made.append(Process(directory / f"server-{len(made)}", **environment))
        return made[-1]

    try:
        yield make
    finally:
        for each in made:
            each.close()


@contextlib.asynccontextmanager
async def clients() -> AsyncIterator[Callable[..., Any]]:
    """`await call(address, host)` dials from a socket of its own on that loopback address, or from an endpoint's."""
    engine = Engine()
    async with trio.open_nursery() as nursery:

        async def opened(host: str, task_status: Any) -> None:
            async with open_endpoint(engine=engine, identity=IDENTITY, host=host) as endpoint:
                task_status.started(endpoint)
                await trio.sleep_forever()

        async def call(address: Address, host: str = "127.0.0.1", endpoint: Endpoint | None = None) -> Caller:
            endpoint = endpoint or await nursery.start(opened, host)
            connection = await endpoint.dial(address, timeout=WITHIN, alpns=ALPNS)
            connection.admit()
            caller = Caller(endpoint, connection, await connection.open_stream())
            nursery.start_soon(caller.listen)
            return caller

        yield call
        nursery.cancel_scope.cancel()


def ask(url: str, **headers: str) -> tuple[int, str]:
    """GET: status and body."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=WITHIN) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
