"""What a replication knows of one link: what was told each way, what is asked, answered and pushed on it."""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import attrs

from meshd.errors import RemoteProtocolError
from meshd.model.record import Log, LogId
from meshd.protocol.replication_events import Event, Lag, ReadDue
from meshd.wire.framing import FrameDecoder
from meshd.wire.sync import (
    SYNC_FRAMES,
    TIPS_IN_FRAME,
    Arrived,
    AskHashes,
    AskRecords,
    Heads,
    Message,
    Probe,
    Records,
    Span,
    Tip,
    batches,
)

HEADS_LIMIT: Final = 16_384
"""Chains of one log that a peer may name: MEMBERS_LIMIT members with 16 generations each. 3 MB of memory at most."""

WINDOW: Final = 2
"""Batches under way to who asked: one travels while the other is stored. It bounds both sides' memory."""

PUSH_WINDOW: Final = 256 * 1024
"""Bytes of own records pushed and not yet acknowledged. Who falls behind is told of heads and pulls at its own pace."""

PATIENCE: Final = 5.0
"""Seconds after which a chain may be asked of a second peer, when the first brings less than SLOW."""

SLOW: Final = 8 * 1024
"""Bytes a second: a link that is slower than this is overtaken by any other."""

ANSWER_DEADLINE: Final = 20.0
"""Seconds for the next batch, or for hashes: a busy disk needs a few."""

HEADS_DEADLINE: Final = 30.0
"""Seconds from the link's beginning for all heads of the roster log."""

PROBES_LIMIT: Final = 16
"""Probes under way on one link, and echoes that wait for a disk."""

FAREWELL: Final = 2.0
"""Seconds that a peer which has just lost its membership has to store the reason: a round trip over a slow path, and a
commit."""


@attrs.define(eq=False)
class Question:
    """Records that we have asked for, and wait for."""

    number: int
    spans: tuple[Span, ...]
    since: float
    heard: float
    evidence: bool
    """It fetches the other side of a fork."""

    got: int = 0
    undealt: int = 0
    """Batches that came and that the driver has not stored yet."""

    waited: bool = False
    """PATIENCE has passed, and others were asked if it was slow."""

    def is_slow(self, now: float) -> bool:
        waited = now - self.since
        return waited >= PATIENCE and self.got < SLOW * waited and not self.undealt


@attrs.define(eq=False)
class _Answer:
    """Records that the peer has asked for."""

    number: int
    spans: tuple[Span, ...]
    credit: int = WINDOW
    reading: bool = False


class Replica:
    """One link. replication.py decides; this keeps count and makes frames."""

    def __init__(self, link: int, peer: bytes, now: float) -> None:
        self.link, self.peer, self.since = link, peer, now
        self.spoke = now
        """When the peer last said anything."""
        self.over = False
        self.settled = False
        self.own_known = False
        self.decoder = FrameDecoder(SYNC_FRAMES)
        self.events: deque[Event] = deque()
        self.out = bytearray()
        self.theirs: dict[LogId, Tip] = {}
        self.heard: set[Log] = set()
        """Logs whose heads the peer has told completely."""
        self.told: set[Log] = set()
        """Logs whose heads we have."""
        self.lacking: dict[Log, dict[LogId, None]] = {log: {} for log in Log}
        """Chains of which the peer has more than we do, and that are worth having."""
        self.fruitless: dict[LogId, float] = {}
        """Chains that were asked for in vain, and when to ask again."""
        self.judged: dict[LogId, tuple[bytes, bytes]] = {}
        """Chains that were searched for a fork, at these heads of ours and theirs."""
        self.own_told: set[LogId] = set()
        self.branches: Counter[LogId] = Counter()
        """Chains of which ours was dropped for the branch that this peer holds, and how often."""
        self.question: Question | None = None
        self.comparing: AskHashes | None = None
        self.compared_at = 0.0
        self.answers_hashes = False
        self.probes: dict[bytes, float] = {}
        self.farewell: bytes = b""
        """The token whose echo says that the peer, which is out, has stored why."""
        self.farewell_by: float | None = None
        """Until when that is waited for; None when it is not."""
        self._undealt = 0
        self._echoes: list[bytes] = []
        self.tell_at: float | None = None
        self._changed: dict[LogId, None] = {}
        self._numbers = 0
        self._answer: _Answer | None = None
        self._last_asked = 0
        self._pushed: dict[LogId, deque[tuple[int, bytes, int]]] = {}
        self._in_flight = 0

    def send(self, message: Message) -> None:
        """Put a message on its way."""
        self.out += message.encode()

    # Echoes: what came before a probe is on the disk when it is answered, so that an echo is a receipt.

    def probed(self, token: bytes) -> None:
        """The peer asks for an echo. Raises RemoteProtocolError when too many wait."""
        if not self._undealt:
            self.send(Probe(token, echo=True))
            return
        if len(self._echoes) >= PROBES_LIMIT:
            raise RemoteProtocolError("The other side asked for more echoes than can wait.")
        self._echoes.append(token)

    def batch_arrived(self) -> None:
        """Records are with the driver."""
        self._undealt += 1

    def batch_dealt(self, *, stored: bool) -> None:
        """The driver has dealt with a batch; where our disk refused it, no probe behind it is answered."""
        self._undealt -= 1
        if not stored:
            self._echoes.clear()
        if not self._undealt:
            for token in self._echoes:
                self.send(Probe(token, echo=True))
            self._echoes.clear()

    # Time

    def deadlines(self) -> Iterable[float]:
        """When `pass_time` has something to do."""
        yield from self.fruitless.values()
        if self.tell_at is not None and self.tell_at > -math.inf:
            yield self.tell_at
        if Log.ROSTER not in self.heard:
            yield self.since + HEADS_DEADLINE
        question = self.question
        if question is not None and not question.undealt:
            yield question.heard + ANSWER_DEADLINE
        if question is not None and not question.waited:
            yield question.since + PATIENCE
        if self.comparing is not None and self.compared_at < math.inf:
            yield self.compared_at + ANSWER_DEADLINE

    def pass_time(self, now: float) -> str:
        """Time has passed. Why the link has to end, or nothing."""
        self.fruitless = {chain: until for chain, until in self.fruitless.items() if until > now}
        if self.tell_at is not None and self.tell_at <= now:
            self.tell_at = -math.inf  # due; whoever sends takes it when there is room
        question = self.question
        if question is not None and now >= question.since + PATIENCE:
            question.waited = True
        if Log.ROSTER not in self.heard and now >= self.since + HEADS_DEADLINE:
            return "The other side did not say in time which records it holds."
        if question is not None and not question.undealt and now >= question.heard + ANSWER_DEADLINE:
            return "The other side did not send records that it says it holds."
        if self.comparing is not None and now >= self.compared_at + ANSWER_DEADLINE:
            return "The other side did not tell hashes of records that it says it holds."
        return ""

    def lag(self, tips: Mapping[LogId, Tip], worth: Callable[[LogId, int], int]) -> Lag:
        """How far the two sides are apart; `worth` says how much of a chain of a length is worth having."""
        nothing = Tip(0, b"", 0)
        here, there, bytes_here, bytes_there = 0, 0, 0, 0
        for chain in {**self.theirs, **tips}:
            mine, theirs = tips.get(chain, nothing), self.theirs.get(chain, nothing)
            ahead = worth(chain, theirs.sequence) - mine.sequence
            if chain.log not in self.heard:
                continue
            if ahead > 0:
                here, bytes_here = here + ahead, bytes_here + max(0, theirs.size - mine.size)
            elif mine.sequence > theirs.sequence:
                there += mine.sequence - theirs.sequence
                bytes_there += max(0, mine.size - theirs.size)
        return Lag(here, bytes_here, there, bytes_there, self.spoke)

    # Heads

    def _check_heads(self) -> None:
        if len(self.theirs) > HEADS_LIMIT * len(Log):
            raise RemoteProtocolError("The other side names more chains than there can be.")

    def hear(self, heads: Heads) -> None:
        """Take what the peer says that it holds. Raises RemoteProtocolError when it says too much."""
        if heads.complete and heads.log in self.heard:
            raise RemoteProtocolError("The other side told twice that it has told all its heads.")
        for chain, tip in heads.tips:
            if tip is None:
                self.theirs.pop(chain, None)
                continue
            self.theirs[chain] = tip
            self._acknowledge(chain, tip.sequence)
        self._check_heads()
        if heads.complete:
            self.heard.add(heads.log)

    def tell_all(self, log: Log, tips: Iterable[tuple[LogId, Tip]]) -> None:
        """Tell all heads of a log, once."""
        ours = [each for each in tips if each[0].log is log][:HEADS_LIMIT]
        starts = range(0, len(ours), TIPS_IN_FRAME) or range(1)
        for start in starts:
            complete = start + TIPS_IN_FRAME >= len(ours)
            self.send(Heads(log, complete, tuple(ours[start : start + TIPS_IN_FRAME])))
        self.told.add(log)

    def mark(self, chain: LogId, at: float) -> None:
        """Tell of this chain at that time, at the latest."""
        if chain.log in self.told:
            self._changed[chain] = None
            self.tell_at = at if self.tell_at is None else min(self.tell_at, at)

    def unmark(self, chain: LogId) -> None:
        """The peer hears of it in another way."""
        self._changed.pop(chain, None)
        if not self._changed:
            self.tell_at = None

    def tell_changes(self, tips: dict[LogId, Tip]) -> None:
        """Tell what has changed since it was told."""
        for log in Log:
            changed = [(chain, tips.get(chain)) for chain in self._changed if chain.log is log]
            for start in range(0, len(changed), TIPS_IN_FRAME):
                self.send(Heads(log, False, tuple(changed[start : start + TIPS_IN_FRAME])))
        self._changed.clear()
        self.tell_at = None

    # What we ask

    def ask(self, spans: Sequence[Span], now: float, *, evidence: bool = False) -> None:
        """Ask for records; what was asked before is taken back."""
        self._numbers += 1
        self.send(AskRecords(self._numbers, tuple(spans)))
        self.question = Question(self._numbers, tuple(spans), now, now, evidence) if spans else None

    def take(self, records: Records) -> None:
        """Count what came; who sends a record holds it.

        Raises RemoteProtocolError for an answer to nothing, or faster than it was asked for.
        """
        if records.number > self._numbers:
            raise RemoteProtocolError("The other side answered a question that was not asked.")
        question = self.question
        if question is not None and records.number == question.number:
            question.undealt += 1
            question.got += sum(each.size for each in records.records)
            if question.undealt > WINDOW:
                raise RemoteProtocolError("The other side sent more than it was asked for.")
        for each in records.records:
            record = each.record
            known = self.theirs.get(record.chain)
            if known is None or known.sequence < record.header.sequence:
                # The size is a guess; the next heads set it right.
                size = (known.size if known else 0) + each.size
                self.theirs[record.chain] = Tip(record.header.sequence, record.hash, size)
        self._check_heads()

    # What we answer

    def asked(self, message: AskRecords) -> None:
        """The peer asks; it drops what it asked before."""
        if message.number <= self._last_asked:
            raise RemoteProtocolError("The other side gave two questions one number.")
        self._last_asked = message.number
        self._answer = _Answer(message.number, message.spans) if message.spans else None
        for span in message.spans:
            self._forget_push(span.chain)  # it pulls, so it did not take what was pushed
        self._read_on()

    def more(self) -> None:
        """The peer has dealt with a batch. It may be one before the last, which is on its way: then this says nothing."""
        if self._answer is None:
            return
        if self._answer.credit >= WINDOW:
            raise RemoteProtocolError("The other side asked for more than it was owed.")
        self._answer.credit += 1
        self._read_on()

    def serve(self, number: int, records: Sequence[Arrived], rest: tuple[Span, ...]) -> None:
        """Send what the driver read for question `number`, and read on if the peer can take it."""
        answer = self._answer
        if answer is None or answer.number != number:
            return  # it has asked for something else since
        answer.reading = False
        answer.credit -= 1
        answer.spans = rest
        self.send(Records(number, not rest, tuple(records)))
        if not rest:
            self._answer = None
        self._read_on()

    def _read_on(self) -> None:
        answer = self._answer
        if answer is not None and answer.credit and not answer.reading:
            answer.reading = True
            self.events.append(ReadDue(self.link, answer.spans, answer.number))

    # What we push

    def push(self, records: Iterable[Arrived]) -> set[LogId]:
        """Send those that continue what the peer has, as far as the window allows; the chains that went."""
        ready: list[Arrived] = []
        went: dict[LogId, bool] = {}
        for each in records:
            header = each.record.header
            chain = header.chain
            sequence, digest = self._reach(chain)
            follows = header.sequence == sequence + 1 and (not sequence or header.previous == digest)
            fits = self._in_flight + each.size <= PUSH_WINDOW
            both_told = chain.log in self.told and chain.log in self.heard
            went[chain] = follows and fits and both_told
            if went[chain]:
                ready.append(each)
                self._pushed.setdefault(chain, deque()).append((header.sequence, each.record.hash, each.size))
                self._in_flight += each.size
        for piece in batches(ready):
            self.send(Records(0, True, piece))
        return {chain for chain, whole in went.items() if whole}

    def _reach(self, chain: LogId) -> tuple[int, bytes]:
        pushed, tip = self._pushed.get(chain), self.theirs.get(chain)
        if pushed:
            return pushed[-1][0], pushed[-1][1]
        return (tip.sequence, tip.hash) if tip else (0, b"")

    def _acknowledge(self, chain: LogId, sequence: int) -> None:
        pushed = self._pushed.get(chain)
        while pushed and pushed[0][0] <= sequence:
            self._in_flight -= pushed.popleft()[2]
        if pushed is not None and not pushed:
            del self._pushed[chain]

    def _forget_push(self, chain: LogId) -> None:
        self._in_flight -= sum(size for _, _, size in self._pushed.pop(chain, ()))
