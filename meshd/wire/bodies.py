"""Bodies of records: their types' names, and MessagePack to values and back."""

from typing import Final

from meshd.model.announcement import Addresses, Announcement, Blob, Held, Tag, Tree, Value
from meshd.model.facts import Admit, Distrust, Fact, Fork, Found, Rename, Revoke, Secret
from meshd.model.message import Card, OpenMail, Post, Reached, SealedMail, Thread
from meshd.model.record import Log, Record
from meshd.wire.codec import decode_body, encode_body

Body = Fact | Announcement | Post

TYPES: Final[dict[str, tuple[Log, type[Body]]]] = {
    "roster.found": (Log.ROSTER, Found),
    "roster.admit": (Log.ROSTER, Admit),
    "roster.revoke": (Log.ROSTER, Revoke),
    "roster.secret": (Log.ROSTER, Secret),
    "roster.name": (Log.ROSTER, Rename),
    "roster.distrust": (Log.ROSTER, Distrust),
    "roster.fork": (Log.ROSTER, Fork),
    "handle.value": (Log.DATA, Value),
    "handle.blob": (Log.DATA, Blob),
    "handle.tree": (Log.DATA, Tree),
    "handle.tag": (Log.DATA, Tag),
    "blob.held": (Log.DATA, Held),
    "node.addresses": (Log.DATA, Addresses),
    "mail.sealed": (Log.DATA, SealedMail),
    "mail.open": (Log.DATA, OpenMail),
    "mail.reached": (Log.DATA, Reached),
    "mail.thread": (Log.DATA, Thread),
    "agent.card": (Log.DATA, Card),
}
"""Every type that this program folds, and the log it belongs in: elsewhere it means nothing."""

_NAMES = {kind: name for name, (_, kind) in TYPES.items()}


def type_of(body: Body | type[Body]) -> tuple[str, Log]:
    """The type's name and log of a body, or of a class of them."""
    name = _NAMES[body if isinstance(body, type) else type(body)]
    return name, TYPES[name][0]


def encode(body: Body) -> bytes:
    """The MessagePack of a body."""
    return encode_body(body)


def decode(record: Record) -> Body | None:
    """What a record says: None for an unknown type, a type in the wrong log, or a body that is gone.

    Raises RemoteProtocolError for a body that is not what its type says.
    """
    known = TYPES.get(record.header.type)
    if known is None or record.body is None or known[0] is not record.header.log:
        return None
    return decode_body(known[1], record.body)
