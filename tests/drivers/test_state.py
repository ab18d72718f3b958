"""The state directory: private, ours, one daemon's; and what a person is told when it is not."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from meshd.drivers import state as state_module
from meshd.drivers.state import StateDirectory, explained, write_private
from meshd.errors import RefusedError, StoreError

MESH = bytes(range(32))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_made_private_with_what_is_above_it(tmp_path: Path) -> None:
    with StateDirectory.open(tmp_path / "a" / "b") as state:
        assert state.path == tmp_path / "a" / "b"
        assert mode(state.path) == 0o700
        assert mode(state.path / "meshd.lock") == 0o600


def test_paths_are_where_the_page_says(tmp_path: Path) -> None:
    with StateDirectory.open(tmp_path / "s") as state:
        mesh = state.mesh(MESH)
        found = [
            *(state.identity, state.generation, state.socket, state.config),
            *(mesh.path, mesh.database, mesh.blobs, mesh.partial),
        ]
        assert [path.relative_to(state.path).as_posix() for path in found] == [
            *("identity", "generation", "control.sock", "config.toml", "meshes/0001020304050607"),
            *(f"meshes/0001020304050607/{name}" for name in ("mesh.db", "blobs", "partial")),
        ]
        assert [mode(path) for path in (state.meshes, mesh.path, mesh.blobs, mesh.partial)] == [0o700] * 4
        assert state.mesh_directories() == [], "a directory without a database is no mesh yet"
        mesh.database.touch()
        assert state.mesh(MESH) == mesh
        assert state.mesh_directories() == [mesh]


def test_a_second_daemon_is_told_who_the_first_is(tmp_path: Path) -> None:
    with StateDirectory.open(tmp_path / "s"):
        with pytest.raises(RefusedError, match=f"pid {os.getpid()}") as raised:
            StateDirectory.open(tmp_path / "s")
        assert "--state" in raised.value.advice
    StateDirectory.open(tmp_path / "s").close()


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from meshd.drivers.state import StateDirectory;"
        "state = StateDirectory.open(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "s")], cwd=Path(__file__).parents[2])
    assert done.returncode == -9
    StateDirectory.open(tmp_path / "s").close()


def test_what_others_may_enter_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.mkdir(mode=0o700)
    (path / "identity").touch()
    path.chmod(0o750)
    with pytest.raises(RefusedError, match="Other users") as raised:
        StateDirectory.open(path)
    assert f"chmod 700 {path}" in raised.value.advice


def test_an_empty_directory_is_made_private(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s").chmod(0o755)
    StateDirectory.open(tmp_path / "s").close()
    assert mode(tmp_path / "s") == 0o700


def test_another_users_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    path.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(RefusedError, match="belongs to another user"):
        StateDirectory.open(path)
    assert list(path.iterdir()) == []


def test_a_file_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "s").touch()
    for path in (tmp_path / "s", tmp_path / "s" / "below"):
        with pytest.raises(StoreError, match="cannot be used"):
            StateDirectory.open(path)


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir(mode=0o700)
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "s" / "meshd.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(StoreError):
        StateDirectory.open(tmp_path / "s")
    assert (tmp_path / "victim").read_text() == "precious"


def test_what_passed_through_is_cleared_and_links_are_not_entered(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    with StateDirectory.open(tmp_path / "s") as state:
        (state.incoming / "spool").write_text("x")
        (state.outgoing / "tree").mkdir()
        (state.outgoing / "tree" / "file").touch()
        (state.outgoing / "link").symlink_to(outside)
    with StateDirectory.open(tmp_path / "s") as state:
        assert [*state.incoming.iterdir(), *state.outgoing.iterdir()] == []
    assert (outside / "precious").exists()


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EROFS, "read-only"), (errno.ENOSPC, "full"), (errno.EDQUOT, "quota"), (errno.EACCES, "may not write")],
)
def test_a_disk_is_explained(number: int, words: str) -> None:
    with pytest.raises(StoreError, match=words), explained(Path("/s")):
        raise OSError(number, os.strerror(number))


def test_too_little_space_is_said_in_numbers(tmp_path: Path) -> None:
    with StateDirectory.open(tmp_path / "s") as state:
        state.require_space(1)
        with pytest.raises(StoreError, match="MiB left"):
            state.require_space(1 << 62)
        assert state.free_bytes() > 0


def test_a_private_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_private(path, b"old")
    assert mode(path) == 0o600

    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(state_module, "sync_file", no_space)
    with pytest.raises(OSError, match="no space"):
        write_private(path, b"new")
    assert path.read_bytes() == b"old"
    monkeypatch.undo()
    write_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file"]
