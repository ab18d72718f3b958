"""10,000 files of 1 KiB received and made durable, beside `cp -r` of the same and `sync`: medians of 3 after a warm-up.

    python -m tests.bench.trees [DIR]

DIR (default: the working directory) says which disk is measured. Reading, checking names, hashing, writing, flushing
and renaming are all counted; nothing goes over a network. Figures: docs/decisions/0004-durable-trees.md.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from meshd.drivers.payload import Began, Content, Ended, Failed
from meshd.drivers.tree_sink import FEW_ENTRIES, TreeSink
from meshd.drivers.tree_source import TreeSource
from meshd.wire.constants import CHUNK_SIZE
from tests.bench.kit import BenchError, spread, timed

DIRECTORIES = 100
FILES_EACH = 100
SIZE = 1024
RUNS = 3
ENTRIES = 1 + DIRECTORIES * (1 + FILES_EACH)


def make_tree(top: Path) -> None:
    """Files of noise, so that no file system makes them smaller."""
    for directory in range(DIRECTORIES):
        (top / str(directory)).mkdir(parents=True)
        for number in range(FILES_EACH):
            (top / str(directory) / str(number)).write_bytes(os.urandom(SIZE))


def receive(top: Path, into: Path, few: int) -> None:
    """All of `top` through a source and a sink that flushes up to `few` entries one by one."""
    source, sink = TreeSource([top]), TreeSink(into, few=few)
    source.scan()
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
            if refused:
                raise BenchError(refused)
    if (stored := sink.finish().entries) != ENTRIES:
        raise BenchError(f"{stored} of {ENTRIES} entries were stored")


def copy(top: Path, into: Path) -> None:
    """What a person would do instead."""
    subprocess.run(["cp", "-r", os.fspath(top), os.fspath(into)], check=True)
    os.sync()


def once(work: Callable[[], None], into: Path) -> float:
    """Seconds of one run into a new directory, on a disk with nothing else to write."""
    shutil.rmtree(into, ignore_errors=True)
    os.sync()
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def main(disk: Path = Path()) -> None:
    """Print the seconds of cp, and for both ways of flushing ours and the ratio."""
    with tempfile.TemporaryDirectory(dir=disk) as folder:
        top, into = Path(folder, "top"), Path(folder, "into")
        make_tree(top)
        theirs = timed(lambda: once(lambda: copy(top, into), into), RUNS)
        print(f"cp -r and sync, {ENTRIES:,} entries: {spread(theirs)} s", flush=True)
        for name, few in (("one flush for all", FEW_ENTRIES), ("one flush each", ENTRIES)):
            seconds = timed(partial(once, partial(receive, top, into, few), into), RUNS)
            ratio = statistics.median(seconds) / statistics.median(theirs)
            print(f"{name}: {spread(seconds)} s, {ratio:.1f} times as long as cp", flush=True)


if __name__ == "__main__":
    main(Path(*sys.argv[1:2]))
