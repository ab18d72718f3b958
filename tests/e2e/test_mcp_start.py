"""`tether-mcp --start` with a real daemon: it is started when none runs, serves, and stays when the session ends."""

import json
from pathlib import Path

from meshd.client.concurrent import AsyncClient
from tests.surfaces.kit import eventually
from tests.surfaces.mcp_kit import client, failure, texts

LOOPBACK = {"TETHER_HOST": "127.0.0.1", "TETHER_PORT": "0", "TETHER_LAN_INTERFACES": "127.0.0.1"}
PLAN = {"table": "plans", "data": {"a": 1}}


async def test_the_daemon_is_started_and_stays(tmp_path: Path) -> None:
    state, log = tmp_path / "state", tmp_path / "mcp.log"
    daemon = AsyncClient(state)
    try:
        async with client(state, "--start", log=log, **LOOPBACK) as session:
            name, message = failure(await session.call_tool("tether_collapse", PLAN))
            assert name != "DaemonNotRunning" and "tether init" in message
            await daemon.call("init", mesh="home", name="ann", recovery=False)
            handle = json.loads(texts(await session.call_tool("tether_collapse", PLAN))[0])["handle"]
        async with client(state, "--start", log=log, **LOOPBACK) as session:
            assert texts(await session.call_tool("tether_resolve", {"handle": handle})) == ['{"a":1}']
            tree = json.loads(texts(await session.call_tool("tether_collapse_tree", {"handles": [handle]}))[0])[
                "handle"
            ]
            found = await session.call_tool("tether_resolve_tree", {"handle": tree})
            assert found.structured_content == {"handles": [handle]}
            blob = {"bytes_b64": "AAEC", "content_type": "image/png"}
            made = json.loads(texts(await session.call_tool("tether_collapse_blob", blob))[0])["handle"]
            assert (await session.call_tool("tether_resolve_blob", {"handle": made})).structured_content == blob
            name, _ = failure(await session.call_tool("tether_resolve", {"handle": "h&l_plans_000000000000"}))
            assert name == "E_HANDLE_UNRESOLVED"
            name, _ = failure(await session.call_tool("tether_collapse_tree", {"handles": ["h&l_plans_000000000000"]}))
            assert name == "E_HANDLE_UNRESOLVED"
    finally:
        await daemon.call("stop")
    await eventually(lambda: not (state / "control.sock").exists())
    assert (state / "started.log").stat().st_mode & 0o777 == 0o600


async def test_a_daemon_that_cannot_start_says_why(tmp_path: Path) -> None:
    state = tmp_path / "state"
    environment = {**LOOPBACK, "TETHER_PORT": "nonsense"}
    async with client(state, "--start", log=tmp_path / "mcp.log", **environment) as session:
        name, message = failure(await session.call_tool("tether_collapse", PLAN))
        assert name == "DaemonNotRunning" and "ended by itself" in message and "TETHER_PORT" in message
