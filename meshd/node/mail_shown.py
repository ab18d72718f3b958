"""Letters as answers: what an agent, a person or a program sees of them."""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, TypeVar

from meshd.model import clock
from meshd.model.handle import MESSAGES, Handle
from meshd.model.identity import NodeId
from meshd.model.message import Letter, Target
from meshd.node.mailroom import Posted, Progress
from meshd.node.naming import machine_ref
from meshd.store.mail import Listed, Mailed
from meshd.tools.context import Attachment, Freshness, Line, Message, Recipient, Sent, State
from meshd.wire.codec import encode_body

if TYPE_CHECKING:
    from meshd.node.mesh import Mesh

PREVIEW: Final = 100
"""Characters of a text that a list shows."""

STALE_AFTER: Final = 48 * 3600.0
"""Seconds after which unread mail is called stale."""

SHOWN: Final = 8
"""Agents by name whom a letter is shown to be to: our own program writes one, or a group."""

ANSWER_BYTES: Final = 640 * 1024
"""Of the values in one answer: as JSON, with what stands around them, they must fit a line of the control socket."""

T = TypeVar("T")

_ORDER: Final[tuple[State, ...]] = ("expired", "refused", "stored", "replicated", "notified", "read")


def handle_of(digest: bytes) -> Handle:
    """A message's handle, by its record's hash."""
    return Handle.of(MESSAGES, digest)


def timestamp(mailed: Mailed) -> str:
    """ISO 8601, UTC, milliseconds, by the sender's clock. A clock that makes no date gives an empty text."""
    milliseconds = clock.milliseconds(mailed.clock)
    try:
        whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
    except (OverflowError, ValueError, OSError):
        return ""
    return f"{whole}.{milliseconds % 1000:03d}Z"


def shown_target(mesh: "Mesh", letter: Letter) -> str:
    """To whom a letter is, in words."""
    target: Target = letter.target
    if target.kind == "agent":
        me = mesh.machine.keys.identity.node
        names = [
            agent.name if agent.node == me else f"{agent.name}@{mesh.name_of(agent.node)}"
            for agent in letter.to[:SHOWN]
        ]
        more = f" and {len(letter.to) - SHOWN:,} more" if len(letter.to) > SHOWN else ""
        return (", ".join(names) or "nobody") + more
    if target.kind == "machine":
        return f"machine:{mesh.name_of(NodeId(target.node))}"
    if target.kind in ("broadcast", "name"):
        return target.word or target.kind
    return f"{target.kind}:{target.word}"


def line(mesh: "Mesh", listed: Listed) -> Line:
    """A letter in a list."""
    mailed = listed.mailed
    letter, name = mailed.letter, handle_of(mailed.hash)
    age = age_of(mesh, mailed)
    return Line(
        handle=name.short,
        full=str(name),
        sender=mesh.agents.ref(letter.sender, mailed.node),
        to=shown_target(mesh, letter),
        subject=letter.subject,
        preview=letter.text if len(letter.text) <= PREVIEW else letter.text[:PREVIEW] + "...",
        timestamp=timestamp(mailed),
        age=age,
        read=listed.read,
        status=_status(listed, age),
        ticket=letter.ticket,
        thread=letter.thread,
        tags=letter.tags,
        attachments=len(letter.attached),
    )


def fitting(values: Iterable[T]) -> tuple[T, ...]:
    """The first of these, as many as fit one answer and one at least: members choose how large they are."""
    found: list[T] = []
    room = ANSWER_BYTES
    for value in values:
        room -= len(encode_body(value))
        if found and room < 0:
            break
        found.append(value)
    return tuple(found)


def age_of(mesh: "Mesh", mailed: Mailed) -> float:
    """Seconds since it was sent, by its sender's clock and ours."""
    return max(0.0, (mesh.machine.clocks.wall_ms() - clock.milliseconds(mailed.clock)) / 1000)


def _status(listed: Listed, age: float) -> str:
    if listed.closed:
        return listed.closed
    if listed.read:
        return "read"
    return "stale" if age > STALE_AFTER else "open"


def message(mesh: "Mesh", listed: Listed, reason: str, progress: list[Progress]) -> Message:
    """A letter, whole."""
    mailed, short = listed.mailed, line(mesh, listed)
    letter = mailed.letter
    left = mailed.ttl - (mesh.journal.now_ms() - mailed.born_ms) // 1000 if mailed.ttl else None
    attached = [Handle.of(each.table, each.digest) for each in letter.attached]
    return Message(
        handle=short.handle,
        full=short.full,
        sender=short.sender,
        origin=short.sender.machine,
        to=short.to,
        subject=letter.subject,
        text=letter.text,
        timestamp=short.timestamp,
        age=short.age,
        status=short.status,
        reason=reason,
        ticket=letter.ticket,
        thread=letter.thread,
        in_reply_to=str(handle_of(letter.reply_to)) if letter.reply_to else "",
        tags=letter.tags,
        attachments=tuple(Attachment(each.short, str(each)) for each in attached),
        ttl_left=None if left is None else max(0, left),
        recipients=recipients(mesh, progress),
    )


def recipients(mesh: "Mesh", progress: list[Progress]) -> tuple[Recipient, ...]:
    """How far a letter has come, for an answer."""
    return tuple(Recipient(mesh.agents.ref(each.name, each.node), each.state, each.why) for each in progress)


def sent(
    mesh: "Mesh", mailed: Mailed | Posted, progress: list[Progress], *, again: bool = False, note: str = ""
) -> Sent:
    """A letter, to who sent it."""
    letter, name = mailed.letter, handle_of(mailed.hash)
    return Sent(
        handle=name.short,
        full=str(name),
        to=shown_target(mesh, letter),
        sender=mesh.agents.ref(letter.sender, mailed.node),
        subject=letter.subject,
        state=overall(progress),
        recipients=recipients(mesh, progress),
        ttl=mailed.ttl,
        again=again,
        note=note,
    )


def overall(progress: list[Progress]) -> State:
    """That of the recipient who has come least far. While no agent is known it is stored: nobody has it."""
    named = [each.state for each in progress if each.name]
    if not named:
        return "refused" if any(each.state == "refused" for each in progress) else "stored"
    return min(named, key=_ORDER.index)


def freshness(mesh: "Mesh") -> tuple[Freshness, ...]:
    """How new what comes from each other member can be."""
    me = mesh.machine.keys.identity.node
    found = []
    for member in mesh.roster.active():
        if member.node != me:
            linked = member.node in mesh.links.current
            found.append(Freshness(machine_ref(mesh, member.node), linked, mesh.seen_age(member.node)))
    return tuple(found)
