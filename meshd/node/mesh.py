"""One mesh on this machine: its database, records, blobs and links, and the tasks that keep them together."""

import contextlib
import math
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import attrs
import trio

from meshd.drivers.addresses import StoredAddresses
from meshd.drivers.blob_files import BlobStore
from meshd.drivers.fetching import Fetching
from meshd.drivers.journal import Journal, open_journal
from meshd.drivers.link import Link
from meshd.drivers.link_streams import serve_link
from meshd.drivers.links import Links
from meshd.drivers.serving import Serving
from meshd.drivers.state import MeshDirectory
from meshd.drivers.storage import Storage, open_storage
from meshd.drivers.sync import Syncing
from meshd.errors import RefusedError, StoreError, TimedOutError
from meshd.model.address import Address
from meshd.model.announcement import Addresses
from meshd.model.facts import Fact
from meshd.model.handle import BLOB, Handle
from meshd.model.identity import NodeId, node_text, short_text
from meshd.model.member import Member
from meshd.model.record import Log, LogId, Record
from meshd.model.roster import Roster
from meshd.node import questions, renewal, secrets
from meshd.node.agents import Agents
from meshd.node.founding import mesh_of
from meshd.node.keeping import Keeping
from meshd.node.machine import Machine
from meshd.node.mailroom import Mailroom
from meshd.node.membership import MeshMembership
from meshd.node.waking import Waking
from meshd.notices import Damaged, RosterChanged, Trouble
from meshd.store.peers import BlockedNode
from meshd.wire.bodies import type_of
from meshd.wire.constants import CloseCode

ADDRESSES: Final = type_of(Addresses)[0]

CHANGES_TOLD: Final = 5
"""Machines that one notice of a changed roster names."""

MEASURE_EVERY: Final = 30.0
"""Seconds between two round trips measured on a quiet link."""

SECRET_TRIES: Final = 3
"""A new secret is sealed for one place in our log; this often another record of ours may take the place first."""

SECRET_PAUSE: Final = 10.0
"""Seconds between two secrets after revocations: what comes in between shares the next. A member that makes secrets for
the outcast could else have us write as fast as the disk does."""

HELP_PAUSE: Final = 60.0
"""The same for secrets that help a member which the newest has not reached, and needs it less."""

FOLLOW_AGAIN: Final = 60.0
"""Seconds until what a changed roster asks for, and the disk refused, is tried again."""


class Mesh:
    """One mesh that this machine belongs to; made by `open_mesh`, works while `run` does."""

    def __init__(
        self, machine: Machine, directory: MeshDirectory, storage: Storage, journal: Journal, blobs: BlobStore
    ) -> None:
        self.machine, self.directory = machine, directory
        self.storage, self.journal, self.blobs = storage, journal, blobs
        self.secrets: list[secrets.HeldSecret] = []
        """Newest first."""
        self.blocked: dict[NodeId, BlockedNode] = {}
        self.membership = MeshMembership(
            machine.keys,
            lambda: self.roster,
            lambda: [each.secret for each in self.secrets],
            lambda: self.blocked,
            lambda: self._path,
        )
        self._path: list[bytes] = []
        self.fetching = Fetching(blobs, self.name_of, machine.notify, mesh=self.hex, offload=machine.offload)
        self.serving = Serving(blobs, machine.throttle)
        self.links = Links(
            endpoint=machine.endpoint,
            keys=machine.keys,
            membership=self.membership,
            store=StoredAddresses(storage, machine.clocks.wall_ms),
            serve=self._serve,
            notify=machine.notify,
            name_of=self.name_of,
        )
        self.syncing = Syncing(journal, notify=machine.notify, entropy=machine.entropy)
        self.syncing.on_settled.append(self.links.settle)
        self.syncing.on_settled.append(lambda _: self._linked.set())
        self._linked = trio.Event()
        self.last_linked: dict[NodeId, float] = {}
        """When the last link with each machine that was linked in this run ended, on trio's clock."""
        self.keeping = Keeping(self)
        self.agents = Agents(self)
        self.mailroom = Mailroom(self)
        self.waking = Waking(self.mailroom, storage, machine.clocks)
        self.roster_changed = trio.Event()
        """Set, and replaced, at each change."""
        self.on_secrets: list[Callable[[], None]] = []
        """Called when there is a new mesh secret."""
        self._roster_lock = trio.Lock()
        self._notes = renewal.Notes()
        self._renewed = -math.inf
        self._said: set[NodeId] = set()
        self._said_news = trio.Event()
        self._names = _names(journal.roster)
        journal.on_roster.append(self._on_roster)
        journal.on_change.append(self._on_records)
        journal.on_released.append(self._on_released)

    # What it is.

    @property
    def id(self) -> bytes:
        return self.journal.mesh

    @property
    def hex(self) -> str:
        return self.journal.mesh.hex()

    @property
    def roster(self) -> Roster:
        return self.journal.roster

    @property
    def name(self) -> str:
        return self.roster.mesh_name

    @property
    def me(self) -> Member | None:
        """This machine in the roster."""
        return self.roster.members.get(self._key)

    @property
    def _key(self) -> bytes:
        return self.machine.keys.identity.signing_key

    @property
    def is_in(self) -> bool:
        """Whether this machine is an active member: it may have been revoked elsewhere."""
        return self.me is not None and self.me.is_active

    def name_of(self, node: NodeId) -> str:
        """What people call a machine."""
        member = self.roster.by_node(node)
        return short_text(node) if member is None else member.name

    def seen_age(self, node: NodeId) -> float | None:
        """Seconds since a member was last heard: 0 while it is linked; None where that is not known."""
        if node in self.links.current:
            return 0.0
        times = [entry.answered for entry in self.links.entries() if entry.node == node and entry.answered is not None]
        left = self.last_linked.get(node)
        latest = max([*times, *([] if left is None else [left])], default=None)
        return None if latest is None else max(0.0, trio.current_time() - latest)

    # Life.

    async def load(self) -> None:
        """Read what is kept beside the records."""
        self.secrets = await self.storage.read(secrets.held)
        self._notes = await self.storage.read(renewal.load_notes)
        self.blocked = await self.storage.read(lambda database: database.peers.blocked())
        self._said.update(member.node for member in self.roster.members.values())
        await self._open_secrets()
        await self._load_path()

    async def run(self) -> None:
        """Sync, link, fetch and tend, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.syncing.run)
            nursery.start_soon(self.fetching.run)
            nursery.start_soon(self._follow_roster)
            nursery.start_soon(self.keeping.run)
            nursery.start_soon(self.agents.run)
            nursery.start_soon(self.mailroom.run)
            nursery.start_soon(self.waking.run)
            nursery.start_soon(self.links.run)
            nursery.start_soon(self._measure)
            nursery.start_soon(self._follow_addresses)

    async def _serve(self, link: Link) -> str:
        try:
            return await serve_link(link, sync=self.syncing.serve, ask=self.fetching.attach, answer=self.serving.serve)
        finally:
            self.last_linked[link.node] = trio.current_time()

    async def tell_everybody(self, seconds: float) -> int:
        """Wait until linked members have taken what was written; how many have, after so many seconds at most."""
        told = 0

        async def tell(link: Link) -> None:
            nonlocal told
            try:
                # An echo comes after all that was sent before has been stored there.
                await self.syncing.probe(link, seconds)
            except TimedOutError:
                closed = link.connection.closed
                if closed is None or closed.told != CloseCode.NOT_A_MEMBER:
                    return  # else it has read that we leave, and saw us out before the echo went
            told += 1

        async with trio.open_nursery() as nursery:
            for link in self.links.current.values():
                nursery.start_soon(tell, link)
        return told

    async def hear_everybody(self) -> bool:
        """Wait until all that linked members had sent by now is here; whether that is all that they hold."""

        async def hear(link: Link) -> None:
            with contextlib.suppress(TimedOutError):
                await self.syncing.probe(link)  # an echo comes behind what was sent before

        links = list(self.links.current.values())
        async with trio.open_nursery() as nursery:
            for link in links:
                nursery.start_soon(hear, link)
        lags = [self.syncing.lag(link) for link in links]
        return bool(links) and all(lag is not None and not lag.records_here for lag in lags)

    async def _measure(self) -> None:
        """Ask each linked machine for an echo now and then: how far it is, and that its program still answers."""
        while True:
            for link in list(self.links.current.values()):
                with contextlib.suppress(TimedOutError):
                    await self.syncing.probe(link)
            with trio.move_on_after(MEASURE_EVERY):
                await self._linked.wait()
            self._linked = trio.Event()

    # The roster.

    async def write_facts(self, *facts: Fact) -> list[Record]:
        """Append roster records of ours. Raises RefusedError when we are out, StoreError."""
        async with self._roster_lock:
            return await self.journal.append(*facts)

    async def note_given(self, newcomer: bytes, given: Iterable[secrets.HeldSecret]) -> None:
        """Whom we admitted, by its signing key, got these secrets. Raises StoreError."""
        hashes = frozenset(each.record for each in given)
        await self.storage.write(lambda database: renewal.note_given(database, newcomer, hashes))
        self._notes = attrs.evolve(self._notes, given={**self._notes.given, newcomer: hashes})

    async def come_back(self, records: Sequence[Record], held: Sequence[secrets.HeldSecret]) -> None:
        """Take in the roster by which this machine was admitted anew. Raises RefusedError, StoreError."""
        await self.journal.begin(records)
        await self._keep_secrets(held)
        await self._load_path()

    async def _renew_secret(self) -> None:
        """Give every active member a new mesh secret. Raises RefusedError, StoreError."""
        answered = renewal.revocations(self.roster)
        async with self._roster_lock:
            for _ in range(SECRET_TRIES):
                chain = LogId(self._key, Log.ROSTER, self.journal.generation)
                head = self.journal.heads(Log.ROSTER).get(chain)
                place = 1 if head is None else head.sequence + 1
                make = partial(
                    secrets.replacement,
                    self.machine.keys,
                    self.roster,
                    self.secrets,
                    self.machine.entropy,
                    chain.generation,
                    place,
                )
                (record,) = await self.journal.append(await self.machine.offload(make))
                if (record.chain, record.header.sequence) == (chain, place):
                    break
            else:
                raise RefusedError("No new mesh secret could be made just now.", "Try again.")
        await self.storage.write(lambda database: renewal.note_answered(database, answered))
        self._notes = attrs.evolve(self._notes, answered=self._notes.answered | answered)
        await self._open_secrets()

    async def block(self, node: NodeId, reason: str) -> None:
        """Have nothing to do with a machine, on this one."""
        now = self.machine.clocks.wall_ms()
        await self.storage.write(lambda database: database.peers.block(node, reason=reason, now_ms=now))
        self.blocked = await self.storage.read(lambda database: database.peers.blocked())
        self.links.recheck()

    async def unblock(self, node: NodeId) -> bool:
        """Take that back; whether it was so."""
        was = await self.storage.write(lambda database: database.peers.unblock(node))
        self.blocked = await self.storage.read(lambda database: database.peers.blocked())
        self.links.recheck()
        return was

    def _on_roster(self, roster: Roster) -> None:
        self.roster_changed.set()
        self.roster_changed = trio.Event()
        before, self._names = self._names, _names(roster)
        changes = [what for key, what in self._names.items() if before.get(key) != what]
        changes += [f"{what}, and counts no more" for key, what in before.items() if key not in self._names]
        if changes:
            shown = ", ".join(changes[:CHANGES_TOLD]) + (", ..." if len(changes) > CHANGES_TOLD else "")
            self.machine.notify(RosterChanged(self.hex, len(roster.active()), shown))
        self.links.recheck()
        self.keeping.look()
        self.agents.forget()
        self.mailroom.look()

    async def _follow_roster(self) -> None:
        """Take new secrets, and make one where that is for us to do."""
        while True:
            changed, again = self.roster_changed, math.inf
            try:
                await self._open_secrets()
                await self._load_path()
                again = await self._renew_if_due()
            except (RefusedError, StoreError) as error:
                if self.is_in:
                    self.machine.notify(Trouble(error.what, error.advice, "warning"))
                again = FOLLOW_AGAIN
            with trio.move_on_after(again):
                await changed.wait()

    async def _renew_if_due(self) -> float:
        """Make a new secret if it is for us to do. Returns the seconds until that is to be asked again."""
        if not self.is_in:
            return math.inf
        if renewal.is_outdated(self._key, self.roster, self._notes):
            wait = self._renewed + SECRET_PAUSE - trio.current_time()
        elif renewal.is_incomplete(self._key, self.roster, self._notes):
            wait = self._renewed + HELP_PAUSE - trio.current_time()
        else:
            return math.inf
        if wait <= 0:
            self._renewed = trio.current_time()
            await self._renew_secret()
            return 0.0
        return wait

    async def _open_secrets(self) -> None:
        await self._keep_secrets(
            await self.machine.offload(partial(secrets.unsealed, self.machine.keys, self.roster, self.secrets))
        )

    async def _keep_secrets(self, found: Iterable[secrets.HeldSecret]) -> None:
        known = secrets.worth_keeping(self.roster, [*self.secrets, *found])
        if known == self.secrets:
            return
        self.secrets = known
        await self.storage.write(lambda database: secrets.keep_only(database, self.secrets))
        for callback in self.on_secrets:
            callback()

    async def _load_path(self) -> None:
        hashes = self.roster.introduction(self._key)
        found = await self.storage.read(lambda database: [database.records.by_hash(each) for each in hashes])
        self._path = [record.encode() for record in found if record is not None]

    # Data.

    def _on_records(self, records: Sequence[Record]) -> None:
        for record in records:
            if record.header.type == ADDRESSES and record.header.author in self.roster.members:
                self._said.add(record.header.node)
                self._said_news.set()
        self.keeping.news(records)
        self.agents.news(records)
        self.mailroom.news(records)

    def _on_released(self) -> None:
        self.keeping.look()
        self.agents.forget()
        self.mailroom.look()

    async def _follow_addresses(self) -> None:
        """Let the links know where members say that they are. The view is asked: it knows what counts, and is last."""
        while True:
            self._said_news = trio.Event()
            while self._said:
                node = self._said.pop()
                try:
                    known = await self.storage.read(partial(questions.addresses, node))
                except StoreError:
                    continue  # a hint less; whoever writes tells people of the disk
                if known is not None and node != self.machine.keys.identity.node:
                    self.links.learn(node, [Address(spot.host, spot.port) for spot in known.spots])
            await self._said_news.wait()

    async def say_addresses(self, spots: Addresses) -> bool:
        """Tell the others where this machine is, if they do not know; whether they were told. Raises as the journal does."""
        node = self.machine.keys.identity.node
        known = await self.storage.read(lambda database: database.handles.addresses(node))
        if not self.is_in or (known is not None and known.addresses == spots):
            return False
        await self.journal.append(spots)
        return True


def _names(roster: Roster) -> dict[bytes, str]:
    """Who is what, in words, by signing key."""
    return {key: f"{member.name} is {member.standing.value}" for key, member in roster.members.items()}


@asynccontextmanager
async def open_mesh(machine: Machine, directory: MeshDirectory) -> AsyncIterator[Mesh]:
    """Open the mesh in a directory of the state. Raises StoreError, RefusedError."""
    async with open_storage(directory.database, offload=machine.offload) as storage:
        mesh_id = await storage.read(mesh_of)
        if mesh_id is None:
            raise StoreError(f"{directory.path} holds no mesh: making it was cut off.")
        made: list[Mesh] = []

        def damaged(digest: bytes) -> None:
            node = machine.keys.identity.node
            name = made[0].name_of(node) if made else ""
            notice = Damaged(mesh_id.hex(), str(Handle.of(BLOB, digest)), node_text(node), name)
            machine.notify(notice)

        blobs = await BlobStore.open(
            directory.path,
            storage,
            on_damaged=damaged,
            floor=machine.settings.disk_floor,
            offload=machine.offload,
        )
        async with open_journal(
            mesh_id, storage, machine.author, clocks=machine.clocks, notify=machine.notify, offload=machine.offload
        ) as journal:
            mesh = Mesh(machine, directory, storage, journal, blobs)
            made.append(mesh)
            await mesh.load()
            yield mesh
