"""A real router that opens ports (miniupnpd, on nftables), a host behind it, and one on the other side."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from tests.lab.conftest import need
from tests.lab.network import BRIDGE, Host, Lan, why_not

PORT = 64_327

SOON = 15.0
"""Seconds for what takes three."""

OUTSIDE = "5.99.1"
"""The network on the other side. The router opens no port unless its address there is a public one; nothing leads out."""

CARRIERS = "100.64.9"
"""A network on the other side that is itself behind a router."""

NFTABLES = """
table inet filter {
    chain forward {
        type filter hook forward priority 0; policy drop;
        ct state established,related accept
        iifname "eth0" accept
        jump miniupnpd
    }
    chain miniupnpd { }
    chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
    chain postrouting { type nat hook postrouting priority 100; jump postrouting_miniupnpd; oifname "eth1" masquerade; }
    chain prerouting_miniupnpd { }
    chain postrouting_miniupnpd { }
}
"""

MINIUPNPD = """
ext_ifname=eth1
listening_ip=eth0
enable_upnp=yes
enable_natpmp=no
secure_mode=yes
upnp_table_name=filter
upnp_nat_table_name=filter
upnp_forward_chain=miniupnpd
upnp_nat_chain=prerouting_miniupnpd
upnp_nat_postrouting_chain=postrouting_miniupnpd
uuid=9c1f1b4e-0000-4000-8000-000000000001
allow 1024-65535 0.0.0.0/0 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""

ECHO = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("", int(sys.argv[1])))
    print("ready", flush=True)
    while True:
        data, sender = sock.recvfrom(2048)
        sock.sendto(b"heard " + data, sender)
"""

MAPPED = """
import signal, sys, trio
from meshd.drivers.portmap import PortMapping

async def main():
    mapping = PortMapping(int(sys.argv[1]), lambda address: print("address", address, flush=True),
                          lambda notice: print(notice, flush=True))
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mapping.run)
            async for _ in signals:
                nursery.cancel_scope.cancel()

trio.run(main)
"""

CALL = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.settimeout(1)
    sock.sendto(b"hello", (sys.argv[1], int(sys.argv[2])))
    try:
        data, sender = sock.recvfrom(2048)
        print(data.decode(), "from", *sender)
    except TimeoutError:
        print("nothing")
"""


@attrs.frozen
class Household:
    """A LAN behind a router, and a host elsewhere."""

    router: Host
    ann: Host
    bob: Host
    stranger: Host
    address: str
    """The router's, on the other side."""

    path: Path

    @contextlib.contextmanager
    def running(self, host: Host, *command: str) -> Iterator["Output"]:
        """A program on a host, which is asked to end at the end."""
        path = self.path / f"{host.name}-{time.monotonic_ns()}"
        with path.open("wb") as file:
            process = subprocess.Popen([*host.prefix, *command], stdout=file, stderr=subprocess.STDOUT)
        try:
            yield Output(path, process)
        finally:
            process.terminate()
            process.wait(SOON)

    def call(self, address: str) -> str:
        """What the stranger hears who sends a datagram there, from a port of its own."""
        return self.stranger.command(sys.executable, "-c", CALL, *address.split(":")).strip()


@attrs.frozen
class Output:
    path: Path
    process: subprocess.Popen[bytes]

    def line(self, start: str) -> str:
        """Waits for a line that begins so; returns what follows."""
        until = time.monotonic() + SOON
        while time.monotonic() < until:
            for line in self.path.read_text().splitlines():
                if line.startswith(start):
                    return line.removeprefix(start).strip()
            time.sleep(0.05)
        raise AssertionError(f"no {start!r} in: {self.path.read_text()}")


@contextlib.contextmanager
def household(lan: Lan, path: Path, network: str) -> Iterator[Household]:
    with Lan() as outside:
        router, ann, bob = (lan.host(name) for name in ("router", "ann", "bob"))
        stranger = outside.host("stranger", network)
        cable = ("type", "veth", "peer", "name", "eth1", "netns", router.namespace)
        outside.switch.command("ip", "link", "add", "router", *cable)
        outside.switch.command("ip", "link", "set", "router", "master", BRIDGE, "up")
        router.command("ip", "address", "add", f"{network}.200/24", "dev", "eth1")
        router.command("ip", "link", "set", "eth1", "up")
        router.command("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        for host in (ann, bob):
            host.command("ip", "route", "replace", "default", "via", router.address)
        (path / "rules").write_text(NFTABLES)
        (path / "conf").write_text(MINIUPNPD)
        router.command("nft", "-f", str(path / "rules"))
        home = Household(router, ann, bob, stranger, f"{network}.200", path)
        command = ("miniupnpd", "-d", "-f", str(path / "conf"), "-P", str(path / "pid"))
        with home.running(router, *command) as daemon:
            daemon.line("miniupnpd")
            yield home


@pytest.fixture
def home(lan: Lan, tmp_path: Path) -> Iterator[Household]:
    need(why_not("nft", "miniupnpd"))
    with household(lan, tmp_path, OUTSIDE) as made:
        yield made


def mapped(home: Household, host: Host) -> contextlib.AbstractContextManager[Output]:
    return home.running(host, sys.executable, "-c", MAPPED, str(PORT))


def echo(home: Household, host: Host) -> contextlib.AbstractContextManager[Output]:
    return home.running(host, sys.executable, "-c", ECHO, str(PORT))


def rules(home: Household) -> str:
    return "\n".join(line for line in home.router.command("nft", "list", "ruleset").splitlines() if str(PORT) in line)


def test_a_stranger_gets_in_while_the_mapping_is_kept(home: Household) -> None:
    with echo(home, home.ann) as answering:
        answering.line("ready")
        address = f"{home.address}:{PORT}"
        assert home.call(address) == "nothing"
        with mapped(home, home.ann) as mapping:
            assert mapping.line("address") == address
            assert home.call(address) == f"heard hello from {home.address} {PORT}"
            assert rules(home)
        assert home.call(address) == "nothing"
        assert not rules(home)
        assert mapping.process.returncode == 0


def test_two_hosts_with_one_port_get_two(home: Household) -> None:
    with echo(home, home.ann), echo(home, home.bob), mapped(home, home.ann) as first:
        assert first.line("address") == f"{home.address}:{PORT}"
        with mapped(home, home.bob) as second:
            address = second.line("address")
            assert address != f"{home.address}:{PORT}"
            for each in (first.line("address"), address):
                assert home.call(each) == f"heard hello from {each.replace(':', ' ')}"
        assert home.call(address) == "nothing"
        assert home.call(first.line("address")).startswith("heard")


def test_a_mapping_of_who_was_killed_is_taken_up_again(home: Household) -> None:
    with echo(home, home.ann):
        with mapped(home, home.ann) as mapping:
            mapping.line("address")
            mapping.process.kill()
            mapping.process.wait()
        assert rules(home)
        with mapped(home, home.ann) as mapping:
            assert mapping.line("address") == f"{home.address}:{PORT}"
        assert not rules(home)


def test_a_router_behind_a_carriers_is_told_as_none(lan: Lan, tmp_path: Path) -> None:
    need(why_not("nft", "miniupnpd"))
    with household(lan, tmp_path, CARRIERS) as home, mapped(home, home.ann) as mapping:
        assert "router" in mapping.line("PortUnmapped")
        assert not mapping.path.read_text().startswith("address")
        assert not rules(home)


def test_nothing_is_sent_beyond_the_router(home: Household) -> None:
    """The search and the talk stay on the LAN: nobody on the other side sees any of it."""
    need(why_not("tcpdump"))
    seen = ("tcpdump", "-l", "-n", "-i", "eth0", "-Z", "root", "ip and not igmp")
    with home.running(home.stranger, *seen) as capture:
        capture.line("listening on")
        with mapped(home, home.ann) as mapping:
            mapping.line("address")
        time.sleep(0.5)
        assert home.call(f"{home.address}:9") == "nothing"  # that it would have been seen
        packets = [line for line in capture.path.read_text().splitlines() if " IP " in line]
    assert packets and all(f"{home.address}.9:" in line or "icmp" in line.lower() for line in packets)
