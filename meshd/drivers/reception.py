"""Whoever dials this machine is received here: their first frame says whether they come to pair or as a member."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Never

import attrs
import trio

from meshd.drivers.door import Caller, Door, hear
from meshd.drivers.link import Link
from meshd.drivers.quic import Connection, Endpoint, VersionMismatchError
from meshd.drivers.session import Membership, SessionError, answer_session
from meshd.errors import RefusedError
from meshd.model.identity import Keys
from meshd.wire.constants import CloseCode, Frame

Answer = Callable[[Caller], Awaitable[None]]


@attrs.define(eq=False)
class Reception:
    """The one task that accepts an endpoint's connections, and what it does with them.

    `answer` gets everybody who does not come to pair; without it all go to the door. `mismatched` hears of callers
    without a common version. How many are here at once, and for how long, the endpoint's limits on strangers decide.
    """

    endpoint: Endpoint
    mismatched: Callable[[VersionMismatchError], None]
    answer: Answer | None = None
    _door: Door | None = attrs.field(default=None, init=False)

    @contextmanager
    def opened(self, door: Door) -> Iterator[None]:
        """Let this door have those who come to pair. Raises RefusedError while another has them."""
        if self._door is not None:
            raise RefusedError("An invitation is open on this machine.", "Use it, or end it first.")
        self._door = door
        try:
            yield
        finally:
            self._door = None

    async def run(self) -> Never:
        """Accept for ever."""
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    connection = await self.endpoint.accept()
                except VersionMismatchError as error:
                    self.mismatched(error)
                else:
                    nursery.start_soon(self._receive, connection)

    async def _receive(self, connection: Connection) -> None:
        caller = await hear(connection)
        if caller is None:
            return
        # The first byte of a stream is the type of its first frame (wire/framing.py).
        if self.answer is not None and caller.first[0] != Frame.HELLO:
            await self.answer(caller)
        elif self._door is not None:
            await self._door.meet(caller)
        else:
            connection.close(CloseCode.WINDOW_CLOSED, "")


def answer_members(
    keys: Keys, memberships: Callable[[], Sequence[Membership]], adopt: Callable[[Link], None]
) -> Answer:
    """An `Answer` for a machine's meshes: sessions with their members, of which each new link is handed to `adopt`."""

    async def answer(caller: Caller) -> None:
        try:
            link = await answer_session(caller.connection, caller.stream, caller.first, keys, memberships())
        except SessionError:
            return  # strangers come and go, and what they were told is all there is to tell
        adopt(link)

    return answer
