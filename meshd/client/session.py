"""The client for a program that is one agent: one connection that stays, bound to it, with many calls at once.

When the daemon ends, the calls under way fail, and the next opens a connection anew and binds that to the agent again.
"""

import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import trio

from meshd import config
from meshd.client.concurrent import connected_stream
from meshd.client.lines import ANSWER_WITHIN, Answer, Lines, gone, meant, parsed, request, silent
from meshd.errors import ConnectionLostError, TetherError

CALLS_AT_ONCE: Final = 14
"""Calls under way on the connection; more wait their turn. Two fewer than the daemon takes: one that was given up here may
not have ended there yet."""

_RECEIVED_AT_ONCE: Final = 1 << 16


class _Waiting:
    """A call that waits for its answer."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: Any = None
        self.error: TetherError | None = None


class AgentSession:
    """Made by `open_session`."""

    def __init__(self, nursery: trio.Nursery, state: Path | str | None) -> None:
        self.state = config.state_directory(state)
        self.binding: dict[str, Any] | None = None
        """What `agent_register` was asked, so that a new connection is bound as well."""
        self._nursery = nursery
        self._stream: trio.SocketStream | None = None
        self._numbers = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._connecting = trio.Lock()
        self._sending = trio.Lock()
        self._turns = trio.CapacityLimiter(CALLS_AT_ONCE)

    async def bind(self, name: str, **arguments: Any) -> Any:
        """Be this agent from now on. Raises as the operation does; nothing is bound then."""
        asked = {"name": name, "bind": True, **arguments}
        answer = await self.call("agent_register", **asked)
        self.binding = asked
        return answer

    async def connect(self) -> None:
        """Have a connection, bound as it was before. Raises TetherError where no daemon of this user answers: so that whoever
        asks can tell that from what an operation refuses."""
        async with self._connecting:
            if self._stream is not None:
                return
            self._stream = await connected_stream(self.state)
            self._nursery.start_soon(self._receive, self._stream)
            if self.binding is not None:
                try:
                    await self._ask("agent_register", self.binding, ANSWER_WITHIN)
                except BaseException:
                    self._lose(self._stream, gone())
                    raise

    async def call(self, operation: str, /, *, within: float | None = ANSWER_WITHIN, **arguments: Any) -> Any:
        """As `meshd.client.Client.call`, without what is told on the way."""
        async with self._turns:
            await self.connect()
            return await self._ask(operation, arguments, within)

    async def _ask(self, operation: str, arguments: dict[str, Any], within: float | None) -> Any:
        number = next(self._numbers)
        line = request(number, operation, arguments)
        waiting = self._waiting[number] = _Waiting()
        try:
            await self._send(line)
            with trio.fail_after(float("inf") if within is None else within):
                await waiting.done.wait()
        except trio.TooSlowError as error:
            self._give_up(number)
            raise silent() from error
        except trio.Cancelled:
            self._give_up(number)
            raise
        finally:
            self._waiting.pop(number, None)
        if waiting.error is not None:
            raise type(waiting.error)(waiting.error.what, waiting.error.advice)
        return waiting.answer

    async def _receive(self, stream: trio.SocketStream) -> None:
        lines, error = Lines(), gone()
        try:
            while True:
                while (line := lines.next()) is not None:
                    self._take(line)
                data = await stream.receive_some(_RECEIVED_AT_ONCE)
                if not data:
                    break
                lines.feed(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except ConnectionLostError as broken:
            error = broken
        finally:
            self._lose(stream, error)

    def _take(self, line: bytes) -> None:
        message = parsed(line)
        number = message.get("id") if isinstance(message, dict) else None
        if not isinstance(number, int) or (waiting := self._waiting.get(number)) is None:
            return  # told, or of a call that was given up
        try:
            found = meant(message, number)
            waiting.answer = found.result if isinstance(found, Answer) else None
        except TetherError as error:
            waiting.error = error
        waiting.done.set()

    def _lose(self, stream: trio.SocketStream, error: TetherError) -> None:
        stream.socket.close()
        if self._stream is stream:
            self._stream = None
            for waiting in self._waiting.values():
                if not waiting.done.is_set():
                    waiting.error = error
                    waiting.done.set()

    async def _send(self, line: bytes) -> None:
        async with self._sending:
            stream = self._stream
            if stream is None:
                raise gone()
            try:
                # A line that was cut in two would take every later one with it. The deadline is inside of the shield, which
                # would keep it out as well.
                with trio.CancelScope(shield=True), trio.fail_after(ANSWER_WITHIN):
                    await stream.send_all(line)
            except trio.TooSlowError as error:
                self._lose(stream, silent())
                raise silent() from error
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._lose(stream, gone())
                raise gone() from error

    def _give_up(self, number: int) -> None:
        """Have the daemon end a call that nobody waits for."""
        if self._stream is not None:
            line = json.dumps({"jsonrpc": "2.0", "method": "cancel", "params": {"id": number}}).encode() + b"\n"
            self._nursery.start_soon(self._tell, line)

    async def _tell(self, line: bytes) -> None:
        with contextlib.suppress(TetherError):
            await self._send(line)


@contextlib.asynccontextmanager
async def open_session(state: Path | str | None = None) -> AsyncIterator[AgentSession]:
    """A session with the daemon of a state directory (None: as TETHER_STATE says, else the usual one). It connects at the
    first call, and hangs up at the end of the block."""
    async with trio.open_nursery() as nursery:
        yield AgentSession(nursery, state)
        nursery.cancel_scope.cancel()
