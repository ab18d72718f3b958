"""A client that collapses values without end, and says of each on standard output when the daemon has acknowledged it.

    python -m tests.e2e.daemon_writer STATE FIRST STEP

Values are {"written":N} for N = FIRST, FIRST + STEP and so on. Each line: N and the full handle. A call that the daemon
did not live to answer is made again once there is one: what is asked twice must be there once.
"""

import os
import sys
import time
from pathlib import Path

from meshd.client import Client
from meshd.errors import ConnectionLostError, NobodyFoundError

TABLE = "written"


def write_on(state: Path, first: int, step: int) -> None:
    number = first
    with Client(state) as client:
        while True:
            try:
                answer = client.call("collapse", json=f'{{"written":{number}}}', table=TABLE)
            except (ConnectionLostError, NobodyFoundError):
                time.sleep(0.02)  # until the daemon is there again: this program waits for nothing else
                continue
            os.write(1, f"{number} {answer['full']}\n".encode())
            number += step


if __name__ == "__main__":
    write_on(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
