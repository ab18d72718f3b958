"""What the tools cost in every session of every agent, counted by a tokenizer: the list of tools as it goes over the wire."""

import json
import subprocess
from pathlib import Path

import pytest
import trio

from tests.e2e.npm_kit import module
from tests.surfaces.mcp_kit import client

LIMIT = 2000

COUNT = """
const {{ encode }} = require({module});
const {{ tools, instructions }} = JSON.parse(require("fs").readFileSync(0, "utf8"));
const tokens = (value) => encode(JSON.stringify(value)).length;
console.log(JSON.stringify({{ all: tokens({{ tools }}), instructions: tokens(instructions), each: tools.map(tokens) }}));
"""


def count(tools: list[object], instructions: str) -> dict[str, object]:
    script = COUNT.format(module=json.dumps(str(module("gpt-tokenizer") / "cjs" / "encoding" / "o200k_base")))
    given = json.dumps({"tools": tools, "instructions": instructions})
    done = subprocess.run(["node", "-e", script], input=given, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


async def test_the_default_set_costs_at_most_2000_tokens(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module("gpt-tokenizer")
    async with client(tmp_path) as session:
        listed = await session.list_tools()
        instructions = session.instructions
    tools = [each.model_dump(by_alias=True, exclude_none=True, mode="json") for each in listed.tools]
    found = await trio.to_thread.run_sync(count, tools, instructions)
    with capfd.disabled():
        print(f"\n{len(tools)} tools: {found['all']} tokens (o200k); instructions: {found['instructions']}")
    assert found["all"] <= LIMIT
    assert found["instructions"] <= 60
