"""Mail between two machines: two daemons on this one pair, and an agent of each hands work to the other.

    python examples/mail_between_machines.py

On two real machines the first half is `tether init`, `tether invite` and `tether join`; the second half is as it stands,
with one of the two agents on each. Nothing leaves this machine.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from meshd.client import Client, Told
from meshd.errors import TetherError

WITHIN = 30.0
"""Seconds that a step may take on a busy machine."""


def start(directory: Path) -> subprocess.Popen[bytes]:
    """A daemon on a state directory of its own, on loopback."""
    quiet = {"TETHER_HOST": "127.0.0.1", "TETHER_PORT": "0", "TETHER_LAN": "0", "TETHER_LOG_LEVEL": "error"}
    return subprocess.Popen(
        [sys.executable, "-m", "meshd", "--state", str(directory)],
        env={**os.environ, **quiet, "TETHER_RENDEZVOUS": ""},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def answering(directory: Path) -> Client:
    """A client of that daemon, once it answers."""
    client, end = Client(directory), time.monotonic() + WITHIN
    while True:
        try:
            client.call("status")
            return client
        except TetherError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def pair(laptop: Client, tower: Path) -> None:
    """`tether init` and `tether invite` on the first, `tether join` on the second."""
    laptop.call("init", mesh="home", name="laptop", recovery=False)
    joining: list[subprocess.Popen[bytes]] = []

    def opened(told: Told) -> None:
        if told.event == "invite.opened":
            command = [sys.executable, "-m", "meshd.surfaces.cli", "join", "--name", "tower", "--state", str(tower)]
            address = f"127.0.0.1:{told.fields['port']}"
            joining.append(
                subprocess.Popen(
                    [*command, "--peer", address],
                    env={**os.environ, "TETHER_PASSPHRASE": told.fields["code"]},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                )
            )

    laptop.call("invite", seconds=WITHIN, tell=opened, within=2 * WITHIN)
    assert joining[0].wait(WITHIN) == 0, "tower could not join"


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        laptop_state, tower_state = Path(directory) / "laptop", Path(directory) / "tower"
        daemons = [start(laptop_state), start(tower_state)]
        try:
            laptop, tower = answering(laptop_state), answering(tower_state)
            pair(laptop, tower_state)

            # The second half: what two agents do, each with the daemon of its own machine.
            tower.call("agent_register", name="codex", tags=["reviewer"], bind=True)
            laptop.call("agent_register", name="claude", bind=True)
            patch = laptop_state / "fix.patch"
            patch.write_text("--- a/build.sh\n+++ b/build.sh\n")
            sent = laptop.call(
                "send",
                to="codex@tower",
                subject="please review",
                text="It is attached.",
                attach=[str(patch)],
                wait=WITHIN,
            )
            assert sent["state"] == "replicated", sent

            (mail,) = tower.call("wait", seconds=WITHIN)["messages"]
            message = tower.call("receive", handle=mail["full"])
            copy = tower_state / "received.patch"
            tower.call("get", handle=message["attachments"][0]["full"], out=str(copy), wait=WITHIN)
            assert copy.read_bytes() == patch.read_bytes()
            tower.call("send", to="claude@laptop", subject="re: review", text="Looks good.", reply_to=mail["full"])

            laptop.call("wait", seconds=WITHIN)
            (answer,) = laptop.call("inbox", unread=True)["messages"]
            laptop.call("receive", handle=answer["full"])
            laptop.call("close", handle=sent["full"], reason="merged")
            state = laptop.call("sent", handle=sent["full"])["messages"][0]["state"]
            print(
                f"OK: {mail['sender']['name']}@laptop asked, codex@tower answered, with a file; the message is {state}."
            )
        finally:
            for daemon in daemons:
                daemon.terminate()
            for daemon in daemons:
                daemon.wait(WITHIN)


if __name__ == "__main__":
    main()
