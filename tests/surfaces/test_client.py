"""Both clients against a real control server, and against servers that are none of ours."""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from meshd.client import Client, Told, lines, sockets
from meshd.client.concurrent import CALLS_AT_ONCE, AsyncClient
from meshd.client.lines import LINE_LIMIT, Lines, request, understood
from meshd.errors import ConnectionLostError, NobodyFoundError, RefusedError, TetherError, TimedOutError
from meshd.tools.context import Invited, InviteOpened, MachineRef, Tables
from tests.surfaces.kit import WITHIN, FakeContext, serving

Ask = Callable[..., Any]


async def asked(kind: str, state: Path, operation: str, **how: Any) -> Any:
    """One call with either client, in a thread where it waits."""
    if kind == "concurrent":
        return await AsyncClient(state).call(operation, **how)

    def wait() -> Any:
        with Client(state) as client:
            return client.call(operation, **how)

    return await trio.to_thread.run_sync(wait)


both = pytest.mark.parametrize("kind", ["blocking", "concurrent"])


@both
async def test_an_answer(kind: str, tmp_path: Path) -> None:
    context = FakeContext()
    async with serving(context, tmp_path):
        assert await asked(kind, tmp_path, "tables", mesh=None) == {"mesh": "text", "tables": []}
    assert context.asked == [("tables", {"mesh": None})]


@both
async def test_what_is_told(kind: str, tmp_path: Path) -> None:
    context = FakeContext()

    async def invite(*, tell: Any, **_: Any) -> Invited:
        tell(InviteOpened("7-a-b-c", 64327, 600.0))
        return Invited("m", "home", MachineRef("n", "ben"), "192.0.2.7:1")

    context.answers["invite"] = invite
    told: list[Told] = []
    async with serving(context, tmp_path):
        answer = await asked(kind, tmp_path, "invite", tell=told.append)
    assert answer["machine"] == {"node": "n", "name": "ben"}
    assert [(each.event, each.fields["code"], each.missed) for each in told] == [("invite.opened", "7-a-b-c", 0)]


@both
async def test_nobody_there(kind: str, tmp_path: Path) -> None:
    for state in (tmp_path, tmp_path / "missing"):
        with pytest.raises(NobodyFoundError, match="No daemon runs on"):
            await asked(kind, state, "status")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "control.sock"))
    with pytest.raises(NobodyFoundError, match="No daemon runs on"):
        await asked(kind, tmp_path, "status")


def test_a_client_goes_on_after_an_error_and_after_a_new_daemon(tmp_path: Path) -> None:
    context = FakeContext()
    with Client(tmp_path) as client:

        async def first() -> None:
            context.answers["tags"] = RefusedError("No.")
            async with serving(context, tmp_path):
                with pytest.raises(RefusedError, match="No"):
                    await trio.to_thread.run_sync(partial(client.call, "tags"))
                assert await trio.to_thread.run_sync(partial(client.call, "tables"))

        trio.run(first)
        with pytest.raises(ConnectionLostError):
            client.call("tables")

        async def second() -> None:
            async with serving(context, tmp_path):
                assert await trio.to_thread.run_sync(partial(client.call, "tables"))

        trio.run(second)


async def test_many_calls_at_once_and_one_cancelled(tmp_path: Path) -> None:
    context = FakeContext()
    running, most, go = 0, 0, trio.Event()

    async def tables(**_: Any) -> Tables:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await go.wait()
        finally:
            running -= 1
        return Tables("m", ())

    context.answers["tables"] = tables
    async with serving(context, tmp_path):
        client = AsyncClient(tmp_path)
        async with trio.open_nursery() as nursery:
            for _ in range(CALLS_AT_ONCE * 2):
                nursery.start_soon(client.call, "tables")
            while running < CALLS_AT_ONCE:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        while running:  # hanging up has cancelled them in the daemon
            await trio.lowlevel.checkpoint()
        assert most == CALLS_AT_ONCE
        go.set()
        assert await client.call("tables")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[[Callable[[socket.socket], None]], None]]:
    """Serve one connection on tmp_path with a function, in a thread."""
    listener = socket.socket(socket.AF_UNIX)
    threads = []

    def serve(answer: Callable[[socket.socket], None]) -> None:
        listener.bind(str(tmp_path / "control.sock"))
        listener.listen()
        listener.settimeout(WITHIN)

        def run() -> None:
            connected, _ = listener.accept()
            with connected:
                connected.settimeout(WITHIN)
                answer(connected)

        threads.append(threading.Thread(target=run))
        threads[0].start()

    yield serve
    for each in threads:
        each.join(WITHIN)
    listener.close()


NONSENSE = [
    b"",
    b"not json\n",
    b"[]\n",
    b"7\n",
    b"{}\n",
    b'{"jsonrpc":"2.0","id":1}\n',
    b'{"jsonrpc":"2.0","method":"told","params":{}}\n',
    b'{"jsonrpc":"2.0","method":"told","params":{"call":1,"event":"a","fields":{},"age":"x","missed":0}}\n',
    b"[" * 100_000 + b"\n",
    b"a" * (LINE_LIMIT + 1),
]


@both
@pytest.mark.parametrize("answer", NONSENSE, ids=lambda each: each[:40])
async def test_a_daemon_that_makes_no_sense(
    kind: str, answer: bytes, tmp_path: Path, served: Callable[[Callable[[socket.socket], None]], None]
) -> None:
    def say(connected: socket.socket) -> None:
        connected.recv(4096)
        connected.sendall(answer)

    served(say)
    with pytest.raises(ConnectionLostError):
        await asked(kind, tmp_path, "tables")


@both
async def test_a_daemon_that_says_nothing(
    kind: str, tmp_path: Path, served: Callable[[Callable[[socket.socket], None]], None]
) -> None:
    served(lambda connected: [connected.recv(4096), connected.recv(1)][0] and None)
    with pytest.raises(TimedOutError, match="does not answer"):
        await asked(kind, tmp_path, "tables", within=0.01)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@both
async def test_a_daemon_of_another_user_is_told_nothing(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    here, there = os.pipe()
    back, forth = os.pipe()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        child = os.fork()
        if child == 0:
            try:
                os.setuid(65534)
                listener.listen()  # from here on the kernel names this user
                os.write(forth, b"!")
                connected, _ = listener.accept()
                connected.settimeout(WITHIN)
                os.write(there, b"heard:" + connected.recv(4096))
            finally:
                os._exit(0)
        os.close(there)
        os.read(back, 1)
        with pytest.raises(RefusedError, match=r"served by another user .uid 65534.: nothing was told to it"):
            await asked(kind, tmp_path, "join", code="7-crystal-clock-tower")
        assert os.read(here, 4096) == b"heard:"
        os.waitpid(child, 0)
    for each in (here, back, forth):
        os.close(each)


def test_a_long_path_without_a_way_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_DESCRIPTORS", str(tmp_path / "none"))
    with (
        pytest.raises(RefusedError, match="longer than the 103 bytes"),
        sockets.reachable(tmp_path / ("d" * 104) / "control.sock"),
    ):
        pytest.fail("it was reachable")


def test_arguments_that_fit_no_line() -> None:
    with pytest.raises(RefusedError, match="Give large content as a file"):
        request(1, "collapse", {"json": "x" * LINE_LIMIT})


def test_none_is_left_out() -> None:
    assert json.loads(request(1, "tables", {"mesh": None}))["params"] == {}


@given(data=st.binary(max_size=300))
def test_any_line_is_understood_or_a_tether_error(data: bytes) -> None:
    with contextlib.suppress(TetherError):
        assert understood(data, 1) is None or data.lstrip().startswith(b"{")


@given(
    messages=st.lists(st.binary(max_size=20).filter(lambda each: b"\n" not in each)), cuts=st.lists(st.integers(1, 9))
)
def test_lines_come_out_as_they_went_in(messages: list[bytes], cuts: list[int]) -> None:
    data = b"".join(each + b"\n" for each in messages)
    reader = Lines()
    found = []
    sizes = iter(cuts)
    while data:
        size = next(sizes, len(data))
        reader.feed(data[:size])
        data = data[size:]
        while (line := reader.next()) is not None:
            found.append(line)
    assert found == messages


def test_a_line_of_the_longest_size() -> None:
    reader = Lines(limit=5)
    reader.feed(b"12345\n123456")
    assert reader.next() == b"12345"
    with pytest.raises(ConnectionLostError):
        reader.next()
    reader = Lines(limit=5)
    reader.feed(b"123456\n")
    with pytest.raises(ConnectionLostError):
        reader.next()


def test_every_error_comes_back_as_itself() -> None:
    for name, kind in lines._KINDS.items():
        answer = {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "m", "data": {"kind": name, "what": "w"}}}
        with pytest.raises(TetherError) as caught:
            understood(json.dumps(answer).encode(), 1)
        assert type(caught.value) is kind and caught.value.what == "w"
