"""What the world does to a daemon: each fault is said clearly, ends with the documented code, and damages nothing."""

import contextlib
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from tests.daemons import Daemon, is_clear
from tests.e2e.daemon_kit import Start, another, database, founded, refused, resolves

NOBODY = 65_534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount and to be somebody else")


@contextlib.contextmanager
def mounted(path: Path, options: str) -> Iterator[None]:
    """A file system in memory at `path`, gone afterwards."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


# At the start


def test_a_second_daemon_on_one_directory(start: Start) -> None:
    ann = founded(start)
    said = refused(another(ann, "second"), 6)
    assert f"pid {ann.pid}" in said and str(ann.state) in said and "--state" in said
    assert ann.tether("status").code == 0, "the first goes on, and its socket is its own"
    ann.kill()
    ann.start()  # what a killed daemon leaves stops nobody


def unopened(daemon: Daemon) -> str:
    """Start a daemon that cannot open its only mesh, and return what it says of that everywhere."""
    daemon.start()
    (problem,) = daemon.json("status")["problems"]
    assert problem["level"] == "error"
    assert problem["what"] in daemon.tether("status").out
    assert problem["what"] in daemon.log_path.read_text()
    assert problem["what"] in daemon.fails(6, "members"), "not that there is no mesh"
    assert daemon.run("doctor").code == 1
    assert daemon.stop() == 0
    return str(problem["what"] + " " + problem["advice"])


def test_a_newer_schema_is_refused_by_its_version_and_left_alone(start: Start) -> None:
    ann = founded(start)
    handle = ann.tether("collapse", "--value", '"kept"').out
    ann.stop()
    connection = apsw.Connection(str(database(ann)))
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    connection.execute(f"PRAGMA user_version = {version + 1}")
    connection.close()
    before = database(ann).read_bytes()
    said = unopened(ann)
    assert str(version + 1) in said and str(version) in said and "newer" in said.lower()
    assert database(ann).read_bytes() == before
    connection = apsw.Connection(str(database(ann)))
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    ann.start()
    assert resolves(ann, handle, '"kept"')


def test_a_damaged_database_is_said_to_be_one(start: Start) -> None:
    ann = founded(start)
    for number in range(20):
        ann.tether("collapse", "--value", f'"{number:0>2000}"')
    ann.stop()
    whole = database(ann).read_bytes()
    torn = bytearray(whole)
    torn[8192:12288] = os.urandom(4096)
    for data in (bytes(torn), b"not a database at all" * 1000):
        database(ann).write_bytes(data)
        said = unopened(ann)
        assert str(database(ann)) in said and ("damaged" in said or "not a database" in said)
    database(ann).write_bytes(whole)
    ann.start()
    assert len(ann.json("snapshot", "inline")["rows"]) == 20


def test_one_mesh_that_cannot_be_opened_does_not_take_the_others_along(start: Start) -> None:
    ann = founded(start)
    handle = ann.tether("collapse", "--value", '"kept"').out
    broken = database(ann)
    ann.tether("init", "--mesh", "other", "--name", "ann", "--no-recovery")
    ann.stop()
    whole = broken.read_bytes()
    broken.write_bytes(b"not a database at all" * 1000)
    ann.start()
    status = ann.json("status")
    assert [each["name"] for each in status["meshes"]] == ["other"] and str(broken) in status["problems"][0]["what"]
    ann.tether("collapse", "--value", '"elsewhere"')
    ann.stop()
    broken.write_bytes(whole)
    ann.start()
    assert ann.tether("resolve", handle, "--mesh", "home").out == '"kept"'


@as_root
def test_what_belongs_to_another_user(start: Start) -> None:
    ann = founded(start)
    ann.stop()
    ann.state.chmod(0o755)
    said = refused(ann, 6)
    assert "chmod 700" in said
    ann.state.chmod(0o700)
    os.chown(ann.state, NOBODY, -1)
    assert "another user" in refused(ann, 6)
    os.chown(ann.state, 0, -1)

    ann.state.joinpath("identity").chmod(0o644)
    assert "chmod 600" in refused(ann, 6)
    ann.state.joinpath("identity").chmod(0o600)

    path = ann.state / "control.sock"
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        os.chown(path, NOBODY, -1)
        said = refused(ann, 6)
        assert str(path) in said and "another user" in said
        assert path.exists(), "it is not ours to remove"
        path.unlink()
    path.write_text("a file")
    assert "no socket" in refused(ann, 6)
    assert path.read_text() == "a file"
    path.unlink()
    ann.start()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(ann.state.stat().st_mode) == 0o700
    assert stat.S_IMODE((ann.state / "identity").stat().st_mode) == 0o600


@as_root
def test_a_daemon_of_another_user_is_not_spoken_to(start: Start, tmp_path: Path) -> None:
    ann = founded(start)
    ann.stop()
    listening = (
        f"import os, socket; s = socket.socket(socket.AF_UNIX); s.bind({str(ann.state / 'control.sock')!r});"
        f"os.chown({str(ann.state / 'control.sock')!r}, {NOBODY}, -1); os.setgid({NOBODY}); os.setuid({NOBODY});"
        "s.listen(); print('up', flush=True); c, _ = s.accept(); print(len(c.recv(1000)), flush=True)"
    )
    impostor = subprocess.Popen([sys.executable, "-c", listening], stdout=subprocess.PIPE, text=True)
    try:
        assert impostor.stdout is not None and impostor.stdout.readline() == "up\n"
        said = ann.fails(6, "join", stdin=b"7-crystal-clock-tower\n")
        assert "another user" in said
        assert impostor.stdout.readline() == "0\n", "it was told nothing"
    finally:
        impostor.kill()
        impostor.communicate()
        (ann.state / "control.sock").unlink(missing_ok=True)


@as_root
def test_a_read_only_disk(start: Start, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "size=128m,mode=700"):
        ann = start("ann", TETHER_STATE=str(disk / "state"))
        ann.state = disk / "state"
        ann.tether("init", "--name", "ann", "--no-recovery")
        handle = ann.tether("collapse", "--value", '"kept"').out
        ann.stop()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        said = refused(ann, 6)
        assert "read-only" in said.lower() and str(disk) in said
        elsewhere = Daemon("elsewhere", tmp_path, TETHER_STATE=str(disk / "new"))
        assert "read-only" in refused(elsewhere, 6).lower()
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        ann.start()
        assert resolves(ann, handle, '"kept"')
        ann.stop()


@as_root
def test_no_disk_left(start: Start, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "size=96m,mode=700"):
        ann = start("ann", TETHER_STATE=str(disk / "state"))
        ann.state = disk / "state"
        ann.tether("init", "--name", "ann", "--no-recovery")
        kept = ann.tether("collapse", "--value", '"kept"').out
        filler = disk / "filler"
        big = tmp_path / "big"
        big.write_bytes(os.urandom(1 << 20) * 120)
        said = ann.fails(6, "put", str(big))
        assert "space" in said or "full" in said or "free" in said
        assert not list(ann.state.glob("meshes/*/partial/*")), "what did not fit is taken away"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * 4096)
        os.truncate(filler, filler.stat().st_size - (400 << 10))  # room for a few more
        acknowledged = []
        for number in range(200):
            done = ann.run("collapse", "--value", f'"{number:0>5000}"')
            if done.code:
                assert done.code == 6 and is_clear(done.stderr), done.stderr
                assert "full" in done.stderr or "space" in done.stderr or "disk" in done.stderr
                break
            acknowledged.append(done.out)
        else:
            raise AssertionError("a full disk took 200 values")
        assert acknowledged
        assert ann.tether("status").code == 0, "it goes on, and answers"
        assert resolves(ann, kept, '"kept"')
        ann.stop()
        said = refused(ann, 6)
        assert "MiB" in said or "full" in said
        filler.unlink()
        ann.start()
        assert resolves(ann, kept, '"kept"')
        for number, handle in enumerate(acknowledged):
            assert resolves(ann, handle, f'"{number:0>5000}"'), "what was acknowledged is there"
        ann.tether("collapse", "--value", '"there is room again"')
        print(f"{len(acknowledged)} values were acknowledged before the disk was full")
        ann.stop()
