"""The agents of one mesh: which there are, which of ours a program is bound to, and to whom a target goes."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs
import trio

from meshd.errors import NobodyFoundError, RefusedError, StoreError, UsageError
from meshd.model import clock
from meshd.model.identity import NodeId
from meshd.model.member import Member
from meshd.model.message import (
    ADDRESSEES_LIMIT,
    AGENTS_LIMIT,
    RECIPIENTS_LIMIT,
    TAGS_LIMIT,
    WORD_LIMIT,
    Agent,
    Card,
    Target,
)
from meshd.model.name import check_name
from meshd.model.record import Record
from meshd.model.text import is_showable
from meshd.node.naming import machine_ref, named_member
from meshd.notices import Trouble
from meshd.store.mail import Agented, Reader, agent_key
from meshd.tools.context import AgentInfo, AgentRef, Presence, Session
from meshd.wire.bodies import type_of

if TYPE_CHECKING:
    from meshd.node.mesh import Mesh

USER: Final = "user"
"""Who sends and reads where no agent is named: the person at this machine."""

BROADCAST: Final = "broadcast"

GRACE: Final = 3.0
"""Seconds until others are told that a program has gone: it may only be starting anew."""

START_GRACE: Final = 15.0
"""The same after the daemon's own start, for programs that come back by themselves."""

_GROUPS: Final = ("tag", "cap", "label", "machine")


def _blank(name: str) -> Card:
    return Card(name=name, label="", tags=(), capabilities=(), status="", live=False, removed=False)


_CARD: Final = type_of(Card)[0]


@attrs.frozen
class Meant:
    """A target, worked out."""

    target: Target
    agents: tuple[Agent, ...]
    """Those that it means now."""

    machines: tuple[Member, ...]
    """Those that are to read it; none for all."""

    note: str


class Agents:
    """One a mesh. `run` it for as long as the mesh is open."""

    def __init__(self, mesh: "Mesh") -> None:
        self._mesh = mesh
        self._known: dict[tuple[NodeId, str], Agented] | None = None
        self._version = 0
        """Rises whenever what is known may have changed: what was being read then is not kept."""
        self._bound: dict[str, Session] = {}
        """By name in lower case."""
        self._gone: dict[str, float] = {}
        """Agents without a program that others take for live, and when they are to be told."""
        self._look = trio.Event()
        self._writing = trio.Lock()

    # What is known

    def news(self, records: Sequence[Record]) -> None:
        """Records have been stored: perhaps cards are among them."""
        if any(record.header.type == _CARD for record in records):
            self.forget()

    def forget(self) -> None:
        """Which records count has changed."""
        self._known = None
        self._version += 1

    async def known(self) -> dict[tuple[NodeId, str], Agented]:
        """All agents, by machine and name in lower case."""
        if self._known is not None:
            return self._known
        version = self._version
        found = await self._mesh.storage.read(lambda database: database.mail.agents(AGENTS_LIMIT))
        active = {member.node for member in self._mesh.roster.active()}
        known = {(each.node, each.card.name.lower()): each for each in found if each.node in active}
        # What changed meanwhile came after the question. Asking until nothing does would let one member, by writing card
        # after card, keep everybody waiting.
        if version == self._version:
            self._known = known
        return known

    def presence(self, agented: Agented) -> tuple[Presence, float]:
        """Whether it is there, and for how many seconds that is known."""
        mesh = self._mesh
        since = max(0.0, (mesh.machine.clocks.wall_ms() - clock.milliseconds(agented.clock)) / 1000)
        if agented.node == self._me:
            return ("live" if agented.card.name.lower() in self._bound else "stale"), since
        if agented.node in mesh.links.current:
            return ("live" if agented.card.live else "stale"), since
        return "unreachable", mesh.seen_age(agented.node) or 0.0

    def ref(self, name: str, node: NodeId) -> AgentRef:
        """An agent, for an answer."""
        return AgentRef(name, machine_ref(self._mesh, node), node == self._me)

    def info(self, agented: Agented) -> AgentInfo:
        """What is known of an agent, for an answer."""
        card = agented.card
        presence, age = self.presence(agented)
        return AgentInfo(
            agent=self.ref(card.name, agented.node),
            label=card.label,
            tags=card.tags,
            capabilities=card.capabilities,
            status=card.status,
            presence=presence,
            age=age,
            here=agented.node == self._me,
        )

    # Ours

    @property
    def _me(self) -> NodeId:
        return self._mesh.machine.keys.identity.node

    def who_asks(self, session: Session, name: str | None) -> str:
        """The agent that a connection speaks for. Raises RefusedError for one that it is not bound to."""
        if session.agent:
            if name is not None and name.lower() != session.agent.lower():
                raise RefusedError(
                    f"This session is bound to {session.agent} and cannot be {name}.",
                    "Leave the agent out, or start another session for the other one.",
                )
            return session.agent
        return check_name(name or USER, "agent")

    def who_sends(self, session: Session, name: str | None) -> str:
        """As `who_asks`; and nobody sends as an agent that another connection is bound to."""
        sender = self.who_asks(session, name)
        holder = self._bound.get(sender.lower())
        if holder is not None and holder is not session:
            raise RefusedError(
                f"{sender} is bound to another program just now, and only that one sends as it.",
                "Send from there, or under another name.",
            )
        return sender

    async def reader(self, name: str) -> Reader:
        """An agent of ours as the store asks for its mail: by name, group and machine."""
        agented = (await self.known()).get((self._me, name.lower()))
        targets = [
            agent_key(name, self._me),
            Target("name", name).key,
            Target("machine", node=self._me).key,
            Target(BROADCAST).key,
        ]
        if agented is not None:
            card = agented.card
            targets += [Target("tag", tag).key for tag in card.tags]
            targets += [Target("cap", capability).key for capability in card.capabilities]
            targets += [Target("label", card.label).key] if card.label else []
        return Reader(name=name.lower(), node=self._me, targets=tuple(targets))

    async def register(
        self,
        name: str,
        session: Session | None = None,
        *,
        label: str | None = None,
        tags: tuple[str, ...] = (),
        capabilities: tuple[str, ...] = (),
        status: str | None = None,
        bind: bool = False,
    ) -> AgentInfo:
        """Make an agent of ours known as it is now; what is None or empty stays.

        Raises RefusedError, UsageError, StoreError.
        """
        if check_name(name, "agent").lower() == BROADCAST:
            raise UsageError(f"{name} means everybody, and can be no agent's name.")
        _check_words((*tags, *capabilities), label or "", status or "")
        take_back = self._bind(name, session) if bind and session is not None else None
        try:
            return await self._write_card(name, label, tags, capabilities, status)
        except BaseException:
            # Refused or cancelled, the connection is not bound: it would go on as an agent that nobody knows.
            if take_back is not None:
                take_back()
            raise

    async def _write_card(
        self,
        name: str,
        label: str | None,
        tags: tuple[str, ...],
        capabilities: tuple[str, ...],
        status: str | None,
    ) -> AgentInfo:
        async with self._writing:
            known = await self.known()
            before = known.get((self._me, name.lower()))
            ours = sum(node == self._me for node, _ in known)
            if before is None and ours >= AGENTS_LIMIT:
                raise RefusedError(
                    f"This machine has {AGENTS_LIMIT} agents already.", "Remove some: tether agent remove NAME."
                )
            card = before.card if before else _blank(name)
            card = attrs.evolve(
                card,
                label=card.label if label is None else label,
                tags=tags or card.tags,
                capabilities=capabilities or card.capabilities,
                status=card.status if status is None else status,
                live=name.lower() in self._bound,
            )
            if before is None or card != before.card:
                await self._mesh.journal.append(card)
        agented = (await self.known()).get((self._me, name.lower()))
        if agented is None:  # this machine was put out of the mesh while it wrote
            raise RefusedError(f"{name} is in no list: this machine is not a member of the mesh any more.")
        return self.info(agented)

    async def remove(self, name: str) -> AgentInfo:
        """Take one of ours from all lists. Raises RefusedError while a program is bound to it, NobodyFoundError."""
        if name.lower() in self._bound:
            raise RefusedError(f"A program is bound to {name} just now.", "End it first.")
        async with self._writing:
            agented = (await self.known()).get((self._me, name.lower()))
            if agented is None:
                raise NobodyFoundError(f"No agent of this machine is called {name}.", "See: tether who.")
            await self._mesh.journal.append(attrs.evolve(agented.card, live=False, removed=True))
        return self.info(agented)

    def _bind(self, name: str, session: Session) -> Callable[[], None] | None:
        """Returns what takes it back, where it was not bound before."""
        key = name.lower()
        holder = self._bound.get(key)
        if session.agent and session.agent.lower() != key:
            raise RefusedError(f"This session is bound to {session.agent} already.", f"Start another one for {name}.")
        if holder is not None and holder is not session:
            raise RefusedError(
                f"{name} is bound to another program just now.",
                "End that one, or choose another name: two programs cannot be one agent.",
            )
        if holder is not None:
            return None
        before = session.agent, session.mesh
        self._bound[key] = session
        self._gone.pop(key, None)
        session.agent, session.mesh = name, self._mesh.hex
        ended = partial(self._ended, key)
        session.on_end.append(ended)

        def take_back() -> None:
            if ended in session.on_end:
                session.on_end.remove(ended)
                session.agent, session.mesh = before
                ended()

        return take_back

    def _ended(self, key: str) -> None:
        self._bound.pop(key, None)
        self._gone[key] = trio.current_time() + GRACE
        self._look.set()

    async def run(self) -> None:
        """Tell the others of agents whose programs are gone, for ever."""
        start = trio.current_time() + START_GRACE
        try:
            for (node, key), agented in (await self.known()).items():
                if node == self._me and agented.card.live and key not in self._bound:
                    self._gone[key] = start
        except StoreError as error:
            self._mesh.machine.notify(Trouble(error.what, error.advice, "error"))
        while True:
            now = trio.current_time()
            for key in [key for key, due in self._gone.items() if due <= now]:
                del self._gone[key]
                if key not in self._bound:
                    await self._say_gone(key)
            self._look = trio.Event()
            with trio.move_on_at(min(self._gone.values(), default=float("inf"))):
                await self._look.wait()

    async def _say_gone(self, key: str) -> None:
        try:
            agented = (await self.known()).get((self._me, key))
            if agented is not None and agented.card.live and self._mesh.is_in:
                await self.register(agented.card.name)
        except StoreError as error:
            self._mesh.machine.notify(Trouble(error.what, error.advice, "error"))
        except RefusedError:
            pass  # we are out of the mesh, and all our agents with us

    # Targets

    async def meant(self, text: str, sender: str) -> Meant:
        """To whom a target goes, now. Raises UsageError, NobodyFoundError, RefusedError."""
        kind, colon, word = text.partition(":")
        known = await self.known()
        if text.lower() == BROADCAST:
            return Meant(Target(BROADCAST), self._but(known.values(), sender), (), "")
        if colon:
            if kind not in _GROUPS:
                raise UsageError(
                    f"{text!r:.80} is no target.",
                    "There are tag:, cap:, label:, machine:, broadcast, and agents' names.",
                )
            return self._group(kind, word, known.values(), sender)
        if "@" in text:
            return self._explicit(text, known)
        return self._named(check_name(text, "agent"), known)

    def _group(self, kind: str, word: str, known: Iterable[Agented], sender: str) -> Meant:
        if kind == "machine":
            member = self._member(word)
            agents = self._but((each for each in known if each.node == member.node), sender)
            note = "" if agents else f"No agent is known on {member.name} yet; whoever begins there finds it."
            return Meant(Target("machine", node=member.node), agents, (member,), note)
        if not word or len(word) > WORD_LIMIT or not is_showable(word):
            raise UsageError(f"{kind}: needs a word after it.")
        if kind == "tag":
            target, found = Target("tag", word), [each for each in known if word in each.card.tags]
        elif kind == "cap":
            target, found = Target("cap", word), [each for each in known if word in each.card.capabilities]
        else:
            target = Target("label", word)
            found = [each for each in known if each.card.label.lower() == word.lower()]
        agents = self._but(found, sender)
        note = "" if agents else f"No agent is known with {kind}:{word}; who gets it later finds this."
        return Meant(target, agents, self._everybody(), note)

    def _explicit(self, text: str, known: dict[tuple[NodeId, str], Agented]) -> Meant:
        name, _, where = text.partition("@")
        check_name(name, "agent")
        member = self._member(where)
        agented = known.get((member.node, name.lower()))
        note = "" if agented else f"No agent called {name} is known on {member.name} yet; it waits there for one."
        written = agented.card.name if agented else name
        return Meant(Target("agent"), (Agent(written, member.node),), (member,), note)

    def _named(self, name: str, known: dict[tuple[NodeId, str], Agented]) -> Meant:
        found = [each for (_, key), each in known.items() if key == name.lower()]
        here = [each for each in found if each.node == self._me]
        found = here or found
        if len(found) > 1:
            names = ", ".join(sorted(f"{each.card.name}@{self._mesh.name_of(each.node)}" for each in found))
            raise UsageError(f"{name} may be {names}.", "Write to one of these addresses.")
        if found:
            (one,) = found
            member = self._mesh.roster.by_node(one.node)
            assert member is not None  # `known` has active members only
            return Meant(Target("agent"), (Agent(one.card.name, one.node),), (member,), "")
        note = f"No agent called {name} is known on any machine yet; the first to begin under this name finds it."
        return Meant(Target("name", name), (), self._everybody(), note)

    def _member(self, text: str) -> Member:
        member = named_member(self._mesh, text, prefer_active=True)
        if not member.is_active:
            raise RefusedError(f"{text} is not a member any more.", "See: tether members.")
        return member

    def _everybody(self) -> tuple[Member, ...]:
        active = tuple(self._mesh.roster.active())
        if len(active) - 1 > RECIPIENTS_LIMIT:
            raise RefusedError(
                f"A message can be sealed for {RECIPIENTS_LIMIT} machines, and this mesh has {len(active):,}.",
                "Write to an agent, to a machine, or to broadcast.",
            )
        return active

    def _but(self, found: Iterable[Agented], sender: str) -> tuple[Agent, ...]:
        """All but the sender, as many as a letter names. Who is over that is found by the target all the same."""
        own = (self._me, sender.lower())
        others = [each for each in found if (each.node, each.card.name.lower()) != own]
        return tuple(Agent(each.card.name, each.node) for each in others[:ADDRESSEES_LIMIT])


def _check_words(words: tuple[str, ...], label: str, status: str) -> None:
    if len(words) > TAGS_LIMIT:
        raise UsageError(f"An agent has at most {TAGS_LIMIT} tags and capabilities.")
    for text in (*words, label, status):
        if not is_showable(text):
            raise UsageError(f"{text!r:.80} holds characters that cannot be shown.")
