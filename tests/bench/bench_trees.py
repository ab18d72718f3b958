"""10,000 files of 1 KiB received and made durable, beside `cp -r` of the same tree followed by `sync`.

`python tests/bench/bench_trees.py [DIR]`: DIR (default: the working directory) says which disk is measured. Reading,
checking names, hashing, writing, flushing and renaming are all counted; nothing goes over a network.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from meshd.drivers import tree_sink
from meshd.drivers.payload import CHUNK_SIZE, Began, Content, Ended, Failed
from meshd.drivers.tree_sink import TreeSink
from meshd.drivers.tree_source import TreeSource

DIRECTORIES = 100
FILES_EACH = 100
SIZE = 1024
RUNS = 3


def make_tree(top: Path) -> None:
    for directory in range(DIRECTORIES):
        (top / str(directory)).mkdir(parents=True)
        for number in range(FILES_EACH):
            (top / str(directory) / str(number)).write_bytes(os.urandom(SIZE))


def transfer(top: Path, into: Path) -> None:
    source = TreeSource([top])
    source.scan()
    sink = TreeSink(into)
    while pieces := source.pieces(CHUNK_SIZE):
        for piece in pieces:
            match piece:
                case Began(entry):
                    refused = sink.begin(entry)
                case Content(data):
                    refused = sink.write(data)
                case Ended(digest):
                    refused = sink.end(digest)
                case Failed(reason):
                    refused = reason
            assert refused is None, refused
    assert sink.finish().entries == DIRECTORIES * FILES_EACH + DIRECTORIES + 1


def copy(top: Path, into: Path) -> None:
    subprocess.run(["cp", "-r", os.fspath(top), os.fspath(into)], check=True)
    os.sync()


def best(job: Callable[[Path, Path], None], top: Path, into: Path) -> float:
    times = []
    for _ in range(RUNS):
        shutil.rmtree(into, ignore_errors=True)
        os.sync()
        start = time.perf_counter()
        job(top, into)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else ".") as scratch:
        top = Path(scratch, "top")
        make_tree(top)
        familiar = best(copy, top, Path(scratch, "into"))
        print(f"cp -r, sync          {familiar:6.2f} s")
        at_once = best(transfer, top, Path(scratch, "into"))
        print(f"one flush for all    {at_once:6.2f} s  {at_once / familiar:4.1f} x cp")
        tree_sink.FEW_ENTRIES = 1 << 30
        each = best(transfer, top, Path(scratch, "into"))
        print(f"one flush each       {each:6.2f} s  {each / familiar:4.1f} x cp")


if __name__ == "__main__":
    main()
