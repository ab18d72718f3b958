"""Which of several sessions with one member is the link, when both sides dialled, or one came back. No socket.

The rule (docs/protocol/finding.md, "One link"): of two sessions that were dialled from both ends and confirmed within 10 s
of each other, the one whose client has the lower Noise public key stays; otherwise the newer. Both ends come to the same
answer without a word. The end that dialled the winner has read its confirm, and lets the loser go; the other end waits
for that, so that no session is given up for one that the other side never finished.

Who calls this checks, before it lets a loser go, that the winner is alive: a peer that died and came back
within those 10 s may have left a dead session which the rule prefers.
"""

from collections import deque
from typing import Final, Generic, TypeVar

import attrs

from meshd.errors import LocalProtocolError
from meshd.model.identity import NodeId

CROSSING: Final = 10.0
"""Seconds between two confirms below which both may have been under way at once: the deadline of a session's handshake."""

REPLACED_LIMIT: Final = 3
"""Replacements in REPLACED_WITHIN that have innocent reasons: a wake from sleep, another network, a restart."""

REPLACED_WITHIN: Final = 180.0
"""Seconds over which replacements are counted. Each of two holders waits longer before it dials again, so that on a busy
machine a minute held three of them and no fourth ever followed in time: neither was told."""

TOLD_AGAIN: Final = 3600.0
"""Seconds before the same is told again: who has heard it needs time to act."""

S = TypeVar("S")


@attrs.frozen
class Session(Generic[S]):
    """One confirmed session; `handle` is the caller's own name for it."""

    handle: S
    dialled_here: bool
    confirmed_at: float


@attrs.frozen
class Chosen(Generic[S]):
    """This session is the link with that member from now on."""

    node: NodeId
    handle: S


@attrs.frozen
class LetGo(Generic[S]):
    """`loser` is to end because of `winner`, once that is known to be alive. `closes_loser`: it is for this end to do
    so; else the other end does, and only if it does not in time this one."""

    node: NodeId
    loser: S
    winner: S
    closes_loser: bool


@attrs.frozen
class TwoHolders:
    """A member's key, or our own where `node` is None, is used on two machines at once."""

    node: NodeId | None


Event = Chosen[S] | LetGo[S] | TwoHolders


@attrs.define
class _Peer(Generic[S]):
    noise_key: bytes
    sessions: list[Session[S]] = attrs.field(factory=list)
    """All that are open, the link first, then the others in the order in which they were confirmed."""


class Linking(Generic[S]):
    """Take all events with `next_event` after every call. Times are seconds of one monotonic clock."""

    def __init__(self, noise_key: bytes) -> None:
        """`noise_key` is our own, public, 32 bytes."""
        self._noise_key = noise_key
        self._peers: dict[NodeId, _Peer[S]] = {}
        self._events: deque[Event[S]] = deque()
        self._replaced: dict[NodeId | None, deque[float]] = {}
        self._told: dict[NodeId | None, float] = {}

    def next_event(self) -> Event[S] | None:
        """The next event, None when there is none."""
        return self._events.popleft() if self._events else None

    def confirmed(self, node: NodeId, noise_key: bytes, session: Session[S]) -> None:
        """A session with this member stands."""
        peer = self._peers.setdefault(node, _Peer(noise_key))
        if any(each.handle == session.handle for each in peer.sessions):
            raise LocalProtocolError("a session is confirmed once")
        if not peer.sessions:
            peer.sessions.append(session)
            self._events.append(Chosen(node, session.handle))
            return
        current = peer.sessions[0]
        if self._keeps(current, session, noise_key):
            peer.sessions.append(session)
            winner, loser = current, session
        else:
            peer.sessions.insert(0, session)
            winner, loser = session, current
            self._events.append(Chosen(node, session.handle))
        self._events.append(LetGo(node, loser.handle, winner.handle, winner.dialled_here))

    def _keeps(self, current: Session[S], newer: Session[S], noise_key: bytes) -> bool:
        """Whether the link stays the one that is, although a newer session was confirmed."""
        crossed = current.dialled_here != newer.dialled_here
        if not crossed or abs(newer.confirmed_at - current.confirmed_at) > CROSSING:
            return False
        return current.dialled_here == (self._noise_key < noise_key)

    def ended(self, node: NodeId, handle: S) -> None:
        """A session is over, for whatever reason. When it was the link, another that still stands takes its place."""
        peer = self._peers.get(node)
        if peer is None:
            return
        was_link = bool(peer.sessions) and peer.sessions[0].handle == handle
        peer.sessions = [each for each in peer.sessions if each.handle != handle]
        if not peer.sessions:
            del self._peers[node]
        elif was_link:
            # The newest of the rest: the peer dialled it knowing most.
            newest = max(peer.sessions, key=lambda each: each.confirmed_at)
            peer.sessions.remove(newest)
            peer.sessions.insert(0, newest)
            self._events.append(Chosen(node, newest.handle))

    def outlived(self, node: NodeId, now: float) -> None:
        """A session that a newer one of this member replaced was alive and well when it was let go, and its other end had
        not let go of it: one machine would have."""
        self._count(node, now)

    def replaced(self, node: NodeId, now: float) -> None:
        """The peer let go of our session for a newer one of ours. Say so before `ended`: if we know of no other session,
        somebody else uses our key."""
        peer = self._peers.get(node)
        if peer is not None and len(peer.sessions) == 1:
            self._count(None, now)

    def is_open(self, node: NodeId, handle: S) -> bool:
        """Whether this session still stands."""
        peer = self._peers.get(node)
        return peer is not None and any(each.handle == handle for each in peer.sessions)

    def _count(self, who: NodeId | None, now: float) -> None:
        times = self._replaced.setdefault(who, deque(maxlen=REPLACED_LIMIT + 1))
        times.append(now)
        many = len(times) > REPLACED_LIMIT and now - times[0] <= REPLACED_WITHIN
        if many and now - self._told.get(who, float("-inf")) >= TOLD_AGAIN:
            self._told[who] = now
            self._events.append(TwoHolders(who))
