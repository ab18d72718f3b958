"""How agents of this machine are told of mail, and what they were told. Local: none of it is replicated.

Times are wall-clock milliseconds since 1970.
"""

import json
from collections.abc import Sequence
from typing import Final, Literal, cast

import apsw
import attrs

from meshd.model.message import AGENTS_LIMIT
from meshd.model.record import HASH_SIZE

Method = Literal["none", "tmux", "exec"]

BATCH_LIMIT: Final = 1024
"""Messages of a batch that are kept, the newest: of those beyond it a reader may be told once more after a new start."""

_ALL: Final = ""


@attrs.frozen
class Delivery:
    """One agent's row."""

    agent: str
    method: Method = "none"
    target: object = attrs.field(factory=dict)
    """What JSON held there: who uses it checks it."""

    is_paused: bool = False
    batch: tuple[bytes, ...] = ()
    """Hashes of what it was told."""

    told_ms: int | None = None
    reminders: int = 0


class Deliveries:
    """The table of them. Names of agents are compared without case."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def all(self) -> list[Delivery]:
        """Every agent's row, by name."""
        rows = self._connection.execute(
            "SELECT agent, method, target, is_paused, batch, told_ms, reminders FROM deliveries WHERE agent <> ''"
            " ORDER BY agent"
        )
        return [
            Delivery(row[0], row[1], _read(row[2]), bool(row[3]), _split(row[4]), row[5], row[6])
            for row in cast("list[tuple[str, Method, str, int, bytes, int | None, int]]", list(rows))
        ]

    def set_method(self, agent: str, method: Method, target: object) -> bool:
        """Tell an agent in this way from now on; False when AGENTS_LIMIT others have rows. What it was told stays."""
        ((others,),) = self._connection.execute("SELECT count(*) FROM deliveries WHERE agent NOT IN ('', ?)", (agent,))
        if others >= AGENTS_LIMIT:
            return False
        self._connection.execute(
            "INSERT INTO deliveries (agent, method, target) VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET method = excluded.method, target = excluded.target",
            (agent, method, json.dumps(target)),
        )
        return True

    def pause(self, agent: str | None, paused: bool) -> bool:
        """Pause an agent, or with None all of them, or take it back; False when AGENTS_LIMIT others have rows."""
        ((others,),) = self._connection.execute(
            "SELECT count(*) FROM deliveries WHERE agent NOT IN ('', ?)", (agent or _ALL,)
        )
        if agent and others >= AGENTS_LIMIT:
            return False
        self._connection.execute(
            "INSERT INTO deliveries (agent, is_paused) VALUES (?, ?)"
            " ON CONFLICT DO UPDATE SET is_paused = excluded.is_paused",
            (agent or _ALL, int(paused)),
        )
        return True

    def all_paused(self) -> bool:
        """Whether nobody is to be told."""
        rows = self._connection.execute("SELECT is_paused FROM deliveries WHERE agent = ''")
        return any(row[0] for row in rows)

    def told(self, agent: str, batch: Sequence[bytes], reminders: int, *, now_ms: int) -> None:
        """An agent was told of these. Nothing for one that has no row."""
        self._connection.execute(
            "UPDATE deliveries SET batch = ?, told_ms = ?, reminders = ? WHERE agent = ?",
            (b"".join(batch[-BATCH_LIMIT:]), now_ms, reminders, agent),
        )


def _read(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _split(batch: bytes) -> tuple[bytes, ...]:
    return tuple(batch[start : start + HASH_SIZE] for start in range(0, len(batch), HASH_SIZE))
