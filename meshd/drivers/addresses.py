"""The addresses of a mesh's members, between its links, which use them, and its database, which keeps them."""

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs

from meshd.drivers.storage import Storage
from meshd.model.address import Address
from meshd.model.identity import NodeId
from meshd.protocol.peerbook import Kind
from meshd.store.database import Database


@attrs.frozen
class Known:
    """An address from an earlier run."""

    address: Address
    kind: Kind
    node: NodeId | None
    """Whose; None for one given by hand at which nobody was met yet."""

    age: float | None = None
    """Seconds since a session was confirmed there; None if none ever was."""


class AddressStore(Protocol):
    """What links need of whoever keeps addresses for the next run."""

    async def load(self) -> Sequence[Known]:
        """All that is kept."""

    async def worked(self, node: NodeId, address: Address) -> None:
        """A session with this member was confirmed at this address. Raises StoreError."""


@attrs.frozen
class StoredAddresses:
    """An AddressStore in a mesh's database. `wall_ms` gives milliseconds since 1970."""

    storage: Storage
    wall_ms: Callable[[], int]

    async def load(self) -> list[Known]:
        now = self.wall_ms()
        found = await self.storage.read(lambda database: database.peers.all())
        return [
            Known(
                Address(each.host, each.port),
                Kind(each.kind.value),
                each.node,
                # A clock that was set back makes an address no younger than now.
                None if each.last_ok_ms is None else max(now - each.last_ok_ms, 0) / 1000,
            )
            for each in found
        ]

    async def worked(self, node: NodeId, address: Address) -> None:
        def note(database: Database) -> None:
            database.peers.worked(node, address.host, address.port, now_ms=self.wall_ms())

        await self.storage.write(note)
