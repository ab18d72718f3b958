"""Daemons across the lab's internet: joined by a server's number, and linked through their routers.

What takes its time is played beside the pairs of routers, as rows of tests/lab/matrix.py: new addresses on one side and on
both, servers killed, a pair that a third member carries records for.
"""

import secrets
import time

import pytest

from tests.daemons import digests, eventually, knows
from tests.lab.matrix import AGAIN_WITHIN, AT_ONCE
from tests.lab.meeting import founded
from tests.lab.nat import Nat
from tests.lab.plays import path_to, say

MIB = 1 << 20

UNASKED = 45
"""Seconds after which no server is connected to any more by who is linked."""


@pytest.fixture
def homes(wan):
    return [wan.router(f"{name}-home", Nat.PORT_RESTRICTED) for name in ("ann", "ben")]


@pytest.fixture
def pair(homes, daemon, servers):
    """Daemons at the two homes, in one mesh."""
    made = [daemon(home.host(name), **servers.environment) for home, name in zip(homes, ("ann", "ben"), strict=True)]
    founded(*made)
    return made


def test_two_homes(pair, homes, servers):
    """Joined, linked, and a blob fetched, which the servers have no part in; `tether doctor paths` says over what."""
    ann, ben = pair
    before = sum(each.crossed() for each in servers.servers)
    content = secrets.token_bytes(5 * MIB)
    (ann.directory / "data").write_bytes(content)
    blob = ann.json("put", "data")["full"]
    eventually(lambda: knows(ben, blob), "ben heard of it")
    ben.tether("get", blob, "-o", "copy")
    assert (ben.directory / "copy").read_bytes() == content
    assert eventually(lambda: digests(ann) == digests(ben), "both show the same")
    assert sum(each.crossed() for each in servers.servers) - before < MIB // 10
    for me, other, there in ((ann, "ben", homes[1]), (ben, "ann", homes[0])):
        path = path_to(me, other)
        # By the address that the pairing was over, which both remember: no server is asked for whoever is linked soon.
        assert path["linked"] and path["address"].startswith(f"{there.address}:")
        assert path["path"] in ("remembered", "accepted", "wan")
        shown = me.tether("doctor", "paths").out
        assert all(server.name in shown for server in servers.servers) and path["address"] in shown


@pytest.mark.soak
@pytest.mark.parametrize("settled", [0, UNASKED])
@pytest.mark.parametrize("silent", [0, AGAIN_WITHIN])
def test_both_get_another_address(pair, homes, settled, silent):
    """Also when no server was asked for a while; and a record that is written only when they have to be linked again."""
    ann, ben = pair
    say(ann, ben)
    # The silences are what is tested, not a way to wait for something.
    time.sleep(settled)
    for home in homes:
        home.renumber()
    time.sleep(silent)
    began = time.monotonic()
    say(ann, ben)
    say(ben, ann)
    took = time.monotonic() - began
    print(f"\nafter {settled} and {silent:g} s of silence: {took:.1f} s")
    assert took < (AT_ONCE * 2 if silent else AGAIN_WITHIN)
