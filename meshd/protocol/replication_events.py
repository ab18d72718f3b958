"""What a replication asks of its driver, and tells it. docs/protocol/records.md."""

import attrs

from meshd.model.record import LogId
from meshd.wire.sync import Arrived, Span, Tip


@attrs.frozen
class RecordsArrived:
    """Store these and answer with `accepted`, even if nothing of them was stored."""

    link: int
    records: tuple[Arrived, ...]
    number: int
    """Of the question that they answer; 0 for a push."""

    last: bool


@attrs.frozen
class ReadDue:
    """The peer asks for records: answer with `serve`."""

    link: int
    spans: tuple[Span, ...]
    number: int


@attrs.frozen
class HashesDue:
    """Hashes of ours are needed: answer with `hashes`."""

    link: int
    chain: LogId
    sequences: tuple[int, ...]
    theirs: tuple[bytes | None, ...] | None
    """The peer's, when we compare; None when it is the peer that asks."""


@attrs.frozen
class Settled:
    """The peer's roster and ours have been compared, and it is a member: from here on data is exchanged."""

    link: int


@attrs.frozen
class Outsider:
    """By our roster the peer is no member, or not any more: end the link. Nothing more is told to it."""

    link: int


@attrs.frozen
class FarewellDue:
    """The peer has just lost its membership: answer with `farewell` and these records, by which it did."""

    link: int
    spans: tuple[Span, ...]


@attrs.frozen
class BranchDue:
    """What is held of a roster log is not the branch that its author's revocation names, and the peer holds that one:
    drop ours, and tell the roster that is left with `roster_changed`."""

    link: int
    chain: LogId


@attrs.frozen
class OwnChainElsewhere:
    """The peer says that it holds records of this machine that are not here. They are being fetched."""

    link: int
    chain: LogId
    tip: Tip


@attrs.frozen
class OwnHeadsKnown:
    """All that the peer holds of this machine is here."""

    link: int


@attrs.frozen
class Echoed:
    """The peer's program answered a probe after so many seconds."""

    link: int
    round_trip: float


@attrs.frozen
class Failed:
    """The peer broke the protocol, or did not answer in time: end the link."""

    link: int
    why: str


Event = (
    RecordsArrived
    | ReadDue
    | HashesDue
    | Settled
    | Outsider
    | FarewellDue
    | BranchDue
    | OwnChainElsewhere
    | OwnHeadsKnown
    | Echoed
    | Failed
)


@attrs.frozen
class Lag:
    """How far two sides of a link are apart, as far as they have told each other."""

    records_here: int
    """That the peer has and we do not."""

    bytes_here: int
    records_there: int
    """That we have and the peer does not."""

    bytes_there: int
    as_of: float
    """When the peer last said anything: it tells within moments what has changed there."""
