"""Who belongs to a mesh: a pure fold of its roster records, the same in whatever order they came.

docs/protocol/membership.md has the rules and the attack that each answers; authority.py carries them out. A roster is a
value: when a record arrives, fold all of them again.
"""

import struct
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import Final

import attrs
from blake3 import blake3

from meshd.model.authority import Walk
from meshd.model.evidence import Proof, read_fork
from meshd.model.facts import Admit, Distrust, Fork, Found, Rename, Secret
from meshd.model.identity import Identity, NodeId, node_text
from meshd.model.limits import Forks, Limits, is_within, lower
from meshd.model.member import Clash, ForkedChain, Member, MeshSecret, RosterRecord, Standing
from meshd.model.name import is_name, same_name
from meshd.model.record import Head, Log, LogId

__all__ = ["Clash", "ForkedChain", "Member", "MeshSecret", "Roster", "RosterRecord", "Standing"]

PREFIX_LENGTH: Final = 4
"""Least characters of an id by which a person may name a machine: fewer would match by accident."""


@attrs.frozen
class _Fold:
    """What a roster was made by: the plain walk says what is stored, the patient one what counts."""

    plain: Walk
    storing: Limits
    walk: Walk
    limits: Limits


@attrs.frozen(kw_only=True, slots=False)
class Roster:
    """Who belongs to a mesh. `fold` makes it."""

    mesh: bytes
    mesh_name: str = ""
    recovery_key: bytes = b""
    """Ed25519 public key of the recovery words; empty if the mesh has none."""

    members: Mapping[bytes, Member] = attrs.field(factory=dict)
    """Everybody who was admitted by what counts, of all standings, by signing key, from the founder outward."""

    secrets: tuple[MeshSecret, ...] = ()
    """The mesh secrets that no other replaces, newest first. Empty while the founder's first, number 1, which is in no
    record, is the current one."""

    distrusted: Mapping[bytes, tuple[tuple[bytes, str], ...]] = attrs.field(factory=dict)
    """Whom active members have blocked on their own machines: by signing key, pairs of who and why. It has no force."""

    forks: tuple[ForkedChain, ...] = ()
    """Chains of members, and of the recovery key, that were forked."""

    clashes: tuple[Clash, ...] = ()
    """Admissions that were refused because their Noise key is another's."""

    _fold: _Fold | None = attrs.field(default=None, eq=False, repr=False)

    @classmethod
    def fold(cls, mesh: bytes, records: Iterable[RosterRecord]) -> "Roster":
        """The roster that these records make: the same in any order and with doubles; no authentic record makes it raise.

        Without the founding record, whose hash is the mesh id, nobody is a member. 1,000 members and 5,000 records take
        about 0.07 s, and 0.4 s the first time, when the signatures inside admissions are checked.
        """
        # Another founding record is another mesh's: were it let in, a machine that founds two would have forked.
        distinct = {record.hash: record for record in records}
        held = [record for record in distinct.values() if record.hash == mesh or not isinstance(record.fact, Found)]
        founding = next((record for record in held if record.hash == mesh), None)
        if founding is None or not isinstance(founding.fact, Found) or not _is_sound(founding.author, founding.fact):
            return cls(mesh=mesh)
        found = founding.fact
        if found.recovery_key == founding.author:
            # The founder is above everybody as it is; its chain must not be read by the rules of the recovery key.
            found = attrs.evolve(found, recovery_key=b"")
        recovery_key = found.recovery_key
        proofs = _proofs(mesh, founding.author, recovery_key, held)
        proven, seen = Forks(recovery_key), Forks(recovery_key)
        for _, proof in proofs:
            proven.add(proof.chain, proof.sequence)
        seen.add_doubles(held)

        storing = Limits(founding, recovery_key, held, proven, seen)
        plain = Walk(mesh, founding, found, held, storing)
        stored_authors = {*plain.members, recovery_key}
        # Other machines may never have got what the plain walk makes void: from here on it is as if it were not here.
        held = [
            record
            for record in held
            if record.author in stored_authors and is_within(record, storing.reach(record.chain))
        ]
        limits = Limits(founding, recovery_key, held, proven, seen)
        walk = Walk(mesh, founding, found, held, limits, patient_after=plain)

        members = walk.members
        known = {*members, recovery_key}
        counting = sorted(
            (record for record in held if record.author in known and limits.counts(record)),
            key=lambda record: (record.place, record.hash),
        )
        return cls(
            mesh=mesh,
            mesh_name=found.mesh_name,
            recovery_key=recovery_key,
            members=_renamed(members, counting),
            secrets=_current_secrets(members, counting),
            distrusted=_distrusted(members, counting),
            forks=_forked(known, (*proven.items(), *seen.items()), proofs, counting),
            clashes=tuple(sorted(walk.clashes, key=lambda clash: clash.admission)),
            fold=_Fold(plain, storing, walk, limits),
        )

    def active(self) -> list[Member]:
        """Who belongs to the mesh now, from the founder outward."""
        return [member for member in self.members.values() if member.is_active]

    def by_noise(self, noise_key: bytes) -> Member | None:
        """Whose Noise key this is, of whatever standing."""
        return self._by_noise.get(noise_key)

    def by_node(self, node: NodeId) -> Member | None:
        """The member with this id, of whatever standing."""
        return self._by_node.get(node)

    def named(self, text: str) -> list[Member]:
        """Whom a person may mean: by name, without case, or by PREFIX_LENGTH or more characters of the id.

        Names are not unique, and a member may take a name that looks like another's id: whoever gets more than one
        asks. A revoked machine is left out where another answers: it often comes back with new keys and its old name.
        """
        prefix = text.lower()
        found = [
            member
            for member in self.members.values()
            if same_name(member.name, text)
            or (len(prefix) >= PREFIX_LENGTH and node_text(member.node).startswith(prefix))
        ]
        return [member for member in found if member.standing is not Standing.REVOKED] or found

    def limit(self, chain: LogId) -> int | None:
        """The last number of this chain that is folded: 0 for none of it, None for no limit.

        0 for who was never admitted and for who is suspended; the cut for who is revoked, 0 where no cut names the
        chain; nothing from the first fork on.
        """
        member = self.members.get(chain.author)
        if self._fold is None or (member is not None and member.standing is Standing.SUSPENDED):
            return 0
        limit = self._fold.limits.limit(chain) if self._is_author(chain.author, self.members) else 0
        return lower(limit, self.accepts(chain)) if chain.log is Log.ROSTER else limit

    def accepts(self, chain: LogId) -> int | None:
        """The last number of this chain that is stored and passed on: what is beyond is void. Never below `limit`.

        It is above it for the suspended, whose records wait, and in roster logs where the records are needed to see why
        they do not count: up to a cut that has not come, or where one revoked its author who is not nearer the founder.
        """
        if self._fold is None:
            return 0
        if chain.log is Log.ROSTER:
            is_stored = self._is_author(chain.author, self._fold.plain.members)
            return self._fold.storing.reach(chain) if is_stored else 0
        return self._fold.limits.limit(chain) if self._is_author(chain.author, self.members) else 0

    def pin(self, chain: LogId) -> Head | None:
        """The record that the revocation of the author names as the last of a roster log.

        Where the record held at that number has another hash, the whole branch held is not the one that counts.
        """
        return None if self._fold is None else self._fold.storing.pin(chain)

    def may_revoke(self, revoker_key: bytes, target_key: bytes) -> bool:
        """Whether a revocation that `revoker_key` writes now would count against this member.

        Also against one that is revoked already: who revoked may correct the cuts, or keep one more child.
        """
        if target_key not in self.members:
            return False
        if self.recovery_key and revoker_key == self.recovery_key:
            return True
        revoker = self.members.get(revoker_key)
        if revoker is None or not revoker.is_active or self._fold is None:
            return False
        return revoker_key == target_key or self._fold.walk.is_above(revoker_key, target_key)

    def children(self, key: bytes) -> list[Member]:
        """Who is a member by this machine's admission, of whatever standing."""
        return list(self._children.get(key, ()))

    def subtree(self, key: bytes) -> list[Member]:
        """Everybody below this machine, children before theirs."""
        found = self.children(key)
        for member in found:  # it grows while it is read: that is the walk
            found += self._children.get(member.signing_key, ())
        return found

    def introduction(self, key: bytes) -> list[bytes]:
        """Hashes of the admissions that lead from the founder to this machine, its own last. None for the founder.

        Shown to a member that has not heard of it yet.
        """
        path = []
        member = self.members.get(key)
        while member is not None and member.parent is not None:
            path.append(member.admission)
            member = self.members.get(member.parent)
        return path[::-1]

    def digest(self) -> bytes:
        """BLAKE3-256 of who is what: equal on two machines that see the same members, whatever else they hold."""
        fields = [self.mesh, self.mesh_name.encode(), self.recovery_key]
        for key in sorted(self.members):
            member = self.members[key]
            fields += (key, member.identity.noise_key, member.name.encode(), member.standing.value.encode())
            fields += (member.parent or b"", member.admission, member.revoked_by or b"")
        return blake3(b"".join(struct.pack(">I", len(field)) + field for field in fields)).digest()

    def _is_author(self, key: bytes, members: Mapping[bytes, Member]) -> bool:
        return key in members or (bool(self.recovery_key) and key == self.recovery_key)

    @cached_property
    def _by_noise(self) -> Mapping[bytes, Member]:
        return {member.identity.noise_key: member for member in self.members.values()}

    @cached_property
    def _by_node(self) -> Mapping[NodeId, Member]:
        return {member.node: member for member in self.members.values()}

    @cached_property
    def _children(self) -> Mapping[bytes, list[Member]]:
        found: defaultdict[bytes, list[Member]] = defaultdict(list)
        for member in self.members.values():
            if member.parent is not None:
                found[member.parent].append(member)
        return found


def _is_sound(founder: bytes, found: Found) -> bool:
    return is_name(found.name) and Identity(founder, found.noise_key, found.binding).is_bound()


def _proofs(
    mesh: bytes, founder: bytes, recovery_key: bytes, held: Collection[RosterRecord]
) -> list[tuple[RosterRecord, Proof]]:
    """The fork proofs that hold, with the records that carry them; whoever does, they prove themselves.

    Only those about somebody whom any record admits are checked: proofs about strangers would cost two signatures each.
    """
    admitted = {founder, recovery_key}
    admitted.update(record.fact.signing_key for record in held if isinstance(record.fact, Admit))
    found = []
    for record in held:
        proof = read_fork(mesh, record.fact) if isinstance(record.fact, Fork) else None
        if proof is not None and proof.chain.author in admitted and proof.holds():
            found.append((record, proof))
    return found


def _renamed(members: Mapping[bytes, Member], counting: Iterable[RosterRecord]) -> Mapping[bytes, Member]:
    """Members under the last names that they gave themselves, from the founder outward."""
    names = {
        record.author: record.fact.name
        for record in counting
        if isinstance(record.fact, Rename) and is_name(record.fact.name)
    }
    ordered = sorted(members.values(), key=lambda member: (member.depth, member.admission))
    return {
        member.signing_key: attrs.evolve(member, name=names.get(member.signing_key, member.name)) for member in ordered
    }


def _current_secrets(members: Mapping[bytes, Member], counting: Iterable[RosterRecord]) -> tuple[MeshSecret, ...]:
    """What no other secret replaces. A hash can only be named after it was made, so nothing replaces in a circle."""
    accepted = {}
    replaced: set[bytes] = set()
    for record in counting:
        author = members.get(record.author)
        if isinstance(record.fact, Secret) and (author is None or author.standing is not Standing.SUSPENDED):
            replaced.update(record.fact.replaces)
            accepted[record.hash] = MeshSecret(
                hash=record.hash,
                number=record.fact.number,
                author=record.author,
                generation=record.generation,
                sequence=record.sequence,
                sealed=record.fact.sealed,
            )
    current = (secret for secret in accepted.values() if secret.hash not in replaced)
    return tuple(sorted(current, key=lambda secret: (-secret.number, secret.hash)))


def _distrusted(
    members: Mapping[bytes, Member], counting: Iterable[RosterRecord]
) -> Mapping[bytes, tuple[tuple[bytes, str], ...]]:
    """The last word of each active member about each machine that it blocks."""
    words: dict[tuple[bytes, bytes], Distrust] = {}
    for record in counting:
        author = members.get(record.author)
        if isinstance(record.fact, Distrust) and author is not None and author.is_active:
            words[record.fact.signing_key, record.author] = record.fact
    found: defaultdict[bytes, tuple[tuple[bytes, str], ...]] = defaultdict(tuple)
    for (key, author_key), word in sorted(words.items()):
        if not word.lifted:
            found[key] += ((author_key, word.reason),)
    return dict(found)


def _forked(
    known: Collection[bytes],
    doubles: Iterable[tuple[LogId, int]],
    proofs: Iterable[tuple[RosterRecord, Proof]],
    counting: Iterable[RosterRecord],
) -> tuple[ForkedChain, ...]:
    first: dict[LogId, int] = {}
    for chain, sequence in doubles:
        first[chain] = min(sequence, first.get(chain, sequence))
    stands = {record.hash for record in counting}
    carried = {(proof.chain, proof.sequence) for record, proof in proofs if record.hash in stands}
    return tuple(
        ForkedChain(chain=chain, sequence=sequence, carried=(chain, sequence) in carried)
        for chain, sequence in sorted(first.items(), key=lambda item: attrs.astuple(item[0]))
        if chain.author in known
    )
