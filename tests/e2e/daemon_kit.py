"""What the tests with real daemons share: a first mesh, a look into a state directory, a start that is to fail."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from meshd.model.record import NO_HASH, Record
from meshd.store.database import Database
from tests.daemons import WITHIN, Daemon, all_linked, is_clear, join

Start = Callable[..., Daemon]


def founded(start: Start, name: str = "ann", mesh: str = "home", **environment: str) -> Daemon:
    """A daemon that has founded a mesh."""
    daemon = start(name, **environment)
    daemon.tether("init", "--mesh", mesh, "--name", name, "--no-recovery")
    return daemon


def pair(start: Start) -> tuple[Daemon, Daemon]:
    """A mesh of ann's that has let ben in, both linked."""
    ann, ben = founded(start), start("ben")
    join(ann, ben)
    all_linked(ann, ben)
    return ann, ben


def opened(inviting: Any) -> tuple[str, int]:
    """The code and the port that `tether invite --json` shows."""
    event = json.loads(inviting.stdout.readline())
    assert event["event"] == "invite.opened"
    return event["code"], event["port"]


def standings(daemon: Daemon, *arguments: str) -> dict[str, str]:
    """What each machine is in its roster, by name."""
    return {each["machine"]["name"]: each["standing"] for each in daemon.json("members", *arguments)["members"]}


def collapsed(daemon: Daemon, text: str) -> str:
    """The full handle of a value that is this text."""
    handle: str = daemon.json("collapse", "--value", json.dumps(text))["full"]
    return handle


def has(daemon: Daemon, handle: str) -> bool:
    """Whether it can resolve this at once."""
    return daemon.run("resolve", handle, "--wait", "0").code == 0


def resolves(daemon: Daemon, handle: str, text: str) -> bool:
    """Whether it resolves this at once, and to this JSON."""
    return daemon.tether("resolve", handle, "--wait", "0").out == text


def written(daemon: Daemon, name: str, data: bytes) -> Path:
    """A new file in the directory that its commands run in."""
    path = daemon.directory / name
    path.write_bytes(data)
    return path


def blob_files(daemon: Daemon) -> dict[str, Path]:
    """The stored files of large blobs, by digest."""
    return {path.name: path for path in daemon.state.glob("meshes/*/blobs/*/*")}


def database(daemon: Daemon) -> Path:
    """That of its only mesh."""
    (found,) = daemon.state.glob("meshes/*/mesh.db")
    return found


def verified(opened: Database) -> Iterator[Record]:
    """All records of a store, once it is seen that each continues its chain and is signed."""
    for chain, head in opened.records.heads().items():
        found = opened.records.range(chain, 1, most=head.sequence, most_bytes=1 << 40, now_ms=0)
        assert len(found) == head.sequence and found[-1].record.head == head
        previous = NO_HASH if chain.generation == 1 else found[0].record.header.previous
        for sequence, stored in enumerate(found, 1):
            header = stored.record.header
            assert header.sequence == sequence and header.previous == previous and stored.record.is_authentic()
            previous = stored.record.hash
            yield stored.record


def another(daemon: Daemon, name: str, **environment: str) -> Daemon:
    """A second daemon on the same state directory, not started; environment and log are its own."""
    made = Daemon(name, daemon.state.parent, **{**daemon.environment, **environment})
    made.state = daemon.state
    return made


def refused(daemon: Daemon, code: int) -> str:
    """Start a daemon that is to end at once with this exit code, and return its one line of why."""
    daemon.start(wait=False)
    assert daemon.process is not None
    found = daemon.process.wait(WITHIN)
    said = daemon.log_path.read_text()
    assert found == code, said
    assert is_clear(said), said
    return said
