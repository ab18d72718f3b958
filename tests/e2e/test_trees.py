"""Files and directories under their own names: what is kept, what is refused, and that both sides say so."""

import os
import stat
import sys
from pathlib import Path

import pytest

from tests.processes import free_port

LONG_AGO = 1_234_567_890_123_456_789


def tree_of(root: Path) -> dict[str, tuple[str, int]]:
    """Each path under `root`: its content or `dir`, its mode and time of change."""
    return {
        str(path.relative_to(root)): (
            "dir" if path.is_dir() else path.read_text(),
            stat.S_IMODE(path.stat().st_mode),
            path.stat().st_mtime_ns,
        )
        for path in root.rglob("*")
    }


def make(root: Path, **files: str) -> None:
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def refusals(run) -> dict[str, str]:
    return {event["path"]: event["reason"] for event in run.all_of("entry_refused")}


@pytest.fixture
def send(tether, words):
    """Hand over `paths` into `in`, and see both sides end with `code`."""

    def hand_over(*paths, code, listening=(), connecting=()):
        listener = tether.listen("--passphrase", words, "--into", "in", *listening)
        connector = tether.connect("--passphrase", words, *connecting, "--send", *paths, to=listener)
        connector.exits(code)
        listener.exits(code)
        return connector, listener

    return hand_over


def test_a_tree_arrives_as_it_was(tether, send):
    """Content, the two modes, times (of directories too), empty directories and names beyond ASCII."""
    sent = tether.directory / "sent"
    make(sent, top="1", deep__deeper__deepest="2", Größe="drei", empty="")
    (sent / "nothing" / "in here").mkdir(parents=True)
    (sent / "top").chmod(0o640)
    (sent / "empty").chmod(0o700)
    for number, path in enumerate(sorted(sent.rglob("*"), reverse=True)):
        os.utime(path, ns=(LONG_AGO, LONG_AGO + number))
    os.utime(sent, ns=(LONG_AGO, LONG_AGO - 1))
    send("sent", code=0)
    expected = {
        name: (content, 0o755 if content == "dir" or mode & 0o111 else 0o644, time)
        for name, (content, mode, time) in tree_of(sent).items()
    }
    assert len(expected) == 8
    assert tree_of(tether.directory / "in" / "sent") == expected
    assert (tether.directory / "in" / "sent").stat().st_mtime_ns == LONG_AGO - 1
    assert [*(tether.directory / "in").iterdir()] == [tether.directory / "in" / "sent"]


def test_several_paths_and_what_exists_stays(tether, send):
    make(tether.directory, one="1", two="2", d__three="3", d__four="4", **{"in__two": "mine", "in__d__three": "mine"})
    connector, listener = send("one", "two", "d", code=6)
    received = {name: content for name, (content, *_) in tree_of(tether.directory / "in").items()}
    assert received == {"one": "1", "two": "mine", "d": "dir", "d/three": "mine", "d/four": "4"}
    for run in (connector, listener):
        assert refusals(run) == dict.fromkeys(("two", "d/three"), "a file of that name is already here")
        assert "2 entries refused" in run.error


def test_overwrite(tether, send):
    make(tether.directory, one="new", d__two="new", in__one="old", in__d__two="old", in__d__other="old")
    send("one", "d", code=0, listening=["--overwrite"])
    received = {name: content for name, (content, *_) in tree_of(tether.directory / "in").items()}
    assert received == {"one": "new", "d": "dir", "d/two": "new", "d/other": "old"}


def test_what_programs_obey_is_refused_unless_asked_for(tether, words, send):
    make(tether.directory, p__code="x", **{"p__.git__hooks__post-checkout": "rm", "p__sub__.envrc": "rm"})
    connector, listener = send("p", code=6)
    assert set(tree_of(tether.directory / "in")) == {"p", "p/code", "p/sub"}
    for run in (connector, listener):
        refused = refusals(run)
        assert set(refused) >= {"p/.git", "p/sub/.envrc"} and "asked for by name" in refused["p/.git"]

    (tether.directory / "in").rename(tether.directory / "before")
    connector, listener = send("p", code=6, listening=["--accept", ".git"])
    assert (tether.directory / "in/p/.git/hooks/post-checkout").read_text() == "rm"
    assert set(refusals(connector)) == set(refusals(listener)) == {"p/sub/.envrc"}


def test_links_and_devices_are_named_before_anything_is_sent_and_are_no_failure(tether, send):
    make(tether.directory, d__real="r", secret="s")
    (tether.directory / "d" / "link").symlink_to("../secret")
    (tether.directory / "d" / "loop").symlink_to(".")
    os.mkfifo(tether.directory / "d" / "fifo")
    connector, listener = send("d", code=0)
    kinds = [event["event"] for event in connector.events]
    assert kinds[:3] == ["left_out"] * 3 and "left_out" not in kinds[3:]
    assert {Path(event["path"]).name: event["reason"] for event in connector.all_of("left_out")} == {
        "link": "it is a symbolic link",
        "loop": "it is a symbolic link",
        "fifo": "it is a fifo",
    }
    assert set(tree_of(tether.directory / "in")) == {"d", "d/real"}
    assert not refusals(listener)


def test_what_cannot_be_read_is_listed_on_both_sides(tether, words):
    """It is there when the sender looks and gone when its turn comes."""
    make(tether.directory, d__gone="g", d__stays="s")
    port = free_port()
    connector = tether.connect("--passphrase", words, "--send", "d", to=port)
    connector.event("searching")
    (tether.directory / "d" / "gone").unlink()
    listener = tether.listen("--passphrase", words, "--into", "in", "--port", str(port))
    connector.exits(6)
    listener.exits(6)
    assert set(tree_of(tether.directory / "in")) == {"d", "d/stays"}
    for run in (connector, listener):
        assert refusals(run) == {"d/gone": "it was removed after it was listed"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_the_sender_may_not_read(tether, words):
    """The sender says so beforehand, and neither side calls it done; the rest arrives."""
    make(tether.directory, d__mine="m", d__theirs="t")
    (tether.directory / "d" / "theirs").chmod(0)
    listener = tether.listen("--passphrase", words, "--into", "in")
    connector = tether.connect("--passphrase", words, "--send", "d", to=listener).exits(6)
    listener.exits(6)
    (left_out,) = connector.all_of("left_out")
    assert left_out["path"].endswith("theirs") and left_out["failed"]
    for run in (connector, listener):
        assert set(refusals(run)) == {"d/theirs"}
    assert set(tree_of(tether.directory / "in")) == {"d", "d/mine"}


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_a_file_that_may_not_be_so_large_here(tether, words):
    """`ulimit -f` on the receiver: the entry is refused on both sides, the rest is stored, nothing is half there."""
    make(tether.directory, d__small="s", d__zlast="z")
    (tether.directory / "d" / "large").write_bytes(os.urandom(3 << 20))
    limited = ("prlimit", f"--fsize={1 << 20}", "--")
    listener = tether.listen("--passphrase", words, "--into", "in", prefix=limited)
    connector = tether.connect("--passphrase", words, "--send", "d", to=listener).exits(6)
    listener.exits(6)
    for run in (connector, listener):
        assert refusals(run) == {"d/large": "it is larger than a file may be here"}
    assert set(tree_of(tether.directory / "in")) == {"d", "d/small", "d/zlast"}
