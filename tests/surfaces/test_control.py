"""The control server over a real Unix socket: right calls, hostile lines, other users, and clients that go away."""

import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshd.client.concurrent import AsyncClient
from meshd.client.lines import LINE_LIMIT
from meshd.errors import NobodyFoundError, RefusedError, StoreError
from meshd.notices import LinkUp, TrySpent
from meshd.surfaces import control
from meshd.tools.context import InviteOpened, Stopping, Tables
from tests.surfaces.kit import WITHIN, FakeContext, as_context, eventually, raw, serving

LINK = LinkUp(mesh="m", node="n", name="ben", address="192.0.2.7:1", path="LAN")


@pytest.fixture
def context() -> FakeContext:
    return FakeContext()


def code(message: Any) -> int:
    found: int = message["error"]["code"]
    return found


async def test_a_call_and_its_answer(context: FakeContext, tmp_path: Path) -> None:
    async with serving(context, tmp_path), raw(tmp_path) as client:
        await client.ask("snapshot", "x", table="plans", tag="draft")
        answer = await client.line()
    assert answer["jsonrpc"] == "2.0" and answer["id"] == "x"
    assert answer["result"] == {"table": "text", "rows": [], "next": None}
    assert context.asked == [
        ("snapshot", {"mesh": None, "table": "plans", "tag": "draft", "limit": 200, "after": None})
    ]


async def test_a_refusal_says_what_and_what_to_do(context: FakeContext, tmp_path: Path) -> None:
    class DiskFullError(StoreError):
        """An error of a room that the client does not know: it travels as the nearest that it knows."""

    context.answers["tables"] = DiskFullError("No space.", "Make some.")
    async with serving(context, tmp_path), raw(tmp_path) as client:
        await client.ask("tables")
        answer = await client.line()
    assert answer["error"] == {
        "code": 6,
        "message": "No space. Make some.",
        "data": {"kind": "StoreError", "what": "No space.", "advice": "Make some.", "exit_code": 6},
    }


async def test_a_fault_ends_its_call_only_and_tells_nothing(
    context: FakeContext, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context.answers["tables"] = ZeroDivisionError("secret words")
    context.answers["tags"] = object()  # what no JSON has a form for
    async with serving(context, tmp_path), raw(tmp_path) as client:
        for method in ("tables", "tags"):
            await client.ask(method)
            answer = await client.line()
            assert code(answer) == control.INTERNAL_ERROR
            assert "secret" not in json.dumps(answer)
        await client.ask("digest")
        assert "result" in await client.line()
    logged = capsys.readouterr()
    assert "ZeroDivisionError" in logged.out + logged.err


HOSTILE: list[tuple[bytes, int]] = [
    (b"", control.PARSE_ERROR),
    (b"{", control.PARSE_ERROR),
    (b"\xff\xfe", control.PARSE_ERROR),
    (b'{"jsonrpc":"2.0","id":1,"method":"\xff"}', control.PARSE_ERROR),
    (b"[" * 100_000, control.INVALID_REQUEST),
    (b'{"jsonrpc":"2.0","id":1,"method":"tables","params":' + b'{"a":' * 50_000, control.PARSE_ERROR),
    (b"null", control.INVALID_REQUEST),
    (b"[]", control.INVALID_REQUEST),
    (b'[{"jsonrpc":"2.0","id":1,"method":"tables"}]', control.INVALID_REQUEST),
    (b'{"id":1,"method":"tables"}', control.INVALID_REQUEST),
    (b'{"jsonrpc":"1.0","id":1,"method":"tables"}', control.INVALID_REQUEST),
    (b'{"jsonrpc":"2.0","id":true,"method":"tables"}', control.INVALID_REQUEST),
    (b'{"jsonrpc":"2.0","id":{},"method":"tables"}', control.INVALID_REQUEST),
    (b'{"jsonrpc":"2.0","id":1,"method":7}', control.INVALID_REQUEST),
    (b'{"jsonrpc":"2.0","id":1,"method":"tables","params":[null]}', control.INVALID_REQUEST),
    (b'{"jsonrpc":"2.0","id":1,"method":"__class__"}', control.UNKNOWN_METHOD),
    (b'{"jsonrpc":"2.0","id":1,"method":"answers"}', control.UNKNOWN_METHOD),
    (b'{"jsonrpc":"2.0","id":1,"method":"tables","params":{"self":1}}', 2),
    (b'{"jsonrpc":"2.0","id":1,"method":"tables","params":{"mesh":["a"]}}', 2),
    (b'{"jsonrpc":"2.0","id":1,"method":"snapshot","params":{}}', 2),
    (b'{"jsonrpc":"2.0","id":1,"method":"events","params":{"tell":1}}', 2),
]


async def test_hostile_lines_are_answered_and_the_connection_goes_on(context: FakeContext, tmp_path: Path) -> None:
    async with serving(context, tmp_path), raw(tmp_path) as client:
        for line, expected in HOSTILE:
            await client.send(line + b"\n")
            assert code(await client.line()) == expected, line[:80]
        assert context.asked == []
        await client.ask("tables")
        assert "result" in await client.line()


async def test_a_line_that_does_not_end_ends_the_connection(context: FakeContext, tmp_path: Path) -> None:
    async with serving(context, tmp_path), raw(tmp_path) as client:
        await client.send(b"a" * (LINE_LIMIT + 1))
        assert code(await client.line()) == control.PARSE_ERROR
        assert await client.line() is None


async def test_a_longest_line_byte_by_byte(context: FakeContext, tmp_path: Path) -> None:
    line = b'{"jsonrpc":"2.0","id":1,"method":"tables","params":{}}'
    async with serving(context, tmp_path), raw(tmp_path) as client:
        for at in range(len(line)):
            await client.send(line[at : at + 1])
            await trio.lowlevel.checkpoint()
        await client.send(b" " * (LINE_LIMIT - len(line)) + b"\n")
        assert "result" in await client.line()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.lists(st.binary(max_size=200) | st.from_regex(rb'\{"jsonrpc":"2.0",.{0,60}\}', fullmatch=True), max_size=8)
)
def test_any_bytes(tmp_path: Path, data: list[bytes]) -> None:
    context = FakeContext()

    async def run() -> None:
        async with serving(context, tmp_path), raw(tmp_path) as client:
            for each in data:
                await client.send(each + b"\n")
            await client.ask("tables", "last")
            while (message := await client.line())["id"] != "last":
                assert "error" in message or "result" in message

    trio.run(run)


async def test_a_notification_is_not_answered(context: FakeContext, tmp_path: Path) -> None:
    async with serving(context, tmp_path), raw(tmp_path) as client:
        await client.send(b'{"jsonrpc":"2.0","method":"stop"}\n')
        await client.ask("tables")
        assert (await client.line())["id"] == 1
    assert [name for name, _ in context.asked] == ["tables"]


async def test_what_is_told_comes_before_the_answer(context: FakeContext, tmp_path: Path) -> None:
    async def invite(*, tell: Any, **_: Any) -> Any:
        tell(InviteOpened("7-a-b-c", 64327, 600.0))
        tell(TrySpent(1, 2, "why"))
        raise RefusedError("It ends.")

    context.answers["invite"] = invite
    async with serving(context, tmp_path), raw(tmp_path) as client:
        await client.ask("invite", 9)
        first, second, third = [await client.line() for _ in range(3)]
    assert first["params"]["call"] == 9 and first["params"]["event"] == "invite.opened"
    assert first["params"]["fields"] == {"code": "7-a-b-c", "port": 64327, "seconds": 600.0, "wan": False}
    assert second["params"]["fields"] == attrs.asdict(TrySpent(1, 2, "why"))
    assert third["error"]["message"] == "It ends."


async def test_who_reads_slowly_misses_the_oldest_and_is_told_how_many(context: FakeContext, tmp_path: Path) -> None:
    told = 20_000

    async def events(*, tell: Any, **_: Any) -> Any:
        for at in range(told):
            tell(attrs.evolve(LINK, path=f"{at}" * 50), 3.0)
            if not at % 100:
                await trio.lowlevel.checkpoint()
        await trio.sleep_forever()

    context.answers["events"] = events
    async with serving(context, tmp_path), raw(tmp_path) as client:
        await client.ask("events", follow=True)
        seen, missed, last = 0, 0, ""
        while seen + missed < told:
            params = (await client.line())["params"]
            assert params["age"] >= 3.0
            seen, missed, last = seen + 1, missed + params["missed"], params["fields"]["path"]
    assert missed > 0 and last == f"{told - 1}" * 50


async def test_a_client_that_goes_ends_its_calls(context: FakeContext, tmp_path: Path) -> None:
    ended = trio.Event()

    async def wait(**_: Any) -> Any:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    context.answers["get"] = wait
    async with serving(context, tmp_path):
        async with raw(tmp_path) as client:
            await client.ask("get", handle="hl_blob_0123456789ab", out="/x")
            await eventually(lambda: bool(context.asked))
            assert not ended.is_set()
        await ended.wait()
        async with raw(tmp_path) as client:
            await client.ask("tables")
            assert "result" in await client.line()


async def test_calls_of_one_connection_run_side_by_side_and_are_bounded(context: FakeContext, tmp_path: Path) -> None:
    go = trio.Event()

    async def wait(**_: Any) -> Tables:
        await go.wait()
        return Tables("m", ())

    context.answers["tables"] = wait
    async with serving(context, tmp_path), raw(tmp_path) as client:
        for number in range(control.CALLS_LIMIT + 1):
            await client.ask("tables", number)
        refused = await client.line()
        assert refused["id"] == control.CALLS_LIMIT and refused["error"]["data"]["kind"] == "RefusedError"
        await client.ask("digest", "quick")  # refused too: there is no turn left
        assert (await client.line())["id"] == "quick"
        go.set()
        assert {(await client.line())["id"] for _ in range(control.CALLS_LIMIT)} == set(range(control.CALLS_LIMIT))
        await client.ask("digest", "after")
        assert "result" in await client.line()


async def test_who_has_read_an_answer_has_its_turn_back(
    context: FakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it asks again before the server has come to know that the answer went."""
    send_all = trio.SocketStream.send_all

    async def slowly(self: trio.SocketStream, data: bytes) -> None:
        await send_all(self, data)
        await trio.testing.wait_all_tasks_blocked()

    async def wait(**_: Any) -> Tables:
        return await trio.sleep_forever()

    context.answers["tables"] = wait
    async with serving(context, tmp_path), raw(tmp_path) as client:
        for number in range(control.CALLS_LIMIT - 1):
            await client.ask("tables", number)
        monkeypatch.setattr(trio.SocketStream, "send_all", slowly)
        for number in range(100, 110):
            await send_all(client.stream, b'{"jsonrpc":"2.0","id":%d,"method":"digest"}\n' % number)
            answer = await client.line()
            assert answer["id"] == number and "result" in answer
        await client.ask("tables", "one more")
        await client.ask("digest", "too many")
        assert "error" in await client.line()


async def test_who_does_not_read_makes_only_itself_wait(context: FakeContext, tmp_path: Path) -> None:
    context.answers["tables"] = Tables("m" * 900_000, ())
    async with serving(context, tmp_path), raw(tmp_path) as deaf, raw(tmp_path) as other:
        for number in range(control.CALLS_LIMIT):
            await deaf.ask("tables", number)
        await eventually(lambda: len(context.asked) == control.CALLS_LIMIT)
        await other.ask("digest")
        assert "result" in await other.line()


async def test_an_answer_that_fits_no_line_is_a_refusal(context: FakeContext, tmp_path: Path) -> None:
    context.answers["tables"] = Tables("m" * LINE_LIMIT, ())
    async with serving(context, tmp_path), raw(tmp_path) as client:
        await client.ask("tables", 5)
        answer = await client.line()
        assert answer["id"] == 5 and answer["error"]["data"]["kind"] == "RefusedError"


async def test_connections_are_bounded(context: FakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "CONNECTIONS_LIMIT", 2)
    async with serving(context, tmp_path), raw(tmp_path) as one:
        async with raw(tmp_path) as two:
            for each in (one, two):
                await each.ask("tables")
                assert "result" in await each.line()
            async with raw(tmp_path) as three:
                assert (await three.line())["error"]["data"]["kind"] == "RefusedError"
                assert await three.line() is None
        # Until the server has seen that `two` is gone it refuses another, and hangs up.
        while True:
            async with raw(tmp_path) as three:
                await three.ask("tables")
                if "result" in await three.line():
                    break


async def test_the_answer_to_stop_arrives_although_the_server_ends(context: FakeContext, tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:

        async def stop() -> Any:
            nursery.cancel_scope.cancel()
            return Stopping(7)

        context.answers["stop"] = stop
        path = tmp_path / "control.sock"
        served = control.Control(as_context(context))
        await nursery.start(served.serve, path)
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(WITHIN)
        client.connect(str(path))
        client.sendall(b'{"jsonrpc":"2.0","id":1,"method":"stop"}\n')
    with client:
        assert json.loads(client.recv(4096))["result"] == {"pid": 7}
        assert client.recv(1) == b""
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_another_user_is_refused_unheard(context: FakeContext, tmp_path: Path) -> None:
    for each in (tmp_path, *tmp_path.parents):
        if each.stat().st_uid == 0 and each != Path("/") and str(each).startswith(str(tmp_path.parents[2])):
            each.chmod(0o755)
    async with serving(context, tmp_path):
        (tmp_path / "control.sock").chmod(0o666)  # as if the modes had failed us
        said = await trio.to_thread.run_sync(_ask_as_nobody, tmp_path / "control.sock")
    assert context.asked == []
    assert json.loads(said)["error"]["data"]["kind"] == "RefusedError"


def _ask_as_nobody(path: Path) -> bytes:
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(65534)
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(WITHIN)
                client.connect(str(path))
                os.write(there, client.recv(65536))
        finally:
            os._exit(0)
    os.close(there)
    said = b""
    while more := os.read(here, 65536):
        said += more
    os.close(here)
    os.waitpid(child, 0)
    return said


async def test_the_socket_is_private_and_goes_away(context: FakeContext, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with serving(context, tmp_path):
        mode = path.lstat().st_mode
        assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600
    assert not path.exists()


async def test_the_socket_of_a_killed_daemon_is_replaced(context: FakeContext, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "control.sock"))
    async with serving(context, tmp_path), raw(tmp_path) as client:
        await client.ask("tables")
        assert "result" in await client.line()


def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    (tmp_path / "control.sock").write_text("mine")
    with pytest.raises(RefusedError, match="is no socket"), control.listening(tmp_path / "control.sock"):
        pytest.fail("it listens")
    assert (tmp_path / "control.sock").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_socket_of_another_user_stays_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    os.chown(path, 65534, 65534)
    with pytest.raises(RefusedError, match=r"belongs to another user .uid 65534."), control.listening(path):
        pytest.fail("it listens")
    assert path.exists()


async def test_a_long_path(context: FakeContext, tmp_path: Path) -> None:
    state = tmp_path.joinpath(*["d" * 50] * 4)
    async with serving(context, state):
        assert stat.S_IMODE((state / "control.sock").stat().st_mode) == 0o600
        assert await AsyncClient(state).call("tables") == {"mesh": "text", "tables": []}
    assert not (state / "control.sock").exists()


async def test_errors_of_the_node_reach_the_client_as_they_were(context: FakeContext, tmp_path: Path) -> None:
    context.answers["tables"] = NobodyFoundError("No such mesh.", "There is home.")
    async with serving(context, tmp_path):
        with pytest.raises(NobodyFoundError) as caught:
            await AsyncClient(tmp_path).call("tables")
    assert (caught.value.what, caught.value.advice) == ("No such mesh.", "There is home.")


async def test_what_a_cancelled_call_would_tell_ends_with_it(context: FakeContext, tmp_path: Path) -> None:
    async def forever(**_: Any) -> Any:
        await trio.sleep_forever()

    context.answers["events"] = forever
    async with serving(context, tmp_path), raw(tmp_path) as client:
        await client.ask("tags", number=0)
        await client.line()
        before = trio.lowlevel.current_statistics().tasks_living
        for number in range(1, 41):
            await client.ask("events", number=number, follow=True)
            line = json.dumps({"jsonrpc": "2.0", "method": "cancel", "params": {"id": number}})
            await eventually(lambda count=number + 1: len(context.asked) == count)
            await client.send(line.encode() + b"\n")
        await client.ask("tags", number=99)
        assert (await client.line())["id"] == 99, "a cancelled call is not answered"
        await eventually(lambda: trio.lowlevel.current_statistics().tasks_living <= before)
