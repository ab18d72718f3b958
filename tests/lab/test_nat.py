"""The simulated internet is what it says: each router's mappings and filters, found out as RFC 5780 does, by sending.

That a datagram does not arrive is known when others have gone there and back that were sent after it.
"""

import contextlib
import ipaddress
import itertools
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.conftest import need
from tests.lab.nat import BRIDGE, OUTSIDE, TOOLS, UPLINK, Machine, Nat, Wan, inside, joinable
from tests.lab.network import run, why_not

WITHIN = 10.0
"""Seconds that anything may take here."""

PORT = 4000
"""Of every client's socket unless it says otherwise: two of one LAN want the same public port."""

TRANSLATED = [Nat.FULL_CONE, Nat.ADDRESS_RESTRICTED, Nat.PORT_RESTRICTED, Nat.SYMMETRIC]
INDEPENDENT = TRANSLATED[:3]
PAIRS = list(itertools.combinations_with_replacement(Nat, 2))

Address = tuple[str, int]


class Socket:
    """A UDP socket on a machine, and what it received that nobody asked about yet."""

    def __init__(self, host: Machine, port: int = PORT, *, v6: bool = False) -> None:
        with inside(host):
            self._socket = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("", port))
        self.address: Address = ((host.v6 or "") if v6 else host.address, self._socket.getsockname()[1])
        self._waiting: list[tuple[bytes, Address]] = []

    def close(self) -> None:
        self._socket.close()

    def join(self, group: str) -> None:
        """Hear what is sent to a multicast group."""
        member = socket.inet_aton(group) + socket.inet_aton(self.address[0])
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)

    def send(self, data: bytes, to: Address) -> None:
        self._socket.sendto(data, to)

    def take(self, data: bytes) -> Address | None:
        """Where these bytes came from, if they have come."""
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                got, source = self._socket.recvfrom(2000)
                self._waiting.append((got, source[:2]))
        found = next((each for each in self._waiting if each[0] == data), None)
        if found is None:
            return None
        self._waiting.remove(found)
        return found[1]

    def wait(self, data: bytes) -> Address:
        """Wait for these bytes; where they came from."""
        deadline = time.monotonic() + WITHIN
        while (source := self.take(data)) is None:
            assert time.monotonic() < deadline, f"{data!r} did not come to {self.address}"
            time.sleep(0.001)
        return source

    def seen_by(self, server: "Socket") -> Address:
        """Where the server sees this socket: there and back."""
        token = os.urandom(8)
        self.send(token, server.address)
        seen = server.wait(token)
        server.send(token, seen)
        assert self.wait(token) == server.address
        return seen


@pytest.fixture
def on() -> Iterator[Any]:
    """`on(machine)` opens a socket there; they are closed after the test."""
    with contextlib.ExitStack() as stack:

        def opened(host: Machine, port: int = PORT, **how: Any) -> Socket:
            made = Socket(host, port, **how)
            stack.callback(made.close)
            return made

        yield opened


@pytest.fixture
def servers(wan, on):
    """Two sockets of one address, and one of another that has the first's port."""
    stun, other = wan.public("stun"), wan.public("other")
    return [on(stun, 3478), on(stun, 3479), on(other, 3478)]


def settle(*sides: tuple[Socket, Socket]) -> None:
    """All that was sent before has arrived by now, or never will: datagrams went there and back after it, three times."""
    for _ in range(3):
        for client, server in sides:
            client.seen_by(server)


def gets_in(sender: Socket, to: Address, receiver: Socket, server: Socket) -> bool:
    """Whether the receiver, which has a server, hears what is sent to this address; and from where it was sent."""
    token = os.urandom(8)
    sender.send(token, to)
    settle((receiver, server))
    source = receiver.take(token)
    assert source in (None, sender.address)
    return source is not None


def connects(host: Machine, server: Machine) -> bool:
    """Whether TCP gets there, with a byte."""
    with inside(server):
        listener = socket.create_server(("", 0))
    with inside(host):
        client = socket.socket()
    with listener, client:
        client.settimeout(WITHIN)
        client.connect((server.address, listener.getsockname()[1]))
        accepted, _ = listener.accept()
        with accepted:
            client.sendall(b"x")
            return accepted.recv(1) == b"x"


def meet(one: Socket, other: Socket, server: Socket, *, attempts: int = 4) -> bool:
    """Whether two come together that send to where the server saw the other, at once, and answer to what they hear."""
    pair = (one, other)
    ways = [{other.seen_by(server)}, {one.seen_by(server)}]
    heard = [False, False]
    token = os.urandom(8)
    for _ in range(attempts):
        for side, known in zip(pair, ways, strict=True):
            for way in known:
                side.send(token, way)
        settle(*((side, server) for side in pair))
        for i, side in enumerate(pair):
            while (source := side.take(token)) is not None:
                ways[i].add(source)
                heard[i] = True
    return all(heard)


@pytest.mark.parametrize("nat", list(Nat), ids=lambda nat: nat.name)
def test_mapping_and_filter(wan, on, servers, nat):
    """RFC 5780 4.3 and 4.4: from where three servers see a socket, and which of them get in when one was sent to."""
    first, second, third = servers
    host = wan.client("ann", nat)
    ann = on(host)
    seen = ann.seen_by(first)
    assert gets_in(second, seen, ann, first) is (nat in (Nat.NONE, Nat.FULL_CONE, Nat.ADDRESS_RESTRICTED))
    assert gets_in(third, seen, ann, first) is (nat in (Nat.NONE, Nat.FULL_CONE))
    mappings = [seen, ann.seen_by(second), ann.seen_by(third)]
    if nat is Nat.SYMMETRIC:
        assert len(set(mappings)) == 3 and len({address for address, _ in mappings}) == 1
        assert PORT not in {port for _, port in mappings}
    else:
        assert set(mappings) == {(seen[0], PORT)}
    assert ipaddress.ip_address(seen[0]).is_global
    assert (seen[0] == host.address) is (nat in (Nat.NONE, Nat.FIREWALL))
    assert all(gets_in(each, where, ann, first) for each, where in zip(servers, mappings, strict=True))


@pytest.mark.parametrize("nat", INDEPENDENT, ids=lambda nat: nat.name)
def test_two_sockets_of_one_port(wan, on, servers, nat):
    """Two machines of a LAN use the port that the program always uses: each has one public port, for whoever it sends to."""
    router = wan.router("router", nat)
    ann, bob = (on(router.host(name)) for name in ("ann", "bob"))
    seen = {ann: ann.seen_by(servers[0])}
    seen[bob] = bob.seen_by(servers[1])  # where Linux alone would let both have one port
    assert seen[ann] != seen[bob]
    for each, where in seen.items():
        assert {each.seen_by(server) for server in servers} == {where}
        assert all(gets_in(server, where, each, servers[0]) for server in servers)


@pytest.mark.parametrize("nat", [Nat.FIREWALL, *INDEPENDENT], ids=lambda nat: nat.name)
def test_a_stray_datagram_moves_no_mapping(wan, on, servers, nat):
    """The peer's first datagram is early and is refused: what is sent to the peer then goes out by the port it was told."""
    first, _, peer = servers
    ann = on(wan.client("ann", nat))
    seen = ann.seen_by(first)
    for _ in range(3):
        assert gets_in(peer, seen, ann, first) is (nat is Nat.FULL_CONE)
    assert ann.seen_by(peer) == seen
    assert gets_in(peer, seen, ann, first)


@pytest.fixture(scope="module")
def everybody() -> Iterator[tuple[Machine, dict[Nat, list[Machine]]]]:
    """A server, and two machines that are on the internet in each manner."""
    need(why_not(*TOOLS))
    with Wan() as wan:
        yield wan.public("stun"), {nat: [wan.client(f"{nat.name}{i}".lower(), nat) for i in "12"] for nat in Nat}


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "-".join(nat.name for nat in pair))
def test_pairs(everybody, on, pair):
    """Who is joined by sending at once is who `joinable` says, in either order."""
    server, machines = everybody
    one, other = pair
    assert joinable(one, other) is joinable(other, one)
    # On ports of this test: the routers remember those of others.
    sides = [on(machines[nat][i], 0) for i, nat in enumerate(pair)]
    assert meet(*sides, on(server, 0)) is joinable(one, other)


@pytest.mark.parametrize("nat", TRANSLATED, ids=lambda nat: nat.name)
def test_pairs_of_one_private_address(wan, on, servers, nat):
    """Both homes have the numbers that every home has, so that both machines have one address: no matter to their routers."""
    hosts = [wan.router(f"{name}-home", nat, network="192.168.0").host(name) for name in ("ann", "bob")]
    assert hosts[0].address == hosts[1].address
    assert meet(*map(on, hosts), servers[0]) is joinable(nat, nat)


@pytest.mark.parametrize("nat", INDEPENDENT, ids=lambda nat: nat.name)
def test_hairpin(wan, on, servers, nat):
    """A LAN's machines by the public address: only if the router turns datagrams round, and then seen from outside."""
    first = servers[0]
    for hairpin in (False, True):
        router = wan.router("router", nat, hairpin=hairpin)
        ann, bob = (on(router.host(name)) for name in ("ann", "bob"))
        to_ann, to_bob = ann.seen_by(first), bob.seen_by(first)
        token = os.urandom(8)
        ann.send(token, to_bob)
        settle((ann, first), (bob, first))
        assert bob.take(token) == (to_ann if hairpin and nat is Nat.FULL_CONE else None)
        for one, to in ((bob, to_ann), (ann, to_bob)):
            one.send(token, to)
        settle((ann, first), (bob, first))
        assert ann.take(token) == (to_bob if hairpin else None)
        assert bob.take(token) == (to_ann if hairpin else None)


@pytest.mark.parametrize("outer", TRANSLATED, ids=lambda nat: nat.name)
@pytest.mark.parametrize("inner", TRANSLATED, ids=lambda nat: nat.name)
def test_one_router_behind_another(wan, on, servers, inner, outer):
    """The public address is the outer router's, and the stricter of both is what peers meet."""
    first, second, third = servers
    provider = wan.router("provider", outer)
    home = wan.router("home", inner, behind=provider)
    ann = on(home.host("ann"))
    seen = ann.seen_by(first)
    assert seen[0] == provider.address and home.address.startswith(provider.network)
    strict = TRANSLATED[max(TRANSLATED.index(inner), TRANSLATED.index(outer))]
    assert gets_in(second, seen, ann, first) is (strict in (Nat.FULL_CONE, Nat.ADDRESS_RESTRICTED))
    assert gets_in(third, seen, ann, first) is (strict is Nat.FULL_CONE)
    assert (ann.seen_by(third) == seen) is (strict is not Nat.SYMMETRIC)
    for peer in (Nat.ADDRESS_RESTRICTED, Nat.PORT_RESTRICTED):
        assert meet(ann, on(wan.client("bob", peer)), first) is joinable(strict, peer)


def test_udp_blocked(wan, on, servers):
    """No UDP leaves, TCP does; the router beside it lets both pass."""
    first, stun = servers[0], wan.public("both", v6=True)
    over_v6, witness = on(stun, v6=True), on(wan.client("free", Nat.PORT_RESTRICTED))
    for nat, udp in itertools.product((Nat.PORT_RESTRICTED, Nat.SYMMETRIC), (True, False)):
        router = wan.router("router", nat, udp=udp, v6=True)
        host = router.host("ann")
        ann, bob, ann_v6 = on(host), on(router.host("bob")), on(host, 5000, v6=True)
        token = os.urandom(8)
        ann.send(token, first.address)
        ann_v6.send(token, over_v6.address)
        assert connects(host, stun)
        settle((witness, first))
        for server in (first, over_v6):
            assert server.wait(token) if udp else server.take(token) is None
        ann.send(token, bob.address)
        assert bob.wait(token) == ann.address


@pytest.mark.parametrize("nat", TRANSLATED, ids=lambda nat: nat.name)
def test_renumbered(wan, on, servers, nat):
    """Another public address for a socket that sends on: servers see it there, and its old mapping leads nowhere."""
    first, second, _ = servers
    router = wan.router("router", nat)
    ann = on(router.host("ann"))
    before = [ann.seen_by(first), ann.seen_by(second)]
    address = router.renumber()
    assert address == router.address != before[0][0]
    first.send(b"early", (address, before[0][1]))
    after = ann.seen_by(first)
    assert after[0] == address
    assert ann.take(b"early") is None
    assert not gets_in(second, before[1], ann, first)
    assert gets_in(first, after, ann, first)
    assert router.renumber() not in (address, before[0][0])
    assert ann.seen_by(first)[0] == router.address


def test_renumbered_behind_another(wan, on, servers):
    """It is the provider that gives the home another address, so that the public one stays."""
    provider = wan.router("provider", Nat.PORT_RESTRICTED)
    home = wan.router("home", Nat.PORT_RESTRICTED, behind=provider)
    ann, beside = on(home.host("ann")), on(provider.host("beside"), 5000)
    seen = [ann.seen_by(each) for each in (servers[0], beside)]
    home.renumber()
    again = [ann.seen_by(each) for each in (servers[0], beside)]
    assert again[0][0] == seen[0][0] == provider.address
    assert again[1][0] == home.address != seen[1][0]


def test_silence_ends_a_binding(wan, on, servers):
    """What a socket sends keeps the way in open; silence closes it, whatever stands there."""
    peer, neighbour, other = servers
    witness = on(wan.public("witness"))
    clients = {nat: on(wan.client(nat.name.lower(), nat, udp_timeout=2)) for nat in (Nat.FIREWALL, *TRANSLATED)}
    seen = {nat: client.seen_by(peer) for nat, client in clients.items()}

    def let_in(sender: Socket) -> list[Nat]:
        token = os.urandom(8)
        for to in seen.values():
            sender.send(token, to)
        settle((witness, other))  # none of the clients: a full cone is open when it sends to anybody
        return [nat for nat, client in clients.items() if client.take(token)]

    for _ in range(2):
        for client in clients.values():
            client.send(b"alive", peer.address)
        time.sleep(1.2)  # a silence that is allowed
    assert let_in(neighbour) == [Nat.FULL_CONE, Nat.ADDRESS_RESTRICTED]
    assert let_in(peer) == list(clients)
    time.sleep(2.5)  # the silence that is not
    assert let_in(peer) == let_in(neighbour) == []
    for nat, client in clients.items():
        client.send(nat.name.encode(), peer.address)
        seen[nat] = peer.wait(nat.name.encode())
    assert let_in(peer) == list(clients)


def test_a_lan_is_one_and_the_internet_is_none(wan, on):
    """Multicast, and addresses as they are, reach who is on the LAN; on the internet nobody hears another's."""
    group = "224.0.0.251"
    router = wan.router("router", Nat.FULL_CONE)
    names = ("ann", "bob", "public", "stranger")
    sockets = [on(router.host(name) if name in names[:2] else wan.public(name), 5353) for name in names]
    ann, bob, public, stranger = sockets
    for each in sockets:
        each.join(group)
    ann.send(b"who is there?", (group, 5353))
    assert bob.wait(b"who is there?") == ann.address
    public.send(b"and here?", (group, 5353))
    settle((bob, public), (ann, stranger), (stranger, public))
    for each in (bob, stranger):
        assert each.take(b"who is there?") is each.take(b"and here?") is None
    assert bob.seen_by(ann) == bob.address


def test_private_addresses_lead_nowhere(wan, on):
    """Not into a LAN for who is outside, were it the router's neighbour; nor out of one untranslated."""
    provider = wan.router("provider", Nat.FULL_CONE)
    home = wan.router("home", Nat.FULL_CONE, behind=provider)
    ann, neighbour, server = on(home.host("ann")), provider.host("neighbour"), on(wan.public("server"))
    neighbour.ip(f"route add {home.network}.0/24 via {home.address}")
    liar = wan.public("liar")
    beside, outside = on(neighbour, 5000), on(liar)
    assert not gets_in(outside, ann.address, ann, server)
    assert not gets_in(beside, ann.address, ann, server)
    assert gets_in(beside, ann.seen_by(beside), ann, server)
    assert outside.seen_by(server) == outside.address
    liar.ip(
        f"address add 192.168.250.1/24 dev {UPLINK}",
        f"route change default via {liar.address.removesuffix('.2')}.1 src 192.168.250.1",
    )
    outside.send(b"untranslated", server.address)
    settle((ann, server))
    assert server.take(b"untranslated") is None


def test_ipv6(wan, on):
    """A router passes IPv6 on as it is, once something went out; who has only IPv4 does not reach it."""
    stun = wan.public("stun", v6=True)
    servers = [on(stun, 3478, v6=True), on(stun, 3479, v6=True)]
    router = wan.router("router", Nat.SYMMETRIC, v6=True)
    both, other = router.host("both"), wan.router("elsewhere", Nat.PORT_RESTRICTED, v6=True).host("other")
    ann, bob = on(both, v6=True), on(other, v6=True)
    assert ann.seen_by(servers[0]) == ann.address and ipaddress.ip_address(ann.address[0]).is_global
    assert not gets_in(servers[1], ann.address, ann, servers[0])
    assert not gets_in(bob, ann.address, ann, servers[0])
    assert meet(ann, bob, servers[0])
    over_v4 = on(both, 5000)
    for _ in range(2):
        assert over_v4.seen_by(on(stun, 0))[0] == router.address
        router.renumber()
        assert ann.seen_by(servers[0]) == ann.address
    for lacking in (router.host("old", v6=False), wan.client("old", Nat.PORT_RESTRICTED), wan.public("old")):
        assert lacking.v6 is None
        with pytest.raises(OSError, match="unreachable"):
            on(lacking, v6=True).send(b"", servers[0].address)
        on(lacking, 0).seen_by(on(stun, 0))


def test_counters(wan, on, servers):
    """A machine's interface counts what passed there, so that what did not can be told."""
    first, third = servers[0], servers[2]
    router = wan.router("router", Nat.PORT_RESTRICTED)
    host, beside = router.host("ann"), wan.public("beside")
    ann = on(host)
    places = {
        "ann": (host,),
        "outside": (router.machine, OUTSIDE),
        "inside": (router.machine, BRIDGE),
        "not": (beside,),
    }
    ann.seen_by(first)
    before = {name: machine.counters(*device) for name, (machine, *device) in places.items()}
    for _ in range(100):
        ann.send(bytes(1000), first.address)
    ann.seen_by(first)
    grown = {
        name: [now - then for now, then in zip(machine.counters(*device), before[name], strict=True)]
        for name, (machine, *device) in places.items()
    }
    for rx_packets, rx_bytes, tx_packets, tx_bytes in (grown["ann"], grown["outside"]):
        assert 101 <= tx_packets < 110 and 100 * 1028 < tx_bytes < 100 * 1100
        assert 1 <= rx_packets < 10 and rx_bytes < 1000
    assert 101 <= grown["inside"][0] < 110
    assert grown["not"][1] < 1000 and grown["not"][3] < 1000
    assert third.take(bytes(1000)) is None


@pytest.mark.parametrize("when", ["while it is made", "while it is used"])
def test_nothing_is_left(monkeypatch, when):
    """Whatever fails, no namespace stays."""
    need(why_not(*TOOLS))
    wan = Wan()

    def namespaces() -> int:
        return run("ip", "netns", "list").count(wan.mark)

    def fail(*_: object, **__: object) -> None:
        assert namespaces(), "nothing was there yet"
        raise ZeroDivisionError

    if when == "while it is made":
        monkeypatch.setattr(Machine, "sysctl", fail)
    with pytest.raises(ZeroDivisionError), wan:
        wan.router("router", Nat.FULL_CONE).host("ann")
        assert namespaces() == 3
        fail()
    assert not namespaces()
