"""What may be asked about mail: the part of the context that carries messages."""

from functools import partial
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

import trio

from meshd.errors import RefusedError, TimedOutError, UsageError
from meshd.model.handle import BLOB, Handle
from meshd.model.identity import NodeId, node_text
from meshd.model.message import (
    ATTACHMENTS_LIMIT,
    REASON_LIMIT,
    SUBJECT_LIMIT,
    TEXT_LIMIT,
    WORD_LIMIT,
    Attached,
    Letter,
)
from meshd.model.name import check_name
from meshd.model.text import is_showable
from meshd.node import content, mail_shown
from meshd.node.agents import Meant
from meshd.node.blob_calls import BlobCalls
from meshd.node.handle_calls import check_tags
from meshd.node.mail_asking import PAGE_LIMIT, MailAsking, require, wrote
from meshd.node.mailroom import Progress
from meshd.node.mesh import Mesh
from meshd.store.database import Database
from meshd.store.mail import Listed, Mailed, Reader
from meshd.tools.context import (
    Answered,
    Closed,
    Inbox,
    Message,
    Sent,
    SentList,
    Session,
    Waited,
)

if TYPE_CHECKING:
    from meshd.node.node import Node

TICKET_LIMIT: Final = 1000
"""Letters of one ticket that are looked at when it is closed."""


class MailCalls(MailAsking):
    """Letters."""

    def __init__(self, node: "Node") -> None:
        super().__init__(node)
        self._keyed: WeakValueDictionary[tuple[str, str, str], trio.Lock] = WeakValueDictionary()
        """Whose turn it is to send with a key: each lasts as long as somebody holds it or waits for it."""

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

        async def write() -> Sent:
            await self._ensure_known(chosen, name)
            meant = await chosen.agents.meant(to, name)
            answered = b"" if reply_to is None else await self._digest(chosen, reply_to)
            letter = Letter(
                sender=name,
                target=meant.target,
                to=meant.agents,
                subject=subject,
                text=text,
                attached=await self._attached(chosen, attach, meant),
                tags=check_tags(tags),
                ticket=ticket or "",
                thread=thread or "",
                reply_to=answered,
                key=key or "",
            )
            posted = await chosen.mailroom.send(letter, meant.machines, ttl)
            progress = posted.progress
            if wait and _may_come_further(chosen, progress):
                mailed = await chosen.storage.read(lambda database: database.mail.letter(posted.hash))
                progress = progress if mailed is None else await self._settled(chosen, mailed, wait)
            return mail_shown.sent(chosen, posted, progress, note=meant.note)

        if key is None:
            return await write()
        # A retry may come while the first try is still being written.
        turn = self._keyed.setdefault((chosen.hex, name.lower(), key), trio.Lock())
        async with turn:
            before = await chosen.storage.read(partial(_by_key, chosen.machine.keys.identity.node, name, key))
            if before is None:
                return await write()
        return mail_shown.sent(chosen, before, await self._settled(chosen, before, wait), again=True)

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
                require(found[0].letter.sender.lower() == name.lower(), f"{handle} was not sent by {name}.")
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
        require(
            is_reader or wrote(mailed, reader),
            f"{mail_shown.handle_of(mailed.hash).short} is neither to {name} nor from it.",
        )
        if is_reader and not is_read and not peek:
            as_written = (each.name for each in mailed.letter.to if each.key == (reader.name, reader.node))
            await self._ensure_known(chosen, next(as_written, name))
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
            require(bool(mine), f"{handle} is neither to {name} nor from it.")
        await chosen.mailroom.say("closed", mine, name, status=status, reason=reason, ticket=ticket or "")
        updated = sum(is_party and not was_closed for _, is_party, was_closed in standing)
        short = mail_shown.handle_of(letters[0].hash).short if handle is not None else ""
        return Closed(short, ticket or "", status, reason, updated)

    async def wait(
        self, *, mesh: str | None, agent: str | None, seconds: float, after: str | None, session: Session
    ) -> Waited:
        chosen, _, name = await self._reader(mesh, agent, session)
        start = _number(after) or 0
        await self._ensure_known(chosen, name)  # who waits for mail wants to be written to
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
            raise RefusedError(f"Nobody that {to} means {why}.", "With --queue it is sent all the same.")


def _check(subject: str, text: str, ticket: str, thread: str, key: str) -> None:
    if len(subject) > SUBJECT_LIMIT or not is_showable(subject):
        raise UsageError(f"A subject is one line of at most {SUBJECT_LIMIT} characters that can be shown.")
    if len(text.encode(errors="surrogatepass")) > TEXT_LIMIT:
        raise UsageError(f"A message takes {TEXT_LIMIT:,} bytes of text.", "Attach what is larger as a file.")
    if any(len(each) > WORD_LIMIT or not is_showable(each) for each in (ticket, thread)) or not is_showable(key):
        raise UsageError(f"Tickets, threads and keys are lines of at most {WORD_LIMIT} characters that can be shown.")
    if thread:
        check_name(thread, "thread")


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


def _by_key(node: NodeId, sender: str, key: str, database: Database) -> Mailed | None:
    digest = database.mail.by_key(node, sender, key)
    return None if digest is None else database.mail.letter(digest)


def _unread(reader: Reader, after: int, database: Database) -> tuple[list[Listed], int]:
    """A page of what came after this row, and how many there are in all; where nothing came, nobody counts."""
    found = database.mail.unread(reader, after=after, limit=PAGE_LIMIT)
    return found, database.mail.count_unread(reader) if found else 0


def _standing(letters: list[Mailed], reader: Reader, database: Database) -> list[tuple[Mailed, bool, bool]]:
    """Of each letter, whether this agent is party to it, and whether it is closed already."""
    return [
        (
            each,
            wrote(each, reader) or database.mail.is_for(each.record, reader),
            database.mail.closed(each.record, reader.node) is not None,
        )
        for each in letters
    ]
