"""`tether-mcp` in a process of its own, driven by MCP's public Python client, over a daemon that answers as told."""

import base64
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from meshd.errors import ExpiredError, NobodyFoundError, RefusedError, TimedOutError
from meshd.tools.agent_tool import DATA_NOTICE
from meshd.tools.agent_tools import INSTRUCTIONS, chosen
from meshd.tools.registry import BY_NAME
from tests.surfaces.kit import WITHIN, eventually, serving
from tests.surfaces.mcp_kit import (
    BLOB,
    BODY,
    CONTENT,
    ERAS,
    MAIL,
    PLAN,
    TREE,
    WHEN,
    Daemon,
    client,
    failure,
    parameters,
    texts,
)
from tests.tools.samples import result_class, sample

both_eras = pytest.mark.parametrize("mode", ERAS)


@both_eras
async def test_what_a_client_learns_first(tmp_path: Path, mode: str) -> None:
    async with serving(Daemon(), tmp_path), client(tmp_path, mode=mode) as session:
        assert session.protocol_version == ERAS[mode]
        assert session.instructions == INSTRUCTIONS and session.server_info.name == "tether"
        listed = (await session.list_tools()).tools
        assert [each.name for each in listed] == [each.name for each in chosen("")]
        for tool, declared in zip(listed, chosen(""), strict=True):
            hints = tool.annotations.model_dump(by_alias=True, exclude_none=True)
            assert hints == declared.annotations()
            assert tool.input_schema == declared.input_schema() and tool.output_schema == declared.output


async def test_further_sets_come_in_one_order(tmp_path: Path) -> None:
    async with client(tmp_path, "--tools", "presence,threads") as session:
        names = [each.name for each in (await session.list_tools()).tools]
    assert names == [each.name for each in chosen("threads,presence")]


@both_eras
async def test_the_ten_tools_and_wait(tmp_path: Path, mode: str) -> None:
    """Each of them, with the result field by field. The client checks each against its schema too."""
    daemon = Daemon()
    async with serving(daemon, tmp_path), client(tmp_path, mode=mode) as session:

        async def call(tool: str, **arguments: Any) -> Any:
            result = await session.call_tool(tool, arguments)
            told = texts(result)
            if len(told) == 1 and result.structured_content is not None:
                assert json.loads(told[0]) == result.structured_content
            return result.structured_content

        given = {"to": "ann@tower", "subject": "s", "text": BODY, "from_agent": "codex", "ttl_seconds": 60}
        assert await call("tether_send", **given, ticket_id="T-1", tags=["ci"]) == {
            "handle": MAIL,
            "to": "ann@tower",
            "status": "queued",
            "mechanism": "database",
            "prompt_state": None,
            "submitted": False,
            "confirmed": False,
            "held": False,
            "detail": "codex stored",
            "queued": True,
            "notified": False,
            "delivered": False,
            "subject": "s",
            "ttl_seconds": 60,
        }
        (sent,) = daemon.of("send")
        assert sent["text"] == BODY and sent["ticket"] == "T-1" and sent["tags"] == ("ci",) and sent["ttl"] == 60
        assert sent["session"].agent == "codex" and len(sent["key"]) == 32

        origin = {"machine": "tower", "node": "ABCDEFGH", "verified": True}
        line = {
            "handle": MAIL,
            "from": "ann@tower",
            "subject": "build is red",
            "timestamp": WHEN,
            "preview": BODY[:20],
            "read": False,
            "status": "open",
            "ticket_id": "T-1",
            "origin": origin,
        }
        assert await call("tether_inbox", for_agent="codex") == {
            "for_agent": "codex",
            "count": 1,
            "messages": [line],
            "data_notice": DATA_NOTICE,
        }
        facts = {
            "from": "ann@tower",
            "to": "codex",
            "subject": "build is red",
            "timestamp": WHEN,
            "created_at": WHEN,
            "status": "read",
            "ticket_id": "T-1",
            "tags": ["ci"],
            "origin": origin,
        }
        result = await session.call_tool("tether_receive", {"handle": MAIL})
        told, body = texts(result)
        assert body == BODY
        assert json.loads(told) == {"handle": MAIL, "message": facts, "data_notice": DATA_NOTICE}
        whole = {"handle": MAIL, "message": {**facts, "text": BODY}, "data_notice": DATA_NOTICE}
        assert result.structured_content == whole
        assert await call("tether_resolve", handle=MAIL) == whole

        closed = {"status": "updated", "handle": MAIL, "ticket_id": None, "new_status": "completed", "updated": 1}
        assert await call("tether_close", handle=MAIL) == closed
        assert await call("tether_wait", seconds=1) == {
            "count": 1,
            "messages": [line],
            "next": "cursor",
            "data_notice": DATA_NOTICE,
        }

        assert await call("tether_collapse", table="plans", data={"b": 1}) == {"handle": PLAN, "table": "plans"}
        assert daemon.of("collapse")[0]["json"] == '{"b":1}'
        result = await session.call_tool("tether_resolve", {"handle": PLAN})
        assert texts(result) == ['[1,{"a":null}]']
        # Structured content of before 2026-07-28 cannot be a list.
        assert result.structured_content == ([1, {"a": None}] if mode == "auto" else None)

        text = base64.b64encode(CONTENT).decode()
        assert await call("tether_collapse_blob", bytes_b64=text, content_type="image/png") == {"handle": BLOB}
        assert daemon.laid_down == [CONTENT]
        assert await call("tether_resolve_blob", handle=BLOB) == {"bytes_b64": text, "content_type": "image/png"}
        assert not [*(tmp_path / "incoming").iterdir(), *(tmp_path / "outgoing").iterdir()]

        assert await call("tether_collapse_tree", handles=[BLOB, PLAN]) == {"handle": TREE}
        daemon.answers["resolve"] = _resolved(json.dumps([BLOB, PLAN]))
        assert await call("tether_resolve_tree", handle=TREE) == {"handles": [BLOB, PLAN]}
    assert [each["name"] for each in daemon.of("agent_register")] == ["codex"]


def _resolved(text: str | None, path: str | None = None) -> Any:
    from meshd.tools.context import Resolved

    return Resolved(TREE, "full", text, path, ())


async def test_a_long_value_comes_through_a_file_that_goes_away(tmp_path: Path) -> None:
    daemon = Daemon()
    path = tmp_path / "outgoing" / "value"
    value = {"x": "y" * 300_000}
    async with serving(daemon, tmp_path), client(tmp_path) as session:
        path.write_text(json.dumps(value))
        daemon.answers["resolve"] = _resolved(None, str(path))
        assert (await session.call_tool("tether_resolve", {"handle": PLAN})).structured_content == value
        assert not path.exists()
        path.write_text(json.dumps("y" * (1 << 20)))
        name, message = failure(await session.call_tool("tether_resolve", {"handle": PLAN}))
        assert name == "RefusedError" and "1,048,576 bytes" in message and "yyy" not in message
        assert not path.exists()


async def test_who_a_session_is_by_its_first_call(tmp_path: Path) -> None:
    daemon = Daemon()
    async with serving(daemon, tmp_path), client(tmp_path) as session:
        for tool, arguments in (
            ("tether_inbox", {}),
            ("tether_receive", {"handle": MAIL}),
            ("tether_close", {"handle": MAIL}),
            ("tether_resolve", {"handle": MAIL}),
            ("tether_wait", {}),
            ("tether_send", {"to": "x", "subject": "s", "text": "t"}),
        ):
            name, message = failure(await session.call_tool(tool, arguments))
            assert name == "ValueError" and "TETHER_AGENT_ID" in message and "from_agent" in message
        assert not daemon.asked
        # What is nobody's in particular needs nobody.
        texts(await session.call_tool("tether_resolve", {"handle": PLAN}))
        assert not daemon.of("agent_register")
        texts(await session.call_tool("tether_inbox", {"for_agent": "codex"}))
        texts(await session.call_tool("tether_inbox", {"for_agent": "Codex"}))
        texts(await session.call_tool("tether_close", {"handle": MAIL}))
        assert [each["name"] for each in daemon.of("agent_register")] == ["codex"]
        asked = len(daemon.asked)
        for tool, claim in (("tether_inbox", "for_agent"), ("tether_send", "from_agent")):
            more = {"to": "x", "subject": "s", "text": "t"} if claim == "from_agent" else {}
            name, message = failure(await session.call_tool(tool, {claim: "eve", **more}))
            assert name == "E_ACCESS_DENIED" and "codex" in message
        assert len(daemon.asked) == asked


async def test_who_a_session_is_by_the_environment(tmp_path: Path) -> None:
    daemon = Daemon()
    async with serving(daemon, tmp_path), client(tmp_path, TETHER_AGENT_ID="codex") as session:
        await session.list_tools()
        assert not daemon.asked
        sent = {"to": "x", "subject": "s", "text": "t", "from_agent": "eve"}
        texts(await session.call_tool("tether_send", sent))
        assert daemon.of("send")[0]["session"].agent == "codex" and daemon.of("send")[0]["sender"] is None
        texts(await session.call_tool("tether_inbox", {}))
        name, message = failure(await session.call_tool("tether_inbox", {"for_agent": "eve"}))
        assert name == "E_ACCESS_DENIED" and "TETHER_AGENT_ID" in message
        assert [each["name"] for each in daemon.of("agent_register")] == ["codex"]


async def test_a_name_that_is_taken_is_refused_until_it_is_free(tmp_path: Path) -> None:
    daemon = Daemon()
    register, daemon.answers["agent_register"] = daemon.answers["agent_register"], RefusedError("codex is taken.")
    async with serving(daemon, tmp_path), client(tmp_path, TETHER_AGENT_ID="codex") as session:
        name, message = failure(await session.call_tool("tether_inbox", {}))
        assert name == "E_ACCESS_DENIED" and "codex is taken. Choose another name" in message
        assert not daemon.of("inbox")
        daemon.answers["agent_register"] = register
        texts(await session.call_tool("tether_inbox", {}))


async def test_a_daemon_that_comes_back_is_told_again_who_it_is(tmp_path: Path) -> None:
    daemon = Daemon()
    async with client(tmp_path, TETHER_AGENT_ID="codex") as session:
        for tool, arguments in (("tether_inbox", {}), ("tether_resolve", {"handle": PLAN})):
            name, message = failure(await session.call_tool(tool, arguments))
            assert name == "DaemonNotRunning" and "meshd" in message and "tether service install" in message
        async with serving(daemon, tmp_path):
            texts(await session.call_tool("tether_inbox", {}))
        failure(await session.call_tool("tether_inbox", {}))
        daemon.asked.clear()
        async with serving(daemon, tmp_path):
            texts(await session.call_tool("tether_inbox", {}))
            assert [name for name, _ in daemon.asked] == ["agent_register", "inbox"]


async def test_a_send_whose_answer_was_lost_is_asked_again_with_its_key(tmp_path: Path) -> None:
    daemon = Daemon()
    answer = daemon.answers["send"]
    hang = trio.Event()

    async def forgets(**_: Any) -> Any:
        hang.set()
        await trio.sleep_forever()

    daemon.answers["send"] = forgets
    async with client(tmp_path, TETHER_AGENT_ID="codex") as session, trio.open_nursery() as nursery:
        results: list[Any] = []

        async def send() -> None:
            results.append(await session.call_tool("tether_send", {"to": "x", "subject": "s", "text": "t"}))

        control = trio.CancelScope()

        async def first() -> None:
            with control:
                async with serving(daemon, tmp_path):
                    await trio.sleep_forever()

        nursery.start_soon(first)
        await eventually((tmp_path / "control.sock").exists)
        nursery.start_soon(send)
        await hang.wait()
        # Another daemon listens before the first one ends, so that it is there when it is asked again.
        daemon.answers["send"] = answer
        (tmp_path / "control.sock").unlink()
        async with serving(daemon, tmp_path):
            control.cancel()
            await eventually(lambda: bool(results))
        texts(results[0])
        keys = {each["key"] for each in daemon.of("send")}
        assert len(daemon.of("send")) == 2 and len(keys) == 1


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (NobodyFoundError("There is no such message.", "Look in the inbox."), "E_HANDLE_UNRESOLVED"),
        (ExpiredError("It has expired.", "Ask for it again."), "E_HANDLE_EXPIRED"),
        (RefusedError("It is not for codex.", "Ask who it is for."), "E_ACCESS_DENIED"),
    ],
)
async def test_what_is_wrong_with_a_handle(tmp_path: Path, error: Any, name: str) -> None:
    daemon = Daemon()
    daemon.answers["receive"] = error
    async with serving(daemon, tmp_path), client(tmp_path, TETHER_AGENT_ID="codex") as session:
        for tool in ("tether_receive", "tether_resolve"):
            assert failure(await session.call_tool(tool, {"handle": MAIL})) == (name, str(error))


async def test_faults_tell_nothing_of_mail(tmp_path: Path) -> None:
    daemon = Daemon()

    async def breaks(**_: Any) -> Any:
        raise ValueError("SECRET")

    daemon.answers["inbox"] = breaks
    daemon.answers["receive"] = _resolved('"SECRET"')  # an answer of another kind
    async with serving(daemon, tmp_path), client(tmp_path, TETHER_AGENT_ID="codex") as session:
        for tool, arguments in (("tether_inbox", {}), ("tether_receive", {"handle": MAIL})):
            name, message = failure(await session.call_tool(tool, arguments))
            assert name == "InternalError" and "SECRET" not in message
    assert "SECRET" not in (tmp_path / "mcp.log").read_text()


async def test_wait_is_bounded_and_a_time_out_is_an_answer(tmp_path: Path) -> None:
    daemon = Daemon()
    daemon.answers["wait"] = TimedOutError("No mail came.")
    async with serving(daemon, tmp_path), client(tmp_path, TETHER_AGENT_ID="codex") as session:
        result = await session.call_tool("tether_wait", {})
        assert result.structured_content == {"count": 0, "messages": [], "data_notice": DATA_NOTICE}
        assert daemon.of("wait")[0]["seconds"] == 50.0
        assert failure(await session.call_tool("tether_wait", {"seconds": 10_000}))[0] == "ValueError"


async def test_a_wait_that_is_given_up_is_ended_in_the_daemon(tmp_path: Path) -> None:
    daemon = Daemon()
    begun, ended = trio.Event(), trio.Event()

    async def waits(**_: Any) -> Any:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    daemon.answers["wait"] = waits
    async with (
        serving(daemon, tmp_path),
        client(tmp_path, TETHER_AGENT_ID="codex") as session,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(session.call_tool, "tether_wait", {})
        await begun.wait()
        # Others are served meanwhile.
        texts(await session.call_tool("tether_inbox", {}))
        nursery.cancel_scope.cancel()
        with trio.fail_after(WITHIN, shield=True):
            await ended.wait()


@both_eras
async def test_the_further_sets(tmp_path: Path, mode: str) -> None:
    """What each gives is as its schema says: the client checks that."""
    daemon = Daemon()
    for operation in ("thread_create", "thread", "threads", "tables", "snapshot", "who"):
        daemon.answers[operation] = sample(result_class(BY_NAME[operation].result))
    daemon.answers["snapshot"] = attrs.evolve(daemon.answers["snapshot"], rows=(), next=None)
    given: dict[str, dict[str, Any]] = {
        "tether_thread_create": {"thread_name": "release"},
        "tether_thread_send": {"thread": "release", "to": "x", "subject": "s", "text": "t"},
        "tether_thread_inbox": {"thread": "release"},
        "tether_metadata": {"handle": BLOB},
        "tether_snapshot": {"table": "plans"},
        "tether_register": {"capabilities": ["python"]},
    }
    options = ("--tools", "all")
    async with serving(daemon, tmp_path), client(tmp_path, *options, mode=mode, TETHER_AGENT_ID="codex") as session:
        for tool in chosen("all")[len(chosen("")) :]:
            result = await session.call_tool(tool.name, given.get(tool.name, {}))
            assert json.loads(texts(result)[0]) == result.structured_content
        texts(await session.call_tool("tether_metadata", {"handle": MAIL}))
    first, details = daemon.of("agent_register")
    assert first["bind"] and details["capabilities"] == ("python",) and details["name"] == "codex"
    assert daemon.of("send")[0]["thread"] == "release" and daemon.of("receive")[0]["peek"]


def test_without_the_extra_it_says_how_to_get_it(tmp_path: Path) -> None:
    for name in ("mcp", "mcp_types"):
        (tmp_path / f"{name}.py").write_text("raise ModuleNotFoundError('not here', name='mcp')")
    started = parameters(tmp_path)
    path = f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"
    done = subprocess.run(
        [started.command, *started.args],
        env={**(started.env or {}), "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WITHIN,
    )
    assert done.returncode == 6 and not done.stdout and "pip install 'tether-mesh[mcp]'" in done.stderr


@pytest.mark.parametrize("name", ["co dex", "codex ", "\u0441odex", "x" * 64, "a@b"])
def test_a_name_that_mimics_another_is_none(tmp_path: Path, name: str) -> None:
    started = parameters(tmp_path, TETHER_AGENT_ID=name)
    done = subprocess.run(
        [started.command, *started.args],
        env=started.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WITHIN,
    )
    assert done.returncode == 2 and not done.stdout and "TETHER_AGENT_ID" in done.stderr


async def test_the_directory_of_tethers_database_is_taken(tmp_path: Path) -> None:
    from mcp.client import Client
    from mcp.client.stdio import stdio_client

    log = tmp_path / "mcp.log"
    started = parameters(tmp_path, TETHER_DB=str(tmp_path / "tether.db"), TETHER_AGENT_ID="codex")
    started = started.model_copy(update={"args": started.args[:2]})
    async with serving(Daemon(), tmp_path):
        with log.open("w") as errlog:
            async with Client(stdio_client(started, errlog=errlog)) as session:
                texts(await session.call_tool("tether_inbox", {}))
    assert f"TETHER_DB is set: the state directory is {tmp_path}." in log.read_text()


async def test_an_interruption_ends_it_without_a_word(tmp_path: Path) -> None:
    started = parameters(tmp_path)
    process = await trio.lowlevel.open_process(
        [started.command, *started.args], env=started.env, stdin=-1, stdout=-1, stderr=-1
    )
    assert process.stdin and process.stdout and process.stderr
    with trio.fail_after(WITHIN):
        await process.stdin.send_all(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
        assert await process.stdout.receive_some()
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
        assert not b"".join([each async for each in process.stderr])


async def test_only_the_protocol_is_on_standard_output(tmp_path: Path) -> None:
    """Every era's first words, nonsense between them, and nothing on standard output that is no JSON-RPC."""
    started = parameters(tmp_path)
    modern = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    asked = [
        {"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {"_meta": modern}},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {"_meta": modern}},
        {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": "nonsense", "_meta": modern}},
        {
            "jsonrpc": "2.0",
            "id": 4,
            "method": "tools/call",
            "params": {"name": "tether_inbox", "arguments": {"for_agent": "x"}, "_meta": modern},
        },
    ]
    told = b"".join(b"nonsense\n" + json.dumps(each).encode() + b"\n" for each in asked)
    process = await trio.lowlevel.open_process(
        [started.command, *started.args], env=started.env, stdin=-1, stdout=-1, stderr=-1
    )
    assert process.stdin and process.stdout and process.stderr
    answers: dict[int, Any] = {}
    with trio.fail_after(WITHIN):
        async with process.stdin:
            await process.stdin.send_all(told + b"x" * ((16 << 20) + 1) + b"\n")
            buffer = b""
            while len(answers) < len(asked):
                buffer += await process.stdout.receive_some()
                *lines, buffer = buffer.split(b"\n")
                for each in lines:
                    message = json.loads(each)
                    answers[message["id"]] = message
        rest = b"".join([each async for each in process.stdout])
        said = b"".join([each async for each in process.stderr])
        assert await process.wait() == 0
    assert not rest and b"was passed over" in said
    assert answers[1]["result"]["supportedVersions"] == ["2026-07-28"] and answers[1]["result"]["instructions"]
    assert answers[2]["result"]["resultType"] == "complete" and answers[2]["result"]["ttlMs"]
    assert answers[3]["error"]["code"] == -32602
    assert answers[4]["result"]["isError"]
