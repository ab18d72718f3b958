"""A tmux server of a test's own, at a socket of its own, with one pane of bash that has read no file of the person's."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshd.drivers.tmux import Pane

WITHIN = 15.0

needs_tmux = pytest.mark.skipif(
    shutil.which("tmux") is None and "CI" not in os.environ, reason="tmux is not installed: apt-get install tmux"
)
"""In CI the tests run, and fail where it is missing."""


class Tmux:
    """One server. `typed` is a file to which the shell writes each line that it was given."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "tmux.sock"
        self.typed = directory / "typed"
        self.typed.touch()
        rc = directory / "rc"
        # What was entered, comments too, as bash itself has it: before it shows the next prompt.
        rc.write_text(
            "PS1='tester:work$ '\nHISTCONTROL= HISTSIZE=100 HISTFILE=\nset -o history\n"
            f"PROMPT_COMMAND='fc -ln -1 >> {self.typed} 2>/dev/null'\n"
        )
        self.run("new-session", "-d", "-x", "100", "-y", "20", "-c", str(directory), f"bash --rcfile {rc}")
        self.pane = "%0"
        self.shows("tester:work$")

    def run(self, *arguments: str) -> str:
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}
        environment.pop("TMUX", None)
        done = subprocess.run(
            ["tmux", "-u", "-S", str(self.socket), "-f", "/dev/null", *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=WITHIN,
            cwd="/",
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.rstrip("\n")

    def ask(self, form: str, pane: str = "") -> str:
        return self.run("display-message", "-p", "-t", pane or self.pane, form)

    @property
    def environment(self) -> tuple[str, str]:
        """TMUX and TMUX_PANE, as a program in the pane has them."""
        return f"{self.socket},{self.ask('#{pid}')},0", self.pane

    def as_registered(self) -> Pane:
        return Pane(str(self.socket), int(self.ask("#{pid}")), self.pane, int(self.ask("#{pane_pid}")))

    def screen(self, pane: str = "") -> str:
        return self.run("capture-pane", "-p", "-t", pane or self.pane)

    def keys(self, text: str, *, enter: bool = False) -> None:
        """Type as a person does."""
        self.run("send-keys", "-t", self.pane, "-l", "--", text)
        if enter:
            self.run("send-keys", "-t", self.pane, "Enter")

    def until(self, condition: Callable[[], object], what: str, within: float = WITHIN) -> None:
        deadline = time.monotonic() + within
        while not condition():
            assert time.monotonic() < deadline, f"no {what} within {within:.0f} s:\n{self.screen()}"
            time.sleep(0.02)

    def shows(self, text: str) -> None:
        self.until(lambda: text in self.screen(), repr(text))

    def entered(self) -> list[str]:
        """The lines that the shell got with Enter."""
        return [line.strip() for line in self.typed.read_text().splitlines() if line.strip()]


@contextlib.contextmanager
def tmux_server(directory: Path) -> Iterator[Tmux]:
    server = Tmux(directory)
    pid = int(server.ask("#{pid}"))
    try:
        yield server
    finally:
        subprocess.run(["tmux", "-S", str(server.socket), "kill-server"], capture_output=True, timeout=WITHIN)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 15)
