"""Values, tables and trees between real daemons: one content has one name everywhere, and a doubtful name is no name."""

import json
import time
from typing import Any

from blake3 import blake3

from tests.daemons import Daemon, eventually
from tests.e2e.daemon_kit import Start, founded, pair, written
from tests.vectors import make_handles

NOWHERE = "hl_inline_000000000000"


def resolved(daemon: Daemon, handle: str) -> Any:
    return json.loads(daemon.tether("resolve", handle).out)


def test_one_value_has_one_handle_on_every_machine(start: Start) -> None:
    ann, ben = pair(start)
    for vector in make_handles.build()["values"]:
        if vector["table"] == "tree":
            continue
        ours, *_ = vector["written"]
        theirs = vector["written"][-1]
        table = ("--table", vector["table"])
        assert ann.tether("collapse", *table, stdin=ours.encode()).out == vector["handle"]
        assert ben.tether("collapse", *table, stdin=theirs.encode()).out == vector["handle"]
        assert ben.tether("resolve", vector["handle"]).stdout.decode() == vector["canonical"] + "\n"
    file = written(ann, "value.json", b'{ "b": [1, 2], "a": "x" }\n')
    told = ann.json("collapse", str(file))
    assert told == ben.json("collapse", "--value", '{"a":"x","b":[1,2]}') | {"new": True}
    assert told["full"] == "h&l_inline_" + blake3(b'{"a":"x","b":[1,2]}').hexdigest()
    in_a_shell = told["handle"].replace("h&l", "hl")
    assert ben.tether("resolve", in_a_shell).out == ben.tether("resolve", told["full"]).out == '{"a":"x","b":[1,2]}'


def test_two_contents_with_one_short_name_are_both_named_and_neither_is_guessed(start: Start) -> None:
    ann, ben = pair(start)
    one, two = make_handles.build()["one short form"]
    short = f"h&l_inline_{one['digest'][:12]}"
    assert ann.tether("collapse", stdin=one["canonical"].encode()).out == short
    assert resolved(ben, short) == json.loads(one["canonical"])
    told = ann.json("collapse", stdin=two["canonical"].encode())
    assert told["handle"] == told["full"], "a name that is taken is not handed out"
    fulls = {f"h&l_inline_{each['digest']}" for each in (one, two)}
    eventually(lambda: ben.run("resolve", told["full"], "--wait", "0").code == 0, "ben has the second")
    for daemon in (ann, ben):
        for command in (["resolve"], ["metadata"], ["tree"]):
            said = daemon.fails(6, *command, short.replace("h&l", "hl"))
            assert all(full in said for full in fulls)
    for each in (one, two):
        assert resolved(ben, f"h&l_inline_{each['digest']}") == json.loads(each["canonical"])
    # The same bytes as blobs: another kind, another name, the same doubt.
    paths = [written(ann, each["digest"][:16], each["canonical"].encode()) for each in (one, two)]
    blobs = [ann.json("put", str(path))["full"] for path in paths]
    said = ann.fails(6, "get", f"hl_blob_{one['digest'][:12]}", "-o", "out")
    assert all(blob in said for blob in blobs)
    for blob, each in zip(blobs, (one, two), strict=True):
        assert ann.tether("get", blob, "-o", "-").stdout == each["canonical"].encode()


def test_what_is_no_value_and_no_handle_is_said_to_be_none(start: Start) -> None:
    ann = founded(start)
    for wrong in make_handles.NOT_JSON:
        ann.fails(2, "collapse", stdin=wrong.encode())
    ann.fails(2, "collapse", stdin=b"\xff")
    ann.fails(2, "collapse", stdin=b"[" * 1000 + b"]" * 1000)
    ann.fails(2, "collapse", str(ann.directory))
    ann.fails(2, "collapse", "/nonexistent")
    ann.fails(2, "collapse", "--value", "1", "--table", "blob")
    for options in (
        ["--table", "A B"],
        ["--tag", ""],
        ["--tag", " x"],
        ["--ttl", "1y"],
        ["--ttl", "-1"],
        ["--tag", "a\nb"],
    ):
        ann.fails(2, "collapse", "--value", "1", *options)
    for wrong in ("x", "h&l_inline_xyz", "h&l_inline_0123", "hl_a b_0123456789ab", "../etc"):
        for command in (
            ["resolve", wrong],
            ["metadata", wrong],
            ["pin", wrong],
            ["tree", wrong],
            ["get", wrong, "-o", "x"],
        ):
            assert "h&l_blob_" in ann.fails(2, *command), "the form of a handle is shown"
    for command in (["resolve"], ["metadata"], ["pin"], ["unpin"], ["tree"], ["tag"], ["get", "-o", "x"]):
        assert "000000000000" in ann.fails(4, *command, NOWHERE)
    assert "hl_blob" in ann.fails(2, "resolve", ann.tether("put", "-", stdin=b"bytes").out.replace("h&l", "hl"))
    value = ann.tether("collapse", "--value", "1").out
    assert "tether resolve" in ann.fails(2, "get", value, "-o", "x")
    ann.fails(2, "pin", value)
    assert ann.tether("tables").out.split() == ["TABLE", "HANDLES", "blob", "1", "inline", "1"]


def test_tables_tags_and_snapshots(start: Start) -> None:
    ann, ben = pair(start)
    for number in range(5):
        tag = "even" if number % 2 == 0 else "odd"
        ann.tether("collapse", "--table", "plans", "--tag", tag, "--tag", "all", "--value", json.dumps({"n": number}))
    eventually(lambda: len(ben.json("snapshot", "plans")["rows"]) == 5, "all are there")
    assert ben.json("tables")["tables"] == [{"table": "plans", "handles": 5}]
    assert {each["tag"]: each["handles"] for each in ben.json("tags")["tags"]} == {"all": 5, "even": 3, "odd": 2}
    even = ben.json("snapshot", "plans", "--tag", "even", "--limit", "2")
    assert {json.loads(row["json"])["n"] for row in even["rows"]} == {0, 2, 4} and even["next"] is None
    assert not ben.json("snapshot", "plans", "--tag", "eve")["rows"], "a tag matches exactly"
    lines = ben.tether("snapshot", "plans", "--tag", "odd").out.splitlines()
    assert len(lines) == 2 and all("[all, odd]" in line for line in lines)

    row = even["rows"][0]["full"]
    assert ben.json("tag", row, "--add", "final", "--remove", "even")["tags"] == ["all", "final"]
    eventually(lambda: ann.json("metadata", row)["tags"] == ["all", "final"], "tags change on every machine")
    ben.fails(2, "tag", row, "--add", "x", "--remove", "x")
    ben.fails(2, "tag", row, "--add", "")
    ben.fails(2, "snapshot", "NO")
    ben.fails(2, "snapshot", "plans", "--limit", "0")


def test_a_value_is_forgotten_everywhere_when_its_time_is_over(start: Start) -> None:
    ann, ben = pair(start)
    began = time.monotonic()
    short_lived = ann.tether("collapse", "--ttl", "4", "--value", '"soon gone"').out
    left = ben.json("metadata", short_lived)["ttl_left"] if ben.run("resolve", short_lived).code == 0 else 4
    assert 0 < left <= 4
    kept = ann.tether("collapse", "--ttl", "1h", "--value", '"for now"').out
    for daemon in (ann, ben):
        eventually(lambda daemon=daemon: daemon.run("resolve", short_lived, "--wait", "0").code == 4, "it is forgotten")
        assert time.monotonic() - began > 3.5
        assert b"soon gone" not in daemon.tether("snapshot", "inline").stdout
        assert 3500 < daemon.json("metadata", kept)["ttl_left"] <= 3600
    assert "never" not in ann.tether("metadata", kept).out
    ann.tether("collapse", "--value", '"for now"')
    assert ann.json("metadata", kept)["ttl_left"] is None, "said again without an end, it stays"


def test_a_tree_means_what_its_children_mean_in_order(start: Start) -> None:
    ann, ben = pair(start)
    one, two = (ann.tether("collapse", "--value", text).out for text in ('{"n":1}', '"two"'))
    blob = ann.json("put", str(written(ann, "file", b"content")))
    inner = ann.tether("tree", two, one).out
    outer = ann.json("tree", one, inner, blob["handle"], one)
    names = [one, inner, blob["handle"], one]
    assert outer["full"] == "h&l_tree_" + blake3(json.dumps(names, separators=(",", ":")).encode()).hexdigest()
    assert resolved(ben, outer["handle"]) == [{"n": 1}, ["two", {"n": 1}], blob["full"], {"n": 1}]
    shallow = json.loads(ben.tether("resolve", outer["handle"], "--shallow").out)
    assert [full[: len(name)] for full, name in zip(shallow, names, strict=True)] == names
    metadata = ben.json("metadata", outer["handle"])
    assert metadata["kind"] == "tree" and metadata["children"] == shallow and metadata["origin"]["name"] == "ann"
    assert ben.json("pin", outer["handle"])["pinned"]
    assert ben.json("metadata", blob["handle"])["pinned"], "a pin holds all below"
    ann.fails(2, "tree")


def test_a_table_goes_to_a_file_and_comes_back_hashed_again(start: Start) -> None:
    ann, ben = founded(start), start("ben")
    ben.tether("init", "--name", "ben", "--no-recovery", "--mesh", "other")
    values = [{"n": number, "text": "x" * number} for number in range(30)]
    for value in values:
        ann.tether("collapse", "--table", "plans", "--tag", "t", "--value", json.dumps(value))
    exported = ann.json("export", "plans", "-o", "plans.json")
    assert exported["handles"] == 30
    assert "exists" in ann.fails(2, "export", "plans", "-o", "plans.json")
    whole = (ann.directory / "plans.json").read_bytes()
    assert ann.tether("export", "plans", "-o", "-").stdout == whole

    lines = whole.splitlines(keepends=True)
    tampered = [line.replace(b'"n":7,', b'"n":8000,') for line in lines]
    assert tampered != lines
    path = written(ben, "tampered.json", b"".join(tampered))
    done = ben.run("import", str(path), "--json")
    assert done.code == 6
    refused = f"h&l_plans_{blake3(json.dumps(values[7], separators=(',', ':')).encode()).hexdigest()}"
    assert done.json["refused"] == [refused] and (done.json["handles"], done.json["new"]) == (29, 29)
    assert refused in ben.run("import", str(path)).out
    ben.fails(4, "resolve", refused)
    assert ben.json("import", "-", stdin=whole) | {"refused": []} == {
        "table": "plans",
        "handles": 30,
        "new": 1,
        "refused": [],
    }
    digests = [{each["view"]: each["digest"] for each in daemon.json("digest")["views"]} for daemon in (ann, ben)]
    assert digests[0]["values"] == digests[1]["values"] and digests[0]["tags"] == digests[1]["tags"]

    for wrong in (
        b"",
        b"{}",
        b"[1]",
        b"\xff",
        b'{"format":"tether export 2","table":"plans"}\n',
        whole[:-40],
        b"{" * 10_000,
    ):
        ben.fails(2, "import", str(written(ben, "wrong", wrong)))
    head = lines[0]
    for line in (b"{}", b'{"handle":"x","value":1}', b'{"handle":5}', lines[1].replace(b'["t"]', b'"t"')):
        ben.fails(2, "import", str(written(ben, "wrong", head + line + b"\n")))
    twice = head + lines[1].replace(b'"value":{', b'"value":{"n":1,"n":1,')
    assert ben.run("import", str(written(ben, "wrong", twice))).code in (2, 6)
    ben.fails(2, "import", "/nonexistent")
    ben.fails(2, "export", "blob", "-o", "x")
    assert "control.fault" not in ben.log
