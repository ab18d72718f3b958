"""What may be asked about addresses, links and how things stand: the part of the context that looks and reports."""

import os
import time
from pathlib import Path
from typing import Final, Literal

import trio

from meshd.drivers.link import Link
from meshd.errors import NobodyFoundError, UsageError
from meshd.model.address import Address
from meshd.model.identity import node_text
from meshd.model.member import Member
from meshd.node.calls import Calls
from meshd.node.mesh import Mesh
from meshd.notices import Notice
from meshd.protocol.peerbook import Kind
from meshd.tools.context import (
    Digests,
    EventsEnd,
    MachineStatus,
    MeshStatus,
    PeerAddress,
    PeerAddresses,
    PeerChanged,
    Ping,
    Problem,
    Status,
    TellEvent,
    ViewDigest,
)

PINGS_LIMIT: Final = 1000
PING_PAUSE: Final = 0.1
"""Seconds between two pings of one call."""

EVENTS_QUEUED: Final = 1024
"""Events that wait for one who follows; of more the oldest go."""


_KINDS: Final[dict[Kind, Literal["by hand", "remembered", "learnt", "LAN", "WAN"]]] = {
    Kind.LAN: "LAN",
    Kind.WAN: "WAN",
    Kind.BY_HAND: "by hand",
    Kind.REMEMBERED: "remembered",
    Kind.LEARNT: "learnt",
}


class LinkCalls(Calls):
    """Addresses, links, status and events."""

    async def peer_add(self, *, mesh: str | None, address: str) -> PeerChanged:
        chosen, spot = self.mesh(mesh), Address.parse(address)
        now = self.node.machine.clocks.wall_ms()
        added = await chosen.storage.write(
            lambda database: database.peers.add_by_hand(spot.host, spot.port, now_ms=now)
        )
        chosen.links.add_by_hand(spot)
        return PeerChanged(str(spot), added)

    async def peer_remove(self, *, mesh: str | None, address: str) -> PeerChanged:
        chosen, spot = self.mesh(mesh), Address.parse(address)
        removed = await chosen.storage.write(lambda database: database.peers.remove_by_hand(spot.host, spot.port))
        chosen.links.remove_by_hand(spot)
        return PeerChanged(str(spot), removed)

    async def peer_list(self, *, mesh: str | None) -> PeerAddresses:
        chosen = self.mesh(mesh)
        now = trio.current_time()
        return PeerAddresses(
            chosen.hex,
            tuple(
                PeerAddress(
                    str(entry.address),
                    _KINDS[entry.kind],
                    None if entry.node is None else self.machine(chosen, entry.node),
                    None if entry.answered is None else max(0.0, now - entry.answered),
                )
                for entry in chosen.links.entries()
            ),
        )

    async def ping(self, *, mesh: str | None, machine: str, count: int) -> Ping:
        chosen = self.mesh(mesh)
        target = self.member(chosen, machine)
        if not 1 <= count <= PINGS_LIMIT:
            raise UsageError(f"Ping 1 to {PINGS_LIMIT:,} times.")
        if target.node == self.node.machine.keys.identity.node:
            raise UsageError("That is this machine.")
        trips, last = [], None
        for number in range(count):
            if number:
                await trio.sleep(PING_PAUSE)
            link = chosen.links.current.get(target.node)
            if link is None:
                raise NobodyFoundError(f"{target.name} is not linked.", "See: tether status.")
            trips.append(await chosen.syncing.probe(link))
            last = link
        assert last is not None
        return Ping(self.machine(chosen, target.node), last.path.value, str(last.connection.peer), tuple(trips))

    async def status(self, *, mesh: str | None) -> Status:
        machine = self.node.machine
        meshes = [self.mesh(mesh)] if mesh is not None else list(self.node.meshes.values())
        return Status(
            version=self.node.version,
            pid=os.getpid(),
            node=node_text(machine.keys.identity.node),
            state=str(machine.state.path),
            host=self.node.host,
            port=machine.endpoint.port,
            engine=machine.endpoint.engine.name,
            uptime=time.monotonic() - self.node.started,
            lan=self.node.neighbours.works,
            disk_free=self.node.disk_free,
            disk_floor=machine.settings.disk_floor,
            disk_age=time.monotonic() - self.node.disk_looked,
            memory=_resident(),
            meshes=tuple([await self._mesh_status(each) for each in sorted(meshes, key=lambda each: each.name)]),
            problems=self._problems(None),
        )

    async def _mesh_status(self, mesh: Mesh) -> MeshStatus:
        me = self.node.machine.keys.identity.node
        room = await mesh.blobs.usage()
        tips = mesh.journal.tips()
        return MeshStatus(
            mesh=mesh.hex,
            name=mesh.name,
            machine=self.here(mesh),
            generation=mesh.journal.generation,
            machines=tuple(self._machine_status(mesh, each) for each in mesh.roster.active() if each.node != me),
            records=sum(tip.sequence for tip in tips.values()),
            record_bytes=sum(tip.size for tip in tips.values()),
            waiting_records=sum(
                tips[chain].sequence - each.first + 1 for chain, each in mesh.journal.waiting.items() if chain in tips
            ),
            blobs=room.usage.blobs,
            blob_bytes=room.usage.size,
            fetching=mesh.fetching.running,
            problems=self._problems(mesh),
        )

    def _machine_status(self, mesh: Mesh, member: Member) -> MachineStatus:
        now = trio.current_time()
        link: Link | None = mesh.links.current.get(member.node)
        lag = None if link is None else mesh.syncing.lag(link)
        return MachineStatus(
            machine=self.machine(mesh, member.node),
            linked=link is not None,
            path="" if link is None else link.path.value,
            address="" if link is None else str(link.connection.peer),
            since=None if link is None else now - link.since,
            seen_age=mesh.seen_age(member.node),
            round_trip=None if link is None else link.round_trip,
            round_trip_age=None if link is None or link.probed_at is None else now - link.probed_at,
            they_lack_records=None if lag is None else lag.records_there,
            they_lack_bytes=None if lag is None else lag.bytes_there,
            we_lack_records=None if lag is None else lag.records_here,
            we_lack_bytes=None if lag is None else lag.bytes_here,
            lag_age=None if lag is None else max(0.0, now - lag.as_of),
            blocked=member.node in mesh.blocked,
        )

    def _problems(self, mesh: Mesh | None) -> tuple[Problem, ...]:
        lasting = [] if mesh is not None else [Problem(each.what, each.advice, "error") for each in self.node.unopened]
        return tuple(dict.fromkeys([*lasting, *self.node.problems.of(mesh)]))

    async def digest(self, *, mesh: str | None) -> Digests:
        chosen = self.mesh(mesh)
        found = await chosen.storage.read(lambda database: database.digests())
        views = {"roster": chosen.roster.digest(), **found}
        return Digests(chosen.hex, tuple(ViewDigest(name, digest.hex()) for name, digest in views.items()))

    async def events(self, *, mesh: str | None, follow: bool, tell: TellEvent) -> EventsEnd:
        wanted = None if mesh is None else self.mesh(mesh).hex

        def concerns(notice: Notice) -> bool:
            return wanted is None or getattr(notice, "mesh", wanted) == wanted

        told = 0
        with self.node.news.follow(EVENTS_QUEUED) as listener:
            waiting = list(listener.kept)
            while waiting or follow:
                for notice, happened in waiting:
                    if concerns(notice):
                        tell(notice, time.monotonic() - happened)
                        told += 1
                waiting = await listener.next() if follow else []
        return EventsEnd(told)


def _resident() -> int:
    """Resident bytes of this process; where /proc is not, the most there ever were."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
