"""MCP's own inspector, which is of others' making and another language, lists and calls the tools in its CLI mode."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.npm_kit import module
from tests.surfaces.kit import serving
from tests.surfaces.mcp_kit import BLOB, BODY, MAIL, PLAN, Daemon, parameters

WITHIN = 60.0


class Inspector:
    """One run of it for each question: it starts `tether-mcp`, asks, and ends."""

    def __init__(self, state: Path) -> None:
        package = module("@modelcontextprotocol/inspector")
        started = parameters(state)
        binary = json.loads((package / "package.json").read_text())["bin"]["mcp-inspector"]
        self._command = [
            "node",
            str(package / binary),
            "--cli",
            "-e",
            "TETHER_AGENT_ID=codex",
            started.command,
            *started.args,
        ]
        self._environment = started.env

    async def ask(self, *arguments: str) -> Any:
        run = trio.run_process(
            [*self._command, *arguments], env=self._environment, capture_stdout=True, capture_stderr=True, check=False
        )
        with trio.fail_after(WITHIN):
            done: subprocess.CompletedProcess[bytes] = await run
        assert done.stdout, done.stderr.decode()
        return json.loads(done.stdout)

    async def call(self, tool: str, **arguments: str) -> Any:
        given = [each for name, value in arguments.items() for each in ("--tool-arg", f"{name}={value}")]
        return await self.ask("--method", "tools/call", "--tool-name", tool, *given)


@pytest.fixture
def inspector(tmp_path: Path) -> Inspector:
    return Inspector(tmp_path)


async def test_it_lists_the_tools_and_sends_and_receives(inspector: Inspector, tmp_path: Path) -> None:
    daemon = Daemon()
    async with serving(daemon, tmp_path):
        listed = (await inspector.ask("--method", "tools/list"))["tools"]
        assert len(listed) == 11 and listed[0]["name"] == "tether_send" and listed[0]["annotations"]["openWorldHint"]
        sent = await inspector.call("tether_send", to="ann@tower", subject="s", text="t")
        assert sent["structuredContent"]["status"] == "queued" and daemon.of("send")[0]["text"] == "t"
        received = await inspector.call("tether_receive", handle=MAIL)
        assert received["content"][1]["text"] == BODY and received["structuredContent"]["handle"] == MAIL
        wrong = await inspector.call("tether_resolve_tree", handle=BLOB)
        assert wrong["isError"] and json.loads(wrong["content"][0]["text"])["error"] == "E_HANDLE_INVALID"


async def test_it_calls_the_others_about_mail(inspector: Inspector, tmp_path: Path) -> None:
    daemon = Daemon()
    async with serving(daemon, tmp_path):
        assert (await inspector.call("tether_inbox"))["structuredContent"]["count"] == 1
        assert (await inspector.call("tether_close", handle=MAIL))["structuredContent"]["new_status"] == "completed"
        assert (await inspector.call("tether_wait", seconds="1"))["structuredContent"]["next"] == "cursor"
        assert daemon.of("wait")[0]["seconds"] == 1.0


async def test_it_calls_those_about_content(inspector: Inspector, tmp_path: Path) -> None:
    daemon = Daemon()
    async with serving(daemon, tmp_path):
        await inspector.call("tether_collapse", table="plans", data='{"a":1}')
        assert json.loads(daemon.of("collapse")[0]["json"]) == {"a": 1}
        assert (await inspector.call("tether_resolve", handle=PLAN))["content"][0]["text"] == '[1,{"a":null}]'
        await inspector.call("tether_collapse_blob", bytes_b64="YQ==", content_type="text/plain")
        assert daemon.laid_down == [b"a"]
        found = (await inspector.call("tether_resolve_blob", handle=BLOB))["structuredContent"]
        assert found["content_type"] == "image/png"
        await inspector.call("tether_collapse_tree", handles=json.dumps([BLOB, PLAN]))
        assert daemon.of("tree")[0]["handles"] == (BLOB, PLAN)
