"""10,000 files of 1 KiB in one --send, beside `scp -r` of the same in the same run: medians of 3 after a warm-up.

    python -m tests.bench.small_files

Ours is timed from `paired` to the exit of both processes and ends with everything fsynced; scp as a whole process less
the time of an scp of one empty file, and syncs nothing.
"""

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.bench.kit import spread, sshd, timed
from tests.bench.transfer import ours, scp

FILES = 10_000
RUNS = 3


def scp_tree(options: list[str], source: Path, into: Path) -> float:
    """Seconds of one `scp -r` over loopback, into a new directory."""
    target = into / "scp-tree"
    shutil.rmtree(target, ignore_errors=True)
    user = os.environ.get("USER") or "root"
    begun = time.monotonic()
    subprocess.run(["scp", "-r", *options, str(source), f"{user}@127.0.0.1:{target}"], check=True)
    return time.monotonic() - begun


def our_tree(engine: str, source: Path, into: Path) -> float:
    """Seconds of one --send, into a new directory."""
    shutil.rmtree(into / source.name, ignore_errors=True)
    return ours(engine, source, into)


def main() -> None:
    """Print both times and the ratio, for each engine."""
    with tempfile.TemporaryDirectory() as folder, sshd() as options:
        source, empty, into = Path(folder, "tree"), Path(folder, "empty"), Path(folder, "into")
        for directory in (source, into):
            directory.mkdir()
        empty.touch()
        for number in range(FILES):
            (source / f"file-{number:05}").write_bytes(os.urandom(1024))
        start_up = statistics.median(timed(lambda: scp(options, empty, into), RUNS))
        theirs = [seconds - start_up for seconds in timed(lambda: scp_tree(options, source, into), RUNS)]
        print(f"scp -r, {FILES:,} files of 1 KiB: {spread(theirs)} s", flush=True)
        for engine in ("qh3", "aioquic"):
            seconds = timed(partial(our_tree, engine, source, into), RUNS)
            ratio = statistics.median(theirs) / statistics.median(seconds)
            print(f"tether_lite, {engine}: {spread(seconds)} s, {ratio:.2f} times as fast as scp -r", flush=True)


if __name__ == "__main__":
    main()
