"""A real tmux server, a real shell: one fixed line, once, and nothing where anything else stands."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio

from meshd.drivers import tmux as driver
from meshd.drivers.clocks import Clocks
from meshd.drivers.storage import open_storage
from meshd.drivers.tmux import Pane, look_at_pane, register_pane, tell_pane
from meshd.errors import RefusedError
from meshd.node.waking import Waking
from meshd.protocol.nudging import Outcome
from tests.e2e.tmux_kit import Tmux, needs_tmux, tmux_server
from tests.node.waking_kit import FakeMail

pytestmark = needs_tmux

HANDLE = "h&l_messages_0123456789ab"
LINE = "# [mesh] receive hl_messages_0123456789ab"
HOSTILE = '"; rm -rf ~ #'


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Tmux]:
    with tmux_server(tmp_path) as server:
        yield server


async def refused(tmux: Tmux, pane: Pane, why: str) -> None:
    """A tell types nothing and says why; what stands there stays."""
    before, entered = tmux.screen(pane.pane), tmux.entered()
    outcome = await tell_pane(pane, HANDLE)
    assert not outcome.told and why in outcome.what, outcome
    assert "receive" not in tmux.screen(pane.pane) and tmux.entered() == entered
    assert tmux.screen(pane.pane) == before


async def test_within_two_seconds_the_line_is_there_once_and_entered(tmux: Tmux) -> None:
    pane = await register_pane(*tmux.environment)
    assert pane == tmux.as_registered() and Pane.from_json(pane.to_json()) == pane
    before = tmux.entered()
    began = time.monotonic()
    assert await tell_pane(pane, HANDLE) == Outcome(True, "typed")
    assert time.monotonic() - began < 2
    tmux.until(lambda: LINE in tmux.entered(), "the line as a command")
    assert tmux.screen().splitlines() == [f"tester:work$ {LINE}", "tester:work$"]
    assert tmux.entered().count(LINE) == 1 and set(tmux.entered()) == {*before, LINE}


async def test_a_half_typed_command_is_left_alone_and_the_line_comes_when_it_is_gone(tmux: Tmux) -> None:
    pane = tmux.as_registered()
    tmux.keys("rm -rf build")
    tmux.shows("rm -rf build")
    await refused(tmux, pane, "a draft stands there")
    tmux.run("send-keys", "-t", tmux.pane, "C-a")  # the cursor at its beginning
    tmux.until(lambda: tmux.ask("#{cursor_x}") == "13", "cursor at the beginning")
    await refused(tmux, pane, "right of the cursor")
    tmux.run("send-keys", "-t", tmux.pane, "C-k")
    tmux.until(lambda: tmux.screen() == "tester:work$", "empty prompt")
    assert (await tell_pane(pane, HANDLE)).told
    assert not [line for line in tmux.entered() if "rm" in line]


async def test_an_unfinished_command_of_several_lines_is_left_alone(tmux: Tmux) -> None:
    tmux.keys("for each in a b", enter=True)
    tmux.shows("\n>")
    await refused(tmux, tmux.as_registered(), "not finished")


async def test_who_types_between_the_looks_is_left_alone(tmux: Tmux) -> None:
    pane = tmux.as_registered()

    async def type_soon() -> None:
        await trio.sleep(0.15)
        tmux.keys("g")

    outcomes = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(type_soon)
        outcomes.append(await tell_pane(pane, HANDLE))
    assert not outcomes[0].told and tmux.screen() == "tester:work$ g"


async def test_a_key_between_look_and_line_stops_it_in_tmux_itself(tmux: Tmux) -> None:
    """The last moment: `is_wanted` is asked after both looks."""
    pane = tmux.as_registered()

    def type_now() -> bool:
        tmux.keys("g")
        tmux.shows("$ g")
        return True

    outcome = await tell_pane(pane, HANDLE, is_wanted=type_now)
    assert outcome == Outcome(False, "the pane changed before a key was pressed")
    assert tmux.screen() == "tester:work$ g"


async def test_a_key_behind_the_line_keeps_enter_from_being_pressed(
    tmux: Tmux, monkeypatch: pytest.MonkeyPatch
) -> None:
    pane = tmux.as_registered()
    monkeypatch.setattr(driver, "BEFORE_ENTER", 1.0)

    async def type_soon() -> None:
        while LINE not in tmux.screen():
            await trio.sleep(0.05)
        tmux.keys("; ls")

    outcomes = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(type_soon)
        outcomes.append(await tell_pane(pane, HANDLE))
    assert "Enter was not pressed" in outcomes[0].what and not outcomes[0].told
    assert tmux.screen() == f"tester:work$ {LINE}; ls"
    await_second = await tell_pane(pane, HANDLE)
    assert not await_second.told and tmux.screen() == f"tester:work$ {LINE}; ls", "and it is not typed again"


async def test_another_pane_or_server_than_was_registered_is_refused(tmux: Tmux) -> None:
    pane = tmux.as_registered()
    await refused(tmux, attrs.evolve(pane, server=pane.server + 1), "another tmux server")
    await refused(tmux, attrs.evolve(pane, process=pane.process + 1), "another pane")
    outcome = await tell_pane(attrs.evolve(pane, pane="%77"), HANDLE)
    assert not outcome.told
    tmux.run("respawn-pane", "-k", "-t", tmux.pane, "bash --norc")
    tmux.until(lambda: tmux.ask("#{pane_pid}") != str(pane.process), "another first process")
    outcome = await tell_pane(pane, HANDLE)
    assert not outcome.told and "another pane" in outcome.what
    assert "receive" not in tmux.screen()


async def test_a_pane_and_a_server_that_are_gone_are_no_fault_of_ours(tmux: Tmux) -> None:
    tmux.run("split-window", "-d", "cat")
    pane = attrs.evolve(tmux.as_registered(), pane="%1", process=int(tmux.ask("#{pane_pid}", "%1")))
    tmux.run("kill-pane", "-t", "%1")
    assert not (await tell_pane(pane, HANDLE)).told
    tmux.run("kill-server")
    assert not (await tell_pane(pane, HANDLE)).told
    with pytest.raises(RefusedError):
        await register_pane(f"{tmux.socket},1,0", "%0")


async def test_a_mode_of_tmux_and_panes_that_share_their_input_are_left_alone(tmux: Tmux) -> None:
    pane = tmux.as_registered()
    tmux.run("copy-mode", "-t", tmux.pane)
    await refused(tmux, pane, "in a mode")
    tmux.run("send-keys", "-t", tmux.pane, "-X", "cancel")
    tmux.run("split-window", "-d", "cat")
    tmux.run("set-option", "-w", "-t", tmux.pane, "synchronize-panes", "on")
    await refused(tmux, pane, "goes to other panes")
    tmux.run("set-option", "-w", "-t", tmux.pane, "synchronize-panes", "off")
    tmux.run("select-pane", "-d", "-t", tmux.pane)
    await refused(tmux, pane, "switched off")
    tmux.run("select-pane", "-e", "-t", tmux.pane)
    assert (await tell_pane(pane, HANDLE)).told


@pytest.mark.parametrize(
    ("command", "shows", "why"),
    [
        ("read -p 'tester:work$ ' x", "tester:work$", "not at its prompt"),
        ("read -sp 'Password: ' x", "Password:", "a password"),
        ("read -rsn1 -p 'key: ' x", "key:", "no prompt that is known"),
        ("bash -c 'read -p \"tester:work$ \" x'", "tester:work$", "foreground"),
        ("python3 -q", ">>>", "python3 is in its foreground"),
        ("less /etc/passwd", "root:", "less is in its foreground"),
        ("vim -u NONE", "~", "vim"),
        ("sleep 60", "", "sleep is in its foreground"),
        ("cat", "", "cat is in its foreground"),
    ],
)
async def test_what_is_no_prompt_is_left_alone(tmux: Tmux, command: str, shows: str, why: str) -> None:
    if subprocess.run(["bash", "-c", f"type {command.split()[0]}"], capture_output=True).returncode:
        pytest.skip(f"{command.split()[0]} is not installed")
    pane = tmux.as_registered()
    tmux.run("send-keys", "-t", tmux.pane, "-l", "clear")
    tmux.run("send-keys", "-t", tmux.pane, "Enter")
    tmux.until(lambda: tmux.screen() == "tester:work$", "cleared screen")
    tmux.keys(command, enter=True)
    tmux.until(lambda: shows in tmux.screen().replace(command, ""), f"start of {command}")
    await trio.sleep(0.3)
    await refused(tmux, pane, why)


@pytest.mark.parametrize(
    "handle", [HOSTILE, f"{HANDLE}\n", f"{HANDLE}'; kill-server; '", "\x1b]0;x\x07", "h&l_blob_0123456789ab"]
)
async def test_what_is_no_handle_never_reaches_the_pane(tmux: Tmux, handle: str) -> None:
    with pytest.raises(RefusedError):
        await tell_pane(tmux.as_registered(), handle)
    assert tmux.screen() == "tester:work$"


async def test_a_pane_too_narrow_for_the_line_is_left_alone(tmux: Tmux) -> None:
    tmux.run("resize-window", "-t", tmux.pane, "-x", "40", "-y", "10")
    tmux.until(lambda: tmux.ask("#{pane_width}") == "40", "narrow pane")
    await trio.sleep(0.2)  # the shell draws its prompt anew
    await refused(tmux, tmux.as_registered(), "too narrow")


async def test_a_look_types_nothing(tmux: Tmux) -> None:
    pane = tmux.as_registered()
    assert (await look_at_pane(pane)).told
    tmux.keys("ls")
    tmux.shows("$ ls")
    assert await look_at_pane(pane) == Outcome(False, "a draft stands there")
    assert tmux.screen() == "tester:work$ ls"


async def test_what_is_no_pane_of_this_user_is_not_registered(tmux: Tmux, tmp_path: Path) -> None:
    name, pane = tmux.environment
    socket, server, session = name.split(",")
    plain = tmp_path / "file"
    plain.touch()
    for given, which in (
        (None, pane),
        (name, None),
        (f"{socket},{int(server) + 1},{session}", pane),
        (name, "%77"),
        (name, f"{pane}; kill-server"),
        (name, "0"),
        (f"{plain},{server},0", pane),
        (f"{tmp_path / 'none'},{server},0", pane),
    ):
        with pytest.raises(RefusedError):
            await register_pane(given, which)
    assert await register_pane(socket, pane) == await register_pane(name, pane)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
async def test_another_users_socket_is_refused(tmux: Tmux) -> None:
    name, pane = tmux.environment
    os.chown(tmux.socket, 12345, -1)
    with pytest.raises(RefusedError, match="no tmux server of this user"):
        await register_pane(name, pane)
    assert (await tell_pane(tmux.as_registered(), HANDLE)).what == "that is no tmux server of this user"


COMPOSER = r"""
import os, sys, termios, tty
old = termios.tcgetattr(0)
tty.setraw(0)
text, entered = "", []
def draw():
    out = "\x1b[2J\x1b[H\x1b[?25l"
    out += "".join(f"> {each}\r\n" for each in entered) + "\r\n" + "\u2500" * 90 + "\r\n\u276f\u00a0"
    out += text + "\x1b[7m \x1b[27m" if text else "\x1b[7mT\x1b[27m\x1b[2mry \"fix lint errors\"\x1b[22m"
    out += "\r\n" + "\u2500" * 90 + "\r\n  ? for shortcuts"
    os.write(1, out.encode())
draw()
while True:
    data = os.read(0, 4096).decode()
    if data == "\r":
        entered.append(text)
        text = ""
    elif "\x04" in data:
        break
    else:
        text += data.replace("\r", "<break>")  # Enter together with text is a paste
    draw()
termios.tcsetattr(0, termios.TCSANOW, old)
"""


async def test_a_composer_like_claude_codes_is_typed_into_and_a_draft_in_it_is_not(tmux: Tmux, tmp_path: Path) -> None:
    program = tmp_path / "claude"
    program.write_text(f"#!{sys.executable}\n{COMPOSER}")
    program.chmod(0o700)
    pane = tmux.as_registered()
    tmux.keys(str(program), enter=True)
    tmux.shows("? for shortcuts")
    assert await tell_pane(pane, HANDLE) == Outcome(True, "typed")
    tmux.shows(f"> {LINE}\n")
    tmux.keys("fix the")
    tmux.shows("fix the")
    await refused_draft(tmux, pane)


async def refused_draft(tmux: Tmux, pane: Pane) -> None:
    before = tmux.screen()
    assert await tell_pane(pane, HANDLE) == Outcome(False, "a draft stands there")
    assert tmux.screen() == before


async def test_unread_mail_is_typed_once_in_two_seconds_and_not_while_paused(tmux: Tmux, tmp_path: Path) -> None:
    """The whole way from the mailroom's word to the shell."""
    mail, letter = FakeMail(), bytes.fromhex("0123456789ab") + bytes(26)
    async with open_storage(tmp_path / "mesh.db") as storage, trio.open_nursery() as nursery:
        waking = Waking(mail, storage, Clocks.of_system())
        nursery.start_soon(waking.run)
        await waking.set_way("codex", await register_pane(*tmux.environment))
        await waking.pause("codex", True)
        mail.arrive("codex", letter)
        await trio.sleep(1.5)
        assert tmux.screen() == "tester:work$" and (await waking.standing("codex")).unread == 1
        began = time.monotonic()
        await waking.pause("codex", False)
        while LINE not in tmux.entered():
            assert time.monotonic() < began + 2, tmux.screen()
            await trio.sleep(0.02)
        while not mail.noted:
            await trio.sleep(0.02)
        mail.arrive("codex", b"2" * 32)
        await trio.sleep(1.5)
        assert tmux.entered().count(LINE) == 1 and tmux.screen().count("receive") == 1
        assert mail.noted == [("codex", (letter,))]
        assert (await waking.standing("codex")).last == "typed"
        nursery.cancel_scope.cancel()
