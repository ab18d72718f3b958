"""What the calls about agents, mail and threads share: who asks, and which message is meant."""

from functools import partial
from typing import Final

from meshd.errors import ExpiredError, NobodyFoundError, RefusedError, UsageError
from meshd.model.handle import MESSAGES, Handle
from meshd.node import mail_shown
from meshd.node.calls import Calls
from meshd.node.mesh import Mesh
from meshd.store.database import Database
from meshd.store.mail import Listed, Mailed, Reader
from meshd.tools.context import Message, Session

PAGE_LIMIT: Final = 200
"""Messages in one answer: with previews they stay far below a line of the socket."""


class MailAsking(Calls):
    """A part of the context that is asked by agents."""

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
        listed, reason = await mesh.storage.read(partial(one, mailed, reader))
        progress = await mesh.mailroom.progress(mailed) if wrote(mailed, reader) else []
        return mail_shown.message(mesh, listed, reason, progress)


def require(holds: bool, what: str) -> None:
    if not holds:
        raise RefusedError(what, "Name the agent whose mail it is: --for AGENT.")


def wrote(mailed: Mailed, reader: Reader) -> bool:
    return (mailed.node, mailed.letter.sender.lower()) == (reader.node, reader.name)


def one(mailed: Mailed, reader: Reader, database: Database) -> tuple[Listed, str]:
    closed = database.mail.closed(mailed.record, reader.node)
    status, reason = closed or ("", "")
    return Listed(mailed, database.mail.is_read(mailed.record, reader), status), reason


def listed(letters: list[Mailed], reader: Reader, everything: bool, database: Database) -> list[Listed]:
    found = []
    for each in letters:
        if everything or wrote(each, reader) or database.mail.is_for(each.record, reader):
            found.append(one(each, reader, database)[0])
    return found
