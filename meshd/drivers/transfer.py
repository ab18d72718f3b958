"""The driver of a transfer: a machine of protocol/transfer.py between a QUIC stream and a source or sink.

The machine's bytes move on the event loop; the disk and the pipes are read and written in threads (`Offload`).
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import attrs
import trio

from meshd import status
from meshd.drivers import payload
from meshd.drivers.one_error import one_error
from meshd.drivers.quic import Connection, ConnectionClosedError, Stream
from meshd.drivers.threads import Offload
from meshd.errors import ConnectionLostError, TetherError
from meshd.protocol import transfer
from meshd.wire.constants import CHUNK_SIZE, CloseCode
from meshd.wire.messages import Offer

T = TypeVar("T")

READ_SIZE: Final = 1 << 20
"""Most bytes taken from a stream at once; what arrives while the disk is busy waits in the stream, WINDOW at most."""

FAREWELL: Final = 10.0
"""Seconds a receiver that is done waits to see that its STORED was read."""

LAST_WORD: Final = 2.0
"""Seconds for the reason of a failure to reach the other side before the connection is closed over it."""

SHOWN_REFUSALS: Final = 1_000
"""Most refused entries listed one by one; the rest are counted."""


@attrs.frozen
class Outcome:
    """How one direction ended well: what the receiver stored, and how many entries it did not."""

    entries: int
    size: int
    refused: int


@attrs.define
class _Tally:
    """Counts what moves, and reports it."""

    direction: status.Direction
    observer: status.Observer
    entries: int = 0
    size: int = 0
    refused: set[int] = attrs.field(factory=set)

    def progress(self) -> None:
        self.observer(status.Progress(self.direction, self.entries, self.size))

    def refuse(self, index: int, path: Sequence[str], reason: str) -> bool:
        """Report an entry once, whoever of the two sides, or both, said no. Returns whether that is news."""
        if index in self.refused:
            return False
        self.refused.add(index)
        if len(self.refused) <= SHOWN_REFUSALS:
            self.observer(status.EntryRefused(self.direction, "/".join(path), reason))
        return True


async def send_payload(
    stream: Stream,
    source: payload.Source,
    survey: payload.Survey,
    observer: status.Observer,
    offload: Offload,
    accept_within: float,
) -> Outcome:
    """Send all of `source`, which `survey` describes. Returns once the receiver has confirmed that it is stored.

    Raises RefusedError when the receiver will not have it, ConnectionLostError when the link ends first, and whatever
    the source raises. `accept_within` (seconds) is how long the receiver may take to answer the offer.
    """
    started = trio.current_time()
    observer(status.Started("send", survey.entries, survey.size))
    offer = Offer(stream=survey.size is None, entries=survey.entries, size=survey.size, skipped=len(survey.skipped))
    machine = transfer.Sender(offer, started, accept_within)
    sending = _Sending(machine, source, _Tally("send", observer), stream, offload)
    outcome = await sending.run()
    observer(status.Finished("send", outcome.entries, outcome.size, outcome.refused, trio.current_time() - started))
    return outcome


@attrs.define
class _Sending:
    machine: transfer.Sender
    source: payload.Source
    tally: _Tally
    stream: Stream
    offload: Offload
    paths: list[tuple[str, ...]] = attrs.field(factory=list)
    unwanted: list[tuple[str, ...]] = attrs.field(factory=list)
    heard: trio.Event = attrs.field(factory=trio.Event)
    reading: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    confirmed: transfer.Confirmed | None = None

    async def run(self) -> Outcome:
        try:
            with one_error():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._listen)
                    await self._send()
                    nursery.cancel_scope.cancel()
        except TetherError as error:
            if self.machine.state is transfer.SenderState.ENDED and _went_silent(error):
                raise ConnectionLostError(
                    "The connection was lost after all was sent and before the other side confirmed it: whether it has "
                    "everything is not known.",
                    "Look there before you send it again.",
                ) from error
            self.machine.abort(error, trio.current_time())
            await _say_last(self.stream, self.machine.data_to_send(trio.current_time()))
            raise
        assert self.confirmed is not None
        with contextlib.suppress(ConnectionLostError):  # it is confirmed: a link that ends now changes nothing
            await self.stream.send_eof()
        return Outcome(self.confirmed.entries, self.confirmed.size, len(self.tally.refused))

    async def _listen(self) -> None:
        """Take what the receiver says. A failure ends the sending too, even one that waits for a person's pipe."""
        while self.confirmed is None:
            data = await self.stream.receive_some(READ_SIZE)
            if not data:
                raise ConnectionLostError("The other side closed the transfer before it confirmed it.")
            self.machine.receive_data(data, trio.current_time())
            self._take_events()
            self.heard.set()

    async def _send(self) -> None:
        while self.confirmed is None:
            self.heard = trio.Event()
            data = self.machine.data_to_send(trio.current_time())
            if data:
                await self.stream.send_all(data)
                self.tally.progress()
            elif self.machine.wants_more:
                pieces: list[payload.Piece] = []
                # A pipe that nobody wants any more is read no further: it might not end. It is one entry, and so the end.
                with trio.CancelScope() as self.reading:
                    pieces = await self.offload(self._read, abandon=self.source.may_block)
                # Work that was just done returns even if the receiver ended the transfer meanwhile: then not on.
                await trio.lowlevel.checkpoint_if_cancelled()
                self._feed(pieces)
            else:
                await self._wait()

    def _read(self) -> list[payload.Piece]:
        """Read on, in a thread. What the receiver refused since is skipped here, where no other read is under way."""
        while self.unwanted:
            self.source.skip(self.unwanted.pop())
        return self.source.pieces(min(self.machine.room, CHUNK_SIZE))

    async def _wait(self) -> None:
        deadline = self.machine.next_deadline()
        with trio.move_on_at(deadline or math.inf):
            await self.heard.wait()
            return
        self.machine.on_deadline(trio.current_time())
        self._take_events()

    def _feed(self, pieces: Sequence[payload.Piece]) -> None:
        now, machine = trio.current_time(), self.machine
        if not pieces:
            self._close_entry(now)
            machine.end(now)
        for piece in pieces:
            match piece:
                case payload.Began(entry):
                    self._close_entry(now)
                    machine.begin(entry, now)
                    self.paths.append(entry.path)
                case payload.Content(data):
                    machine.content(data, now)
                    self.tally.size += len(data)
                case payload.Ended(digest):
                    machine.end_entry(digest, now)
                    self.tally.entries += 1
                case payload.Failed(reason):
                    self.tally.refuse(len(self.paths) - 1, self.paths[-1], reason)
                    machine.fail_entry(reason, now)

    def _close_entry(self, now: float) -> None:
        """An entry that the source left without an end was skipped because the receiver refused it."""
        if self.machine.state is transfer.SenderState.IN_ENTRY:
            self.machine.fail_entry("refused", now)

    def _take_events(self) -> None:
        while (event := self.machine.next_event()) is not None:
            match event:
                case transfer.EntryRefused(index, reason):
                    if self.tally.refuse(index, self.paths[index], reason):
                        self.unwanted.append(self.paths[index])
                    if self.source.may_block:
                        self.reading.cancel()
                case transfer.Confirmed():
                    self.confirmed = event
                case transfer.Failed(error):
                    raise error


async def receive_payload(
    connection: Connection, stream: Stream, sink: payload.Sink, observer: status.Observer, offload: Offload
) -> Outcome:
    """Receive a payload into `sink` over a stream of `connection`.

    Returns once it is durable (a pipe: written) and the sender was told.

    Raises RefusedError when this side cannot take it, ConnectionLostError when the link ends first; the caller then
    discards the sink.
    """
    receiving = _Receiving(transfer.Receiver(), sink, _Tally("receive", observer), connection, stream, offload)
    started = trio.current_time()
    outcome = await receiving.run()
    observer(status.Finished("receive", outcome.entries, outcome.size, outcome.refused, trio.current_time() - started))
    return outcome


@attrs.define
class _Receiving:
    machine: transfer.Receiver
    sink: payload.Sink
    tally: _Tally
    connection: Connection
    stream: Stream
    offload: Offload
    index: int = -1
    path: tuple[str, ...] = ()
    all_sent: bool = False

    async def run(self) -> Outcome:
        try:
            while not self.all_sent:
                data = await self._receive()
                if not data:
                    raise ConnectionLostError("The other side closed the transfer before its end.")
                self.machine.receive_data(data, trio.current_time())
                await self._take_events()
                await self._send()
            report = await self._write(self.sink.finish)
        except TetherError as error:
            self.machine.abort(error, trio.current_time())
            await _say_last(self.stream, self.machine.data_to_send(trio.current_time()))
            raise
        for refusal in report.refused:
            self._refuse(refusal.index, refusal.path, refusal.reason)
        # The payload is ours from here on, whatever the link does: what follows only tells the sender.
        self.machine.stored(report.entries, report.size, trio.current_time())
        await self._farewell()
        return Outcome(report.entries, report.size, len(self.tally.refused))

    async def _take_events(self) -> None:
        """Hand a batch of events to the sink in one go, and let the sender go on when it is done."""
        batch: list[transfer.Began | transfer.Content | transfer.Ended | transfer.Dropped] = []
        while (event := self.machine.next_event()) is not None:
            match event:
                case transfer.Offered(offer):
                    self.tally.observer(status.Started("receive", offer.entries, offer.size))
                    if offer.skipped:
                        left_out = f"The other side leaves out {offer.skipped:,} (links, devices and the like)."
                        self.tally.observer(status.Warned(left_out))
                    await self.offload(partial(self.sink.prepare, offer.size))
                    self.machine.accept(trio.current_time())
                case transfer.AllSent():
                    self.all_sent = True
                case transfer.Failed(error):
                    raise error
                case _:
                    batch.append(event)
        if batch:
            for index, path, reason in await self._write(partial(self._apply, batch)):
                self._refuse(index, path, reason)
            self.tally.progress()
        self.machine.written(trio.current_time())

    async def _receive(self) -> bytes:
        """More of the stream. Only the offer has a deadline: after it a person may be feeding the sender's pipe."""
        if self.machine.state is not transfer.ReceiverState.WAITING:
            return await self.stream.receive_some(READ_SIZE)
        with trio.move_on_after(transfer.ACCEPT_DEADLINE):
            return await self.stream.receive_some(READ_SIZE)
        raise ConnectionLostError("The other side did not say in time what it sends.")

    async def _write(self, work: Callable[[], T]) -> T:
        """Have the sink work, in a thread. One that may block for ever is given up when the connection ends."""
        if not self.sink.may_block:
            return await self.offload(work)

        async def notice_the_end() -> None:
            raise ConnectionClosedError(await self.connection.wait_closed())

        with one_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(notice_the_end)
                result = await self.offload(work, abandon=True)
                nursery.cancel_scope.cancel()
        return result

    def _apply(
        self, batch: Sequence[transfer.Began | transfer.Content | transfer.Ended | transfer.Dropped]
    ) -> list[tuple[int, tuple[str, ...], str]]:
        """Feed the sink, in a thread. Returns the entries it refused."""
        refused = []
        for event in batch:
            reason = None
            match event:
                case transfer.Began(index, entry):
                    self.index, self.path = index, entry.path
                    reason = self.sink.begin(entry)
                case transfer.Content(data):
                    reason = self.sink.write(data)
                    self.tally.size += len(data)
                case transfer.Ended(digest):
                    reason = self.sink.end(digest)
                    self.tally.entries += 1
                case transfer.Dropped(why):
                    self.sink.abandon()
                    refused.append((self.index, self.path, why))
            if reason is not None:
                refused.append((self.index, self.path, reason))
        return refused

    def _refuse(self, index: int, path: Sequence[str], reason: str) -> None:
        if index not in self.tally.refused:
            self.machine.refuse_entry(index, reason, trio.current_time())
        self.tally.refuse(index, path, reason)

    async def _send(self) -> None:
        data = self.machine.data_to_send(trio.current_time())
        if data:
            await self.stream.send_all(data)

    async def _farewell(self) -> None:
        """Send STORED and see it read, so that the sender need not doubt. A link that dies now changes nothing."""
        try:
            with trio.fail_after(FAREWELL):
                await self._send()
                await self.stream.send_eof()
                while await self.stream.receive_some(READ_SIZE):
                    pass
        except (trio.TooSlowError, ConnectionLostError) as error:
            if not (isinstance(error, ConnectionClosedError) and error.closed.told == CloseCode.DONE):
                self.tally.observer(status.Warned("All is stored here, but the other side may not have learnt of it."))


def _went_silent(error: TetherError) -> bool:
    """Whether the link ended without a word of the other side's about why."""
    return isinstance(error, ConnectionClosedError) and not error.closed.told


async def _say_last(stream: Stream, data: bytes) -> None:
    """Send the ABORT of a machine that has failed, and wait until the other side has read it and closed.

    Closing the connection at once would drop what is on its way.
    """
    if not data:
        return
    with trio.move_on_after(LAST_WORD), contextlib.suppress(ConnectionLostError, trio.ClosedResourceError):
        await stream.send_all(data)
        await stream.send_eof()
        while await stream.receive_some(READ_SIZE):
            pass
