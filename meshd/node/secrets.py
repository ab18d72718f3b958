"""The secrets of a mesh, as this machine holds them. docs/protocol/membership.md, "Mesh secrets".

The founder's first is made with the mesh and stands in no record; later ones come sealed in records, one after each
revocation. All that was ever held is kept: they select candidates and decide nothing, and with them a member that
missed a change still finds the others.
"""

import struct
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from meshd.model.facts import Sealed, Secret
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


def held(database: Database) -> list[HeldSecret]:
    """All that was ever kept, newest first."""
    found = [
        HeldSecret(bytes.fromhex(key.removeprefix(_META)), _NUMBER.unpack_from(value)[0], value[_NUMBER.size :])
        for key, value in database.meta.starting(_META).items()
    ]
    return sorted(found, key=lambda each: (-each.number, each.record))


def in_use(roster: Roster, secrets: Iterable[HeldSecret]) -> list[HeldSecret]:
    """Those that no other replaces: what a newcomer is given."""
    current = {each.hash for each in roster.secrets} or {NO_HASH}
    return [each for each in secrets if each.record in current]


def unsealed(keys: Keys, roster: Roster, known: Iterable[HeldSecret]) -> list[HeldSecret]:
    """The current secrets that are sealed to us and not held yet."""
    have = {each.record for each in known}
    found = []
    for secret in roster.secrets:
        box = next((each.box for each in secret.sealed if each.signing_key == keys.identity.signing_key), None)
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


def lacking(keys: Keys, roster: Roster) -> list[Identity]:
    """Members that we admitted and that a current secret was not sealed to: admitted while it was made elsewhere.

    Whoever admitted them is to make a new one, so that not everybody does at once.
    """
    if not roster.secrets:
        return []
    newest = roster.secrets[0]
    reached = {each.signing_key for each in newest.sealed} | {newest.author}
    ours = {each.signing_key for each in roster.children(keys.identity.signing_key)} | {keys.identity.signing_key}
    return [each.identity for each in roster.active() if each.signing_key in ours and each.signing_key not in reached]


def replacement(
    keys: Keys,
    roster: Roster,
    known: Iterable[HeldSecret],
    entropy: Callable[[int], bytes],
    generation: int,
    sequence: int,
) -> Secret:
    """A record body that gives every active member a new secret, for that place of ours in the roster log."""
    secret = entropy(KEY_SIZE)
    number = max([FIRST, *(each.number for each in known), *(each.number for each in roster.secrets)]) + 1
    sealed = []
    for member in roster.active():
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
    return Secret(number=number, replaces=tuple(each.hash for each in roster.secrets), sealed=tuple(sealed))


def _place(mesh: bytes, secret: MeshSecret, recipient: Identity) -> Place:
    return Place(
        purpose=PURPOSE,
        mesh=mesh,
        author=secret.author,
        recipient=recipient.signing_key,
        generation=secret.generation,
        sequence=secret.sequence,
    )
