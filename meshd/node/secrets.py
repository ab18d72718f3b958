"""The secrets of a mesh, as this machine holds them. docs/protocol/membership.md, "Mesh secrets".

The founder's first is made with the mesh and stands in no record; later ones come sealed in records (renewal.py says when
and by whom). Replaced ones are kept beside the current: they select candidates and decide nothing, and with them a member
that missed a change still finds the others.
"""

import struct
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

import attrs

from meshd.model.facts import COUNTER_LIMIT, CUTS_LIMIT, MEMBERS_LIMIT, Sealed, Secret
from meshd.model.identity import KEY_SIZE, Identity, Keys
from meshd.model.member import MeshSecret
from meshd.model.record import NO_HASH
from meshd.model.roster import Roster
from meshd.protocol.handshake import HandshakeError
from meshd.protocol.sealing import Place, seal, unseal
from meshd.store.database import Database
from meshd.wire import joining

PURPOSE: Final = "mesh secret"
FIRST: Final = 1
"""The founder's own number."""

PAST_KEPT: Final = 64
"""Replaced secrets that are kept. Every stranger's hello is tried with each, and a member can make any number of them."""

_META: Final = "secret "
_NUMBER = struct.Struct(">Q")


@attrs.frozen
class HeldSecret:
    """One secret: the hash of the record that brought it (zeros: the founder's first), its number, and itself."""

    record: bytes
    number: int
    secret: bytes = attrs.field(repr=False)

    @property
    def given(self) -> joining.MeshSecret:
        """As a newcomer gets it."""
        return joining.MeshSecret(self.number, self.record, self.secret)


def first_secret(secret: bytes) -> HeldSecret:
    """The one that a mesh is founded with: 32 random bytes."""
    assert len(secret) == KEY_SIZE
    return HeldSecret(NO_HASH, FIRST, secret)


def keep(database: Database, secrets: Iterable[HeldSecret]) -> None:
    """Write secrets down, inside a transaction."""
    for each in secrets:
        database.meta.set(_META + each.record.hex(), _NUMBER.pack(each.number) + each.secret)


def keep_only(database: Database, secrets: Collection[HeldSecret]) -> None:
    """Write these down and forget all others, inside a transaction."""
    stay = {_META + each.record.hex() for each in secrets}
    for key in database.meta.starting(_META):
        if key not in stay:
            database.meta.delete(key)
    keep(database, secrets)


def held(database: Database) -> list[HeldSecret]:
    """All that are kept, newest first."""
    found = [
        HeldSecret(bytes.fromhex(key.removeprefix(_META)), _NUMBER.unpack_from(value)[0], value[_NUMBER.size :])
        for key, value in database.meta.starting(_META).items()
    ]
    return newest_first(found)


def newest_first(secrets: Iterable[HeldSecret]) -> list[HeldSecret]:
    """In the order in which they are announced and offered."""
    return sorted(secrets, key=lambda each: (-each.number, each.record))


def worth_keeping(roster: Roster, secrets: Iterable[HeldSecret]) -> list[HeldSecret]:
    """The current ones and the newest of those before, newest first, one of each record."""
    ordered = newest_first({each.record: each for each in secrets}.values())
    current = _current(roster)
    past = [each for each in ordered if each.record not in current][:PAST_KEPT]
    return [each for each in ordered if each.record in current or each in past]


def in_use(roster: Roster, secrets: Sequence[HeldSecret]) -> list[HeldSecret]:
    """Those that no other replaces: what a newcomer is given. The newest that is held where none of them is."""
    current = _current(roster)
    return [each for each in secrets if each.record in current][:CUTS_LIMIT] or list(secrets[:1])


def unsealed(keys: Keys, roster: Roster, known: Iterable[HeldSecret]) -> list[HeldSecret]:
    """The current secrets that are sealed to us and not held yet, about 1 ms each."""
    have = {each.record for each in known}
    found = []
    for secret in _last_of_each(roster):
        box = secret.box_for(keys.identity.signing_key)
        author = roster.members.get(secret.author)
        if secret.hash in have or box is None or author is None:
            continue
        try:
            opened = unseal(keys, author.identity.noise_key, _place(roster.mesh, secret, keys.identity), box)
        except HandshakeError:
            continue  # its author made it for nobody; the others may still be able to read theirs
        if len(opened) == KEY_SIZE:
            found.append(HeldSecret(secret.hash, secret.number, opened))
    return found


def replacement(
    keys: Keys,
    roster: Roster,
    known: Iterable[HeldSecret],
    entropy: Callable[[int], bytes],
    generation: int,
    sequence: int,
) -> Secret:
    """A record body that gives every active member a new secret, for that place of ours in the roster log.

    About 1 ms a member, for a thread. Members may make numbers, secrets and members beyond what one record holds: the
    nearest to the founder come first.
    """
    secret = entropy(KEY_SIZE)
    number = max([FIRST, *(each.number for each in known), *(each.number for each in roster.secrets)]) + 1
    sealed = []
    for member in roster.active()[:MEMBERS_LIMIT]:
        place = Place(
            purpose=PURPOSE,
            mesh=roster.mesh,
            author=keys.identity.signing_key,
            recipient=member.signing_key,
            generation=generation,
            sequence=sequence,
        )
        try:
            box = seal(keys, member.identity.noise_key, place, secret, entropy)
        except HandshakeError:
            continue  # a key that admits no secret: its owner cannot even begin a session
        sealed.append(Sealed(member.signing_key, box))
    return Secret(
        number=min(number, COUNTER_LIMIT),
        replaces=tuple(each.hash for each in roster.secrets)[:CUTS_LIMIT],
        sealed=tuple(sealed),
    )


def _current(roster: Roster) -> set[bytes]:
    return {each.hash for each in roster.secrets} or {NO_HASH}


def _last_of_each(roster: Roster) -> list[MeshSecret]:
    """The last current secret of each author, which names its earlier ones unless it means to fill our memory."""
    last: dict[bytes, MeshSecret] = {}
    for secret in sorted(roster.secrets, key=lambda each: (each.generation, each.sequence)):
        last[secret.author] = secret
    return list(last.values())


def _place(mesh: bytes, secret: MeshSecret, recipient: Identity) -> Place:
    return Place(
        purpose=PURPOSE,
        mesh=mesh,
        author=secret.author,
        recipient=recipient.signing_key,
        generation=secret.generation,
        sequence=secret.sequence,
    )
