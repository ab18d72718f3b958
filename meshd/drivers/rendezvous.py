"""Keeps in touch with one rendezvous server while something is asked of it. docs/protocol/rendezvous.md.

What is asked outlives the connection: when that is lost, or the server is another after a restart, it is asked anew.
"""

import contextlib
import ipaddress
import math
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Never

import attrs
import trio

from meshd.drivers.one_error import one_error
from meshd.drivers.quic import Connection, Endpoint, Stream
from meshd.drivers.tls_identity import has_fingerprint
from meshd.errors import ConnectionLostError, RefusedError, RemoteProtocolError, TetherError
from meshd.model.address import Address
from meshd.model.server import ServerName
from meshd.protocol.rendezvous import Event, Failed, RendezvousClient, Seen
from meshd.wire.constants import RENDEZVOUS_PROTOCOL, CloseCode

DIAL_TIMEOUT: Final = 5.0
"""Seconds for a server to answer: a lost first packet is repeated after one."""

BACKOFF: Final = (0.5, 60.0)
"""Seconds before the first and, doubled each time, at most before later attempts; of each between half and all is waited."""

STEADY: Final = 10.0
"""Seconds that a connection has to last before the next failure counts as the first again."""

IDLE: Final = 30.0
"""Seconds that a connection stays when nothing is asked: the next question often comes soon."""

PROBE_TIMEOUT: Final = 1.0
"""Seconds for a sign of life after a wake or a change of network."""

EVENTS_QUEUED: Final = 16
"""Answers to one question that may wait; whoever does not take them gets no more from this connection."""

_READ: Final = 4096


@attrs.frozen
class Lost:
    """The server is gone, and with it what it gave. It is asked anew once it is back."""

    error: TetherError


@attrs.define(eq=False)
class Asked:
    """Something asked of a server, by `Server.asking`. `events` gives the answers, and Lost."""

    _server: "Server"
    ask: Callable[[RendezvousClient, int], int]
    """Asks, or asks anew in place of the question with that number (0: none), and returns the number of this one."""

    events: "trio.MemoryReceiveChannel[Event | Lost]"
    _send: "trio.MemorySendChannel[Event | Lost]"
    ref: int = 0
    """0 while nothing is asked."""

    def again(self) -> None:
        """Ask anew: it was answered, or is to say something else now."""
        self._server._ask(self)

    def free(self) -> None:
        """Our number is open for the next: the run with who came led nowhere."""
        self._server._free(self)


class Server:
    """One server of the list. `run` it; ask with `asking`."""

    def __init__(
        self,
        endpoint: Endpoint,
        name: ServerName,
        *,
        on_seen: Callable[[], None] = lambda: None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self.observed: Address | None = None
        """Where it sees us; None while not connected."""
        self.error: TetherError | None = None
        """Why there is no connection; None while there is one, or none was tried."""
        self._endpoint, self._on_seen, self._chance = endpoint, on_seen, chance
        self._asked: set[Asked] = set()
        self._client: RendezvousClient | None = None
        self._connection: Connection | None = None
        self._wanted, self._to_send, self._hurry = trio.Event(), trio.Event(), trio.Event()
        self._tried, self._seen = trio.Event(), trio.Event()

    @property
    def is_connected(self) -> bool:
        return self.observed is not None

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this machine: then loopback addresses may be candidates."""
        # Where it was dialled, and not what it says: it could else have us punch at our own services.
        return self._connection is not None and ipaddress.ip_address(self._connection.peer.host).is_loopback

    async def wait_tried(self) -> None:
        """Return once a connection stands, or the first attempt has failed."""
        await self._tried.wait()

    @asynccontextmanager
    async def asking(self, ask: Callable[[RendezvousClient, int], int]) -> AsyncIterator[Asked]:
        """Ask for as long as the block runs, and take it back then."""
        send, receive = trio.open_memory_channel[Event | Lost](EVENTS_QUEUED)
        asked = Asked(self, ask, receive, send)
        self._asked.add(asked)
        self._wanted.set()
        if self.observed is None and self._tried.is_set():
            # What was tried long ago says nothing now. Nobody waits for an event that is set.
            self._tried = trio.Event()
            self._hurry.set()
        self._ask(asked)
        try:
            yield asked
        finally:
            self._asked.discard(asked)
            self._wanted.set()
            if self._client is not None:
                self._client.leave(asked.ref)
                self._to_send.set()

    def network_changed(self) -> None:
        """This machine's addresses are others, or it slept: is the server still there, and where does it see us now?"""
        self._hurry.set()

    async def run(self) -> Never:
        """Connect while something is asked, for ever."""
        failures = 0
        while True:
            if not self._asked:
                self._wanted = trio.Event()
                await self._wanted.wait()
            began, self._hurry = trio.current_time(), trio.Event()
            try:
                await self._serve()
                failures = 0
                continue
            except TetherError as error:
                if self.error is None:
                    self._tell_lost(error)
                self.error = error
                self._tried.set()
            failures = 0 if trio.current_time() - began > STEADY else failures + 1
            first, most = BACKOFF
            pause = min(most, first * 2 ** min(failures, 10))
            with trio.move_on_after(pause * (1 + self._chance()) / 2):
                await self._hurry.wait()

    async def _serve(self) -> None:
        """One connection, until nothing has been asked for a while. Raises what ended it before."""
        connection = await self._endpoint.dial(
            self.name.address, timeout=DIAL_TIMEOUT, alpns=(RENDEZVOUS_PROTOCOL,), ipv4_first=True
        )
        try:
            if self.name.fingerprint and not has_fingerprint(connection.certificate, self.name.fingerprint):
                raise RefusedError(
                    f"The rendezvous server {self.name} has another key than its setting says.",
                    "Somebody may be in its place. If it was set up anew, ask for its new fingerprint.",
                )
            connection.admit()
            self._connection, self._client, self._seen = connection, RendezvousClient(), trio.Event()
            self._client.greet()
            for asked in self._asked:
                asked.ref = 0
                self._ask(asked)
            stream = await connection.open_stream()
            with one_error():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send, stream)
                    nursery.start_soon(self._doubt, connection)
                    nursery.start_soon(self._receive, stream)
                    with trio.move_on_after(DIAL_TIMEOUT):
                        await self._seen.wait()
                    if self.observed is None:
                        raise ConnectionLostError(f"The rendezvous server {self.name} answers, and says nothing.")
                    await self._until_idle()
                    nursery.cancel_scope.cancel()
        finally:
            self._client = self._connection = self.observed = None
            connection.close(CloseCode.DONE, "")

    async def _until_idle(self) -> None:
        while True:
            self._wanted = trio.Event()
            with trio.move_on_after(math.inf if self._asked else IDLE) as scope:
                await self._wanted.wait()
            if scope.cancelled_caught and not self._asked:
                return

    async def _send(self, stream: Stream) -> None:
        assert self._client is not None
        client = self._client
        while True:
            self._to_send = trio.Event()
            if data := client.data_to_send():
                await stream.send_all(data)
            else:
                await self._to_send.wait()

    async def _receive(self, stream: Stream) -> None:
        assert self._client is not None
        client = self._client
        while data := await stream.receive_some(_READ):
            client.receive_data(bytes(data))
            while (event := client.next_event()) is not None:
                self._take(event)
        raise ConnectionLostError(f"The rendezvous server {self.name} has hung up.")

    async def _doubt(self, connection: Connection) -> None:
        while True:
            await self._hurry.wait()
            self._hurry = trio.Event()
            if await connection.probe(PROBE_TIMEOUT) is None:
                raise ConnectionLostError(f"The rendezvous server {self.name} does not answer any more.")

    def _take(self, event: Event) -> None:
        match event:
            case Seen(address):
                changed, self.observed, self.error = address != self.observed, address, None
                self._tried.set()
                self._seen.set()
                if changed:
                    self._on_seen()
            case Failed(why):
                raise RemoteProtocolError(why)
            case _:
                for asked in self._asked:
                    if asked.ref == event.ref:
                        if self._client is not None and not self._client.is_asked(event.ref):
                            asked.ref = 0  # answered, and over
                        try:
                            asked._send.send_nowait(event)
                        except trio.WouldBlock:
                            raise RemoteProtocolError("The rendezvous server says more than can be heard.") from None

    def _tell_lost(self, error: TetherError) -> None:
        for asked in self._asked:
            with contextlib.suppress(trio.WouldBlock):  # behind sixteen answers that nobody took, one more says nothing
                asked._send.send_nowait(Lost(error))

    def _ask(self, asked: Asked) -> None:
        if self._client is not None and asked in self._asked:
            asked.ref = asked.ask(self._client, asked.ref)
            self._to_send.set()

    def _free(self, asked: Asked) -> None:
        if self._client is not None:
            self._client.free(asked.ref)
            self._to_send.set()
