"""Tells people what happens to a mesh's records: who wrote, forked, runs fast, or has had its share."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from meshd.model import clock
from meshd.model.identity import node_id, node_text
from meshd.model.record import LogId, Record
from meshd.model.roster import ForkedChain, Roster
from meshd.notices import ForkFound, GenerationOpened, Notify, Quarantined, RecordsStored, Trouble
from meshd.store.records import Waiting

_MOST: Final = 2
"""Members besides us from which on "most of them look fast" means something."""


class Herald:
    """The notices of one journal."""

    def __init__(self, mesh: bytes, me: bytes, notify: Notify) -> None:
        """`me` is our signing key."""
        self._mesh, self._me, self._notify = mesh.hex(), me, notify
        self._full: set[bytes] = set()

    def stored(self, records: Iterable[Record], *, arrived: bool) -> None:
        """Records are durable."""
        for author, count in Counter(record.header.author for record in records).items():
            self._notify(RecordsStored(self._mesh, node_text(node_id(author)), count, arrived))

    def forks(self, before: Iterable[ForkedChain], roster: Roster) -> None:
        """Those that were not known before."""
        known = {(fork.chain, fork.sequence) for fork in before}
        for fork in roster.forks:
            if (fork.chain, fork.sequence) not in known:
                who = self._who(roster, fork.chain.author)
                self._notify(ForkFound(self._mesh, *who, fork.chain.generation, fork.sequence))

    def generation(self, number: int, why: str) -> None:
        """This machine's history goes on under a new one."""
        self._notify(GenerationOpened(self._mesh, number, why))

    def quarantine(
        self, before: Mapping[LogId, Waiting], now: Mapping[LogId, Waiting], roster: Roster, wall_ms: int
    ) -> None:
        """Chains that wait, and did not before. When most members look fast, it is our clock that is slow."""
        fast = {chain.author for chain in now}
        others = [member.signing_key for member in roster.active() if member.signing_key != self._me]
        ours = len(others) >= _MOST and 2 * len(fast.intersection(others)) > len(others)
        for chain, each in now.items():
            if chain not in before:
                ahead = (clock.milliseconds(each.clock) - wall_ms) / 1000
                self._notify(Quarantined(self._mesh, *self._who(roster, chain.author), ahead, ours))

    def over_quota(self, authors: Iterable[bytes], roster: Roster) -> None:
        """What these wrote is not stored any more. Said once each."""
        for author in set(authors) - self._full:
            self._full.add(author)
            name = self._who(roster, author)[1]
            self._notify(
                Trouble(
                    f"{name} has written more than this machine keeps of one author; the rest is not stored.",
                    "Look at what writes there.",
                    "warning",
                )
            )

    @staticmethod
    def _who(roster: Roster, author: bytes) -> tuple[str, str]:
        member = roster.members.get(author)
        return node_text(node_id(author)), member.name if member else "the recovery words"
