"""A sender that holds the words and means harm: each bad entry is refused by itself, with its reason, and stays outside."""

import attrs
import blake3
import pytest

from meshd.drivers.payload import Began, Content, Ended, Piece, Survey
from meshd.model.entry import Entry, EntryKind
from tests.e2e.strangers import Ending, connect_all, settings
from tests.processes import port_of

BAD = b"#!/bin/sh\necho owned\n"
GOOD = b"harmless\n"


def file(*path: str, data: bytes = BAD, says: int | None = -1, executable: bool = True) -> list[Piece]:
    """A file as it travels; `says` is the size that it claims to have."""
    size = len(data) if says == -1 else says
    entry = Entry(path, EntryKind.FILE, size, executable, 1_700_000_000_000_000_000)
    return [Began(entry), Content(data), Ended(blake3.blake3(data).digest())]


def directory(*path: str) -> list[Piece]:
    entry = Entry(path, EntryKind.DIRECTORY, 0, False, 1_700_000_000_000_000_000)
    return [Began(entry), Ended(blake3.blake3(b"").digest())]


@attrs.define
class Hostile:
    """A Source that sends what it is told to, and never minds a refusal."""

    left: list[Piece]
    may_block = False

    def scan(self) -> Survey:
        return Survey(sum(isinstance(piece, Began) for piece in self.left), 1)

    def pieces(self, budget: int) -> list[Piece]:
        given, self.left = self.left[:3], self.left[3:]
        return given

    def skip(self, path: tuple[str, ...]) -> None:
        """Sends on."""

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def attack(tether, words):
    """Send entries to a real listener, `--into in`; returns its refusals and how the sender ended."""

    def send(*entries: list[Piece], code: int = 6) -> tuple[dict[str, str], Ending]:
        listener = tether.listen("--passphrase", words, "--into", "in")
        pieces = [piece for entry in entries for piece in entry]
        (ending,) = connect_all([settings(words, port_of(listener))], lambda: Hostile(pieces))
        listener.exits(code)
        return {event["path"]: event["reason"] for event in listener.all_of("entry_refused")}, ending

    return send


def everything_in(root) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


ESCAPES = {
    "a path out": (("..", "x"), "'..'"),
    "a path out, further on": (("good", "..", "..", "x"), "'..'"),
    "an absolute path": (("/", "tmp", "x"), "slash"),
    "an absolute path in one part": (("/tmp/x",), "slash"),
    "an empty part": (("", "x"), "empty"),
    "a separator of another system": (("..\\x",), "backslash"),
    "a drive of another system": (("C:x",), "reserve"),
    "hooks": (("good", ".git", "hooks", "x"), "asked for by name"),
    "hooks in another case": (("good", ".GIT", "hooks", "x"), "asked for by name"),
    "hooks by a short name": (("good", "GIT~1", "config"), "asked for by name"),
    "settings of an agent": (("good", ".mcp.json"), "asked for by name"),
    "a name of 300 bytes": (("n" * 300,), "255 bytes"),
    "a null byte": (("x\0y",), "control character"),
    "a new line": (("x\ny",), "control character"),
    "text turned round": (("x\u202etxt.exe",), "direction"),
    "a device": (("good", "NUL.txt"), "device"),
    "our own staging": ((".tether-0123456789abcdef.part",), "still arriving"),
    "nowhere": (("not", "sent", "before"), "not sent before"),
}


def test_names_that_lead_elsewhere(tether, attack):
    entries = [file(*path) for path, _ in ESCAPES.values()]
    before = everything_in(tether.directory.parent)
    refused, ending = attack(directory("good"), *entries, file("good", "last", data=GOOD))
    assert set(refused) == {"/".join(path) for path, _ in ESCAPES.values()}
    for case, (path, reason) in ESCAPES.items():
        assert reason in refused["/".join(path)], case
    assert ending.code == 6
    assert {event.path for event in ending.events if type(event).__name__ == "EntryRefused"} == set(refused)
    assert everything_in(tether.directory / "in") == {"good", "good/last"}
    new = everything_in(tether.directory.parent) - before
    assert {name for name in new if not name.startswith(("run/in", "run/out-"))} == set()


def test_two_names_that_some_systems_take_for_one(tether, attack):
    refused, _ = attack(
        *(directory("A"), file("A", "b", data=GOOD)),
        *(directory("a"), file("a", "B")),
        file("A", "B"),
        *(file("caf\u00e9", data=GOOD), file("cafe\u0301")),
    )
    assert set(refused) == {"a", "a/B", "A/B", "cafe\u0301"}
    assert all("that name, or one that" in refused[path] for path in ("a", "A/B", "cafe\u0301"))
    assert everything_in(tether.directory / "in") == {"A", "A/b", "caf\u00e9"}
    assert (tether.directory / "in" / "A" / "b").read_bytes() == GOOD


def test_sizes_that_lie(tether, attack):
    refused, _ = attack(
        file("longer", data=bytes(100_000), says=10),
        file("shorter", data=b"12345", says=1_000_000),
        file("huge", says=1 << 62),
        file("true", data=GOOD),
        [*file("other", data=GOOD)[:2], Ended(bytes(32))],
        file("last", data=GOOD),
    )
    assert refused == {
        "longer": "it is longer than was declared",
        "shorter": "it is shorter than was declared",
        "huge": refused["huge"],
        "other": "its content is not what was sent",
    }
    assert "no space" in refused["huge"]
    assert everything_in(tether.directory / "in") == {"true", "last"}


def test_links_that_lie_in_wait(tether, attack):
    """Somebody put links into DIR before: out of it, to a file outside, and to nowhere. None is followed or replaced."""
    outside = tether.directory / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"precious")
    into = tether.directory / "in"
    into.mkdir()
    (into / "out").symlink_to(outside)
    (into / "file").symlink_to(outside / "file")
    (into / "dangling").symlink_to(outside / "new")
    refused, _ = attack(
        *(directory("out"), file("out", "x"), file("out", "file")),
        *(file("file"), file("dangling"), file("good", data=GOOD)),
    )
    assert set(refused) == {"out", "out/x", "out/file", "file", "dangling"}
    assert "links are not followed" in refused["out"] and "links are not followed" in refused["dangling"]
    assert everything_in(outside) == {"file"} and (outside / "file").read_bytes() == b"precious"
    assert (into / "out").is_symlink() and (into / "file").is_symlink() and (into / "dangling").is_symlink()
    assert (into / "good").read_bytes() == GOOD


def test_modes_beyond_the_two_do_not_exist(tether, attack):
    """The wire has no place for set-uid: what is executable is 0755."""
    refused, _ = attack(file("run", data=GOOD), file("read", data=GOOD, executable=False), code=0)
    assert refused == {}
    modes = {name: (tether.directory / "in" / name).stat().st_mode & 0o7777 for name in ("run", "read")}
    assert modes == {"run": 0o755, "read": 0o644}


def test_a_stranger_writes_no_escapes_to_a_terminal(tether, words):
    """Names and reasons of the other side are shown, and cannot move a cursor or set a title."""
    listener = tether.start("listen", "--passphrase", words, "--into", "in")
    port = int(listener.says(r"UDP port (\d+)")[1])
    connect_all([settings(words, port)], lambda: Hostile(file("\x1b]0;owned\x07\x1b[2J\u202e..")))
    assert not set("\x1b\x07\u202e") & set(listener.exits(6).text)
    assert "Refused: " in listener.text and "]0;owned" in listener.text
