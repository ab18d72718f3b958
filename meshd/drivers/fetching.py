"""Fetching blobs from linked members: one fetch a digest however many wait for it, from all holders at once.

Runs protocol/fetching.py and gathering.py over the streams of asking.py, and writes through blob_files.py.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import attrs
import trio

from meshd.drivers.asking import Peer, full
from meshd.drivers.blob_disk import PartialBlob
from meshd.drivers.blob_files import BlobStore
from meshd.drivers.link import Link
from meshd.drivers.quic import Stream
from meshd.drivers.threads import Offload, in_thread
from meshd.errors import ConnectionLostError, NobodyFoundError, RefusedError, TetherError, TimedOutError
from meshd.model.announcement import BlobRef
from meshd.model.chunks import reference
from meshd.model.handle import BLOB, Handle
from meshd.model.identity import NodeId, node_text
from meshd.notices import BlobFailed, BlobProgress, BlobStored, Damaged, Notify
from meshd.protocol import fetching
from meshd.protocol.asking import Answered
from meshd.protocol.gathering import Gather, Outcome
from meshd.protocol.holder import Offer
from meshd.store.blobs import SMALL_LIMIT
from meshd.wire.fetch import Absence, Chunk, Holds, List, NotServed, Small, Want, WantList, WantSmall

AT_ONCE: Final = 3
"""Blobs whose files are open for writing: each may have 12 MiB under way. The others wait, having found holders."""

PROGRESS_EVERY: Final = 0.5
"""Seconds between two words about one blob's progress."""

Observer = Callable[[BlobProgress], None]


@attrs.define(eq=False)
class _Running:
    """One blob on its way, for `waiting` callers."""

    machine: fetching.Fetch
    handle: str
    started: float
    observers: list[Observer] = attrs.field(factory=list)
    waiting: int = 0
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    wake: trio.Event = attrs.field(factory=trio.Event)
    news: trio.Event = attrs.field(factory=trio.Event)
    """Set, and replaced, when something happened that a caller may want to know."""
    progressed: float = 0.0
    told: float = float("-inf")
    file: PartialBlob | None = None
    has_slot: bool = False
    failed: TetherError | None = None
    result: BlobRef | None = None

    @property
    def is_over(self) -> bool:
        return self.result is not None or self.failed is not None

    def tell(self) -> None:
        self.wake.set()
        self.news.set()
        self.news = trio.Event()


@attrs.define(eq=False)
class _Gathering:
    """Many small blobs on their way, for one caller."""

    machine: Gather
    wake: trio.Event = attrs.field(factory=trio.Event)
    failed: TetherError | None = None


class Fetching:
    """Blobs of one mesh from its members. `run` must be running; `attach` gets each link's stream for our requests.

    `names` gives a member's name for people; `mesh` is the mesh as notices call it.
    """

    def __init__(
        self,
        store: BlobStore,
        names: Callable[[NodeId], str],
        notify: Notify,
        *,
        mesh: str,
        offload: Offload = in_thread,
    ) -> None:
        self._store = store
        self._names = names
        self._notify = notify
        self._mesh = mesh
        self._offload = offload
        self._peers: dict[NodeId, Peer] = {}
        self._running: dict[bytes, _Running] = {}
        self._crowded: set[_Running] = set()
        self._gathering: set[_Gathering] = set()
        self._slots = trio.Semaphore(AT_ONCE)
        self._nursery: trio.Nursery | None = None
        self._ready = trio.Event()

    @property
    def running(self) -> int:
        """Blobs on their way here."""
        return len(self._running)

    async def run(self) -> None:
        """Carry fetches until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._ready.set()
            await trio.sleep_forever()

    async def attach(self, link: Link, stream: Stream) -> None:
        """Ask this member too, until its stream ends. Raises RemoteProtocolError, and what the stream raises."""
        peer, node = Peer(link, stream), link.node
        if node in self._peers:  # a newer link to the same machine: what the older one owes is asked anew
            self._drop(node)
        self._peers[node] = peer
        now = trio.current_time()
        for running in self._running.values():
            running.machine.add_holder(node, now)
            running.tell()
        for gathering in self._gathering:
            gathering.machine.add_holder(node, now)
            gathering.wake.set()
        try:
            await peer.run(self._heard, self._take)
        finally:
            if self._peers.get(node) is peer:
                self._drop(node)

    async def fetch(
        self,
        digest: bytes,
        *,
        size: int | None = None,
        list_digest: bytes | None = None,
        limit: int | None = None,
        patience: float | None = None,
        observer: Observer | None = None,
    ) -> BlobRef:
        """Have a blob here, whole, checked and durable; at once if it is.

        `size` and `list_digest` are what a signed record says, both or neither; `limit` the most bytes it may have.
        Waits until somebody brings it: for ever, or for `patience` seconds without a byte of it. The first caller's
        `size`, `list_digest` and `limit` count for all who want the same blob at the same time.

        Raises NobodyFoundError (nobody linked has it), RefusedError (damaged at all who have it, too large, no space).
        """
        if await self._store.holds(digest):
            blob, _ = await self._store.whole(digest)
            return BlobRef(digest=digest, size=blob.size, list_digest=blob.list_digest)
        await self._ready.wait()
        announced = None if size is None or list_digest is None else Offer(size, list_digest)
        running = self._running.get(digest) or self._start(digest, announced, limit)
        since = trio.current_time()
        running.waiting += 1
        if observer is not None:
            running.observers.append(observer)
        try:
            while not running.is_over:
                until = float("inf")
                if patience is not None:
                    until = max(since, running.progressed) + patience
                    outlook = running.machine.outlook
                    only_damaged = outlook.damaged and not outlook.holders and not outlook.pending
                    if only_damaged or trio.current_time() >= until:
                        raise self._nobody(running)
                news = running.news
                with trio.move_on_at(until):
                    await news.wait()
        finally:
            running.waiting -= 1
            if observer is not None:
                running.observers.remove(observer)
            if not running.waiting and not running.is_over:
                self._running.pop(digest, None)  # who asks from now on starts anew
                running.scope.cancel()
        if running.failed is not None:
            raise running.failed
        assert running.result is not None
        return running.result

    async def fetch_small(self, wanted: Sequence[tuple[bytes, int]]) -> list[bytes]:
        """Have many blobs of SMALL_LIMIT bytes at most here: digests and sizes. Returns those that nobody linked has.

        A hundred of them cost about as much as one chunk. Raises RefusedError (no space).
        """
        missing = set(await self._store.missing([digest for digest, _ in wanted]))
        machine = Gather([(digest, size) for digest, size in wanted if digest in missing and size <= SMALL_LIMIT])
        gathering = _Gathering(machine)
        now = trio.current_time()
        for node in self._peers:
            machine.add_holder(node, now)
        self._gathering.add(gathering)
        try:
            while gathering.failed is None:
                gathering.wake = trio.Event()
                self._ask_small(machine)
                if machine.is_over:
                    break
                with trio.move_on_at(_or_never(machine.next_deadline())):
                    await gathering.wake.wait()
                machine.on_deadline(trio.current_time())
        finally:
            self._gathering.discard(gathering)
        if gathering.failed is not None:
            raise gathering.failed
        return await self._store.missing([digest for digest, _ in wanted])

    # One fetch.

    def _start(self, digest: bytes, announced: Offer | None, limit: int | None) -> _Running:
        assert self._nursery is not None
        now = trio.current_time()
        machine = fetching.Fetch(digest, now, announced=announced, limit=limit)
        running = _Running(machine, str(Handle.of(BLOB, digest)), now, progressed=now)
        for node in self._peers:
            machine.add_holder(node, now)
        self._running[digest] = running
        self._nursery.start_soon(self._carry, running)
        return running

    async def _carry(self, running: _Running) -> None:
        digest = running.machine.digest
        try:
            with running.scope:
                running.result = await self._bring(running)
                seconds = trio.current_time() - running.started
                self._notify(
                    BlobStored(self._mesh, running.handle, running.result.size, running.machine.moved, seconds)
                )
        except TetherError as error:
            running.failed = error
            self._notify(BlobFailed(self._mesh, running.handle, str(error)))
        finally:
            if not running.is_over:
                running.failed = ConnectionLostError("This machine stopped fetching.", "Try again.")
            self._let_go(running)
            self._crowded.discard(running)
            if self._running.get(digest) is running:
                del self._running[digest]
            running.tell()

    async def _bring(self, running: _Running) -> BlobRef:
        machine = running.machine
        while True:
            running.wake = trio.Event()
            while (event := machine.next_event()) is not None:
                match event:
                    case fetching.List(chunks):
                        await self._slots.acquire()
                        running.has_slot = True
                        running.file = await self._store.resume(machine.digest, chunks)
                        machine.resumed(await self._present(running.file), trio.current_time())
                    case fetching.Everything():
                        assert running.file is not None
                        ref = await self._store.keep_fetched(running.file)
                        if ref is not None:
                            self._progress(running, at_once=True)
                            return ref
                        self._let_go(running)
                        machine.not_whole(trio.current_time())
                    case fetching.Starved():
                        self._let_go(running)
                    case fetching.SetAside(holder, reason):
                        if reason is not fetching.Reason.SILENT:
                            self._tell_damaged(running.handle, holder)
                        running.tell()
                    case fetching.Failed(error):
                        raise error
            if running.failed is not None:
                raise running.failed
            self._ask(running)
            with trio.move_on_at(_or_never(machine.next_deadline())):
                await running.wake.wait()
            machine.on_deadline(trio.current_time())

    async def _present(self, file: PartialBlob) -> list[int]:
        """Which chunks an earlier run left, hashed again."""
        present: list[int] = []
        at = 0
        while at < file.chunks.count:
            found, at = await self._offload(partial(file.present, at))
            present += found
        return present

    def _let_go(self, running: _Running) -> None:
        if running.file is not None:
            running.file.close()
            running.file = None
        if running.has_slot:
            running.has_slot = False
            self._slots.release()

    def _ask(self, running: _Running) -> None:
        """Send all requests that this fetch has for now."""
        crowd, now = full(self._peers), trio.current_time()
        while (wanted := running.machine.next_request(crowd, now)) is not None:
            node, ask = wanted
            peer = self._peers[node]
            match ask:
                case fetching.AskWhether():
                    peer.asking.lookup(running.machine.digest)
                case fetching.AskList(first):
                    peer.asking.want_list(running.machine.digest, first)
                case fetching.AskChunk(index):
                    peer.asking.want(running.machine.digest, index)
            peer.send()
            if peer.asking.is_full:
                crowd.add(node)
        (self._crowded.add if crowd else self._crowded.discard)(running)

    def _ask_small(self, gather: Gather) -> None:
        crowd, now = full(self._peers), trio.current_time()
        while (wanted := gather.next_request(crowd, now)) is not None:
            node, digests = wanted
            peer = self._peers[node]
            peer.asking.want_small(digests)
            peer.send()
            if peer.asking.is_full:
                crowd.add(node)

    # What members say.

    def _drop(self, node: NodeId) -> None:
        del self._peers[node]
        now = trio.current_time()
        for running in self._running.values():
            running.machine.drop_holder(node, now)
            running.tell()
        for gathering in self._gathering:
            gathering.machine.drop_holder(node, now)
            gathering.wake.set()

    def _heard(self, peer: Peer) -> None:
        if self._peers.get(peer.node) is not peer:
            return
        now = trio.current_time()
        for digest in peer.asking.awaited:
            if (running := self._running.get(digest)) is not None:
                running.machine.heard(peer.node, now)
        for gathering in self._gathering:
            gathering.machine.heard(peer.node, now)

    async def _take(self, peer: Peer, answered: Answered) -> None:
        if self._peers.get(peer.node) is not peer:
            return  # an older link to the same machine: all that it owed is asked again elsewhere
        now = trio.current_time()
        request, answer = answered.request, answered.answer
        if isinstance(request, WantSmall):
            assert isinstance(answer, Small)
            await self._take_small(peer.node, request.digests, answer.found)
        elif (running := self._running.get(request.digest)) is not None:
            machine = running.machine
            match answer:
                case Holds(_, size, list_digest):
                    machine.looked_up(peer.node, Offer(size, list_digest), now)
                case List(_, digests) if isinstance(request, WantList):
                    machine.listed(peer.node, request.first, digests, now)
                case NotServed(_, why):
                    machine.refused(peer.node, is_damaged=why is Absence.DAMAGED, now=now)
                case Chunk(_, data) if isinstance(request, Want):
                    await self._take_chunk(running, peer.node, request.index, data)
            running.tell()
        for crowded in list(self._crowded):
            self._ask(crowded)
        for gathering in self._gathering:
            gathering.wake.set()

    async def _take_chunk(self, running: _Running, node: NodeId, index: int, data: bytes | memoryview) -> None:
        machine, file = running.machine, running.file
        if not machine.arrived(node, index, len(data), trio.current_time()):
            return
        assert file is not None
        self._ask(running)  # before the disk has its turn, so that the holder always has work
        try:
            is_right = await self._offload(partial(file.write, index, data))
        except TetherError as error:
            running.failed = error
            return
        if running.file is not file:
            return  # let go meanwhile: what the file now has is found when it is resumed
        if is_right:
            machine.verified(node, index, trio.current_time())
            running.progressed = trio.current_time()
            self._progress(running)
        else:
            machine.wrong(node, index, trio.current_time())

    async def _take_small(self, node: NodeId, asked: tuple[bytes, ...], found: Sequence[bytes | int]) -> None:
        asking = [each for each in self._gathering if each.machine.asked(node, asked)]
        if not asking:
            return
        outcomes: list[Outcome] = []
        try:
            outcomes, right = await self._offload(partial(_check, asked, found))
            await self._store.add_small(right)
        except TetherError as error:
            for each in asking:
                each.failed = error
        now = trio.current_time()
        for each in asking:
            each.machine.answered(node, asked, outcomes, now)
            if Outcome.WRONG in outcomes:
                each.machine.drop_holder(node, now)
        for digest, outcome, one in zip(asked, outcomes, found, strict=False):
            if outcome is Outcome.WRONG or one == Absence.DAMAGED:
                self._tell_damaged(str(Handle.of(BLOB, digest)), node)

    # What people hear.

    def _progress(self, running: _Running, *, at_once: bool = False) -> None:
        now = trio.current_time()
        if now < running.told + PROGRESS_EVERY and not at_once:
            return
        running.told = now
        outlook = running.machine.outlook
        notice = BlobProgress(
            self._mesh, running.handle, outlook.moved, outlook.done, outlook.size or 0, outlook.holders
        )
        self._notify(notice)
        for observer in running.observers:
            observer(notice)

    def _tell_damaged(self, handle: str, holder: NodeId) -> None:
        self._notify(Damaged(self._mesh, handle, node_text(holder), self._names(holder)))

    def _nobody(self, running: _Running) -> TetherError:
        """Why patience came to nothing, by name where somebody's copy is at fault."""
        short = Handle.of(BLOB, running.machine.digest).short
        damaged = [self._names(node) for node in running.machine.outlook.damaged]
        if damaged:
            return RefusedError(
                f"The copy of {short} on {', '.join(damaged)} is damaged, and nobody else who is linked has it.",
                "Link a machine that has a good copy, or store the content there again.",
            )
        if running.machine.outlook.holders:
            return TimedOutError(
                f"{short} did not come in time.", "Try again: what is here already need not travel again."
            )
        return NobodyFoundError(
            f"No machine that is linked now has {short}.",
            "`tether metadata` says who had it; try again when it is linked.",
        )


def _or_never(deadline: float | None) -> float:
    return float("inf") if deadline is None else deadline


def _check(asked: tuple[bytes, ...], found: Sequence[bytes | int]) -> tuple[list[Outcome], list[tuple[BlobRef, bytes]]]:
    """What became of each blob of a SMALL, and those that are right. In a thread: up to a MiB is hashed."""
    outcomes: list[Outcome] = []
    right: list[tuple[BlobRef, bytes]] = []
    for digest, one in zip(asked, found, strict=False):
        if isinstance(one, int):
            outcomes.append(Outcome.NOT_THERE)
            continue
        ref, _ = reference(one)
        outcomes.append(Outcome.RIGHT if ref.digest == digest else Outcome.WRONG)
        if ref.digest == digest:
            right.append((ref, one))
    return outcomes, right
