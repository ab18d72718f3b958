"""Two machines on one LAN that share nothing but words."""

import hashlib
import os
import secrets
import sys
from pathlib import Path

import pytest

from tests.lab.capture import capture, forms
from tests.lab.conftest import need
from tests.lab.network import why_not

MIB = 1 << 20
PEAK = 120 * MIB
"""Most memory that a process may have resident while a payload of any size goes through it."""


@pytest.fixture
def pair(lan, at):
    """Two hosts with names that nothing else contains: (programs there, programs here)."""
    return [at(lan.host(f"{name}-{secrets.token_hex(4)}")) for name in ("annas-laptop", "bobs-desktop")]


def random_file(path: Path, size: int) -> str:
    """Write random bytes; returns their SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(size // MIB):
            block = os.urandom(MIB)
            file.write(block)
            digest.update(block)
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_hello(pair):
    """Acceptance 2, word for word: no option but the passphrase; done 3 s after B's start."""
    a, b = pair
    listener = a.start("listen", "--passphrase", "shared secret")
    assert listener.says(r"UDP port (\d+)")[1] == "64327", "its own port, since nobody else here has it"
    connector = b.start("connect", "--passphrase", "shared secret", stdin=b"hello\n").exits(0)
    listener.exits(0)
    print(f"\nhello: {connector.seconds:.2f} s from B's start to its end")
    assert listener.out == b"hello\n"
    assert connector.seconds < 3 and listener.ended - connector.started < 3


@pytest.mark.parametrize("size", [64 * MIB, pytest.param(1024 * MIB, marks=pytest.mark.soak)], ids=["64MiB", "1GiB"])
def test_random_bytes_in_flat_memory(pair, words, size):
    """Acceptance 3: as hello, with a payload that fits in neither process."""
    a, b = pair
    digest = random_file(b.directory / "random", size)
    listener = a.listen("--passphrase", words)
    connector = b.connect("--passphrase", words, stdin=b.directory / "random").exits(0, within=300)
    listener.exits(0)
    assert listener.output.stat().st_size == size and digest_of(listener.output) == digest
    seconds = connector.event("finished")["seconds"]
    peaks = {"sender": connector.peak, "receiver": listener.peak}
    print(f"\n{size // MIB} MiB in {seconds:.1f} s, {size / MIB / seconds:.0f} MiB/s; peaks in MiB:", end=" ")
    print({name: round(peak / MIB, 1) for name, peak in peaks.items()})
    assert all(20 * MIB < peak < PEAK for peak in peaks.values()), "below 20 MiB nothing was measured"


def test_a_capture_shows_nothing_of_it(lan, pair, tmp_path):
    """Acceptance 4, over every packet of a run: a passphrase, a text, 64 MiB, and two machine names."""
    need(why_not("tcpdump"))
    a, b = pair
    passphrase = f"a passphrase {secrets.token_hex(8)}"
    marker = f"a payload {secrets.token_hex(8)}"
    (b.directory / "text").write_text(marker * 1000)
    random_file(b.directory / f"secret-name-{marker[-8:]}", 64 * MIB)
    names = [each.directory.name for each in pair]
    with capture(lan, tmp_path / "pcap"):
        listener = a.listen("--passphrase", passphrase, "--into", "in")
        sent = ("text", f"secret-name-{marker[-8:]}")
        connector = b.connect("--passphrase", passphrase, "--send", *sent).exits(0)
        listener.exits(0)
    for run, label in ((listener, names[1]), (connector, names[0])):
        assert run.event("paired")["label"] == label, "each side learns the other's name, inside the encryption"
    captured = (tmp_path / "pcap").read_bytes()
    assert len(captured) > 64 * MIB
    random = (b.directory / sent[1]).read_bytes()
    pieces = [random[at : at + 16] for at in range(0, len(random), 8 * MIB)]
    # Case would hide nothing of the random bytes, and lowering them would make them others: they are sought as they are.
    assert not [piece for piece in pieces if piece in captured]
    captured = captured.lower()
    for secret in (passphrase, passphrase[:14], marker, sent[1], *names, *(name[:12] for name in names)):
        assert not [form for form in forms(secret) if form in captured], secret
    # What must be there is found by the same search, or the search above would prove nothing.
    for public in ("_tether-mesh", "_udp"):
        assert any(form in captured for form in forms(public))


def test_a_capture_would_show_it(lan, tmp_path):
    """The same capture, and the same search for a name, of a program that does not encrypt."""
    need(why_not("tcpdump"))
    ann, bob = lan.host("ann"), lan.host("bob")
    said = f"bobs-desktop-{secrets.token_hex(4)}"
    script = f"import socket; socket.socket(type=socket.SOCK_DGRAM).sendto({said.encode()!r}, ({ann.address!r}, 9))"
    with capture(lan, tmp_path / "pcap"):
        bob.command(sys.executable, "-c", script)
    assert any(form in (tmp_path / "pcap").read_bytes() for form in forms(said))


def test_only_loopback(lan, at, words):
    """A machine with no network at all: two programs on it still find each other."""
    alone = at(lan.lonely_host("alone"))
    environment = {"TETHER_LAN_INTERFACES": "127.0.0.1"}
    for given in (environment, {}):
        listener = alone.listen("--passphrase", words, environment=given)
        alone.connect("--passphrase", words, environment=given, stdin=b"me").exits(0)
        assert listener.exits(0).out == b"me"
