"""What docs/protocol/control.md and docs/tether.md say is what the code does."""

import re
from pathlib import Path

import pytest
import trio

from meshd.client.lines import ANSWER_WITHIN, LINE_LIMIT
from meshd.surfaces import control
from meshd.tools.registry import BY_NAME
from tests.surfaces.kit import FakeContext, serving

DOCS = Path(__file__).parents[2] / "docs"
CONTROL = (DOCS / "protocol" / "control.md").read_text(encoding="utf-8")
MANUAL = (DOCS / "tether.md").read_text(encoding="utf-8")


def test_the_limits() -> None:
    rows = dict(re.findall(r"^\| ([a-z ,]+) \| ([^|]+) \|", CONTROL.partition("## Limits")[2], re.MULTILINE))
    rows.pop("limit")
    assert rows == {
        "connections": f"{control.CONNECTIONS_LIMIT}",
        "calls under way on a connection": f"{control.CALLS_LIMIT}",
        "a line": f"{LINE_LIMIT >> 20} MiB",
        "told and not yet read, a call": f"{control.TOLD_LIMIT}",
    }
    assert f"{ANSWER_WITHIN:g} seconds of silence" in CONTROL


def test_the_codes() -> None:
    for code in (control.PARSE_ERROR, control.INVALID_REQUEST, control.UNKNOWN_METHOD, control.INTERNAL_ERROR):
        assert str(code) in CONTROL


def test_the_operations_that_are_named_exist() -> None:
    for name in re.findall(r'"method":"(\w+)"', CONTROL):
        assert name in ("told", "cancel") or name in BY_NAME


async def test_the_program_in_the_manual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TETHER_STATE", str(tmp_path))
    program = MANUAL.partition("```python\n")[2].partition("```")[0]
    context = FakeContext()
    async with serving(context, tmp_path):
        await trio.to_thread.run_sync(exec, program, {})
    assert [name for name, _ in context.asked] == ["collapse", "metadata"]
