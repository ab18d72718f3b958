"""Runs the replication of one mesh over its links' sync streams. docs/protocol/records.md.

One task a link reads, one sends, one timer for all. What arrives on a link is stored before more of it is read: so memory
is bounded by a few batches a link, and a slow disk slows the peers and not the event loop.
"""

import math
import secrets
from collections.abc import Callable, Sequence
from typing import Final

import attrs
import trio
import trio.abc

from meshd.drivers.journal import Journal
from meshd.drivers.link import Link
from meshd.drivers.one_error import one_error
from meshd.errors import RemoteProtocolError, StoreError, TimedOutError
from meshd.model.record import Record
from meshd.model.roster import Roster
from meshd.notices import Notify, Trouble
from meshd.protocol.replication import Replication
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
from meshd.wire.constants import CloseCode
from meshd.wire.sync import TOKEN_SIZE

READ_SIZE: Final = 64 * 1024
"""Bytes taken from a stream at once."""

UNSENT_LIMIT: Final = 4 << 20
"""Bytes that may wait to be sent before nothing more is read from that peer. What an honest one causes is far less: two
batches, a window of pushes, heads. Only who asks and does not read comes here."""

PROBE_DEADLINE: Final = 10.0
"""Seconds for an echo, unless the caller has its own idea."""


@attrs.define(eq=False)
class _Serving:
    """One link's tasks."""

    link: Link
    number: int
    to_send: trio.Event = attrs.field(factory=trio.Event)
    to_do: trio.Event = attrs.field(factory=trio.Event)
    done: trio.Event = attrs.field(factory=trio.Event)
    sent: trio.Event = attrs.field(factory=trio.Event)
    echoed: trio.Event = attrs.field(factory=trio.Event)
    settled: bool = False
    broken: str = ""
    """How the peer broke the protocol."""

    outsider: bool = False

    def wake(self) -> None:
        self.to_send.set()
        self.to_do.set()


class Syncing:
    """One mesh's replication. `serve` is called for each link, `run` once for all of them."""

    def __init__(
        self,
        journal: Journal,
        *,
        notify: Notify = lambda notice: None,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.on_settled: list[Callable[[Link], None]] = []
        """Called when a link's peer has been found to be a member by both sides' rosters, and data is exchanged."""
        self._journal, self._notify, self._entropy = journal, notify, entropy
        self._machine = Replication(journal.keys.identity.signing_key, journal.roster, journal.tips())
        self._served: dict[int, _Serving] = {}
        self._changed = trio.Event()
        journal.on_roster.append(self._roster_changed)
        journal.on_change.append(self._stored)

    async def run(self) -> None:
        """Keep the machine's time, for ever."""
        while True:
            self._changed = trio.Event()
            deadline = self._machine.next_deadline()
            with trio.move_on_at(math.inf if deadline is None else deadline):
                await self._changed.wait()
                continue
            self._machine.on_deadline(trio.current_time())
            self._wake_all()

    async def serve(self, link: Link, stream: trio.abc.Stream) -> None:
        """Sync over a link's stream until it ends, or the peer turns out to be no member: then its connection is closed.

        Raises RemoteProtocolError when the peer breaks the protocol, and what the stream raises when it breaks.
        """
        number = self._machine.linked(link.peer.signing_key, trio.current_time())
        serving = self._served[number] = _Serving(link, number)
        self._changed.set()
        try:
            with one_error():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send, serving, stream)
                    nursery.start_soon(self._work, serving, nursery.cancel_scope)
                    await self._receive(serving, stream)
                    nursery.cancel_scope.cancel()
        finally:
            del self._served[number]
            self._machine.unlinked(number, trio.current_time())
            self._wake_all()
            serving.echoed.set()
        if serving.outsider:
            link.connection.close(CloseCode.NOT_A_MEMBER, "")
        if serving.broken:
            raise RemoteProtocolError(serving.broken)

    async def probe(self, link: Link, deadline: float = PROBE_DEADLINE) -> float:
        """Ask the peer's program whether it is there; its round trip in seconds, noted in the link as well.

        Raises TimedOutError after `deadline` seconds, or at once when the link is not served.
        """
        serving = self._of(link)
        with trio.move_on_after(deadline):
            if serving is not None:
                serving.echoed = echoed = trio.Event() if serving.echoed.is_set() else serving.echoed
                self._machine.probe(serving.number, self._entropy(TOKEN_SIZE), trio.current_time())
                serving.wake()
                await echoed.wait()
                if link.round_trip is not None and self._of(link) is not None:
                    return link.round_trip
        raise TimedOutError("The other side did not answer.", "Is it asleep, or gone from the network?")

    def lag(self, link: Link) -> Lag | None:
        """How far the two sides are apart; None for a link that is not served."""
        serving = self._of(link)
        return None if serving is None else self._machine.lag(serving.number)

    def is_settled(self, link: Link) -> bool:
        """Whether data is exchanged on this link."""
        serving = self._of(link)
        return serving is not None and serving.settled

    # The streams

    async def _receive(self, serving: _Serving, stream: trio.abc.Stream) -> None:
        while data := await stream.receive_some(READ_SIZE):
            serving.done = trio.Event()
            self._machine.receive_data(serving.number, bytes(data), trio.current_time())
            self._wake_all()
            await serving.done.wait()
            while self._machine.unsent(serving.number) > UNSENT_LIMIT:
                serving.sent = trio.Event()
                await serving.sent.wait()

    async def _send(self, serving: _Serving, stream: trio.abc.Stream) -> None:
        while True:
            serving.to_send = trio.Event()
            data = self._machine.data_to_send(serving.number, trio.current_time())
            if data:
                await stream.send_all(data)
                serving.sent.set()
            else:
                await serving.to_send.wait()

    async def _work(self, serving: _Serving, over: trio.CancelScope) -> None:
        while True:
            serving.to_do = trio.Event()
            while (event := self._machine.next_event(serving.number)) is not None:
                await self._answer(serving, event)
                self._wake_all()
            if serving.outsider or serving.broken:
                over.cancel()
            serving.done.set()
            await serving.to_do.wait()

    async def _answer(self, serving: _Serving, event: Event) -> None:
        """Do what the machine asks for. Its bookkeeping is done when this returns, also where the disk refuses."""
        machine, journal = self._machine, self._journal
        match event:
            case RecordsArrived(records=records):
                try:
                    accepted = await journal.accept(records)
                except RemoteProtocolError as error:
                    serving.broken = error.what
                except StoreError as error:
                    self._notify(Trouble(error.what, error.advice, "error"))
                    machine.refused(event, trio.current_time())
                else:
                    machine.accepted(event, accepted.stuck, accepted.conflicts, trio.current_time())
            case ReadDue(spans=spans):
                try:
                    found, rest = await journal.read_spans(spans)
                except StoreError as error:
                    self._notify(Trouble(error.what, error.advice, "error"))
                    found, rest = [], ()  # the peer asks somebody else
                machine.serve(event, found, rest)
            case HashesDue(chain=chain, sequences=sequences):
                hashes: Sequence[bytes | None] = [None] * len(sequences)
                try:
                    hashes = await journal.hashes(chain, sequences)
                except StoreError as error:
                    self._notify(Trouble(error.what, error.advice, "error"))
                machine.hashes(event, hashes, trio.current_time())
            case FarewellDue(spans=spans):
                try:
                    found, _ = await journal.read_spans(spans)
                except StoreError as error:
                    self._notify(Trouble(error.what, error.advice, "error"))
                    found = []
                machine.farewell(event, found, self._entropy(TOKEN_SIZE))
            case BranchDue(chain=chain):
                try:
                    await journal.drop_branch(chain)
                except StoreError as error:
                    self._notify(Trouble(error.what, error.advice, "error"))
            case Settled():
                serving.settled = True
                serving.link.introduced = False
                for callback in self.on_settled:
                    callback(serving.link)
            case OwnChainElsewhere():
                journal.own_history_elsewhere()
            case OwnHeadsKnown():
                journal.heard_of_ourselves()
            case Echoed(round_trip=round_trip):
                serving.link.round_trip, serving.link.probed_at = round_trip, trio.current_time()
                serving.echoed.set()
            case Outsider():
                serving.outsider = True
            case Failed(why=why):
                serving.broken = why

    # What the journal tells

    def _stored(self, records: Sequence[Record]) -> None:
        now = trio.current_time()
        tips = {chain: tip for chain in {each.chain for each in records} if (tip := self._journal.tip(chain))}
        self._machine.stored(tips, now)
        me = self._journal.keys.identity.signing_key
        self._machine.appended([each for each in records if each.header.author == me], now)
        self._wake_all()

    def _roster_changed(self, roster: Roster) -> None:
        self._machine.roster_changed(roster, self._journal.tips(), trio.current_time())
        self._wake_all()

    def _wake_all(self) -> None:
        self._changed.set()
        for serving in self._served.values():
            serving.wake()

    def _of(self, link: Link) -> _Serving | None:
        return next((serving for serving in self._served.values() if serving.link is link), None)
