"""Daemons for benchmarks: on loopback, linked with each other, in a directory that goes with the block."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.daemons import Daemon, all_linked, daemons, join


@contextlib.contextmanager
def linked_daemons(*names: str, directory: Path | None = None) -> Iterator[list[Daemon]]:
    """A daemon of each name in one mesh that the first founded, once all are linked; their disk is that of `directory`."""
    with tempfile.TemporaryDirectory(dir=directory) as folder, daemons(Path(folder)) as start:
        first, *others = made = [start(name) for name in names]
        first.tether("init", "--mesh", "bench", "--name", first.name)
        for each in others:
            join(first, each)
        all_linked(*made)
        yield made
