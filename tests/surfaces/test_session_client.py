"""The client that stays connected: many calls at once, calls that are given up, a daemon that ends and comes back."""

import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from meshd.client.session import open_session
from meshd.errors import ConnectionLostError, NobodyFoundError, RefusedError, TimedOutError
from meshd.tools.context import Tables
from tests.surfaces.kit import WITHIN, FakeContext, eventually, serving


@contextlib.asynccontextmanager
async def waiting(context: FakeContext) -> AsyncIterator[trio.Event]:
    """Calls of `tables` wait for the event."""
    go = trio.Event()

    async def answer(**_: Any) -> Tables:
        await go.wait()
        return Tables("m", ())

    context.answers["tables"] = answer
    yield go


async def test_calls_share_one_connection_and_are_answered_as_they_are_ready(tmp_path: Path) -> None:
    context = FakeContext()
    async with waiting(context) as go, serving(context, tmp_path) as control, open_session(tmp_path) as session:
        done = trio.Event()

        async def slow() -> None:
            assert (await session.call("tables"))["mesh"] == "m"
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow)
            await eventually(lambda: ("tables", {"mesh": None}) in context.asked)
            await session.call("tags")
            assert not done.is_set() and control._open == 1
            go.set()


async def test_a_call_that_is_given_up_is_ended_in_the_daemon_too(tmp_path: Path) -> None:
    context = FakeContext()
    ended = trio.Event()

    async def answer(**_: Any) -> Tables:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()
        raise AssertionError

    context.answers["tables"] = answer
    async with serving(context, tmp_path), open_session(tmp_path) as session:
        with pytest.raises(TimedOutError):
            await session.call("tables", within=0.2)
        await ended.wait()
        await session.call("tags")


async def test_a_session_is_bound_again_when_the_daemon_comes_back(tmp_path: Path) -> None:
    context = FakeContext()
    async with open_session(tmp_path) as session:
        with pytest.raises(NobodyFoundError):
            await session.call("tags")
        async with serving(context, tmp_path):
            await session.bind("codex", label="x")
        with pytest.raises((ConnectionLostError, NobodyFoundError)):
            await session.call("tags")
        context.asked.clear()
        async with serving(context, tmp_path):
            await session.call("tags")
            assert [name for name, _ in context.asked] == ["agent_register", "tags"]
            assert context.asked[0][1]["name"] == "codex" and context.asked[0][1]["bind"]


async def test_a_binding_that_is_refused_is_not_kept(tmp_path: Path) -> None:
    context = FakeContext()
    context.answers["agent_register"] = RefusedError("taken")
    async with serving(context, tmp_path), open_session(tmp_path) as session:
        with pytest.raises(RefusedError, match="taken"):
            await session.bind("codex")
        await session.call("tags")
        assert session.binding is None


async def test_whoever_waits_learns_that_the_daemon_ended(tmp_path: Path) -> None:
    context = FakeContext()
    failed = trio.Event()
    with trio.fail_after(WITHIN):
        async with waiting(context), open_session(tmp_path) as session, trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(ConnectionLostError):
                    await session.call("tables", within=None)
                failed.set()

            async with serving(context, tmp_path):
                nursery.start_soon(ask)
                await eventually(lambda: bool(context.asked))
            await failed.wait()


async def test_what_is_bound_to_a_connection_ends_with_it(tmp_path: Path) -> None:
    context = FakeContext()
    ended = trio.Event()

    async def register(*, session: Any, **_: Any) -> Any:
        session.on_end.append(ended.set)
        raise RefusedError("enough")

    context.answers["agent_register"] = register
    async with serving(context, tmp_path):
        async with open_session(tmp_path) as session:
            with pytest.raises(RefusedError, match="enough"):
                await session.bind("codex")
            assert not ended.is_set()
        await ended.wait()


async def test_a_daemon_that_does_not_read_keeps_nobody_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshd.client.session.ANSWER_WITHIN", 0.3)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "control.sock"))
        deaf.listen()
        with trio.fail_after(WITHIN):
            async with open_session(tmp_path) as session:
                with pytest.raises(TimedOutError):
                    await session.call("collapse", json="x" * 900_000)
