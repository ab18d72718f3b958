"""What docs/mcp.md says of the tools is what they are."""

import re
from pathlib import Path
from typing import Any

import pytest

from meshd.surfaces.stdin_lines import LINE_LIMIT
from meshd.tools import agent_tool, agent_tools
from meshd.tools.agent_content import BLOB_LIMIT, VALUE_LIMIT
from meshd.tools.agent_mail import WAIT_LIMIT, WAIT_SECONDS

PAGE = (Path(__file__).parents[2] / "docs" / "mcp.md").read_text(encoding="utf-8")
ROWS = {
    name: (given, told) for name, given, told in re.findall(r"^\| `(tether_\w+)` \| (.*?) ?\| (.*) \|$", PAGE, re.M)
}
TOOLS = agent_tools.chosen("all")


def fields(schema: Any) -> set[str]:
    """All names in a schema of a result."""
    found = set()
    for name, inner in (schema or {}).get("properties", {}).items():
        found |= {name} | fields(inner)
    return found | (fields(schema["items"]) if schema and "items" in schema else set())


@pytest.mark.parametrize("tool", TOOLS, ids=lambda each: each.name)
def test_each_tool_has_its_row(tool: agent_tool.Tool) -> None:
    given, told = ROWS[tool.name]
    assert set(re.findall(r"`(\w+)`\*", given)) == {each.name for each in tool.arguments if each.required}
    assert {each.name for each in tool.arguments} <= set(re.findall(r"`(\w+)`", given))
    if tool.name not in ("tether_thread_send", "tether_thread_inbox", "tether_register"):  # as others, they say
        assert fields(tool.output) <= set(re.findall(r"`(\w+)`", told)) | {"text", "data_notice"}


def test_no_row_is_of_a_tool_that_there_is_not() -> None:
    assert list(ROWS) == [each.name for each in TOOLS]


def test_the_names_of_errors_and_the_numbers() -> None:
    for name in (
        agent_tool.HANDLE_INVALID,
        agent_tool.HANDLE_UNRESOLVED,
        agent_tool.HANDLE_EXPIRED,
        agent_tool.ACCESS_DENIED,
        agent_tool.NO_DAEMON,
        agent_tool.VALUE_ERROR,
        agent_tool.INTERNAL_ERROR,
    ):
        assert f"| `{name}` " in PAGE
    assert f"`seconds` ({WAIT_SECONDS}; at most {WAIT_LIMIT})" in PAGE
    assert f"{VALUE_LIMIT >> 20} MiB out, {BLOB_LIMIT >> 20} MiB of bytes" in PAGE
    assert f"A line has at most {LINE_LIMIT >> 20} MiB" in PAGE
    for name in agent_tools.SETS:
        assert f"Set `{name}`:" in PAGE
