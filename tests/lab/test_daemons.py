"""Daemons of one mesh on one LAN: what one has, the others get, from whoever holds it, and nobody else reads it."""

import concurrent.futures
import secrets
import time
from pathlib import Path

import pytest

from meshd.client import Client
from meshd.errors import NobodyFoundError
from tests.daemons import Daemon, all_linked, digests, eventually, join, knows, links
from tests.lab.capture import capture, forms
from tests.lab.conftest import need
from tests.lab.network import why_not

MIB = 1 << 20
RECORDS = 10_000
WRITERS = 8


def random_file(path: Path, size: int) -> Path:
    path.write_bytes(secrets.token_bytes(size))
    return path


def stored_file(daemon: Daemon, full: str) -> Path:
    """Where a daemon keeps a large blob."""
    digest = full.rpartition("_")[2]
    (found,) = daemon.state.glob(f"meshes/*/blobs/{digest[:2]}/{digest}")
    return found


def flip(path: Path, at: int) -> None:
    """Change one bit of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_a_blob_outlives_the_machine_that_brought_it(mesh, tmp_path):
    """Acceptance 1, first half."""
    ann, bob, cat = mesh("ann", "bob", "cat")
    source = random_file(tmp_path / "50MB.bin", 50_000_000)
    put = ann.json("put", str(source))
    got = bob.json("get", put["handle"], "-o", "copy")
    assert (bob.directory / "copy").read_bytes() == source.read_bytes()
    assert got["moved"] == source.stat().st_size, "it came over the network, once"
    print(f"\n50 MB from ann to bob in {got['seconds']:.2f} s")
    ann.stop()
    got = cat.json("get", put["handle"], "-o", "copy")
    assert (cat.directory / "copy").read_bytes() == source.read_bytes() and got["moved"] == source.stat().st_size


def test_a_flipped_byte_is_refused_by_name(mesh, tmp_path):
    """Acceptance 1, second half: with the only holder damaged it is refused, with a second one it comes from there."""
    ann, bob, cat = mesh("ann", "bob", "cat")
    source = random_file(tmp_path / "data", 3 * MIB)
    full = ann.json("put", str(source))["full"]
    bob.tether("get", full, "-o", "copy")
    flip(stored_file(ann, full), 2 * MIB + 5)
    cat.tether("get", full, "-o", "copy")
    assert (cat.directory / "copy").read_bytes() == source.read_bytes()

    alone = random_file(tmp_path / "alone", 3 * MIB)
    full = ann.json("put", str(alone))["full"]
    flip(stored_file(ann, full), 2 * MIB + 5)
    refused = cat.run("get", full, "-o", "damaged", "--wait", "5")
    assert refused.code != 0 and "ann" in refused.stderr and "damaged" in refused.stderr, refused.stderr
    assert not [each for each in cat.directory.iterdir() if "damaged" in each.name], "nothing of it is written"
    at_home = ann.run("get", full, "-o", "damaged", "--wait", "5")
    assert at_home.code != 0 and not (ann.directory / "damaged").exists(), "nor served at home"
    damaged = [line for line in ann.log.splitlines() if "damaged" in line and full in line]
    assert damaged, ann.log


def write_many(daemon: Daemon, numbers: range) -> None:
    with Client(daemon.state) as client:
        for number in numbers:
            client.call("collapse", json=f'{{"number":{number}}}', table="counted")


def counted(daemon: Daemon) -> int:
    tables = {each["table"]: each["handles"] for each in daemon.call("tables")["tables"]}
    return tables.get("counted", 0)


def test_what_was_missed_comes_from_a_third(mesh):
    """Acceptance 3: bob is off while ann writes, then ann is off, and bob has all of it from cat."""
    ann, bob, cat = mesh("ann", "bob", "cat")
    bob.stop()
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
        parts = [range(first, RECORDS, WRITERS) for first in range(WRITERS)]
        list(pool.map(lambda numbers: write_many(ann, numbers), parts))
    written = time.monotonic()
    eventually(lambda: counted(cat) == RECORDS, "cat has all")
    followed = time.monotonic()
    eventually(lambda: digests(cat) == digests(ann), "ann and cat show the same")
    expected = digests(ann)
    ann.stop()
    bob.start()
    began_late = time.monotonic()
    eventually(lambda: counted(bob) == RECORDS, "bob has all")
    late = time.monotonic() - began_late
    eventually(lambda: digests(bob) == expected, "bob shows the same")
    assert digests(cat) == expected
    print(
        f"\n{RECORDS:,} records written in {written - began:.1f} s by {WRITERS} clients, at a member {followed - written:.1f} "
        f"s later; caught up in {late:.1f} s; peaks in MiB: { {each.name: each.peak // MIB for each in (bob, cat)} }"
    )
    ann.start()
    all_linked(ann, bob, cat)
    assert digests(ann) == expected


def test_two_that_never_meet(lan, daemon):
    """Records pass through a mutual member by themselves; a blob does once that member has it."""
    need(why_not("nft"))
    hosts = [lan.host(name) for name in ("ann", "bob", "cat")]
    for one, other in ((1, 2), (2, 1)):
        for end in ("saddr", "daddr"):
            lan.drop(hosts[one], "ip", end, hosts[other].address)
        lan.drop(hosts[one], "meta", "nfproto", "ipv6")
    ann, bob, cat = map(daemon, hosts)
    ann.tether("init")
    join(ann, bob)
    join(ann, cat)
    full = bob.json("collapse", "--value", '{"from":"bob"}')["full"]
    assert cat.json("resolve", full)["json"] == '{"from":"bob"}'
    back = cat.json("collapse", "--value", '{"from":"cat"}')["full"]
    eventually(lambda: knows(bob, back), "the way back works too")
    assert eventually(lambda: digests(bob) == digests(cat) == digests(ann), "all three show the same")

    (bob.directory / "data").write_bytes(secrets.token_bytes(2 * MIB))
    blob = bob.json("put", "data")["full"]
    eventually(lambda: knows(cat, blob), "cat heard of it")
    refused = cat.run("get", blob, "-o", "copy", "--wait", "2")
    assert refused.code == NobodyFoundError.exit_code and "bob (not linked)" in refused.stderr, refused.stderr
    ann.tether("pin", blob)
    cat.tether("get", blob, "-o", "copy")
    assert (cat.directory / "copy").read_bytes() == (bob.directory / "data").read_bytes()
    assert links(bob).keys() == links(cat).keys() == {"ann"}


@pytest.fixture
def names():
    """Names that nothing else contains."""
    return [f"{name}-{secrets.token_hex(4)}" for name in ("annas-laptop", "bobs-desktop")]


def test_a_capture_shows_nothing_of_it(lan, daemon, names, tmp_path):
    """Every packet of founding, joining, values, a tag, a blob, a new start: no name, no handle, no content."""
    need(why_not("tcpdump"))
    mesh_name, tag, marker = (f"{what}-{secrets.token_hex(6)}" for what in ("the-mesh", "a-tag", "a content"))
    with capture(lan, tmp_path / "pcap"):
        ann, bob = (daemon(lan.host(name)) for name in names)
        ann.tether("init", "--mesh", mesh_name)
        join(ann, bob)
        all_linked(ann, bob)
        value = ann.json("collapse", "--value", f'{{"told":"{marker}"}}', "--tag", tag)
        random = random_file(ann.directory / f"file-{marker[-8:]}", 5 * MIB).read_bytes()
        blob = ann.json("put", f"file-{marker[-8:]}")
        bob.tether("get", blob["full"], "-o", "copy")
        eventually(lambda: knows(bob, value["full"]), "bob has the value")
        bob.stop()
        bob.start()
        all_linked(ann, bob)
    assert (bob.directory / "copy").read_bytes() == random
    captured = (tmp_path / "pcap").read_bytes()
    assert len(captured) > 5 * MIB
    pieces = [random[at : at + 16] for at in range(0, len(random), MIB)]
    (mesh_id,) = (each["mesh"] for each in ann.call("mesh_list")["meshes"])
    hidden = [bytes.fromhex(text) for text in (value["full"][-64:], blob["full"][-64:], mesh_id)]
    assert not [piece for piece in (*pieces, *hidden) if piece in captured]
    captured = captured.lower()
    nodes = [each.call("status")["node"] for each in (ann, bob)]
    handles = [handle[-12:] for handle in (value["handle"], blob["handle"])]
    for secret in (*names, mesh_name, tag, marker, f"file-{marker[-8:]}", mesh_id[:16], *handles, *nodes):
        assert not [form for form in forms(secret) if form in captured], secret
    # What must be there is found by the same search, or the search above would prove nothing.
    assert all(any(form in captured for form in forms(public)) for public in ("_tether-mesh", "_udp"))
