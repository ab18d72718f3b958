"""What may be asked about meshes and who is in them: the part of the context that founds, admits and revokes."""

import re
import socket
from collections.abc import Sequence
from typing import Final

import attrs
import trio

from meshd import status
from meshd.config import ENV_RENDEZVOUS
from meshd.drivers import joining
from meshd.drivers.joining import Given, Host
from meshd.drivers.journal import found_mesh
from meshd.drivers.meeting import Settings as Meeting
from meshd.drivers.one_error import one_error
from meshd.drivers.wan import Allocation, allocated
from meshd.errors import NobodyFoundError, RefusedError, TimedOutError, UsageError
from meshd.model.address import Address
from meshd.model.facts import MEMBERS_LIMIT, Admit, Cut, Distrust, Found, Rename, Revoke
from meshd.model.identity import Identity, Keys, NodeId, node_text
from meshd.model.member import Member, Standing
from meshd.model.name import NAME_LIMIT, check_name, is_name, same_name
from meshd.model.record import Record
from meshd.node import secrets
from meshd.node.calls import Calls
from meshd.node.founding import Entrance
from meshd.node.mesh import Mesh
from meshd.node.wan import Seeking
from meshd.notices import Trouble, TrySpent
from meshd.protocol.passphrase import Code, generate_code, parse_code
from meshd.protocol.recovery import new_words, recovery_keys
from meshd.protocol.search import WAYS_LEFT
from meshd.tools.context import (
    Blocked,
    Founded,
    Invited,
    InviteOpened,
    Joined,
    Left,
    MachineRef,
    MemberInfo,
    Members,
    Meshes,
    MeshSummary,
    RecoveryChecked,
    Renamed,
    Revoked,
    TellInvite,
)

HOME: Final = "home"
"""What a mesh is called when nobody says."""

FAREWELL: Final = 3.0
"""Seconds for linked members to take the news that this machine leaves."""

NAMES_TRIED: Final = 100
"""Numbers that are put behind a name which somebody in the mesh has already."""


class MeshCalls(Calls):
    """Meshes and members."""

    async def init(self, *, mesh: str | None, name: str | None, recovery: bool) -> Founded:
        machine = self.node.machine
        mesh_name = check_name(mesh or HOME, "mesh")
        if any(same_name(each.name, mesh_name) for each in self.node.meshes.values()):
            raise RefusedError(f"This machine is in a mesh called {mesh_name} already.", "Choose another --mesh name.")
        words = new_words(machine.entropy) if recovery else ()
        key = recovery_keys(" ".join(words)).identity.signing_key if words else b""
        fact = Found(
            mesh_name=mesh_name,
            name=check_name(name or host_name(), "machine"),
            noise_key=machine.keys.identity.noise_key,
            binding=machine.keys.identity.binding,
            recovery_key=key,
            nonce=machine.entropy(32),
        )
        record = found_mesh(machine.keys, fact, generation=machine.author.generation, wall_ms=machine.clocks.wall_ms())
        first = secrets.first_secret(machine.entropy(32))
        made = await self.node.enter(record.hash, [record], [first])
        return Founded(made.hex, made.name, self.here(made), words)

    async def leave(self, *, mesh: str | None) -> Left:
        chosen = self.mesh(mesh)
        me = self.node.machine.keys.identity.signing_key
        told = 0
        if chosen.is_in:
            children = tuple(child.signing_key for child in chosen.roster.children(me) if child.is_active)
            await chosen.write_facts(Revoke(signing_key=me, cuts=_cuts(chosen, me), keep=children, reason="it left"))
            told = await chosen.tell_everybody(FAREWELL)
        left = Left(chosen.hex, chosen.name, told)
        await self.node.forget(chosen)
        return left

    async def mesh_list(self) -> Meshes:
        return Meshes(
            tuple(
                MeshSummary(each.hex, each.name, self.here(each), len(each.roster.active()), len(each.links.current))
                for each in sorted(self.node.meshes.values(), key=lambda each: (each.name.lower(), each.hex))
            )
        )

    async def invite(self, *, mesh: str | None, seconds: float, wan: bool, tell: TellInvite) -> Invited:
        chosen = self.mesh(mesh)
        _require_in(chosen)
        code = generate_code(self.node.machine.entropy)
        if not wan:
            return await self._invite(chosen, code, None, seconds, tell)
        with one_error():
            async with allocated(self._servers().wan) as allocation:
                code = attrs.evolve(code, number=allocation.number)
                return await self._invite(chosen, code, allocation, seconds, tell)

    def _servers(self) -> Seeking:
        """What keeps in touch with the rendezvous servers. Raises UsageError when there are none."""
        if self.node.seeking is None:
            raise UsageError(
                "No rendezvous server is named, and none is built in.",
                f"Put rendezvous into the daemon's settings, or set {ENV_RENDEZVOUS}, and start it anew.",
            )
        return self.node.seeking

    async def _invite(
        self, chosen: Mesh, code: Code, allocation: Allocation | None, seconds: float, tell: TellInvite
    ) -> Invited:
        me = chosen.me
        assert me is not None

        def observe(event: status.Event) -> None:
            if isinstance(event, status.TrySpent):
                if allocation is not None:
                    allocation.failed()
                spent = TrySpent(event.failed, event.remaining, event.why)
                tell(spent)
                self.node.machine.notify(spent)

        def opened(number: int) -> None:
            shown = str(attrs.evolve(code, number=number))
            tell(InviteOpened(shown, self.node.machine.endpoint.port, seconds, wan=allocation is not None))

        def unmet(what: str) -> None:
            self.node.machine.notify(Trouble(what, WAYS_LEFT, "warning"))

        with self.node.neighbours.inviting(code.number), one_error():
            async with trio.open_nursery() as nursery:
                opened(code.number)
                if allocation is not None:
                    nursery.start_soon(allocation.receive, unmet, opened)
                try:
                    admission = await joining.invite(
                        self.node.reception,
                        self.node.machine.keys,
                        _Host(chosen),
                        secret=code.secret,
                        label=me.name,
                        seconds=seconds,
                        observer=observe,
                        offload=self.node.machine.offload,
                    )
                except NobodyFoundError as error:
                    raise TimedOutError(error.what, error.advice) from error
                nursery.cancel_scope.cancel()
        if admission.trouble is not None:
            raise type(admission.trouble)(
                f"{admission.name} was admitted, but did not say that it stored the mesh: {admission.trouble.what}",
                "Look there with tether members; if it is not in, invite it again.",
            )
        newcomer = MachineRef(node_text(admission.newcomer.node), admission.name)
        return Invited(chosen.hex, chosen.name, newcomer, str(admission.address))

    async def join(self, *, code: str, peer: str | None, name: str | None, seconds: float, wan: bool) -> Joined:
        machine = self.node.machine
        if wan and peer is not None:
            raise UsageError("--peer says where the other machine is, and --wan asks a server.", "Give one of them.")
        secret = parse_code(code)  # an invitation has no other words: whatever is no code is a typing error
        meeting = Meeting(
            engine=machine.endpoint.engine,
            secret=secret.secret,
            number=secret.number,
            label=check_name(name or host_name(), "machine"),
            timeout=seconds,
            observer=lambda event: None,
            peer=None if peer is None else Address.parse(peer),
            interfaces=machine.settings.lan_interfaces,
            offload=machine.offload,
            wan=self._servers().wan if wan else None,
            lan=machine.settings.lan or not wan,
        )
        entered: list[Mesh] = []

        async def enter(mesh: bytes, records: Sequence[Record], held: Sequence[secrets.HeldSecret]) -> None:
            entered.append(await self.node.enter(mesh, records, held))

        def is_linked(mesh: bytes, node: NodeId) -> bool:
            known = self.node.meshes.get(mesh)
            return known is not None and node in known.links.current

        guest = Entrance(is_linked, enter)
        entry = await joining.join(meeting, machine.endpoint, machine.keys, meeting.label, guest)
        made = entered[0]
        made.links.remember(entry.offered.admitter.node, entry.address)
        return Joined(
            made.hex,
            made.name,
            self.here(made),
            self.machine(made, entry.offered.admitter.node),
            len(made.roster.active()),
        )

    async def members(self, *, mesh: str | None) -> Members:
        chosen = self.mesh(mesh)
        found = sorted(chosen.roster.members.values(), key=lambda each: (each.depth, each.name.lower(), each.node))
        return Members(chosen.hex, chosen.name, tuple(self._member_info(chosen, each) for each in found))

    def _member_info(self, mesh: Mesh, member: Member) -> MemberInfo:
        roster = mesh.roster
        parent = None if member.parent is None else roster.members.get(member.parent)
        distrust = [roster.members.get(author) for author, _ in roster.distrusted.get(member.signing_key, ())]
        return MemberInfo(
            machine=self.machine(mesh, member.node),
            standing=member.standing.value,
            admitted_by=None if parent is None else self.machine(mesh, parent.node),
            depth=member.depth,
            here=member.node == self.node.machine.keys.identity.node,
            linked=member.node in mesh.links.current,
            blocked=member.node in mesh.blocked,
            distrusted_by=tuple(self.machine(mesh, each.node) for each in distrust if each is not None),
            forked=any(fork.chain.author == member.signing_key for fork in roster.forks),
            reason=member.reason,
        )

    async def revoke(
        self, *, mesh: str | None, machine: str, keep: tuple[str, ...], reason: str, dry_run: bool
    ) -> Revoked:
        chosen = self.mesh(mesh)
        _require_in(chosen)
        target = self.member(chosen, machine)
        me = self.node.machine.keys.identity.signing_key
        if target.signing_key == me:
            raise UsageError("That is this machine.", "To take it out of the mesh: tether leave.")
        if not chosen.roster.may_revoke(me, target.signing_key):
            raise RefusedError(
                f"{target.name} was not admitted by this machine or one below it.",
                "A revocation counts from a machine above it, or with the recovery words (tether recovery revoke). "
                "On this machine alone: tether block.",
            )
        return await self._revoke(chosen, target, keep, reason, dry_run, None)

    async def recovery_check(self, *, mesh: str | None, words: str) -> RecoveryChecked:
        chosen = self.mesh(mesh)
        right = _recovery(chosen, words).identity.signing_key == chosen.roster.recovery_key
        return RecoveryChecked(chosen.hex, chosen.name, right)

    async def recovery_revoke(
        self, *, mesh: str | None, words: str, machine: str, keep: tuple[str, ...], reason: str, dry_run: bool
    ) -> Revoked:
        chosen = self.mesh(mesh)
        keys = _recovery(chosen, words)
        if keys.identity.signing_key != chosen.roster.recovery_key:
            raise RefusedError(f"These are not the recovery words of the mesh {chosen.name}.")
        return await self._revoke(chosen, self.member(chosen, machine), keep, reason, dry_run, keys)

    async def _revoke(
        self, mesh: Mesh, target: Member, keep: tuple[str, ...], reason: str, dry_run: bool, keys: Keys | None
    ) -> Revoked:
        children = mesh.roster.children(target.signing_key)
        kept = [self.member(mesh, each) for each in keep]
        for member in kept:
            if member not in children:
                raise UsageError(f"{member.name} did not come in by {target.name}.", "See: tether members.")
        fact = Revoke(
            signing_key=target.signing_key,
            cuts=_cuts(mesh, target.signing_key),
            keep=tuple(member.signing_key for member in kept),
            reason=reason,
        )
        staying = {member.signing_key for member in kept}
        for member in kept:
            staying.update(each.signing_key for each in mesh.roster.subtree(member.signing_key))
        suspended = [
            each
            for each in mesh.roster.subtree(target.signing_key)
            if each.is_active and each.signing_key not in staying
        ]
        if not dry_run:
            if keys is None:
                await mesh.write_facts(fact)
            else:
                await mesh.journal.append_as(keys, fact)
            # The new mesh secret is made by who sees to that whenever the roster changes (node/renewal.py): here it would
            # be left out when the one who asks goes away.
            known = mesh.roster.members
            suspended = [
                each for each in suspended if each.signing_key in known and not known[each.signing_key].is_active
            ]
        return Revoked(
            mesh.hex,
            self.machine(mesh, target.node),
            tuple(self.machine(mesh, each.node) for each in suspended),
            tuple(self.machine(mesh, each.node) for each in kept),
            dry_run,
        )

    async def block(self, *, mesh: str | None, machine: str, reason: str) -> Blocked:
        chosen = self.mesh(mesh)
        target = self.member(chosen, machine)
        if target.node == self.node.machine.keys.identity.node:
            raise UsageError("That is this machine.")
        await chosen.block(target.node, reason)
        if chosen.is_in:
            await chosen.write_facts(Distrust(signing_key=target.signing_key, reason=reason, lifted=False))
        return Blocked(self.machine(chosen, target.node), True)

    async def unblock(self, *, mesh: str | None, machine: str) -> Blocked:
        chosen = self.mesh(mesh)
        target = self.member(chosen, machine)
        if await chosen.unblock(target.node) and chosen.is_in:
            await chosen.write_facts(Distrust(signing_key=target.signing_key, reason="", lifted=True))
        return Blocked(self.machine(chosen, target.node), False)

    async def rename(self, *, mesh: str | None, name: str) -> Renamed:
        chosen = self.mesh(mesh)
        _require_in(chosen)
        check_name(name, "machine")
        before = self.here(chosen).name
        me = self.node.machine.keys.identity.signing_key
        for member in chosen.roster.active():
            if same_name(member.name, name) and member.signing_key != me:
                raise RefusedError(f"A machine of the mesh {chosen.name} is called {member.name} already.")
        if name != before:
            await chosen.write_facts(Rename(name))
        return Renamed(self.here(chosen), before)


class _Host(Host):
    """The mesh that admits."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    @property
    def mesh(self) -> bytes:
        return self._mesh.id

    @property
    def mesh_name(self) -> str:
        return self._mesh.name

    def name_for(self, newcomer: Identity, wanted: str) -> str:
        known = self._mesh.roster.members.get(newcomer.signing_key)
        holder = self._mesh.roster.by_noise(newcomer.noise_key)
        if known is not None and known.standing is Standing.REVOKED:
            raise RefusedError("This machine was revoked, which is for good: it comes back with new keys only.")
        if holder is not None and holder.signing_key != newcomer.signing_key:
            raise RefusedError("This machine's Noise key belongs to another machine of the mesh.")
        if known is None and len(self._mesh.roster.active()) >= MEMBERS_LIMIT:
            raise RefusedError(f"The mesh has {MEMBERS_LIMIT:,} machines already.")
        if newcomer.node in self._mesh.blocked:
            raise RefusedError("This machine is blocked by the one that invites.")
        taken = {
            member.name.lower() for member in self._mesh.roster.active() if member.signing_key != newcomer.signing_key
        }
        base = wanted if is_name(wanted) else "machine"
        names = [base, *(f"{base[: NAME_LIMIT - 4]}-{number}" for number in range(2, NAMES_TRIED))]
        return next((name for name in names if name.lower() not in taken), base)

    async def admit(self, admission: Admit) -> Given:
        mesh = self._mesh
        used = secrets.in_use(mesh.roster, mesh.secrets)
        # Noted first: once the roster has the newcomer, whom a secret has not reached is looked for.
        await mesh.note_given(admission.signing_key, used)
        await mesh.write_facts(admission)
        records = await mesh.storage.read(lambda database: database.records.roster())
        return Given([each.given for each in used], [record.encode() for record in records])


def host_name() -> str:
    """What this machine calls itself, made a name."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname().partition(".")[0]).strip("-._")[:NAME_LIMIT]
    return name if is_name(name) else "machine"


def _require_in(mesh: Mesh) -> None:
    if not mesh.is_in:
        standing = "not a member" if mesh.me is None else mesh.me.standing.value
        raise RefusedError(
            f"This machine is {standing} in the mesh {mesh.name}.",
            "Another member can invite it again; see tether members.",
        )


def _cuts(mesh: Mesh, key: bytes) -> tuple[Cut, ...]:
    """All that this machine holds of another's chains, and that counts: what still counts after its revocation."""
    return tuple(
        Cut(int(chain.log), chain.generation, head.sequence, head.hash)
        for chain, head in mesh.journal.heads().items()
        if chain.author == key
    )


def _recovery(mesh: Mesh, words: str) -> Keys:
    if not mesh.roster.recovery_key:
        raise UsageError(
            f"The mesh {mesh.name} has no recovery words.", "They are made with it: tether init --recovery."
        )
    return recovery_keys(words)
