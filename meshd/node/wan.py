"""Members that are not linked, looked for across the internet: topics, cards, punches. docs/protocol/traversal.md.

One for the daemon, over all its meshes. What a punch opens is dialled by the mesh's links, like any other address.
"""

import math
from collections.abc import Sequence
from typing import Final, Never

import attrs
import trio
import trio.lowlevel

from meshd.drivers.networks import Interface
from meshd.drivers.rendezvous import Asked, Server
from meshd.drivers.wan import Wan
from meshd.errors import RemoteProtocolError, TetherError
from meshd.model.address import Address
from meshd.model.identity import NodeId
from meshd.model.roster import Roster
from meshd.model.server import ServerName
from meshd.node.machine import Machine
from meshd.node.mesh import Mesh
from meshd.protocol.punching import Opened, may_be_punched, reason
from meshd.protocol.rendezvous import Denied, Matched, RendezvousClient
from meshd.protocol.topics import SERVERS_ASKED, Pair, choose_servers, next_change_ms
from meshd.wire.rendezvous import CardBody, Nat, Side

UNLINKED_FOR: Final = 2.0
"""Seconds without a link before a server is asked: on a LAN, or at a remembered address, a member is back sooner."""

LOOK_EVERY: Final = 5.0
"""Seconds between two looks at who is to be looked for, without news."""

RENEW: Final = 300.0
"""Seconds after which a wait is renewed: a server keeps it 900."""

AGAIN: Final = (5.0, 60.0)
"""Seconds from one match to the next that is waited for, doubled each time up to the second. The first is shorter than a
punch: the other side may have moved or restarted since. And a pair of routers that cannot be joined costs little."""

BELIEVE_EVERY: Final = 15.0
"""Seconds between two times that a server's word on our address makes us ask our links whether they live."""

SOUGHT_LIMIT: Final = 100
"""Members that are looked for at a time: with two topics around midnight they stay below what one server takes."""


@attrs.frozen
class Try:
    """What came of the last match with a member."""

    when: float
    server: str
    why: str
    """Empty while it goes on, or when it led to a link."""

    ours: Nat
    theirs: Nat
    candidates: tuple[Address, ...]
    opened: tuple[Address, ...]


@attrs.define(eq=False)
class _Search:
    """One member that is looked for."""

    mesh: Mesh
    node: NodeId
    pair: Pair
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    failures: int = 0


class Seeking:
    """The searches. `run` it while the daemon does; `changed` when links, rosters or addresses have."""

    def __init__(self, machine: Machine, meshes: dict[bytes, Mesh], wan: Wan) -> None:
        self._machine, self._meshes, self.wan = machine, meshes, wan
        self._searches: dict[tuple[bytes, NodeId], _Search] = {}
        self._news = trio.Event()
        self._renew = trio.Event()
        self._interfaces: tuple[Interface, ...] = ()
        self._observed: dict[ServerName, Address] = {}
        self._believed = -math.inf
        self._missing: dict[tuple[bytes, NodeId], float] = {}
        """Since when a member is not linked, on trio's clock."""
        self.mapped: Address | None = None
        """Our port at the router, where it opened one."""
        self.tries: dict[tuple[bytes, NodeId], Try] = {}
        """The last match with each member that is, or was, looked for."""
        wan.own_hosts = lambda: [str(each.ip.ip) for each in self._interfaces]

    def changed(self, roster: Roster | None = None) -> None:
        """Who is linked, or who belongs, is another."""
        self._news.set()

    def moved(self, interfaces: tuple[Interface, ...]) -> None:
        """This machine's addresses are others."""
        self._interfaces = interfaces
        self.woke()

    def woke(self) -> None:
        """Time was lost, or the network changed: where do the servers see us now?"""
        for server in self.wan.servers:
            server.network_changed()
        self._renew_all()

    def map_to(self, address: Address | None) -> None:
        """The router has opened a port for us, or has closed it."""
        if address != self.mapped:
            self.mapped = address
            self._renew_all()

    def seen(self) -> bool:
        """A server has said where it sees us. Whether that is elsewhere than before: our router has another address."""
        elsewhere = False
        for server in self.wan.servers:
            if server.observed is not None:
                elsewhere |= self._observed.get(server.name, server.observed) != server.observed
                self._observed[server.name] = server.observed
        now = trio.current_time()
        if now < self._believed + BELIEVE_EVERY and elsewhere:
            return False  # a server may say what it likes, and is not to keep us busy by it
        if elsewhere:
            self._believed = now
            for mesh in self._meshes.values():
                mesh.links.doubt()
        self._renew_all()
        return elsewhere

    def sought(self, mesh: Mesh, node: NodeId) -> bool:
        """Whether this member is looked for now."""
        return (mesh.id, node) in self._searches

    async def run(self) -> Never:
        """Look for members, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.wan.run)
            while True:
                self._news = trio.Event()
                self._reconcile(nursery)
                with trio.move_on_after(LOOK_EVERY):
                    await self._news.wait()
                await trio.lowlevel.checkpoint()

    # Who is looked for.

    def _reconcile(self, nursery: trio.Nursery) -> None:
        wanted: dict[tuple[bytes, NodeId], tuple[Mesh, bytes]] = {}
        now, before = trio.current_time(), self._missing
        self._missing = {}
        for mesh in self._meshes.values():
            for member in mesh.membership.members() if mesh.is_in else ():
                key = mesh.id, member.node
                if member.node in mesh.links.current:
                    continue
                since = self._missing[key] = before.get(key, now)
                if now >= since + UNLINKED_FOR:
                    wanted[key] = mesh, member.noise_key
                elif key not in before:
                    nursery.start_soon(self._look_at, since + UNLINKED_FOR)
        for key in [key for key, each in self._searches.items() if wanted.get(key, (None,))[0] is not each.mesh]:
            self._searches.pop(key).scope.cancel()
        # Of many, those that were linked last: a mesh remembers machines that are long gone.
        latest = sorted(wanted.items(), key=lambda each: -each[1][0].last_linked.get(each[0][1], -math.inf))
        for key, (mesh, noise_key) in latest:
            if key not in self._searches and len(self._searches) < SOUGHT_LIMIT:
                keys = self._machine.keys
                try:
                    pair = Pair.of(mesh.id, keys.noise_private, keys.identity.noise_key, noise_key)
                except RemoteProtocolError:
                    continue  # its session would fail as well, and say so
                search = self._searches[key] = _Search(mesh, key[1], pair)
                nursery.start_soon(self._seek, search)

    async def _look_at(self, when: float) -> None:
        await trio.sleep_until(when)
        self._news.set()

    async def _seek(self, search: _Search) -> None:
        with search.scope:
            while True:
                wall = self._machine.clocks.wall_ms()
                # No longer than RENEW: the clock of waits may stand still while the machine sleeps.
                until = trio.current_time() + min((next_change_ms(wall) - wall) / 1000 + 1, RENEW)
                places = self._places(search.pair, wall)
                async with trio.open_nursery() as nursery:
                    for server, topic in places:
                        nursery.start_soon(self._wait, search, server, topic)
                    while trio.current_time() < until and places == self._places(search.pair, wall):
                        with trio.move_on_after(LOOK_EVERY):
                            await self._renew.wait()
                    nursery.cancel_scope.cancel()

    def _places(self, pair: Pair, wall_ms: int) -> list[tuple[Server, bytes]]:
        """Where to wait now."""
        return [(server, topic) for topic in pair.topics(wall_ms) for server in self._servers(topic)]

    def _servers(self, topic: bytes) -> list[Server]:
        """Those that hash highest; when none of them can be reached, the next as well."""
        by_name = {str(server.name): server for server in self.wan.servers}
        ranked = [by_name[name] for name in choose_servers(topic, by_name)]
        first, rest = ranked[:SERVERS_ASKED], ranked[SERVERS_ASKED:]
        if all(server.error is not None for server in first):
            first += rest[:SERVERS_ASKED]
        return first

    # One wait.

    async def _wait(self, search: _Search, server: Server, topic: bytes) -> None:
        pair, entropy = search.pair, self._machine.entropy

        def ask(client: RendezvousClient, ref: int) -> int:
            return client.wait(topic, pair.side, pair.seal(self._card(), topic, entropy), ref)

        async with server.asking(ask) as asked, trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_renewed, asked)
            async for event in asked.events:
                match event:
                    case Matched():
                        nursery.start_soon(self._meet, search, server, topic, event)
                        first, most = AGAIN
                        with trio.move_on_after(min(most, first * 2 ** min(search.failures, 8))):
                            await self._renew.wait()  # on another network it may work
                        search.failures += 1
                    case Denied(_, _, seconds):
                        await trio.sleep(max(float(seconds), LOOK_EVERY) if seconds else RENEW)
                    case _:
                        continue
                asked.again()

    async def _keep_renewed(self, asked: Asked) -> Never:
        """Say anew where we are, whenever that is elsewhere."""
        while True:
            await self._renew.wait()
            if asked.ref:
                asked.again()

    async def _meet(self, search: _Search, server: Server, topic: bytes, matched: Matched) -> None:
        """Punch; whoever is then linked has the search cancelled."""
        pair, mesh = search.pair, search.mesh
        try:
            card = pair.unseal(matched.card, topic)
        except RemoteProtocolError as error:
            self._note(search, server, matched, Nat.UNKNOWN, (), (), error.what)
            return
        candidates = tuple(dict.fromkeys((matched.address, *card.addresses())))
        opened: list[Address] = []

        def add(path: Opened) -> None:
            opened.append(path.address)
            self._note(search, server, matched, card.nat, candidates, tuple(opened), "")
            if pair.side is Side.FIRST:
                mesh.links.punched(search.node, path.address)

        self._note(search, server, matched, card.nat, candidates, (), "")
        try:
            outcome = await self.wan.puncher.punch(
                pair.punch_key(matched.nonce),
                pair.side,
                candidates,
                after=matched.after,
                loopback=server.is_loopback,
                opened=add,
            )
        except TetherError as error:
            why = error.what
        else:
            why = reason(self.wan.nat, card.nat, heard=outcome.heard, sent=outcome.sent)
        self._note(search, server, matched, card.nat, candidates, tuple(opened), why)

    def _note(
        self,
        search: _Search,
        server: Server,
        matched: Matched,
        theirs: Nat,
        candidates: Sequence[Address],
        opened: Sequence[Address],
        why: str,
    ) -> None:
        self.tries[search.mesh.id, search.node] = Try(
            when=trio.current_time(),
            server=str(server.name),
            why=why,
            ours=self.wan.nat,
            theirs=theirs,
            candidates=tuple(candidates),
            opened=tuple(opened),
        )

    # What we say of ourselves.

    def _card(self) -> CardBody:
        """Where we may be: as servers see us, as the router maps us, and our own addresses, real interfaces first."""
        port = self._machine.endpoint.port
        seen = [server.observed for server in self.wan.servers if server.observed is not None]
        own = sorted(self._interfaces, key=lambda each: (each.is_virtual, each.ip.ip.version == 4))
        found = [*seen, *([self.mapped] if self.mapped else []), *(Address(str(each.ip.ip), port) for each in own)]
        loopback = any(server.is_loopback for server in self.wan.servers)
        return CardBody.of(self.wan.nat, [each for each in found if may_be_punched(each, loopback=loopback)])

    def _renew_all(self) -> None:
        self._renew.set()
        self._renew = trio.Event()
        self._news.set()
