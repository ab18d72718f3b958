"""kill -9 of a daemon inside a stream of writes: what a client was told is there afterwards, once, in chains that verify."""

import collections
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from meshd.model.announcement import Value
from meshd.store.database import Database
from meshd.wire.bodies import decode
from tests.daemons import ROOT, Daemon, daemons, eventually
from tests.e2e.daemon_kit import verified
from tests.e2e.daemon_writer import TABLE

WRITERS = 3
AT_LEAST = 30
"""Writes that the daemon acknowledges between two kills, so that each kill meets a stream of them."""

MOMENT = 0.3
"""Seconds, at most, from then to the kill."""


@contextmanager
def writers(state: Path, logs: Path) -> Iterator[list[Path]]:
    """Clients that write at once, each with a log of what was acknowledged to it."""
    made, paths = [], []
    try:
        for number in range(WRITERS):
            paths.append(logs / f"acknowledged-{number}")
            command = [sys.executable, "-m", "tests.e2e.daemon_writer", str(state), str(number), str(WRITERS)]
            with paths[-1].open("wb") as log:
                made.append(subprocess.Popen(command, cwd=ROOT, stdout=log))
        yield paths
        assert [each.poll() for each in made] == [None] * WRITERS, "a writer met an error that is not of a kill"
    finally:
        for each in made:
            each.kill()
            each.wait()


def acknowledged(logs: list[Path]) -> dict[int, str]:
    """Handles by number, of all whole lines."""
    lines = [line for log in logs for line in log.read_bytes().split(b"\n")[:-1]]
    return {int(number): handle for number, handle in (line.decode().split() for line in lines)}


def kill_again_and_again(daemon: Daemon, logs: list[Path], kills: int, chance: random.Random) -> None:
    for _ in range(kills):
        before = len(acknowledged(logs))
        eventually(lambda before=before: len(acknowledged(logs)) >= before + AT_LEAST, "writes go on")
        time.sleep(chance.random() * MOMENT)  # the moment is what is tried
        daemon.kill()
        daemon.start()


def check_store(path: Path, told: dict[int, str]) -> int:
    """Every acknowledged value once in chains that verify, and none twice; returns how many records there are."""
    seen: collections.Counter[int] = collections.Counter()
    count = 0
    with Database(path) as database:  # opening checks the file
        for record in verified(database):
            body = decode(record)
            if isinstance(body, Value) and body.table == TABLE:
                assert body.json is not None
                seen[msgspec.json.decode(body.json)["written"]] += 1
            count += 1
        assert database.handles.tables()[TABLE] == len(seen), "the view has what the chains have"
        for number, handle in told.items():
            digest = bytes.fromhex(handle.rpartition("_")[2])
            assert database.handles.value(TABLE, digest) == b'{"written":%d}' % number
    assert not told.keys() - seen.keys(), "acknowledged, and not there"
    assert set(seen.values()) == {1}, "written twice"
    return count


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.soak)])
def test_what_was_acknowledged_is_there_once(tmp_path: Path, kills: int) -> None:
    """Acceptance 6. The store is read after one kill more, without a daemon that could have mended it."""
    seed = random.randrange(2**32)
    print(f"\nseed {seed}")
    with daemons(tmp_path) as start:
        ann = start("ann")
        ann.tether("init")
        with writers(ann.state, tmp_path) as logs:
            kill_again_and_again(ann, logs, kills, random.Random(seed))
            before = len(acknowledged(logs))
            eventually(lambda: len(acknowledged(logs)) > before, "it is well after the last start")
            ann.kill()
        told = acknowledged(logs)
    (path,) = ann.state.glob("meshes/*/mesh.db")
    count = check_store(path, told)
    print(f"{kills} kills, {len(told)} acknowledged writes, {count} records, all there once")
