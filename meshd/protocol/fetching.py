"""Fetching one blob from several members at once: docs/protocol/blobs.md, "Fetching" and "Whom to believe".

Sans-IO, and without the bytes: the driver hands chunks to the disk, where they are checked, and tells what came of it.

    add_holder, drop_holder      links come and go
    next_request                 whom to ask for what, until it is None; then again after any of the others
    looked_up, listed, refused   a holder's answers but for chunks
    arrived, verified, wrong     a chunk came (is it still wanted?), was right and is written, was not
    next_event                   List, Everything, SetAside, Starved, Failed
    resumed, not_whole           the driver's answers to List and Everything

All times are seconds of one monotonic clock.
"""

import enum
from collections import Counter, deque
from collections.abc import Collection, Iterable
from typing import Final

import attrs

from meshd.errors import LocalProtocolError, RefusedError
from meshd.model.chunks import CHUNK, DIGEST, ChunkList, chunk_count
from meshd.model.identity import NodeId
from meshd.protocol.holder import SILENCE, Holder, Knows, Offer
from meshd.wire.fetch import LIST_PAGE

MOST_OUTSTANDING: Final = 12
"""Chunks asked for and not here, over all holders: what a crash makes travel again (12 MiB), and what memory holds."""

HURRY: Final = 1.5
"""At the end a chunk is asked of a second holder when that one would have it this many times sooner than the first."""

TICK: Final = 0.25
"""Seconds between two looks for such chunks."""

LOOK_WAIT: Final = 1.0
"""Seconds after the first HOLDS for the other holders to answer before a list that nobody signed is chosen."""

STARVED_AFTER: Final = 5.0
"""Seconds without any holder before the file is let go: links that come back at once cost no second look at it."""


class Reason(enum.Enum):
    """Why a holder is not asked for this blob any more, as people are told."""

    DAMAGED = "its copy is damaged"
    WRONG = "it sent bytes that are not the blob's"
    LIED = "its list of chunks is not the blob's"
    SILENT = "it did not answer"


@attrs.frozen
class List:
    """The chunk list is known: `resumed` tells which chunks are here already. Space is checked before that."""

    chunks: ChunkList


@attrs.frozen
class Everything:
    """All chunks are here and right. The driver checks the whole: it keeps the blob, or says `not_whole`."""


@attrs.frozen
class SetAside:
    """A holder is not asked for this blob any more."""

    holder: NodeId
    reason: Reason


@attrs.frozen
class Starved:
    """No holder is left: let go of the file. A new List comes when somebody has the blob again."""


@attrs.frozen
class Failed:
    """It cannot be fetched whoever has it."""

    error: RefusedError


Event = List | Everything | SetAside | Starved | Failed


@attrs.frozen
class AskWhether:
    """Does this holder have it? (LOOKUP)"""


@attrs.frozen
class AskList:
    """The list from this chunk on (WANT_LIST)."""

    first: int


@attrs.frozen
class AskChunk:
    """One chunk (WANT)."""

    index: int


Ask = AskWhether | AskList | AskChunk


class State(enum.Enum):
    LOOKING = enum.auto()
    LISTING = enum.auto()
    RESUMING = enum.auto()
    MOVING = enum.auto()
    CHECKING = enum.auto()
    FAILED = enum.auto()


@attrs.frozen
class Outlook:
    """Where a fetch stands, for people. Bytes; `holders` serve, `pending` have not said, `damaged` said so."""

    size: int | None
    done: int
    moved: int
    holders: int
    pending: int
    damaged: tuple[NodeId, ...]


class Fetch:
    """One blob on its way here. `announced` is what an author signed about it; `limit` the most bytes it may have."""

    def __init__(self, digest: bytes, now: float, *, announced: Offer | None = None, limit: int | None = None) -> None:
        self.digest = digest
        self.state = State.LOOKING
        self.moved = 0
        """Bytes of chunks that came, wrong and second ones included."""
        self._announced = announced
        self._limit = limit
        self._holders: dict[NodeId, Holder] = {}
        self._events: deque[Event] = deque()
        self._offered_at: float | None = None
        self._offer: Offer | None = None
        self._tried: Counter[Offer] = Counter()
        self._pages = bytearray()
        self._chunks: ChunkList | None = None
        self._todo: deque[int] = deque()
        self._left: set[int] = set()
        self._writing: set[int] = set()
        self._done = 0
        self._starving_since: float | None = None
        self._tick_at = now

    # Holders.

    def add_holder(self, node: NodeId, now: float) -> None:
        """A member is linked; it may have the blob."""
        if node not in self._holders:
            self._holders[node] = Holder(node, now)

    def drop_holder(self, node: NodeId, now: float) -> None:
        """Its link is gone: others are asked for what it owes."""
        holder = self._holders.pop(node, None)
        if holder is not None:
            self._give_back(holder)
            self._look_around(now)

    def heard(self, node: NodeId, now: float) -> None:
        """Bytes came from there, of whatever answer."""
        if (holder := self._holders.get(node)) is not None:
            holder.heard = now

    @property
    def outlook(self) -> Outlook:
        """Where it stands."""
        holders = self._holders.values()
        size = self._offer.size if self._offer else self._announced.size if self._announced else None
        return Outlook(
            size=size,
            done=self._done,
            moved=self.moved,
            holders=sum(holder.knows is Knows.HAS for holder in holders),
            pending=sum(holder.knows in (Knows.NOTHING, Knows.ASKED) for holder in holders),
            damaged=tuple(holder.node for holder in holders if holder.is_damaged and holder.knows is not Knows.HAS),
        )

    # What holders answer.

    def looked_up(self, node: NodeId, offer: Offer, now: float) -> None:
        """HOLDS."""
        holder = self._holders.get(node)
        if holder is None or holder.knows is not Knows.ASKED:
            return
        holder.knows, holder.offer = Knows.HAS, offer
        self._look_around(now)

    def listed(self, node: NodeId, first: int, digests: bytes, now: float) -> None:
        """LIST."""
        holder = self._holders.get(node)
        if holder is None or not holder.listing:
            return
        holder.listing = False
        if self.state is not State.LISTING or self._offer is None or first * DIGEST != len(self._pages):
            return
        left = chunk_count(self._offer.size) * DIGEST - len(self._pages)
        if len(digests) != min(left, LIST_PAGE * DIGEST):
            self._set_aside(holder, Reason.LIED, now)
            return
        self._pages += digests
        if len(digests) == left:
            self._take_list(holder, now)

    def refused(self, node: NodeId, *, is_damaged: bool, now: float) -> None:
        """NOT_SERVED."""
        holder = self._holders.get(node)
        if holder is None or holder.knows is Knows.ASIDE:
            return
        self._give_back(holder)
        holder.has_not(now)
        if is_damaged and not holder.is_damaged:
            holder.is_damaged = True
            self._events.append(SetAside(node, Reason.DAMAGED))
        self._look_around(now)

    def arrived(self, node: NodeId, index: int, size: int, now: float) -> bool:
        """A chunk came. Whether it is still wanted: then check and write it, and say `verified` or `wrong`."""
        self.moved += size
        holder = self._holders.get(node)
        asked = holder.outstanding.pop(index, None) if holder else None
        if holder is None or asked is None:
            return False
        holder.took(asked, size, now)
        if self.state is not State.MOVING or index not in self._left or index in self._writing:
            return False
        self._writing.add(index)
        return True

    def verified(self, node: NodeId, index: int, now: float) -> None:
        """It was right, and is written."""
        self._writing.discard(index)
        if self.state is State.MOVING and self._chunks is not None and index in self._left:
            self._left.discard(index)
            self._done += self._chunks.length(index)
            if (holder := self._holders.get(node)) is not None:
                holder.delivered()
            self._check_end()

    def wrong(self, node: NodeId, index: int, now: float) -> None:
        """It was not: its sender named this list, so that it is the sender who is wrong, whoever made the list."""
        self._writing.discard(index)
        if self.state is State.MOVING and index in self._left:
            self._return([index])
        holder = self._holders.get(node)
        if holder is not None and holder.knows is not Knows.ASIDE:
            self._set_aside(holder, Reason.WRONG, now)

    # What the driver says.

    def resumed(self, present: Collection[int], now: float) -> None:
        """The file is open, and these chunks were found in it."""
        self._require(State.RESUMING)
        assert self._chunks is not None
        self._left = set(range(self._chunks.count)) - set(present)
        self._done = self._chunks.size - sum(self._chunks.length(index) for index in self._left)
        self._todo = deque(sorted(self._left))
        self.state = State.MOVING
        self._check_end()
        self._look_around(now)

    def not_whole(self, now: float) -> None:
        """All chunks fit the list, and together they are not the blob: the list is false, and so is who named it."""
        self._require(State.CHECKING)
        if self._offer == self._announced:
            self._announced = None  # its author signed for something that does not exist; others may hold the blob
        for holder in list(self._serving()):
            self._set_aside(holder, Reason.LIED, now)
        self._start_over(now)

    def next_event(self) -> Event | None:
        """The oldest event that the driver has not taken, or None."""
        return self._events.popleft() if self._events else None

    def next_request(self, full: Collection[NodeId], now: float) -> tuple[NodeId, Ask] | None:
        """Whom to ask for what, now; the driver does ask. Holders in `full` can take no more requests."""
        free = [holder for holder in self._holders.values() if holder.node not in full]
        for holder in free:
            if self.state is not State.FAILED and holder.knows is Knows.NOTHING:
                holder.knows, holder.heard = Knows.ASKED, now
                return holder.node, AskWhether()
        if self.state is State.LISTING:
            return self._ask_list(free, now)
        if self.state is State.MOVING:
            return self._ask_chunk(free, now)
        return None

    def next_deadline(self) -> float | None:
        """When `on_deadline` is due."""
        times = [holder.heard + SILENCE for holder in self._holders.values() if holder.owes]
        times += [holder.retry_at for holder in self._holders.values() if holder.knows is Knows.HAS_NOT]
        if self.state is State.LOOKING and self._offered_at is not None:
            times.append(self._offered_at + LOOK_WAIT)
        if self._starving_since is not None:
            times.append(self._starving_since + STARVED_AFTER)
        if self.state is State.MOVING and not self._todo:
            times.append(self._tick_at + TICK)
        return min(times, default=None) if self.state is not State.FAILED else None

    def on_deadline(self, now: float) -> None:
        """What is due by now; then ask `next_request`."""
        self._tick_at = now
        for holder in list(self._holders.values()):
            if holder.owes and now >= holder.heard + SILENCE:
                self._set_aside(holder, Reason.SILENT, now)
            elif holder.knows is Knows.HAS_NOT and now >= holder.retry_at:
                holder.knows = Knows.NOTHING
        if self._starving_since is not None and now >= self._starving_since + STARVED_AFTER:
            self._events.append(Starved())
            self._start_over(now)
        self._look_around(now)

    # Which list.

    def _look_around(self, now: float) -> None:
        """See whether a list can be chosen, and whether anybody is left to serve the one that was."""
        if self.state is State.LOOKING:
            self._choose(now)
        elif self.state in (State.LISTING, State.MOVING):
            if any(True for _ in self._serving()):
                self._starving_since = None
            elif self._starving_since is None:
                self._starving_since = now

    def _choose(self, now: float) -> None:
        holders = self._holders.values()
        offers = Counter(holder.offer for holder in holders if holder.knows is Knows.HAS and holder.offer is not None)
        if not offers:
            self._offered_at = None
            return
        if self._offered_at is None:
            self._offered_at = now
        pending = any(holder.knows in (Knows.NOTHING, Knows.ASKED) for holder in self._holders.values())
        # One that came to nothing before comes after all others: else two liars could keep us busy in turns. What its
        # author signed comes first. Honest holders name one list, so the most common is the best guess; the whole decides.
        offer = min(offers, key=lambda each: (self._tried[each], each != self._announced, -offers[each]))
        if offer != self._announced and pending and now < self._offered_at + LOOK_WAIT:
            return
        if self._limit is not None and offer.size > self._limit:
            self.state = State.FAILED
            what = f"The blob has {offer.size:,} bytes; {self._limit:,} are allowed here."
            self._events.append(Failed(RefusedError(what, "Raise the limit, or get it by its handle.")))
            return
        self._offer, self.state = offer, State.LISTING
        self._tried[offer] += 1
        self._pages.clear()
        if offer.size <= CHUNK:
            self._pages += ChunkList.of_one(self.digest, offer.size).digests
            self._take_list(None, now)

    def _take_list(self, sender: Holder | None, now: float) -> None:
        """All pages are here: go on, or set aside who sent them (of one chunk: whoever named such a list)."""
        assert self._offer is not None
        chunks = ChunkList(self._offer.size, bytes(self._pages))
        self._pages.clear()
        if chunks.digest == self._offer.list_digest:
            self._chunks, self.state = chunks, State.RESUMING
            self._events.append(List(chunks))
            return
        for holder in [sender] if sender else list(self._serving()):
            self._set_aside(holder, Reason.LIED, now)
        if sender is None:
            if self._offer == self._announced:
                self._announced = None
            self._start_over(now)

    def _ask_list(self, free: list[Holder], now: float) -> tuple[NodeId, Ask] | None:
        if any(holder.listing for holder in self._holders.values()):
            return None
        for holder in free:
            if self._serves(holder):
                if not holder.owes:
                    holder.heard = now
                holder.listing = True
                return holder.node, AskList(len(self._pages) // DIGEST)
        return None

    # Which chunk.

    def _ask_chunk(self, free: list[Holder], now: float) -> tuple[NodeId, Ask] | None:
        if sum(len(holder.outstanding) for holder in self._holders.values()) >= MOST_OUTSTANDING:
            return None
        willing = [holder for holder in free if self._serves(holder) and len(holder.outstanding) < holder.window]
        willing.sort(key=lambda holder: holder.seconds(len(holder.outstanding) + 1))
        for holder in willing:
            index = self._todo.popleft() if self._todo else self._hurry(holder, now)
            if index is not None:
                if not holder.owes:
                    holder.heard = now
                holder.outstanding[index] = now
                return holder.node, AskChunk(index)
        return None

    def _hurry(self, holder: Holder, now: float) -> int | None:
        """The chunk that another holder will bring last, if this one would bring it much sooner."""
        mine = holder.seconds(len(holder.outstanding) + 1)
        asked = Counter(index for other in self._holders.values() for index in other.outstanding)
        late = [
            (other.due(index, now), index)
            for other in self._holders.values()
            if other is not holder and holder.rate is not None
            for index in other.outstanding
            if index in self._left and index not in self._writing and asked[index] == 1
        ]
        seconds, index = max(late, default=(0.0, -1))
        return index if index >= 0 and mine * HURRY < seconds else None

    def _check_end(self) -> None:
        if self.state is State.MOVING and not self._left:
            self.state = State.CHECKING
            self._starving_since = None
            self._events.append(Everything())

    # Holders that fail.

    def _serves(self, holder: Holder) -> bool:
        return holder.knows is Knows.HAS and holder.offer == self._offer

    def _serving(self) -> Iterable[Holder]:
        return (holder for holder in self._holders.values() if self._serves(holder))

    def _set_aside(self, holder: Holder, reason: Reason, now: float) -> None:
        holder.knows = Knows.ASIDE
        self._give_back(holder)
        self._events.append(SetAside(holder.node, reason))
        self._look_around(now)

    def _give_back(self, holder: Holder) -> None:
        """What a holder owes is asked of others; what it still sends of it is dropped."""
        owed = [index for index in holder.outstanding if index in self._left and index not in self._writing]
        holder.outstanding.clear()
        if holder.listing:
            holder.listing = False
            self._pages.clear()
        self._return(owed)

    def _return(self, indexes: Iterable[int]) -> None:
        elsewhere = {index for holder in self._holders.values() for index in holder.outstanding} | set(self._todo)
        self._todo.extendleft(sorted(set(indexes) - elsewhere, reverse=True))

    def _start_over(self, now: float) -> None:
        """Back to looking, with what holders have said so far."""
        for holder in self._holders.values():
            holder.outstanding.clear()
            holder.listing = False
        self._offer = self._chunks = self._starving_since = None
        self._pages.clear()
        self._todo.clear()
        self._left.clear()
        self._writing.clear()
        self._done = 0
        self.state = State.LOOKING
        self._choose(now)

    def _require(self, state: State) -> None:
        if self.state is not state:
            raise LocalProtocolError(f"a fetch that is {self.state.name} was used as if it were {state.name}")
