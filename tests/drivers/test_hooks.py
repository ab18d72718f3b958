"""What an exec hook may be, and what it is given. That it is run so: tests/e2e/test_hooks.py."""

import os
from pathlib import Path

import pytest

from meshd.drivers.command import plain_environment
from meshd.drivers.hooks import Hook, find_hook, run_hook, typed_handle
from meshd.errors import RefusedError
from tests.hooks import ENV, HANDLE, script


@pytest.mark.parametrize(
    "handle",
    [
        *("", "h&l_messages_0123456789AB", "h&l_messages_0123456789a", "h&l_blob_0123456789ab", f"{HANDLE}\n"),
        *(f"{HANDLE}; reboot", f"x{HANDLE}", "h&l_messages_" + "0" * 64, "hl_messages_01234567\x1b[2J"),
    ],
)
async def test_what_is_no_handle_of_a_message_is_refused(handle: str) -> None:
    with pytest.raises(RefusedError):
        typed_handle(handle)
    with pytest.raises(RefusedError):
        await run_hook(Hook("/bin/true", ("true",)), "codex", handle)


def test_a_hook_survives_the_database_and_nothing_else_does(tmp_path: Path) -> None:
    hook = script(tmp_path, "exit 0")
    assert Hook.from_json(hook.to_json()) == hook
    for found in (
        None,
        [],
        {},
        {"program": "true", "argv": ["true"]},
        {"program": "/bin/true", "argv": [1]},
        {"program": "/bin/true", "argv": []},
        {"program": "/bin/true", "argv": ["a\0b"]},
    ):
        with pytest.raises(RefusedError):
            Hook.from_json(found)


def test_a_program_is_found_when_it_is_set(tmp_path: Path) -> None:
    assert find_hook(["sh", "-c", "true"]).program.startswith("/")
    with pytest.raises(RefusedError, match="whole path"):
        find_hook(["bin/sh"])
    with pytest.raises(RefusedError, match="No program"):
        find_hook(["sh"], path=str(tmp_path))
    (tmp_path / "plain").write_text("no program")
    with pytest.raises(RefusedError, match="No program"):
        find_hook([str(tmp_path / "plain")])


def test_the_environment_of_others_is_ours_without_secrets() -> None:
    assert plain_environment(ENV) == {"PATH": os.defpath, "HOME": "/home/me"}
