"""The command as real processes: started as a user would, watched by what they print, ended by their own id.

Nothing here waits for a time to pass: each wait names what it waits for and has a deadline.
"""

import contextlib
import json
import os
import pty
import re
import secrets
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

WITHIN = 40.0
"""Seconds that anything may take which has no deadline of its own: a busy machine needs several to start Python."""

_ROOT = Path(__file__).parents[1]
_PIPE_HOLDS = 65_536


def take_terminal(name: str) -> None:
    """In a new session, before its program begins: have this terminal, as the first that a session leader opens."""
    os.close(os.open(name, os.O_RDWR))


class Run:
    """One process. `stdin`: its whole input, a file, or subprocess.PIPE to write to later; `terminal` gives it one."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        directory: Path,
        environment: Mapping[str, str],
        stdin: bytes | Path | int = subprocess.DEVNULL,
        stdout: Path | int,
        terminal: bool = False,
        secret: str = "",
    ) -> None:
        self.command, self.secret = command, secret
        self.output = stdout
        self.text = ""
        """What came on stderr so far, or on the terminal."""
        self.code: int | None = None
        self.peak = 0
        """Most bytes of memory that were resident when a line was read; the last line comes after the payload."""
        self.started = time.monotonic()
        self.ended = 0.0
        self._line_times: list[float] = []
        self._changed = threading.Condition()
        self._lock = threading.Lock()
        with contextlib.ExitStack() as ours:
            given: Any = subprocess.PIPE if isinstance(stdin, bytes) else stdin
            if isinstance(stdin, Path):
                given = ours.enter_context(stdin.open("rb"))
            if isinstance(stdout, Path):
                stdout = ours.enter_context(stdout.open("wb")).fileno()
            self._master, slave = pty.openpty() if terminal else (-1, subprocess.PIPE)
            if terminal:
                ours.callback(os.close, slave)
                termios.tcsetwinsize(slave, (24, 120))
            name = os.ttyname(slave) if terminal else ""
            # A session of its own: no terminal of whoever runs the tests is there to ask on.
            self._process = subprocess.Popen(
                command,
                cwd=directory,
                env=environment,
                stdin=given,
                stdout=stdout,
                stderr=slave,
                start_new_session=True,
                umask=0o022,
                preexec_fn=partial(take_terminal, name) if terminal else None,  # noqa: PLW1509 (two system calls, no lock)
            )
        self.pid = self._process.pid
        self.stdin, self.stdout = self._process.stdin, self._process.stdout
        if isinstance(stdin, bytes) and self.stdin is not None:
            assert len(stdin) <= _PIPE_HOLDS, "longer input goes through a file"
            self.stdin.write(stdin)
            self.stdin.close()
        source = self._master if terminal else self._process.stderr.fileno()
        self._threads = [
            threading.Thread(target=self._read, args=(source,), daemon=True),
            threading.Thread(target=self._reap, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, source: int) -> None:
        data = b""
        while True:
            try:
                more = os.read(source, 65_536)
            except OSError:  # a terminal whose last process has gone
                more = b""
            data += more
            with self._changed:
                self.text = data.decode(errors="replace")
                self._line_times += [time.monotonic()] * (data.count(b"\n") - len(self._line_times))
                self.peak = _peak_of(self.pid) or self.peak
                self._changed.notify_all()
            if not more:
                return

    def _reap(self) -> None:
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        self._threads[0].join(WITHIN)
        with self._lock, self._changed:
            self._process.wait()
            self.code, self.ended = self._process.returncode, time.monotonic()
            self._changed.notify_all()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of `--json` so far."""
        return [json.loads(line) for line in self.text.split("\n")[:-1] if line.startswith("{")]

    def all_of(self, kind: str) -> list[dict[str, Any]]:
        """The events of one kind so far."""
        return [event for event in self.events if event["event"] == kind]

    def time_of(self, kind: str) -> float:
        """When the first event of this kind was printed, on the clock of `started` and `ended`."""
        self.event(kind)
        # Taken together, since more may be printed meanwhile; a line has its time before it can be seen here.
        return next(
            when
            for line, when in zip(self.text.split("\n"), self._line_times, strict=False)
            if line.startswith("{") and json.loads(line)["event"] == kind
        )

    @property
    def error(self) -> str:
        """The one line that says how it failed."""
        return " ".join(f"{event['what']} {event['advice']}" for event in self.all_of("error"))

    @property
    def out(self) -> bytes:
        """What came on stdout, when that is a file."""
        return self.output.read_bytes()

    def wait(self, condition: Callable[[], Any], what: str, within: float = WITHIN) -> Any:
        """The first true value of `condition`, asked again whenever the process prints or ends."""
        with self._changed:
            found = self._changed.wait_for(lambda: condition() or self.code is not None, within) and condition()
        assert found, f"no {what} within {within:.0f} s from {self._told()}"
        return found

    def event(self, kind: str, within: float = WITHIN, **fields: Any) -> dict[str, Any]:
        """Wait for an event of this kind with these fields; a function as a field decides about its value."""

        def fits(event: dict[str, Any]) -> bool:
            return event["event"] == kind and all(
                wanted(event[name]) if callable(wanted) else event[name] == wanted for name, wanted in fields.items()
            )

        return self.wait(lambda: next(filter(fits, self.events), None), f"{kind} event", within)

    def says(self, pattern: str, within: float = WITHIN) -> re.Match[str]:
        """Wait for something on stderr or the terminal."""
        return self.wait(lambda: re.search(pattern, self.text), repr(pattern), within)

    def exits(self, *codes: int, within: float = WITHIN) -> "Run":
        """Wait for its end, with one of these exit codes."""
        with self._changed:
            ended = self._changed.wait_for(lambda: self.code is not None, within)
        assert ended, f"no end within {within:.0f} s of {self._told()}"
        assert self.code in codes, f"exit code {self.code} in place of {codes} of {self._told()}"
        return self

    @property
    def seconds(self) -> float:
        """From its start to its end."""
        return self.ended - self.started

    def type(self, text: str) -> None:
        """Type at its terminal."""
        os.write(self._master, text.encode())

    def signal(self, number: int) -> None:
        """Signal it, unless it has ended: its id may be another's by then."""
        with self._lock:
            if self.code is None:
                os.kill(self.pid, number)

    def kill(self) -> float:
        """`kill -9`, and when that was."""
        self.signal(signal.SIGKILL)
        return time.monotonic()

    def close(self) -> None:
        """End it whatever its state, with what a shell in front of it started, and let go of its pipes."""
        with self._lock:
            if self.code is None:
                os.killpg(self.pid, signal.SIGKILL)
        for thread in self._threads:
            thread.join(WITHIN)
        for pipe in (self.stdin, self.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        if self._master >= 0:
            os.close(self._master)

    def _told(self) -> str:
        return f"{' '.join(self.command[-8:])}, which said:\n{self.text[-4000:]}"


def _peak_of(pid: int) -> int:
    """Not what wait4() tells: that counts the memory of whoever started it, from before exec. 0 when it has ended."""
    try:
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else 0


class Programs:
    """Starts `tether_lite` in one directory, or behind a `prefix` in a namespace, and ends whatever still runs."""

    def __init__(self, directory: Path, *, prefix: Sequence[str] = (), **environment: str) -> None:
        self.directory, self._prefix = directory, tuple(prefix)
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("TETHER_")}
        self._environment |= {"PYTHONPATH": str(_ROOT), "TERM": "xterm-256color"} | environment
        self.runs: list[Run] = []

    def start(
        self, *arguments: str | Path | int, environment: Mapping[str, str] = {}, prefix: Sequence[str] = (), **how: Any
    ) -> Run:
        """Start the command; `prefix` is what it runs under, `how` goes to Run."""
        given = [str(argument) for argument in arguments]
        variables = self._environment | environment
        secret = given[given.index("--passphrase") + 1] if "--passphrase" in given else ""
        how.setdefault("stdout", self.directory / f"out-{len(self.runs)}")
        run = Run(
            [*self._prefix, *prefix, sys.executable, "-m", "tether_lite", *given],
            directory=self.directory,
            environment=variables,
            secret=secret or variables.get("TETHER_PASSPHRASE", ""),
            **how,
        )
        self.runs.append(run)
        return run

    def listen(self, *arguments: str | Path, **how: Any) -> Run:
        """Start a listener and wait until it can be reached.

        On a port of its own: Tether's may be another test's by the time that a late connector dials.
        """
        port = () if "--port" in arguments else ("--port", free_port())
        run = self.start("listen", "--json", *port, *arguments, **how)
        run.event("waiting")
        return run

    def connect(self, *arguments: str | Path, to: Run | int | None = None, **how: Any) -> Run:
        """Start a connector: `to` a listener or a port on this machine, or to what it finds."""
        port = port_of(to) if isinstance(to, Run) else to
        peer = () if to is None else ("--peer", f"127.0.0.1:{port}")
        return self.start("connect", "--json", *peer, *arguments, **how)

    def close(self) -> None:
        """End all."""
        for run in self.runs:
            run.close()

    def check_secrets(self) -> None:
        """No run printed the words it was given."""
        for run in self.runs:
            assert not run.secret or run.secret not in run.text, f"its secret is printed by {run._told()}"


def port_of(listener: Run) -> int:
    """The UDP port that a listener waits on."""
    return listener.event("waiting")["port"]


def new_words() -> str:
    """A passphrase that no other test uses."""
    return f"grüne {secrets.token_hex(4)} wiese"


def free_port() -> int:
    """A UDP port that nobody uses now, and that no kernel gives to whoever asks for any."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as found, contextlib.suppress(OSError):
            found.bind(("::", port))
            return port


def sparse(path: Path, size: int) -> Path:
    """A file of `size` zero bytes that takes no space."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


@contextlib.contextmanager
def programs(directory: Path, **how: Any) -> Iterator[Programs]:
    """Programs that are ended with the block; if it went well, none may have printed its secret."""
    made = Programs(directory, **how)
    try:
        yield made
    finally:
        made.close()
    made.check_secrets()
