"""When a mesh needs a new secret, and whose it is to make one: from the roster, so that a restart forgets nothing.

Everybody sees the same roster, so everybody could; one does, and which one all agree on (`answers_for`). Two that do all
the same cost a record and harm nothing: secrets of one time are all current until the next names them.
"""

from collections.abc import Collection, Mapping
from typing import Final

import attrs

from meshd.model.member import Member, Standing
from meshd.model.record import HASH_SIZE
from meshd.model.roster import Roster
from meshd.store.database import Database

_ANSWERED: Final = "revocation answered "
_GIVEN: Final = "secrets given "


@attrs.frozen
class Notes:
    """What this machine knows about secrets that no record says."""

    answered: frozenset[bytes] = frozenset()
    """Revocations, by hash, since which this machine has made a secret."""

    given: Mapping[bytes, frozenset[bytes]] = attrs.field(factory=dict)
    """By the signing key of whom it admitted: the secrets, by the hash of their records, that it gave then."""


def load_notes(database: Database) -> Notes:
    """What was noted."""
    answered = frozenset(bytes.fromhex(key.removeprefix(_ANSWERED)) for key in database.meta.starting(_ANSWERED))
    given = {
        bytes.fromhex(key.removeprefix(_GIVEN)): frozenset(
            value[start : start + HASH_SIZE] for start in range(0, len(value), HASH_SIZE)
        )
        for key, value in database.meta.starting(_GIVEN).items()
    }
    return Notes(answered, given)


def note_answered(database: Database, revocations: Collection[bytes]) -> None:
    """A secret was made after these. Inside a transaction."""
    for each in revocations:
        database.meta.set(_ANSWERED + each.hex(), b"")


def note_given(database: Database, newcomer: bytes, secrets: Collection[bytes]) -> None:
    """Whom we admit got these. Inside a transaction."""
    database.meta.set(_GIVEN + newcomer.hex(), b"".join(sorted(secrets)))


def answers_for(roster: Roster, member: Member) -> bytes | None:
    """Who sees to it that a secret keeps this machine out, or reaches it: who revoked it, else the nearest active one
    above it, else the active one nearest the founder. None where nobody is active."""
    revoker = roster.members.get(member.revoked_by or b"")
    if revoker is not None and revoker.is_active:
        return revoker.signing_key
    parent = roster.members.get(member.parent or b"")
    while parent is not None and not parent.is_active:
        parent = roster.members.get(parent.parent or b"")
    if parent is not None:
        return parent.signing_key
    return next((each.signing_key for each in roster.active()), None)


def revocations(roster: Roster) -> frozenset[bytes]:
    """All that count now, by hash."""
    return frozenset(each.revocation for each in roster.members.values() if each.revocation is not None)


def is_outdated(me: bytes, roster: Roster, notes: Notes) -> bool:
    """Whether a revocation is ours to answer: since it there is no new secret, or one that the outcast can read.

    A machine that is out may have written the secret itself, or got it when it came in, which no record shows: so each
    revocation is answered, and not only those of machines to which a current secret was sealed.
    """
    readers = {each.signing_key for secret in roster.secrets for each in secret.sealed}
    return any(
        answers_for(roster, member) == me
        for member in roster.members.values()
        if (member.standing is Standing.REVOKED and member.revocation not in notes.answered)
        or (not member.is_active and member.signing_key in readers)
    )


def is_incomplete(me: bytes, roster: Roster, notes: Notes) -> bool:
    """Whether it is ours to help a member that the newest secret has not reached: it was admitted while that was made
    elsewhere, or kept in the mesh after all."""
    if not roster.secrets:
        return False
    newest = roster.secrets[0]
    reached = {each.signing_key for each in newest.sealed} | {newest.author}
    return any(
        answers_for(roster, member) == me
        for member in roster.active()
        if member.signing_key not in reached and newest.hash not in notes.given.get(member.signing_key, ())
    )
