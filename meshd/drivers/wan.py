"""Meeting across the internet: the servers of a list, what they tell of our router, and pairing by a number of theirs.

docs/protocol/rendezvous.md and traversal.md. Members' topics: meshd/node/wan.py.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Never

import attrs
import trio

from meshd.drivers.networks import local_interfaces
from meshd.drivers.punching import Outcome, Puncher
from meshd.drivers.quic import Endpoint
from meshd.drivers.rendezvous import Asked, Server
from meshd.errors import NobodyFoundError, RefusedError
from meshd.model.address import Address
from meshd.model.candidate import Candidate
from meshd.model.server import ServerName
from meshd.protocol.pairing import PAIRING_DEADLINE
from meshd.protocol.punching import ATTEMPT_SECONDS, Opened, preference, reason
from meshd.protocol.rendezvous import Crowded, Denied, Given, Matched
from meshd.protocol.search import WAYS_LEFT
from meshd.wire.rendezvous import Nat, Refusal, Side

SECOND_LOOK: Final = 1.0
"""Seconds to wait for a second server's word on our address: a list of which one is down must not hold up everything."""

ANSWER_TIMEOUT: Final = 5.0
"""Seconds for a server that is connected to answer a question."""

MEETINGS: Final = 8
"""Entrants that a window punches for at a time: one after the other comes every 4 s, and each takes 12 s and a pairing."""

ENTER_AGAIN: Final = 2.0
"""Seconds between two questions after a number that is not there: the other side may be starting again."""

ENTRIES: Final = 3
"""Times that a number which is not there is asked for."""


class Wan:
    """The servers of a list, over one endpoint. `run` it; made by `open_wan`."""

    def __init__(self, endpoint: Endpoint, names: Sequence[ServerName], on_seen: Callable[[], None]) -> None:
        self.endpoint, self.puncher = endpoint, Puncher(endpoint)
        self.servers = [Server(endpoint, name, on_seen=on_seen) for name in names]
        self.own_hosts: Callable[[], Sequence[str]] = lambda: [str(each.ip.ip) for each in local_interfaces()]
        """This machine's addresses."""

    async def run(self) -> Never:
        """Keep in touch, for ever."""
        async with trio.open_nursery() as nursery:
            for server in self.servers:
                nursery.start_soon(server.run)
        raise AssertionError("servers are kept for ever")

    @property
    def nat(self) -> Nat:
        """How our router maps us, as far as the servers that we are connected with have seen."""
        seen = [server.observed for server in self.servers if server.observed is not None]
        if any(each.host in self.own_hosts() and each.port == self.endpoint.port for each in seen):
            return Nat.NONE
        for family in (True, False):
            alike = [each for each in seen if (":" in each.host) is family]
            if len(alike) > 1:
                return Nat.ONE_FOR_ALL if len(set(alike)) == 1 else Nat.ONE_FOR_EACH
        return Nat.UNKNOWN

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Have the first two servers say where they see us, while the block runs: two show how the router maps."""
        async with trio.open_nursery() as nursery:
            for server in self.servers[:2]:
                nursery.start_soon(self._watch, server)
            with trio.move_on_after(SECOND_LOOK):
                for server in self.servers[:2]:
                    await server.wait_tried()
            yield
            nursery.cancel_scope.cancel()

    @staticmethod
    async def _watch(server: Server) -> None:
        async with server.asking(lambda client, ref: 0):
            await trio.sleep_forever()

    async def punch(self, server: Server, matched: Matched, side: Side, opened: Callable[[Opened], None]) -> Outcome:
        """Punch for a pairing: the nonce is the key, and the observed address all there is."""
        return await self.puncher.punch(
            matched.nonce, side, [matched.address], after=matched.after, loopback=server.is_loopback, opened=opened
        )

    def unreachable(self) -> NobodyFoundError:
        """That no server answers, with what each said."""
        each = "; ".join(
            f"{server.name}: {server.error.what if server.error else 'no answer'}" for server in self.servers
        )
        return NobodyFoundError(
            f"No rendezvous server could be reached ({each}).",
            "Is the address right, and does this network let UDP out? On one network no server is needed.",
        )


@asynccontextmanager
async def open_wan(
    endpoint: Endpoint, names: Sequence[ServerName], on_seen: Callable[[], None] = lambda: None
) -> AsyncIterator[Wan]:
    """The servers of a list, kept in touch with while the block runs."""
    wan = Wan(endpoint, names, on_seen)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wan.run)
        yield wan
        nursery.cancel_scope.cancel()


# The listener's side.


@attrs.define(eq=False)
class Allocation:
    """A number that a server gave to our window, by `allocated`."""

    wan: Wan
    server: Server
    number: int
    _asked: Asked
    _meetings: int = attrs.field(default=0, init=False)

    async def receive(self, say: Callable[[str], None], renumbered: Callable[[int], None]) -> Never:
        """Punch for whoever enters, for ever: their dials arrive at the endpoint. `say` hears what goes wrong, `renumbered`
        when a server that was gone came back with another number."""
        async with trio.open_nursery() as nursery:
            async for event in self._asked.events:
                match event:
                    case Matched():
                        # A server that lies may match as fast as it likes: what there is no room for is passed over.
                        if self._meetings < MEETINGS and self.wan.puncher.has_room:
                            self._meetings += 1
                            nursery.start_soon(self._meet, event, say)
                    case Given(_, number) if number != self.number:
                        self.number = number
                        renumbered(number)
                    case Crowded():
                        say("Somebody else came for this number while one was here, and was sent away.")
                    case Denied(_, Refusal.EXPIRED, _):
                        self._asked.again()
                    case Denied(_, why, seconds):
                        say(f"The rendezvous server gives no number any more ({why.name.lower()}).")
                        await trio.sleep(max(seconds, ANSWER_TIMEOUT))
                        self._asked.again()
        raise AssertionError("a channel of ours is never closed by a server")

    def failed(self) -> None:
        """A run with who entered came to nothing: the number is open for the next."""
        self._asked.free()

    async def _meet(self, matched: Matched, say: Callable[[str], None]) -> None:
        heard = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._free_in_time, heard)
                outcome = await self.wan.punch(self.server, matched, Side.SECOND, lambda opened: heard.set())
                if not outcome.heard:
                    why = reason(self.wan.nat, matched.nat, heard=False, sent=outcome.sent)
                    say(f"Somebody entered the number and could not be reached at {matched.address}. {why}")
        finally:
            self._meetings -= 1

    async def _free_in_time(self, heard: trio.Event) -> None:
        """Let the next one in when nobody speaks, or when who did has had the time of a pairing."""
        with trio.move_on_after(ATTEMPT_SECONDS):
            await heard.wait()
        if heard.is_set():
            await trio.sleep(PAIRING_DEADLINE)
        self._asked.free()


@asynccontextmanager
async def allocated(wan: Wan) -> AsyncIterator[Allocation]:
    """A number of the first server of the list that can be reached, for as long as the block runs.

    Raises NobodyFoundError when none can be, RefusedError when it gives none.
    """
    async with wan.watched():
        server = next((each for each in wan.servers if each.is_connected), None)
        if server is None:
            for each in wan.servers:
                async with each.asking(lambda client, ref: 0):
                    await each.wait_tried()
                if each.is_connected:
                    server = each
                    break
        if server is None:
            raise wan.unreachable()
        async with server.asking(lambda client, ref: client.allocate(wan.nat)) as asked:
            event = None
            with trio.move_on_after(ANSWER_TIMEOUT):
                event = await asked.events.receive()
            if not isinstance(event, Given):
                why = event.why.name.lower() if isinstance(event, Denied) else "it does not answer"
                raise RefusedError(
                    f"The rendezvous server {server.name} gives no number ({why}).",
                    "Too many windows may be open from this network: wait a little, or name another server.",
                )
            yield Allocation(wan, server, event.number, asked)


# The connector's side.


@attrs.define(eq=False)
class WanSearch:
    """Enters a number at all servers of a list, and tells candidates to which a path is open."""

    wan: Wan
    number: int
    """That of the code, which a server gave."""

    as_candidate: int | None
    """What the search calls it: the number, or None where the passphrase was chosen."""

    found: Callable[[Candidate], None]
    ended: Callable[[str, str], None]
    """Called once, with the reason and what can be done, when nobody will be found this way any more."""

    _reasons: list[str] = attrs.field(factory=list, init=False)
    _reached: bool = attrs.field(default=False, init=False)
    _unmet: list[str] = attrs.field(factory=list, init=False)
    """Of listeners that were found and not reached: then it says nothing that another server knows none."""

    async def run(self) -> None:
        """Until nothing is left to try."""
        async with self.wan.watched(), trio.open_nursery() as nursery:
            for server in self.wan.servers:
                nursery.start_soon(self._enter, server)
        if not self._reached:
            error = self.wan.unreachable()
            self.ended(error.what, error.advice)
        else:
            said = " ".join(dict.fromkeys(self._unmet or self._reasons))
            self.ended(said, WAYS_LEFT if self._unmet else "Is the number right, and does the listener still wait?")

    async def _enter(self, server: Server) -> None:
        async with server.asking(lambda client, ref: client.enter(self.number, self.wan.nat)) as asked:
            await server.wait_tried()
            if not server.is_connected:
                what = server.error.what if server.error else "It does not answer."
                self._reasons.append(f"Rendezvous server {server.name}: {what}")
                return
            self._reached = True
            missing = 0
            while True:
                match await asked.events.receive():
                    case Matched() as matched:
                        self._unmet.append(await self._punch(server, matched))
                        return
                    case Denied(_, Refusal.NO_SUCH_NUMBER, _):
                        missing += 1
                        if missing >= ENTRIES:
                            self._reasons.append(f"The rendezvous server {server.name} knows no number {self.number}.")
                            return
                        await trio.sleep(ENTER_AGAIN)
                        asked.again()
                    case Denied(_, why, seconds):
                        if not seconds:
                            text = f"The rendezvous server {server.name} lets nobody in ({why.name.lower()})."
                            self._reasons.append(text)
                            return
                        await trio.sleep(seconds)
                        asked.again()

    async def _punch(self, server: Server, matched: Matched) -> str:
        opened: list[Address] = []

        def add(path: Opened) -> None:
            opened.append(path.address)
            addresses = tuple(sorted(opened, key=preference))
            self.found(Candidate(f"rendezvous {server.name}", self.as_candidate, addresses))

        outcome = await self.wan.punch(server, matched, Side.FIRST, add)
        why = reason(self.wan.nat, matched.nat, heard=outcome.heard, sent=outcome.sent)
        return f"The listener could not be reached at {matched.address}. {why}"
