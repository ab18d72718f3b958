"""Networks that block multicast, links that end, disks that are full."""

import contextlib

import pytest

from tests.lab.conftest import need
from tests.lab.network import mounted_tmpfs, run, why_not
from tests.processes import sparse

MIB = 1 << 20
SOON = 20.0
KEPT_FREE = 256 * MIB
"""What a receiver leaves of a disk."""


@pytest.fixture
def pair(lan, at):
    """Two hosts and how to start the command on them."""
    hosts = lan.host("ann"), lan.host("bob")
    return *hosts, *map(at, hosts)


def test_multicast_is_blocked(lan, pair, words):
    """Nothing is found, the message says what helps, and what it says helps."""
    need(why_not("nft"))
    ann, _, a, b = pair
    lan.drop(ann, "udp", "dport", "5353")
    listener = a.listen("--passphrase", words)
    port = listener.event("waiting")["port"]
    lost = b.connect("--passphrase", words, "--timeout", "3", stdin=b"lost").exits(4)
    assert "multicast may be blocked" in lost.error and "--peer HOST:PORT" in lost.error
    assert not lost.all_of("dialling")
    b.start("connect", "--passphrase", words, "--peer", f"{ann.address}:{port}", stdin=b"by hand").exits(0)
    assert listener.exits(0).out == b"by hand"


def test_a_firewall_lets_no_udp_in(lan, pair, words):
    """The listener is heard but does not answer: the message tells the two cases apart."""
    need(why_not("nft"))
    ann, _, a, b = pair
    lan.drop(ann, "udp", "dport", "10000-65535")
    a.listen("--passphrase", words)
    lost = b.connect("--passphrase", words, "--timeout", "4", stdin=b"lost").exits(4)
    assert "is announced" in lost.error and "firewall" in lost.error and ann.address in lost.error


def begin(pair, words, *paths):
    """A 4 GiB file on its way from b to a, when the first megabytes have been written."""
    _, _, a, b = pair
    sparse(b.directory / "large", 4 << 30)
    listener = a.listen("--passphrase", words, "--into", "in")
    connector = b.connect("--passphrase", words, "--send", "large")
    listener.event("progress", size=lambda size: size > 4 * MIB)
    return listener, connector


@pytest.mark.parametrize("killed", ["listener", "connector"])
def test_one_side_is_killed(pair, words, killed):
    """Acceptance 6 between two hosts, which tell each other nothing by ICMP when a whole machine dies."""
    listener, connector = begin(pair, words)
    dead, survivor = (listener, connector) if killed == "listener" else (connector, listener)
    at = dead.kill()
    survivor.exits(5, within=SOON)
    print(f"\nthe {killed} was killed: the other side ended {survivor.ended - at:.1f} s later")
    assert survivor.ended - at < SOON and "lost before the end" in survivor.error
    assert [path.name for path in (pair[2].directory / "in").iterdir() if not path.name.startswith(".tether-")] == []


def test_the_cable_is_pulled(pair, words):
    """Both sides live, and neither hears the other."""
    listener, connector = begin(pair, words)
    pair[1].command("ip", "link", "set", "eth0", "down")
    for run_ in (listener, connector):
        assert "lost before the end" in run_.exits(5, within=SOON).error
    assert [*(pair[2].directory / "in").iterdir()] == []


@pytest.fixture
def disk(pair):
    """`disk(size)` mounts a new disk of that size where `ann` receives."""
    with contextlib.ExitStack() as stack:

        def mount(size: int):
            where = pair[2].directory / "disk"
            where.mkdir()
            stack.enter_context(mounted_tmpfs(where, size))
            return where

        yield mount


def test_a_disk_that_is_too_small(pair, words, disk):
    """It is said before a byte of the payload moves."""
    _, _, a, b = pair
    where = disk(4 * MIB)
    sparse(b.directory / "large", 8 * MIB)
    listener = a.listen("--passphrase", words, "--into", "disk")
    connector = b.connect("--passphrase", words, "--send", "large").exits(6)
    listener.exits(6)
    for each in (listener, connector):
        assert "no space in disk" in each.error
    assert max((event["size"] for event in listener.all_of("progress")), default=0) == 0
    assert [*where.iterdir()] == []


def test_a_disk_that_fills_up(pair, words, disk):
    """A stream says nothing of its size beforehand: it is refused when the room is gone, and nothing is half there."""
    _, _, a, b = pair
    where = disk(KEPT_FREE + 16 * MIB)
    listener = a.listen("--passphrase", words, "--into", "disk")
    connector = b.connect("--passphrase", words, stdin=sparse(b.directory / "large", 64 * MIB)).exits(6)
    listener.exits(6)
    for each in (listener, connector):
        (refused,) = each.all_of("entry_refused")
        assert "no space" in refused["reason"]
    assert [*where.iterdir()] == []


def test_a_disk_that_shrinks_meanwhile(pair, words, disk):
    """As when somebody else fills it: a file that had room when it began is refused on the way, the rest is stored."""
    _, _, a, b = pair
    where = disk(KEPT_FREE + 512 * MIB)
    listener = a.listen("--passphrase", words, "--into", "disk")
    (b.directory / "d").mkdir()
    (b.directory / "d" / "a small one").write_text("small")
    sparse(b.directory / "d" / "large", 450 * MIB)
    (b.directory / "d" / "next").touch()
    connector = b.connect("--passphrase", words, "--send", "d")
    listener.event("progress", size=lambda size: size > 4 * MIB)
    run("mount", "-o", f"remount,size={KEPT_FREE}", str(where))
    connector.exits(6)
    listener.exits(6)
    for each in (listener, connector):
        assert "no space" in {event["path"]: event["reason"] for event in each.all_of("entry_refused")}["d/large"]
    assert (where / "d" / "a small one").read_text() == "small"
    assert [path.name for path in where.iterdir()] == ["d"] and not (where / "d" / "large").exists()
