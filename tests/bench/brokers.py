"""Message brokers to set ours beside: a server of our own on a free loopback port, spoken to in its plain protocol.

Both protocols are a few lines of text, so that what is timed is the server and no client library.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from tests.bench.kit import BenchError

PATIENCE = 60.0


class Broker(Protocol):
    """One connection of a program to a server."""

    def send(self, data: bytes, count: int = 1) -> None:
        """Have the server take `count` messages, all under way at once; return when it has said that it has them."""

    def receive(self) -> int:
        """Wait for messages and return how many came."""


class _Connection:
    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")

    def _line(self) -> bytes:
        line = self._file.readline()
        if not line:
            raise BenchError("the server hung up")
        return line.rstrip(b"\r\n")


class Redis(_Connection):
    """A stream in Redis: XADD and XREAD, by RESP."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._last = b"0"

    def send(self, data: bytes, count: int = 1) -> None:
        command = self._command(b"XADD", b"mail", b"*", b"m", data)
        self._socket.sendall(command * count)
        for _ in range(count):
            self._reply()

    def receive(self) -> int:
        self._socket.sendall(self._command(b"XREAD", b"COUNT", b"200", b"BLOCK", b"0", b"STREAMS", b"mail", self._last))
        ((_, entries),) = self._reply()
        self._last = entries[-1][0]
        return len(entries)

    @staticmethod
    def _command(*words: bytes) -> bytes:
        return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)

    def _reply(self) -> Any:
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"-":
            raise BenchError(f"Redis: {rest.decode()}")
        if kind == b"$":
            return self._file.read(int(rest) + 2)[:-2] if int(rest) >= 0 else None
        if kind == b"*":
            return [self._reply() for _ in range(int(rest))]
        return rest


class Nats(_Connection):
    """A subject in core NATS: what nobody listens to is lost, and nothing is on disk."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._line()  # what the server says of itself
        self._socket.sendall(b'CONNECT {"verbose":false}\r\nSUB mail 1\r\nPING\r\n')
        self._until_pong()

    def send(self, data: bytes, count: int = 1) -> None:
        self._socket.sendall((b"PUB mail %d\r\n%b\r\n" % (len(data), data)) * count + b"PING\r\n")
        self._until_pong()

    def receive(self) -> int:
        while True:
            line = self._line()
            if line.startswith(b"MSG "):
                self._file.read(int(line.split()[-1]) + 2)
                return 1
            self._answer(line)

    def _until_pong(self) -> None:
        while (line := self._line()) != b"PONG":
            self._answer(line)

    def _answer(self, line: bytes) -> None:
        if line == b"PING":
            self._socket.sendall(b"PONG\r\n")
        elif line.startswith(b"-ERR"):
            raise BenchError(f"NATS: {line.decode()}")
        elif line.startswith(b"MSG "):
            self._file.read(int(line.split()[-1]) + 2)  # our own message: every connection here listens


@contextlib.contextmanager
def redis_server(directory: Path) -> Iterator[int]:
    """A redis-server that flushes its log before it answers; its port."""
    options = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    with _server("redis-server", "--bind", "127.0.0.1", "--dir", str(directory), *options) as port:
        yield port


@contextlib.contextmanager
def nats_server() -> Iterator[int]:
    """A nats-server without JetStream; its port."""
    with _server("nats-server", "--addr", "127.0.0.1") as port:
        yield port


@contextlib.contextmanager
def _server(name: str, *options: str) -> Iterator[int]:
    path = shutil.which(name) or shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if path is None:
        raise BenchError(f"{name} is not installed (Debian: {name})")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([path, *options, "--port", str(port)], stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        give_up = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > give_up:
                raise BenchError(f"{name} did not start")
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()
