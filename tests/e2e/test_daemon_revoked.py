"""Who is out stays out: revocation between real daemons. The fold itself has its own tests, in every order."""

import json

from tests.daemons import WITHIN, Daemon, all_linked, digests, eventually, join, links
from tests.e2e.daemon_kit import Start, collapsed, has, standings


def founded(start: Start, *others: str) -> list[Daemon]:
    """A mesh of ann's that has let in the others, all linked."""
    made = [start("ann")]
    made[0].tether("init", "--name", "ann", "--no-recovery")
    for name in others:
        made.append(start(name))
        join(made[0], made[-1])
    all_linked(*made)
    return made


def problems(daemon: Daemon) -> str:
    return " ".join(each["what"] for mesh in daemon.json("status")["meshes"] for each in mesh["problems"])


def test_a_revoked_machine_is_refused_by_all_also_by_one_that_was_away(start: Start) -> None:
    ann, ben, cleo = founded(start, "ben", "cleo")
    before = collapsed(ben, "before")
    eventually(lambda: has(cleo, before), "what ben wrote before is everywhere")
    cleo.stop()
    shown = ann.run("revoke", "ben")
    assert shown.code == 2 and "would be revoked" in shown.stderr and "--yes" in shown.stderr
    assert standings(ann)["ben"] == "active", "asked without a terminal, it did nothing"
    revoked = ann.json("revoke", "ben", "--reason", "stolen", "--yes")
    assert (revoked["machine"]["name"], revoked["suspended"], revoked["dry_run"]) == ("ben", [], False)
    assert standings(ann) == {"ann": "active", "ben": "revoked", "cleo": "active"}
    assert "stolen" in ann.tether("members").out
    eventually(lambda: "ben" not in links(ann), "its link is closed")
    ann.fails(4, "ping", "ben")
    eventually(lambda: standings(ben)["ben"] == "revoked", "ben has been told")
    assert "stolen" in ben.tether("members").out, "and why"
    assert "not a member" in ben.fails(6, "collapse", "--value", '"too late"')

    # It goes on by itself, and cleo comes back while ben knows nothing or does not care.
    after = ben.run("collapse", "--value", '"after"')
    assert after.code in (0, 6), after.stderr
    cleo.start()
    all_linked(ann, cleo)
    eventually(lambda: standings(cleo)["ben"] == "revoked", "cleo has heard")
    eventually(lambda: "ben" not in links(cleo), "cleo does not keep it")
    ann.stop()
    for daemon in (ben, cleo):
        daemon.stop()
        daemon.start()
    port = cleo.json("status")["port"]
    ben.tether("peer", "add", f"127.0.0.1:{port}")
    inviting = cleo.begin("invite", "--json")
    try:
        assert inviting.stdout is not None
        opened = json.loads(inviting.stdout.readline())
        said = ben.fails(6, "join", "--peer", f"127.0.0.1:{port}", stdin=opened["code"].encode())
        assert "new keys" in said or "in that mesh already" in said
    finally:
        inviting.kill()
        inviting.communicate()
    # The refusal of a session takes its ten seconds; then ben's dialler has been sent away, and tries again later.
    marker = collapsed(cleo, "after ben was refused")
    ann.start()
    all_linked(ann, cleo)
    assert has(ann, marker) or eventually(lambda: has(ann, marker), "ann has it")
    assert "ben" not in links(cleo) and "ben" not in links(ann)
    if after.code == 0:
        handle = after.out
        assert not has(cleo, handle) and not has(ann, handle), "what it wrote afterwards counts nowhere"
    assert has(cleo, before), "what it wrote before does"
    assert not has(ben, marker), "and it learns nothing any more"
    assert digests(ann) == digests(cleo)


def test_children_are_suspended_listed_and_come_back_when_another_admits_them(start: Start) -> None:
    ann, ben = founded(start, "ben")
    cleo, dan = start("cleo"), start("dan")
    join(ben, cleo)
    join(cleo, dan)
    all_linked(ann, ben, cleo, dan)
    dry = ann.json("revoke", "ben", "--dry-run")
    assert [each["name"] for each in dry["suspended"]] == ["cleo", "dan"] and dry["dry_run"]
    text = ann.tether("revoke", "ben", "--dry-run").out
    assert "would be revoked" in text and "cleo" in text and "dan" in text and "--keep" in text
    assert "dan did not come in by ben" in ann.fails(2, "revoke", "ben", "--keep", "dan", "--yes")
    ann.fails(4, "revoke", "nobody", "--yes")
    assert set(standings(ann).values()) == {"active"}

    done = ann.json("revoke", "ben", "--yes")
    assert [each["name"] for each in done["suspended"]] == ["cleo", "dan"]
    assert standings(ann) == {"ann": "active", "ben": "revoked", "cleo": "suspended", "dan": "suspended"}
    eventually(lambda: not links(ann), "nobody else is ann's peer")
    join(ann, cleo)
    eventually(lambda: set(links(ann)) == {"cleo", "dan"}, "cleo is back, and with it whom it let in")
    assert standings(ann) == {"ann": "active", "ben": "revoked", "cleo": "active", "dan": "active"}
    eventually(lambda: digests(ann) == digests(cleo) == digests(dan), "they see the same")
    assert not problems(cleo) and not problems(dan)


def test_children_that_are_kept_never_lose_their_links(start: Start) -> None:
    ann, ben = founded(start, "ben")
    cleo, dan = start("cleo"), start("dan")
    join(ben, cleo)
    join(cleo, dan)
    all_linked(ann, ben, cleo, dan)
    since = {name: link["since"] for name, link in links(ann).items()}
    assert "above it" in cleo.fails(6, "revoke", "ben", "--yes"), "a child has no say over its parent"
    assert "tether leave" in ann.fails(2, "revoke", "ann", "--yes")
    kept = ann.json("revoke", "ben", "--keep", "cleo", "--yes")
    assert [each["name"] for each in kept["kept"]] == ["cleo"] and not kept["suspended"]
    for daemon in (ann, cleo, dan):
        eventually(
            lambda daemon=daemon: (
                standings(daemon) == {"ann": "active", "ben": "revoked", "cleo": "active", "dan": "active"}
            ),
            f"{daemon.name} has heard, and the kept are in",
        )
        eventually(lambda daemon=daemon: "ben" not in links(daemon), f"{daemon.name} has closed its link")
    assert all(links(ann)[name]["since"] >= since[name] for name in ("cleo", "dan")), "their links were not cut"
    handle = collapsed(dan, "still here")
    eventually(lambda: has(ann, handle), "dan's records count")


def test_a_stolen_child_that_lets_its_own_in_changes_nothing_once_it_is_revoked(start: Start) -> None:
    ann, ben, cleo = founded(start, "ben", "cleo")
    ann.stop()  # ben has its way while its parent is away
    ben.tether("block", "cleo")
    ben.fails(6, "revoke", "ann", "--yes")
    ben.fails(6, "revoke", "cleo", "--yes")
    eve = start("eve")
    join(ben, eve)
    evil = collapsed(eve, "from eve")
    ben.kill()
    ann.start()
    eventually(lambda: "cleo" in links(ann), "ann and cleo are linked")
    done = ann.json("revoke", "ben", "--yes")
    assert done["machine"]["name"] == "ben"
    eventually(lambda: standings(cleo)["ben"] == "revoked", "cleo has heard")
    ben.start()
    wanted = {"ann": "active", "ben": "revoked", "cleo": "active"}
    for daemon in (ann, cleo):
        found = standings(daemon)
        assert {name: found[name] for name in wanted} == wanted and found.get("eve", "suspended") == "suspended"
        eventually(lambda daemon=daemon: not {"ben", "eve"} & set(links(daemon)), "neither is a peer")
        assert not has(daemon, evil), "what came in by it does not count"
    handle = collapsed(cleo, "all well")
    eventually(lambda: has(ann, handle), "the mesh goes on")


def test_recovery_words_put_out_the_founder(start: Start) -> None:
    ann = start("ann")
    words = ann.json("init", "--name", "ann")["recovery_words"]
    assert len(words) == 24
    assert " ".join(words) not in ann.log and not any(
        words[0].encode() + b" " + words[1].encode() in path.read_bytes()
        for path in ann.state.rglob("*")
        if path.is_file()
    ), "they are kept nowhere"
    ben, cleo = start("ben"), start("cleo")
    join(ann, ben)
    join(ann, cleo)
    all_linked(ann, ben, cleo)
    right = " ".join(words).encode()
    assert "These are the recovery words" in ben.tether("recovery", "check", stdin=right.upper()).out
    wrong = b"abandon " * 23 + b"art"
    assert ben.run("recovery", "check", stdin=wrong).code == 3
    assert "2 words" in ben.fails(2, "recovery", "check", stdin=b"abandon art")
    assert words[0] not in ben.fails(2, "recovery", "check", stdin=" ".join([*words[:23], "zzzz"]).encode())
    ben.fails(2, "recovery", "check", stdin=b"")
    assert ben.run("recovery", "revoke", "ann", "--yes", stdin=wrong).code in (3, 6)
    assert standings(ben)["ann"] == "active"
    ann.kill()  # stolen
    done = ben.json("recovery", "revoke", "ann", "--keep", "ben", "--keep", "cleo", "--yes", stdin=right)
    assert {each["name"] for each in done["kept"]} == {"ben", "cleo"} and not done["suspended"]
    wanted = {"ann": "revoked", "ben": "active", "cleo": "active"}
    eventually(lambda: standings(cleo) == wanted and standings(ben) == wanted, "both know")
    ann.start()
    handle = collapsed(ben, "without ann")
    eventually(lambda: has(cleo, handle), "ben and cleo go on")
    assert "ann" not in links(ben) and "ann" not in links(cleo)
    dan = start("dan")
    join(cleo, dan)
    all_linked(ben, cleo, dan)
    assert right.decode() not in ben.log + cleo.log


def test_a_mesh_without_recovery_words_says_so(start: Start) -> None:
    (ann,) = founded(start)
    assert "no recovery words" in ann.fails(2, "recovery", "check", stdin=b"abandon " * 23 + b"art")
    said = ann.fails(2, "recovery", "revoke", "ann", "--yes", stdin=b"abandon " * 23 + b"art", within=WITHIN)
    assert "no recovery words" in said
