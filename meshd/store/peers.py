"""Where members may be reached, and whom this machine blocks. Local: none of it is replicated.

Times are wall-clock milliseconds since 1970: they are shown and put in order, and decide nothing.
"""

import enum
from collections.abc import Iterable
from typing import Any, Final, cast

import apsw
import attrs

from meshd.model.identity import NodeId

REMEMBERED_LIMIT: Final = 8
"""Addresses remembered for one member: a laptop collects one a café, and only the last few can still be right."""

BY_HAND_LIMIT: Final = 256
"""Addresses that a person may give: each is dialled again and again."""

_NOBODY: Final = b""


class Source(enum.Enum):
    """How an address was come by."""

    BY_HAND = "by hand"
    REMEMBERED = "remembered"
    LEARNT = "learnt"


@attrs.frozen(kw_only=True)
class PeerAddress:
    """An address where a member may be."""

    node: NodeId | None
    """None for one given by hand until a member has answered there."""

    host: str
    """An IP address, or for BY_HAND also a host name."""

    port: int
    kind: Source
    added_ms: int
    last_ok_ms: int | None = None
    """When a session with this member was last confirmed there."""


@attrs.frozen
class BlockedNode:
    """A member that the person at this machine blocked."""

    node: NodeId
    since_ms: int
    reason: str


class Peers:
    """The peer book on disk."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def add_by_hand(self, host: str, port: int, *, node: NodeId | None = None, now_ms: int) -> bool:
        """Note an address that a person gave; False when it is known or BY_HAND_LIMIT is reached."""
        if len(self._select("kind = 'by hand'")) >= BY_HAND_LIMIT or self._select(
            "kind = 'by hand' AND host = ? AND port = ?", host, port
        ):
            return False
        self._put(PeerAddress(node=node, host=host, port=port, kind=Source.BY_HAND, added_ms=now_ms))
        return True

    def remove_by_hand(self, host: str, port: int) -> bool:
        """Forget an address that a person gave, whoever was found there; whether there was one."""
        self._connection.execute("DELETE FROM address WHERE kind = 'by hand' AND host = ? AND port = ?", (host, port))
        return self._connection.changes() > 0

    def worked(self, node: NodeId, host: str, port: int, *, now_ms: int) -> None:
        """A session with this member was confirmed there: remember it, among the REMEMBERED_LIMIT newest."""
        mine = (node, host, port)
        self._connection.execute(
            "UPDATE OR REPLACE address SET node = ?1, last_ok_ms = ?4 WHERE host = ?2 AND port = ?3"
            " AND kind = 'by hand' AND node IN (?1, x'')",
            (*mine, now_ms),
        )
        self._connection.execute(
            "UPDATE address SET last_ok_ms = ? WHERE node = ? AND host = ? AND port = ? AND kind = 'learnt'",
            (now_ms, *mine),
        )
        self._connection.execute(
            "INSERT INTO address (node, host, port, kind, added_ms, last_ok_ms) VALUES (?1, ?2, ?3, 'remembered', ?4, ?4)"
            " ON CONFLICT DO UPDATE SET last_ok_ms = excluded.last_ok_ms",
            (*mine, now_ms),
        )
        for old in self._select("node = ? AND kind = 'remembered' ORDER BY last_ok_ms DESC", node)[REMEMBERED_LIMIT:]:
            self._connection.execute(
                "DELETE FROM address WHERE node = ? AND host = ? AND port = ? AND kind = 'remembered'",
                (node, old.host, old.port),
            )

    def learnt(self, node: NodeId, spots: Iterable[tuple[str, int]], *, now_ms: int) -> None:
        """What a member now says of its own addresses, in place of what it said before."""
        before = {(each.host, each.port): each for each in self._select("node = ? AND kind = 'learnt'", node)}
        self._connection.execute("DELETE FROM address WHERE node = ? AND kind = 'learnt'", (node,))
        for host, port in dict.fromkeys(spots):
            old = before.get((host, port))
            self._put(
                old or PeerAddress(node=node, host=host, port=port, kind=Source.LEARNT, added_ms=now_ms),
            )

    def all(self) -> list[PeerAddress]:
        """Every address, those that worked last first."""
        return self._select("1 ORDER BY last_ok_ms DESC NULLS LAST, added_ms, host, port")

    def of(self, node: NodeId) -> list[PeerAddress]:
        """The addresses of one member, those that worked last first."""
        return self._select("node = ? ORDER BY last_ok_ms DESC NULLS LAST, added_ms, host, port", node)

    def forget(self, node: NodeId) -> None:
        """Drop every address of a member that is out, but those given by hand, whose machine is then unknown again."""
        self._connection.execute(
            "UPDATE OR REPLACE address SET node = x'', last_ok_ms = NULL WHERE node = ? AND kind = 'by hand'", (node,)
        )
        self._connection.execute("DELETE FROM address WHERE node = ?", (node,))

    def block(self, node: NodeId, *, reason: str = "", now_ms: int) -> None:
        """Have nothing to do with a member from now on."""
        self._connection.execute(
            "INSERT INTO blocked VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET reason = excluded.reason",
            (node, now_ms, reason),
        )

    def unblock(self, node: NodeId) -> bool:
        """Take that back; whether it was blocked."""
        self._connection.execute("DELETE FROM blocked WHERE node = ?", (node,))
        return self._connection.changes() > 0

    def blocked(self) -> dict[NodeId, BlockedNode]:
        """Whom this machine blocks."""
        rows = self._connection.execute("SELECT node, since_ms, reason FROM blocked ORDER BY since_ms, node")
        return {NodeId(row[0]): BlockedNode(NodeId(row[0]), row[1], row[2]) for row in rows}

    def _put(self, address: PeerAddress) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO address (node, host, port, kind, added_ms, last_ok_ms) VALUES (?, ?, ?, ?, ?, ?)",
            (
                *(address.node or _NOBODY, address.host, address.port, address.kind.value),
                *(address.added_ms, address.last_ok_ms),
            ),
        )

    def _select(self, where: str, *values: object) -> list[PeerAddress]:
        """`where` is one of this file's own texts, never a peer's."""
        rows = self._connection.execute(_SELECT + where, cast("tuple[Any, ...]", values))
        return [
            PeerAddress(
                node=NodeId(row[0]) if row[0] else None,
                host=row[1],
                port=row[2],
                kind=Source(row[3]),
                added_ms=row[4],
                last_ok_ms=row[5],
            )
            for row in rows
        ]


_SELECT: Final = "SELECT node, host, port, kind, added_ms, last_ok_ms FROM address WHERE "
