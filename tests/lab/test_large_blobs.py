"""Blobs that fit in no memory: a receiver that is killed half way, and a holder that is slow. Acceptance 4."""

import contextlib
import filecmp
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from meshd.client import Client
from meshd.errors import ConnectionLostError
from tests.daemons import Daemon, all_linked, eventually
from tests.lab.network import run

MIB = 1 << 20
MOST_MEMORY = 200 * MIB
"""Resident bytes that no daemon may ever have."""

MOST_AGAIN = 16 * MIB
"""Bytes that may move a second time because the receiver was killed."""

SIZES = [256 * MIB, pytest.param(2048 * MIB, marks=pytest.mark.soak)]
NAMED = ["256MiB", "2GiB"]


def random_file(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
    return path


def received(daemon: Daemon) -> int:
    """Bytes that ever came in at its machine's interface."""
    return int(run(*daemon.prefix, "cat", "/sys/class/net/eth0/statistics/rx_bytes"))


class Getting:
    """`tether get` in a thread, with what it tells."""

    def __init__(self, daemon: Daemon, handle: str, out: Path) -> None:
        self.told: list[dict[str, Any]] = []
        self.answer: dict[str, Any] | None = None
        self._asked = (daemon, handle, out)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        daemon, handle, out = self._asked
        with Client(daemon.state) as client, contextlib.suppress(ConnectionLostError):
            self.answer = client.call(
                "get", tell=lambda told: self.told.append(told.fields), within=None, handle=handle, out=str(out)
            )

    @property
    def done(self) -> int:
        """Verified bytes that it last told of."""
        return self.told[-1]["done"] if self.told else 0

    def ended(self, within: float) -> dict[str, Any] | None:
        """Its answer; None when the daemon ended first."""
        self._thread.join(within)
        assert not self._thread.is_alive(), f"no end; last told {self.told[-1:]}"
        return self.answer


def show_memory(*daemons: Daemon) -> None:
    print("peaks in MiB:", {each.name: each.peak // MIB for each in daemons})
    assert all(20 * MIB < each.peak < MOST_MEMORY for each in daemons), "below 20 MiB nothing was measured"


@pytest.mark.parametrize("size", SIZES, ids=NAMED)
def test_a_receiver_killed_at_half(mesh, tmp_path, size):
    """What was verified does not move again; on the wire all that moved twice is at most 16 MiB."""
    ann, bob = mesh("ann", "bob")
    handle = ann.tether("put", str(random_file(tmp_path / "source", size)), within=300).out
    out, before = bob.directory / "copy", received(bob)
    first = Getting(bob, handle, out)
    eventually(lambda: first.done >= size // 2 or first.answer, "half of it is there", 300)
    show_memory(ann, bob)
    bob.kill()
    assert first.ended(10) is None, "it was over before it was killed"
    moved_first, half = received(bob) - before, first.done

    bob.start()
    all_linked(ann, bob)
    before = received(bob)
    second = Getting(bob, handle, out)
    answer = second.ended(300)
    assert answer is not None and filecmp.cmp(out, tmp_path / "source", shallow=False)
    kept = size - answer["moved"]
    # Headers and acknowledgements cross the wire too, in the same proportion both times.
    per_byte = (received(bob) - before) / answer["moved"]
    again = moved_first / per_byte + answer["moved"] - size
    print(
        f"\nkilled after {half // MIB} MiB: {kept // MIB} MiB kept, {answer['moved'] // MIB} MiB moved then in "
        f"{answer['seconds']:.1f} s ({answer['moved'] / MIB / answer['seconds']:.0f} MiB/s), {again / MIB:.1f} MiB twice"
    )
    assert kept >= half, "verified chunks moved again"
    assert again <= MOST_AGAIN
    show_memory(ann, bob)


def limit(daemon: Daemon, rate: int) -> None:
    """Set its upload limit while it runs."""
    (daemon.state / "config.toml").write_text(f"upload_limit = {rate}\n")
    assert daemon.json("reload")["changed"] in ([], ["upload_limit"])


@pytest.mark.parametrize(
    ("size", "rate"), [(192 * MIB, 32 * MIB), pytest.param(2048 * MIB, 64 * MIB, marks=pytest.mark.soak)]
)
def test_a_slow_holder_does_not_set_the_pace(mesh, tmp_path, size, rate):
    """Two hold it, one gives a tenth of what the other gives: it takes about as long as from the fast one alone."""
    ann, bob, cat = mesh("ann", "bob", "cat")
    handles = []
    for name in ("one", "other"):
        handles.append(ann.tether("put", str(random_file(tmp_path / name, size)), within=300).out)
        eventually(lambda: cat.run("get", handles[-1], "-o", "copy", "--overwrite", within=300).code == 0, "cat has it")
    limit(ann, rate)
    limit(cat, rate // 10)
    took = []
    for name, handle in zip(("one", "other"), handles, strict=True):
        began = time.monotonic()
        if name == "one":
            cat.stop()
        else:
            cat.start()
            all_linked(ann, bob, cat)
            began = time.monotonic()
        answer = Getting(bob, handle, bob.directory / name).ended(300)
        took.append(time.monotonic() - began)
        assert answer is not None and filecmp.cmp(bob.directory / name, tmp_path / name, shallow=False)
    alone, both = took
    print(f"\n{size // MIB} MiB at {rate // MIB} MiB/s alone: {alone:.1f} s; with one at a tenth beside: {both:.1f} s")
    assert alone > 0.8 * size / rate, "the limit did not hold"
    assert both < 1.15 * alone + 1
    show_memory(ann, bob, cat)
