"""Daemons as real processes, and the `tether` command against them: started as a user would, ended by their own id.

    with daemons(tmp_path) as start:
        ann = start("ann")
        ann.tether("init", "--mesh", "home")

Nothing here waits for a time to pass: each wait names what it waits for and has a deadline.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from meshd.client import Client
from meshd.errors import NobodyFoundError

WITHIN = 40.0
"""Seconds that anything may take which has no deadline of its own: a busy machine needs several to start Python."""

ROOT = Path(__file__).parents[1]


def eventually(holds: Callable[[], Any], what: str, within: float = WITHIN) -> Any:
    """Ask until `holds` gives something true, and return that; `what` names it when it never does."""
    end = time.monotonic() + within
    while True:
        found = holds()
        if found:
            return found
        assert time.monotonic() < end, f"not within {within:g} s: {what}"
        time.sleep(0.05)


def is_clear(text: str) -> bool:
    """Whether this is one line of whole sentences, as people are to see an error."""
    return (
        text.startswith("Error: ")
        and (text.rstrip("\n")[-1] in ".?)…" or " Run: chmod " in text)
        and text.count("\n") == 1
        and "fault in it" not in text
    )


class Command:
    """One run of `tether` that has ended."""

    def __init__(self, done: subprocess.CompletedProcess[bytes], seconds: float) -> None:
        self.code, self.stdout, self.stderr = done.returncode, done.stdout, done.stderr.decode(errors="replace")
        self.seconds = seconds

    @property
    def out(self) -> str:
        return self.stdout.decode().rstrip("\n")

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


class Daemon:
    """`python -m meshd` on a state directory. `prefix` runs it somewhere else, in a network namespace for one."""

    def __init__(self, name: str, directory: Path, prefix: Sequence[str] = (), **environment: str) -> None:
        self.name, self.prefix = name, tuple(prefix)
        self.state = directory / name
        self.directory = directory / f"{name}-work"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "PYTHONPATH": str(ROOT),
            "TETHER_STATE": str(self.state),
            "TERM": "dumb",
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.runs = 0

    @property
    def log_path(self) -> Path:
        return self.directory / f"log-{self.runs}"

    @property
    def log(self) -> str:
        """What the daemon has written, all of its runs."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.directory.glob("log-*")))

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self, *, wait: bool = True) -> "Daemon":
        """Start it, and wait until its service manager would call it ready."""
        self.runs += 1
        # A short name: a socket's path may have 107 bytes.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear, self.log_path.open("wb") as log:
            address = f"\0tether-test-{os.getpid()}-{id(self)}-{self.runs}"
            ear.bind(address)
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "meshd"],
                env={**self.environment, "NOTIFY_SOCKET": "@" + address[1:]},
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            # An abstract socket belongs to a network namespace: in another one, ask the daemon itself.
            ear.settimeout(0.2)
            if wait and self.prefix:
                eventually(self.is_up, f"{self.name} answers: {self.log_path.read_text()}")
            elif wait:
                eventually(lambda: self._is_ready(ear), f"{self.name} is ready: {self.log_path.read_text()}")
        return self

    def _is_ready(self, ear: socket.socket) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.name} ended with {self.process.returncode}: {self.log}"
        try:
            return b"READY=1" in ear.recv(4096)
        except TimeoutError:
            return False

    def is_up(self) -> bool:
        """Whether it answers."""
        assert self.process is not None
        assert self.process.poll() is None, f"{self.name} ended with {self.process.returncode}: {self.log}"
        try:
            return bool(self.call("status"))
        except NobodyFoundError:
            return False

    def stop(self, within: float = WITHIN) -> int:
        """Ask it to end, and return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within)

    def kill(self) -> None:
        """End it without asking (SIGKILL)."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(WITHIN)

    def signal(self, number: signal.Signals) -> None:
        """Send its process a signal."""
        os.kill(self.pid, number)

    def close(self) -> None:
        """Leave nothing behind."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGCONT)
            self.process.kill()
            self.process.wait()

    def run(self, *arguments: str, stdin: bytes = b"", within: float = WITHIN) -> Command:
        """`tether ARGUMENTS` against this daemon, to its end, whatever that is."""
        began = time.monotonic()
        done = subprocess.run(
            [*self.prefix, sys.executable, "-m", "meshd.surfaces.cli", *arguments],
            env=self.environment,
            cwd=self.directory,
            input=stdin,
            capture_output=True,
            timeout=within,
        )
        return Command(done, time.monotonic() - began)

    def tether(self, *arguments: str, stdin: bytes = b"", within: float = WITHIN) -> Command:
        """`run`, for what must succeed."""
        done = self.run(*arguments, stdin=stdin, within=within)
        assert done.code == 0, f"{self.name}: tether {' '.join(arguments)}: exit {done.code}: {done.stderr}\n{self.log}"
        return done

    def fails(self, code: int, *arguments: str, stdin: bytes = b"", within: float = WITHIN) -> str:
        """`run`, for what must fail with this exit code and one clear sentence or two, which are returned."""
        done = self.run(*arguments, stdin=stdin, within=within)
        assert done.code == code, (
            f"{self.name}: tether {' '.join(arguments)}: exit {done.code}: {done.stderr}{done.out}"
        )
        assert is_clear(done.stderr), done.stderr
        assert not done.stdout, done.stdout
        return done.stderr

    def json(self, *arguments: str, stdin: bytes = b"", within: float = WITHIN) -> Any:
        """`tether --json`, and what it printed."""
        return self.tether(*arguments, "--json", stdin=stdin, within=within).json

    def call(self, operation: str, /, **arguments: Any) -> Any:
        """One operation by the control socket: without a new interpreter, where it is asked often or timed."""
        with Client(self.state) as client:
            return client.call(operation, **arguments)

    def begin(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a `tether` that goes on; the caller ends it."""
        return subprocess.Popen(
            [*self.prefix, sys.executable, "-m", "meshd.surfaces.cli", *arguments],
            env=self.environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def memory(self) -> int:
        """Bytes resident now."""
        return _status_field(self.pid, "VmRSS:")

    @property
    def peak(self) -> int:
        """Most bytes that were ever resident in this run."""
        return _status_field(self.pid, "VmHWM:")


def _status_field(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {name} for {pid}")


def join(
    member: Daemon, newcomer: Daemon, within: float = WITHIN, peer: str | None = None, *, wan: bool = False
) -> None:
    """`tether invite` here, `tether join` there, both to their end; `peer` is where `member` is, without multicast, and
    `wan` has a rendezvous server say that."""
    far = ("--wan",) if wan else ()
    where = far if peer is None else (*far, "--peer", peer)
    inviting = member.begin("invite", *far, "--json")
    try:
        assert inviting.stdout is not None
        code = ""
        for line in inviting.stdout:
            code = json.loads(line).get("code", "")
            if code:
                break
        assert code, f"no code: {inviting.stderr.read().decode() if inviting.stderr else ''} {member.log}"
        newcomer.tether("join", "--name", newcomer.name, *where, stdin=code.encode() + b"\n", within=within)
        inviting.communicate(timeout=within)
        assert inviting.returncode == 0
    finally:
        if inviting.poll() is None:
            inviting.kill()
        inviting.communicate()


def links(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """What its status says of each machine that it is linked with, by name."""
    (mesh,) = daemon.call("status")["meshes"]
    return {each["machine"]["name"]: each for each in mesh["machines"] if each["linked"]}


def all_linked(*these: Daemon, within: float = WITHIN) -> None:
    """Wait until each of these says that it is linked with every other one."""
    for each in these:
        others = {other.name for other in these} - {each.name}
        eventually(lambda each=each, others=others: others <= links(each).keys(), f"{each.name} has {others}", within)


def knows(daemon: Daemon, handle: str) -> bool:
    """Whether the record that announces this handle is in its store."""
    try:
        return bool(daemon.call("metadata", handle=handle))
    except NobodyFoundError:
        return False


def digests(daemon: Daemon) -> dict[str, str]:
    """One hash a view."""
    return {each["view"]: each["digest"] for each in daemon.call("digest")["views"]}


@contextlib.contextmanager
def daemons(directory: Path, **environment: str) -> Iterator[Callable[..., Daemon]]:
    """`start(name, prefix=(), **environment)` starts a daemon; all are ended when the block is."""
    made: list[Daemon] = []

    def start(name: str, prefix: Sequence[str] = (), *, wait: bool = True, **more: str) -> Daemon:
        inside = {} if prefix else {"TETHER_LAN_INTERFACES": "127.0.0.1"}
        made.append(Daemon(name, directory, prefix, **{**inside, **environment, **more}))
        return made[-1].start(wait=wait)

    try:
        yield start
    finally:
        for each in made:
            each.close()
