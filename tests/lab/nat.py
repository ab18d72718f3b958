"""An internet of network namespaces: public machines, and routers with a LAN behind them that translate addresses.

    with Wan() as wan:
        server = wan.public("server")
        router = wan.router("router", Nat.SYMMETRIC)
        ann = router.host("ann")

The middle is a router and no bridge: what is on the internet shares no broadcast domain, hears no multicast of others and
is in no common subnet, each machine has a /24 of its own. Public addresses are ordinary ones (5/8, 2a00::/16), since a
program may treat the ranges for documentation as private; nothing leads from here to who really has them.

Needs root, Linux and `TOOLS` (on Debian: iproute2, nftables); ask `network.why_not(*TOOLS)`.
"""

import contextlib
import ctypes
import enum
import os
import secrets
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import attrs

from tests.lab.network import BRIDGE, Host, run

TOOLS = ("nft",)

UPLINK = "eth0"
"""A host's interface."""

OUTSIDE = "wan"
"""A router's interface to the internet, or to the LAN that it is on; BRIDGE is that to its own LAN."""

UDP_TIMEOUT = 120
"""Seconds that a router remembers silent UDP for. RFC 4787 (REQ-5) grants two minutes, few grant more."""


class Nat(enum.Enum):
    """What stands between a machine and the internet, in the words of RFC 3489; RFC 4787 splits them in two.

    A mapping is endpoint-independent when what a socket sends is seen from one public port, whoever it is sent to. A filter
    says who may send to that port.
    """

    NONE = "a public address"
    FIREWALL = "a public address; only who was sent to may answer"
    FULL_CONE = "endpoint-independent mapping; anybody may send to it"
    ADDRESS_RESTRICTED = "endpoint-independent mapping; addresses that were sent to may send"
    PORT_RESTRICTED = "endpoint-independent mapping; addresses and ports that were sent to may send"
    SYMMETRIC = "a random port for each address and port that is sent to, which alone may send to it"


def joinable(one: Nat, other: Nat) -> bool:
    """Whether two machines behind these find a direct path over UDP when both send at the same time, and keep sending.

    Each knows the other's address and port as a server saw them, guesses no ports, and answers to where a datagram came
    from. By RFC 4787's terms:

    - Both mappings endpoint-independent: what the server saw is what the other will see. Each sends exactly to where the
      other sends from, so that even filters by address and port are open after the first datagram. Always.
    - One is SYMMETRIC: it sends to the other from a port that nobody has seen, and where the server saw it only the server
      may send to. So its own datagrams have to get in, and the answer goes back the way they came. No filter (NONE,
      FULL_CONE) lets them in. A filter by address does too: the other has sent to that address, to the wrong port. A
      filter by port (FIREWALL, PORT_RESTRICTED) does not: nothing was sent to that port, nor can be before it is known.
    - Both are SYMMETRIC: each filters by port and neither knows the port of the other. Never.

    Not for two machines behind one router: they have their LAN, or need it to turn their datagrams round (`hairpin`).
    """
    if Nat.SYMMETRIC not in (one, other):
        return True
    peer = other if one is Nat.SYMMETRIC else one
    return peer in (Nat.NONE, Nat.FULL_CONE, Nat.ADDRESS_RESTRICTED)


class Counters(NamedTuple):
    """What an interface received and sent since it exists, ARP too; bytes with the headers of all layers."""

    rx_packets: int
    rx_bytes: int
    tx_packets: int
    tx_bytes: int


@contextlib.contextmanager
def inside(host: Host) -> Iterator[None]:
    """This thread is on that host: sockets that are made in the block are there, and stay there after it."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(path: str) -> int:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def switch(namespace: int) -> None:
        if libc.setns(namespace, 0):
            raise OSError(ctypes.get_errno(), "setns")

    home, there = enter("/proc/thread-self/ns/net"), enter(f"/run/netns/{host.namespace}")
    try:
        switch(there)
        try:
            yield
        finally:
            switch(home)
    finally:
        os.close(home)
        os.close(there)


@attrs.frozen
class Machine(Host):
    """A host of this internet, with the addresses that it was made with; a router's is `Router.address`, which changes."""

    v6: str | None = None
    """Its IPv6 address, if it has that."""

    def counters(self, device: str = UPLINK) -> Counters:
        """What crossed this interface, to show what did not."""
        with inside(self):
            lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
        of = next(line.partition(":")[2].split() for line in lines if line.strip().startswith(f"{device}:"))
        return Counters(rx_packets=int(of[1]), rx_bytes=int(of[0]), tx_packets=int(of[9]), tx_bytes=int(of[8]))

    def ip(self, *lines: str) -> None:
        """Commands of `ip`, in one go."""
        run("ip", "-n", self.namespace, "-batch", "-", given="\n".join(lines))

    def nft(self, rules: str) -> None:
        """Rules for `nft`, in one transaction."""
        run("ip", "netns", "exec", self.namespace, "nft", "-f", "-", given=rules)

    def sysctl(self, **values: int) -> None:
        """Kernel settings below net; `ipv4__ip_forward=1`."""
        with inside(self):
            for name, value in values.items():
                Path("/proc/sys/net", *name.split("__")).write_text(str(value))

    def forget_connections(self) -> None:
        """Empty its kernel's table of connections: what `conntrack --flush` sends, without the package."""
        netfilter, length, delete, request_and_ack = 12, 20, 0x0102, 5
        with inside(self), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netfilter) as kernel:
            kernel.send(struct.pack("=IHHIIBBH", length, delete, request_and_ack, 0, 0, socket.AF_UNSPEC, 0, 0))
            (error,) = struct.unpack_from("=i", kernel.recv(4096), offset=16)
        assert error == 0, os.strerror(-error)

    def forget_after(self, udp_timeout: int) -> None:
        """Let its kernel forget silent UDP after that many seconds, answered or not."""
        self.sysctl(
            netfilter__nf_conntrack_udp_timeout=udp_timeout, netfilter__nf_conntrack_udp_timeout_stream=udp_timeout
        )


class Wan:
    """The internet. Everything in it is gone when the block ends."""

    def __init__(self) -> None:
        self.mark = f"tw{secrets.token_hex(3)}"
        """What the names of its namespaces begin with."""
        self._stack = contextlib.ExitStack()
        self._namespaces = 0
        self._networks = 0

    def __enter__(self) -> "Wan":
        with contextlib.ExitStack() as stack:
            self._stack = stack
            self.core = self.machine("core", "127.0.0.1")
            # Strict rp_filter: an address that was not translated comes from nowhere and goes no further.
            self.core.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1, ipv4__conf__all__rp_filter=1)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def public(self, name: str, *, firewall: bool = False, v6: bool = False, udp_timeout: int = UDP_TIMEOUT) -> Machine:
        """A machine on the internet; with a firewall, only who it sent to can send to it."""
        host = self.attach(name, UPLINK, v6)
        if firewall:
            host.nft(_firewall("input"))
            host.forget_after(udp_timeout)
        return host

    def router(
        self,
        name: str,
        nat: Nat,
        *,
        behind: "Router | None" = None,
        network: str | None = None,
        hairpin: bool = False,
        udp: bool = True,
        v6: bool = False,
        udp_timeout: int = UDP_TIMEOUT,
    ) -> "Router":
        """A router with a LAN of its own.

        `behind` puts it on another router's LAN in place of the internet. `network` is the LAN's, without the last number:
        two routers may have the same. `hairpin` lets the LAN reach itself by the public address. `udp=False` drops all UDP
        that would leave. `v6` gives the LAN global IPv6 addresses, behind a firewall that knows connections.
        """
        assert nat not in (Nat.NONE, Nat.FIREWALL), "a router translates; ask for a public machine"
        assert not (hairpin and nat is Nat.SYMMETRIC), "a port for one peer is of no use to another"
        assert not (behind and v6), "IPv6 comes from the internet only"
        machine = behind.attach(name, OUTSIDE) if behind else self.attach(name, OUTSIDE, v6)
        network = network or f"192.168.{self._number()}"
        return Router(self, machine, nat, network, behind=behind, hairpin=hairpin, udp=udp, udp_timeout=udp_timeout)

    def client(self, name: str, nat: Nat, *, udp_timeout: int = UDP_TIMEOUT) -> Machine:
        """A machine that is on the internet in this manner, behind a router of its own if that takes one."""
        if nat in (Nat.NONE, Nat.FIREWALL):
            return self.public(name, firewall=nat is Nat.FIREWALL, udp_timeout=udp_timeout)
        return self.router(f"{name}-router", nat, udp_timeout=udp_timeout).host(name)

    def attach(self, name: str, device: str, v6: bool = False) -> Machine:
        """A machine with a cable to the internet; with IPv6 it may route `lan_prefix` of its address."""
        number = self._number()
        network, prefix = f"5.{number}.0", f"2a00:{number:x}:"
        port = f"port{number}"
        at_core = [f"address add {network}.1/24 dev {port}"]
        if v6:
            at_core += [
                f"address add {prefix}:1/64 dev {port}",
                f"route add {lan_prefix(f'{prefix}:2')}/64 via {prefix}:2",
            ]
        host = self.machine(name, f"{network}.2", f"{prefix}:2" if v6 else None)
        self.connect(self.core, port, host, device, *at_core)
        host.ip(f"route add default via {network}.1", *([f"route add default via {prefix}:1"] if v6 else []))
        return host

    def machine(self, name: str, address: str, v6: str | None = None) -> Machine:
        """A machine without a cable, which is to have these addresses."""
        host = Machine(name, f"{self.mark}-{self._namespaces}", address, v6)
        self._namespaces += 1
        run("ip", "netns", "add", host.namespace)
        self._stack.callback(run, "ip", "netns", "delete", host.namespace)
        # Addresses are ready at once: nobody else can have them.
        host.sysctl(ipv6__conf__all__accept_dad=0, ipv6__conf__default__accept_dad=0)
        return host

    def connect(self, hub: Machine, port: str, host: Machine, device: str, *at_hub: str) -> None:
        """Put a cable from `port` of a hub to `device` of a machine, which gets its addresses, and do `at_hub` there."""
        number = int(host.namespace.rpartition("-")[2])
        mac = f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"
        hub.ip(
            f"link add {port} type veth peer name {device} address {mac} netns {host.namespace}",
            f"link set {port} up",
            *at_hub,
        )
        host.ip(
            "link set lo up",
            f"link set {device} up",
            f"address add {host.address}/24 dev {device}",
            *([f"address add {host.v6}/64 dev {device}"] if host.v6 else []),
        )

    def _number(self) -> int:
        self._networks += 1
        assert self._networks < 255, "no more networks"
        return self._networks


class Router:
    """A machine that translates: one public IPv4 address for its LAN. Its IPv6 is routed, and only filtered.

    Nothing but ICMP is for the router itself: what comes unasked ends without a trace. A kernel that let it in would
    remember it as a connection, and give the LAN's datagrams to that peer another public port than the one punched.
    """

    def __init__(
        self,
        wan: Wan,
        machine: Machine,
        nat: Nat,
        network: str,
        *,
        behind: "Router | None",
        hairpin: bool,
        udp: bool,
        udp_timeout: int,
    ) -> None:
        self.machine, self.nat, self.network = machine, nat, network
        self.address = machine.address
        """Its IPv4 address outside, now."""
        self._wan, self._behind, self._hairpin, self._udp, self._udp_timeout = wan, behind, hairpin, udp, udp_timeout
        self._last = 1
        self._prefix = lan_prefix(machine.v6) if machine.v6 else None
        # Before there are interfaces to inherit it: hosts are not told that their peer is beside them.
        machine.sysctl(ipv4__conf__all__send_redirects=0, ipv4__conf__default__send_redirects=0)
        machine.ip(
            f"link add {BRIDGE} type bridge mcast_snooping 0",
            f"link set {BRIDGE} up",
            f"address add {network}.1/24 dev {BRIDGE}",
            *([f"address add {self._prefix}1/64 dev {BRIDGE}"] if self._prefix else []),
        )
        # Where this is loaded, as Docker does, the LAN's own frames would be filtered like routed packets.
        if Path("/proc/sys/net/bridge").exists():
            machine.sysctl(**{f"bridge__bridge-nf-call-{kind}": 0 for kind in ("iptables", "ip6tables")})
        machine.nft(self._rules() + (_firewall("forward", udp) if self._prefix else ""))
        machine.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=int(self._prefix is not None))
        machine.forget_after(udp_timeout)

    def host(self, name: str, *, v6: bool = True) -> Machine:
        """A machine on the LAN; it has IPv6 if the LAN has, and `v6` is true."""
        return self.attach(name, UPLINK, v6)

    def attach(self, name: str, device: str, v6: bool = False) -> Machine:
        """A machine with a cable to the LAN."""
        number = self._free()
        prefix = self._prefix if v6 else None
        host = self._wan.machine(name, f"{self.network}.{number}", f"{prefix}{number:x}" if prefix else None)
        port = f"port{number}"
        self._wan.connect(self.machine, port, host, device, f"link set {port} master {BRIDGE}")
        host.ip(f"route add default via {self.network}.1", *([f"route add default via {prefix}1"] if prefix else []))
        self._wait_for(port)
        return host

    def renumber(self) -> str:
        """Get another IPv4 address outside, and forget all connections, as after a line was lost; returns it.

        Until then nothing passes. The LAN is not told, nor are its peers.
        """
        network, _, last = self.address.rpartition(".")
        number = self._behind._free() if self._behind else int(last) + 1
        self.machine.ip("route delete default", f"address delete {self.address}/24 dev {OUTSIDE}")
        self.address = f"{network}.{number}"
        self.machine.nft("delete table ip lab\n" + self._rules())
        self.machine.forget_connections()
        self.machine.ip(f"address add {self.address}/24 dev {OUTSIDE}", f"route add default via {network}.1")
        return self.address

    def _wait_for(self, port: str) -> None:
        """A bridge notices up to a second late that a cable is in, and drops what comes until then."""
        deadline = time.monotonic() + 5
        while "state forwarding" not in run("ip", "-n", self.machine.namespace, "-details", "link", "show", port):
            assert time.monotonic() < deadline, f"{port} of {self.machine.name} does not forward"
            time.sleep(0.01)

    def _free(self) -> int:
        self._last += 1
        return self._last

    def _rules(self) -> str:
        """How IPv4 is translated and filtered.

        Linux alone is not endpoint-independent: two sockets of one port may have the same public port towards different
        peers, and only peers get in. So the endpoint-independent kinds keep two maps, `ports` (a socket's public port)
        and `holders` (whose a public port is), that outgoing datagrams fill. The public port is the socket's own, or one
        that differs in some bits if that is another's already. A mapping stays until the router is renumbered.

        Who may send is in `sent`, which each outgoing datagram renews: its socket, and as much of its destination as the
        kind asks for. A datagram that comes by the map and finds nothing there is dropped before the kernel remembers it.
        Datagrams that are turned round are translated on both sides and filtered by the same set.
        """
        udp = "" if self._udp else f"oifname {OUTSIDE} meta l4proto udp drop"
        remote = {Nat.FULL_CONE: 0, Nat.ADDRESS_RESTRICTED: 1, Nat.PORT_RESTRICTED: 2}.get(self.nat)
        if remote is None:
            return f"""
                table ip lab {{
                    {_input()}
                    chain forward {{
                        type filter hook forward priority filter; policy drop;
                        {udp}
                        ct state established,related accept
                        iifname {BRIDGE} oifname {OUTSIDE} accept
                    }}
                    chain postrouting {{
                        type nat hook postrouting priority srcnat;
                        oifname {OUTSIDE} snat to {self.address} fully-random
                    }}
                }}
            """

        def joined(*parts: str) -> str:
            return " . ".join(parts[: 2 + remote])

        kept = joined("ipv4_addr", "inet_service", "ipv4_addr", "inet_service")
        going = joined("ip saddr", "udp sport", "ip daddr", "udp dport")
        coming = joined("ip daddr", "udp dport", "ip saddr", "udp sport")
        tries = "\n".join(
            f"""
                udp sport ^ {mask} != @taken add @taken {{ udp sport ^ {mask} }} \
                    add @holders {{ udp sport ^ {mask} : ip saddr . udp sport }} \
                    add @ports {{ ip saddr . udp sport : udp sport ^ {mask} }} return
            """
            for mask in range(0, 0x400, 0x40)
        )
        directions = [OUTSIDE, BRIDGE] if self._hairpin else [OUTSIDE]
        return f"""
            table ip lab {{
                set taken {{ type inet_service; flags dynamic; size 65535; }}
                map holders {{ type inet_service : ipv4_addr . inet_service; flags dynamic; size 65535; }}
                set known {{ type ipv4_addr . inet_service; flags dynamic; size 65535; }}
                map ports {{ type ipv4_addr . inet_service : inet_service; flags dynamic; size 65535; }}
                set sent {{ type {kept}; flags dynamic,timeout; timeout {self._udp_timeout}s; size 65535; }}
                {_input()}
                chain prerouting {{
                    type nat hook prerouting priority dstnat;
                    iifname {{ {", ".join(directions)} }} ip daddr {self.address} \
                        meta l4proto udp dnat ip to udp dport map @holders
                }}
                chain assign {{
                    ip saddr . udp sport @known return
                    add @known {{ ip saddr . udp sport }}
                    {tries}
                }}
                chain forward {{
                    type filter hook forward priority filter; policy drop;
                    {udp}
                    iifname {BRIDGE} meta l4proto udp jump assign
                    iifname {BRIDGE} update @sent {{ {going} }}
                    ct state established,related accept
                    iifname {BRIDGE} oifname {OUTSIDE} accept
                    ct status dnat {coming} @sent accept
                }}
                chain postrouting {{
                    type nat hook postrouting priority srcnat;
                    iifname {BRIDGE} meta l4proto udp snat ip to {self.address} : ip saddr . udp sport map @ports
                    oifname {OUTSIDE} snat to {self.address}
                }}
            }}
        """


def lan_prefix(address: str) -> str:
    """The /64 that is routed to a machine on the internet with this IPv6 address, to be completed with a number."""
    return address.removesuffix(":2") + "1::"


def _input() -> str:
    """A router offers nothing to anybody, and does not say so."""
    return "chain input { type filter hook input priority filter; policy drop; iifname lo accept; ip protocol icmp accept; }"


def _firewall(hook: str, udp: bool = True) -> str:
    """Only what belongs to a connection from within gets in: for a machine itself (input), or for the LAN (forward)."""
    family = "inet" if hook == "input" else "ip6"
    from_within = "iifname lo accept" if hook == "input" else f"iifname {BRIDGE} oifname {OUTSIDE} accept"
    return f"""
        table {family} firewall {{
            chain {hook} {{
                type filter hook {hook} priority filter; policy drop;
                {"" if udp else f"oifname {OUTSIDE} meta l4proto udp drop"}
                ct state established,related accept
                {from_within}
                meta l4proto {{ icmp, icmpv6 }} accept
            }}
        }}
    """
