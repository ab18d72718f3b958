"""Meshes of real daemons over loopback: founding, joining, leaving, and what a person sees of who is there."""

import json
import signal
from pathlib import Path
from typing import Any

from tests.daemons import WITHIN, Daemon, eventually, join
from tests.e2e.daemon_kit import Start, founded, opened, standings

OTHER_WORDS = "abandon-ability-able"


def linked(daemon: Daemon, *arguments: str) -> set[str]:
    """Names of the machines that are linked, in all meshes unless one is named."""
    found = daemon.json("status", *arguments)["meshes"]
    return {each["machine"]["name"] for mesh in found for each in mesh["machines"] if each["linked"]}


def views(daemon: Daemon, *arguments: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = daemon.json("digest", *arguments)["views"]
    return found


def test_three_machines_become_one_mesh_and_see_the_same(start: Start) -> None:
    ann, ben, cleo = founded(start, "ann"), start("ben"), start("cleo")
    join(ann, ben)
    join(ben, cleo)  # any member may let one in
    for daemon in (ann, ben, cleo):
        others = {"ann", "ben", "cleo"} - {daemon.name}
        eventually(
            lambda daemon=daemon, others=others: linked(daemon) == others, f"{daemon.name} is linked with {others}"
        )
        assert standings(daemon) == {"ann": "active", "ben": "active", "cleo": "active"}
    table = ann.tether("members").out.splitlines()
    assert [line.split()[:1] + line.split()[2:4] for line in table[1:]] == [
        ["ann", "active", "founder"],
        ["ben", "active", "ann"],
        ["cleo", "active", "ben"],
    ]
    assert "this machine" in table[1] and "linked" in table[2]

    ann.tether("collapse", stdin=b'{"written":"by ann"}')
    cleo.tether("collapse", stdin=b'{"written":"by cleo"}')
    eventually(lambda: views(ann) == views(ben) == views(cleo), "digests are equal")
    assert views(ann)[0]["view"] == "roster"

    ping = ann.json("ping", "CLEO", "--count", "4")
    assert ping["machine"]["name"] == "cleo" and len(ping["round_trips"]) == 4
    assert all(0 < each < 10 for each in ping["round_trips"])
    assert "cleo" in ann.tether("ping", cleo.json("status")["node"][:8]).out, "a machine may be named by its id"

    status = ann.tether("status").out
    assert "ben (" in status and "cleo (" in status and "nothing" in status
    assert ann.json("mesh", "list")["meshes"][0]["linked"] == 2


def test_a_wrong_code_is_refused_three_times_and_then_the_window_is_closed(start: Start) -> None:
    ann, ben = founded(start, "ann"), start("ben")
    inviting = ann.begin("invite", "--json")
    try:
        code, port = opened(inviting)
        wrong = f"{code.partition('-')[0]}-{OTHER_WORDS}"
        assert wrong != code
        for _ in range(3):
            said = ben.fails(3, "join", "--peer", f"127.0.0.1:{port}", stdin=wrong.encode())
            assert code not in said and OTHER_WORDS not in said
        lines, error = inviting.communicate(timeout=WITHIN)
        assert inviting.returncode == 3
        spent = [json.loads(line) for line in lines.splitlines()]
        assert [each["remaining"] for each in spent if each["event"] == "try.spent"] == [2, 1, 0]
        assert json.loads(error)["exit_code"] == 3
    finally:
        inviting.kill()
        inviting.communicate()
    ben.fails(4, "join", "--timeout", "2", stdin=code.encode())  # the right one, too late
    assert standings(ann) == {"ann": "active"} and not ben.json("mesh", "list")["meshes"]
    assert code not in ann.log + ben.log, "a code is a secret"
    join(ann, ben)  # a new window takes a new code, and nothing is left of the old one


def test_an_invitation_that_nobody_takes_ends_and_says_so(start: Start) -> None:
    ann = founded(start, "ann")
    done = ann.run("invite", "--timeout", "0.5")
    assert done.code == 7 and "Nobody" in done.stderr, done.stderr
    inviting = ann.begin("invite", "--json")
    code, port = opened(inviting)
    inviting.send_signal(signal.SIGINT)
    inviting.communicate(timeout=WITHIN)
    assert inviting.returncode == 130
    ben = start("ben")
    ben.fails(4, "join", "--peer", f"127.0.0.1:{port}", "--timeout", "5", stdin=code.encode())


def test_what_is_no_code_is_said_before_anybody_is_looked_for(start: Start) -> None:
    ben = start("ben")
    for wrong, said in (
        (b"", "The code is missing"),
        (b"crystal clock tower", "number"),
        (b"7-crystal-clock", "2 of at least 3 words"),
        (b"7-crystal-clock-towerr", "towerr"),
        (b"7-crystal-clok-tower", "Perhaps clock"),
        (b"\xff\xfe", "UTF-8"),
        (b"x" * 5000, "4,096 bytes"),
    ):
        assert said in ben.fails(2, "join", stdin=wrong)
    assert "port" in ben.fails(2, "join", "7-crystal-clock-tower", "--peer", "127.0.0.1:70000")
    assert "127.0.0.1:9" in ben.fails(4, "join", "7-crystal-clock-tower", "--peer", "127.0.0.1:9", "--timeout", "1")


def test_the_names_of_machines(start: Start) -> None:
    ann, ben, second = founded(start, "ann"), start("ben"), start("BEN")
    join(ann, ben)
    assert "ann" in ben.fails(6, "rename", "ANN")
    for wrong in ("", "a b", "-x", "x" * 64, "bén", "a/b"):
        ben.fails(2, "rename", "--", wrong)
    assert ben.json("rename", "tower")["before"] == "ben"
    eventually(lambda: standings(ann) == {"ann": "active", "tower": "active"}, "ann knows the new name")
    ben.tether("rename", "ben")
    eventually(lambda: standings(ann) == {"ann": "active", "ben": "active"}, "ann knows the old name again")
    join(ann, second)
    taken = set(standings(second)) - {"ann", "ben"}
    assert taken == {"BEN-2"}, "a name that is taken, without case, gets a number"
    assert "No machine" in ann.fails(4, "ping", "nobody")
    assert "this machine" in ann.fails(2, "ping", "ann")


def test_a_block_holds_on_one_machine_and_is_taken_back(start: Start) -> None:
    ann, ben, cleo = founded(start, "ann"), start("ben"), start("cleo")
    join(ann, ben)
    join(ann, cleo)
    eventually(lambda: linked(ben) == {"ann", "cleo"}, "all are linked")
    assert ben.json("block", "cleo", "--reason", "odd mail")["blocked"]
    eventually(lambda: linked(ben) == {"ann"} and linked(cleo) == {"ann"}, "only those two are apart")
    assert "blocked" in ben.tether("status").out
    notes = {each["machine"]["name"]: each for each in ben.json("members")["members"]}
    assert notes["cleo"]["blocked"] and notes["cleo"]["standing"] == "active"

    def told() -> bool:
        found = {each["machine"]["name"]: each for each in ann.json("members")["members"]}
        return [each["name"] for each in found["cleo"]["distrusted_by"]] == ["ben"] and not found["cleo"]["blocked"]

    eventually(told, "ann is told, and decides for itself")
    handle = cleo.tether("collapse", stdin=b'"round about"').out
    assert ben.tether("resolve", handle).out == '"round about"', "records still come by way of ann"
    ben.fails(4, "ping", "cleo")
    ben.kill()
    ben.start()
    assert linked(ben) <= {"ann"}
    eventually(lambda: linked(ben) == {"ann"}, "a block outlasts a restart")

    assert not ben.json("unblock", "cleo")["blocked"]
    eventually(lambda: linked(ben) == {"ann", "cleo"}, "they are linked again")
    assert "this machine" in ben.fails(2, "block", "ben")
    ben.fails(4, "block", "nobody")


def test_two_meshes_on_one_machine_stay_apart(start: Start) -> None:
    ann, ben, cleo = founded(start, "ann", "home"), start("ben"), founded(start, "cleo", "work")
    join(ann, ben)
    inviting = cleo.begin("invite", "--json")
    code, _ = opened(inviting)
    ben.tether("join", "--name", "guest", stdin=code.encode())
    inviting.communicate(timeout=WITHIN)
    assert inviting.returncode == 0

    assert {each["name"]: each["machine"]["name"] for each in ben.json("mesh", "list")["meshes"]} == {
        "home": "ben",
        "work": "guest",
    }
    several = ben.fails(2, "members")
    assert "home, work" in several and "--mesh" in several
    assert "nowhere" in ben.fails(4, "members", "--mesh", "nowhere")
    ben.fails(2, "members", "--mesh", "no where")
    handle = ben.tether("--mesh", "home", "collapse", stdin=b'{"only":"home"}').out
    eventually(lambda: ann.run("resolve", handle, "--wait", "0").code == 0, "home has it")
    cleo.fails(4, "resolve", handle, "--wait", "0")
    ben.fails(4, "resolve", handle, "--mesh", "work", "--wait", "0")
    path = ben.directory / "secret"
    path.write_bytes(b"home's own\n" * 10_000)
    blob = ben.json("put", str(path), "--mesh", "home")["full"]
    cleo.fails(4, "get", blob, "-o", "stolen", "--wait", "0")
    assert set(standings(ben, "--mesh", "home")) == {"ann", "ben"}
    assert set(standings(cleo)) == {"cleo", "guest"}
    eventually(lambda: linked(cleo) == {"guest"} and linked(ann) == {"ben"}, "each is linked in its own mesh only")
    assert "WORK" in cleo.fails(6, "init", "--mesh", "WORK")


def test_leaving_is_for_good_and_heard_by_the_others(start: Start) -> None:
    ann, ben, cleo = founded(start, "ann"), start("ben"), start("cleo")
    join(ann, ben)
    join(ben, cleo)
    eventually(lambda: linked(ben) == {"ann", "cleo"}, "all are linked")
    ben.tether("collapse", stdin=b'"stays"')
    assert "no terminal" in ben.fails(2, "leave")
    assert ben.json("leave", "--yes")["told"] == 2
    assert ben.json("mesh", "list") == {"meshes": []}
    assert not list((ben.state / "meshes").iterdir()), "nothing is kept of it"
    gone = {"ann": "active", "ben": "revoked", "cleo": "active"}
    eventually(lambda: standings(ann) == gone and standings(cleo) == gone, "whom it let in stays")
    eventually(lambda: linked(ann) == {"cleo"}, "the others stay linked")
    inviting = ann.begin("invite", "--json")
    try:
        code, port = opened(inviting)
        assert "new keys" in ben.fails(6, "join", "--peer", f"127.0.0.1:{port}", stdin=code.encode())
    finally:
        inviting.kill()
        inviting.communicate()
    assert ann.tether("resolve", ann.json("snapshot", "inline")["rows"][0]["full"]).out == '"stays"'


def test_addresses_by_hand_link_machines_that_no_multicast_joins(start: Start) -> None:
    ann, ben = start("ann", TETHER_LAN="false", TETHER_HOST="127.0.0.1"), start("ben", TETHER_LAN="false")
    ann.tether("init", "--name", "ann", "--no-recovery")
    inviting = ann.begin("invite", "--json")
    code, port = opened(inviting)
    ben.tether("join", "--name", "ben", "--peer", f"127.0.0.1:{port}", stdin=code.encode())
    inviting.communicate(timeout=WITHIN)
    eventually(lambda: linked(ben) == {"ann"}, "they are linked")
    assert "not searched" in ben.tether("status").out

    assert ben.json("peer", "add", "127.0.0.1:9") == {"address": "127.0.0.1:9", "changed": True}
    assert ben.json("peer", "add", "127.0.0.1:9")["changed"] is False
    kinds = {each["address"]: each["kind"] for each in ben.json("peer", "list")["addresses"]}
    assert kinds["127.0.0.1:9"] == "by hand"
    for wrong in ("", "a b", "127.0.0.1:0", "127.0.0.1:70000", "127.0.0.1:x", "[::1", "user@host"):
        ben.fails(2, "peer", "add", wrong)
    ben.stop()
    ben.start()
    kinds = {each["address"]: each["kind"] for each in ben.json("peer", "list")["addresses"]}
    assert kinds["127.0.0.1:9"] == "by hand", "what was given by hand is kept"
    eventually(lambda: linked(ben) == {"ann"}, "the address that worked is remembered")
    assert ben.json("peer", "remove", "127.0.0.1:9")["changed"]
    assert "not among" in ben.tether("peer", "remove", "127.0.0.1:9").out

    # The other machine comes back on another port: only a word by hand can tell where.
    ann.stop()
    ann.environment["TETHER_PORT"] = "0"
    ann.start()
    moved = ann.json("status")["port"]
    assert moved != port or linked(ben) <= {"ann"}
    ben.tether("peer", "add", f"127.0.0.1:{moved}")
    eventually(lambda: linked(ben) == {"ann"}, "linked at the new address")
    paths = [each["path"] for each in ben.json("status")["meshes"][0]["machines"]]
    assert paths in (["by hand"], ["accepted"])


def test_events_are_listed_and_followed(start: Start) -> None:
    ann, ben = founded(start, "ann"), start("ben")
    following = ann.begin("events", "--follow", "--json")
    try:
        join(ann, ben)
        ben.tether("collapse", stdin=b'"news"')
        assert following.stdout is not None
        wanted = {"roster.changed", "link.up", "records.stored"}
        seen: dict[str, dict[str, Any]] = {}
        while wanted - set(seen):
            event = json.loads(following.stdout.readline())
            seen[event["event"]] = event
        assert "ben" in seen["roster.changed"]["change"] and seen["link.up"]["name"] == "ben"
        ben.stop()
        while event["event"] != "link.down":
            event = json.loads(following.stdout.readline())
        assert event["name"] == "ben"
    finally:
        following.send_signal(signal.SIGINT)
        following.communicate(timeout=WITHIN)
    assert following.returncode == 130
    listed = ann.tether("events").out.splitlines()
    assert any("ben is linked" in line for line in listed) and any(
        "ben is not linked any more" in line for line in listed
    )
    status = ann.json("status")["meshes"][0]["machines"][0]
    assert not status["linked"] and status["seen_age"] < WITHIN
    ann.fails(4, "ping", "ben")
    ann.fails(4, "events", "--mesh", "nowhere")


def test_without_a_mesh_or_a_daemon_each_command_says_what_to_do(start: Start, tmp_path: Path) -> None:
    ann = start("ann")
    for words in (
        ["members"],
        ["invite"],
        ["collapse", "--value", "1"],
        ["digest"],
        ["resolve", "hl_inline_000000000000"],
    ):
        said = ann.fails(4, *words)
        assert "tether init" in said and "tether join" in said
    assert "In no mesh" in ann.tether("status").out and "no mesh" in ann.tether("mesh", "list").out
    nowhere = str(tmp_path / "nowhere")
    said = ann.fails(4, "--state", nowhere, "status")
    assert nowhere in said and "meshd &" in said
    assert not Path(nowhere).exists(), "asking makes nothing"
    ann.fails(4, "collapse", "--value", "1", "--state", nowhere)
    for wrong in (["nosuch"], ["peer", "nosuch"], ["ping"], ["put"], ["status", "--nosuch"], ["init", "--mesh", "a b"]):
        ann.fails(2, *wrong)
    as_json = ann.run("members", "--json")
    assert json.loads(as_json.stderr)["exit_code"] == as_json.code == 4
