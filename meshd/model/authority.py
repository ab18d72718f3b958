"""The walk from the founder outward: who was admitted, whom a revocation reaches, and what is left of each.

It settles one machine after another. Nothing of a machine, or of what lies below it, is looked at before it is settled;
that is why mutual and chained revocations have one outcome. docs/protocol/membership.md, "The walk", says why there are
a plain one and a patient one.
"""

import heapq
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import attrs

from meshd.model.evidence import is_agreed
from meshd.model.facts import Admit, Found, Revoke
from meshd.model.identity import Identity
from meshd.model.limits import Limits
from meshd.model.member import Clash, Member, RosterRecord, Standing
from meshd.model.name import is_name


@attrs.frozen
class _Admission:
    """An admission that the newcomer agreed to."""

    record: RosterRecord
    admit: Admit

    @property
    def newcomer(self) -> bytes:
        return self.admit.signing_key


class _Offer(NamedTuple):
    """An admission by a settled machine, within its author's limit. The least is the best: offers compare as tuples."""

    hangs: bool
    """Somewhere on the way from the founder a revocation did not keep the next."""

    depth: int
    hash: bytes
    admission: _Admission


@attrs.frozen
class _Revocation:
    record: RosterRecord
    revoke: Revoke


class Walk:
    """`members`, `clashes` and `claims` are what it finds; `limits` learns of every revocation that counts.

    The plain walk settles whoever is nearest the founder, so that everything about a machine is decided by those before
    it. The patient one settles a machine when all who wrote an admission of it are, so that all of them have a say; it
    begins with the Noise keys (`claims`) as the plain one gave them out.
    """

    def __init__(
        self,
        mesh: bytes,
        founding: RosterRecord,
        found: Found,
        records: Collection[RosterRecord],
        limits: Limits,
        patient_after: "Walk | None" = None,
    ) -> None:
        self.members: dict[bytes, Member] = {}
        self.clashes: list[Clash] = []
        self.limits = limits
        self.claims: dict[bytes, bytes] = {} if patient_after is None else dict(patient_after.claims)
        """Noise keys and whose they are."""
        self._is_patient = patient_after is not None
        self._recovery_key = found.recovery_key
        self._admissions = _agreed(mesh, founding.author, found.recovery_key, records)
        self._revocations: defaultdict[bytes, list[_Revocation]] = defaultdict(list)
        for record in records:
            if isinstance(record.fact, Revoke):
                self._revocations[record.fact.signing_key].append(_Revocation(record, record.fact))
        self._offers: defaultdict[bytes, list[_Offer]] = defaultdict(list)
        self._best: dict[bytes, _Offer] = {}
        self._awaited: defaultdict[bytes, int] = defaultdict(int)
        """Admissions of a machine whose author is not settled yet; the plain walk awaits nobody's."""
        for admissions in self._admissions.values() if self._is_patient else ():
            for admission in admissions:
                self._awaited[admission.newcomer] += 1
        self._queue: list[tuple[bool, _Offer, bytes]] = []
        """Who could be settled: those for whom nothing is awaited before the others, then the best offer."""
        self._done: set[bytes] = set()
        self._bits: dict[bytes, int] = {}
        self._above: dict[bytes, int] = {}
        """Everybody above a machine by any admission that counts, a bit each: sets would cost a million entries."""
        self._keeps: dict[bytes, frozenset[bytes]] = {}
        self._hanging: set[bytes] = set()

        identity = Identity(founding.author, found.noise_key, found.binding)
        self._settle(
            Member(
                identity=identity,
                name=found.name,
                standing=Standing.ACTIVE,
                parent=None,
                depth=0,
                admission=founding.hash,
            ),
            above=0,
            noise_keys=[found.noise_key],
        )
        while self._queue:
            _, _, newcomer = heapq.heappop(self._queue)
            if newcomer not in self._done and newcomer in self._best:
                self._admit(newcomer)

    def is_above(self, one: bytes, other: bytes) -> bool:
        """Whether `one` admitted `other`, or somebody above it, by an admission that counts."""
        return other in self._above and one in self._bits and bool(self._above[other] >> self._bits[one] & 1)

    def _admit(self, newcomer: bytes) -> None:
        offers = [offer for offer in self._offers.pop(newcomer) if not self._clashes(offer.admission)]
        del self._best[newcomer]
        if not offers:
            self._forgo(newcomer)
            return
        best = min(offers)
        if best.hangs:
            self._hanging.add(newcomer)
        above = 0
        for offer in offers:
            admitter = offer.admission.record.author
            above |= self._above[admitter] | 1 << self._bits[admitter]
        self._settle(
            Member(
                identity=best.admission.admit.identity,
                name=best.admission.admit.name,
                standing=Standing.SUSPENDED if best.hangs else Standing.ACTIVE,
                parent=best.admission.record.author,
                depth=best.depth,
                admission=best.hash,
            ),
            above=above,
            noise_keys=[offer.admission.admit.noise_key for offer in offers],
        )

    def _clashes(self, admission: _Admission) -> bool:
        holder = self.claims.get(admission.admit.noise_key, admission.newcomer)
        if holder == admission.newcomer:
            return False
        self.clashes.append(
            Clash(
                admission=admission.record.hash,
                admitter=admission.record.author,
                newcomer=admission.newcomer,
                holder=holder,
            )
        )
        return True

    def _settle(self, member: Member, above: int, noise_keys: Iterable[bytes]) -> None:
        key = member.signing_key
        self._done.add(key)
        self._bits[key] = len(self._bits)
        self._above[key] = above
        self.claims.update(dict.fromkeys(noise_keys, key))
        counting = self._counting(key)
        if counting is not None:
            record, revoke = counting.record, counting.revoke
            self.limits.revoke(key, record, revoke)
            self._keeps[key] = frozenset(revoke.keep)
            member = attrs.evolve(
                member,
                standing=Standing.REVOKED,
                revocation=record.hash,
                revoked_by=record.author,
                reason=revoke.reason,
            )
        self.members[key] = member
        self._pass_on(key, member)

    def _counting(self, key: bytes) -> _Revocation | None:
        """Of the revocations that reach this machine, the one of highest authority."""
        reaching = [each for each in self._revocations[key] if self._reaches(each.record, key)]
        return min(reaching, key=lambda each: self._rank(each.record, key), default=None)

    def _reaches(self, record: RosterRecord, key: bytes) -> bool:
        if record.author == key:
            # A machine's word that it is out needs no limit: else its thief forks its chain before that word, and is back.
            return True
        allowed = record.author == self._recovery_key or self.is_above(record.author, key)
        return allowed and self.limits.counts(record)

    def _rank(self, record: RosterRecord, key: bytes) -> tuple[int, int, bytes, int, int, bytes]:
        """Lowest first: the recovery key, those above from the founder outward, itself.

        Of one author's own the latest counts, so that who revoked can correct a cut or keep one more child. Of a
        machine's words about itself the first counts: the later ones are behind it, and nobody returns by talking.
        """
        generation, sequence = record.place
        if record.author == key:
            return 2, 0, b"", generation, sequence, record.hash
        if record.author == self._recovery_key:
            return 0, 0, b"", -generation, -sequence, record.hash
        revoker = self.members[record.author]
        return 1, revoker.depth, revoker.admission, -generation, -sequence, record.hash

    def _forgo(self, newcomer: bytes) -> None:
        """Nobody who is settled lets this machine in: if nobody else can, it is no member, and nobody awaits it."""
        if self._is_patient and not self._awaited[newcomer]:
            self._done.add(newcomer)
            self._pass_on(newcomer, None)

    def _pass_on(self, admitter: bytes, member: Member | None) -> None:
        """Take the admissions that a settled machine wrote into account; None if it turned out to be no member."""
        waiting = [(admitter, member)]
        while waiting:
            author, settled = waiting.pop()
            for admission in self._admissions.get(author, ()):
                newcomer = admission.newcomer
                self._awaited[newcomer] -= self._is_patient
                if newcomer in self._done:
                    continue
                better = settled is not None and self._offer(settled, admission)
                awaited = self._awaited[newcomer] > 0
                best = self._best.get(newcomer)
                if best is not None and (better or not awaited):
                    heapq.heappush(self._queue, (awaited, best, newcomer))
                elif best is None and not awaited and self._is_patient:
                    self._done.add(newcomer)
                    waiting.append((newcomer, None))

    def _offer(self, admitter: Member, admission: _Admission) -> bool:
        """Note an admission by a settled machine, if it counts; whether it is the newcomer's best so far."""
        if not self.limits.counts(admission.record):
            return False
        newcomer = admission.newcomer
        offer = _Offer(
            hangs=self._hangs(admitter, newcomer),
            depth=admitter.depth + 1,
            hash=admission.record.hash,
            admission=admission,
        )
        self._offers[newcomer].append(offer)
        best = self._best.setdefault(newcomer, offer)
        self._best[newcomer] = min(best, offer)
        return best is offer or offer < best

    def _hangs(self, admitter: Member, newcomer: bytes) -> bool:
        # Inherited, and kept or not: a way that was cut nearer the founder is not mended farther out. Were it, a machine
        # settled late could stand before one settled early, and the plain walk would not be one outward.
        key = admitter.signing_key
        return key in self._hanging or (key in self._keeps and newcomer not in self._keeps[key])


def _agreed(
    mesh: bytes, founder: bytes, recovery_key: bytes, records: Iterable[RosterRecord]
) -> Mapping[bytes, list[_Admission]]:
    """Admissions by their author, of all authors to whom a way of admissions leads from the founder.

    Nobody else's are looked at: records of strangers cost no signature check. The founder needs no admission, and the
    recovery key takes none: it is no machine.
    """
    written: defaultdict[bytes, list[_Admission]] = defaultdict(list)
    for record in records:
        admit = record.fact
        if isinstance(admit, Admit) and admit.signing_key not in (founder, recovery_key, record.author):
            written[record.author].append(_Admission(record, admit))
    reached: dict[bytes, list[_Admission]] = {}
    waiting = [founder]
    while waiting:
        author = waiting.pop()
        if author in reached:
            continue
        reached[author] = [
            each for each in written[author] if is_name(each.admit.name) and is_agreed(mesh, author, each.admit)
        ]
        waiting += [each.newcomer for each in reached[author]]
    return reached
