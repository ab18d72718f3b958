"""Hosts in network namespaces on one bridge: a LAN of real kernels, with multicast, that nobody else is on.

    with Lan() as lan:
        ann, bob = lan.host("ann"), lan.host("bob")
        bob.command("ip", "-brief", "address")

Needs root and Linux (`why_not` says what is missing). The bridge lives in a namespace of its own, so that nothing of the
lab shows on the machine outside; names are random, and all of it goes when the block ends.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator

import attrs

BRIDGE = "lan"
"""The bridge's interface in the switch's namespace: where a capture sees everything."""

NETWORK = "10.77.0"
"""The network that hosts are on unless told otherwise, without its last number; all are /24."""


def why_not(*tools: str) -> str | None:
    """What this machine lacks for a lab, and for these programs; None when it can have one."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in ("ip", "unshare", *tools) if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    name = f"try-{secrets.token_hex(3)}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return "this machine lets nobody make network namespaces"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return None


def run(*command: str, given: str | None = None) -> str:
    """Run a command to its end, `given` its input; returns its output, and raises with what it said when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, input=given)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


@attrs.frozen
class Host:
    """A machine: a network namespace, and a host name that its programs see."""

    name: str
    namespace: str
    address: str
    """Its IPv4 address on the LAN; 127.0.0.1 for a host that is on none."""

    @property
    def prefix(self) -> tuple[str, ...]:
        """What a command runs under to run here. It replaces itself: the process keeps the id that was started."""
        inside = ("unshare", "--uts", "sh", "-c", f'hostname {self.name}; exec "$@"', "sh")
        return ("ip", "netns", "exec", self.namespace, *inside)

    def command(self, *command: str) -> str:
        """Run a command here to its end; returns its output."""
        return run(*self.prefix, *command)


class Lan:
    """A bridge and the hosts on it."""

    def __init__(self) -> None:
        self._mark = f"tm{secrets.token_hex(3)}"
        self._namespaces: list[str] = []

    def __enter__(self) -> "Lan":
        self.switch = self._namespace("switch", "127.0.0.1")
        self.switch.command("ip", "link", "add", BRIDGE, "type", "bridge", "mcast_snooping", "0")
        self.switch.command("ip", "link", "set", BRIDGE, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(self._namespaces):
            with contextlib.suppress(AssertionError):
                run("ip", "netns", "delete", name)

    def host(self, name: str, network: str = NETWORK) -> Host:
        """A new host on the bridge."""
        return self.plug(self.lonely_host(name), network)

    def lonely_host(self, name: str) -> Host:
        """A host that has only loopback."""
        return self._namespace(name, "127.0.0.1")

    def plug(self, host: Host, network: str = NETWORK) -> Host:
        """Put a cable from a lonely host to the bridge; the host with the address that it has there."""
        port = f"port{self._namespaces.index(host.namespace)}"
        inside = ("peer", "name", "eth0", "netns", host.namespace)
        self.switch.command("ip", "link", "add", port, "type", "veth", *inside)
        self.switch.command("ip", "link", "set", port, "master", BRIDGE, "up")
        host.command("ip", "link", "set", "eth0", "up")
        return self.move(host, network)

    def move(self, host: Host, network: str) -> Host:
        """Give a host an address of this network in place of the one that it has; the host with that address."""
        moved = attrs.evolve(host, address=f"{network}.{self._namespaces.index(host.namespace)}")
        host.command("ip", "address", "flush", "dev", "eth0")
        host.command("ip", "address", "add", f"{moved.address}/24", "dev", "eth0")
        host.command("ip", "route", "add", "default", "dev", "eth0")
        return moved

    def drop(self, host: Host, *rule: str) -> None:
        """Let `host` drop what fits an nftables rule, on its way in and out: `drop(host, "udp", "dport", "5353")`."""
        table = ("table", "inet", "lab")
        host.command("nft", "add", *table)
        for hook in ("input", "output"):
            chain = (*table[1:], hook)
            host.command("nft", f"add chain {' '.join(chain)} {{ type filter hook {hook} priority 0; }}")
            host.command("nft", f"add rule {' '.join(chain)} {' '.join(rule)} drop")

    def _namespace(self, name: str, address: str) -> Host:
        host = Host(name, f"{self._mark}-{len(self._namespaces)}", address)
        run("ip", "netns", "add", host.namespace)
        self._namespaces.append(host.namespace)
        host.command("ip", "link", "set", "lo", "up")
        return host


@contextlib.contextmanager
def mounted_tmpfs(where: os.PathLike[str], size: int) -> Iterator[None]:
    """A file system of `size` bytes, in memory, mounted at an empty directory."""
    run("mount", "-t", "tmpfs", "-o", f"size={size}", "none", os.fspath(where))
    try:
        yield
    finally:
        run("umount", "--lazy", os.fspath(where))
