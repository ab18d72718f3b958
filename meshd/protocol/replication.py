"""Bringing the records of one mesh to every member: one machine for all links of a mesh. docs/protocol/records.md.

Calling contract: `linked` gives a link its number; feed the bytes of its sync stream to `receive_data`; after every call,
and for every link, take all events with `next_event`, answer those that ask, send what `data_to_send` gives, and call
`on_deadline` at `next_deadline`. Whatever becomes durable is told with `stored` and, if written here, `appended`; another
roster with `roster_changed`. The machine holds heads, never records. Times: seconds of one monotonic clock. Bytes from a
peer never raise: they end in `Failed`. A command about a link that has gone does nothing: answers may come late.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

from meshd.errors import RemoteProtocolError
from meshd.model.record import Log, LogId, Record
from meshd.model.roster import Roster
from meshd.protocol.difference import Search
from meshd.protocol.replica import FAREWELL, PROBES_LIMIT, Replica
from meshd.protocol.replication_events import (
    BranchDue,
    Echoed,
    Event,
    Failed,
    FarewellDue,
    HashesDue,
    Lag,
    Outsider,
    OwnChainElsewhere,
    OwnHeadsKnown,
    ReadDue,
    RecordsArrived,
    Settled,
)
from meshd.wire.sync import (
    SPANS_LIMIT,
    Arrived,
    AskHashes,
    AskRecords,
    Hashes,
    Heads,
    Message,
    More,
    Probe,
    Records,
    Span,
    Tip,
    batches,
    decode,
)

TELL_DELAY: Final = 0.05
"""Seconds that news of others' records waits for more. Who is linked to the author too has them by then, and asks nobody."""

FRUITLESS_PAUSE: Final = 60.0
"""Seconds before a chain that a peer named and did not bring, or that could not be stored, is asked of it again."""

BRANCH_TRIES: Final = 3
"""Times that a branch is dropped for the one that a peer shows, on one link: more than once, because while rosters spread
it may be gone from there for a moment, and another peer brings the wrong one back."""

STORE_PAUSE: Final = 30.0
"""Seconds without questions after our own disk refused records."""


@attrs.define(eq=False)
class _Dispute:
    """A chain that is not the same at a peer and here, and the search for where that begins."""

    link: int
    search: Search
    fetched: bool = False


class Replication:
    """The machine."""

    def __init__(self, me: bytes, roster: Roster, tips: Mapping[LogId, Tip]) -> None:
        """`me` is our Ed25519 public key; `tips` how far every chain goes here, void records cut off."""
        self._me = me
        self._roster = roster
        self._tips = dict(tips)
        self._replicas: dict[int, Replica] = {}
        self._numbers = 0
        self._asked: dict[LogId, int] = {}
        """Which link a chain was asked of: of one at a time."""
        self._disputes: dict[LogId, _Dispute] = {}
        self._dropping: set[LogId] = set()
        """Chains that the driver was asked to drop, until it tells of another roster."""
        self._paused_until = -math.inf

    # Links

    def linked(self, peer: bytes, now: float) -> int:
        """A confirmed session with the machine that has this signing key: the number of its link."""
        self._numbers += 1
        replica = self._replicas[self._numbers] = Replica(self._numbers, peer, now)
        replica.tell_all(Log.ROSTER, self._tips.items())
        return replica.link

    def unlinked(self, link: int, now: float) -> None:
        """The link is gone. What was asked there is asked elsewhere."""
        replica = self._replicas.pop(link, None)
        if replica is not None:
            self._release(replica, now)

    def receive_data(self, link: int, data: bytes, now: float) -> None:
        """Take bytes of the link's stream, in pieces of any size."""
        replica = self._speaking(link)
        if replica is None:
            return
        replica.decoder.receive(data)
        try:
            while self._speaking(link) and (frame := replica.decoder.next_frame()) is not None:
                message = decode(*frame)
                if not replica.over:
                    self._take(replica, message, now)
                elif message == Probe(replica.farewell, echo=True):
                    self._put_out(replica, now)
        except RemoteProtocolError as error:
            self._fail(replica, error.what, now)
        self._pursue(now)

    def next_event(self, link: int) -> Event | None:
        """What has happened on a link, oldest first; None when that is all."""
        replica = self._replicas.get(link)
        return replica.events.popleft() if replica is not None and replica.events else None

    def data_to_send(self, link: int, now: float) -> bytes:
        """Bytes for the link's stream."""
        replica = self._speaking(link)
        if replica is None:
            return b""
        if not replica.over and replica.tell_at is not None and replica.tell_at <= now:
            replica.tell_changes(self._tips)
        data = bytes(replica.out)
        replica.out.clear()
        return data

    def unsent(self, link: int) -> int:
        """Bytes that wait to be sent on a link."""
        replica = self._replicas.get(link)
        return 0 if replica is None else len(replica.out)

    def next_deadline(self) -> float | None:
        """When `on_deadline` is due."""
        ends: list[float] = []
        for replica in self._replicas.values():
            if not replica.over:
                ends += replica.deadlines()
            elif replica.farewell_by is not None:
                ends.append(replica.farewell_by)
        if self._paused_until > -math.inf:
            ends.append(self._paused_until)
        return min(ends, default=None)

    def on_deadline(self, now: float) -> None:
        """Time has passed: give up who did not answer, and ask again what may be asked again."""
        for replica in list(self._replicas.values()):
            if replica.over:
                if replica.farewell_by is not None and replica.farewell_by <= now:
                    self._put_out(replica, now)
            elif why := replica.pass_time(now):
                self._fail(replica, why, now)
        if self._paused_until <= now:
            self._paused_until = -math.inf
        self._pursue(now)

    # What the driver has done

    def stored(self, tips: Mapping[LogId, Tip], now: float) -> None:
        """These chains go further here now, and it is durable."""
        self._tips.update(tips)
        for replica in self._all_live():
            for chain in tips:
                self._compare(replica, chain, now)
                self._news(replica, chain, now)
        self._pursue(now)

    def appended(self, records: Iterable[Record], now: float) -> None:
        """This machine has written records, `stored` has told how far their chains go: push them."""
        fresh = [Arrived(record, 0) for record in records]
        for replica in self._all_live():
            for chain in replica.push(fresh):
                replica.unmark(chain)

    def roster_changed(self, roster: Roster, tips: Mapping[LogId, Tip], now: float) -> None:
        """Other members count, or other records: `tips` is all that is held now, void records cut off."""
        self._roster = roster
        self._dropping.clear()
        before, self._tips = self._tips, dict(tips)
        for chain in list(self._disputes):
            if chain in before and before[chain] != self._tips.get(chain):
                del self._disputes[chain]  # frozen, or cut off: there is nothing to search for any more
        changed = [chain for chain in {**before, **self._tips} if before.get(chain) != self._tips.get(chain)]
        for replica in self._all_live():
            if replica.settled and not self._is_member(replica.peer):
                self._see_out(replica, changed, now)
                continue
            replica.fruitless.clear()
            for chain in changed:
                self._news(replica, chain, now)
            for chain in replica.theirs:
                self._compare(replica, chain, now)
        self._pursue(now)

    def accepted(self, event: RecordsArrived, stuck: Iterable[LogId], conflicts: Iterable[LogId], now: float) -> None:
        """Records that arrived are dealt with, and `stored` has told of those that are new.

        `stuck`: chains that did not come as far as the batch went; `conflicts`: those that have a fork at or before it.
        """
        replica = self._live(event.link)
        if replica is None:
            return
        replica.batch_dealt(stored=True)
        question = replica.question
        answers = question is not None and event.number == question.number
        if answers and question is not None:
            question.undealt -= 1
            question.heard = now
        stopped = set(stuck)
        if event.number:
            replica.fruitless.update((chain, now + FRUITLESS_PAUSE) for chain in stopped)
        if answers and question is not None:
            if event.last:
                self._close_question(replica, now)
            elif stopped.intersection(span.chain for span in question.spans):
                self._take_back(replica, now)
            else:
                replica.send(More())
        for chain in conflicts:
            mine, theirs = self._tips.get(chain), replica.theirs.get(chain)
            if mine is not None and theirs is not None:
                self._dispute(replica, chain, min(mine.sequence, theirs.sequence))
        for chain in {each.record.chain for each in event.records}:
            self._compare(replica, chain, now)
        self._pursue(now)

    def refused(self, event: RecordsArrived, now: float) -> None:
        """Our own disk did not take these records: ask for none for a while."""
        self._paused_until = now + STORE_PAUSE
        replica = self._live(event.link)
        if replica is None:
            return
        replica.batch_dealt(stored=False)
        if replica.question is not None:
            self._take_back(replica, now)

    def serve(self, event: ReadDue, records: Sequence[Arrived], rest: tuple[Span, ...]) -> None:
        """Answer what was asked with as many records as fit in a batch; `rest` is what is left of the spans."""
        replica = self._live(event.link)
        if replica is not None:
            replica.serve(event.number, records, rest)

    def farewell(self, event: FarewellDue, records: Sequence[Arrived], token: bytes) -> None:
        """Tell a peer that is out by which records. The echo of `token`, 8 random bytes, ends the link, or FAREWELL does."""
        replica = self._speaking(event.link)
        if replica is not None:
            replica.farewell = token
            for piece in batches(records):
                replica.send(Records(0, True, piece))
            replica.send(Probe(token, echo=False))

    def hashes(self, event: HashesDue, found: Sequence[bytes | None], now: float) -> None:
        """Our hashes of the records that the event names; None where there is none."""
        replica = self._live(event.link)
        if replica is None:
            return
        if event.theirs is None:
            replica.answers_hashes = False
            replica.send(Hashes(tuple(found)))
            return
        replica.comparing = None
        dispute = self._disputes.get(event.chain)
        if (
            dispute is not None
            and dispute.link == event.link
            and not dispute.search.narrow(event.sequences, found, event.theirs)
        ):
            self._judge(replica, event.chain, now)
        self._pursue(now)

    def probe(self, link: int, token: bytes, now: float) -> None:
        """Ask the peer's program whether it is there; `Echoed` is the answer. `token`: 8 random bytes."""
        replica = self._live(link)
        if replica is not None:
            while len(replica.probes) >= PROBES_LIMIT:
                del replica.probes[next(iter(replica.probes))]
            replica.probes[token] = now
            replica.send(Probe(token, echo=False))

    def lag(self, link: int) -> Lag | None:
        """How far the two sides of a link are apart, as far as they have told; None for one that is over."""
        replica = self._live(link)
        return None if replica is None else replica.lag(self._tips, self._worth)

    # What a peer says

    def _take(self, replica: Replica, message: Message, now: float) -> None:
        replica.spoke = now
        match message:
            case Heads():
                replica.hear(message)
                for chain, _ in message.tips:
                    self._compare(replica, chain, now)
            case Records():
                self._take_records(replica, message, now)
            case AskRecords():
                self._allow(replica, (span.chain.log for span in message.spans))
                replica.asked(message)
            case More():
                replica.more()
            case AskHashes():
                self._allow(replica, (message.chain.log,))
                if replica.answers_hashes:
                    raise RemoteProtocolError("The other side asked for hashes twice at a time.")
                replica.answers_hashes = True
                replica.events.append(HashesDue(replica.link, message.chain, message.sequences, None))
            case Hashes():
                asked = replica.comparing
                if asked is None or len(message.hashes) != len(asked.sequences) or replica.compared_at == math.inf:
                    raise RemoteProtocolError("The other side told hashes that were not asked for.")
                replica.compared_at = math.inf
                replica.events.append(HashesDue(replica.link, asked.chain, asked.sequences, message.hashes))
            case Probe(token, echo=False):
                replica.probed(token)
            case Probe(token):
                if token not in replica.probes:
                    raise RemoteProtocolError("The other side echoed what was not sent.")
                replica.events.append(Echoed(replica.link, now - replica.probes.pop(token)))

    def _take_records(self, replica: Replica, message: Records, now: float) -> None:
        self._allow(replica, (each.record.header.log for each in message.records))
        replica.take(message)
        replica.batch_arrived()
        replica.events.append(RecordsArrived(replica.link, message.records, message.number, message.last))

    def _allow(self, replica: Replica, logs: Iterable[Log]) -> None:
        """Data is spoken of only with who has been found to be a member."""
        if not replica.settled and Log.DATA in logs:
            raise RemoteProtocolError("The other side went on to data before the rosters were compared.")

    # What follows

    def _compare(self, replica: Replica, chain: LogId, now: float) -> None:
        """Set what the peer has of a chain against what is here."""
        theirs, mine = replica.theirs.get(chain), self._tips.get(chain)
        lacking = replica.lacking[chain.log]
        lacking.pop(chain, None)
        if theirs is None:
            return
        have = mine.sequence if mine else 0
        differs = mine is not None and theirs.sequence == have and theirs.hash != mine.hash
        if chain.author == self._me and (theirs.sequence > have or differs) and chain not in replica.own_told:
            replica.own_told.add(chain)
            replica.events.append(OwnChainElsewhere(replica.link, chain, theirs))
        if self._is_other_branch(replica, chain):
            replica.branches[chain] += 1
            self._dropping.add(chain)
            replica.events.append(BranchDue(replica.link, chain))
        elif differs:
            self._dispute(replica, chain, have)
        elif self._worth(chain, theirs.sequence) > have and not self._is_shown_elsewhere(chain, theirs):
            lacking[chain] = None

    def _pursue(self, now: float) -> None:
        """Do whatever can be done now."""
        for replica in self._all_live():
            self._settle(replica, now)
            self._search(replica, now)
            self._ask(replica, now)

    def _settle(self, replica: Replica, now: float) -> None:
        """When the rosters are one: is the peer a member? Then on to data."""
        compared = Log.ROSTER in replica.heard and not self._is_open(replica, Log.ROSTER, now)
        if compared and not replica.settled:
            if not self._is_member(replica.peer):
                self._put_out(replica, now)
                return
            replica.settled = True
            replica.tell_all(Log.DATA, self._tips.items())
            replica.events.append(Settled(replica.link))
        if not replica.own_known and len(replica.heard) == len(Log):
            ours = [chain for log in Log for chain in self._wanted(replica, log, now) if chain.author == self._me]
            ours += [chain for chain, each in self._disputes.items() if chain.author == self._me]
            if not ours:
                replica.own_known = True
                replica.events.append(OwnHeadsKnown(replica.link))

    def _ask(self, replica: Replica, now: float) -> None:
        """Ask for what the peer has and we lack: evidence of forks, then the roster, then data."""
        if replica.question is not None or replica.over or now < self._paused_until:
            return
        for chain, dispute in self._disputes.items():
            number = dispute.search.found
            if dispute.link == replica.link and number is not None and not dispute.fetched:
                dispute.fetched = True
                replica.ask((Span(chain, number, number),), now, evidence=True)
                return
        log = Log.ROSTER if self._wanted(replica, Log.ROSTER, now) else Log.DATA
        if log is Log.DATA and not replica.settled:
            return
        spans = [self._span(replica, chain) for chain in self._wanted(replica, log, now) if self._is_free(chain, now)][
            :SPANS_LIMIT
        ]
        if spans:
            replica.ask(spans, now)
            self._asked.update((span.chain, replica.link) for span in spans)

    def _span(self, replica: Replica, chain: LogId) -> Span:
        mine = self._tips.get(chain)
        return Span(chain, mine.sequence + 1 if mine else 1, self._worth(chain, replica.theirs[chain].sequence))

    def _wanted(self, replica: Replica, log: Log, now: float) -> list[LogId]:
        return [
            chain
            for chain in replica.lacking[log]
            if replica.fruitless.get(chain, -math.inf) <= now and chain not in self._disputes
        ]

    def _is_open(self, replica: Replica, log: Log, now: float) -> bool:
        """Whether there is more to learn from this peer about the log."""
        disputed = any(chain.log is log and each.link == replica.link for chain, each in self._disputes.items())
        return disputed or bool(self._wanted(replica, log, now))

    def _is_free(self, chain: LogId, now: float) -> bool:
        """Whether a chain may be asked for: nobody else was asked, or who was is slow."""
        asked = self._replicas.get(self._asked.get(chain, 0))
        return asked is None or asked.question is None or asked.question.is_slow(now)

    def _close_question(self, replica: Replica, now: float) -> None:
        """All has come that will. What was promised and did not come is not asked for again at once."""
        question, replica.question = replica.question, None
        assert question is not None
        for span in question.spans:
            if self._asked.get(span.chain) == replica.link:
                del self._asked[span.chain]
            mine = self._tips.get(span.chain)
            if question.evidence:
                self._judge(replica, span.chain, now)
            elif (mine.sequence if mine else 0) < self._worth(span.chain, span.last):
                replica.fruitless[span.chain] = now + FRUITLESS_PAUSE

    def _take_back(self, replica: Replica, now: float) -> None:
        """Stop a question that leads nowhere."""
        question = replica.question
        assert question is not None
        for span in question.spans:
            if self._asked.get(span.chain) == replica.link:
                del self._asked[span.chain]
            if question.evidence:
                self._judge(replica, span.chain, now)
        replica.ask((), now)

    # Forks

    def _dispute(self, replica: Replica, chain: LogId, different: int) -> None:
        """Begin to search, unless it is done already for just these heads. One peer at a time is enough."""
        mine, theirs = self._tips.get(chain), replica.theirs.get(chain)
        if mine is None or theirs is None or different < 1 or chain in self._disputes:
            return
        if replica.judged.get(chain) != (mine.hash, theirs.hash):
            self._disputes[chain] = _Dispute(replica.link, Search(different))

    def _search(self, replica: Replica, now: float) -> None:
        if replica.comparing is not None or replica.over:
            return
        for chain, dispute in self._disputes.items():
            if dispute.link == replica.link and dispute.search.found is None:
                replica.comparing = AskHashes(chain, dispute.search.questions())
                replica.compared_at = now
                replica.send(replica.comparing)
                return

    def _judge(self, replica: Replica, chain: LogId, now: float) -> None:
        """The search is over, whatever it brought: not again before either side's head is another."""
        dispute = self._disputes.get(chain)
        if dispute is None or dispute.link != replica.link:
            return
        del self._disputes[chain]
        mine, theirs = self._tips.get(chain), replica.theirs.get(chain)
        if mine is not None and theirs is not None:
            replica.judged[chain] = mine.hash, theirs.hash
        for other in self._all_live():
            self._compare(other, chain, now)

    def _is_other_branch(self, replica: Replica, chain: LogId) -> bool:
        """Whether the peer holds the branch of a roster log that its author's revocation names, and we another.

        The search for the first difference comes first: the proof of the fork is everybody's to see. A peer that lies
        about its head makes us drop what counts for nothing.
        """
        pin, mine, theirs = self._roster.pin(chain), self._tips.get(chain), replica.theirs.get(chain)
        if pin is None or mine is None or theirs is None or chain.author == self._me or chain in self._dropping:
            return False
        if replica.branches[chain] >= BRANCH_TRIES:
            return False
        return theirs.head == pin != mine.head and replica.judged.get(chain) == (mine.hash, theirs.hash)

    def _is_shown_elsewhere(self, chain: LogId, theirs: Tip) -> bool:
        """Whether a peer shows the branch that a revocation names, and this one does not: it may be on the other."""
        pin = self._roster.pin(chain)
        if pin is None or theirs.head == pin:
            return False
        return any(each.theirs[chain].head == pin for each in self._all_live() if chain in each.theirs)

    # Ends

    def _see_out(self, replica: Replica, changed: Iterable[LogId], now: float) -> None:
        """Nothing more is expected of this link, and nothing told on it but the records by which its peer is out."""
        spans = []
        for chain in changed:
            mine, theirs = self._tips.get(chain), replica.theirs.get(chain)
            first = theirs.sequence + 1 if theirs else 1
            if chain.log is Log.ROSTER and mine is not None and first <= mine.sequence:
                spans.append(Span(chain, first, mine.sequence))
        self._release(replica, now)
        replica.out.clear()
        if spans:
            replica.farewell_by = now + FAREWELL
            replica.events.append(FarewellDue(replica.link, tuple(spans[:SPANS_LIMIT])))
        else:
            self._put_out(replica, now)

    def _fail(self, replica: Replica, why: str, now: float) -> None:
        replica.events.append(Failed(replica.link, why))
        self._release(replica, now)

    def _put_out(self, replica: Replica, now: float) -> None:
        replica.events.append(Outsider(replica.link))
        self._release(replica, now)

    def _release(self, replica: Replica, now: float) -> None:
        """Nothing more is expected of this link."""
        replica.over, replica.farewell_by = True, None
        self._asked = {chain: link for chain, link in self._asked.items() if link != replica.link}
        for chain in [chain for chain, each in self._disputes.items() if each.link == replica.link]:
            del self._disputes[chain]
            for other in self._all_live():
                self._compare(other, chain, now)
        self._pursue(now)

    def _news(self, replica: Replica, chain: LogId, now: float) -> None:
        """Tell of a chain: of our own at once, of others' a little later."""
        replica.mark(chain, now if chain.author == self._me else now + TELL_DELAY)

    def _worth(self, chain: LogId, sequence: int) -> int:
        """How much of a chain of this length is worth having."""
        last = self._roster.accepts(chain)
        return sequence if last is None else min(sequence, last)

    def _is_member(self, key: bytes) -> bool:
        member = self._roster.members.get(key)
        return member is not None and member.is_active

    def _live(self, link: int) -> Replica | None:
        replica = self._replicas.get(link)
        return None if replica is None or replica.over else replica

    def _speaking(self, link: int) -> Replica | None:
        """A link that is live, or whose peer is being told why it is not."""
        replica = self._replicas.get(link)
        return None if replica is None or (replica.over and replica.farewell_by is None) else replica

    def _all_live(self) -> list[Replica]:
        return [replica for replica in self._replicas.values() if not replica.over]
