"""One confirmed session with one member of one mesh, as the parts that use it see it."""

import enum

import attrs
import trio

from meshd.drivers.quic import Connection
from meshd.model.identity import Identity, NodeId


class PathKind(enum.Enum):
    """How the address of a link was come by."""

    LAN = "lan"
    WAN = "wan"
    BY_HAND = "by hand"
    REMEMBERED = "remembered"
    LEARNT = "learnt"
    ACCEPTED = "accepted"
    """The other side dialled; how it found us it alone knows."""


@attrs.define(eq=False)
class Link:
    """A live session. It is over when `connection` is closed. Times are trio's."""

    mesh: bytes
    """Mesh id, 32 bytes."""

    peer: Identity
    connection: Connection
    path: PathKind
    since: float
    round_trip: float | None = None
    """Seconds of the last probe, answered by the peer's program and not only its network stack."""

    probed_at: float | None = None
    """When `round_trip` was measured."""

    introduced: bool = False
    """The peer is not in our roster yet and showed how it was admitted: the first exchange of rosters settles it."""

    leaving: trio.Event = attrs.field(factory=trio.Event, init=False)
    """Set when the peer has just lost its membership: it may still read why, and nothing else."""

    @property
    def node(self) -> NodeId:
        return self.peer.node

    @property
    def dialled_here(self) -> bool:
        return self.connection.is_client
