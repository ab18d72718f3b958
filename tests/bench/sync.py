"""What it costs two machines with long equal histories to exchange what differs: bytes on the wire, and seconds.

    python -m tests.bench.sync [--records 200000] [--different 100] [--engine qh3]

Both machines have real stores and journals and speak QUIC; datagrams are counted with their IP and UDP headers on a
simulated network of 1 ms, from the first packet to equal heads on both sides. `--records 1000000` must not cost more.
Seconds are those of the two machines on this one processor plus the network's.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import trio
import trio.testing

from meshd.drivers.link import Link, PathKind
from tests.bench.kit import BenchError
from tests.drivers.journal_kit import Machine, machine, value
from tests.drivers.pairs import endpoints
from tests.model.mesh_kit import Mesh

BYTES_GOAL = 200 * 1024
SECONDS_GOAL = 1.0
BATCH = 500
PATIENCE = 60.0


async def write(mesh: Mesh, records: int, folder: Path) -> None:
    """A history of so many records by a third machine, under the name of each of the two."""
    async with machine(mesh, "w", folder) as w:
        for start in range(0, records, BATCH):
            await w.journal.append(*(value({"n": number, "t": "x" * 60}) for number in range(start, start + BATCH)))
    for name in ("a", "b"):
        shutil.copy(folder / "w.db", folder / f"{name}.db")


async def exchange(mesh: Mesh, different: int, folder: Path, engine: str) -> tuple[int, float]:
    """Bytes and seconds until both hold all."""
    async with machine(mesh, "a", folder) as a, machine(mesh, "b", folder) as b:
        for each in (a, b):
            each.journal.heard_of_ourselves()
            await each.journal.append(*(value([each.name, number]) for number in range(different // 2)))
        async with endpoints((engine, engine), delay=0.001, accept=True) as world, trio.open_nursery() as nursery:
            counted = 0

            def count(data: bytes, source: object, target: object) -> None:
                nonlocal counted
                counted += len(data) + 28

            world.network.tap = count
            begun, virtual = time.perf_counter(), trio.current_time()
            near = await world.client.dial(world.target, timeout=20)
            far = await world.server.accept()
            near.admit()
            far.admit()
            stream = await near.open_stream()
            await stream.send_all(b".")
            theirs = await far.accept_stream()
            await theirs.receive_some(1)
            now = trio.current_time()
            links = (
                Link(mesh.id, b.journal.keys.identity, near, PathKind.LAN, now),
                Link(mesh.id, a.journal.keys.identity, far, PathKind.ACCEPTED, now),
            )
            nursery.start_soon(a.syncing.serve, links[0], stream)
            nursery.start_soon(b.syncing.serve, links[1], theirs)
            with trio.move_on_after(PATIENCE):
                while not equal(a, b):
                    await trio.sleep(0.001)
            seconds = time.perf_counter() - begun + trio.current_time() - virtual
            if not equal(a, b):
                raise BenchError("the two never agreed")
            nursery.cancel_scope.cancel()
    return counted, seconds


def equal(a: Machine, b: Machine) -> bool:
    """Whether both hold the same records."""
    return a.journal.heads() == b.journal.heads()


def run(records: int, different: int, engine: str) -> tuple[int, float]:
    """One history, one exchange."""

    async def both() -> tuple[int, float]:
        mesh = Mesh()
        mesh.admit("f", "a", "b", "w")
        with tempfile.TemporaryDirectory() as folder:
            await write(mesh, records, Path(folder))
            return await exchange(mesh, different, Path(folder), engine)

    return trio.run(both, clock=trio.testing.MockClock(autojump_threshold=0))


def main(arguments: list[str] | None = None) -> None:
    """Print both figures beside their goals."""
    parser = argparse.ArgumentParser(description="Bytes and seconds of bringing two machines up to date.")
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--different", type=int, default=100)
    parser.add_argument("--engine", default="qh3")
    chosen = parser.parse_args(arguments)
    counted, seconds = run(chosen.records, chosen.different, chosen.engine)
    print(
        f"sync, {chosen.records:,} equal and {chosen.different} different records: {counted / 1024:.1f} KiB on the wire"
        f" ({counted / BYTES_GOAL:.2f} of the goal), {seconds:.2f} s ({seconds / SECONDS_GOAL:.2f} of the goal)",
        flush=True,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
