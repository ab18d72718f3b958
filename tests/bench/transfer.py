"""MiB/s of one 512 MiB file, beside scp of the same file in the same run, for each engine: medians of 3 after a warm-up.

    python -m tests.bench.transfer [MIB]

Ours is timed from `paired` to the exit of both processes, scp as a whole process less the time of an scp of an empty file
(start-up and key exchange), so that both figures are those of moving bytes to a file that is fsynced (ours) or not (scp).
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.bench.kit import Side, sides, spread, sshd, timed

RUNS = 3


def ours(engine: str, source: Path, into: Path) -> float:
    """Seconds from paired to both ended."""
    listener = Side("listen", "--quic-engine", engine, "--into", str(into), "--overwrite")
    with sides(listener):
        _, waiting = listener.wait_for("waiting")
        peer = f"127.0.0.1:{waiting['port']}"
        connector = Side("connect", "--quic-engine", engine, "--peer", peer, "--send", str(source))
        with sides(connector):
            begun, _ = connector.wait_for("paired")
            connector.finish()
            listener.finish()
            return time.monotonic() - begun


def scp(options: list[str], source: Path, into: Path) -> float:
    """Seconds of one scp over loopback."""
    user = os.environ.get("USER") or "root"
    begun = time.monotonic()
    subprocess.run(["scp", *options, str(source), f"{user}@127.0.0.1:{into}/scp"], check=True)
    return time.monotonic() - begun


def main() -> None:
    """Print scp's rate, and for each engine ours and the ratio."""
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 512
    with tempfile.TemporaryDirectory() as folder, sshd() as options:
        source, empty, into = Path(folder, "payload"), Path(folder, "empty"), Path(folder, "into")
        into.mkdir()
        empty.touch()
        with source.open("wb") as file:
            for _ in range(size):
                file.write(os.urandom(1 << 20))
        start_up = statistics.median(timed(lambda: scp(options, empty, into), RUNS))
        theirs = [size / (seconds - start_up) for seconds in timed(lambda: scp(options, source, into), RUNS)]
        print(f"scp, {size} MiB: {spread(theirs, 1)} MiB/s", flush=True)
        for engine in ("qh3", "aioquic"):
            rates = [size / seconds for seconds in timed(partial(ours, engine, source, into), RUNS)]
            ratio = statistics.median(rates) / statistics.median(theirs)
            print(f"tether_lite, {engine}: {spread(rates, 1)} MiB/s, {ratio:.2f} of scp", flush=True)


if __name__ == "__main__":
    main()
