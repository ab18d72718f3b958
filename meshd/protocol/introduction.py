"""Introductions: how a member shows itself to one that has not heard of its admission. docs/protocol/session.md."""

from collections.abc import Sequence

from meshd.errors import RemoteProtocolError
from meshd.model.facts import Admit
from meshd.model.identity import Identity
from meshd.model.record import Log, Record
from meshd.model.roster import Roster
from meshd.wire import bodies
from meshd.wire.session import INTRODUCTION_RECORDS


def introduced(roster: Roster, noise_key: bytes, signing_key: bytes, records: Sequence[bytes]) -> Identity | None:
    """The machine with these two keys, if the admissions in `records` (encoded, newest last) lead to it from a member
    that is active in our roster. None for anything else, broken bytes included.

    About a machine that we know of, whatever its standing, our roster speaks and no introduction: neither a revoked
    machine nor what a revoked machine admits comes in by it. It is worth what the roster is: who was cut off from the
    news of a revocation trusts the revoked until it hears of it (docs/protocol/membership.md).
    """
    admitter, last = b"", None
    noise_keys: set[bytes] = set()
    for encoded in records[:INTRODUCTION_RECORDS]:
        try:
            record = Record.decode(encoded)
            fact = bodies.decode(record)
        except RemoteProtocolError:
            return None
        header = record.header
        if not isinstance(fact, Admit) or header.log is not Log.ROSTER or header.mesh != roster.mesh:
            return None
        if fact.signing_key in roster.members:
            admitter, last = b"", None
            continue
        if header.author != admitter and not _may_admit(roster, record):
            return None
        # A Noise key belongs to one machine for ever, also in what nobody here has folded yet.
        if roster.by_noise(fact.noise_key) is not None or fact.noise_key in noise_keys:
            return None
        if not record.is_authentic() or not fact.is_countersigned(roster.mesh, header.author):
            return None
        noise_keys.add(fact.noise_key)
        admitter, last = fact.signing_key, fact.identity
    if last is None or (last.noise_key, last.signing_key) != (noise_key, signing_key):
        return None
    return last


def _may_admit(roster: Roster, record: Record) -> bool:
    member = roster.members.get(record.header.author)
    limit = roster.limit(record.chain)
    return member is not None and member.is_active and (limit is None or record.header.sequence <= limit)
