"""One attempt at a member, or at whoever answers where a member may be: its addresses, and the session over one of them.

Addresses are dialled one shortly after the other and not one after the other (RFC 8305, section 5), so that a dead one costs a
quarter of a second. Sessions are held one at a time: two of our own with one member would only replace each other.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from meshd.drivers.link import Link, PathKind
from meshd.drivers.quic import Connection, DialFailedError, Endpoint, VersionMismatchError
from meshd.drivers.session import AlreadyLinkedError, Membership, dial_session
from meshd.model.identity import Keys, NodeId
from meshd.protocol.peerbook import Hint, Kind
from meshd.protocol.session_events import SessionError
from meshd.wire.constants import CloseCode

STAGGER: Final = 0.25
"""Seconds between dialling an address and dialling the next (RFC 8305, section 8)."""

LAN_TIMEOUT: Final = 2.0
"""Seconds to wait for an answer at an announced address: on a LAN it takes milliseconds."""

DIAL_TIMEOUT: Final = 5.0
"""Seconds to wait elsewhere; a first packet that was lost is repeated after one."""

TURN: Final = 1.5
"""Seconds after which a session that comes to nothing lets the next begin beside it: who sits at one of a member's old
addresses and says nothing must not keep us from the others for as long as a handshake may take."""


@attrs.frozen
class Reached:
    """A session was confirmed; the link is the receiver's now, to keep or to close."""

    hint: Hint
    link: Link


@attrs.frozen
class Met:
    """What answered says that it is a member that is linked, or being dialled."""

    hint: Hint
    node: NodeId


@attrs.frozen
class Ourselves:
    """The address is one of this machine's own."""

    hint: Hint


@attrs.frozen
class Missed:
    """Nobody was there, or nobody whom we would link with."""

    hint: Hint
    why: str


Outcome = Reached | Met | Ourselves | Missed


@attrs.define(eq=False)
class Attempt:
    """`wanted` is the member that is meant, None for whoever answers. `claim` says whether a member may be called now, and
    marks it as being called: of two attempts that come upon one member the second lets it be."""

    endpoint: Endpoint
    keys: Keys
    membership: Membership
    wanted: NodeId | None
    claim: Callable[[NodeId], bool]
    report: Callable[[Outcome], None]
    called: set[NodeId] = attrs.field(factory=set, init=False)
    """The members whose session is under way here."""

    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _sessions: trio.Semaphore = attrs.field(factory=lambda: trio.Semaphore(1), init=False)

    async def run(self, hints: Sequence[Hint]) -> None:
        """Try all of them, until one has led where we want to go; reports what each has come to."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                for place, hint in enumerate(hints):
                    nursery.start_soon(self._try, hint, place * STAGGER)

    def give_up(self) -> None:
        """Stop dialling, unless a session is under way that the other side may hold for confirmed already."""
        if not self.called:
            self._scope.cancel()

    async def _try(self, hint: Hint, delay: float) -> None:
        await trio.sleep(delay)
        timeout = LAN_TIMEOUT if hint.kind is Kind.LAN else DIAL_TIMEOUT
        try:
            connection = await self.endpoint.dial(hint.address, timeout=timeout)
        except (DialFailedError, VersionMismatchError) as error:
            self.report(Missed(hint, error.what))
            return
        outcome = await self._hold_session(connection, hint)
        self.report(outcome)
        met = outcome.link.node if isinstance(outcome, Reached) else outcome.node if isinstance(outcome, Met) else None
        if met is not None and self.wanted in (met, None):
            self._scope.cancel()

    async def _hold_session(self, connection: Connection, hint: Hint) -> Outcome:
        calling: NodeId | None = None

        def is_linked(node: NodeId) -> bool:
            nonlocal calling
            if not self.claim(node):
                return True
            calling = node
            self.called.add(node)
            return False

        try:
            async with self._turn():
                link = await dial_session(
                    connection, self.keys, self.membership, is_linked=is_linked, path=PathKind(hint.kind.value)
                )
        except AlreadyLinkedError as error:
            return Met(hint, error.node)
        except SessionError as error:
            return Ourselves(hint) if error.code is CloseCode.SELF else Missed(hint, error.what)
        except BaseException:
            connection.close(CloseCode.INTERRUPTED, "")
            raise
        finally:
            if calling is not None:
                self.called.discard(calling)
        return Reached(hint, link)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        has_turn = False
        with trio.move_on_after(TURN):
            await self._sessions.acquire()
            has_turn = True
        try:
            yield
        finally:
            if has_turn:
                self._sessions.release()
