"""kill -9 of the daemons on both sides inside a stream of mail: all of it is there, none twice, in the sender's order."""

import contextlib
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshd.client import Client
from meshd.errors import ConnectionLostError, NobodyFoundError, TimedOutError
from meshd.store.database import Database
from tests.daemons import ROOT, WITHIN, Daemon, digests, eventually
from tests.e2e.daemon_kit import Start, database, pair, verified
from tests.e2e.mail_writer import SENDER

READER = "lee"

MOMENT = 0.15
"""Seconds, at most, from the first of some messages to the kill that meets them."""


@contextlib.contextmanager
def writer(state: Path, to: str, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """An agent that sends as much as it is told, with a log of what was acknowledged to it."""
    command = [sys.executable, "-m", "tests.e2e.mail_writer", str(state), to]
    with log.open("wb") as file:
        made = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=file, bufsize=0)
    try:
        yield made
    finally:
        made.kill()
        made.communicate()


def acknowledged(log: Path) -> list[tuple[int, str]]:
    """Number and handle, of all whole lines."""
    lines = [line.decode().split() for line in log.read_bytes().split(b"\n")[:-1]]
    return [(int(number), handle) for number, handle in lines]


class Follower:
    """A reader's program that asks again and again for what came after what it has, whatever happens to its daemon."""

    def __init__(self, state: Path) -> None:
        self.got: list[tuple[str, str]] = []
        """Subject and handle, in the order in which they came."""
        self._state, self._over = state, threading.Event()
        self._thread = threading.Thread(target=self._follow)

    def __enter__(self) -> "Follower":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _follow(self) -> None:
        after = None
        while not self._over.is_set():
            with Client(self._state) as client:
                try:
                    answer = client.call("wait", agent=READER, seconds=0.5, after=after)
                except TimedOutError:
                    continue
                except (ConnectionLostError, NobodyFoundError):
                    time.sleep(0.05)  # until the daemon is there again
                    continue
            self.got += [(each["subject"], each["full"]) for each in answer["messages"]]
            after = answer["next"]


def kill_again_and_again(
    ann: Daemon, ben: Daemon, writing: "subprocess.Popen[bytes]", log: Path, portions: list[int], chance: random.Random
) -> None:
    """Have each portion of messages sent, and kill one daemon or both meanwhile."""
    assert writing.stdin is not None
    for number, portion in enumerate(portions):
        before = len(acknowledged(log))
        writing.stdin.write(b"%d\n" % portion)
        eventually(lambda before=before: len(acknowledged(log)) > before, "mail is sent")
        time.sleep(chance.random() * MOMENT)  # the moment is what is tried
        killed = [[ann], [ben], [ann, ben]][number % 3]
        for each in killed:
            each.kill()
        for each in killed:
            each.start()
    writing.stdin.close()


def pages(daemon: Daemon, operation: str, **asked: object) -> list[dict[str, Any]]:
    """All messages of a list that comes in pages, as it has them."""
    found, after = [], None
    while True:
        page = daemon.call(operation, limit=40, after=after, **asked)
        found += page["messages"]
        after = page["next"]
        if not after:
            return found


def check_store(path: Path, told: dict[int, str]) -> int:
    """Every message once, in chains that verify; returns how many records there are."""
    with Database(path) as opened:  # opening checks the file
        count = len(list(verified(opened)))
        for handle in told.values():
            assert opened.mail.letter(bytes.fromhex(handle.rpartition("_")[2])) is not None, handle
    return count


def states(daemon: Daemon) -> set[str]:
    """Where what the writer has sent stands."""
    return {each["state"] for each in pages(daemon, "sent", agent=SENDER)}


@pytest.mark.parametrize(("count", "kills"), [(150, 6), pytest.param(1_000, 40, marks=pytest.mark.soak)])
def test_mail_comes_once_and_in_order(start: Start, tmp_path: Path, count: int, kills: int) -> None:
    """Acceptance 3."""
    seed = random.randrange(2**32)
    print(f"\nseed {seed}")
    ann, ben = pair(start)
    log = tmp_path / "acknowledged"
    portions = [len(range(first, count, kills)) for first in range(kills)]
    with Follower(ben.state) as follower, writer(ann.state, f"{READER}@ben", log) as writing:
        kill_again_and_again(ann, ben, writing, log, portions, random.Random(seed))
        assert writing.wait(WITHIN) == 0, "the writer met an error that is not of a kill"
        told = dict(acknowledged(log))
        assert list(told) == list(range(count))
        eventually(lambda: len(follower.got) >= count, "all has come")
        eventually(lambda: "stored" not in states(ann), "ann knows that it has")
    expected = [(f"number {number}", handle) for number, handle in told.items()]
    assert follower.got == expected, "each once, in the order in which they were sent"
    received = pages(ben, "inbox", agent=READER)
    assert [(each["subject"], each["full"]) for each in received][::-1] == expected
    sent = pages(ann, "sent", agent=SENDER)
    assert [each["full"] for each in sent][::-1] == list(told.values())
    eventually(lambda: digests(ann) == digests(ben), "both show the same")
    assert ann.stop() == ben.stop() == 0
    records = [check_store(database(each), told) for each in (ann, ben)]
    print(f"{kills} times killed, {count:,} messages, all there once; {records[0]:,} records")
    assert records[0] == records[1]
