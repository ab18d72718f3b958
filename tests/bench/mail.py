"""Two linked daemons: how soon a message is with its reader, and messages a second, beside Redis and NATS in the same run.

    python -m tests.bench.mail [DIRECTORY]

An agent on each daemon, each one connection. Latency is of paced messages, from the call of `send` on one to the return of
the other's `wait` with the message: it holds two commits, each flushed to the disk that DIRECTORY is on (default: the
temporary one), since nothing leaves a daemon before it is durable and nothing is shown before it is durable there. A burst
is sent as fast as one connection takes it; `send` returns when a message is durable at the sender, and the other end of
the time is that at which `wait` has returned the last.

Redis is one server that both ends talk to: one flush a message, not two. Core NATS flushes nothing and keeps nothing. What a
flush costs here is printed first; in a directory in memory, such as /dev/shm, all of it is the programs' own time.
"""

import contextlib
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

import trio

from meshd.client.session import AgentSession, open_session
from tests.bench.brokers import Broker, Nats, Redis, nats_server, redis_server
from tests.bench.daemons import linked_daemons
from tests.bench.kit import BenchError
from tests.daemons import Daemon

MESSAGES = 300
WARM_UP = 40
PACE = 0.05
"""Seconds from one message to the next."""

BURST = 5_000
SENDERS = 16
"""Calls under way at once on one connection: as many as it takes."""

TEXT = "x" * 200
PATIENCE = 120.0
DISK_TRIES = 100


class Measured:
    """What one system did."""

    def __init__(self, name: str, milliseconds: list[float], sent: float, arrived: float) -> None:
        self.name = name
        self.median = statistics.median(milliseconds)
        self.late = statistics.quantiles(milliseconds, n=100)[98]
        self.sent, self.arrived = BURST / sent, BURST / arrived

    def show(self) -> None:
        print(
            f"{self.name}: median {self.median:.2f} ms, 99 of 100 in {self.late:.2f} ms; burst of {BURST:,}: "
            f"{self.sent:,.0f} a second taken, {self.arrived:,.0f} a second with the reader",
            flush=True,
        )


def flush(directory: Path) -> float:
    """Milliseconds of a write of one page over an old one, and its flush: the least that a commit costs."""
    taken = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for number in range(2 * DISK_TRIES):
            file.seek(4096 * (number % DISK_TRIES))
            file.write(os.urandom(4096))
            file.flush()
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append(1000 * (time.perf_counter() - begun))
    return statistics.median(taken[DISK_TRIES:])


async def ours(ann: Daemon, bob: Daemon) -> Measured:
    """Between agents of two daemons."""
    with trio.fail_after(PATIENCE * 2):
        async with open_session(ann.state) as sender, open_session(bob.state) as reader:
            await sender.bind("ann")
            await reader.bind("bob")
            mailbox = _Mailbox(reader)
            taken = [await _one(sender, mailbox) for _ in range(WARM_UP + MESSAGES)][WARM_UP:]
            begun = time.perf_counter()
            sent = await _burst(sender, mailbox)
            return Measured("tether", taken, sent - begun, time.perf_counter() - begun)


class _Mailbox:
    """A reader's program: it asks for what came after what it has."""

    def __init__(self, session: AgentSession) -> None:
        self._session = session
        self._after: str | None = None

    async def receive(self) -> int:
        answer = await self._session.call("wait", seconds=PATIENCE, after=self._after, within=PATIENCE)
        self._after = answer["next"]
        return len(answer["messages"])


async def _one(sender: AgentSession, mailbox: _Mailbox) -> float:
    began = 0.0
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            nonlocal began
            await trio.sleep(PACE)  # the reader waits already, as readers do
            began = time.perf_counter()
            await sender.call("send", to="bob@bob", subject="paced", text=TEXT, wait=0.0)

        nursery.start_soon(send)
        if await mailbox.receive() != 1:
            raise BenchError("more than was sent came")
        return 1000 * (time.perf_counter() - began)


async def _burst(sender: AgentSession, mailbox: _Mailbox) -> float:
    """Send all and receive all; when the last was durable at the sender."""
    left, done = iter(range(BURST)), 0.0

    async def send() -> None:
        nonlocal done
        for number in left:
            await sender.call("send", to="bob@bob", subject=f"number {number}", text=TEXT, wait=0.0)
        done = time.perf_counter()

    async with trio.open_nursery() as nursery:
        for _ in range(SENDERS):
            nursery.start_soon(send)
        came = 0
        while came < BURST:
            came += await mailbox.receive()
    if came != BURST:
        raise BenchError(f"{came:,} came of {BURST:,}")
    return done


def theirs(name: str, connect: Callable[[], Broker]) -> Measured:
    """Between two connections to one server, the reader's in a thread of its own."""
    sender, came = connect(), SimpleQueue[float]()
    reader = connect()

    def read() -> None:
        for _ in range(WARM_UP + MESSAGES):
            if reader.receive() != 1:
                return
            came.put(time.perf_counter())
        left = BURST
        while left > 0:
            left -= reader.receive()
        came.put(time.perf_counter())

    threading.Thread(target=read, daemon=True).start()
    data, taken = TEXT.encode(), []
    for _ in range(WARM_UP + MESSAGES):
        time.sleep(PACE)
        begun = time.perf_counter()
        sender.send(data)
        taken.append(1000 * (came.get(timeout=PATIENCE) - begun))
    begun = time.perf_counter()
    sender.send(data, BURST)
    sent = time.perf_counter() - begun
    return Measured(name, taken[WARM_UP:], sent, came.get(timeout=PATIENCE) - begun)


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except BenchError as error:
        print(f"{name}: left out, {error}", flush=True)


def main(directory: Path | None = None) -> None:
    """Print a line for each, and how ours stands to the others."""
    others = []
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        print(f"one page flushed to this disk: {flush(Path(folder)):.2f} ms", flush=True)
        with linked_daemons("ann", "bob", directory=directory) as (ann, bob):
            here = trio.run(ours, ann, bob)
        here.show()
        with _explained("redis"), redis_server(Path(folder)) as port:
            others.append(theirs("redis, one server, each message flushed", lambda: Redis(port)))
            others[-1].show()
        with _explained("nats"), nats_server() as port:
            others.append(theirs("nats, one server, not durable", lambda: Nats(port)))
            others[-1].show()
    for each in others:
        print(
            f"tether to {each.name.partition(',')[0]}: {here.median / each.median:.2f} of its latency, "
            f"{here.arrived / each.arrived:.3f} of its rate",
            flush=True,
        )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
