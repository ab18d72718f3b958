"""`--join`: what is asked of the daemon and what is shown. The daemon here is one line of Unix socket at a time."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import WITHIN, Programs

CODE = "7-crystal-clock-tower"
MACHINE = {"node": "n" * 52, "name": "bob"}


class Daemon:
    """Answers one call with these lines, and keeps what was asked."""

    def __init__(self, state: Path, *answers: dict[str, Any]) -> None:
        state.mkdir(mode=0o700, exist_ok=True)
        self.asked: dict[str, Any] = {}
        self._answers = answers
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(WITHIN)
        self._socket.bind(str(state / "control.sock"))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connected, _ = self._socket.accept()
        with connected, connected.makefile("rwb") as lines:
            self.asked = json.loads(lines.readline())
            for answer in self._answers:
                lines.write(json.dumps({"jsonrpc": "2.0"} | answer).encode() + b"\n")
                lines.flush()

    def close(self) -> None:
        self._socket.close()
        self._thread.join(WITHIN)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def daemon(state: Path) -> Iterator[Any]:
    made: list[Daemon] = []

    def start(*answers: dict[str, Any]) -> Daemon:
        made.append(Daemon(state, *answers))
        return made[-1]

    yield start
    for each in made:
        each.close()


def told(event: str, **fields: Any) -> dict[str, Any]:
    return {"method": "told", "params": {"call": 1, "event": event, "fields": fields, "age": 0.0, "missed": 0}}


def test_an_invitation(tether: Programs, state: Path, daemon: Any) -> None:
    asked = daemon(
        told("invite.opened", code=CODE, port=64327, seconds=60.0),
        told("try.spent", failed=1, remaining=2, why="wrong words"),
        {
            "id": 1,
            "result": {"mesh": "m" * 64, "mesh_name": "home", "machine": MACHINE, "address": "192.0.2.7:64327"},
        },
    )
    run = tether.start("listen", "--json", "--join", "--timeout", "60", environment={"TETHER_STATE": str(state)})
    run.exits(0)
    assert run.all_of("code") == [{"event": "code", "code": CODE}]
    assert run.all_of("waiting") == [{"event": "waiting", "port": 64327, "number": 7, "seconds": 60.0}]
    assert run.all_of("try_spent")[0]["remaining"] == 2
    assert run.all_of("joined") == [{"event": "joined", "mesh": "home", "machine": "bob", "by": "this machine"}]
    assert (asked.asked["method"], asked.asked["params"]) == ("invite", {"seconds": 60.0, "wan": False})


def test_joining(tether: Programs, state: Path, daemon: Any) -> None:
    asked = daemon(
        {
            "id": 1,
            "result": {
                "mesh": "m" * 64,
                "mesh_name": "home",
                "machine": MACHINE,
                "by": {"node": "a" * 52, "name": "alice"},
                "members": 2,
            },
        }
    )
    arguments = ("connect", "--join", "--peer", "192.0.2.7", *CODE.split("-"))
    run = tether.start(*arguments, environment={"TETHER_STATE": str(state)}).exits(0)
    assert "bob is in the mesh home, by the word of alice." in run.text
    wanted = {"code": CODE, "peer": "192.0.2.7:64327", "seconds": 30.0, "wan": False}
    assert (asked.asked["method"], asked.asked["params"]) == ("join", wanted)


def test_what_the_daemon_says_no_to(tether: Programs, state: Path, daemon: Any) -> None:
    data = {"kind": "WrongPassphraseError", "what": "Wrong words, or someone between you.", "advice": "Compare."}
    daemon({"id": 1, "error": {"code": -32000, "message": "no", "data": data}})
    run = tether.start("connect", "--join", CODE, environment={"TETHER_STATE": str(state)}).exits(3)
    assert "Error: Wrong words, or someone between you. Compare." in run.text


def test_no_daemon(tether: Programs, state: Path) -> None:
    for arguments in (("listen", "--join"), ("connect", "--join", CODE)):
        run = tether.start(*arguments, environment={"TETHER_STATE": str(state)}).exits(4)
        assert "No daemon runs" in run.text and "tether service install" in run.text


@pytest.mark.parametrize(
    "arguments",
    [
        ("listen", "--join", "--send", "."),
        ("listen", "--join", "--into", "-"),
        ("listen", "--join", "--passphrase", "some chosen words"),
        ("listen", "--join", "--port", "4242"),
        ("connect", "--join", CODE, "--verify"),
        ("connect", "--join", CODE, "--interface", "127.0.0.1"),
        ("connect", "--join", "--passphrase", "some chosen words"),
    ],
)
def test_what_makes_no_sense_with_it(tether: Programs, state: Path, arguments: tuple[str, ...]) -> None:
    run = tether.start(*arguments, environment={"TETHER_STATE": str(state)}).exits(2)
    assert "--join" in run.text or "joined with a code" in run.text
