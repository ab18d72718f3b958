"""The messages that take a machine into a mesh, on a stream of a paired connection. docs/protocol/pairing.md, "Joining"."""

from typing import Annotated, Final

import attrs
from msgspec import Meta

from meshd.model.facts import COUNTER_LIMIT, CUTS_LIMIT
from meshd.model.name import NAME_LIMIT
from meshd.model.record import ENCODED_LIMIT
from meshd.wire.constants import Frame
from meshd.wire.messages import Digest, Reason
from meshd.wire.session import Signature

BATCH_LIMIT: Final = 512 * 1024
"""Most bytes of records in one ROSTER, and at least one record: the longest has 257 KiB."""

ROSTER_RECORDS: Final = 100_000
"""Most roster records that a newcomer takes: a thousand machines that change a hundred times each."""

ROSTER_LIMIT: Final = 64 * 1024 * 1024
"""Most bytes of them: checking comes when all are here, and till then they are in memory."""

_MESSAGE: Final = 1024

FRAMES_OF_NEWCOMER: Final[dict[int, int]] = {
    Frame.JOIN: _MESSAGE,
    Frame.CONSENT: _MESSAGE,
    Frame.JOINED: 0,
    Frame.JOIN_REFUSED: 4096,
}
"""What the admitting member takes, and how long each may be."""

FRAMES_OF_MEMBER: Final[dict[int, int]] = {
    Frame.JOIN_OFFER: _MESSAGE,
    Frame.ADMITTED: CUTS_LIMIT * 128,
    Frame.ROSTER: BATCH_LIMIT + 16 * 1024,  # the records and MessagePack's length before each
    Frame.ROSTER_END: 0,
    Frame.JOIN_REFUSED: 4096,
}
"""What the newcomer takes."""

Name = Annotated[str, Meta(max_length=NAME_LIMIT)]


@attrs.frozen
class Join:
    """JOIN: who asks to be admitted, and what its machine would like to be called."""

    signing_key: Digest
    noise_key: Digest
    binding: Signature
    name: Name
    signature: Signature


@attrs.frozen
class JoinOffer:
    """JOIN_OFFER: the mesh, who would admit, and what the newcomer is going to be called."""

    mesh: Digest
    mesh_name: Name
    signing_key: Digest
    noise_key: Digest
    binding: Signature
    name: Name
    signature: Signature


@attrs.frozen
class Consent:
    """CONSENT: the newcomer's countersignature of its admission (model/facts.py)."""

    countersignature: Signature


@attrs.frozen
class MeshSecret:
    """A mesh secret: its number, the hash of the record that brought it (zeros: the founder's first), and itself."""

    number: Annotated[int, Meta(ge=1, le=COUNTER_LIMIT)]
    record: Digest
    secret: Digest = attrs.field(repr=False)


@attrs.frozen
class Admitted:
    """ADMITTED: the admission is durable; all mesh secrets that are in use."""

    secrets: Annotated[list[MeshSecret], Meta(min_length=1, max_length=CUTS_LIMIT)]


@attrs.frozen
class RosterBatch:
    """ROSTER: some of the roster records, encoded."""

    records: list[Annotated[bytes, Meta(max_length=ENCODED_LIMIT)]]


@attrs.frozen
class JoinRefused:
    """JOIN_REFUSED: it ends here, and why."""

    reason: Reason
