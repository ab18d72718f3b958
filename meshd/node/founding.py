"""How a mesh comes to be on this machine: founded here, or entered. It is durable as a whole, or it is not there."""

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Final

import trio

from meshd.drivers.joining import Guest
from meshd.drivers.journal import open_journal
from meshd.drivers.one_error import one_error
from meshd.drivers.state import MeshDirectory
from meshd.drivers.storage import open_storage
from meshd.errors import RefusedError, RemoteProtocolError, StoreError
from meshd.model.facts import Admit
from meshd.model.identity import Identity, NodeId
from meshd.model.record import Record
from meshd.node.machine import Machine
from meshd.node.secrets import HeldSecret, keep
from meshd.protocol.joining import Offered, Welcomed
from meshd.protocol.welcome import Roll
from meshd.store.database import Database
from meshd.wire import bodies

MESHES_LIMIT: Final = 16
"""Meshes that one machine may belong to: each has a database, links and an announcement of its own."""

_MESH: Final = "mesh id"


def mesh_of(database: Database) -> bytes | None:
    """The id of the mesh that this database holds; None for one that `place` did not make."""
    return database.meta.get(_MESH)


async def place(machine: Machine, mesh: bytes, records: Sequence[Record], held: Sequence[HeldSecret]) -> MeshDirectory:
    """Write a mesh's beginning to disk; it is made elsewhere and moved into place, so that half a mesh is never there.

    Raises RefusedError when there are too many, StoreError.
    """
    state, offload = machine.state, machine.offload
    if len(state.mesh_directories()) >= MESHES_LIMIT:
        raise RefusedError(f"This machine belongs to {MESHES_LIMIT} meshes already.", "Leave one first: tether leave.")

    def finish(database: Database) -> None:
        keep(database, held)
        database.meta.set(_MESH, mesh)

    made = await offload(state.new_mesh)
    try:
        async with open_storage(made.database, offload=offload) as storage:
            begun = open_journal(
                mesh, storage, machine.author, clocks=machine.clocks, notify=machine.notify, offload=offload
            )
            with one_error():
                async with begun as journal:
                    await journal.begin(records)
                    if was_here(machine.keys.identity, mesh, records):
                        # Others may hold records of ours that are lost here: no number of those is written again.
                        await journal.open_generation("this machine comes back to a mesh that it had left, or lost")
            await storage.write(finish)
        return await offload(partial(state.place_mesh, made, mesh))
    except BaseException:
        with trio.CancelScope(shield=True), contextlib.suppress(StoreError):  # the next start does it then
            await offload(partial(state.drop_mesh, made))
        raise


def was_here(me: Identity, mesh: bytes, records: Iterable[Record]) -> bool:
    """Whether these roster records, of a mesh that this machine enters, tell of an earlier time of it there."""
    admissions = 0
    for record in records:
        if record.header.author == me.signing_key and record.hash != mesh:
            return True
        admissions += _admits(record, me)
    return admissions > 1


def _admits(record: Record, me: Identity) -> bool:
    if record.header.type != "roster.admit":
        return False
    try:
        fact = bodies.decode(record)
    except RemoteProtocolError:
        return False
    return isinstance(fact, Admit) and fact.signing_key == me.signing_key


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
