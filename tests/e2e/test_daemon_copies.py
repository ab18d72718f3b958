"""Copies and old backups of a machine: its history is never contradicted in silence, and people are told."""

import shutil
from pathlib import Path

import pytest

from tests.daemons import Daemon, all_linked, digests, eventually
from tests.e2e.daemon_kit import Start, collapsed, has, pair


def generation(daemon: Daemon) -> int:
    (mesh,) = daemon.json("status")["meshes"]
    number: int = mesh["generation"]
    return number


def told(daemon: Daemon) -> None:
    """A person is told of a new generation wherever they look."""
    assert any("under generation" in line for line in daemon.tether("events").out.splitlines())
    assert "generation.opened" in daemon.log
    problems = [each["what"] for each in daemon.json("status")["problems"]]
    assert any(f"generation {generation(daemon)}" in each for each in problems), problems
    assert "generation" in daemon.run("doctor").stdout.decode()


def said(daemon: Daemon) -> str:
    """What its people are told is wrong."""
    shown = daemon.json("status")
    found = [*shown["problems"], *(each for mesh in shown["meshes"] for each in mesh["problems"])]
    return " ".join(each["what"] for each in found)


def forked(daemon: Daemon) -> bool:
    return any(each["forked"] for each in daemon.json("members")["members"])


def test_a_copied_state_directory_beside_the_original(start: Start, tmp_path: Path) -> None:
    ann, ben = pair(start)
    first = collapsed(ann, "before the copy")
    eventually(lambda: has(ben, first), "ben has it")
    before = generation(ann)
    ann.stop()
    shutil.copytree(ann.state, tmp_path / "twin", symlinks=True)
    ann.start()
    all_linked(ann, ben)
    assert generation(ann) == before, "the original goes on as it was"
    assert not ann.json("status")["problems"]

    twin = start("twin")
    assert generation(twin) > before
    told(twin)
    ours, theirs = collapsed(ann, "by the original"), collapsed(twin, "by the copy")
    for handle in (ours, theirs):
        eventually(lambda handle=handle: has(ben, handle), "both histories count")
    assert not forked(ben) and not forked(ann), "no number was given twice"
    third = collapsed(twin, "by the copy again")
    eventually(lambda: has(ben, third), "ben has it")
    assert not forked(ben)
    twin.stop()
    eventually(lambda: has(ann, third), "and the original learns what its copy wrote")
    fourth = collapsed(ann, "by the original again")
    eventually(lambda: has(ben, fourth), "and writes without a fork")
    assert not forked(ben) and not forked(ann)
    eventually(lambda: digests(ann) == digests(ben), "they see the same")


@pytest.mark.soak
def test_two_live_holders_of_one_key_are_told_and_so_is_who_meets_both(start: Start, tmp_path: Path) -> None:
    """Their sessions replace each other, more than three times in three minutes."""
    ann, ben = pair(start)
    ann.stop()
    shutil.copytree(ann.state, tmp_path / "twin", symlinks=True)
    ann.start()
    twin = start("twin")
    eventually(lambda: "Two machines use the keys of ann" in said(ben), "who meets both is told", within=120)
    for holder in (ann, twin):
        eventually(lambda holder=holder: "Another machine uses the keys" in said(holder), "and so are both", within=120)


def test_a_restored_old_backup_goes_on_without_a_fork(start: Start) -> None:
    ann, ben = pair(start)
    kept = ann.json("put", "-", stdin=b"k" * 200_000)["full"]
    saved = ann.json("backup", "old.tether", "--blobs")
    backup = ann.directory / "old.tether"
    assert saved["path"] == str(backup) and backup.stat().st_mode & 0o777 == 0o600 and saved["meshes"] == 1
    later = [collapsed(ann, f"after the backup {number}") for number in range(5)]
    eventually(lambda: has(ben, later[-1]), "ben has what came after")
    before = generation(ann)
    ann.stop()
    shutil.rmtree(ann.state)

    restored = ann.run("restore", str(backup))
    assert restored.code == 0, restored.stderr
    assert "mesh" in restored.out, "it says what it did"
    ann.start()
    assert generation(ann) > before
    told(ann)
    all_linked(ann, ben)
    mine = collapsed(ann, "after the restore")
    eventually(lambda: has(ben, mine), "ben has what the restored machine writes")
    eventually(lambda: all(has(ann, handle) for handle in later), "ann has its own later records back")
    eventually(lambda: digests(ann) == digests(ben), "they see the same")
    assert not forked(ann) and not forked(ben)
    assert ann.tether("get", kept, "-o", "-").stdout == b"k" * 200_000
    ann.stop()
    ann.start()
    assert not forked(ann) and has(ann, mine)


def test_a_database_that_was_put_back_by_hand_is_found_out_from_a_peer(start: Start, tmp_path: Path) -> None:
    ann, ben = pair(start)
    ann.stop()
    (mesh,) = (ann.state / "meshes").iterdir()
    shutil.copytree(mesh, tmp_path / "older")  # a snapshot of the disk below the key file, which stays
    ann.start()
    all_linked(ann, ben)
    later = collapsed(ann, "lost with the disk")
    eventually(lambda: has(ben, later), "ben has it")
    before = generation(ann)
    ann.stop()
    shutil.rmtree(mesh)
    shutil.copytree(tmp_path / "older", mesh)
    ann.start()
    all_linked(ann, ben)
    mine = collapsed(ann, "written afterwards")  # waits for ben's word on this machine's own history
    eventually(lambda: has(ben, mine) and has(ann, later), "both have both")
    assert not forked(ann) and not forked(ben)
    eventually(lambda: generation(ann) > before, "a new generation")
    told(ann)


def test_backup_and_restore_that_cannot_be(start: Start, tmp_path: Path) -> None:
    ann, _ = pair(start)
    ann.tether("backup", "a.tether")
    whole = (ann.directory / "a.tether").read_bytes()
    assert "--overwrite" in ann.fails(6, "backup", "a.tether")
    ann.fails(6, "backup", "/nonexistent/a.tether")
    for options in ([], ["--overwrite"]):
        assert str(ann.directory) in ann.fails(6, "backup", str(ann.directory), *options)
    assert (ann.directory / "a.tether").read_bytes() == whole
    ann.tether("backup", "a.tether", "--overwrite")
    assert "control.fault" not in ann.log

    state = tmp_path / "empty"
    for name, data in (
        ("cut", whole[: len(whole) // 2]),
        ("flipped", whole[:5000] + b"\x55" + whole[5001:]),
        ("none", b""),
    ):
        (ann.directory / name).write_bytes(data)
        said = ann.fails(6, "--state", str(state), "restore", name)
        assert name in said and "backup" in said
        assert not (state / "identity").exists() and not list(state.glob("meshes/*"))
    assert "nowhere" in ann.fails(6, "--state", str(state), "restore", "nowhere")
    assert str(ann.directory) in ann.fails(6, "--state", str(state), "restore", str(ann.directory))
    said = ann.fails(6, "restore", "a.tether")
    assert "runs on" in said, "not under a daemon"
    ann.stop()
    assert "has a mesh in it" in ann.fails(6, "restore", "a.tether")
    ann.start()
    assert ann.json("mesh", "list")["meshes"][0]["machine"]["name"] == "ann", "nothing was touched"
