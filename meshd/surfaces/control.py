"""The control socket's server: JSON-RPC 2.0, a message a line, for processes of this user. docs/protocol/control.md.

Nothing here knows an operation: the registry says what there is, checks what was given, and calls the context. Everything
a client can make this hold is bounded: connections, calls, the length of a line, what is told and not yet read.
"""

import contextlib
import os
import socket
import stat
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import attrs
import msgspec
import structlog
import trio

from meshd.client.lines import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    LINE_LIMIT,
    PARSE_ERROR,
    UNKNOWN_METHOD,
    Lines,
)
from meshd.client.sockets import peer_uid, reachable
from meshd.errors import ConnectionLostError, RefusedError, TetherError, UsageError
from meshd.notices import event_name
from meshd.tools.context import Context
from meshd.tools.operation import Operation, Tells
from meshd.tools.registry import BY_NAME
from meshd.tools.session import Session

CONNECTIONS_LIMIT: Final = 64
"""Connections at once: every terminal and script of a person, and none that runs wild takes the daemon's descriptors."""

CALLS_LIMIT: Final = 16
"""Calls under way on one connection."""

TOLD_LIMIT: Final = 256
"""Things told and not yet read, a call: then the oldest goes. A reader that paused sees that some are missing."""

GOODBYE: Final = 1.0
"""Seconds for a last line: an answer when the daemon stops, or why somebody is not served."""

_RECEIVED_AT_ONCE: Final = 1 << 16
_BACKLOG: Final = 64

CANCEL: Final = "cancel"
"""The one notification that is known: end the call with this id, which then is not answered."""

Send = Callable[[Mapping[str, Any]], Awaitable[None]]


@attrs.frozen(kw_only=True)
class Request:
    """A call, as JSON-RPC 2.0 has it, with its parameters by name."""

    jsonrpc: Literal["2.0"]
    id: int | str | None = None
    method: str
    params: dict[str, Any] = attrs.field(factory=dict)


class Control:
    """Serves the operations of the registry."""

    def __init__(self, context: Context, operations: Mapping[str, Operation] = BY_NAME) -> None:
        self._context = context
        self._operations = operations
        self._open = 0

    async def serve(self, path: Path, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve on a socket at `path`, in a directory that is only ours, until cancelled.

        Raises RefusedError when something that is not ours stands there.
        """
        with listening(path) as listener:
            task_status.started()
            await trio.serve_listeners(self.converse, [trio.SocketListener(listener)])

    async def converse(self, stream: trio.SocketStream) -> None:
        """Serve one connection to its end."""
        async with stream:
            refusal = self._refusal(peer_uid(stream.socket))
            if refusal is not None:
                await _say_goodbye(stream, _encoded(_failed(None, refusal)))
                return
            self._open += 1
            session = Session()
            try:
                async with trio.open_nursery() as nursery:
                    await _Conversation(stream, nursery, self._context, self._operations, session).run()
                    nursery.cancel_scope.cancel()  # whoever asked is gone, and with it the reason for each call
            finally:
                self._open -= 1
                session.end()

    def _refusal(self, uid: int) -> RefusedError | None:
        if uid != os.geteuid():
            return RefusedError("This daemon serves another user.", "Run your own, with its own state directory.")
        if self._open >= CONNECTIONS_LIMIT:
            return RefusedError(f"{CONNECTIONS_LIMIT} programs are connected to this daemon.", "End some of them.")
        return None


class _Conversation:
    """One connection of ours."""

    def __init__(
        self,
        stream: trio.SocketStream,
        nursery: trio.Nursery,
        context: Context,
        operations: Mapping[str, Operation],
        session: Session,
    ) -> None:
        self._stream, self._nursery = stream, nursery
        self._context, self._operations, self._session = context, operations, session
        self._turn = trio.Lock()
        self._cut = False  # whether a line has begun and not ended
        self._calls: set[_UnderWay] = set()

    async def run(self) -> None:
        """Until the client hangs up, or sends what cannot be followed."""
        lines = Lines(LINE_LIMIT)
        while True:
            try:
                line = lines.next()
            except ConnectionLostError as error:
                await self._tell(_wrong(None, PARSE_ERROR, error.what))
                return  # where the next message begins is not known
            if line is not None:
                await self._take(line)
                continue
            try:
                data = await self._stream.receive_some(_RECEIVED_AT_ONCE)
            except trio.BrokenResourceError:
                return
            if not data:
                return
            lines.feed(data)

    async def _take(self, line: bytes) -> None:
        try:
            request = msgspec.json.decode(line, type=Request)
        except msgspec.ValidationError as error:
            await self._tell(_wrong(None, INVALID_REQUEST, f"This is not a request: {error}."))
            return
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            await self._tell(_wrong(None, PARSE_ERROR, "This is not JSON."))
            return
        if request.id is None:
            # A notification, which JSON-RPC forbids to answer.
            if request.method == CANCEL:
                self._cancel(request.params.get("id"))
            return
        operation = self._operations.get(request.method)
        if len(self._calls) >= CALLS_LIMIT:
            async with self._turn:
                pass  # an answer that is being sent may have been read already, and this be what was asked upon it
        if operation is None:
            await self._tell(_wrong(request.id, UNKNOWN_METHOD, f"There is no operation {request.method!r:.50}."))
        elif len(self._calls) >= CALLS_LIMIT:
            refused = RefusedError(
                f"{CALLS_LIMIT} calls are under way on this connection.", "Wait for an answer first."
            )
            await self._tell(_failed(request.id, refused))
        else:
            under_way = _UnderWay(request.id)
            self._calls.add(under_way)
            self._nursery.start_soon(self._call, operation, request, under_way)

    def _cancel(self, number: object) -> None:
        for each in self._calls:
            if each.id == number:
                each.scope.cancel()

    async def _call(self, operation: Operation, request: Request, under_way: "_UnderWay") -> None:
        answer = None
        try:
            with under_way.scope:
                answer = await self._answer(operation, request, under_way)
            if under_way.telling is not None:
                await under_way.telling.finish(drop=answer is None)
            if answer is not None:
                await self._send(answer)
        finally:
            self._calls.discard(under_way)

    async def _answer(self, operation: Operation, request: Request, under_way: "_UnderWay") -> bytes:
        try:
            arguments = operation.check(request.params)
            if operation.session:
                arguments["session"] = self._session
            if operation.tells is not Tells.NOTHING:
                under_way.telling = arguments["tell"] = _Telling(request.id)
                self._nursery.start_soon(under_way.telling.pump, self._tell)
            result = await operation.carry_out(self._context, arguments)
            answer = _encoded({"jsonrpc": "2.0", "id": request.id, "result": result})
        except TetherError as error:
            answer = _encoded(_failed(request.id, error))
        except Exception:  # a fault in one operation ends that call, as it should, and not every link of this machine
            structlog.get_logger().exception("control.fault", operation=operation.name)
            what = "The daemon failed to do this: a fault in it, see its log."
            answer = _encoded(_wrong(request.id, INTERNAL_ERROR, what))
        return answer

    async def _tell(self, message: Mapping[str, Any]) -> None:
        await self._send(_encoded(message))

    async def _send(self, line: bytes) -> None:
        # Who does not read makes only itself wait: at most CALLS_LIMIT answers are held for it. There is no deadline,
        # because `tether events | less` may be left alone for the night.
        if trio.current_effective_deadline() == float("-inf"):
            if not self._cut:
                await _say_goodbye(self._stream, line)  # the daemon is being stopped, perhaps by this very call
            return
        async with self._turn:
            self._cut = True
            try:
                await self._stream.send_all(line)
                self._cut = False
            except trio.BrokenResourceError:
                self._nursery.cancel_scope.cancel()


@attrs.define(eq=False)
class _UnderWay:
    """One call that is not answered yet."""

    id: int | str
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    telling: "_Telling | None" = None


class _Telling:
    """What one call tells. Taking never waits; what is not read in time is dropped, the oldest first, and counted."""

    def __init__(self, call: int | str | None) -> None:
        self._call = call
        self._waiting: deque[tuple[Any, float]] = deque()
        self._missed = 0
        self._news = trio.Event()
        self._over = False
        self._done = trio.Event()

    def __call__(self, told: Any, age: float = 0.0) -> None:
        """Take a notice, `age` seconds old."""
        if len(self._waiting) == TOLD_LIMIT:
            self._waiting.popleft()
            self._missed += 1
        self._waiting.append((told, trio.current_time() - age))
        self._news.set()

    async def pump(self, send: Send) -> None:
        """Pass on what is told, until `finish`."""
        while self._waiting or not self._over:
            if not self._waiting:
                self._news = trio.Event()
                await self._news.wait()
                continue
            told, happened = self._waiting.popleft()
            missed, self._missed = self._missed, 0
            age = max(0.0, trio.current_time() - happened)
            params = {"call": self._call, "event": event_name(told), "fields": told, "age": age, "missed": missed}
            await send({"jsonrpc": "2.0", "method": "told", "params": params})
        self._done.set()

    async def finish(self, *, drop: bool = False) -> None:
        """Wait until all that was told has gone, since the answer is the last that a call says; with `drop`, only until
        what has begun to go has gone."""
        self._over = True
        if drop:
            self._waiting.clear()
        self._news.set()
        await self._done.wait()


@contextlib.contextmanager
def listening(path: Path) -> Iterator[trio.socket.SocketType]:
    """A listening socket at `path`, mode 0600, taken away at the end. The caller holds the directory's lock.

    Raises RefusedError for what stands there and is no socket of ours, OSError.
    """
    _make_way(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as plain:
        with reachable(path) as address:
            plain.bind(address)
        # Until here only this user could reach it, since nobody else may enter the directory; a umask set for the
        # moment of binding would be that of all threads.
        path.chmod(0o600)
        ours = path.lstat().st_ino
        plain.listen(_BACKLOG)
        try:
            yield trio.socket.from_stdlib_socket(plain)
        finally:
            with contextlib.suppress(FileNotFoundError):
                if path.lstat().st_ino == ours:
                    path.unlink()


def _make_way(path: Path) -> None:
    """Take away the socket of a daemon that was killed: the lock shows that none runs."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if found.st_uid != os.geteuid():
        raise RefusedError(
            f"{path} belongs to another user (uid {found.st_uid}).",
            "It was not put there by this daemon: look who did, and remove it.",
        )
    if not stat.S_ISSOCK(found.st_mode):
        raise RefusedError(
            f"{path} is no socket.", "It was not put there by this daemon: look at it, and move it away."
        )
    path.unlink()


async def _say_goodbye(stream: trio.SocketStream, line: bytes) -> None:
    with trio.move_on_after(GOODBYE, shield=True), contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(line)


def _encoded(message: Mapping[str, Any]) -> bytes:
    line = msgspec.json.encode(message)
    if len(line) > LINE_LIMIT:
        error = RefusedError(
            f"The answer comes to {len(line):,} bytes; a line has at most {LINE_LIMIT:,}.", "Ask for less at once."
        )
        line = msgspec.json.encode(_failed(message.get("id"), error))
    return line + b"\n"


def _failed(number: int | str | None, error: TetherError) -> Mapping[str, Any]:
    kind = next(each.__name__ for each in type(error).__mro__ if each.__module__ == TetherError.__module__)
    data = {"kind": kind, "what": error.what, "advice": error.advice, "exit_code": error.exit_code}
    return {"jsonrpc": "2.0", "id": number, "error": {"code": error.exit_code, "message": str(error), "data": data}}


def _wrong(number: int | str | None, code: int, what: str) -> Mapping[str, Any]:
    error = UsageError(what) if code != INTERNAL_ERROR else TetherError(what)
    answer = _failed(number, error)
    return {**answer, "error": {**answer["error"], "code": code}}
