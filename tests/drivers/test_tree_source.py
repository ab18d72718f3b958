"""Reading trees: what is sent, in which order, and what a tree that changes meanwhile can and cannot do."""

import itertools
import os
import socket
from pathlib import Path

import blake3
import pytest

from meshd.drivers import tree_source
from meshd.drivers.payload import MAX_PIECES, Began, Content, Ended, Failed, Piece
from meshd.drivers.tree_source import TreeSource
from meshd.errors import RefusedError, UsageError
from meshd.model.entry import Entry, EntryKind
from meshd.wire.constants import CHUNK_SIZE

NOTHING = blake3.blake3(b"").digest()


def rest(source: TreeSource, budget: int = CHUNK_SIZE) -> list[Piece]:
    found: list[Piece] = []
    while pieces := source.pieces(budget):
        found += pieces
    assert source.pieces(budget) == []
    return found


def everything(*paths: Path) -> list[Piece]:
    source = TreeSource(paths)
    source.scan()
    return rest(source)


def names(pieces: list[Piece]) -> list[str]:
    return ["/".join(piece.entry.path) for piece in pieces if isinstance(piece, Began)]


def content(pieces: list[Piece]) -> bytes:
    return b"".join(piece.data for piece in pieces if isinstance(piece, Content))


def make(root: Path, **files: str) -> Path:
    root.mkdir(exist_ok=True)
    for name, text in files.items():
        (root / name).write_text(text)
    return root


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"hello")
    os.utime(path, ns=(1, 1_234_567_890_123_456_789))
    path.chmod(0o640)
    source = TreeSource([path])
    survey = source.scan()
    assert (survey.entries, survey.size, list(survey.skipped), list(survey.unreadable)) == (1, 5, [], [])
    entry = Entry(("a.txt",), EntryKind.FILE, 5, False, 1_234_567_890_123_456_789)
    assert rest(source) == [Began(entry), Content(b"hello"), Ended(blake3.blake3(b"hello").digest())]


@pytest.mark.parametrize(("mode", "executable"), [(0o755, True), (0o700, True), (0o4711, True), (0o644, False)])
def test_of_a_mode_only_the_executable_bit_is_read(tmp_path: Path, mode: int, executable: bool) -> None:
    path = tmp_path / "a"
    path.touch()
    path.chmod(mode)
    began = everything(path)[0]
    assert isinstance(began, Began)
    assert began.entry.executable is executable


def test_a_tree_comes_in_order_with_its_empty_directories(tmp_path: Path) -> None:
    top = make(tmp_path / "top", z="1", B="2")
    make(top / "a", y="3")
    (top / "a" / "empty").mkdir()
    (top / "C").mkdir()
    (top / "zz" / "deep").mkdir(parents=True)
    os.utime(top / "C", ns=(5, 7_000_000_009))
    pieces = everything(top)
    assert names(pieces) == [
        "top", "top/B", "top/z", "top/C", "top/a", "top/a/y", "top/a/empty", "top/zz", "top/zz/deep",
    ]  # fmt: skip
    position = pieces.index(Began(Entry(("top", "C"), EntryKind.DIRECTORY, 0, False, 7_000_000_009)))
    assert pieces[position + 1] == Ended(NOTHING)
    assert content(pieces) == b"213"


def test_the_survey_counts_what_is_then_sent(tmp_path: Path) -> None:
    top = make(tmp_path / "top", a="12345", b="")
    make(top / "sub", c="678")
    source = TreeSource([top])
    survey = source.scan()
    pieces = rest(source)
    assert survey.entries == len(names(pieces)) == 5
    assert survey.size == len(content(pieces)) == 8


def test_dot_and_dot_dot_are_sent_under_the_names_they_stand_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    make(tmp_path / "here" / "below", x="1")
    monkeypatch.chdir(tmp_path / "here" / "below")
    assert names(everything(Path())) == ["below", "below/x"]
    assert names(everything(Path(".."))) == ["here", "here/below", "here/below/x"]
    assert names(everything(Path("../below/."))) == ["below", "below/x"]
    assert names(everything(tmp_path / "here" / "below" / "..")) == ["here", "here/below", "here/below/x"]


def test_the_root_directory_has_no_name() -> None:
    with pytest.raises(UsageError, match="no name"):
        TreeSource([Path("/")]).scan()
    with pytest.raises(UsageError, match="no name"):
        TreeSource([Path("/usr/..")]).scan()


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere does not exist"):
        TreeSource([tmp_path / "nowhere"]).scan()


def test_two_paths_of_one_name(tmp_path: Path) -> None:
    one, two = make(tmp_path / "1", a=""), make(tmp_path / "2", a="")
    with pytest.raises(UsageError, match=r"would both be sent as a\."):
        TreeSource([one / "a", two / "a"]).scan()
    with pytest.raises(UsageError, match="would both be sent as 1"):
        TreeSource([one, one]).scan()


def test_a_link_that_the_person_named_is_followed(tmp_path: Path) -> None:
    make(tmp_path / "real", a="1")
    (tmp_path / "file").write_text("2")
    (tmp_path / "to_dir").symlink_to("real")
    (tmp_path / "to_file").symlink_to("file")
    pieces = everything(tmp_path / "to_dir", tmp_path / "to_file")
    assert names(pieces) == ["to_dir", "to_dir/a", "to_file"]
    assert content(pieces) == b"12"


def test_what_has_no_place_on_the_wire_is_named_before_anything_is_sent(tmp_path: Path) -> None:
    top = make(tmp_path / "top", a="1")
    (top / "link").symlink_to("a")
    (top / "dir_link").symlink_to("/etc")
    os.mkfifo(top / "fifo")
    os.close(os.open(os.fsencode(top) + b"/bad\xff", os.O_CREAT | os.O_WRONLY))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(top / "socket"))
    source = TreeSource([top])
    survey = source.scan()
    assert {
        skipped.path.relative_to(top).as_posix().encode("utf-8", "surrogateescape"): skipped.reason
        for skipped in survey.skipped
    } == {
        b"link": "it is a symbolic link",
        b"dir_link": "it is a symbolic link",
        b"fifo": "it is a fifo",
        b"socket": "it is a socket",
        b"bad\xff": "its name is not UTF-8",
    }
    assert survey.entries == 2
    assert names(rest(source)) == ["top", "top/a"]


def test_a_device_given_by_name_is_refused() -> None:
    with pytest.raises(UsageError, match="it is a device"):
        TreeSource([Path("/dev/null")]).scan()


def test_a_path_too_deep_for_the_wire_is_skipped(tmp_path: Path) -> None:
    deep = tmp_path / "top"
    for _ in range(64):
        deep = deep / "d"
    deep.mkdir(parents=True)
    source = TreeSource([tmp_path / "top"])
    survey = source.scan()
    assert [skipped.path for skipped in survey.skipped] == [deep]
    assert survey.entries == 64


def test_unreadable_things_are_named_at_once_and_fail_where_both_sides_hear_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = make(tmp_path / "top", good="1", bad="2")
    make(top / "closed", x="3")
    opened, access = os.open, os.access

    # Root may read everything, so that modes alone would test nothing where tests run as root.
    def refusing_open(name: str, *rest: int, **named: int) -> int:
        if name in ("bad", "closed"):
            raise PermissionError(13, "Permission denied")
        return opened(name, *rest, **named)

    monkeypatch.setattr(os, "open", refusing_open)
    monkeypatch.setattr(
        os, "access", lambda name, *rest, **named: name != "bad" and access(name, *rest, dir_fd=named.get("dir_fd"))
    )
    source = TreeSource([top])
    survey = source.scan()
    assert [(skipped.path, skipped.reason) for skipped in survey.unreadable] == [
        (top / "bad", "Permission denied"),
        (top / "closed", "Permission denied"),
    ]
    pieces = rest(source)
    assert names(pieces) == ["top", "top/bad", "top/good", "top/closed"]
    failed = [before.entry.path[-1] for before, piece in itertools.pairwise(pieces) if isinstance(piece, Failed)]
    assert failed == ["bad", "closed"]


def test_too_many_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_source, "MAX_ENTRIES", 3)
    top = make(tmp_path / "top", a="", b="")
    assert TreeSource([top]).scan().entries == 3
    (top / "link").symlink_to("a")
    with pytest.raises(RefusedError, match="more than 3 files"):
        TreeSource([top]).scan()


@pytest.mark.parametrize("budget", [1, 1000, CHUNK_SIZE, 5 * CHUNK_SIZE])
def test_a_large_file_comes_in_chunks_within_the_budget(tmp_path: Path, budget: int) -> None:
    data = os.urandom(2 * CHUNK_SIZE + 7) if budget >= CHUNK_SIZE else os.urandom(2 * budget + 1)
    (tmp_path / "a").write_bytes(data)
    source = TreeSource([tmp_path / "a"])
    source.scan()
    found: list[Piece] = []
    while pieces := source.pieces(budget):
        assert len(content(pieces)) <= budget
        assert all(len(piece.data) <= CHUNK_SIZE for piece in pieces if isinstance(piece, Content))
        found += pieces
    assert content(found) == data
    assert found[-1] == Ended(blake3.blake3(data).digest())


def test_many_small_files_come_together_but_not_all_at_once(tmp_path: Path) -> None:
    top = make(tmp_path / "top", **{f"f{number:03}": "x" for number in range(300)})
    source = TreeSource([top])
    source.scan()
    batches = []
    while pieces := source.pieces(CHUNK_SIZE):
        batches.append(pieces)
    assert all(len(batch) <= MAX_PIECES for batch in batches)
    assert all(len(batch) > MAX_PIECES / 2 for batch in batches[:-1])
    assert len([name for batch in batches for name in names(batch)]) == 301


# A tree that changes between the walk and the reading.


def test_a_link_in_the_place_of_a_file_leaks_nothing(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    top = make(tmp_path / "top", a="public", b="after")
    source = TreeSource([top])
    source.scan()
    (top / "a").unlink()
    (top / "a").symlink_to(tmp_path / "secret")
    pieces = rest(source)
    assert pieces[2:4] == [
        Began(Entry(("top", "a"), EntryKind.FILE, 0, False, 0)),
        Failed("it was replaced after it was listed"),
    ]
    assert content(pieces) == b"after"


@pytest.mark.parametrize("prefetched", [False, True])
def test_a_link_in_the_place_of_a_directory_leaks_nothing(tmp_path: Path, prefetched: bool) -> None:
    outside = make(tmp_path / "outside", a="secret")
    make(outside / "inner", a="secret")
    (tmp_path / "top" / "mid" / "inner").mkdir(parents=True)
    make(tmp_path / "top" / "mid", a="public")
    make(tmp_path / "top" / "mid" / "inner", a="public")
    source = TreeSource([tmp_path / "top"])
    source.scan()
    found = source.pieces(1) if prefetched else []
    (tmp_path / "top" / "mid").rename(tmp_path / "gone")
    (tmp_path / "top" / "mid").symlink_to(outside)
    found += rest(source)
    assert b"secret" not in content(found)
    assert Failed("it was replaced after it was listed") in found


def test_another_file_in_the_place_of_a_given_path_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    make(tmp_path, a="public")
    source = TreeSource([tmp_path / "a"])
    source.scan()
    (tmp_path / "a").unlink()
    (tmp_path / "a").symlink_to("secret")
    assert rest(source)[1:] == [Failed("it was replaced after it was listed")]


def test_a_fifo_in_the_place_of_a_file_does_not_block(tmp_path: Path) -> None:
    top = make(tmp_path / "top", a="1")
    source = TreeSource([top])
    source.scan()
    (top / "a").unlink()
    os.mkfifo(top / "a")
    assert rest(source)[-1] == Failed("it was replaced after it was listed")


def test_a_file_removed_meanwhile_fails_and_the_next_goes_on(tmp_path: Path) -> None:
    top = make(tmp_path / "top", a="1", b="2")
    source = TreeSource([top])
    source.scan()
    (top / "a").unlink()
    pieces = rest(source)
    assert Failed("it was removed after it was listed") in pieces
    assert content(pieces) == b"2"


@pytest.mark.parametrize("change", ["shorter", "longer", "touched"])
def test_a_file_that_changes_while_it_is_read_fails(tmp_path: Path, change: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 100)
    source = TreeSource([path])
    source.scan()
    found = source.pieces(10)
    assert content(found) == b"x" * 10
    if change == "shorter":
        os.truncate(path, 50)
    elif change == "longer":
        with path.open("ab") as file:
            file.write(b"y" * 100)
    else:
        os.utime(path, ns=(0, 0))
    found += rest(source)
    assert found[-1] == Failed("it changed while it was read")
    assert b"y" not in content(found)


def test_a_file_that_is_larger_than_it_says_is_not_sent_as_empty() -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("no procfs")
    assert everything(Path("/proc/self/status"))[1:] == [Failed("it changed while it was read")]


def test_a_read_error_fails_the_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = make(tmp_path / "top", a="1")
    source = TreeSource([top])
    source.scan()

    def broken(fd: int, limit: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "read", broken)
    assert rest(source)[-1] == Failed("it could not be read: Input/output error")


# Refusals.


def test_skip_stops_the_entry_in_progress(tmp_path: Path) -> None:
    top = make(tmp_path / "top", a="x" * 100, b="after")
    source = TreeSource([top])
    source.scan()
    first = source.pieces(10)
    source.skip(("top", "a"))
    then = rest(source)
    assert names(first)[-1] == "top/a"
    assert names(then) == ["top/b"]
    assert content(then) == b"after"


def test_skip_of_a_directory_leaves_out_all_below_it(tmp_path: Path) -> None:
    top = make(tmp_path / "top", a="1")
    make(top / "no", b="2")
    make(top / "no" / "deeper", c="3")
    make(top / "not", d="4")
    source = TreeSource([top])
    source.scan()
    source.skip(("top", "no"))
    assert names(rest(source)) == ["top", "top/a", "top/not", "top/not/d"]


def test_skip_of_what_is_past_changes_nothing(tmp_path: Path) -> None:
    top = make(tmp_path / "top", a="1", b="22")
    source = TreeSource([top])
    source.scan()
    found = source.pieces(2)
    source.skip(("top", "a"))
    found += rest(source)
    assert content(found) == b"122"


@pytest.mark.parametrize("early", [True, False])
def test_nothing_stays_open(tmp_path: Path, early: bool) -> None:
    top = make(tmp_path / "top", a="1" * 100)
    make(top / "sub", b="2" * 100)
    before = open_files()
    source = TreeSource([top, tmp_path / "top" / "a"])
    source.scan()
    assert open_files() == before
    if early:
        source.pieces(10)
        assert open_files() > before
    else:
        rest(source)
    source.close()
    source.close()
    assert open_files() == before


def test_what_another_transfer_is_receiving_stays_here(tmp_path: Path) -> None:
    top = make(tmp_path / "top", a="1")
    make(top / ".tether-0123456789abcdef.part", half="2")
    source = TreeSource([top])
    (skipped,) = source.scan().skipped
    assert "another transfer" in skipped.reason
    assert names(rest(source)) == ["top", "top/a"]
