"""Machines of one mesh on a simulated network: real endpoints, sessions and links; rosters and stores are small fakes."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from meshd.drivers.addresses import Known
from meshd.drivers.link import Link
from meshd.drivers.links import Links
from meshd.drivers.quic import Connection, Endpoint, open_endpoint
from meshd.drivers.reception import Reception, answer_members
from meshd.drivers.tls_identity import TlsIdentity
from meshd.model.address import Address
from meshd.model.candidate import Neighbour
from meshd.model.identity import Identity, Keys, NodeId
from meshd.notices import Notice
from meshd.protocol.peerbook import Kind
from tests.drivers.pairs import engine
from tests.sim.network import Host, Network, simulated

MESH, SECRET = b"m" * 32, b"s" * 32
PORT = 64_327
IDENTITY = TlsIdentity.generate()


@attrs.define
class Roster:
    """Who belongs to the mesh: one for all machines, unless a test makes a machine see another."""

    identities: dict[str, Identity] = attrs.field(factory=dict)
    out: set[str] = attrs.field(factory=set)

    def active(self) -> dict[str, Identity]:
        return {name: each for name, each in self.identities.items() if name not in self.out}


@attrs.define
class Membership:
    own: NodeId
    roster: Roster
    mesh: bytes = MESH
    vouched: bool = False
    """Whether introductions are believed."""

    blocked: set[NodeId] = attrs.field(factory=set)

    def secrets(self) -> list[bytes]:
        return [SECRET]

    def members(self) -> list[Identity]:
        active = self.roster.active().values()
        return [each for each in active if each.node != self.own and each.node not in self.blocked]

    def by_noise(self, noise_key: bytes) -> Identity | None:
        return next((each for each in self.members() if each.noise_key == noise_key), None)

    def blocks(self, node: NodeId) -> bool:
        return node in self.blocked

    def introduction(self) -> list[bytes]:
        return [b"admission"]

    def introduced(self, noise_key: bytes, signing_key: bytes, records: Iterable[bytes]) -> Identity | None:
        return Identity(signing_key, noise_key, b"") if self.vouched and list(records) else None


@attrs.define
class Store:
    known: list[Known] = attrs.field(factory=list)
    kept: list[tuple[NodeId, Address]] = attrs.field(factory=list)
    failure: Exception | None = None

    async def load(self) -> list[Known]:
        return self.known

    async def worked(self, node: NodeId, address: Address) -> None:
        if self.failure is not None:
            raise self.failure
        self.kept.append((node, address))


@attrs.define
class Machine:
    """One machine, while it runs."""

    name: str
    keys: Keys
    host: Host
    roster: Roster
    network: Network
    port: int = PORT
    membership: Membership = attrs.field(init=False)
    store: Store = attrs.field(factory=Store, init=False)
    notices: list[Notice] = attrs.field(factory=list, init=False)
    served: list[Link] = attrs.field(factory=list, init=False)
    """Every link that was ever served."""

    serving: set[Link] = attrs.field(factory=set, init=False)
    dials: list[tuple[float, Address]] = attrs.field(factory=list, init=False)
    """When it dialled what."""

    endpoint: Endpoint | None = attrs.field(default=None, init=False)
    links: Links | None = attrs.field(default=None, init=False)
    stopped: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    def __attrs_post_init__(self) -> None:
        self.membership = Membership(self.node, self.roster)

    @property
    def node(self) -> NodeId:
        return self.keys.identity.node

    @property
    def address(self) -> Address:
        return Address(self.host.address, self.port)

    @property
    def linked(self) -> set[str]:
        if self.links is None:
            return set()
        by_node = {identity.node: name for name, identity in self.roster.identities.items()}
        return {by_node[node] for node, link in self.links.current.items() if link.connection.closed is None}

    def link(self, other: "Machine") -> Link:
        return self.links.current[other.node]

    def knows(self, *others: "Machine") -> "Machine":
        """By hand, from the start."""
        self.store.known += [Known(each.address, Kind.BY_HAND, None) for each in others]
        return self

    def sees(self, other: "Machine", *addresses: Address) -> None:
        """As an announcement."""
        self.links.seen(Neighbour(f"{other.name:0>16}", (b"t" * 8,), addresses or (other.address,)))

    def told(self, kind: type[Any]) -> list[Any]:
        return [each for each in self.notices if isinstance(each, kind)]

    async def serve(self, link: Link) -> None:
        self.served.append(link)
        self.serving.add(link)
        try:
            await link.connection.wait_closed()
        finally:
            self.serving.discard(link)

    async def run(self, engine_name: str = "qh3") -> None:
        """Until `stop`. Whatever was there before is forgotten but for the keys and the store."""
        self.stopped = trio.CancelScope()
        with self.host, self.stopped:
            opened = open_endpoint(engine=engine(engine_name), identity=IDENTITY, port=self.port, accept=True)
            async with opened as self.endpoint:
                self._note_dials(self.endpoint)
                self.links = Links(
                    endpoint=self.endpoint,
                    keys=self.keys,
                    membership=self.membership,
                    store=self.store,
                    serve=self.serve,
                    notify=self.notices.append,
                    name_of=lambda node: next(n for n, i in self.roster.identities.items() if i.node == node),
                )
                answer = answer_members(self.keys, lambda: [self.membership], self.links.adopt)
                reception = Reception(self.endpoint, lambda error: None, answer)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.links.run)
                    nursery.start_soon(reception.run)

    def _note_dials(self, endpoint: Endpoint) -> None:
        dial = endpoint.dial

        async def noted(address: Address, *, timeout: float) -> Connection:
            self.dials.append((trio.current_time(), address))
            return await dial(address, timeout=timeout)

        endpoint.dial = noted

    def stop(self) -> None:
        """As a person would."""
        self.stopped.cancel()
        self.links = None


@attrs.define
class Mesh:
    """Machines of one mesh. Of any two, the one that was made first has the lower Noise key."""

    network: Network
    nursery: trio.Nursery
    roster: Roster = attrs.field(factory=Roster, init=False)
    _keys: list[Keys] = attrs.field(factory=lambda: keys_in_order(9), init=False)

    def machine(self, name: str) -> Machine:
        keys = self._keys[len(self.roster.identities)]
        self.roster.identities[name] = keys.identity
        return Machine(name, keys, self.network.host(name), self.roster, self.network)

    def start(self, *machines: Machine) -> None:
        for machine in machines:
            self.nursery.start_soon(machine.run)

    async def kill(self, machine: Machine) -> None:
        """End it without a word to anybody."""
        others = {host for host in self.network._by_address.values() if host is not machine.host}
        for other in others:
            self.network.cut(machine.host, other)
        machine.stop()
        await trio.sleep(1)
        for other in others:
            self.network.heal(machine.host, other)

    def move(self, machine: Machine, address: str) -> None:
        """Give it another address in place of those that it has."""
        for old in machine.host.addresses:
            del self.network._by_address[old]
        machine.host.addresses = (address,)
        self.network._by_address[address] = machine.host


@asynccontextmanager
async def mesh(seed: int = 1, **link: float) -> AsyncIterator[Mesh]:
    async with simulated(seed, **link) as network, trio.open_nursery() as nursery:
        yield Mesh(network, nursery)
        nursery.cancel_scope.cancel()


def keys_in_order(count: int) -> list[Keys]:
    """Keys, the lowest Noise key first."""
    made = [Keys(bytes([number]) * 32, bytes([number + 100]) * 32) for number in range(1, count + 1)]
    return sorted(made, key=lambda each: each.identity.noise_key)


async def until(holds: Callable[[], object], within: float = 30.0) -> float:
    """Wait in virtual time until this holds; returns for how long."""
    began = trio.current_time()
    with trio.fail_after(within):
        while not holds():
            await trio.sleep(0.01)
    return trio.current_time() - began
