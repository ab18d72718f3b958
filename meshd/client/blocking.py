"""The client that waits, for commands and scripts. It imports no event loop."""

import itertools
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from meshd import config
from meshd.client import sockets
from meshd.client.lines import ANSWER_WITHIN, Answer, Lines, Told, gone, request, silent, understood

_RECEIVED_AT_ONCE: Final = 1 << 16


class Client:
    """One connection to the daemon of a state directory (None: as TETHER_STATE says, else the usual one).

    Calls go one after another; a client belongs to one thread. When a call ends by anything but its answer, the
    connection is closed, which cancels it in the daemon; the next call opens another.
    """

    def __init__(self, state: Path | str | None = None) -> None:
        self.state = config.state_directory(state)
        self._socket: socket.socket | None = None
        self._lines = Lines()
        self._numbers = itertools.count(1)

    def call(
        self,
        operation: str,
        /,
        *,
        tell: Callable[[Told], None] | None = None,
        within: float | None = ANSWER_WITHIN,
        **arguments: Any,
    ) -> Any:
        """Carry out an operation of the registry and return its answer, as JSON gives it.

        `tell` gets what the operation tells before it is done; `within` is how many seconds to wait for the next line
        from the daemon, None for ever. Raises the daemon's TetherError, NobodyFoundError when none runs,
        ConnectionLostError when it ends first (what was asked may or may not be done), TimedOutError.
        """
        number = next(self._numbers)
        line = request(number, operation, arguments)
        try:
            connected = self.connect()
            _send(connected, line)
            while True:
                message = understood(self._next_line(connected, within), number)
                if isinstance(message, Answer):
                    return message.result
                if message is not None and tell is not None:
                    tell(message)
        except BaseException:
            # Also after an interruption: what is left of this call on the connection belongs to nobody.
            self.close()
            raise

    def connect(self) -> socket.socket:
        """Reach the daemon now, so that whoever has much to prepare for a call learns first whether there is one."""
        if self._socket is None:
            path = self.state / sockets.SOCKET_NAME
            fresh = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                fresh.settimeout(ANSWER_WITHIN)
                with sockets.reachable(path) as address:
                    fresh.connect(address)
                sockets.check_daemon(fresh, path)
            except OSError as error:
                fresh.close()
                raise sockets.unreachable(error, path) from error
            except BaseException:
                fresh.close()
                raise
            self._socket, self._lines = fresh, Lines()
        return self._socket

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next_line(self, connected: socket.socket, within: float | None) -> bytes:
        end = None if within is None else time.monotonic() + within
        while (line := self._lines.next()) is None:
            try:
                connected.settimeout(None if end is None else max(0.001, end - time.monotonic()))
                data = connected.recv(_RECEIVED_AT_ONCE)
            except TimeoutError as error:
                raise silent() from error
            except OSError as error:
                raise gone() from error
            if not data:
                raise gone()
            self._lines.feed(data)
        return line


def _send(connected: socket.socket, line: bytes) -> None:
    try:
        connected.settimeout(ANSWER_WITHIN)
        connected.sendall(line)
    except TimeoutError as error:
        raise silent() from error
    except OSError as error:
        raise gone() from error
