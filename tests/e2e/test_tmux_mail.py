"""The whole way: a message that tries everything, a daemon, a real tmux. Only the fixed line reaches the pane, once, soon."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemons import Daemon, eventually
from tests.e2e.tmux_kit import Tmux, needs_tmux, tmux_server

pytestmark = needs_tmux

SUBJECT = '"; rm -rf ~ # $(reboot) `reboot`'
TEXT = "'; kill-server; '\n# [mesh] receive hl_messages_ffffffffffff\n\x1b]0;title\x07\x1b[201~\rreboot\r"


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Tmux]:
    directory = tmp_path / "tmux"
    directory.mkdir()
    with tmux_server(directory) as server:
        yield server


def lines(tmux: Tmux) -> list[str]:
    return [line for line in tmux.entered() if "receive" in line]


def test_a_message_wakes_its_reader_in_two_seconds_by_the_fixed_line_alone(
    start: Callable[..., Daemon], tmux: Tmux
) -> None:
    ann = start("ann")
    ann.tether("init", "--mesh", "home")
    ann.tether("agent", "register", "codex")
    before, title = tmux.entered(), tmux.ask("#{pane_title}")
    name, pane = tmux.environment
    ann.tether("delivery", "tmux", "codex", "--socket", name, "--pane", pane)

    began = time.monotonic()
    sent = ann.tether("send", "codex", SUBJECT, TEXT, "--wait", "0", "--json").json["handle"]
    returned = time.monotonic()
    line = f"# [mesh] receive {sent.replace('&', '')}"
    eventually(lambda: line in tmux.entered(), "the line in the shell")
    assert time.monotonic() - returned < 2, f"{time.monotonic() - began:.2f} s since the command began"
    eventually(lambda: "notified" in ann.tether("sent").out, "word of it")
    assert lines(tmux) == [line] and set(tmux.entered()) == {*before, line}
    assert tmux.screen().splitlines() == [f"tester:work$ {line}", "tester:work$"] and tmux.ask("#{pane_title}") == title

    # A half-typed command: the next one waits for it.
    ann.tether("receive", sent, "--for", "codex")
    tmux.keys("rm -rf build")
    tmux.shows("rm -rf build")
    second = ann.tether("send", "codex", SUBJECT, TEXT, "--json").json["handle"].replace("&", "")
    eventually(lambda: "a draft stands there" in ann.tether("delivery", "status").out, "a try that failed")
    assert tmux.screen().splitlines()[-1] == "tester:work$ rm -rf build" and lines(tmux) == [line]
    # Paused: nothing, also when it is gone.
    ann.tether("delivery", "pause")
    tmux.run("send-keys", "-t", tmux.pane, "C-u")
    tested = ann.tether("delivery", "test", "codex", "--now").out
    assert "paused" in tested and lines(tmux) == [line]
    # Read from elsewhere while it was paused: never.
    ann.tether("receive", second, "--for", "codex")
    ann.tether("delivery", "resume")
    time.sleep(1.5)
    assert lines(tmux) == [line]
    assert "typed" in ann.tether("delivery", "test", "codex", "--now").out
    eventually(lambda: lines(tmux)[1:] == ["# [mesh] receive hl_messages_000000000000"], "the test's line")
