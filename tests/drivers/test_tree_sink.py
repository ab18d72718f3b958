"""Writing trees: what a hostile sender cannot do to a disk, and what an honest one may rely on."""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshd.drivers import durable, staging, tree_sink
from meshd.drivers.tree_sink import TreeSink
from meshd.errors import UsageError
from meshd.model.entry import Entry, EntryKind, check_admitted
from tests.drivers.tree_sink_kit import MTIME, digest_of, file_entry, found, mkdir, put, put_entry, raising


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def into(tmp_path: Path) -> Path:
    """The directory that receives, with something beside it that nobody may touch."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_text("kept")
    return tmp_path / "into"


def test_a_tree_arrives(into: Path) -> None:
    sink = TreeSink(into)
    sink.prepare(9)
    assert mkdir(sink, "top", at=5_000_000_007) is None
    assert put(sink, "top/a", b"hello") is None
    assert mkdir(sink, "top/empty", at=-1_500_000_000) is None
    assert mkdir(sink, "top/sub") is None
    assert put(sink, "top/sub/run", b"code", executable=True) is None
    assert put(sink, "lone", b"") is None
    assert list(into.iterdir()) != []
    assert not (into / "top").exists()
    report = sink.finish()
    assert found(into) == {
        "top": None, "top/a": b"hello", "top/empty": None, "top/sub": None, "top/sub/run": b"code", "lone": b"",
    }  # fmt: skip
    assert (report.entries, report.size, list(report.refused)) == (6, 9, [])
    assert {name: stat.S_IMODE((into / name).stat().st_mode) for name in found(into)} == {
        "top": 0o755, "top/a": 0o644, "top/empty": 0o755, "top/sub": 0o755, "top/sub/run": 0o755, "lone": 0o644,
    }  # fmt: skip
    assert {name: (into / name).stat().st_mtime_ns for name in found(into)} == {
        "top": 5_000_000_007, "top/a": MTIME, "top/empty": -1_500_000_000, "top/sub": MTIME, "top/sub/run": MTIME,
        "lone": MTIME,
    }  # fmt: skip
    assert all((into / name).stat().st_nlink == 1 for name, data in found(into).items() if data is not None)


def test_a_stricter_umask_is_respected(into: Path) -> None:
    os.umask(0o077)
    sink = TreeSink(into)
    mkdir(sink, "d")
    put(sink, "d/x", executable=True)
    put(sink, "a")
    sink.finish()
    modes = [stat.S_IMODE((into / name).stat().st_mode) for name in ("d", "d/x", "a")]
    assert modes == [0o700, 0o700, 0o600]


def test_a_stream_without_a_size_is_stored(into: Path) -> None:
    sink = TreeSink(into)
    sink.prepare(None)
    sink.begin(file_entry("stdin", None))
    for _ in range(3):
        assert sink.write(b"abc") is None
    assert sink.end(digest_of(b"abc" * 3)) is None
    report = sink.finish()
    assert (report.entries, report.size) == (1, 9)
    assert (into / "stdin").read_bytes() == b"abcabcabc"


@pytest.mark.parametrize("flush", ["one by one", "at once", "no syncfs"])
def test_many_files_arrive_however_they_are_flushed(into: Path, flush: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if flush == "no syncfs":
        monkeypatch.setattr(durable, "_syncfs", None)
    monkeypatch.setattr(tree_sink, "FLUSH_AT_ONCE", 500)
    sink = TreeSink(into, few=1000 if flush == "one by one" else 3)
    mkdir(sink, "d")
    expected: dict[str, bytes | None] = {"d": None}
    for number in range(20):
        expected[f"d/{number}"] = bytes([number]) * number * 50
        assert put(sink, f"d/{number}", bytes([number]) * number * 50) is None
    assert sink.finish().entries == 21
    assert found(into) == expected


# Where it may write.


def test_the_directory_is_made_but_its_parents_are_not(tmp_path: Path) -> None:
    TreeSink(tmp_path / "new").discard()
    assert found(tmp_path) == {"new": None}
    with pytest.raises(UsageError, match="does not exist"):
        TreeSink(tmp_path / "no" / "such")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="Not a directory"):
        TreeSink(tmp_path / "file")


def test_a_link_to_a_directory_that_the_person_named_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    sink = TreeSink(tmp_path / "link")
    put(sink, "a")
    sink.finish()
    assert found(tmp_path / "real") == {"a": b"data"}


@pytest.mark.parametrize(
    "path",
    [
        ("..", "x"),
        ("a", "..", "..", "x"),
        ("/tmp", "x"),
        ("", "x"),
        ("/x",),
        ("a/../../x",),
        ("..\\x",),
        ("x" * 300,),
        (".git", "hooks", "x"),
        (".GIT",),
        ("a\nb",),
        (".tether-0123456789abcdef.part",),
        (".Tether-x",),
        (),
    ],
)
@pytest.mark.parametrize("kind", list(EntryKind))
def test_unsafe_names_are_refused_and_the_others_go_on(into: Path, path: tuple[str, ...], kind: EntryKind) -> None:
    sink = TreeSink(into)
    assert put_entry(sink, Entry(path, kind, 0, False, 0))
    assert put(sink, "good") is None
    report = sink.finish()
    assert found(into.parent) == {"outside": None, "outside/kept": b"kept", "into": None, "into/good": b"data"}
    assert (report.entries, list(report.refused)) == (1, [])


def test_a_protected_name_that_was_asked_for_is_taken(into: Path) -> None:
    sink = TreeSink(into, admitted=check_admitted([".Git"]))
    assert mkdir(sink, ".git") is None
    assert put(sink, ".git/config") is None
    assert put(sink, ".mcp.json") is not None
    sink.finish()
    assert found(into) == {".git": None, ".git/config": b"data"}


@pytest.mark.parametrize("size", [1, None])
def test_a_directory_has_no_size(into: Path, size: int | None) -> None:
    sink = TreeSink(into)
    assert (
        put_entry(sink, Entry(("a",), EntryKind.DIRECTORY, size, False, 0)) == "it is a directory with a declared size"
    )
    assert sink.finish().entries == 0
    assert found(into) == {}


def test_any_declaration_that_the_wire_can_say_is_taken_or_refused(into: Path) -> None:
    sink = TreeSink(into)
    assert "no space" in (put_entry(sink, file_entry("huge", (1 << 63) - 1)) or "")
    for name, at in (("first", -(1 << 63)), ("last", (1 << 63) - 1)):
        assert put(sink, name, at=at) is None
    assert sink.finish().entries == 2


def test_everything_under_a_refused_directory_is_refused_for_that_reason(into: Path) -> None:
    sink = TreeSink(into)
    assert put(sink, "ok/a") == "its directory was not sent before it"
    assert mkdir(sink, "ok/x") == "its directory was not sent before it"
    mkdir(sink, "ok")
    put(sink, "ok/file")
    assert put(sink, "ok/file/below") == "its directory was not sent before it"
    (into / "taken").touch()
    assert mkdir(sink, "taken") is not None
    assert mkdir(sink, "taken/sub") == "its directory was refused"
    assert put(sink, "taken/sub/a") == "its directory was refused"
    sink.finish()
    assert found(into) == {"taken": b"", "ok": None, "ok/file": b"data"}


# Collisions within one transfer.


@pytest.mark.parametrize(
    ("first", "second"), [("a", "a"), ("a", "A"), ("é", "e\u0301"), ("straße", "STRASSE"), ("\u017f", "s")]
)
@pytest.mark.parametrize("kinds", ["ff", "dd", "fd", "df"])
def test_names_that_may_be_one_collide(into: Path, first: str, second: str, kinds: str) -> None:
    send = {"f": put, "d": mkdir}
    sink = TreeSink(into, overwrite=True)
    assert send[kinds[0]](sink, first) is None
    reason = send[kinds[1]](sink, second)
    assert reason is not None and "another entry" in reason
    assert sink.finish().entries == 1
    assert [path.name for path in into.iterdir()] == [first]


def test_directories_that_differ_in_case_do_not_mix(into: Path) -> None:
    sink = TreeSink(into)
    mkdir(sink, "A")
    assert put(sink, "A/b") is None
    assert mkdir(sink, "a") is not None
    assert put(sink, "a/B") == "its directory was refused"
    sink.finish()
    assert found(into) == {"A": None, "A/b": b"data"}


def test_a_name_is_free_again_after_its_entry_was_refused(into: Path) -> None:
    sink = TreeSink(into)
    assert put_entry(sink, file_entry("a", 4), b"data", digest=bytes(32)) is not None
    assert put(sink, "a", b"good") is None
    assert sink.finish().entries == 1
    assert found(into) == {"a": b"good"}


# Lies and failures of the sender.


@pytest.mark.parametrize(
    ("declared", "chunks", "reason"),
    [
        (4, [b"dat"], "it is shorter than was declared"),
        (4, [b"dat", b"aX"], "it is longer than was declared"),
        (0, [b"x"], "it is longer than was declared"),
        (4, [b"dada"], "its content is not what was sent"),
        (None, [b"dada"], "its content is not what was sent"),
    ],
)
def test_lies_about_content_cost_the_entry(into: Path, declared: int | None, chunks: list[bytes], reason: str) -> None:
    sink = TreeSink(into)
    assert sink.begin(file_entry("lie", declared)) is None
    answers = [*(sink.write(chunk) for chunk in chunks), sink.write(b""), sink.end(digest_of(b"data"))]
    assert [answer for answer in answers if answer] == [reason]
    assert put(sink, "good") is None
    assert sink.finish().entries == 1
    assert found(into) == {"good": b"data"}


def test_what_follows_too_much_is_not_written(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = TreeSink(into)
    sink.begin(file_entry("lie", 1))
    assert sink.write(b"xx") is not None
    monkeypatch.setattr(os, "write", raising(errno.EIO))
    for _ in range(3):
        assert sink.write(b"x" * 1000) is None
    assert sink.end(digest_of(b"x")) is None


@pytest.mark.parametrize("kind", list(EntryKind))
def test_content_of_a_directory_and_abandoned_entries(into: Path, kind: EntryKind) -> None:
    sink = TreeSink(into)
    sink.begin(Entry(("d",), EntryKind.DIRECTORY, 0, False, 0))
    assert sink.write(b"x") == "it is longer than was declared"
    sink.end(digest_of(b"x"))
    assert put(sink, "d/a") == "its directory was refused"
    assert sink.begin(Entry(("gone",), kind, 0, False, 0)) is None
    sink.abandon()
    assert sink.begin(Entry(("..",), kind, 0, False, 0)) is not None
    sink.abandon()
    report = sink.finish()
    assert (report.entries, list(report.refused)) == (0, [])
    assert found(into) == {}


# Properties.

_part = st.one_of(
    st.sampled_from(["a", "A", "b", "d", "link", "..", ".", "", "a/b", "/", "\0", ".git", "x" * 300, "\ud800", "a\\b"]),
    st.text(max_size=6),
)
_entries = st.lists(
    st.builds(
        Entry,
        path=st.lists(_part, max_size=4).map(tuple),
        kind=st.sampled_from(EntryKind),
        size=st.one_of(st.integers(0, 4), st.sampled_from([None, (1 << 63) - 1])),
        executable=st.booleans(),
        modified_ns=st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(0, 10**18),
    ),
    max_size=12,
)


@given(_entries, st.booleans(), st.booleans())
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_list_of_entries_writes_outside(tmp_path: Path, entries: list[Entry], overwrite: bool, finish: bool) -> None:
    outside, into = tmp_path / "outside", tmp_path / "into"
    for path in (outside, into):
        shutil.rmtree(path, ignore_errors=True)
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (into / "d").mkdir(parents=True)
    (into / "link").symlink_to("../outside")
    (into / "d" / "link").symlink_to("../../outside/kept")
    (into / "b").write_text("old")
    sink = TreeSink(into, overwrite=overwrite)
    kept = 0
    for entry in entries:
        data = b"x" * min(entry.size or 0, 4) if entry.kind is EntryKind.FILE else b""
        kept += put_entry(sink, entry, data) is None
    if finish:
        report = sink.finish()
        assert (report.entries, list(report.refused)) == (kept, [])
    else:
        sink.discard()
        assert sorted(path.name for path in into.iterdir()) == ["b", "d", "link"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["into", "outside"]
    assert found(outside) == {"kept": b"kept"}
    assert (into / "link").is_symlink() and (into / "d" / "link").is_symlink()
    assert not any(path.name.startswith(staging.PREFIX) for path in into.iterdir())
    if not overwrite:
        assert (into / "b").read_text() == "old"
