"""What is said between agents: letters, words about letters, cards. docs/protocol/mail.md.

Sizes are checked as the values are made, so that decoding checks them too. Whoever folds them checks what a size does not
say: that a name is one, that a line is one line.
"""

from typing import Final, Literal

import attrs

from meshd.model.bounds import each, number, size
from meshd.model.handle import RESERVED_TABLES, is_table
from meshd.model.identity import KEY_SIZE, NodeId
from meshd.model.name import NAME_LIMIT, is_name
from meshd.model.text import is_showable

TEXT_LIMIT: Final = 128 * 1024
"""Most bytes of a letter's text: it and everything beside it fits a record's body, at twice its size (buckets)."""

SUBJECT_LIMIT: Final = 200
ATTACHMENTS_LIMIT: Final = 32
TAGS_LIMIT: Final = 32
WORD_LIMIT: Final = 63
"""Most characters of a tag, a capability, a ticket, a status."""

ADDRESSEES_LIMIT: Final = 256
"""Agents that one letter names: those of all machines of a developer."""

AGENTS_LIMIT: Final = 256
"""Agents of one machine: a script that registers names must not fill every directory of the mesh."""

KEY_LIMIT: Final = 100
REASON_LIMIT: Final = 500
LETTERS_LIMIT: Final = 64
"""Letters that one record of words is about."""

RECIPIENTS_LIMIT: Final = 64
"""Machines that one letter is sealed for: a box of 176 bytes and a quarter of a millisecond each."""

WITHOUT_LIMIT: Final = 256
"""Records without a body that one word of arrival names; what is beyond the last of them is for the next."""

BOX_LIMIT: Final = 160
SEALED_LIMIT: Final = 240 * 1024
SALT_SIZE: Final = 32

_DIGEST = size(KEY_SIZE, KEY_SIZE)
_NAME = size(0, NAME_LIMIT)
_WORDS = each(TAGS_LIMIT, size(1, WORD_LIMIT))

Kind = Literal["agent", "name", "tag", "cap", "label", "machine", "broadcast"]


@attrs.frozen
class Attached:
    """Content that a letter names, in full."""

    table: str = attrs.field(validator=size(1, 32))
    digest: bytes = attrs.field(validator=_DIGEST)


@attrs.frozen(order=True)
class Agent:
    """An agent: a name on a machine. Names compare without case; this is the one as it was written."""

    name: str = attrs.field(validator=_NAME)
    node: NodeId = attrs.field(validator=_DIGEST)

    @property
    def key(self) -> tuple[str, bytes]:
        """What two of them are compared by."""
        return self.name.lower(), self.node


@attrs.frozen
class Target:
    """To whom a letter goes. `word` is a tag, capability, label or name; `node` the machine of `machine`."""

    kind: Kind
    word: str = attrs.field(default="", validator=size(0, WORD_LIMIT))
    node: bytes = attrs.field(default=b"", validator=size(0, KEY_SIZE))

    @property
    def key(self) -> str:
        """As text, the same for equal targets."""
        if self.kind == "machine":
            return f"machine:{self.node.hex()}"
        # Tags are compared as written, names and labels without case, as people write them.
        word = self.word.lower() if self.kind in ("name", "label") else self.word
        return f"{self.kind}:{word}" if word else self.kind

    def is_sound(self) -> bool:
        """Whether it has what its kind needs, and nothing else."""
        if len(self.node) != (KEY_SIZE if self.kind == "machine" else 0):
            return False
        if self.kind == "name":
            return is_name(self.word)
        return bool(self.word) == (self.kind in ("tag", "cap", "label"))


@attrs.frozen(kw_only=True)
class Letter:
    """A message, as its sender wrote it."""

    sender: str = attrs.field(validator=_NAME)
    """An agent of the author's machine."""

    target: Target
    to: tuple[Agent, ...] = attrs.field(validator=size(0, ADDRESSEES_LIMIT))
    """The agents that the target meant when it was sent."""

    subject: str = attrs.field(validator=size(0, SUBJECT_LIMIT))
    text: str = attrs.field(validator=size(0, TEXT_LIMIT))
    attached: tuple[Attached, ...] = attrs.field(validator=size(0, ATTACHMENTS_LIMIT))
    tags: tuple[str, ...] = attrs.field(validator=_WORDS)
    ticket: str = attrs.field(validator=size(0, WORD_LIMIT))
    thread: str = attrs.field(validator=_NAME)
    reply_to: bytes = attrs.field(validator=size(0, KEY_SIZE))
    """Hash of the record that it answers, or empty."""

    key: str = attrs.field(validator=size(0, KEY_LIMIT))
    """The client's, by which a second try is known; empty for none."""

    def is_sound(self) -> bool:
        """Whether it is what our own program would have written. It was signed by a member, who may write anything."""
        lines = (self.subject, self.ticket, self.thread, self.key, self.target.word, *self.tags)
        return (
            is_name(self.sender)
            and all(is_name(agent.name) for agent in self.to)
            and all(is_showable(line) for line in lines)
            and (not self.thread or is_name(self.thread))
            and len(self.reply_to) in (0, KEY_SIZE)
            and len(self.text.encode(errors="replace")) <= TEXT_LIMIT
            and self.target.is_sound()
            # A table is shown in a handle, which goes into other programs' lines.
            and all(is_table(each.table) or each.table in RESERVED_TABLES for each in self.attached)
        )


State = Literal["notified", "read", "refused", "closed"]


@attrs.frozen(kw_only=True)
class Words:
    """What became of letters: said by a machine that is party to them."""

    letters: tuple[bytes, ...] = attrs.field(validator=each(LETTERS_LIMIT, _DIGEST))
    """Hashes of their records; none where `ticket` says which."""

    ticket: str = attrs.field(validator=size(0, WORD_LIMIT))
    """All letters of this ticket, also those to come; closes only."""

    agent: str = attrs.field(validator=_NAME)
    """Of the author's machine; empty where the machine itself speaks (refused)."""

    state: State
    status: str = attrs.field(validator=size(0, WORD_LIMIT))
    """With what it was closed."""

    reason: str = attrs.field(validator=size(0, REASON_LIMIT))

    def is_sound(self) -> bool:
        """As `Letter.is_sound`."""
        lines = (self.ticket, self.status, self.reason)
        return (
            (not self.agent or is_name(self.agent))
            and all(is_showable(line) for line in lines)
            # What a close says is shown in place of open; a letter that is closed with nothing would only be gone.
            and bool(self.status) == (self.state == "closed")
            and bool(self.letters) != bool(self.ticket)
            and (self.state == "closed" or not self.ticket)
        )


Said = Letter | Words


@attrs.frozen
class Box:
    """A content key for one machine, sealed to its Noise key."""

    signing_key: bytes = attrs.field(validator=_DIGEST)
    box: bytes = attrs.field(validator=size(0, BOX_LIMIT))


@attrs.frozen(kw_only=True)
class SealedMail:
    """`mail.sealed`: a letter or words for the machines in `boxes` and the author's own."""

    boxes: tuple[Box, ...] = attrs.field(validator=size(0, RECIPIENTS_LIMIT))
    salt: bytes = attrs.field(validator=size(SALT_SIZE, SALT_SIZE))
    sealed: bytes = attrs.field(validator=size(0, SEALED_LIMIT))


@attrs.frozen(kw_only=True)
class OpenMail:
    """`mail.open`: a letter that every member may read."""

    letter: Letter


@attrs.frozen(kw_only=True)
class Reached:
    """`mail.reached`: all mail of this chain for the author's machine, up to `sequence`, is there and was looked at, but for
    records that came without a body: for whom those were, only their author can know."""

    signing_key: bytes = attrs.field(validator=_DIGEST)
    generation: int = attrs.field(validator=number(1, (1 << 63) - 1))
    sequence: int = attrs.field(validator=number(1, (1 << 63) - 1))
    without: tuple[int, ...] = attrs.field(validator=each(WITHOUT_LIMIT, number(1, (1 << 63) - 1)))
    """Their numbers, since the last such word."""


@attrs.frozen(kw_only=True)
class Card:
    """`agent.card`: what an agent of the author's machine says of itself; the newest counts."""

    name: str = attrs.field(validator=_NAME)
    label: str = attrs.field(validator=size(0, WORD_LIMIT))
    tags: tuple[str, ...] = attrs.field(validator=_WORDS)
    capabilities: tuple[str, ...] = attrs.field(validator=_WORDS)
    status: str = attrs.field(validator=size(0, REASON_LIMIT))
    live: bool
    """Whether a program was bound to it when this was written."""

    removed: bool
    """Out of all lists; its mail stays."""

    def is_sound(self) -> bool:
        """As `Letter.is_sound`."""
        lines = (self.label, self.status, *self.tags, *self.capabilities)
        return is_name(self.name) and all(is_showable(line) for line in lines)


@attrs.frozen(kw_only=True)
class Thread:
    """`mail.thread`: what a named thread is about; the newest counts."""

    name: str = attrs.field(validator=_NAME)
    description: str = attrs.field(validator=size(0, REASON_LIMIT))

    def is_sound(self) -> bool:
        """As `Letter.is_sound`."""
        return is_name(self.name) and is_showable(self.description)


Post = SealedMail | OpenMail | Reached | Card | Thread
"""Bodies of records about mail and agents."""
