"""Two linked daemons: records a second, how soon a value is on the other one, and MiB/s of a file beside scp.

    python -m tests.bench.replicate [RECORDS] [MIB]

Records are written on one by several clients at once, each write acknowledged when it is durable, and counted until the
other has the last. Latency is from the call of `collapse` on one to the return of `resolve` on the other, so it holds two
commits and two round trips on the control socket. A file is timed from the start of `tether put` on one to the end of
`tether get` on the other: hashed, stored, announced, moved, checked, stored, written out; three copies are made. scp
makes one, as a whole process less the time of an scp of an empty file.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path

from meshd.client import Client
from tests.bench.daemons import linked_daemons
from tests.bench.kit import BenchError, spread, sshd, timed
from tests.daemons import Daemon, digests

RECORDS = 5000
WRITERS = 8
LATENCIES = 200
SIZE = 256
RUNS = 3
MIB = 1 << 20
DEADLINE = 120.0


def write(daemon: Daemon, numbers: range) -> None:
    """Values that are all different, one after the other."""
    with Client(daemon.state) as client:
        for number in numbers:
            client.call("collapse", json=f'{{"number":{number},"text":"{"x" * 100}"}}', table="bench")


def records(source: Daemon, target: Daemon, total: int) -> None:
    """Print how fast they are written, and how fast they arrive."""
    begun = time.monotonic()
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(partial(write, source), [range(first, total, WRITERS) for first in range(WRITERS)]))
    written = time.monotonic() - begun
    wanted = digests(source)
    while digests(target) != wanted:
        if time.monotonic() > begun + DEADLINE:
            raise BenchError("not all records came")
        time.sleep(0.01)
    arrived = time.monotonic() - begun
    print(
        f"{total:,} records by {WRITERS} clients: {total / written:.0f} a second durable here, "
        f"{total / arrived:.0f} a second on both",
        flush=True,
    )


def latency(source: Daemon, target: Daemon) -> None:
    """Print the milliseconds from `collapse` here to `resolve` there."""
    with Client(source.state) as here, Client(target.state) as there:
        numbers = count()

        def once() -> float:
            begun = time.monotonic()
            handle = here.call("collapse", json=f'"latency {next(numbers)}"')["full"]
            there.call("resolve", handle=handle)
            return 1000 * (time.monotonic() - begun)

        taken = timed(once, LATENCIES)
    ninety_ninth = statistics.quantiles(taken, n=100)[98]
    print(f"collapse to resolve: {spread(taken, 1)} ms, 99 of 100 in {ninety_ninth:.1f} ms", flush=True)


def random_file(path: Path, size: int) -> None:
    """Noise, and so another blob each time."""
    with path.open("wb") as file:
        for _ in range(size):
            file.write(os.urandom(MIB))


def ours(source: Daemon, target: Daemon, path: Path, size: int) -> tuple[float, float]:
    """Seconds of `tether put` and of `tether get`."""
    random_file(path, size)
    begun = time.monotonic()
    handle = source.tether("put", str(path), within=DEADLINE).out
    stored = time.monotonic()
    target.tether("get", handle, "-o", str(path.with_name("got")), "--overwrite", within=DEADLINE)
    return stored - begun, time.monotonic() - stored


def scp(options: list[str], source: Path, into: Path) -> float:
    """Seconds of one scp over loopback."""
    user = os.environ.get("USER") or "root"
    begun = time.monotonic()
    subprocess.run(["scp", *options, str(source), f"{user}@127.0.0.1:{into}"], check=True)
    return time.monotonic() - begun


def files(source: Daemon, target: Daemon, size: int) -> None:
    """Print the rates of put and get, and of both beside scp."""
    with tempfile.TemporaryDirectory() as folder, sshd() as options:
        path, empty, into = Path(folder, "payload"), Path(folder, "empty"), Path(folder, "scp")
        empty.touch()
        random_file(path, size)
        start_up = statistics.median(timed(lambda: scp(options, empty, into), RUNS))
        theirs = [size / (each - start_up) for each in timed(lambda: scp(options, path, into), RUNS)]
        taken = [ours(source, target, path, size) for _ in range(RUNS + 1)][1:]
    put, get, both = (
        [size / each for each in seconds]
        for seconds in ([put for put, _ in taken], [get for _, get in taken], [sum(each) for each in taken])
    )
    print(f"scp, {size} MiB: {spread(theirs, 1)} MiB/s", flush=True)
    print(f"tether put: {spread(put, 1)} MiB/s; tether get: {spread(get, 1)} MiB/s", flush=True)
    ratio = statistics.median(both) / statistics.median(theirs)
    print(f"both, one after the other: {spread(both, 1)} MiB/s, {ratio:.2f} of scp", flush=True)


def main(total: int = RECORDS, size: int = SIZE) -> None:
    """Print all of it."""
    with linked_daemons("ann", "bob") as (ann, bob):
        records(ann, bob, total)
        latency(ann, bob)
        files(ann, bob, size)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
