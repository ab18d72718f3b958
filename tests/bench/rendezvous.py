"""What one rendezvous server carries: clients that wait, its memory, its CPU while they come and while they wait, and how
long it takes until two are told of each other.

    python -m tests.bench.rendezvous [CLIENTS [SECONDS]]

The server is a real process with its caps as they are. The clients are real too, in two processes: 16 for each loopback
address, as many as one source may have, each waiting under 4 topics with a card. Server and clients share the machine, so
with two cores the joining measures both. CPU is that of the server's process alone. Then pairs among those who wait meet:
first by topics, then by numbers, one after the other at a steady pace; a swap is the time from the second's word to the
moment at which both have their MATCH.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import trio

from meshd.drivers.quic import DialFailedError
from meshd.model.address import Address
from meshd.wire.rendezvous import Allocate, Enter, Leave, Match, Nat, Numbered, Observed, Side, Wait
from rendezvous.app import CONNECTIONS_PER_SOURCE
from tests.bench.idle import MIB, cpu_seconds, own_memory
from tests.bench.kit import ENVIRONMENT, BenchError
from tests.e2e.rendezvous_kit import Process, clients
from tests.rendezvous.kit import Caller

CLIENTS, SECONDS = 5_000, 60
WORKERS = 2
AT_ONCE = 48
"""Dials of a worker at once: more would wait for each other."""
TOPICS = 4
"""Under which each client waits: a mesh of five machines."""
CARD = bytes(428)
"""As long as a sealed card of eight addresses."""
SWAPS = 1_000
PACE = 0.01
"""Seconds between two swaps."""
WITHIN = 60.0


async def work(address: Address, worker: int, count: int) -> None:
    """The clients of one process. Says a JSON line when they all wait, and does what it is told on standard input."""
    callers: list[Caller] = []
    sources = -(-count // CONNECTIONS_PER_SOURCE)
    async with clients() as dial, trio.open_nursery() as nursery:
        limit = trio.CapacityLimiter(AT_ONCE)

        async def join(source: str, most: int) -> None:
            endpoint = None
            for _ in range(most):
                async with limit:
                    while True:
                        try:
                            caller = await dial(address, source, endpoint)
                            break
                        except DialFailedError:
                            await trio.sleep(1)  # as a client would
                    endpoint = caller.endpoint
                    ref = len(callers) + 1
                    callers.append(caller)
                    topics = [b"%4d%12d%16d" % (worker, ref, each) for each in range(TOPICS)]
                    await caller.say(*[Wait(1 + n, topic, Side.FIRST, CARD) for n, topic in enumerate(topics)])
                    await caller.hear(Observed, within=WITHIN)

        began = time.monotonic()
        async with trio.open_nursery() as joining:
            for number in range(sources):
                source = f"127.{10 + worker}.{number // 250}.{number % 250 + 1}"
                most = min(CONNECTIONS_PER_SOURCE, count - number * CONNECTIONS_PER_SOURCE)
                joining.start_soon(join, source, most)
        _say(joined=len(callers), seconds=time.monotonic() - began)
        while command := await trio.to_thread.run_sync(sys.stdin.readline):
            times = await (by_topics if command.strip() == "topics" else by_numbers)(callers, SWAPS // WORKERS)
            _say(times=times, lost=sum(each.connection.closed is not None for each in callers))
        nursery.cancel_scope.cancel()


async def by_topics(callers: list[Caller], swaps: int) -> list[float]:
    """Seconds of each: one waits already, the other comes."""
    times = []
    for number in range(swaps):
        one, other = _pair(callers, number)
        topic = b"%16d%16d" % (os.getpid(), number)
        await one.say(Wait(99, topic, Side.FIRST, CARD))
        await trio.sleep(PACE)
        times.append(await _until_both(one, other, Wait(99, topic, Side.SECOND, CARD)))
    return times


async def by_numbers(callers: list[Caller], swaps: int) -> list[float]:
    """Seconds of each: one has a number, the other enters it."""
    times = []
    for number in range(swaps):
        one, other = _pair(callers, number)
        await one.say(Allocate(99, Nat.UNKNOWN))
        found = await one.hear(Numbered, within=WITHIN)
        await trio.sleep(PACE)
        times.append(await _until_both(one, other, Enter(99, found.number, Nat.UNKNOWN)))
        await one.say(Leave(99))
    return times


def _pair(callers: list[Caller], number: int) -> tuple[Caller, Caller]:
    return callers[number * 7 % len(callers)], callers[(number * 7 + len(callers) // 2) % len(callers)]


async def _until_both(one: Caller, other: Caller, question: Wait | Enter) -> float:
    began = time.monotonic()
    await other.say(question)
    await other.hear(Match, within=WITHIN)
    await one.hear(Match, within=WITHIN)
    return time.monotonic() - began


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def _worker(address: Address, number: int, count: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.bench.rendezvous", "worker", str(address), str(number), str(count)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _hear(worker: "subprocess.Popen[str]") -> dict[str, Any]:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise BenchError("a worker ended early")
    found: dict[str, Any] = json.loads(line)
    return found


def main(how_many: int = CLIENTS, seconds: int = SECONDS) -> None:
    """Print what was measured, a line each."""
    with tempfile.TemporaryDirectory() as folder:
        server = Process(Path(folder))
        workers: list[subprocess.Popen[str]] = []
        try:
            server.start()
            empty = server.memory
            cpu, began = cpu_seconds(server.pid), time.monotonic()
            for number in range(WORKERS):
                count = how_many // WORKERS + (number < how_many % WORKERS)
                workers.append(_worker(server.address, number, count))
            joined = sum(_hear(worker)["joined"] for worker in workers)
            took, used = time.monotonic() - began, cpu_seconds(server.pid) - cpu
            print(
                f"{joined:,} clients joined in {took:.1f} s ({joined / took:.0f} a second): {1000 * used / joined:.2f} ms of a "
                f"core each, {100 * used / took:.0f} % of one meanwhile",
                flush=True,
            )
            time.sleep(20)  # what joining leaves to do is not waiting
            cpu = cpu_seconds(server.pid)
            time.sleep(seconds)
            used = cpu_seconds(server.pid) - cpu
            print(
                f"waiting for {seconds} s under {joined * TOPICS:,} topics: {100 * used / seconds:.1f} % of a core; "
                f"{server.memory / MIB:.0f} MiB resident ({own_memory(server.pid) / MIB:.0f} its own), "
                f"{(server.memory - empty) / joined / 1024:.1f} KiB a client above {empty / MIB:.0f} MiB",
                flush=True,
            )
            for how in ("topics", "numbers"):
                cpu, began = cpu_seconds(server.pid), time.monotonic()
                for worker in workers:
                    assert worker.stdin is not None
                    worker.stdin.write(f"{how}\n")
                    worker.stdin.flush()
                answers = [_hear(worker) for worker in workers]
                times = sorted(1000 * each for answer in answers for each in answer["times"])
                used = (cpu_seconds(server.pid) - cpu) / (time.monotonic() - began)
                lost = sum(answer["lost"] for answer in answers)
                print(
                    f"swap by {how}: median {statistics.median(times):.1f} ms, 99th percentile "
                    f"{times[int(len(times) * 0.99)]:.1f} ms, slowest {times[-1]:.1f} ms of {len(times):,}; "
                    f"{100 * used:.0f} % of a core meanwhile, {lost} clients lost",
                    flush=True,
                )
        finally:
            for worker in workers:
                worker.kill()
                worker.communicate()
            server.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        os.nice(5)  # the server is what is measured
        trio.run(work, Address.parse(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        main(*map(int, sys.argv[1:3]))
