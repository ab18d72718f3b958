"""Links that break and come back: a program that was stopped, other addresses, no multicast, two that dial at once.

Two machines are linked when a record that one of them wrote after the event is in the other's store.
"""

import signal
import time

import pytest

from tests.daemons import Daemon, all_linked, eventually, join, knows, links
from tests.lab.conftest import need
from tests.lab.network import why_not

AGAIN_WITHIN = 5.0
"""Seconds that the issue grants."""

MOVED = "10.77.9"
"""Another network on the same bridge; every host reaches all of it, by its default route."""

STARTS = 12


def say(daemon: Daemon) -> str:
    """Write a record that was never there."""
    return str(daemon.call("collapse", json=f'"{time.time_ns()}"')["full"])


def linked_again(*pair: Daemon) -> dict[str, float]:
    """Write a record on each, now, and return after how many seconds the other had it; all within AGAIN_WITHIN."""
    began = time.monotonic()
    one, other = pair
    waiting = {one.name: (one, say(other)), other.name: (other, say(one))}
    took: dict[str, float] = {}
    while waiting:
        for name, (reader, handle) in list(waiting.items()):
            if knows(reader, handle):
                took[name] = time.monotonic() - began
                del waiting[name]
        assert time.monotonic() - began < AGAIN_WITHIN, f"not linked again: {waiting.keys()}; {one.log}{other.log}"
        time.sleep(0.02)
    return took


@pytest.mark.parametrize("stopped", [8, 40, pytest.param(120, marks=pytest.mark.soak)])
def test_a_program_that_was_stopped(mesh, stopped):
    """Acceptance 9: SIGSTOP leaves both clocks equal, and after 40 s the other side may have given the link up."""
    ann, bob = mesh("ann", "bob")
    ann.signal(signal.SIGSTOP)
    time.sleep(stopped)  # this is what is tested, not a way to wait for something
    ann.signal(signal.SIGCONT)
    took = linked_again(ann, bob)
    print(f"\nstopped for {stopped} s, linked again after:", {name: f"{each:.2f} s" for name, each in took.items()})


@pytest.mark.parametrize("which", [0, 1], ids=["who accepted", "who dialled"])
def test_another_address(lan, daemon, which):
    """Acceptance 9: a machine on another network, whichever side of the connection it is; and back again."""
    hosts = [lan.host("ann"), lan.host("bob")]
    ann, bob = pair = [daemon(host) for host in hosts]
    ann.tether("init")
    join(ann, bob)
    all_linked(*pair)
    by_accepter = sorted(range(2), key=lambda i: links(pair[i])[pair[1 - i].name]["path"] != "accepted")
    mover = by_accepter[which]
    for network in (MOVED, "10.77.0"):
        hosts[mover] = lan.move(hosts[mover], network)
        took = linked_again(ann, bob)
        print(f"\nmoved to {network}, linked again after:", {name: f"{each:.2f} s" for name, each in took.items()})


def test_a_cable_that_was_out(lan, daemon):
    """Long enough for both sides to give the link up; when it is back, backoff must not make them late."""
    hosts = [lan.host("ann"), lan.host("bob")]
    ann, bob = pair = [daemon(host) for host in hosts]
    ann.tether("init")
    join(ann, bob)
    all_linked(*pair)
    hosts[0].command("ip", "link", "set", "eth0", "down")
    for one, other in ((ann, bob), (bob, ann)):
        eventually(lambda one=one, other=other: other.name not in links(one), f"{one.name} gave up", 60)
    hosts[0].command("ip", "link", "set", "eth0", "up")
    lan.move(hosts[0], "10.77.0")
    took = linked_again(ann, bob)
    print("\nplugged in, linked again after:", {name: f"{each:.2f} s" for name, each in took.items()})


def test_without_multicast(lan, daemon):
    """By hand to join, by what was remembered after new starts, by hand again when both are elsewhere."""
    need(why_not("nft"))
    hosts = [lan.host("ann"), lan.host("bob")]
    for host in hosts:
        lan.drop(host, "udp", "dport", "5353")
    ann, bob = pair = [daemon(host) for host in hosts]
    ann.tether("init")
    port = ann.call("status")["port"]
    join(ann, bob, peer=f"{hosts[0].address}:{port}")
    all_linked(*pair)
    for each in pair:
        each.stop()
    for each in pair:
        each.start()
    all_linked(*pair, within=10)
    for each in pair:
        each.stop()
    moved = [lan.move(host, MOVED) for host in hosts]
    for each in pair:
        each.start()
    assert not links(ann) and not links(bob)
    bob.tether("peer", "add", f"{moved[0].address}:{ann.call('status')['port']}")
    linked_again(ann, bob)
    assert links(bob)["ann"]["path"] in ("by hand", "accepted")


def test_two_that_dial_at_once(mesh):
    """Both are started together, many times: they settle to one link, soon, and nobody is said to have two holders."""
    ann, bob = pair = mesh("ann", "bob")
    times = []
    for _ in range(STARTS):
        for each in pair:
            each.stop()
        for each in pair:
            each.start(wait=False)
        for each in pair:
            eventually(each.is_up, f"{each.name} is up")
        began = time.monotonic()
        all_linked(*pair, within=10)
        times.append(time.monotonic() - began)
        linked_again(ann, bob)

        def settled() -> bool:
            paths = [links(ann).get("bob", {}).get("path"), links(bob).get("ann", {}).get("path")]
            return sum(path == "accepted" for path in paths) == 1 and None not in paths

        eventually(settled, "one of the two dialled the link that both use", 15)
    for each in pair:
        assert not each.call("status")["problems"] and "two machines" not in each.log.lower(), each.log
    print(f"\n{STARTS} common starts: linked {max(times):.2f} s after both were up at most")
