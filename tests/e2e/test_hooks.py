"""Programs that the daemon runs when there is mail, as real processes: what they are given, and what becomes of them."""

import os
import pty
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import trio

from meshd.drivers import foreground
from meshd.drivers.command import run_command
from meshd.drivers.foreground import Program, look_at_foreground
from meshd.drivers.hooks import run_hook
from meshd.protocol.nudging import Outcome
from tests.hooks import ENV, HANDLE, script
from tests.processes import take_terminal


async def test_a_hook_is_given_a_handle_and_its_own_arguments_and_no_secret(tmp_path: Path) -> None:
    hook = script(tmp_path, f'printf "%s\\n" "$#" "$@" > {tmp_path}/args; env > {tmp_path}/env; cat > {tmp_path}/in')
    assert await run_hook(hook, "codex", HANDLE, environment=ENV) == Outcome(True, "the hook ended with 0")
    assert (tmp_path / "args").read_text().split("\n") == ["3", "a b", "$HOME; rm -rf ~", "--", ""]
    given = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert given["TETHER_HANDLE"] == "hl_messages_0123456789ab" and given["TETHER_AGENT_ID"] == "codex"
    assert given["HOME"] == "/home/me" and not {"TETHER_PASSPHRASE", "NOTIFY_SOCKET"} & set(given)
    assert (tmp_path / "in").read_bytes() == b""


async def test_an_exit_code_is_told(tmp_path: Path) -> None:
    hook = script(tmp_path, "echo much; echo more >&2; exit 3")
    assert await run_hook(hook, "codex", HANDLE) == Outcome(False, "the hook ended with 3")


async def test_one_that_has_gone_is_no_fault_of_ours(tmp_path: Path) -> None:
    hook = script(tmp_path, "exit 0")
    Path(hook.program).unlink()
    outcome = await run_hook(hook, "codex", HANDLE)
    assert not outcome.told and "cannot be started" in outcome.what


async def test_one_that_takes_too_long_is_ended_with_what_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    hook = script(tmp_path, f"trap '' TERM; sleep 300 & echo $! $$ > {pids}; wait; sleep 300")
    with trio.fail_after(20):
        outcome = await run_hook(hook, "codex", HANDLE, within=1.0)
    assert outcome == Outcome(False, "the hook took longer than 1 s and was ended")
    for pid in map(int, pids.read_text().split()):
        deadline = time.monotonic() + 10
        while _lives(pid):
            assert time.monotonic() < deadline
            await trio.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        # A zombie that nobody has waited for yet has ended all the same.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class TestCommand:
    async def test_output_is_bounded(self) -> None:
        ended = await run_command(["sh", "-c", "while :; do echo yes; done"], environment=ENV, within=20, limit=1000)
        assert ended.code is None and len(ended.output) == 1000

    async def test_a_pipe_that_a_child_holds_open_is_waited_for_with_a_deadline(self) -> None:
        began = trio.current_time()
        ended = await run_command(["sh", "-c", "sleep 60 & echo x"], environment=ENV, within=0.5, limit=1000)
        assert ended.output == b"x\n" and trio.current_time() - began < 15

    async def test_cancelled_it_leaves_nothing_behind(self, tmp_path: Path) -> None:
        pid = tmp_path / "pid"
        with trio.move_on_after(10) as scope:
            async with trio.open_nursery() as nursery:
                argv = ["sh", "-c", f"echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 300"]

                async def run() -> None:
                    await run_command(argv, environment=ENV, within=300)

                nursery.start_soon(run)
                while not pid.exists():
                    await trio.sleep(0.02)
                nursery.cancel_scope.cancel()
        assert not scope.cancelled_caught
        assert not _lives(int(pid.read_text()))

    async def test_one_that_is_not_there_is_an_os_error(self) -> None:
        with pytest.raises(OSError):
            await run_command(["/no/such/program"], environment=ENV, within=5)


class Terminal:
    """A terminal with a program in its foreground."""

    def __init__(self, argv: list[str]) -> None:
        self.master, slave = pty.openpty()
        self.name = os.ttyname(slave)

        self.process = subprocess.Popen(
            argv,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={"PATH": os.defpath, "PS1": "$ ", "TERM": "xterm"},
            start_new_session=True,
            preexec_fn=partial(take_terminal, self.name),  # noqa: PLW1509 (two system calls, no lock)
        )
        os.close(slave)
        self.pid = self.process.pid

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


async def until(condition: str, terminal: Terminal) -> foreground.Foreground:
    with trio.fail_after(15):
        while True:
            try:
                found = await look_at_foreground(terminal.pid, terminal.name)
                if eval(condition, {"found": found, "Program": Program}):
                    return found
            except OSError:
                pass  # it has not begun
            await trio.sleep(0.02)


@pytest.mark.parametrize("by_ps", [False, True], ids=["proc", "ps"])
async def test_the_foreground_is_the_kernels_word(by_ps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if by_ps:
        monkeypatch.setattr(foreground.sys, "platform", "another")
    terminal = Terminal(["bash", "--norc", "--noprofile"])
    try:
        found = await until("found.program is Program.SHELL and not found.by_line", terminal)
        assert found.name == "bash" and not found.echoes
        os.write(terminal.master, b"read -rs x\n")
        # For a moment it gathers lines and shows them: bash gives the terminal back before `read` takes it.
        await until("found.by_line and found.reads_password", terminal)
        os.write(terminal.master, b"x\ncat\n")
        assert (await until("found.name == 'cat'", terminal)).program is Program.OTHER
    finally:
        terminal.close()


@pytest.mark.skipif(sys.platform != "linux", reason="the number of a terminal is in /proc")
async def test_another_terminal_than_the_process_has_is_refused() -> None:
    one, other = Terminal(["cat"]), Terminal(["cat"])
    try:
        await until("found.name == 'cat'", one)
        with pytest.raises(OSError, match="not the terminal"):
            await look_at_foreground(one.pid, other.name)
        with pytest.raises(OSError):
            await look_at_foreground(one.pid, "/dev/null")
    finally:
        one.close()
        other.close()
