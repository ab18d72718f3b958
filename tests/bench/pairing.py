"""Seconds from both sides ready to paired, discovery by mDNS included: median of 20, for each engine.

    python -m tests.bench.pairing

Ready: the later of the listener's `waiting` and the connector's `searching`; paired: the later of the two `paired`. Both
are real processes on loopback, and the times are those at which their events arrive here.
"""

import subprocess
from functools import partial

from tests.bench.kit import Side, sides, spread, timed

RUNS = 20


def once(engine: str) -> float:
    """One pairing and an empty payload."""
    listener = Side("listen", "--quic-engine", engine)
    connector = Side("connect", "--quic-engine", engine, stdin=subprocess.DEVNULL)
    with sides(listener, connector):
        ready = max(listener.wait_for("waiting")[0], connector.wait_for("searching")[0])
        paired = max(listener.wait_for("paired")[0], connector.wait_for("paired")[0])
        connector.finish()
        listener.finish()
    return paired - ready


def main() -> None:
    """Print a line for each engine."""
    for engine in ("qh3", "aioquic"):
        seconds = timed(partial(once, engine), RUNS)
        print(f"ready to paired, {engine}: {spread(seconds)} s, median of {RUNS}", flush=True)


if __name__ == "__main__":
    main()
