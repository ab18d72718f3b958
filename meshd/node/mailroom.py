"""One mesh's mail on this machine: writing letters and words, saying what has arrived, and waiting for more."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs
import trio

from meshd.drivers.letterbox import Draft
from meshd.errors import RefusedError, StoreError
from meshd.model.handle import MESSAGES, Handle
from meshd.model.identity import NodeId
from meshd.model.member import Member
from meshd.model.message import (
    ADDRESSEES_LIMIT,
    LETTERS_LIMIT,
    RECIPIENTS_LIMIT,
    Letter,
    OpenMail,
    Reached,
    Words,
)
from meshd.model.message import State as Became
from meshd.model.record import Log, Record
from meshd.notices import MailArrived, Trouble
from meshd.store.database import Database
from meshd.store.mail import Mailed, Reader, Standing
from meshd.tools.context import State

if TYPE_CHECKING:
    from meshd.node.mesh import Mesh

TOLD_PAUSE: Final = 0.02
"""Seconds from mail's arrival, or its being shown, until that is said: what comes in between shares the record."""

AGAIN: Final = 60.0
"""Seconds until what the disk refused is said again."""

NOTES_LIMIT: Final = 4096
"""Letters that wait to be called notified. What is over that is called so when it is read."""

UNNAMED_LIMIT: Final = 32
"""Agents of one machine that are shown as readers of a letter which did not name them."""


@attrs.frozen
class Unread:
    """A letter that a reader is to be told of."""

    hash: bytes
    handle: str


@attrs.frozen
class Posted:
    """A letter that this machine has just written."""

    hash: bytes
    node: NodeId
    letter: Letter
    ttl: int
    progress: "list[Progress]"
    """How far it is: on this disk."""


@attrs.frozen
class Progress:
    """How far a letter has come for one agent, or, with no name, for a machine."""

    name: str
    node: NodeId
    state: State
    why: str = ""


class Mailroom:
    """Made with its mesh; `run` it for as long as that is open."""

    def __init__(self, mesh: "Mesh") -> None:
        self._mesh = mesh
        self.changed = trio.Event()
        """Set, and replaced, whenever mail or words about it were stored."""
        self._say = trio.Event()
        self._shown: dict[str, dict[bytes, None]] = {}
        """By agent, letters that its program was given and that are to be called notified."""

    @property
    def _me(self) -> NodeId:
        return self._mesh.machine.keys.identity.node

    # Writing

    async def send(self, letter: Letter, machines: Iterable[Member], ttl: int) -> Posted:
        """Write a letter, sealed for these machines; open, where its target is everybody. Raises as the journal does."""
        body: Draft | OpenMail
        parties: Iterable[NodeId]
        if letter.target.kind == "broadcast":
            body, parties = OpenMail(letter=letter), (member.node for member in self._mesh.roster.active())
        else:
            body = self._draft(letter, {member.node for member in machines})
            parties = (each.node for each in body.recipients)
        (record,) = await self._mesh.journal.append(body, ttl=ttl)
        # Nobody has said a word of it yet: the store need not be asked.
        progress = _progress(letter, sorted({self._me, *parties}), (), self._me, lambda node: False)
        return Posted(record.hash, self._me, letter, ttl, progress)

    async def say(
        self,
        state: Became,
        about: Sequence[Mailed],
        agent: str,
        *,
        status: str = "",
        reason: str = "",
        ticket: str = "",
    ) -> None:
        """Write what became of letters, sealed for the machines that are party to them. With `ticket`, of all its letters."""
        parties = await self._mesh.storage.read(partial(_parties, about))
        make = partial(Words, agent=agent, state=state, status=status, reason=reason)
        if ticket:
            everybody = frozenset[NodeId]().union(*parties.values())
            await self._mesh.journal.append(self._draft(make(letters=(), ticket=ticket), everybody))
        else:
            await self._write(self._words(make, about, parties))

    def _words(
        self, make: Callable[..., Words], about: Sequence[Mailed], parties: Mapping[int, frozenset[NodeId]]
    ) -> "Iterator[tuple[Draft, int]]":
        """Words about letters, sealed for those who are party to them, each with its time to live."""
        now = self._mesh.journal.now_ms()
        together: defaultdict[frozenset[NodeId], list[Mailed]] = defaultdict(list)
        for each in about:
            together[parties[each.record]].append(each)
        for nodes, letters in together.items():
            for start in range(0, len(letters), LETTERS_LIMIT):
                page = letters[start : start + LETTERS_LIMIT]
                # What is said of a letter is worth as long as it.
                left = [each.ttl - (now - each.born_ms) // 1000 for each in page]
                ttl = max(1, *left) if all(each.ttl for each in page) else 0
                yield self._draft(make(letters=tuple(each.hash for each in page), ticket=""), nodes), ttl

    async def _write(self, said: "Iterable[tuple[Draft | Reached, int]]") -> None:
        """Write these, those of one time to live in one commit."""
        by_ttl: defaultdict[int, list[Draft | Reached]] = defaultdict(list)
        for body, ttl in said:
            by_ttl[ttl].append(body)
        for ttl, bodies in by_ttl.items():
            await self._mesh.journal.append(*bodies, ttl=ttl)

    def _draft(self, said: Letter | Words, nodes: Iterable[NodeId]) -> Draft:
        members = [self._mesh.roster.by_node(node) for node in sorted(nodes) if node != self._me]
        identities = tuple(each.identity for each in members if each is not None and each.is_active)
        return Draft.of(said, identities[:RECIPIENTS_LIMIT], self._mesh.machine.entropy)

    # Where it stands

    async def progress(self, mailed: Mailed) -> list[Progress]:
        """How far a letter of this machine has come, for each agent that it is for; for machines where none is known."""
        return await self._mesh.storage.read(partial(_look_up_progress, mailed, self._me, self._present(mailed)))

    def _present(self, mailed: Mailed) -> frozenset[NodeId]:
        active = frozenset(member.node for member in self._mesh.roster.active())
        return active if mailed.letter.target.kind == "broadcast" else frozenset[NodeId]()

    # Reading

    async def local_agents(self) -> Sequence[str]:
        """Names of this machine's agents: those with a card, and those that mail waits for, as they are written if known."""
        known = {
            key: each.card.name for (node, key), each in (await self._mesh.agents.known()).items() if node == self._me
        }
        boxes = await self._mesh.storage.read(lambda database: database.mail.mailboxes(self._me))
        return sorted({**{name: name for name in boxes}, **known}.values())

    async def unread(self, agent: str) -> Sequence[Unread]:
        """What an agent is to be told of, oldest first: not closed, and read by no agent of this name anywhere."""
        reader = await self._mesh.agents.reader(agent)
        found = await self._mesh.storage.read(partial(_to_tell, reader))
        return [Unread(each.hash, Handle.of(MESSAGES, each.hash).short) for each in found]

    async def note_notified(self, agent: str, letters: Sequence[bytes]) -> None:
        """Say that an agent's program was told of these. Raises as the journal does."""
        reader = await self._mesh.agents.reader(agent)
        about, parties = await self._mesh.storage.read(partial(_not_notified, reader, letters))
        await self._write(self._notices(agent, about, parties))

    def show(self, agent: str, letters: Iterable[bytes]) -> None:
        """As `note_notified`, soon, and for all that come together."""
        waiting = self._shown.setdefault(agent, {})
        waiting.update(dict.fromkeys(letters))
        while len(waiting) > NOTES_LIMIT:
            del waiting[next(iter(waiting))]
        self._say.set()

    # Life

    def news(self, records: Sequence[Record]) -> None:
        """Records have been stored."""
        mail = [record for record in records if record.header.type.startswith(("mail.", "agent."))]
        if mail:
            self.changed.set()
            self.changed = trio.Event()
            if any(record.header.node != self._me for record in mail):
                self._say.set()

    def look(self) -> None:
        """Other mail may count than before: the roster has changed, or records have left quarantine."""
        self.changed.set()
        self.changed = trio.Event()
        self._say.set()

    async def run(self) -> None:
        """Say what has arrived, what was shown and what cannot be read, for ever."""
        while True:
            self._say = trio.Event()
            again = math.inf
            try:
                if self._mesh.is_in:
                    await self._report()
            except (RefusedError, StoreError) as error:
                if self._mesh.is_in:
                    self._mesh.machine.notify(Trouble(error.what, error.advice, "error"))
                again = AGAIN
            with trio.move_on_after(again):
                await self._say.wait()
            await trio.sleep(TOLD_PAUSE)

    async def _report(self) -> None:
        """Tell authors up to where their mail for us is here, and what of it was shown: in one look and one commit."""
        shown, self._shown = self._shown, {}
        readers = {agent: await self._mesh.agents.reader(agent) for agent in shown}
        chains, unreadable, noted = await self._mesh.storage.read(
            lambda database: (
                database.mail.unacknowledged(self._me),
                database.mail.unreadable(1),
                {agent: _not_notified(readers[agent], tuple(letters), database) for agent, letters in shown.items()},
            )
        )
        reached = [
            Reached(signing_key=chain.author, generation=chain.generation, sequence=number, without=without)
            for chain, number, without in chains
            if chain.log is Log.DATA
        ]
        words = [each for agent, (about, parties) in noted.items() for each in self._notices(agent, about, parties)]
        await self._write([*((body, 0) for body in reached), *words])
        if reached:
            self._mesh.machine.notify(MailArrived(self._mesh.hex, len(reached)))
        if unreadable:
            await self._refuse_unreadable()

    def _notices(
        self, agent: str, about: Sequence[Mailed], parties: Mapping[int, frozenset[NodeId]]
    ) -> "Iterator[tuple[Draft, int]]":
        make = partial(Words, agent=agent, state="notified", status="", reason="")
        return self._words(make, about, parties)

    async def _refuse_unreadable(self) -> None:
        """Answer as many in one record as fit, so that who makes them by the thousand does not make us write as many."""
        while found := await self._mesh.storage.read(lambda database: database.mail.unreadable(LETTERS_LIMIT)):
            authors: defaultdict[bytes, list[bytes]] = defaultdict(list)
            for header, digest in found:
                authors[header.author].append(digest)
            for key, letters in authors.items():
                await self._refuse(key, tuple(letters))

    async def _refuse(self, key: bytes, letters: tuple[bytes, ...]) -> None:
        author = self._mesh.roster.members.get(key)
        if author is not None:
            words = Words(
                letters=letters, ticket="", agent="", state="refused", status="", reason="it does not open here"
            )
            await self._mesh.journal.append(self._draft(words, [author.node]))
            self._mesh.machine.notify(
                Trouble(
                    f"A message of {author.name} for this machine does not open.",
                    "It was made wrong, and its sender is told. If that goes on, look at that machine.",
                    "warning",
                )
            )
        await self._mesh.storage.write(partial(_forget_unreadable, letters))


def _parties(about: Iterable[Mailed], database: Database) -> dict[int, frozenset[NodeId]]:
    """Machines that are party to letters. An open letter has none of its own: its author is told."""
    return {each.record: frozenset(database.mail.parties(each.record) or [each.node]) for each in about}


def _forget_unreadable(digests: Sequence[bytes], database: Database) -> None:
    for digest in digests:
        database.mail.forget_unreadable(digest)


def _look_up_progress(mailed: Mailed, me: NodeId, everybody: frozenset[NodeId], database: Database) -> list[Progress]:
    parties = database.mail.parties(mailed.record) or sorted(everybody | {me})

    def is_there(node: NodeId) -> bool:
        return database.mail.has_reached(mailed.chain, mailed.sequence, node)

    return _progress(mailed.letter, parties, database.mail.words(mailed.record), me, is_there)


def _progress(
    letter: Letter,
    parties: Sequence[NodeId],
    words: Sequence[Standing],
    me: NodeId,
    is_there: Callable[[NodeId], bool],
) -> list[Progress]:
    agents = {agent.key: agent.name for agent in letter.to}
    for each in words:
        if each.agent and each.state in ("notified", "read") and (each.agent, each.node) not in agents:
            # A machine may name agents without end. All that it says is of its own.
            of_machine = sum(node == each.node for _, node in agents)
            if of_machine < UNNAMED_LIMIT and len(agents) < ADDRESSEES_LIMIT:
                agents[each.agent, each.node] = each.agent
    found = []
    for (key, node), name in agents.items():
        found.append(Progress(name, NodeId(node), *_state(words, key, NodeId(node), me, is_there)))
    if not found:
        others = [node for node in parties if node != me or letter.target.node == me]
        found = [Progress("", node, *_state(words, "", node, me, is_there)) for node in others]
    return found


def _state(
    words: Sequence[Standing], agent: str, node: NodeId, me: NodeId, is_there: Callable[[NodeId], bool]
) -> tuple[State, str]:
    """How far it has come for one agent, and why not further."""
    said = {each.state: each for each in words if each.node == node and each.agent in ("", agent)}
    if "refused" in said:
        return "refused", said["refused"].reason
    for state in ("read", "notified"):
        if state in said and agent:
            return state, ""
    # What is for this machine is where its reader is, once it is stored.
    return ("replicated" if node == me or is_there(node) else "stored"), ""


def _to_tell(reader: Reader, database: Database) -> list[Mailed]:
    found = [each.mailed for each in database.mail.unread(reader, limit=1024)]
    return [each for each in found if not _is_read_by_name(each, reader.name, database)]


def _is_read_by_name(mailed: Mailed, name: str, database: Database) -> bool:
    return any(each.state == "read" and each.agent == name for each in database.mail.words(mailed.record))


def _not_notified(
    reader: Reader, letters: Sequence[bytes], database: Database
) -> tuple[list[Mailed], dict[int, frozenset[NodeId]]]:
    """Those of these letters that were not yet called notified by this reader, and who is party to each."""
    found = []
    for digest in letters:
        mailed = database.mail.letter(digest)
        if mailed is not None:
            said = {
                each.state
                for each in database.mail.words(mailed.record)
                if (each.node, each.agent) == (reader.node, reader.name)
            }
            if not said & {"notified", "read"}:
                found.append(mailed)
    return found, _parties(found, database)
