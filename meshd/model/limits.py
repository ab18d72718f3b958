"""How far each chain counts: until the cut of a revocation, or until its author gave a number twice."""

from collections.abc import Iterable, Mapping

import attrs

from meshd.model.facts import Revoke
from meshd.model.member import RosterRecord
from meshd.model.record import Head, Log, LogId


def lower(one: int | None, other: int | None) -> int | None:
    """The stricter of two limits; None is no limit."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def is_within(record: RosterRecord, last: int | None) -> bool:
    """Whether a record is one of the first `last` of its chain."""
    return last is None or record.sequence <= last


class Forks:
    """The first double number of each chain."""

    def __init__(self, one_generation: bytes) -> None:
        """`one_generation` is the recovery key, each of whose records is a generation: a fork there is of that one only."""
        self._first: dict[LogId, int] = {}
        self._frozen: dict[tuple[bytes, Log], int] = {}
        self._one_generation = one_generation

    def add(self, chain: LogId, sequence: int) -> None:
        self._first[chain] = min(sequence, self._first.get(chain, sequence))
        if sequence == 1 and chain.author != self._one_generation:
            log = chain.author, chain.log
            self._frozen[log] = min(chain.generation, self._frozen.get(log, chain.generation))

    def add_doubles(self, records: Iterable[RosterRecord]) -> None:
        """Two records of one number are a fork without a proof."""
        found: dict[tuple[bytes, tuple[int, int]], bytes] = {}
        for record in records:
            if found.setdefault((record.author, record.place), record.hash) != record.hash:
                self.add(record.chain, record.sequence)

    def items(self) -> Iterable[tuple[LogId, int]]:
        return self._first.items()

    def limit(self, chain: LogId) -> int | None:
        """The last number before the fork. Two first records freeze their author's log: this generation and all later."""
        if chain.generation >= self._frozen.get((chain.author, chain.log), chain.generation + 1):
            return 0
        first = self._first.get(chain)
        return None if first is None else first - 1


@attrs.frozen
class _Out:
    """What is left of an author that was revoked."""

    cuts: Mapping[tuple[int, int], Head]
    """By log and generation, the last record that counts."""

    by_itself: RosterRecord | None
    """Its own revocation, when that is the one that counts."""


class Limits:
    """What counts of everybody's chains. Revocations are added as the walk settles them."""

    def __init__(
        self, founding: RosterRecord, recovery_key: bytes, records: Iterable[RosterRecord], proven: Forks, seen: Forks
    ) -> None:
        """`proven` are forks with a proof, `seen` those whose two records are here. The fold holds `records`."""
        self._founding = founding.chain
        self._recovery_key = recovery_key
        self._proven = proven
        self._seen = seen
        self._out: dict[bytes, _Out] = {}
        self._hashes = {record.hash: record for record in records}
        self._places = {(record.author, record.place) for record in records}

    def revoke(self, author: bytes, record: RosterRecord, revoke: Revoke) -> None:
        """Let this revocation decide what is left of `author`. Of two cuts of one chain the stricter counts."""
        cuts: dict[tuple[int, int], Head] = {}
        for cut in sorted(revoke.cuts, key=lambda each: (each.sequence, each.hash), reverse=True):
            cuts[cut.log, cut.generation] = Head(cut.sequence, cut.hash)
        self._out[author] = _Out(cuts, record if record.author == author else None)

    def counts(self, record: RosterRecord) -> bool:
        """Whether this roster record is within its author's limit. Membership is not looked at, here nor below."""
        return is_within(record, self.limit(record.chain))

    def limit(self, chain: LogId) -> int | None:
        """The last number that counts; 0 for nothing, None for no limit."""
        return self._at_least_the_founding(chain, self._limit(chain))

    def reach(self, chain: LogId) -> int | None:
        """How far the chain is worth having, at least to the limit: up to a cut that has not come, or to the word of
        its author that it leaves, which counts for its standing whatever was forked before it."""
        pin = self.pin(chain)
        if pin is not None:
            return pin.sequence
        limit, out = self.limit(chain), self._out.get(chain.author)
        if out is None or out.by_itself is None or out.by_itself.chain != chain or limit is None:
            return limit
        return max(limit, out.by_itself.sequence)

    def pin(self, chain: LogId) -> Head | None:
        """The record of a roster log that a revoker named as its last: it tells which of two branches is the right one."""
        out = self._out.get(chain.author)
        if out is None or out.by_itself is not None or chain.log is not Log.ROSTER:
            return None
        return out.cuts.get((chain.log, chain.generation))

    def _limit(self, chain: LogId) -> int | None:
        seen = self._seen.limit(chain)
        forked = lower(self._proven.limit(chain), seen)
        if chain.author == self._recovery_key:
            return lower(1 if chain.log is Log.ROSTER else 0, forked)
        out = self._out.get(chain.author)
        if out is None:
            return forked
        cut = out.cuts.get((chain.log, chain.generation))
        if out.by_itself is not None:
            return lower(self._own_cut(out.by_itself, chain, cut), forked)
        if cut is None:
            return 0
        place = chain.generation, cut.sequence
        if chain.log is Log.DATA or (chain.author, place) not in self._places:
            return lower(cut.sequence, forked)
        # Who revokes names the branch by a hash. Without this, the thief of a revoked key could still fork the chain at
        # its start, and take with it everybody whom the machine had admitted before it was stolen. Of a data log only
        # the store knows which branch is here, so that a fork before the cut stays one.
        named = self._hashes.get(cut.hash)
        is_here = named is not None and (named.author, named.place) == (chain.author, place)
        return lower(cut.sequence, seen) if is_here else 0

    @staticmethod
    def _own_cut(own: RosterRecord, chain: LogId, cut: Head | None) -> int:
        # A record cannot name its own hash, so a machine's word that it leaves counts itself, and nothing after it.
        if chain == own.chain:
            return own.sequence
        return 0 if cut is None else cut.sequence

    def _at_least_the_founding(self, chain: LogId, limit: int | None) -> int | None:
        # The record that founds the mesh is the mesh: no cut and no fork takes it away.
        return max(limit, 1) if chain == self._founding and limit is not None else limit
