"""Daemons across the lab's internet: joined by a server's number, linked through their routers, and again after a change."""

import secrets
import time

import pytest

from tests.daemons import Daemon, all_linked, digests, eventually, knows, links
from tests.lab.matrix import AGAIN_WITHIN, AT_ONCE, say
from tests.lab.meeting import founded
from tests.lab.nat import Nat

TOLD_WITHIN = 40.0
"""Seconds until both sides know that, and why, there will be none: a match, an attempt of 12 s, and what went before."""

MIB = 1 << 20


@pytest.fixture
def member(daemon, servers):
    """`member(host)` starts a daemon there that knows the servers."""
    return lambda host: daemon(host, **servers.environment)


def path_to(daemon: Daemon, other: str) -> dict:
    """What `tether doctor paths` tells of the way to a member."""
    (found,) = (each for each in daemon.json("doctor", "paths")["members"] if each["machine"]["name"] == other)
    return found


def test_two_homes(wan, member, servers):
    """Joined, linked, and a blob fetched; `tether doctor paths` says by whom they met and over what they are linked."""
    routers = [wan.router(f"{name}-home", Nat.PORT_RESTRICTED) for name in ("ann", "ben")]
    ann, ben = (member(router.host(name)) for router, name in zip(routers, ("ann", "ben"), strict=True))
    before = sum(each.crossed() for each in servers.servers)
    founded(ann, ben)
    content = secrets.token_bytes(5 * MIB)
    (ann.directory / "data").write_bytes(content)
    blob = ann.json("put", "data")["full"]
    eventually(lambda: knows(ben, blob), "ben heard of it")
    ben.tether("get", blob, "-o", "copy")
    assert (ben.directory / "copy").read_bytes() == content
    assert eventually(lambda: digests(ann) == digests(ben), "both show the same")
    assert sum(each.crossed() for each in servers.servers) - before < MIB, "the servers had no part in it"

    outside = {"ann": routers[0].address, "ben": routers[1].address}
    for me, other in ((ann, "ben"), (ben, "ann")):
        path = path_to(me, other)
        # By the addresses of the pairing, which both have from it: no server is asked for whoever is linked soon.
        assert path["linked"] and path["address"].startswith(f"{outside[other]}:")
        assert path["path"] in ("remembered", "accepted", "wan")
        shown = me.tether("doctor", "paths").out
        assert all(server.name in shown for server in servers.servers) and path["address"] in shown


@pytest.mark.parametrize("settled", [0, pytest.param(45, marks=pytest.mark.soak)])
def test_both_get_another_address(wan, member, servers, settled):
    """A record that is written after it is on the other side within 30 s, either way, also when no server was asked for a
    while. `tether doctor paths` says by which servers they met, where those see them, and over what they are linked."""
    routers = [wan.router(f"{name}-home", Nat.PORT_RESTRICTED) for name in ("ann", "ben")]
    ann, ben = (member(router.host(name)) for router, name in zip(routers, ("ann", "ben"), strict=True))
    founded(ann, ben)
    say(ann, ben)
    time.sleep(settled)  # this is what is tested, not a way to wait for something
    for router in routers:
        router.renumber()
    began = time.monotonic()
    say(ann, ben, AGAIN_WITHIN)
    say(ben, ann, AGAIN_WITHIN)
    took = time.monotonic() - began
    print(f"\nlinked again {took:.1f} s after both routers got another address")
    assert took < AGAIN_WITHIN
    paths = []
    for me, other, here, there in ((ann, "ben", *routers), (ben, "ann", *reversed(routers))):
        told, path = me.json("doctor", "paths"), path_to(me, other)
        assert path["linked"] and path["address"].startswith(f"{there.address}:")
        assert path["server"] in [each.name for each in servers.servers] and path["address"] in path["opened"]
        assert {each["server"] for each in told["servers"]} == {each.name for each in servers.servers}
        assert {each["observed"].rpartition(":")[0] for each in told["servers"]} == {here.address}
        # What the other said of its router it may have said before both servers had told it.
        assert told["mapping"] == "one for all" and path["mapping"] in ("one for all", "unknown")
        shown = me.tether("doctor", "paths").out
        assert all(each["observed"] in shown for each in told["servers"]) and path["address"] in shown
        paths.append(path["path"])
    assert sorted(paths) == ["accepted", "wan"], "one of the two dialled what a punch had opened"


@pytest.mark.soak
def test_both_get_another_address_and_nobody_writes(wan, member):
    """The first record comes 30 s later, and finds a link."""
    routers = [wan.router(f"{name}-home", Nat.PORT_RESTRICTED) for name in ("ann", "ben")]
    ann, ben = (member(router.host(name)) for router, name in zip(routers, ("ann", "ben"), strict=True))
    founded(ann, ben)
    say(ann, ben)
    for router in routers:
        router.renumber()
    time.sleep(AGAIN_WITHIN)  # this is what is tested, not a way to wait for something
    assert max(say(ann, ben), say(ben, ann)) < AT_ONCE


def test_who_cannot_be_joined_is_told_and_goes_by_a_third(wan, member):
    """Symmetric against port-restricted, and a public machine in the mesh."""
    cleo = member(wan.public("cleo"))
    ann, ben = member(wan.client("ann", Nat.SYMMETRIC)), member(wan.client("ben", Nat.PORT_RESTRICTED))
    founded(cleo, ann, ben)
    began = time.monotonic()
    reasons = {}
    for me, other in ((ann, "ben"), (ben, "ann")):
        reasons[me.name] = eventually(
            lambda me=me, other=other: path_to(me, other)["why"], f"{me.name} says why", TOLD_WITHIN
        )
    print(f"\nboth knew {time.monotonic() - began:.1f} s after they had joined: {reasons}")
    assert reasons["ann"].startswith("This side's router maps each destination anew")
    assert reasons["ben"].startswith("The other side's router maps each destination anew")
    for me, other in ((ann, "ben"), (ben, "ann")):
        path = path_to(me, other)
        assert not path["linked"] and "--peer" in path["advice"]
        assert path["why"] in me.tether("doctor", "paths").out
    assert links(ann).keys() == links(ben).keys() == {"cleo"}
    print(f"by the third: {say(ann, ben):.2f} s and {say(ben, ann):.2f} s")
    all_linked(cleo, ann)
    all_linked(cleo, ben)
