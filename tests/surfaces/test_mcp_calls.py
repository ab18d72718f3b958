"""The desk of a session, without MCP: who it is, what it does when the daemon is somebody else's, or gone."""

import os
from pathlib import Path
from typing import Any

import pytest
import trio

from meshd.client import sockets
from meshd.client.session import open_session
from meshd.errors import ConnectionLostError, StoreError
from meshd.surfaces.mcp_calls import Desk
from meshd.tools.agent_tool import Outcome, Tool, ToolError
from meshd.tools.agent_tools import chosen
from tests.surfaces.kit import serving
from tests.surfaces.mcp_kit import BLOB, PLAN, Daemon

TOOLS = {each.name: each for each in chosen("all")}


def tool(name: str) -> Tool:
    return TOOLS[f"tether_{name}"]


async def refused(desk: Desk, name: str, **given: Any) -> ToolError:
    with pytest.raises(ToolError) as caught:
        await desk.carry_out(tool(name), given)
    return caught.value


async def test_a_socket_of_another_user_is_told_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = Daemon()
    async with serving(daemon, tmp_path), open_session(tmp_path) as session:
        uid = os.geteuid()
        monkeypatch.setattr(sockets.os, "geteuid", lambda: uid + 1)
        error = await refused(Desk(session, "codex"), "inbox")
        assert error.name == "E_ACCESS_DENIED" and "served by another user" in error.what and "--state" in error.advice
        assert not daemon.asked


async def test_first_calls_at_once_bind_once(tmp_path: Path) -> None:
    daemon = Daemon()
    outcomes: list[Outcome] = []
    async with serving(daemon, tmp_path), open_session(tmp_path) as session:
        desk = Desk(session)

        async def inbox() -> None:
            outcomes.append(await desk.carry_out(tool("inbox"), {"for_agent": "codex"}))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(inbox)
    assert len(outcomes) == 20 and len(daemon.of("agent_register")) == 1


async def test_a_daemon_that_hangs_up_is_asked_once_more(tmp_path: Path) -> None:
    daemon = Daemon()
    answer, failures = daemon.answers["send"], [ConnectionLostError("It ended."), ConnectionLostError("Again.")]

    async def send(**arguments: Any) -> Any:
        if failures:
            raise failures.pop(0)
        return await answer(**arguments)

    daemon.answers["send"] = send
    given = {"to": "x", "subject": "s", "text": "t"}
    async with serving(daemon, tmp_path), open_session(tmp_path) as session:
        desk = Desk(session, "codex")
        error = await refused(desk, "send", **given)
        assert error.name == "ConnectionLostError" and error.what == "Again."
        failures.append(ConnectionLostError("It ended."))
        assert (await desk.carry_out(tool("send"), given)).value["status"] == "queued"
    keys = [each["key"] for each in daemon.of("send")]
    assert len(keys) == 4 and keys[0] == keys[1] != keys[2] == keys[3]


async def test_the_clients_own_key_is_kept(tmp_path: Path) -> None:
    daemon = Daemon()
    async with serving(daemon, tmp_path), open_session(tmp_path) as session:
        await Desk(session, "codex").carry_out(tool("send"), {"to": "x", "subject": "s", "text": "t", "key": "mine"})
    assert daemon.of("send")[0]["key"] == "mine"


async def test_no_file_is_left_when_something_fails(tmp_path: Path) -> None:
    daemon = Daemon()
    given = {"bytes_b64": "YQ==", "content_type": "text/plain"}
    async with serving(daemon, tmp_path), open_session(tmp_path) as session:
        desk = Desk(session)
        daemon.answers["put"] = StoreError("The disk is full.", "Make room.")
        error = await refused(desk, "collapse_blob", **given)
        assert error.name == "StoreError" and error.advice == "Make room."
        full = daemon.answers["get"]

        async def writes_and_fails(**arguments: Any) -> Any:
            await full(**arguments)
            raise StoreError("It broke.")

        daemon.answers["get"] = writes_and_fails
        assert (await refused(desk, "resolve_blob", handle=BLOB)).name == "StoreError"

        async def writes_nothing(**_: Any) -> Any:
            from tests.tools.samples import result_class, sample

            return sample(result_class("Got"))

        daemon.answers["get"] = writes_nothing
        assert "cannot be read" in (await refused(desk, "resolve_blob", handle=BLOB)).what
        assert not [*(tmp_path / "incoming").iterdir(), *(tmp_path / "outgoing").iterdir()]
        (tmp_path / "incoming").rmdir()
        error = await refused(desk, "collapse_blob", **given)
        assert error.name == "StoreError" and "What was given cannot be kept" in error.what


async def test_what_the_daemon_says_is_long_is_long(tmp_path: Path) -> None:
    """It may say one size and write another."""
    daemon = Daemon()

    async def writes_much(*, out: str, **_: Any) -> Any:
        await trio.Path(out).write_bytes(bytes((8 << 20) + 1))

    daemon.answers["get"] = writes_much
    async with serving(daemon, tmp_path), open_session(tmp_path) as session:
        assert (await refused(Desk(session), "resolve_blob", handle=BLOB)).name == "RefusedError"
    assert not [*(tmp_path / "outgoing").iterdir()]


async def test_no_agent_is_needed_for_what_is_nobodys(tmp_path: Path) -> None:
    daemon = Daemon()
    async with serving(daemon, tmp_path), open_session(tmp_path) as session:
        desk = Desk(session, "codex")
        await desk.carry_out(tool("resolve"), {"handle": PLAN})
        assert not daemon.of("agent_register")
        await desk.carry_out(tool("resolve"), {"handle": PLAN, "for_agent": "codex"})
        assert daemon.of("agent_register")
        error = await refused(desk, "resolve", handle=PLAN, for_agent="eve")
        assert error.name == "E_ACCESS_DENIED"
