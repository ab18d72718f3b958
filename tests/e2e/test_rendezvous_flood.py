"""Floods over loopback: they cost what they cost, and whoever is in gets done."""

import contextlib
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from meshd.drivers.quic import ConnectionClosedError, DialFailedError
from meshd.model.address import Address
from meshd.wire.rendezvous import CARD_LIMIT, Allocate, Enter, Free, Match, Nat, Numbered, Side, Wait
from rendezvous.app import CONNECTIONS_PER_SOURCE, FRAMES_AT_ONCE
from tests.e2e.rendezvous_kit import Process, ask, clients, processes
from tests.processes import WITHIN

MEMORY_CAP = 256 << 20
"""Bytes that the server may have resident through all of this: a small machine has four times as much."""

JUNK = 100_000
"""Datagrams."""

JUNK_PER_SECOND = 8_000
"""So fast: 60 Mbit/s, which take a sixth of a core. A flood without a pause fills the kernel's queue before the server, where
the packets of those who are in get lost too: that is the line's business and not the program's."""

RUN_SECONDS = 2.0
"""In which a pair meets at the height of a flood: half of what an attempt takes."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Process]:
    with processes(tmp_path) as make:
        yield make().start()


def junk(target: Address, most: int, over: Callable[[], bool]) -> int:
    """Send datagrams of all kinds from many ports; how many."""
    chance = random.Random(1)
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(50)]
    for number, each in enumerate(sockets):
        each.bind((f"127.9.{number}.9", 0))

    def initial(version: bytes) -> bytes:
        token = chance.randbytes(44) if chance.random() < 0.3 else b""
        start = b"\xc3" + version + b"\x08" + os.urandom(8) + b"\x08" + os.urandom(8) + bytes([len(token)]) + token
        return start + b"\x44\x80" + os.urandom(1180)

    made = [initial(b"\0\0\0\1") for _ in range(300)] + [initial(b"\x1a\x2a\x3a\x4a") for _ in range(50)]
    made += [b"\x40" + os.urandom(chance.randrange(1200)) for _ in range(300)]
    made += [os.urandom(chance.randrange(1, 1400)) for _ in range(300)] + [b"\x01" + bytes(17)] * 50
    sent, began = 0, time.monotonic()
    while sent < most or not over():
        if sent > (time.monotonic() - began) * JUNK_PER_SECOND:
            time.sleep(0.001)
        chance.choice(sockets).sendto(chance.choice(made), (target.host, target.port))
        sent += 1
    for each in sockets:
        each.close()
    return sent


async def keep_meeting(server: Process, times: list[float], rounds: int, flooded: Callable[[], bool]) -> None:
    """A pair that was connected before, and meets again and again: seconds from ENTER to both MATCH."""
    async with clients() as call:
        ann, ben = await call(server.address), await call(server.address)
        while len(times) < rounds or not flooded():
            await ann.say(Allocate(1, Nat.UNKNOWN))
            number = (await ann.hear(Numbered, within=WITHIN)).number
            began = time.monotonic()
            await ben.say(Enter(1, number, Nat.UNKNOWN))
            await ben.hear(Match, within=WITHIN)
            await ann.hear(Match, within=WITHIN)
            times.append(time.monotonic() - began)
            await ann.say(Free(1))
            await trio.sleep(0.15)


def judge(server: Process, times: list[float], what: str) -> None:
    print(
        f"{what}: {len(times)} meetings, the slowest {max(times) * 1000:.0f} ms; {server.memory / (1 << 20):.0f} MiB resident"
    )
    assert max(times) < RUN_SECONDS
    assert server.memory < MEMORY_CAP
    assert server.process is not None and server.process.poll() is None and "Traceback" not in server.log


def test_junk_stops_nobody(server: Process) -> None:
    times: list[float] = []
    sent: list[int] = []

    async def both() -> None:
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                sent.append(await trio.to_thread.run_sync(junk, server.address, JUNK, lambda: len(times) >= 10))

            nursery.start_soon(keep_meeting, server, times, 10, lambda: bool(sent))
            nursery.start_soon(flood)

    trio.run(both)
    assert sent[0] >= JUNK
    judge(server, times, f"{sent[0]:,} datagrams of junk")


def test_a_flood_of_topics_numbers_and_handshakes_stops_nobody(server: Process) -> None:
    """Three sources with all the connections that one may have, each of which asks until it is let go, and comes again."""
    times: list[float] = []
    asked = [0]

    async def flooder(call: Callable[..., Any], source: int) -> None:
        chance = random.Random(source)
        while len(times) < 20:
            with contextlib.suppress(ConnectionClosedError, DialFailedError, trio.TooSlowError):
                caller = await call(server.address, f"127.8.0.{source}")
                while len(times) < 20:
                    waits = [
                        Wait(chance.randrange(1, 1 << 32), chance.randbytes(32), Side.FIRST, bytes(CARD_LIMIT))
                        for _ in range(FRAMES_AT_ONCE // 4)
                    ]
                    await caller.say(Enter(1, chance.randrange(1, 100), Nat.UNKNOWN), *waits)
                    asked[0] += len(waits) + 1
                    await trio.sleep(0.02)

    async def both() -> None:
        async with trio.open_nursery() as nursery, clients() as call:
            for number in range(3 * CONNECTIONS_PER_SOURCE):
                nursery.start_soon(flooder, call, number // CONNECTIONS_PER_SOURCE + 1)
            await trio.sleep(1)
            await keep_meeting(server, times, 20, lambda: True)
            nursery.cancel_scope.cancel()

    trio.run(both)
    judge(server, times, f"{asked[0]:,} asks of {3 * CONNECTIONS_PER_SOURCE} connections")


def test_health_answers_meanwhile(tmp_path: Path) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with processes(tmp_path) as make:
        server = make().start(metrics=f"127.0.0.1:{port}")

        async def both() -> None:
            done: list[float] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, junk, server.address, 20_000, lambda: len(done) >= 10)
                for _ in range(10):
                    began = time.monotonic()
                    status, _ = await trio.to_thread.run_sync(ask, f"http://127.0.0.1:{port}/metrics")
                    assert status == 200
                    done.append(time.monotonic() - began)
            assert max(done) < RUN_SECONDS

        trio.run(both)
