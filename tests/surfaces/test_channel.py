"""`tether-channel` in a process of its own, with a scripted client, over a daemon that answers as told."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from meshd.errors import TimedOutError
from meshd.surfaces import channel
from meshd.tools.agent_tools import NEWS
from meshd.tools.context import AgentRef, Waited
from tests.surfaces.kit import WITHIN, FakeContext, serving
from tests.surfaces.mcp_kit import BODY, DESK, MAIL, a_line

OTHER = "h&l_messages_ba9876543210"


class Client:
    """Writes lines, and reads them."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._buffer = b""

    async def write(self, line: bytes) -> None:
        assert self.process.stdin
        await self.process.stdin.send_all(line + b"\n")

    async def say(self, method: str, number: Any = None, **params: Any) -> None:
        given = {} if number is None else {"id": number}
        await self.write(json.dumps({"jsonrpc": "2.0", "method": method, "params": params, **given}).encode())

    async def heard(self) -> Any:
        assert self.process.stdout
        while b"\n" not in self._buffer:
            more = await self.process.stdout.receive_some()
            assert more, "it ended"
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    async def greet(self) -> Any:
        await self.say("initialize", 1, protocolVersion="2025-11-25", capabilities={}, clientInfo={})
        greeting = await self.heard()
        await self.say("notifications/initialized")
        return greeting["result"]


@contextlib.asynccontextmanager
async def started(state: Path, *options: str, **environment: str) -> AsyncIterator[Client]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TETHER_")}
    with trio.fail_after(WITHIN):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "meshd.surfaces.channel", "--state", str(state), *options],
            env={**kept, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            yield Client(process)
            assert process.stdin
            await process.stdin.aclose()
            assert await process.wait() == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


def waited(*handles: str, cursor: str) -> Waited:
    lines = tuple(a_line(handle=each, subject=f"SECRET {BODY}") for each in handles)
    return Waited(AgentRef("codex", DESK, True), len(lines), lines, cursor)


def news(handle: str) -> Any:
    params = {"content": f"{NEWS} {handle}", "meta": {"handle": handle}}
    return {"jsonrpc": "2.0", "method": "notifications/claude/channel", "params": params}


async def test_one_sentence_and_a_handle_for_each_batch(tmp_path: Path) -> None:
    context = FakeContext()
    batches = [waited(MAIL, OTHER, cursor="1"), waited(OTHER, cursor="2")]
    over = trio.Event()

    async def wait(**_: Any) -> Any:
        if batches:
            return batches.pop(0)
        over.set()
        await trio.sleep_forever()

    context.answers["wait"] = wait
    async with serving(context, tmp_path), started(tmp_path, "--agent", "codex") as client:
        await client.say("initialize", 1, protocolVersion="2025-11-25")
        await client.heard()
        await client.say("ping", 2)
        assert await client.heard() == {"jsonrpc": "2.0", "id": 2, "result": {}}
        assert not context.asked  # nothing is told before the client is ready
        await client.say("notifications/initialized")
        assert await client.heard() == news(MAIL)
        assert await client.heard() == news(OTHER)
        await over.wait()
        asked = [arguments for name, arguments in context.asked if name == "wait"]
        assert [each["after"] for each in asked] == [None, "1", "2"] and {each["agent"] for each in asked} == {"codex"}
        # Not bound: `tether-mcp` is the agent, and this only looks.
        assert not [name for name, _ in context.asked if name != "wait"]


async def test_it_speaks_the_handshake_only(tmp_path: Path) -> None:
    async with started(tmp_path, TETHER_AGENT_ID="codex") as client:
        await client.say("server/discover", 1)
        assert (await client.heard())["error"]["code"] == -32601
        for asked, told in (("2026-07-28", "2025-11-25"), ("2025-06-18", "2025-06-18"), (7, "2025-11-25")):
            await client.say("initialize", "x", protocolVersion=asked)
            greeting = await client.heard()
            assert greeting["id"] == "x" and greeting["result"]["protocolVersion"] == told
            assert greeting["result"]["capabilities"] == {"experimental": {"claude/channel": {}}}
        await client.say("tools/list", 3)
        assert (await client.heard())["error"]["code"] == -32601


async def test_nonsense_is_answered_and_gone_on_from(tmp_path: Path) -> None:
    async with started(tmp_path, "--agent", "codex") as client:
        for line, code in (
            (b"nonsense", -32700),
            (b"[" * 100_000, -32700),
            (b"x" * (channel.LINE_LIMIT + 1), -32700),
            (b"[1]", -32600),
            (b'{"id":1}', -32600),
            (b'{"id":{},"method":"ping"}', -32600),
            (b"\xff\xfe", -32700),
        ):
            await client.write(line)
            answer = await client.heard()
            assert answer["error"]["code"] == code and answer["id"] is None
        await client.write(b'{"jsonrpc":"2.0","id":1,"result":{}}')
        await client.say("ping", 2)
        assert (await client.heard())["id"] == 2


async def test_a_daemon_that_is_not_there_is_looked_for_again(tmp_path: Path) -> None:
    context = FakeContext()
    told = [waited(MAIL, cursor="1")]

    async def wait(**_: Any) -> Any:
        if told:
            return told.pop()
        await trio.sleep_forever()

    context.answers["wait"] = wait
    async with started(tmp_path, "--agent", "codex") as client:
        await client.greet()
        assert client.process.stderr
        assert b"No daemon runs" in await client.process.stderr.receive_some()
        async with serving(context, tmp_path):
            assert await client.heard() == news(MAIL)


async def test_a_daemon_that_does_not_wait_is_not_asked_without_pause(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    class Session:
        async def call(self, *_: Any, **__: Any) -> Any:
            asked.append(trio.current_time())
            raise TimedOutError("over")

    monkeypatch.setattr(channel, "said", lambda line: None)
    made = channel.Channel("codex")
    made._ready.set()
    session: Any = Session()
    with trio.move_on_after(100):
        await made._tell(session)
    assert 4 < len(asked) < 10


@pytest.mark.parametrize("options", [(), ("--agent", "co dex")])
def test_it_must_know_whose_mail(tmp_path: Path, options: tuple[str, ...]) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TETHER_")}
    command = [sys.executable, "-m", "meshd.surfaces.channel", *options]
    done = subprocess.run(command, env=kept, capture_output=True, text=True, timeout=WITHIN)
    assert done.returncode == 2 and not done.stdout and ("TETHER_AGENT_ID" in done.stderr or "name" in done.stderr)
