"""Signatures inside roster records: that a newcomer agreed to its admission, that an author forked its chain.

Both depend on nothing but the bytes, so the answers are remembered: a roster is folded anew at every change, and 1,000
admissions cost a quarter of a second of Ed25519 the first time.
"""

from functools import lru_cache
from typing import Final

import attrs

from meshd.errors import RemoteProtocolError
from meshd.model.facts import Admit, Fork
from meshd.model.record import NO_HASH, LogId, Record

_ADMISSIONS_REMEMBERED: Final = 16_384
"""Several meshes of MEMBERS_LIMIT, with members that were admitted more than once; half a KiB each."""

_FORKS_REMEMBERED: Final = 2_048
"""Forks are rare; this bounds what a member that writes invented proofs can make others hold, at 2 KiB each."""


@lru_cache(_ADMISSIONS_REMEMBERED)
def is_agreed(mesh: bytes, admitter: bytes, admit: Admit) -> bool:
    """Whether the newcomer signed for just this admission, and its two keys belong together."""
    return admit.is_countersigned(mesh, admitter)


@attrs.frozen
class Proof:
    """What a fork proof says, if its signatures hold."""

    one: Record
    other: Record

    @property
    def chain(self) -> LogId:
        return self.one.chain

    @property
    def sequence(self) -> int:
        return self.one.header.sequence

    def holds(self) -> bool:
        """Whether the author signed both."""
        return _are_authentic(self.one.encode(), self.other.encode())


def read_fork(mesh: bytes, fork: Fork) -> Proof | None:
    """The two records of a proof if they have one mesh and one number and differ; their signatures are not looked at.

    A founding record names no mesh: it is the mesh. Were its zeros compared, a machine that founds two meshes would
    have forked.
    """
    try:
        one, other = Record.decode(fork.one), Record.decode(fork.other)
    except RemoteProtocolError:
        return None
    same = one.chain == other.chain and one.header.sequence == other.header.sequence
    if not same or one.hash == other.hash or any(_mesh_of(each) != mesh for each in (one, other)):
        return None
    return Proof(one, other)


def _mesh_of(record: Record) -> bytes:
    return record.hash if record.header.mesh == NO_HASH else record.header.mesh


@lru_cache(_FORKS_REMEMBERED)
def _are_authentic(one: bytes, other: bytes) -> bool:
    return Record.decode(one).is_authentic() and Record.decode(other).is_authentic()
