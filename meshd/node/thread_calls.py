"""What may be asked about threads, and across all mail: the part of the context that shows messages together."""

from functools import partial
from typing import Final

from meshd.errors import UsageError
from meshd.model.message import REASON_LIMIT, Thread
from meshd.model.name import check_name, is_name
from meshd.model.text import is_showable
from meshd.node import mail_shown
from meshd.node.mail_asking import PAGE_LIMIT, MailAsking, listed
from meshd.store.database import Database
from meshd.store.mail import Mailed
from meshd.tools.context import SearchResult, Session, ThreadInfo, Threads, ThreadView

THREAD_LIMIT: Final = 500
"""Letters of one thread that are shown."""

CHAIN_DEPTH: Final = 200
"""Letters that are followed upwards: who answers an answer to itself would go on for ever."""

SEARCHED: Final = 1000
"""Letters with the words that are looked for which are looked at."""


class ThreadCalls(MailAsking):
    """Named threads, chains of replies, searching."""

    async def thread(self, *, mesh: str | None, of: str, agent: str | None, session: Session) -> ThreadView:
        chosen, reader, _ = await self._reader(mesh, agent, session)
        # A person, or a program that is no agent, sees all that is on this machine.
        everything = agent is None and not session.agent
        if is_name(of):
            letters = await chosen.storage.read(lambda database: database.mail.of_thread(of, THREAD_LIMIT))
        else:
            start = await self._letter(chosen, of)
            letters = await chosen.storage.read(partial(_chain, start))
        standing = await chosen.storage.read(partial(listed, letters, reader, everything))
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
        letters = await chosen.storage.read(lambda database: database.mail.search(query, limit=SEARCHED))
        found = await chosen.storage.read(partial(listed, letters, reader, everything))
        lines = mail_shown.fitting(mail_shown.line(chosen, each) for each in found[:most])
        return SearchResult(chosen.agents.ref(name, reader.node), lines)


def _thread_info(name: str, description: str, digest: bytes, count: int) -> ThreadInfo:
    return ThreadInfo(name, description, mail_shown.handle_of(digest).short if digest else "", count)


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
