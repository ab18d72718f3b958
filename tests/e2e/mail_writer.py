"""An agent that sends numbered messages, one after the other, and says of each on standard output when its daemon has it.

    python -m tests.e2e.mail_writer STATE TO

It sends as many as a line of standard input says, then reads the next. Each line out: the number and the full handle.
A send that the daemon did not live to answer is made again with its key once there is a daemon: what is sent twice must be
there once.
"""

import itertools
import os
import sys
import time
from pathlib import Path

from meshd.client import Client
from meshd.errors import ConnectionLostError, NobodyFoundError

SENDER = "kim"


def write(state: Path, to: str) -> None:
    granted = (int(line) for line in sys.stdin)
    numbers = itertools.count()
    with Client(state) as client:
        for number in itertools.chain.from_iterable(itertools.islice(numbers, count) for count in granted):
            while True:
                try:
                    answer = client.call(
                        "send",
                        to=to,
                        subject=f"number {number}",
                        text="x" * 300,
                        sender=SENDER,
                        key=f"key {number}",
                        wait=0.0,
                    )
                    break
                except (ConnectionLostError, NobodyFoundError):
                    time.sleep(0.02)  # until the daemon is there again: this program waits for nothing else
            os.write(1, f"{number} {answer['full']}\n".encode())


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2])
