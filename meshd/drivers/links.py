"""The links of one mesh: dials who is missing, keeps one session a member, and lets go of who is out.

What to dial is decided in protocol/peerbook.py and protocol/dialer.py, which of two sessions stays in protocol/linking.py;
this acts on it. docs/protocol/finding.md.
"""

import ipaddress
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final, Never

import attrs
import trio

from meshd.drivers.addresses import AddressStore
from meshd.drivers.attempt import Attempt, Met, Missed, Ourselves, Outcome, Reached
from meshd.drivers.link import Link, PathKind
from meshd.drivers.quic import Endpoint
from meshd.drivers.quic_engine import IDLE_TIMEOUT
from meshd.drivers.session import Membership
from meshd.errors import TetherError
from meshd.model.address import Address
from meshd.model.candidate import Gone, Neighbour
from meshd.model.identity import Keys, NodeId, node_text
from meshd.notices import LinkDown, LinkUp, Notify, Trouble
from meshd.protocol.dialer import Dialer
from meshd.protocol.linking import Chosen, LetGo, Linking, Session, TwoHolders
from meshd.protocol.peerbook import Entry, Hint, Kind, PeerBook, Target
from meshd.wire.constants import CloseCode

PROBE_TIMEOUT: Final = 1.0
"""Seconds in which a peer that is there answers a ping: long for any path, short for somebody who waits."""

REDIAL_GRACE: Final = 0.25
"""Seconds that a link has to answer, after a wake or on a changed network, before its member is dialled beside it: nearly
always it answers, and a second session would only have to be settled."""

DRAIN: Final = 0.5
"""Seconds that a session which lost has to bring what is under way to its end."""

PATIENCE: Final = 5.0
"""Seconds that the other end, where that is for it to do, has to close a session which lost."""

NEARER: Final = frozenset({Kind.LAN, Kind.BY_HAND})
"""Ways for which a link across the internet is given up."""

WAN_PING: Final = 8.0
"""Quiet seconds before a ping on a link across the internet: a router that got another address is noticed in 18 s, and its
mapping, which may be forgotten after 30, is kept."""

FAREWELL: Final = 3.0
"""Seconds that the machine of replication has to tell a peer why it is out: it gives itself less."""

INTRODUCTION_TIME: Final = 30.0
"""Seconds in which a peer that showed its own admission must turn up in the roster: two exchanges over a slow path."""

_TWO_HOLDERS: Final = "Sessions replace each other, which a copied key does."


@attrs.define(eq=False)
class Links:
    """One for each mesh. `run` it for as long as the mesh is open; nothing else here waits.

    `serve` runs a link's streams and returns when they are over, perhaps with a text that says why; when it ends the link
    does. `name_of` gives the name by which people know a member.
    """

    endpoint: Endpoint
    keys: Keys
    membership: Membership
    store: AddressStore
    serve: Callable[[Link], Awaitable[str | None]]
    notify: Notify
    name_of: Callable[[NodeId], str]
    current: Mapping[NodeId, Link] = attrs.field(init=False)
    """The link with each member that is linked; changes as it is held."""

    _book: PeerBook = attrs.field(factory=PeerBook, init=False)
    # Only spread in time hangs on it, and nobody gains by foreseeing that.
    _dialer: Dialer[Target] = attrs.field(factory=lambda: Dialer(random.random), init=False)
    _linking: Linking[Link] = attrs.field(init=False)
    _links: dict[NodeId, Link] = attrs.field(factory=dict, init=False)
    _open: dict[Link, str] = attrs.field(factory=dict, init=False)
    """Every confirmed session that is not over, with what is known of why it ends."""

    _served: set[Link] = attrs.field(factory=set, init=False)
    _doubted: set[Link] = attrs.field(factory=set, init=False)
    """Links that have not answered since a wake or a change of network."""

    _asked_for_life: set[Link] = attrs.field(factory=set, init=False)
    """Links that have been asked for a sign of life."""

    _attempts: dict[Target, Attempt] = attrs.field(factory=dict, init=False)
    on_change: list[Callable[[], None]] = attrs.field(factory=list, init=False)
    """Called when somebody is linked, or is no more."""

    _news: trio.Event = attrs.field(factory=trio.Event, init=False)
    _nursery: trio.Nursery | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.current = MappingProxyType(self._links)
        self._linking = Linking(self.keys.identity.noise_key)

    async def run(self) -> Never:
        """Load what is known, then find and keep links for ever."""
        now = trio.current_time()
        for known in await self.store.load():
            if known.kind is Kind.BY_HAND:
                self._book.add_by_hand(known.address, known.node)
            elif known.node is not None and known.kind is Kind.LEARNT:
                self._book.learn(known.node, [*self._book.learnt(known.node), known.address])
            if known.node is not None and known.age is not None:
                self._book.remember(known.node, known.address, now - known.age)
        try:
            async with trio.open_nursery() as self._nursery:
                while True:
                    self._news = trio.Event()
                    self._dial_due(self._nursery)
                    with trio.move_on_at(self._dialer.next_deadline()):
                        await self._news.wait()
        finally:
            self._nursery = None
            for link in list(self._open):
                link.connection.close(CloseCode.DONE, "")

    # What others tell.

    def adopt(self, link: Link) -> None:
        """Take a session that a peer opened and we have confirmed."""
        if self._nursery is None:
            link.connection.close(CloseCode.INTERRUPTED, "")
        elif self._take(link):
            # One UDP port is a machine's for everything, so where it dials from is where it can be dialled.
            self._keep(link.node, link.connection.peer)

    def seen(self, sighting: Neighbour | Gone) -> None:
        """Take an announcement with one of this mesh's tags, or that one is taken back."""
        target = self._book.seen(sighting)
        if target is not None:
            self._dialer.news(trio.current_time(), target)
        self._news.set()

    def add_by_hand(self, address: Address, node: NodeId | None = None) -> bool:
        """Dial this address from now on, for a member or for whoever is there; False when there are too many."""
        added = self._book.add_by_hand(address, node)
        self._dialer.news(trio.current_time(), address if node is None else node)
        self._news.set()
        return added

    def remove_by_hand(self, address: Address) -> bool:
        """Take that back; whether it was known. A link over it stays."""
        self._news.set()
        return self._book.remove_by_hand(address)

    def learn(self, node: NodeId, addresses: Iterable[Address]) -> None:
        """Where a member says that it is, in place of what it said before."""
        if self._book.learn(node, addresses):
            self._dialer.news(trio.current_time(), node)
            self._news.set()

    def remember(self, node: NodeId, address: Address) -> None:
        """This member was met at this address just now, by other means than a link: in a pairing."""
        self._keep(node, address)
        self._dialer.news(trio.current_time(), node)
        self._news.set()

    def punched(self, node: NodeId, address: Address) -> None:
        """A path to this member has been opened: dial it at once, whatever is being tried."""
        self._book.punched(node, address)
        attempt = self._attempts.get(node)
        if attempt is not None and not attempt.called:
            attempt.give_up()
        self._dialer.news(trio.current_time(), node)
        self._news.set()

    def doubt(self) -> None:
        """Ask every link for a sign of life."""
        for link in self._links.values():
            if link not in self._asked_for_life:
                self._asked_for_life.add(link)
                self._start(self._doubt, link)

    def woke(self) -> None:
        """Time was lost: ask every link for a sign of life, and dial at once who is missing."""
        self.doubt()
        for attempt in self._attempts.values():
            attempt.give_up()  # it waits for an answer to what it sent before
        self._dialer.news(trio.current_time())
        self._news.set()

    def network_changed(self) -> None:
        """This machine's addresses are others: the same, and who answers where is open again."""
        self._book.network_changed()
        self.woke()

    def recheck(self) -> None:
        """The roster, or who is blocked, has changed: let go of who is out, and look anew for who came in."""
        for link in list(self._open):
            self._check(link)
        # An announcement that was nobody's may be the new member's.
        for target in self._targets():
            if not isinstance(target, bytes):
                self._dialer.news(trio.current_time(), target)
        self._news.set()

    def settle(self, link: Link) -> None:
        """The first exchange of rosters over this link is complete: if its peer is not in ours by now, it goes."""
        link.introduced = False
        self._check(link)

    def entries(self) -> list[Entry]:
        """The peer book, for people."""
        return self._book.entries()

    # Dialling.

    def _targets(self) -> list[Target]:
        members = [each.node for each in self.membership.members()]
        return self._book.targets(members, self._linked())

    def _linked(self) -> set[NodeId]:
        return {node for node, link in self._links.items() if link not in self._doubted and not self._nearer(node)}

    def _nearer(self, node: NodeId) -> list[Hint]:
        """Better ways to a member than the link across the internet that it has, none of which failed again and again."""
        link = self._links[node]
        if link.path is not PathKind.WAN and ipaddress.ip_address(link.connection.path.host).is_private:
            return []
        return [
            each
            for each in self._book.hints(node)
            if each.kind in NEARER and each.address != link.connection.path and not self._book.is_bad(each.address)
        ]

    def _dial_due(self, nursery: trio.Nursery) -> None:
        now, targets = trio.current_time(), self._targets()
        self._dialer.want(targets, {each for each in targets if isinstance(each, bytes)}, now)
        for target, attempt in self._attempts.items():
            if target not in targets:
                attempt.give_up()
        for target in self._dialer.next_dials(now):
            nursery.start_soon(self._attempt, target)

    async def _attempt(self, target: Target) -> None:
        attempt = Attempt(
            self.endpoint,
            self.keys,
            self.membership,
            target if isinstance(target, bytes) else None,
            self._may_call,
            lambda outcome: self._came_of(target, outcome),
        )
        self._attempts[target] = attempt
        try:
            hints = self._book.hints(target, self._linked())
            if isinstance(target, bytes) and target in self._links and self._links[target] not in self._doubted:
                hints = self._nearer(target)  # beside a link across the internet
            await attempt.run(hints)
        finally:
            del self._attempts[target]
            self._dialer.ended(target, trio.current_time())
            self._news.set()

    def _may_call(self, node: NodeId) -> bool:
        return node not in self._linked() and not any(node in each.called for each in self._attempts.values())

    def _came_of(self, target: Target, outcome: Outcome) -> None:
        address = outcome.hint.address
        match outcome:
            case Reached(_, link):
                if self._take(link):
                    self._book.confirmed(target, address, link.node, link.since)
                    self._keep(link.node, link.connection.peer)
            case Met(_, node):
                self._book.met(target, address, node)
            case Ourselves():
                self._book.is_ours(address)
            case Missed(_, why):
                self._book.failed(address, why)

    def _keep(self, node: NodeId, address: Address) -> None:
        self._book.remember(node, address, trio.current_time())
        self._start(self._store, node, address)

    async def _store(self, node: NodeId, address: Address) -> None:
        try:
            await self.store.worked(node, address)
        except TetherError:
            # A full disk is told where records are written. An address that is not kept costs a search at the next start.
            return

    # Links.

    def _take(self, link: Link) -> bool:
        """Count a confirmed session in; False when its peer is out, which closes it."""
        self._open[link] = ""
        if not self._check(link):
            del self._open[link]
            return False
        self._linking.confirmed(link.node, link.peer.noise_key, Session(link, link.dialled_here, link.since))
        self._start(self._watch, link)
        self._carry_out()
        return True

    def _check(self, link: Link) -> bool:
        """Whether the peer may stay; ends the link if not."""
        if link.leaving.is_set():
            return False
        member = self.membership.by_noise(link.peer.noise_key)
        if member is not None and member.signing_key == link.peer.signing_key:
            link.introduced = False
            return True
        if link.introduced and trio.current_time() < link.since + INTRODUCTION_TIME:
            return True
        why = "it is no member any more, or is blocked"
        if link.introduced or link not in self._served or self.membership.blocks(link.node):
            self._close(link, CloseCode.NOT_A_MEMBER, why)
        else:
            link.leaving.set()
            self._unlink(link, why)
            self._start(self._see_out, link)
        return False

    async def _see_out(self, link: Link) -> None:
        """Who has just lost its membership is told the records that say so (drivers/sync.py), and closed then."""
        with trio.move_on_after(FAREWELL):
            await link.connection.wait_closed()
        link.connection.close(CloseCode.NOT_A_MEMBER, "")

    def _close(self, link: Link, code: CloseCode, why: str) -> None:
        if link in self._open:
            self._open[link] = self._open[link] or why
        link.connection.close(code, "")

    async def _watch(self, link: Link) -> None:
        if link.introduced:
            with trio.move_on_after(INTRODUCTION_TIME):
                await link.connection.wait_closed()
            if link.introduced and link.connection.closed is None:
                self.settle(link)
        closed = await link.connection.wait_closed()
        if closed.told == CloseCode.REPLACED:
            self._linking.replaced(link.node, trio.current_time())
        why = self._open.pop(link) or closed.reason or ("closed by the other side" if closed.by_peer else "closed here")
        self._served.discard(link)
        self._unlink(link, why)

    def _unlink(self, link: Link, why: str) -> None:
        """The link is one no more. Does nothing the second time."""
        self._doubted.discard(link)
        self._linking.ended(link.node, link)
        self._carry_out()  # another session may take its place, and then nobody need hear of it
        if self._links.get(link.node) is link:
            del self._links[link.node]
            self._dialer.unlinked(link.node, trio.current_time() - link.since)
            self._tell_change()
            self.notify(LinkDown(self._mesh, node_text(link.node), self.name_of(link.node), why))

    def _carry_out(self) -> None:
        while (event := self._linking.next_event()) is not None:
            match event:
                case Chosen(node, link):
                    self._choose(node, link)
                case LetGo():
                    self._start(self._let_go, event)
                case TwoHolders(node):
                    self.notify(_two_holders(None if node is None else self.name_of(node)))
        self._news.set()

    def _choose(self, node: NodeId, link: Link) -> None:
        is_news = node not in self._links
        self._links[node] = link
        if link not in self._served:
            self._served.add(link)
            self._start(self._serve, link)
        if not ipaddress.ip_address(link.connection.peer.host).is_private:
            link.connection.watch(ping=WAN_PING, silence=IDLE_TIMEOUT)
        if is_news:
            self._tell_change()
            self.notify(
                LinkUp(self._mesh, node_text(node), self.name_of(node), str(link.connection.peer), link.path.value)
            )

    def _tell_change(self) -> None:
        for callback in self.on_change:
            callback()

    async def _serve(self, link: Link) -> None:
        try:
            why = await self.serve(link)
            self._close(link, CloseCode.DONE, why or "")
        finally:
            link.connection.close(CloseCode.DONE, "")

    async def _let_go(self, event: LetGo[Link]) -> None:
        loser, winner = event.loser, event.winner
        with trio.move_on_after(DRAIN if event.closes_loser else PATIENCE):
            await loser.connection.wait_closed()
        if loser.connection.closed is not None or self._links.get(event.node) is loser:
            return
        if await winner.connection.probe(PROBE_TIMEOUT) is None:
            self._close(winner, CloseCode.TIMED_OUT, "it did not answer")  # and the other one is the link again
            return
        if not event.closes_loser and await loser.connection.probe(PROBE_TIMEOUT) is not None:
            self._linking.outlived(event.node, trio.current_time())
        self._close(loser, CloseCode.REPLACED, "a newer session took its place")
        self._carry_out()

    async def _doubt(self, link: Link) -> None:
        """Find out whether a link is still one, and have its member dialled beside it when that takes long."""
        with trio.CancelScope() as answered:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._doubt_after, link, REDIAL_GRACE)
                if await link.connection.probe(PROBE_TIMEOUT) is None:
                    self._close(link, CloseCode.TIMED_OUT, "it did not answer after a sleep or a change of network")
                answered.cancel()
        self._asked_for_life.discard(link)
        self._doubted.discard(link)
        self._news.set()

    async def _doubt_after(self, link: Link, grace: float) -> None:
        await trio.sleep(grace)
        self._doubted.add(link)
        self._dialer.news(trio.current_time(), link.node)
        self._news.set()

    @property
    def _mesh(self) -> str:
        return self.membership.mesh.hex()

    def _start(self, function: Callable[..., Awaitable[object]], *arguments: object) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(function, *arguments)


def _two_holders(name: str | None) -> Trouble:
    if name is None:
        return Trouble(
            f"Another machine uses the keys of this one. {_TWO_HOLDERS}",
            "One of the two is a copy. Stop the copy, and let it join as a machine of its own with new keys.",
            "error",
        )
    return Trouble(
        f"Two machines use the keys of {name}. {_TWO_HOLDERS}",
        "One of the two is a copy. If you do not know of it, the keys may be stolen: revoke that machine.",
        "warning",
    )
