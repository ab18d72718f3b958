"""How a mesh comes to be on this machine: founded here, or entered. It is durable as a whole, or it is not there."""

import shutil
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from meshd.drivers.joining import Guest
from meshd.drivers.journal import open_journal
from meshd.drivers.state import MeshDirectory
from meshd.drivers.storage import open_storage
from meshd.errors import RefusedError
from meshd.model.identity import NodeId
from meshd.model.record import Record
from meshd.node.machine import Machine
from meshd.node.secrets import HeldSecret, keep
from meshd.protocol.joining import Offered, Welcomed
from meshd.protocol.welcome import Roll
from meshd.store.database import Database

MESHES_LIMIT: Final = 16
"""Meshes that one machine may belong to: each has a database, links and an announcement of its own."""

_MESH: Final = "mesh id"
"""Written last: a directory without it is one that never came to be."""


def mesh_of(database: Database) -> bytes | None:
    """The id of the mesh that this database holds; None where founding or entering it was cut off."""
    return database.meta.get(_MESH)


async def place(machine: Machine, mesh: bytes, records: Sequence[Record], held: Sequence[HeldSecret]) -> MeshDirectory:
    """Write a mesh's beginning to disk. Raises RefusedError when it is here already, StoreError."""
    state, offload = machine.state, machine.offload
    if len(state.mesh_directories()) >= MESHES_LIMIT:
        raise RefusedError(f"This machine belongs to {MESHES_LIMIT} meshes already.", "Leave one first: tether leave.")
    directory = await offload(partial(state.mesh, mesh))
    if directory.database.is_file():
        raise RefusedError("This machine is in that mesh already.")

    def finish(database: Database) -> None:
        keep(database, held)
        database.meta.set(_MESH, mesh)

    try:
        async with open_storage(directory.database, offload=offload) as storage:
            async with open_journal(mesh, storage, machine.author, clocks=machine.clocks, offload=offload) as journal:
                await journal.begin(records)
            await storage.write(finish)
    except BaseException:
        remove(directory)
        raise
    return directory


def remove(directory: MeshDirectory) -> None:
    """Delete what a mesh kept here."""
    shutil.rmtree(directory.path, ignore_errors=True)


class Entrance(Guest):
    """What this machine answers when a mesh is offered to it, and where the mesh goes.

    `is_linked` tells whether a member of a mesh is linked in it now: then it takes this machine for a member as well.
    """

    def __init__(
        self,
        is_linked: Callable[[bytes, NodeId], bool],
        enter: Callable[[bytes, Sequence[Record], Sequence[HeldSecret]], Awaitable[None]],
    ) -> None:
        self._is_linked, self._enter = is_linked, enter

    def consider(self, offered: Offered) -> None:
        # Who was suspended is told to join again, and perhaps has not even heard of it: only the other side knows.
        if self._is_linked(offered.mesh, offered.admitter.node):
            raise RefusedError("This machine is in that mesh already.")

    async def enter(self, welcomed: Welcomed, roll: Roll) -> None:
        held = [HeldSecret(each.record, each.number, each.secret) for each in welcomed.secrets]
        await self._enter(welcomed.offered.mesh, roll.records, held)
