"""Lines of the control socket, as the client writes and reads them. docs/protocol/control.md."""

import json
from typing import Any, Final, NamedTuple

from meshd import errors
from meshd.errors import ConnectionLostError, TetherError, TimedOutError

LINE_LIMIT: Final = 1 << 20
"""Most bytes of a line without its line feed, either way: what is larger goes through a file."""

ANSWER_WITHIN: Final = 60.0
"""Seconds for an answer unless the caller says otherwise. A daemon answers in milliseconds, or is stopped or stuck."""

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
UNKNOWN_METHOD: Final = -32601
INTERNAL_ERROR: Final = -32603
"""What JSON-RPC 2.0 (section 5.1) calls these mistakes."""

_KINDS: Final[dict[str, type[TetherError]]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, TetherError)
}


class Told(NamedTuple):
    """What an operation told before its answer."""

    event: str
    """Its name, such as `link.up`."""

    fields: dict[str, Any]
    age: float
    """Seconds since it happened."""

    missed: int
    """How many before it were dropped, because this client did not read fast enough."""


class Answer(NamedTuple):
    """The end of a call that went well."""

    result: Any


def request(number: int, operation: str, arguments: dict[str, Any]) -> bytes:
    """The line that begins a call. Arguments that are None are left out: each means its default."""
    given = {name: value for name, value in arguments.items() if value is not None}
    line = json.dumps({"jsonrpc": "2.0", "id": number, "method": operation, "params": given}).encode()
    if len(line) > LINE_LIMIT:
        raise errors.RefusedError(
            f"The arguments of {operation} come to {len(line):,} bytes; a line has at most {LINE_LIMIT:,}.",
            "Give large content as a file.",
        )
    return line + b"\n"


def parsed(line: bytes) -> Any:
    """The message in a line. Raises ConnectionLostError where there is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _nonsense() from error


def understood(line: bytes, number: int) -> Told | Answer | None:
    """What a line from the daemon says of call `number`; None for another call's. Raises the error that the call ended with."""
    return meant(parsed(line), number)


def meant(message: Any, number: int) -> Told | Answer | None:
    """As `understood`, of a message that was parsed already."""
    try:
        if message.get("method") == "told":
            params = message["params"]
            if params["call"] != number:
                return None
            return Told(params["event"], params["fields"], float(params["age"]), int(params["missed"]))
        if "error" in message and message["id"] in (number, None):
            raise _error(message["error"])
        return Answer(message["result"]) if message["id"] == number else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _nonsense() from error


def _nonsense() -> ConnectionLostError:
    return ConnectionLostError("The daemon's answer makes no sense.", "Are both of the same version?")


def _error(error: dict[str, Any]) -> TetherError:
    data = error.get("data") or {}
    kind = _KINDS.get(data.get("kind", ""), TetherError)
    return kind(str(data.get("what", error.get("message", ""))), str(data.get("advice", "")))


def gone() -> ConnectionLostError:
    """The daemon hung up before its answer."""
    return ConnectionLostError(
        "The daemon ended before it answered.", "Whether it did what was asked is not known: look, then ask again."
    )


def silent() -> TimedOutError:
    """The daemon is there and says nothing."""
    return TimedOutError("The daemon does not answer.", "It may be stopped or very busy; see `tether service logs`.")


class Lines:
    """Bytes in, whole lines out."""

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> None:
        """Take what arrived."""
        self._buffer += data

    def next(self) -> bytes | None:
        """The next line without its end, or None when more bytes are needed. Raises ConnectionLostError on one too long."""
        # Looking again at what was searched before would cost the square of a line that comes byte by byte.
        end = self._buffer.find(b"\n", self._searched)
        if end > self._limit or (end < 0 and len(self._buffer) > self._limit):
            raise ConnectionLostError(f"A line on the control socket is longer than {self._limit:,} bytes.")
        if end < 0:
            self._searched = len(self._buffer)
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._searched = 0
        return line
