"""Where records about mail are opened, as far as they are for this machine, and folded. docs/protocol/mail.md."""

from collections.abc import Callable

import attrs

from meshd.errors import RemoteProtocolError
from meshd.model.announcement import Announcement
from meshd.model.identity import Identity, Keys
from meshd.model.message import Post, Said, SealedMail
from meshd.model.record import Record
from meshd.protocol.mailing import decode_said, encode_said, is_for, open_mail, seal_mail
from meshd.store.database import Database
from meshd.wire.bodies import Body


@attrs.frozen
class Draft:
    """Mail of ours that is sealed when its place in the chain is known: a box opens at that place alone."""

    said: Said
    recipients: tuple[Identity, ...]
    """Machines but our own."""

    plaintext: bytes
    entropy: Callable[[int], bytes]

    @classmethod
    def of(cls, said: Said, recipients: tuple[Identity, ...], entropy: Callable[[int], bytes]) -> "Draft":
        """With the plaintext made beforehand, outside of the commit."""
        return cls(said, recipients, encode_said(said), entropy)

    def sealed(self, keys: Keys, mesh: bytes, generation: int, sequence: int) -> SealedMail:
        """The body of the record at this place."""
        return seal_mail(keys, mesh, generation, sequence, self.recipients, self.plaintext, self.entropy)


@attrs.frozen
class Letterbox:
    """Reads what the data records of one mesh say. `author_of` gives a member's keys by its signing key."""

    mesh: bytes
    keys: Keys
    author_of: Callable[[bytes], Identity | None]

    def fold(self, database: Database, record: Record, body: Body | None, said: Said | None = None) -> None:
        """Take a stored record into the views. `said`: what is sealed in it, where that is known already."""
        if isinstance(body, Announcement):
            database.handles.fold(record, body)
        elif isinstance(body, Post):
            unreadable = False
            if said is None and isinstance(body, SealedMail) and is_for(self.keys, record.header.author, body):
                said = self._opened(record, body)
                unreadable = said is None
            database.mail.fold(record, body, said, unreadable=unreadable)

    def _opened(self, record: Record, body: SealedMail) -> Said | None:
        header = record.header
        author = self.author_of(header.author)
        if author is None:
            return None
        try:
            return decode_said(open_mail(self.keys, author, self.mesh, header.generation, header.sequence, body))
        except RemoteProtocolError:
            return None
