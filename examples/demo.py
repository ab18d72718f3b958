"""The program of `make demo`: two processes on this machine find each other, pair by a code, and hand over real files.

    python examples/demo.py

It starts a listener, reads the code that the listener shows, and gives it to a connector, as two people would. They
meet by multicast DNS on the loopback interface; nothing leaves this machine.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import blake3

DEADLINE = 60.0
"""Seconds for everything; on an idle machine it takes two or three."""

SIZE = 8 << 20

TETHER = [sys.executable, "-m", "tether_lite"]
ENVIRONMENT = {**os.environ, "TETHER_LAN_INTERFACES": "127.0.0.1"}
# The code comes from the listener; words of the person's own must not get in between.
ENVIRONMENT.pop("TETHER_PASSPHRASE", None)


class DemoError(Exception):
    """The demonstration failed; the text says where."""


def make_payload(directory: Path) -> list[Path]:
    """A file of random bytes, and a directory with something in it."""
    file = directory / "demo.bin"
    file.write_bytes(os.urandom(SIZE))
    tree = directory / "notes"
    (tree / "empty").mkdir(parents=True)
    (tree / "readme.txt").write_text("Sent along.\n", encoding="utf-8")
    (tree / "run.sh").write_text("#!/bin/sh\necho hello\n", encoding="utf-8")
    (tree / "run.sh").chmod(0o755)
    return [file, tree]


def digests(directory: Path) -> dict[str, str]:
    """What is in a directory: the BLAKE3 of each file, "directory" for each directory."""
    return {
        str(path.relative_to(directory)): (
            "directory" if path.is_dir() else blake3.blake3(path.read_bytes()).hexdigest()
        )
        for path in directory.rglob("*")
    }


def wait_for_code(listener: subprocess.Popen[bytes], log: Path, deadline: float) -> str:
    """The code that the listener shows. Its events are JSON, one a line."""
    while time.monotonic() < deadline:
        for line in log.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n") and '"code"' in line and (event := json.loads(line))["event"] == "code":
                return str(event["code"])
        if listener.poll() is not None:
            raise DemoError("The listener ended before it showed a code.")
        time.sleep(0.02)
    raise DemoError("The listener showed no code in time.")


def wait_for_end(name: str, process: subprocess.Popen[bytes], deadline: float) -> None:
    """Let a process end well."""
    try:
        code = process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise DemoError(f"The {name} did not end in time.") from None
    if code != 0:
        raise DemoError(f"The {name} exited with {code}.")


def run(work: Path) -> str:
    """Do it in the empty directory `work`; returns the line that says so."""
    sent, received = work / "sent", work / "received"
    sent.mkdir()
    payload = make_payload(sent)
    deadline = time.monotonic() + DEADLINE
    processes: list[subprocess.Popen[bytes]] = []

    def start(name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (work / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*TETHER, *arguments, "--json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=ENVIRONMENT,
            )
        processes.append(process)
        return process

    try:
        listener = start("listener", "listen", "--into", str(received))
        code = wait_for_code(listener, work / "listener.log", deadline)
        began = time.monotonic()
        connector = start("connector", "connect", code, "--send", *map(str, payload))
        wait_for_end("connector", connector, deadline)
        wait_for_end("listener", listener, deadline)
        took = time.monotonic() - began
    finally:
        for process in processes:
            process.kill()
            process.wait()

    before, after = digests(sent), digests(received)
    if before != after:
        raise DemoError(f"What arrived is not what was sent: {sorted(before.items() ^ after.items())}")
    return (
        f"Handed demo.bin ({SIZE / (1 << 20):.1f} MiB) and a directory from one process to another in {took:.1f} s, "
        f"digest {after['demo.bin'][:8]}…, verified."
    )


def main() -> None:
    """Run it in a temporary directory; on failure show what both sides said."""
    with tempfile.TemporaryDirectory(prefix="tether-demo-") as directory:
        work = Path(directory)
        try:
            print(run(work))
        except DemoError as error:
            print(f"The demonstration failed. {error}", file=sys.stderr)
            for log in sorted(work.glob("*.log")):
                print(f"The {log.stem} said:\n{log.read_text(encoding='utf-8') or '(nothing)'}", file=sys.stderr)
            sys.exit(1)


if __name__ == "__main__":
    main()
