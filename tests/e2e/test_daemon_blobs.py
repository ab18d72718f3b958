"""Blobs and directories between real daemons: whole, from whoever holds them, and nothing that does not fit its name."""

import os
import secrets
import shutil
from pathlib import Path

import apsw
from blake3 import blake3

from tests.daemons import all_linked, eventually, join
from tests.e2e.daemon_kit import Start, blob_files, founded, pair, written


def tree_of(directory: Path) -> dict[str, tuple[bytes, bool]]:
    return {
        str(path.relative_to(directory)): (path.read_bytes(), bool(path.stat().st_mode & 0o100))
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_files_bytes_and_directories_come_back_as_they_went(start: Start) -> None:
    ann, ben = pair(start)
    large = secrets.token_bytes((2 << 20) + 12_345)
    for name, data in (("empty", b""), ("small.txt", b"hello\n"), ("large.bin", large)):
        put = ann.json("put", str(written(ann, name, data)), "--tag", "files")
        assert put["full"] == "h&l_blob_" + blake3(data).hexdigest() and put["size"] == len(data) and put["new"]
        assert not ann.json("put", name)["new"], "a path is that of the command's own directory"
        got = ben.json("get", put["handle"].replace("h&l", "hl"), "-o", name)
        assert (ben.directory / name).read_bytes() == data and got["path"] == str(ben.directory / name)
        assert (got["moved"], got["size"]) == (len(data), len(data))
        assert ben.tether("get", put["full"], "-o", "-").stdout == data
        again = ben.json("get", put["full"], "-o", f"{name}.2")
        assert again["moved"] == 0, "what is here does not move again"
        metadata = ben.json("metadata", put["handle"])
        assert (metadata["name"], metadata["here"], metadata["tags"]) == (name, True, ["files"])
        assert "--overwrite" in ben.fails(2, "get", put["full"], "-o", name)
        ben.tether("get", put["full"], "-o", name, "--overwrite")
    piped = ben.json("put", "-", "--name", "piped", stdin=large + b"!")
    assert ann.tether("get", piped["handle"], "-o", "-").stdout == large + b"!"
    assert not list((ben.state / "incoming").iterdir()) and not list((ann.state / "outgoing").iterdir())
    assert ann.json("metadata", piped["handle"])["name"] == "piped"

    source = ann.directory / "project"
    (source / "src" / "deep").mkdir(parents=True)
    (source / "nothing").mkdir()
    for number in range(300):
        (source / "src" / f"{number}.txt").write_bytes(b"%d\n" % (number % 250))
    (source / "src" / "deep" / "data").write_bytes(large)
    (source / "run.sh").write_bytes(b"#!/bin/sh\n")
    (source / "run.sh").chmod(0o755)
    put = ann.json("put", str(source))
    assert put["files"] == 302, "directories are no files"
    got = ben.json("get", put["handle"], "-o", "copy")
    assert got["directory"] and got["files"] == 302 and tree_of(ben.directory / "copy") == tree_of(source)
    assert (ben.directory / "copy" / "nothing").is_dir()
    assert ben.json("metadata", put["handle"])["kind"] == "directory"
    assert "-o" in ben.fails(2, "get", put["handle"], "-o", "-")


def test_put_and_get_of_what_cannot_be(start: Start) -> None:
    ann = founded(start)
    handle = ann.tether("put", "-", stdin=b"x" * 100_000).out
    ann.fails(2, "put", "/nonexistent")
    ann.fails(2, "put", "/dev/null")
    assert "empty" in ann.fails(2, "put", ""), "not the working directory"
    ann.fails(4, "put", str(written(ann, "f", b"1")), "--for", "nobody")
    ann.fails(2, "put", "f", "--content-type", "nonsense")
    ann.fails(2, "put", "f", "--ttl", "soon")
    os.mkfifo(ann.directory / "fifo")
    ann.fails(2, "put", "fifo")
    (ann.directory / "link").symlink_to("nowhere")
    ann.fails(2, "put", "link")
    assert "/nonexistent" in ann.fails(2, "get", handle, "-o", "/nonexistent/file")
    (ann.directory / "directory").mkdir()
    ann.fails(2, "get", handle, "-o", "directory")
    ann.fails(2, "get", handle, "-o", "directory", "--overwrite")
    assert (ann.directory / "directory").is_dir()
    ann.fails(2, "get", handle, "-o", "")
    ann.fails(2, "get", handle)
    assert "control.fault" not in ann.log


def test_a_blob_for_a_machine_is_fetched_and_pinned_there(start: Start) -> None:
    ann, ben = pair(start)
    data = secrets.token_bytes(300_000)
    put = ann.json("put", str(written(ann, "dump", data)), "--for", "ben", "--wait", "30")
    assert [each["name"] for each in put["held_by"]] == ["ben"]
    metadata = ben.json("metadata", put["handle"])
    assert metadata["pinned"] and metadata["here"]
    assert {each["name"] for each in ann.json("metadata", put["handle"])["held_by"]} == {"ann", "ben"}
    source = ann.directory / "tree"
    (source / "a").mkdir(parents=True)
    (source / "a" / "b").write_bytes(data[:100_000])
    (source / "c").write_bytes(b"c")
    directory = ann.json("put", str(source), "--for", "ben", "--wait", "30")
    assert [each["name"] for each in directory["held_by"]] == ["ben"]
    ann.kill()
    assert ben.tether("get", put["handle"], "-o", "-").stdout == data
    ben.tether("get", directory["handle"], "-o", "tree")
    assert tree_of(ben.directory / "tree") == tree_of(source)


def test_what_nothing_names_goes_and_what_is_pinned_or_announced_stays(start: Start) -> None:
    ann = founded(start)
    announced = ann.json("put", "-", stdin=secrets.token_bytes(100_000))["full"]
    pinned, expired = (ann.json("put", "-", "--ttl", "1", stdin=secrets.token_bytes(100_000))["full"] for _ in range(2))
    assert ann.json("pin", pinned)["pinned"]
    young = ann.json("gc", "--dry-run")
    assert (young["count"], young["left"]) == (0, 300_000), "what came a moment ago is spared"
    eventually(lambda: ann.json("snapshot", "blob")["rows"][1:] == [], "two are announced no more")
    ann.stop()
    for path in ann.state.glob("meshes/*/mesh.db"):
        connection = apsw.Connection(str(path))
        connection.execute("UPDATE blobs SET added_ms = added_ms - 7200000")  # two hours older
        connection.close()
    ann.start()
    dry = ann.json("gc", "--dry-run")
    assert [each["full"] for each in dry["blobs"]] == [expired] and (dry["count"], dry["left"]) == (1, 200_000)
    assert len(blob_files(ann)) == 3, "it only looked"
    assert "would go" in ann.tether("gc", "--dry-run").out
    assert ann.json("gc")["size"] == 100_000
    assert set(blob_files(ann)) == {each.rpartition("_")[2] for each in (announced, pinned)}
    ann.fails(4, "get", expired, "-o", "x")
    assert len(ann.tether("get", announced, "-o", "-").stdout) == 100_000


def test_a_flipped_byte_is_refused_by_name_and_the_content_comes_from_another(start: Start) -> None:
    ann, ben = pair(start)
    cleo = start("cleo")
    join(ann, cleo)
    all_linked(ann, ben, cleo)
    data = secrets.token_bytes((3 << 20) + 5)
    put = ann.json("put", str(written(ann, "precious", data)), "--for", "ben", "--wait", "30")
    digest = put["full"].rpartition("_")[2]
    stored = blob_files(ann)[digest]
    stored.chmod(0o600)
    with stored.open("r+b") as file:
        file.seek((2 << 20) + 77)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    got = cleo.json("get", put["full"], "-o", "copy")
    assert (cleo.directory / "copy").read_bytes() == data and got["size"] == len(data)
    # With only the damaged copy left, it is refused, by name, and nothing is written.
    ben.kill()
    cleo.kill()
    shutil.rmtree(cleo.state / "meshes")
    refused = ann.run("get", put["full"], "-o", "own")
    # 6: this read found it. 4: ann found it while she served cleo, took it out, and nobody who has it is linked.
    assert refused.code in (4, 6) and digest[:12] in refused.stderr, refused.stderr
    assert refused.code == 4 or "damaged" in refused.stderr
    assert not (ann.directory / "own").exists()
    assert "damaged" in ann.tether("events").out
    ben.start()
    ann.tether("get", put["full"], "-o", "own")
    assert (ann.directory / "own").read_bytes() == data, "made good from another holder"


def test_a_damaged_holder_alone_never_serves_what_is_wrong(start: Start) -> None:
    ann, ben = pair(start)
    data = secrets.token_bytes((2 << 20) + 5)
    put = ann.json("put", str(written(ann, "precious", data)))
    (stored,) = blob_files(ann).values()
    stored.chmod(0o600)
    stored.write_bytes(data[:-1] + bytes([data[-1] ^ 128]))
    done = ben.run("get", put["full"], "-o", "copy", "--wait", "3")
    assert done.code in (4, 6, 7) and done.stderr.startswith("Error: ")
    assert "ann" in done.stderr and "damaged" in done.stderr, done.stderr
    assert not (ben.directory / "copy").exists()
    assert any(
        each.startswith("damaged") or "is damaged at ann" in each for each in ben.tether("events").out.splitlines()
    )
    shorter = ann.json("put", "-", stdin=data[: 1 << 20])
    path = blob_files(ann)[shorter["full"].rpartition("_")[2]]
    path.chmod(0o600)
    path.write_bytes(data[:1000])
    assert ben.run("get", shorter["full"], "-o", "copy", "--wait", "3").code in (4, 6, 7)
    path.unlink()
    assert ben.run("get", shorter["full"], "-o", "copy", "--wait", "3").code in (4, 6, 7)
    assert not (ben.directory / "copy").exists()
