"""A context that remembers what was asked and answers as told, and a control server on a real socket."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from meshd.surfaces.control import Control
from meshd.tools.context import Context
from meshd.tools.registry import BY_NAME, OPERATIONS
from tests.tools.samples import result_class, sample

WITHIN = 30.0
"""Seconds that anything may take here; a busy machine needs several to start Python."""


class FakeContext:
    """Every method of the context: it notes its arguments, tells what it was given to tell, and answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Any] = {}
        """By method, an answer, an exception, or an async function of the arguments."""

    def __getattr__(self, name: str) -> Any:
        operation = next(each for each in OPERATIONS if (each.source or each.name) == name)

        async def answer(**arguments: Any) -> Any:
            self.asked.append((name, arguments))
            given = self.answers.get(name, sample(result_class(BY_NAME[operation.name].result), empty=True))
            if isinstance(given, Exception):
                raise given
            return await given(**arguments) if callable(given) else given

        return answer


@contextlib.asynccontextmanager
async def serving(context: object, state: Path) -> AsyncIterator[Control]:
    """A control server on `state`, with a deadline for all that is done in the block."""
    for each in ("incoming", "outgoing"):
        (state / each).mkdir(parents=True, exist_ok=True)
    control = Control(as_context(context))
    with trio.fail_after(WITHIN):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(control.serve, state / "control.sock"))
            yield control
            nursery.cancel_scope.cancel()


def as_context(context: Any) -> Context:
    """What has a context's methods, as one."""
    found: Context = context
    return found


class Raw:
    """A client that may write anything."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def ask(self, method: str, number: Any = 1, **params: Any) -> None:
        await self.send(
            json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode() + b"\n"
        )

    async def line(self) -> Any:
        """The next message, or None at the end."""
        while b"\n" not in self._buffer:
            more = await self.stream.receive_some()
            if not more:
                assert not self._buffer
                return None
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)


@contextlib.asynccontextmanager
async def raw(state: Path) -> AsyncIterator[Raw]:
    """A connection to the server on `state`."""
    async with await trio.open_unix_socket(state / "control.sock") as stream:
        yield Raw(stream)


async def eventually(holds: Callable[[], bool]) -> None:
    """Let other tasks run until it is so."""
    with trio.fail_after(WITHIN):
        while not holds():
            await trio.lowlevel.checkpoint()
