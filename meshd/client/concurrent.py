"""The client for trio: many calls at once, each cancelled by cancelling its task."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trio

from meshd import config
from meshd.client import sockets
from meshd.client.lines import ANSWER_WITHIN, Answer, Lines, Told, gone, request, silent, understood

CALLS_AT_ONCE: Final = 16
"""Calls of one client under way at once; more wait their turn. The daemon takes a bounded number of connections."""

_RECEIVED_AT_ONCE: Final = 1 << 16


class AsyncClient:
    """Calls to the daemon of a state directory (None: as TETHER_STATE says, else the usual one).

    Each call has a connection of its own, since hanging up is what cancels it in the daemon. There is nothing to close.
    """

    def __init__(self, state: Path | str | None = None) -> None:
        self.state = config.state_directory(state)
        self._turns = trio.CapacityLimiter(CALLS_AT_ONCE)

    async def call(
        self,
        operation: str,
        /,
        *,
        tell: Callable[[Told], None] | None = None,
        within: float | None = ANSWER_WITHIN,
        **arguments: Any,
    ) -> Any:
        """As `meshd.client.Client.call`; `tell` is called in this task."""
        line = request(1, operation, arguments)
        async with self._turns:
            stream = await connected_stream(self.state)
            with stream.socket:
                await _send(stream, line)
                return await _answer(stream, tell, within)


async def connected_stream(state: Path) -> trio.SocketStream:
    """A connection to the daemon of a state directory. Raises TetherError where none of this user answers."""
    path = state / sockets.SOCKET_NAME
    connected = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        with trio.fail_after(ANSWER_WITHIN):
            with sockets.reachable(path) as address:
                await connected.connect(address)
            sockets.check_daemon(connected, path)
    except BaseException as error:
        connected.close()
        if isinstance(error, trio.TooSlowError):
            raise silent() from error
        if isinstance(error, OSError):
            raise sockets.unreachable(error, path) from error
        raise
    return trio.SocketStream(connected)


async def _send(stream: trio.SocketStream, line: bytes) -> None:
    try:
        with trio.fail_after(ANSWER_WITHIN):
            await stream.send_all(line)
    except trio.TooSlowError as error:
        raise silent() from error
    except trio.BrokenResourceError as error:
        raise gone() from error


async def _answer(stream: trio.SocketStream, tell: Callable[[Told], None] | None, within: float | None) -> Any:
    lines = Lines()
    while True:
        try:
            with trio.fail_after(float("inf") if within is None else within):
                while (line := lines.next()) is None:
                    data = await stream.receive_some(_RECEIVED_AT_ONCE)
                    if not data:
                        raise gone()
                    lines.feed(data)
        except trio.TooSlowError as error:
            raise silent() from error
        except trio.BrokenResourceError as error:
            raise gone() from error
        message = understood(line, 1)
        if isinstance(message, Answer):
            return message.result
        if message is not None and tell is not None:
            tell(message)
