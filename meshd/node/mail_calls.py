"""What may be asked about agents and their mail: the part of the context that carries messages."""

from collections import Counter, defaultdict
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from meshd.errors import ExpiredError, NobodyFoundError, RefusedError, TimedOutError, UsageError
from meshd.model.handle import BLOB, MESSAGES, Handle
from meshd.model.identity import NodeId, node_text
from meshd.model.message import (
    ATTACHMENTS_LIMIT,
    REASON_LIMIT,
    SUBJECT_LIMIT,
    TEXT_LIMIT,
    WORD_LIMIT,
    Attached,
    Letter,
    Thread,
)
from meshd.model.name import check_name, is_name
from meshd.model.text import is_showable
from meshd.node import content, mail_shown
from meshd.node.agents import Meant
from meshd.node.blob_calls import BlobCalls
from meshd.node.calls import Calls
from meshd.node.handle_calls import check_tags
from meshd.node.mailroom import Progress
from meshd.node.mesh import Mesh
from meshd.store.database import Database
from meshd.store.mail import Listed, Mailed, Reader
from meshd.tools.context import (
    Agents,
    Answered,
    Closed,
    Inbox,
    Message,
    Registered,
    SearchResult,
    Sent,
    SentList,
    Session,
    ThreadInfo,
    Threads,
    ThreadView,
    Waited,
)

if TYPE_CHECKING:
    from meshd.node.node import Node

PAGE_LIMIT: Final = 200
"""Messages in one answer: with previews they stay far below a line of the socket."""

TICKET_LIMIT: Final = 1000
"""Letters of one ticket that are looked at when it is closed."""

THREAD_LIMIT: Final = 500
"""Letters of one thread that are shown."""

CHAIN_DEPTH: Final = 200
"""Letters that are followed upwards: who answers an answer to itself would go on for ever."""


class MailCalls(Calls):
    """Agents, letters, threads."""

    def __init__(self, node: "Node") -> None:
        super().__init__(node)
        self._keyed: defaultdict[tuple[str, str, str], trio.Lock] = defaultdict(trio.Lock)

    # Agents

    async def agent_register(
        self,
        *,
        mesh: str | None,
        name: str,
        label: str | None,
        tags: tuple[str, ...],
        capabilities: tuple[str, ...],
        status: str | None,
        bind: bool,
        session: Session,
    ) -> Registered:
        chosen = self._mesh_of(mesh, session)
        chosen.agents.who_asks(session, name)
        info = await chosen.agents.register(
            name,
            session,
            label=label,
            tags=check_tags(tags),
            capabilities=check_tags(capabilities),
            status=status,
            bind=bind,
        )
        return Registered(info, bool(session.agent))

    async def agent_remove(self, *, mesh: str | None, agent: str, session: Session) -> Registered:
        chosen = self._mesh_of(mesh, session)
        return Registered(await chosen.agents.remove(agent), False)

    async def who(self, *, mesh: str | None, to: str | None) -> Agents:
        chosen = self.mesh(mesh)
        known = await chosen.agents.known()
        if to is not None:
            meant = {agent.key for agent in (await chosen.agents.meant(to, "")).agents}
            known = {key: each for key, each in known.items() if (key[1], key[0]) in meant}
        found = sorted(known.values(), key=lambda each: (chosen.name_of(each.node), each.card.name.lower()))
        # In turn from each machine: one that has very many does not keep the others' out of the answer.
        turns: Counter[NodeId] = Counter()
        in_turn = []
        for each in found:
            turns[each.node] += 1
            in_turn.append((turns[each.node], chosen.agents.info(each)))
        infos = mail_shown.fitting(info for _, info in sorted(in_turn, key=lambda each: each[0]))
        infos = tuple(sorted(infos, key=lambda info: (info.agent.machine.name, info.agent.name.lower())))
        return Agents(chosen.hex, infos, len(found) - len(infos))

    # Sending

    async def send(
        self,
        *,
        mesh: str | None,
        to: str,
        subject: str,
        text: str,
        sender: str | None,
        attach: tuple[str, ...],
        tags: tuple[str, ...],
        ttl: int,
        ticket: str | None,
        thread: str | None,
        reply_to: str | None,
        key: str | None,
        wait: float,
        session: Session,
    ) -> Sent:
        chosen = self._mesh_of(mesh, session)
        name = chosen.agents.who_sends(session, sender)
        _check(subject, text, ticket or "", thread or "", key or "")
        if key is None:
            return await self._send(
                chosen, name, to, subject, text, attach, tags, ttl, ticket, thread, reply_to, "", wait
            )
        # A retry may come while the first try is still being written.
        async with self._keyed[chosen.hex, name.lower(), key]:
            try:
                before = await chosen.storage.read(partial(_by_key, chosen.machine.keys.identity.node, name, key))
                if before is not None:
                    return mail_shown.sent(chosen, before, await self._settled(chosen, before, wait), again=True)
                return await self._send(
                    chosen, name, to, subject, text, attach, tags, ttl, ticket, thread, reply_to, key, wait
                )
            finally:
                if not self._keyed[chosen.hex, name.lower(), key].statistics().tasks_waiting:
                    del self._keyed[chosen.hex, name.lower(), key]

    async def _send(
        self,
        mesh: Mesh,
        sender: str,
        to: str,
        subject: str,
        text: str,
        attach: tuple[str, ...],
        tags: tuple[str, ...],
        ttl: int,
        ticket: str | None,
        thread: str | None,
        reply_to: str | None,
        key: str,
        wait: float,
    ) -> Sent:
        await self._ensure_known(mesh, sender)
        meant = await mesh.agents.meant(to, sender)
        answered = b"" if reply_to is None else await self._digest(mesh, reply_to)
        letter = Letter(
            sender=sender,
            target=meant.target,
            to=meant.agents,
            subject=subject,
            text=text,
            attached=await self._attached(mesh, attach, meant),
            tags=check_tags(tags),
            ticket=ticket or "",
            thread=thread or "",
            reply_to=answered,
            key=key,
        )
        posted = await mesh.mailroom.send(letter, meant.machines, ttl)
        progress = posted.progress
        if wait and _may_come_further(mesh, progress):
            mailed = await mesh.storage.read(lambda database: database.mail.letter(posted.hash))
            progress = progress if mailed is None else await self._settled(mesh, mailed, wait)
        return mail_shown.sent(mesh, posted, progress, note=meant.note)

    async def _settled(self, mesh: Mesh, mailed: Mailed, wait: float) -> list[Progress]:
        """How far it has come; up to `wait`, once it is with those whose machines are linked."""
        with trio.move_on_after(wait):
            while True:
                changed, progress = mesh.mailroom.changed, await mesh.mailroom.progress(mailed)
                if not _may_come_further(mesh, progress):
                    return progress
                await changed.wait()
        return await mesh.mailroom.progress(mailed)

    async def _attached(self, mesh: Mesh, attach: tuple[str, ...], meant: Meant) -> tuple[Attached, ...]:
        if len(attach) > ATTACHMENTS_LIMIT:
            raise UsageError(
                f"A message takes {ATTACHMENTS_LIMIT} attachments.", "Make a tree, or a directory, of them."
            )
        me = mesh.machine.keys.identity.node
        # Whom it is for is to have it at hand when they read; of a broadcast nobody knows who will.
        machines = tuple(node_text(member.node) for member in meant.machines if member.node != me)
        found = []
        for each in attach:
            if each.startswith("/"):
                put = await BlobCalls.put(
                    self._blobs,
                    mesh=mesh.hex,
                    path=each,
                    name=None,
                    content_type=None,
                    machines=machines,
                    tags=(),
                    ttl=0,
                    wait=0.0,
                )
                found.append(Attached(BLOB, Handle.parse(put.full).digest))
            else:
                located = await content.locate(mesh, each, content.LINK_WAIT)
                found.append(Attached(located.table, located.digest))
        return tuple(found)

    @property
    def _blobs(self) -> BlobCalls:
        return BlobCalls(self.node)

    async def sent(
        self,
        *,
        mesh: str | None,
        handle: str | None,
        agent: str | None,
        limit: int,
        after: str | None,
        session: Session,
    ) -> SentList:
        chosen = self._mesh_of(mesh, session)
        name = chosen.agents.who_asks(session, agent)
        me = chosen.machine.keys.identity.node
        if handle is not None:
            found = [await self._letter(chosen, handle)]
            if found[0].node != me:
                raise RefusedError(f"{handle} was not sent from this machine.", "Read it with: tether receive.")
            if agent is not None or session.agent:
                _require(found[0].letter.sender.lower() == name.lower(), f"{handle} was not sent by {name}.")
        else:
            most, before = min(limit, PAGE_LIMIT), _number(after)
            found = await chosen.storage.read(lambda database: database.mail.sent(me, name, before=before, limit=most))
        lines = mail_shown.fitting(
            [mail_shown.sent(chosen, each, await chosen.mailroom.progress(each)) for each in found]
        )
        is_more = len(lines) == min(limit, PAGE_LIMIT) or len(lines) < len(found)
        following = str(found[len(lines) - 1].record) if handle is None and is_more else None
        return SentList(chosen.agents.ref(name, me), lines, following)

    # Reading

    async def inbox(
        self,
        *,
        mesh: str | None,
        agent: str | None,
        unread: bool,
        include_closed: bool,
        tag: str | None,
        limit: int,
        after: str | None,
        session: Session,
    ) -> Inbox:
        chosen, reader, name = await self._reader(mesh, agent, session)
        most, start = min(limit, PAGE_LIMIT), _place(after)
        found, count = await chosen.storage.read(
            lambda database: (
                database.mail.inbox(reader, unread=unread, closed=include_closed, tag=tag, after=start, limit=most),
                database.mail.count_unread(reader),
            )
        )
        lines = mail_shown.fitting(mail_shown.line(chosen, each) for each in found)
        following = None
        if len(lines) == most or len(lines) < len(found):
            last = found[len(lines) - 1]
            following = f"{int(last.read)}-{last.mailed.rank.hex()}"
        return Inbox(
            agent=chosen.agents.ref(name, reader.node),
            unread=count,
            messages=lines,
            next=following,
            as_of=mail_shown.freshness(chosen),
        )

    async def receive(
        self, *, mesh: str | None, handle: str, agent: str | None, peek: bool, session: Session
    ) -> Message:
        chosen, reader, name = await self._reader(mesh, agent, session)
        mailed = await self._letter(chosen, handle)
        is_reader, is_read = await chosen.storage.read(
            lambda database: (
                database.mail.is_for(mailed.record, reader),
                database.mail.is_read(mailed.record, reader),
            )
        )
        _require(
            is_reader or _wrote(mailed, reader),
            f"{mail_shown.handle_of(mailed.hash).short} is neither to {name} nor from it.",
        )
        if is_reader and not is_read and not peek:
            await chosen.mailroom.say("read", [mailed], name)
        return await self._message(chosen, mailed, reader)

    async def close(
        self,
        *,
        mesh: str | None,
        handle: str | None,
        ticket: str | None,
        status: str,
        reason: str,
        agent: str | None,
        session: Session,
    ) -> Closed:
        chosen, reader, name = await self._reader(mesh, agent, session)
        if (handle is None) == (ticket is None):
            raise UsageError("Give a message or a ticket, and not both.")
        if not is_showable(reason) or len(reason) > REASON_LIMIT:
            raise UsageError(f"A reason is one line of at most {REASON_LIMIT} characters.")
        if handle is not None:
            letters = [await self._letter(chosen, handle)]
        else:
            letters = await chosen.storage.read(lambda database: database.mail.of_ticket(ticket or "", TICKET_LIMIT))
        standing = await chosen.storage.read(partial(_standing, letters, reader))
        mine = [mailed for mailed, is_party, _ in standing if is_party]
        if handle is not None:
            _require(bool(mine), f"{handle} is neither to {name} nor from it.")
        await chosen.mailroom.say("closed", mine, name, status=status, reason=reason, ticket=ticket or "")
        updated = sum(is_party and not was_closed for _, is_party, was_closed in standing)
        short = mail_shown.handle_of(letters[0].hash).short if handle is not None else ""
        return Closed(short, ticket or "", status, reason, updated)

    async def wait(
        self, *, mesh: str | None, agent: str | None, seconds: float, after: str | None, session: Session
    ) -> Waited:
        chosen, _, name = await self._reader(mesh, agent, session)
        start = _number(after) or 0
        with trio.move_on_after(seconds):
            while True:
                changed = chosen.mailroom.changed
                reader = await chosen.agents.reader(name)  # it may have got a tag meanwhile
                found, count = await chosen.storage.read(partial(_unread, reader, start))
                if found:
                    lines = mail_shown.fitting(mail_shown.line(chosen, each) for each in found)
                    chosen.mailroom.show(name, [each.mailed.hash for each in found[: len(lines)]])
                    return Waited(
                        agent=chosen.agents.ref(name, reader.node),
                        unread=count,
                        messages=lines,
                        next=str(found[len(lines) - 1].mailed.arrival),
                    )
                await changed.wait()
        raise TimedOutError(f"No mail for {name} came within {seconds:g} s.")

    async def ask(
        self,
        *,
        mesh: str | None,
        to: str,
        subject: str,
        text: str,
        sender: str | None,
        attach: tuple[str, ...],
        seconds: float,
        queue: bool,
        key: str | None,
        session: Session,
    ) -> Answered:
        chosen = self._mesh_of(mesh, session)
        name = chosen.agents.who_sends(session, sender)
        if not queue:
            await self._require_reachable(chosen, to, name)
        done = await self.send(
            mesh=chosen.hex,
            to=to,
            subject=subject,
            text=text,
            sender=sender,
            attach=attach,
            tags=(),
            ttl=0,
            ticket=None,
            thread=None,
            reply_to=None,
            key=key,
            wait=0.0,
            session=session,
        )
        digest = Handle.parse(done.full).digest
        reader = await chosen.agents.reader(name)
        with trio.move_on_after(seconds):
            while True:
                changed = chosen.mailroom.changed
                reply = await chosen.storage.read(lambda database: database.mail.reply(digest, reader))
                if reply is not None:
                    await chosen.mailroom.say("read", [reply], name)
                    return Answered(done.full, await self._message(chosen, reply, reader))
                await changed.wait()
        raise TimedOutError(
            f"No reply to {done.handle} came within {seconds:g} s.",
            "It stays sent: tether sent shows how far it is, and the reply will be in the inbox.",
        )

    async def _require_reachable(self, mesh: Mesh, to: str, sender: str) -> None:
        meant, known = await mesh.agents.meant(to, sender), await mesh.agents.known()
        there = [
            mesh.agents.presence(known[agent.node, agent.name.lower()])[0]
            for agent in meant.agents
            if (agent.node, agent.name.lower()) in known
        ]
        if all(each == "unreachable" for each in there):
            why = "is known" if not there else "can be reached now"
            raise RefusedError(f"Nobody that {meant.shown} means {why}.", "With --queue it is sent all the same.")

    # Threads

    async def thread(self, *, mesh: str | None, of: str, agent: str | None, session: Session) -> ThreadView:
        chosen, reader, _ = await self._reader(mesh, agent, session)
        # A person, or a program that is no agent, sees all that is on this machine.
        everything = agent is None and not session.agent
        if is_name(of):
            letters = await chosen.storage.read(lambda database: database.mail.of_thread(of, THREAD_LIMIT))
        else:
            start = await self._letter(chosen, of)
            letters = await chosen.storage.read(partial(_chain, start))
        standing = await chosen.storage.read(partial(_listed, letters, reader, everything))
        lines = mail_shown.fitting(mail_shown.line(chosen, each) for each in standing[::-1])[::-1]
        here = {each.mailed.hash for each in standing}
        missing = {
            each.mailed.letter.reply_to: None for each in standing if each.mailed.letter.reply_to not in (b"", *here)
        }
        return ThreadView(
            name=of,
            messages=lines,
            missing=tuple(str(mail_shown.handle_of(each)) for each in missing),
        )

    async def threads(self, *, mesh: str | None) -> Threads:
        chosen = self.mesh(mesh)
        me = chosen.machine.keys.identity.node
        found = await chosen.storage.read(lambda database: database.mail.topics(me))
        infos = mail_shown.fitting(_thread_info(*each) for each in found)
        return Threads(infos, len(found) - len(infos))

    async def thread_create(self, *, mesh: str | None, name: str, description: str) -> ThreadInfo:
        chosen = self.mesh(mesh)
        check_name(name, "thread")
        if not is_showable(description) or len(description) > REASON_LIMIT:
            raise UsageError(f"A description is one line of at most {REASON_LIMIT} characters.")
        (record,) = await chosen.journal.append(Thread(name=name, description=description))
        me = chosen.machine.keys.identity.node
        found = await chosen.storage.read(lambda database: database.mail.topics(me))
        count = next((each[3] for each in found if each[0].lower() == name.lower()), 0)
        return _thread_info(name, description, record.hash, count)

    async def search(
        self, *, mesh: str | None, query: str, agent: str | None, limit: int, session: Session
    ) -> SearchResult:
        chosen, reader, name = await self._reader(mesh, agent, session)
        if not query.split():
            raise UsageError("Search for what?", "Give words that stand in the subject or the text.")
        everything, most = agent is None and not session.agent, min(limit, PAGE_LIMIT)
        letters = await chosen.storage.read(lambda database: database.mail.search(query, limit=TICKET_LIMIT))
        found = await chosen.storage.read(partial(_listed, letters, reader, everything))
        lines = mail_shown.fitting(mail_shown.line(chosen, each) for each in found[:most])
        return SearchResult(chosen.agents.ref(name, reader.node), lines)

    # What these share

    def _mesh_of(self, mesh: str | None, session: Session) -> Mesh:
        """The mesh that is meant; for who is bound to an agent, that agent's, unless it was left since."""
        is_open = bool(session.mesh) and bytes.fromhex(session.mesh) in self.node.meshes
        return self.mesh(mesh or (session.mesh if is_open else None))

    async def _ensure_known(self, mesh: Mesh, name: str) -> None:
        me = mesh.machine.keys.identity.node
        if (me, name.lower()) not in await mesh.agents.known():
            await mesh.agents.register(name)

    async def _reader(self, mesh: str | None, agent: str | None, session: Session) -> tuple[Mesh, Reader, str]:
        chosen = self._mesh_of(mesh, session)
        name = chosen.agents.who_asks(session, agent)
        return chosen, await chosen.agents.reader(name), name

    async def _digest(self, mesh: Mesh, text: str) -> bytes:
        """The hash that a message's handle means. Raises UsageError, NobodyFoundError, RefusedError."""
        handle = Handle.parse(text)
        if handle.table != MESSAGES:
            raise UsageError(f"{text} is no message.", "A message's handle looks like h&l_messages_0123456789ab.")
        found = await mesh.storage.read(lambda database: database.mail.find(handle.digits))
        if len(found) > 1:
            full = " or ".join(str(mail_shown.handle_of(each)) for each in found)
            raise RefusedError(f"{handle.short} may be {full}.", "Use one of the full handles.")
        if not found:
            raise NobodyFoundError(
                f"No message {handle.short} is on this machine.", "It may not have arrived: see tether status."
            )
        return found[0]

    async def _letter(self, mesh: Mesh, text: str) -> Mailed:
        digest = await self._digest(mesh, text)
        mailed, expired = await mesh.storage.read(
            lambda database: (database.mail.letter(digest), database.mail.is_expired(digest))
        )
        if mailed is not None:
            return mailed
        short = mail_shown.handle_of(digest).short
        if expired:
            raise ExpiredError(f"{short} has expired.", "Its sender can send it again.")
        raise RefusedError(f"{short} is not for this machine: it only carries it, sealed.")

    async def _message(self, mesh: Mesh, mailed: Mailed, reader: Reader) -> Message:
        listed, reason = await mesh.storage.read(partial(_one, mailed, reader))
        progress = await mesh.mailroom.progress(mailed) if _wrote(mailed, reader) else []
        return mail_shown.message(mesh, listed, reason, progress)


def _check(subject: str, text: str, ticket: str, thread: str, key: str) -> None:
    if len(subject) > SUBJECT_LIMIT or not is_showable(subject):
        raise UsageError(f"A subject is one line of at most {SUBJECT_LIMIT} characters that can be shown.")
    if len(text.encode(errors="surrogatepass")) > TEXT_LIMIT:
        raise UsageError(f"A message takes {TEXT_LIMIT:,} bytes of text.", "Attach what is larger as a file.")
    if any(len(each) > WORD_LIMIT or not is_showable(each) for each in (ticket, thread)) or not is_showable(key):
        raise UsageError(f"Tickets, threads and keys are lines of at most {WORD_LIMIT} characters that can be shown.")
    if thread:
        check_name(thread, "thread")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise RefusedError(what, "Name the agent whose mail it is: --for AGENT.")


def _wrote(mailed: Mailed, reader: Reader) -> bool:
    return (mailed.node, mailed.letter.sender.lower()) == (reader.node, reader.name)


def _may_come_further(mesh: Mesh, progress: list[Progress]) -> bool:
    """Whether it is on its way to a machine that is linked."""
    return any(each.state == "stored" and each.node in mesh.links.current for each in progress)


def _number(after: str | None) -> int | None:
    if after is None:
        return None
    if not (after.isascii() and after.isdigit() and len(after) <= 18):
        raise UsageError(f"{after!r:.40} is no cursor.", "Give what `next` of the answer before was.")
    return int(after)


def _place(after: str | None) -> tuple[int, bytes] | None:
    if after is None:
        return None
    seen, _, rank = after.partition("-")
    try:
        return {"0": 0, "1": 1}[seen], bytes.fromhex(rank)
    except (KeyError, ValueError):
        raise UsageError(f"{after!r:.40} is no cursor.", "Give what `next` of the page before was.") from None


def _thread_info(name: str, description: str, digest: bytes, count: int) -> ThreadInfo:
    return ThreadInfo(name, description, mail_shown.handle_of(digest).short if digest else "", count)


def _by_key(node: NodeId, sender: str, key: str, database: Database) -> Mailed | None:
    digest = database.mail.by_key(node, sender, key)
    return None if digest is None else database.mail.letter(digest)


def _unread(reader: Reader, after: int, database: Database) -> tuple[list[Listed], int]:
    """A page of what came after this row, and how many there are in all; where nothing came, nobody counts."""
    found = database.mail.unread(reader, after=after, limit=PAGE_LIMIT)
    return found, database.mail.count_unread(reader) if found else 0


def _one(mailed: Mailed, reader: Reader, database: Database) -> tuple[Listed, str]:
    closed = database.mail.closed(mailed.record, reader.node)
    status, reason = closed or ("", "")
    return Listed(mailed, database.mail.is_read(mailed.record, reader), status), reason


def _listed(letters: list[Mailed], reader: Reader, everything: bool, database: Database) -> list[Listed]:
    found = []
    for each in letters:
        if everything or _wrote(each, reader) or database.mail.is_for(each.record, reader):
            found.append(_one(each, reader, database)[0])
    return found


def _standing(letters: list[Mailed], reader: Reader, database: Database) -> list[tuple[Mailed, bool, bool]]:
    """Of each letter, whether this agent is party to it, and whether it is closed already."""
    return [
        (
            each,
            _wrote(each, reader) or database.mail.is_for(each.record, reader),
            database.mail.closed(each.record, reader.node) is not None,
        )
        for each in letters
    ]


def _chain(start: Mailed, database: Database) -> list[Mailed]:
    """All that a letter answers, and all that answers any of it, oldest first."""
    top = start
    for _ in range(CHAIN_DEPTH):
        above = database.mail.letter(top.letter.reply_to) if top.letter.reply_to else None
        if above is None:
            break
        top = above
    found: dict[bytes, Mailed] = {top.hash: top}
    waiting = [top]
    while waiting and len(found) < THREAD_LIMIT:
        for reply in database.mail.replies(waiting.pop().hash, THREAD_LIMIT):
            if reply.hash not in found:
                found[reply.hash] = reply
                waiting.append(reply)
    return sorted(found.values(), key=lambda each: each.rank)
