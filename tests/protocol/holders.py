"""A fetch against simulated holders, back to back: bytes go over both machines of a stream, time is a number."""

import heapq
import itertools
from collections.abc import Callable

import attrs

from meshd.model.chunks import CHUNK, ChunkList
from meshd.model.identity import NodeId
from meshd.protocol import fetching
from meshd.protocol.asking import Answering, Asking
from meshd.protocol.fetching import AskChunk, AskList, AskWhether, Fetch, Reason
from meshd.protocol.holder import Offer
from meshd.wire.constants import Frame
from meshd.wire.fetch import Absence, Chunk, Holds, List, Lookup, NotServed, Want, WantList, encode, raw_head


@attrs.define(eq=False)
class SimHolder:
    """Answers in order, chunks at `rate` bytes a second. What it says can be made false."""

    name: str
    chunks: ChunkList | None
    rate: float
    delay: float = 0.001
    offer: Offer | None = None
    lists: bytes | None = None
    spoil: Callable[[int], bool] = lambda _: False
    damaged_at: int | None = None
    silent_after: float = float("inf")
    asking: Asking = attrs.field(factory=Asking)
    answering: Answering = attrs.field(factory=Answering)
    free_at: float = 0.0
    sent: int = 0

    @property
    def node(self) -> NodeId:
        return NodeId(self.name.encode().ljust(32, b"."))


class World:
    """One fetch and its holders. Content of a chunk is its index, since the list alone says what is right."""

    def __init__(self, fetch: Fetch, holders: list[SimHolder]) -> None:
        self.fetch = fetch
        self.holders = {holder.node: holder for holder in holders}
        self.now = 0.0
        self.events: list[object] = []
        self.aside: list[tuple[str, Reason]] = []
        self.present: set[int] = set()
        self.is_whole: Callable[[], bool] = lambda: True
        self.done = False
        self.failed: Exception | None = None
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        for holder in holders:
            fetch.add_holder(holder.node, 0.0)

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (when, next(self._order), action))

    def lose(self, name: str) -> None:
        holder = next(each for each in self.holders.values() if each.name == name)
        del self.holders[holder.node]
        self.fetch.drop_holder(holder.node, self.now)

    def join(self, holder: SimHolder) -> None:
        self.holders[holder.node] = holder
        self.fetch.add_holder(holder.node, self.now)

    def run(self, until: float = 10_000.0) -> float:
        """Until it is done or failed, or nothing more happens by `until`. Returns when."""
        while not self.done and self.failed is None:
            self._pump()
            deadline = self.fetch.next_deadline()
            soonest = min([self._queue[0][0]] if self._queue else [], default=None)
            times = [each for each in (deadline, soonest) if each is not None]
            if self.done or self.failed or not times or min(times) > until:
                break
            assert min(times) >= self.now or deadline == min(times)
            self.now = max(self.now, min(times))
            if soonest is not None and soonest <= self.now:
                heapq.heappop(self._queue)[2]()
            if deadline is not None and deadline <= self.now:
                self.fetch.on_deadline(self.now)
        return self.now

    def _pump(self) -> None:
        while True:
            while (event := self.fetch.next_event()) is not None:
                self._take(event)
            full = {node for node, holder in self.holders.items() if holder.asking.is_full}
            wanted = self.fetch.next_request(full, self.now)
            if wanted is None:
                if self.fetch._events:
                    continue
                return
            holder = self.holders[wanted[0]]
            match wanted[1]:
                case AskWhether():
                    holder.asking.lookup(self.fetch.digest)
                case AskList(first):
                    holder.asking.want_list(self.fetch.digest, first)
                case AskChunk(index):
                    holder.asking.want(self.fetch.digest, index)
            holder.answering.receive_data(holder.asking.data_to_send(self.now), self.now)
            while (request := holder.answering.next_request()) is not None:
                self._answer(holder, request)

    def _take(self, event: fetching.Event) -> None:
        self.events.append(event)
        match event:
            case fetching.List():
                self.fetch.resumed(self.present, self.now)
            case fetching.Everything():
                self.done = self.is_whole()
                if not self.done:
                    self.fetch.not_whole(self.now)
            case fetching.SetAside(node, reason):
                self.aside.append((node.rstrip(b".").decode(), reason))
            case fetching.Failed(error):
                self.failed = error

    def _answer(self, holder: SimHolder, request: object) -> None:
        start = max(self.now, holder.free_at)
        if start >= holder.silent_after:
            return
        if holder.chunks is None:
            assert isinstance(request, Lookup)
            self._deliver(holder, start, encode(NotServed(request.number, Absence.ABSENT)))
            return
        match request:
            case Lookup(number):
                offer = holder.offer or Offer(holder.chunks.size, holder.chunks.digest)
                self._deliver(holder, start, encode(Holds(number, offer.size, offer.list_digest)))
            case WantList(number, _, first):
                page = (holder.lists or holder.chunks.digests)[first * 32 : (first + 32768) * 32]
                self._deliver(holder, start, raw_head(Frame.LIST, number, len(page)) + page)
            case Want(number, _, index):
                if holder.damaged_at is not None and index >= holder.damaged_at:
                    self._deliver(holder, start, encode(NotServed(number, Absence.DAMAGED)))
                    return
                size = holder.chunks.length(index)
                holder.sent += size
                holder.free_at = start + size / holder.rate
                body = b"wrong" if holder.spoil(index) else b"right"
                self._deliver(holder, holder.free_at, raw_head(Frame.BLOB_CHUNK, number, 5) + body)

    def _deliver(self, holder: SimHolder, when: float, data: bytes) -> None:
        def arrive() -> None:
            if self.holders.get(holder.node) is not holder:
                return
            holder.asking.receive_data(data, self.now)
            self.fetch.heard(holder.node, self.now)
            while (answered := holder.asking.next_event()) is not None:
                self._answered(holder, answered.request, answered.answer)

        self.at(when + holder.delay, arrive)

    def _answered(self, holder: SimHolder, request: object, answer: object) -> None:
        match answer:
            case Holds(_, size, list_digest):
                self.fetch.looked_up(holder.node, Offer(size, list_digest), self.now)
            case List(_, digests):
                assert isinstance(request, WantList)
                self.fetch.listed(holder.node, request.first, digests, self.now)
            case NotServed(_, why):
                self.fetch.refused(holder.node, is_damaged=why is Absence.DAMAGED, now=self.now)
            case Chunk(_, data):
                assert isinstance(request, Want)
                if self.fetch.arrived(holder.node, request.index, CHUNK, self.now):
                    if bytes(data) == b"right":
                        self.present.add(request.index)
                        self.fetch.verified(holder.node, request.index, self.now)
                    else:
                        self.fetch.wrong(holder.node, request.index, self.now)
