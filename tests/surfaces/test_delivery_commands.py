"""How the commands on wakes reach the daemon: what the environment gives, and words that are another program's."""

from pathlib import Path

import pytest

from tests.surfaces.kit import FakeContext, serving
from tests.surfaces.test_cli import tether


@pytest.fixture
def context() -> FakeContext:
    return FakeContext()


async def test_a_pane_is_taken_from_the_environment(context: FakeContext, tmp_path: Path) -> None:
    async with serving(context, tmp_path):
        inside = {"TMUX": "/tmp/tmux-1000/default,2083,0", "TMUX_PANE": "%7"}
        assert (await tether(tmp_path, "delivery", "tmux", "codex", **inside)).returncode == 0
        assert (await tether(tmp_path, "delivery", "tmux", "codex", TMUX="", TMUX_PANE="")).returncode == 0
    asked = [arguments for name, arguments in context.asked if name == "delivery_tmux"]
    assert asked == [
        {"mesh": None, "agent": "codex", "socket": "/tmp/tmux-1000/default,2083,0", "pane": "%7"},
        {"mesh": None, "agent": "codex", "socket": None, "pane": None},
    ]


@pytest.mark.parametrize(
    "words",
    [
        ("notify-send", "mail"),
        ("notify-send", "--urgency", "low", "-t", "5", "--json", "--mesh", "a b"),
        ("sh", "-c", 'echo "$TETHER_HANDLE" >> log; :'),
        ("program", "--", "--help"),
    ],
)
async def test_a_hooks_words_are_its_own(context: FakeContext, tmp_path: Path, words: tuple[str, ...]) -> None:
    async with serving(context, tmp_path):
        done = await tether(tmp_path, "delivery", "exec", "codex", "--", *words)
        assert done.returncode == 0, done.stderr
    assert context.asked == [("delivery_exec", {"mesh": None, "agent": "codex", "argv": words})]


async def test_a_hook_without_words_is_wrong_usage(context: FakeContext, tmp_path: Path) -> None:
    async with serving(context, tmp_path):
        assert (await tether(tmp_path, "delivery", "exec", "codex")).returncode == 2
        assert (await tether(tmp_path, "delivery", "exec", "codex", "--", "")).returncode == 2
    assert not context.asked


async def test_pause_is_for_all_or_for_one(context: FakeContext, tmp_path: Path) -> None:
    async with serving(context, tmp_path):
        for words in (
            ("pause",),
            ("pause", "codex"),
            ("resume",),
            ("status",),
            ("test", "codex", "--now"),
            ("off", "codex"),
        ):
            assert (await tether(tmp_path, "delivery", *words)).returncode == 0
    assert context.asked == [
        ("delivery_pause", {"mesh": None, "agent": None}),
        ("delivery_pause", {"mesh": None, "agent": "codex"}),
        ("delivery_resume", {"mesh": None, "agent": None}),
        ("delivery_status", {"mesh": None, "agent": None}),
        ("delivery_test", {"mesh": None, "agent": "codex", "now": True}),
        ("delivery_off", {"mesh": None, "agent": "codex"}),
    ]
