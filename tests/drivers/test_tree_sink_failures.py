"""Writing trees on a disk that fails, fills up or is left by a process that was killed."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from meshd.drivers import tree_sink
from meshd.drivers.tree_sink import TreeSink
from meshd.errors import LocalProtocolError, RefusedError, UsageError
from tests.drivers.tree_sink_kit import digest_of, file_entry, found, mkdir, put, put_entry, raising


@pytest.fixture
def into(tmp_path: Path) -> Path:
    """The directory that receives, with something beside it that nobody may touch."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_text("kept")
    return tmp_path / "into"


# The end that does not come.


def test_discard_leaves_nothing(into: Path) -> None:
    before = len(list(Path("/dev/fd").iterdir()))
    sink = TreeSink(into)
    mkdir(sink, "top")
    put(sink, "top/a")
    sink.begin(file_entry("top/b", 100))
    sink.write(b"half")
    sink.discard()
    sink.discard()
    assert found(into) == {}
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_finish_leaves_nothing_open(into: Path) -> None:
    before = len(list(Path("/dev/fd").iterdir()))
    (into / "top").mkdir(parents=True)
    sink = TreeSink(into)
    mkdir(sink, "top")
    put(sink, "top/a")
    put(sink, "top/b", b"x")
    put_entry(sink, file_entry("c", 4), b"data", digest=bytes(32))
    sink.finish()
    sink.discard()
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_staging_that_a_killed_process_left_is_removed_and_a_live_one_is_not(into: Path) -> None:
    live = TreeSink(into)
    put(live, "mine")
    (live_name,) = (path.name for path in into.iterdir())
    dead = into / ".tether-0123456789abcdef.part"
    (dead / "sub").mkdir(parents=True)
    (dead / "sub" / "big").write_text("x")
    (dead / "link").symlink_to("../../outside")
    kept = [".tether-x.part", ".tether-0123456789abcdef", ".tether-0123456789ABCDEF.part"]
    for name in kept:
        (into / name).mkdir()
    (into / ".tether-ffffffffffffffff.part").symlink_to("../outside")
    other = TreeSink(into)
    names = {path.name for path in into.iterdir()}
    assert dead.name not in names
    assert {live_name, *kept, ".tether-ffffffffffffffff.part"} < names
    other.discard()
    live.finish()
    assert (into / "mine").read_bytes() == b"data"
    assert found(into.parent / "outside") == {"kept": b"kept"}


def test_staging_is_for_this_user_alone(into: Path) -> None:
    before = os.umask(0)
    try:
        sink = TreeSink(into)
    finally:
        os.umask(before)
    (path,) = into.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    sink.discard()


def test_staging_removed_before_it_was_locked_is_made_anew(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    real = os.mkdir

    def swept_once(path: Any, mode: int, *, dir_fd: int | None = None) -> None:
        if dir_fd is not None:
            made.append(path)
        if len(made) != 1:
            real(path, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", swept_once)
    sink = TreeSink(into)
    assert len(made) == 2
    sink.discard()


def test_staging_that_others_keep_removing_is_said(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    into.mkdir()
    monkeypatch.setattr(os, "mkdir", lambda path, mode, *, dir_fd=None: None)
    with pytest.raises(UsageError, match="other processes keep removing"):
        TreeSink(into)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["mkdir", "open", "write", "utime", "close", "fsync", "link", "rename", "syncfs"])
def test_a_failing_disk_ends_the_transfer_and_leaves_nothing(
    into: Path, number: int, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = TreeSink(into, few=0 if call == "syncfs" else 64)
    sink.begin(file_entry("z", 1))
    sink.write(b"z")
    sink.end(digest_of(b"z"))
    if call == "syncfs":
        monkeypatch.setattr(tree_sink, "can_sync_filesystem", lambda: True)
        monkeypatch.setattr(tree_sink, "sync_filesystem", raising(number))
    elif call == "close":
        _fail_close_of_files(monkeypatch, number)
    elif call == "open":
        _fail_creation(monkeypatch, number)
    else:
        monkeypatch.setattr(os, call, raising(number))
    expected = "no space left" if number != errno.EIO else "cannot be written to: Input/output error"
    with pytest.raises(RefusedError, match=expected):
        mkdir(sink, "top")
        put(sink, "top/a")
        put(sink, "b")
        sink.finish()
    monkeypatch.undo()
    sink.discard()
    assert found(into) == {}


def _fail_creation(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    real = os.open

    def create(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(number, os.strerror(number))
        return real(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", create)


def _fail_close_of_files(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    real = os.close

    def close(fd: int) -> None:
        is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        real(fd)
        if is_file:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "close", close)


def test_short_writes_are_completed(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data[:3])))
    sink = TreeSink(into)
    assert put(sink, "a", b"0123456789") is None
    monkeypatch.undo()
    sink.finish()
    assert found(into) == {"a": b"0123456789"}


def test_a_failure_while_names_are_given_takes_them_back(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (into / "there").mkdir(parents=True)
    sink = TreeSink(into)
    for path in ("new", "there"):
        mkdir(sink, path)
        put(sink, f"{path}/a")
    put(sink, "f")
    put(sink, "last")
    real = os.link

    def full(name: str, *rest: Any, **named: Any) -> None:
        if name == "last":
            assert (into / "new" / "a").exists() and (into / "there" / "a").exists() and (into / "f").exists()
            raise OSError(errno.ENOSPC, "No space left on device")
        real(name, *rest, **named)

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(RefusedError, match="no space left"):
        sink.finish()
    sink.discard()
    assert found(into) == {"there": None}


def test_a_name_that_only_this_file_system_refuses_costs_the_entry(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = TreeSink(into)
    _fail_creation(monkeypatch, errno.ENAMETOOLONG)
    assert put(sink, "a") == "it could not be made here: File name too long"
    monkeypatch.undo()
    assert put(sink, "b") is None
    assert sink.finish().entries == 1
    assert found(into) == {"b": b"data"}


def test_a_close_that_fails_costs_nothing_where_the_content_is_dropped(
    into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = TreeSink(into)
    _fail_close_of_files(monkeypatch, errno.ENOSPC)
    assert put_entry(sink, file_entry("short", 5), b"data") == "it is shorter than was declared"
    sink.begin(file_entry("gone", 4))
    sink.abandon()
    monkeypatch.undo()
    assert put(sink, "b") is None
    assert sink.finish().entries == 1
    assert found(into) == {"b": b"data"}


def test_a_file_system_that_cannot_flush_directories(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    (into / "there").mkdir(parents=True)
    sink = TreeSink(into)
    for path in ("new", "there"):
        mkdir(sink, path)
        put(sink, f"{path}/a")
    report = sink.finish()
    assert (report.entries, list(report.refused)) == (4, [])
    assert found(into) == {"new": None, "new/a": b"data", "there": None, "there/a": b"data"}


def test_a_file_too_large_for_this_file_system_costs_the_entry(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = TreeSink(into)
    monkeypatch.setattr(os, "write", raising(errno.EFBIG))
    assert put(sink, "a") == "it is larger than a file may be here"
    monkeypatch.undo()
    assert sink.finish().entries == 0
    assert found(into) == {}


# Space.


def _free(monkeypatch: pytest.MonkeyPatch, free: list[int]) -> None:
    """Let the disk report `free[0]` bytes."""

    def status(fd: int) -> os.statvfs_result:
        return os.statvfs_result((1, 1, 10**12, free[0], free[0], 0, 0, 0, 0, 255))

    monkeypatch.setattr(os, "fstatvfs", status)


def test_the_floor_is_kept_free(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [1000]
    _free(monkeypatch, free)
    sink = TreeSink(into, floor=900)
    sink.prepare(100)
    sink.prepare(None)
    with pytest.raises(RefusedError, match="no space"):
        sink.prepare(101)
    assert sink.begin(file_entry("exact", 100)) is None
    sink.abandon()
    assert "no space" in (sink.begin(file_entry("big", 101)) or "")
    sink.end(bytes(32))
    sink.begin(file_entry("stdin", None))
    assert sink.write(b"x" * 100) is None
    free[0] = 900
    assert "no space" in (sink.write(b"x") or "")
    sink.end(digest_of(b"x" * 101))
    free[0] = 899
    with pytest.raises(RefusedError, match="no space"):
        sink.prepare(None)
    assert sink.finish().entries == 0
    assert found(into) == {}


def test_a_file_system_that_does_not_count_is_trusted(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fstatvfs", lambda fd: os.statvfs_result((1, 1, 0, 0, 0, 0, 0, 0, 0, 255)))
    sink = TreeSink(into)
    assert put(sink, "a") is None
    sink.discard()


def test_calls_out_of_turn_are_our_own_fault(into: Path) -> None:
    sink = TreeSink(into)
    for call in (lambda: sink.write(b""), lambda: sink.end(b""), sink.abandon):
        with pytest.raises(LocalProtocolError):
            call()
    sink.begin(file_entry("a", 1))
    with pytest.raises(LocalProtocolError):
        sink.begin(file_entry("b", 1))
    with pytest.raises(LocalProtocolError):
        sink.finish()
    sink.discard()
