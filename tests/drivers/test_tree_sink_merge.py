"""Writing trees where something is already: merging, replacing, and links that nobody follows."""

import errno
import os
import stat
from pathlib import Path

import pytest

from meshd.drivers import nofollow, placing
from meshd.drivers.tree_sink import TreeSink
from meshd.errors import RefusedError
from meshd.model.entry import check_admitted
from tests.drivers.tree_sink_kit import MTIME, found, mkdir, put, raising, refused


@pytest.fixture
def into(tmp_path: Path) -> Path:
    """The directory that receives, with something beside it that nobody may touch."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_text("kept")
    return tmp_path / "into"


# What is in the directory already.


def test_a_file_is_not_overwritten_unless_asked(into: Path) -> None:
    into.mkdir()
    (into / "a").write_text("old")
    sink = TreeSink(into)
    assert put(sink, "a", b"new") == "a file of that name is already here"
    assert sink.finish().entries == 0
    assert found(into) == {"a": b"old"}
    sink = TreeSink(into, overwrite=True)
    assert put(sink, "a", b"new", executable=True) is None
    assert sink.finish().entries == 1
    assert found(into) == {"a": b"new"}
    assert stat.S_IMODE((into / "a").stat().st_mode) == 0o755


def test_overwriting_leaves_the_other_names_of_the_old_file_alone(into: Path) -> None:
    into.mkdir()
    (into / "other").write_text("old")
    os.link(into / "other", into / "a")
    sink = TreeSink(into, overwrite=True)
    put(sink, "a", b"new")
    sink.finish()
    assert found(into) == {"a": b"new", "other": b"old"}


@pytest.mark.parametrize("overwrite", [True, False])
def test_nothing_replaces_another_kind(into: Path, overwrite: bool) -> None:
    (into / "dir" / "inside").mkdir(parents=True)
    (into / "empty").mkdir()
    (into / "file").write_text("old")
    os.mkfifo(into / "fifo")
    sink = TreeSink(into, overwrite=overwrite)
    assert put(sink, "dir") == "a directory of that name is already here"
    assert put(sink, "empty") == "a directory of that name is already here"
    assert mkdir(sink, "file") == "a file of that name is already here"
    assert put(sink, "fifo") == "something that is no file has that name here"
    assert mkdir(sink, "fifo") == "something that is no file has that name here"
    sink.finish()
    assert sorted(path.name for path in into.iterdir()) == ["dir", "empty", "fifo", "file"]
    assert (into / "file").read_text() == "old"


def test_directories_merge_and_stay_what_they_are(into: Path) -> None:
    (into / "top" / "sub").mkdir(parents=True)
    (into / "top" / "sub" / "old").write_text("old")
    (into / "top" / "both").write_text("mine")
    (into / "top").chmod(0o700)
    sink = TreeSink(into)
    for path in ("top", "top/sub", "top/new", "top/new/deep"):
        assert mkdir(sink, path) is None
    for path in ("top/a", "top/sub/b", "top/new/deep/c"):
        assert put(sink, path) is None
    assert put(sink, "top/both") == "a file of that name is already here"
    report = sink.finish()
    assert (report.entries, report.size) == (7, 12)
    assert found(into) == {
        "top": None, "top/sub": None, "top/sub/old": b"old", "top/both": b"mine", "top/a": b"data",
        "top/sub/b": b"data", "top/new": None, "top/new/deep": None, "top/new/deep/c": b"data",
    }  # fmt: skip
    assert stat.S_IMODE((into / "top").stat().st_mode) == 0o700
    assert (into / "top" / "new").stat().st_mtime_ns == MTIME
    assert (into / "top" / "sub").stat().st_mtime_ns != MTIME


@pytest.mark.parametrize("top", ["", "top.git/"])
def test_nothing_is_put_into_a_bare_repository_unless_asked_for(into: Path, top: str) -> None:
    for name in ("objects", "refs", "hooks"):
        (into / top / name).mkdir(parents=True)
    (into / top / "HEAD").write_text("ref: refs/heads/main")
    before = found(into)

    def send(sink: TreeSink) -> list[str | None]:
        directories = [*([top.rstrip("/")] if top else []), f"{top}hooks"]
        return [mkdir(sink, path) for path in directories] + [put(sink, f"{top}hooks/post-receive", executable=True)]

    sink = TreeSink(into)
    *_, hooks, hook = send(sink)
    assert hooks is not None and "HEAD is asked for by name" in hooks
    assert hook == "its directory was refused"
    sink.finish()
    assert found(into) == before
    sink = TreeSink(into, admitted=check_admitted(["HEAD"]))
    assert not any(send(sink))
    sink.finish()
    assert found(into) == {**before, f"{top}hooks/post-receive": b"data"}


def test_a_directory_that_cannot_be_looked_into_costs_its_entries_and_no_descriptors(
    into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (into / "top").mkdir(parents=True)
    sink = TreeSink(into)
    mkdir(sink, "top")
    before = len(list(Path("/dev/fd").iterdir()))
    monkeypatch.setattr(nofollow, "look", raising(errno.EACCES))
    for number in range(3):
        assert put(sink, f"top/{number}") == "it could not be made here: Permission denied"
    monkeypatch.undo()
    assert len(list(Path("/dev/fd").iterdir())) <= before
    sink.discard()


def test_a_repository_that_was_asked_for_merges_whole(into: Path) -> None:
    for name in ("objects", "refs"):
        (into / ".git" / name).mkdir(parents=True)
    (into / ".git" / "HEAD").write_text("old")
    sink = TreeSink(into, overwrite=True, admitted=check_admitted([".git"]))
    for path in (".git", ".git/logs"):
        assert mkdir(sink, path) is None
    for path in (".git/HEAD", ".git/logs/HEAD"):
        assert put(sink, path, b"new") is None
    sink.finish()
    assert (into / ".git" / "HEAD").read_text() == (into / ".git" / "logs" / "HEAD").read_text() == "new"


@pytest.mark.parametrize("lacking", ["HEAD", "objects", "refs"])
def test_what_only_looks_like_a_repository_is_a_directory_like_others(into: Path, lacking: str) -> None:
    for name in {"objects", "refs", "hooks"} - {lacking}:
        (into / name).mkdir(parents=True)
    if lacking == "HEAD":
        (into / "HEAD").mkdir()
    else:
        (into / "HEAD").write_text("ref: refs/heads/main")
    sink = TreeSink(into)
    assert mkdir(sink, "hooks") is None
    assert put(sink, "hooks/useState.ts") is None
    assert sink.finish().entries == 2


@pytest.mark.parametrize("overwrite", [True, False])
def test_links_in_the_directory_are_never_followed(into: Path, overwrite: bool) -> None:
    into.mkdir()
    (into / "dir").symlink_to("../outside")
    (into / "file").symlink_to("../outside/kept")
    (into / "dangling").symlink_to("../outside/new")
    sink = TreeSink(into, overwrite=overwrite)
    for name in ("dir", "file", "dangling"):
        assert "links are not followed" in (put(sink, name) or "")
        assert "links are not followed" in (mkdir(sink, name) or "")
        assert put(sink, f"{name}/kept") == "its directory was refused"
    sink.finish()
    assert found(into.parent / "outside") == {"kept": b"kept"}
    assert all((into / name).is_symlink() for name in ("dir", "file", "dangling"))


@pytest.mark.parametrize("moment", ["before the next entry", "before the end"])
def test_a_link_in_the_place_of_a_directory_that_merges(into: Path, moment: str) -> None:
    (into / "top" / "sub").mkdir(parents=True)
    sink = TreeSink(into)
    mkdir(sink, "top")
    mkdir(sink, "top/sub")
    if moment == "before the end":
        assert put(sink, "top/sub/a") is None
    (into / "top").rename(into.parent / "moved")
    (into / "top").symlink_to("outside")
    (into.parent / "outside" / "sub").mkdir()
    if moment == "before the next entry":
        assert put(sink, "top/sub/a") is not None
    late = {"top", "top/sub"} | ({"top/sub/a"} if moment == "before the end" else set())
    report = sink.finish()
    assert found(into.parent / "outside") == {"kept": b"kept", "sub": None}
    assert report.entries == 0
    assert set(refused(report)) == late


def test_a_link_in_the_place_of_a_staged_directory_is_not_followed(into: Path) -> None:
    sink = TreeSink(into)
    mkdir(sink, "top")
    mkdir(sink, "top/sub")
    (staged,) = into.iterdir()
    (staged / "top" / "sub").rmdir()
    (staged / "top" / "sub").symlink_to(into.parent / "outside")
    assert put(sink, "top/sub/evil") is not None
    with pytest.raises(RefusedError):
        sink.finish()
    sink.discard()
    assert found(into.parent) == {"outside": None, "outside/kept": b"kept", "into": None}


@pytest.mark.parametrize("kind", ["file", "full directory", "link"])
def test_a_name_taken_while_the_tree_arrived_is_left_alone(into: Path, kind: str) -> None:
    sink = TreeSink(into)
    mkdir(sink, "d")
    put(sink, "d/x")
    put(sink, "f")
    for name in ("d", "f"):
        if kind == "file":
            (into / name).write_text("mine")
        elif kind == "link":
            (into / name).symlink_to("../outside")
        elif name == "f":
            (into / "f" / "mine").mkdir(parents=True)
    report = sink.finish()
    taken = {"f"} if kind == "full directory" else {"d", "d/x", "f"}
    assert set(refused(report)) == taken
    assert [refusal.index for refusal in report.refused] == ([2] if kind == "full directory" else [0, 1, 2])
    assert found(into.parent / "outside") == {"kept": b"kept"}
    if kind == "file":
        assert found(into) == {"d": b"mine", "f": b"mine"}


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("appears", ["file", "directory"])
def test_a_name_taken_in_the_last_moment_is_left_alone(
    into: Path, links: bool, appears: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last look and the move: what cannot be overwritten by a rename at all is tested for both kinds."""
    if not links:
        monkeypatch.setattr(os, "link", raising(errno.EPERM))
    sink = TreeSink(into)
    mkdir(sink, "d")
    put(sink, "d/x")
    put(sink, "f")
    move = placing._move_new

    def late(node: placing.Staged, staged_fd: int, final_fd: int) -> None:
        if appears == "file":
            (into / node.name).write_text("mine")
        else:
            (into / node.name / "mine").mkdir(parents=True)
        move(node, staged_fd, final_fd)

    monkeypatch.setattr(placing, "_move_new", late)
    report = sink.finish()
    assert report.entries == 0
    assert set(refused(report)) == {"d", "d/x", "f"}
    if appears == "file":
        assert found(into) == {"d": b"mine", "f": b"mine"}
    else:
        assert found(into) == {"d": None, "d/mine": None, "f": None, "f/mine": None}


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links(into: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", raising(number))
    sink = TreeSink(into)
    assert put(sink, "a") is None
    assert sink.finish().entries == 1
    assert found(into) == {"a": b"data"}
