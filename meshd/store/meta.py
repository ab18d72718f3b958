"""Small facts that only this machine knows of a mesh: its secrets, its settings here. Never replicated."""

from typing import Any, cast

import apsw


class Meta:
    """Bytes under names. Names in use belong to the parts that write them, and begin with that part's word."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def get(self, key: str) -> bytes | None:
        """What stands under a name."""
        row = cast(
            "tuple[Any, ...] | None",
            self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone(),
        )
        return None if row is None else cast(bytes, row[0])

    def set(self, key: str, value: bytes) -> None:
        """Put bytes under a name, in place of what stood there."""
        self._connection.execute(
            "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, value),
        )

    def delete(self, key: str) -> None:
        """Leave nothing under a name."""
        self._connection.execute("DELETE FROM meta WHERE key = ?", (key,))

    def starting(self, prefix: str) -> dict[str, bytes]:
        """All names that begin so, with what stands under them, in order of name."""
        rows = self._connection.execute(
            "SELECT key, value FROM meta WHERE substr(key, 1, length(?1)) = ?1 ORDER BY key", (prefix,)
        )
        return {row[0]: row[1] for row in rows}
