"""A daemon with nothing to do, linked with two others: memory and CPU over 60 s, and the wall time of `tether status`.

    python -m tests.bench.idle [SECONDS]

Goals: 60 MiB resident, 0.5 % of a core, 150 ms. The three have been started anew, as after a boot: what only pairing
needs is not loaded. Memory is what the kernel counts as resident, code shared with other processes included; the
second figure is what a process has for itself alone.
"""

import os
import sys
import time
from pathlib import Path

from tests.bench.daemons import linked_daemons
from tests.bench.kit import spread, timed
from tests.daemons import Daemon, all_linked

SECONDS = 60
RUNS = 21
MIB = 1 << 20


def cpu_seconds(pid: int) -> float:
    """Of all its threads, since it was started."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_memory(pid: int) -> int:
    """Bytes that nobody else has mapped."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def switches(pid: int) -> int:
    """How often its main thread, where the event loop runs, was woken."""
    lines = Path(f"/proc/{pid}/task/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def status(daemon: Daemon) -> float:
    """Seconds of one `tether status`, from the start of its process to its end."""
    return daemon.tether("status").seconds


def main(seconds: int = SECONDS) -> None:
    """Print a line for each daemon, and one for the command."""
    with linked_daemons("ann", "bob", "cat") as made:
        for each in made:
            each.stop()
        for each in made:
            each.start()
        all_linked(*made)
        time.sleep(5)  # what a start leaves to do is not idleness
        before = [(cpu_seconds(each.pid), switches(each.pid)) for each in made]
        time.sleep(seconds)
        for each, (cpu, woken) in zip(made, before, strict=True):
            print(
                f"{each.name}, idle for {seconds} s with two peers: {each.memory / MIB:.1f} MiB resident, "
                f"{own_memory(each.pid) / MIB:.1f} MiB its own; {100 * (cpu_seconds(each.pid) - cpu) / seconds:.2f} % of a "
                f"core, woken {(switches(each.pid) - woken) / seconds:.1f} times a second",
                flush=True,
            )
        milliseconds = [1000 * each for each in timed(lambda: status(made[0]), RUNS)]
        print(f"tether status: {spread(milliseconds, 0)} ms, median of {RUNS}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
