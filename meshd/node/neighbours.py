"""This daemon on its LANs: what it announces, and to which mesh a neighbour that is heard belongs."""

import contextlib
from collections.abc import Iterator
from typing import Final

import trio

from meshd.drivers import lan
from meshd.errors import RefusedError
from meshd.model.candidate import Gone, Invitation, Neighbour
from meshd.node.machine import Machine
from meshd.node.mesh import Mesh
from meshd.notices import Trouble
from meshd.protocol.lantags import next_change_ms, tags_to_accept, tags_to_announce

LOOK_EVERY: Final = 60.0
"""Seconds between two looks at whether what is announced is still right."""


class Neighbours:
    """One a daemon, for all its meshes, which `meshes` gives. `run` it while the endpoint is open."""

    def __init__(self, machine: Machine, meshes: "dict[bytes, Mesh]") -> None:
        self._machine, self._meshes = machine, meshes
        self._invitation: Invitation | None = None
        self._changed = trio.Event()
        self._around: dict[str, Neighbour] = {}
        self.works = False
        """Whether multicast DNS runs."""

    def changed(self) -> None:
        """Meshes or their secrets have changed: what is announced is another, and who was a stranger may be a member."""
        for neighbour in list(self._around.values()):
            self._tell(neighbour)
        self._changed.set()

    @contextlib.contextmanager
    def inviting(self, number: int) -> Iterator[None]:
        """Announce an open pairing window until the block ends. Raises RefusedError while another is announced."""
        if self._invitation is not None:
            raise RefusedError("An invitation is open on this machine.", "Use it, or end it first.")
        self._invitation = Invitation(number)
        self._changed.set()
        try:
            yield
        finally:
            self._invitation = None
            self._changed.set()

    async def run(self) -> None:
        """Announce and listen, for ever; without multicast, say so once and leave it."""
        settings = self._machine.settings
        interfaces = settings.lan_interfaces or lan.only(settings.host or None)
        if not settings.lan or interfaces is None:
            return
        try:
            async with lan.attend(self._machine.endpoint.port, self._said(), interfaces) as presence:
                self.works = True
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._announce, presence)
                    async for sighting in presence.heard:
                        self._heard(sighting)
        except lan.LanUnavailableError as error:
            advice = "Machines on this network are not found by themselves: tether peer add HOST:PORT."
            self._machine.notify(Trouble(error.what, advice, "warning"))
        finally:
            self.works = False

    async def _announce(self, presence: lan.Presence) -> None:
        while True:
            self._changed = trio.Event()
            await presence.say(self._said())
            wall = self._machine.clocks.wall_ms()
            seconds = (next_change_ms(wall) - wall) / 1000 + 1
            # No longer than LOOK_EVERY: the clock of waits may stand still while the machine sleeps, and wall time goes on.
            with trio.move_on_after(min(seconds, LOOK_EVERY)):
                await self._changed.wait()

    def _said(self) -> lan.Said:
        secrets = [[each.secret for each in mesh.secrets] for mesh in self._meshes.values()]
        return lan.Said(tags_to_announce(secrets, self._machine.clocks.wall_ms()), self._invitation)

    def _heard(self, sighting: Neighbour | Gone) -> None:
        if isinstance(sighting, Gone):
            self._around.pop(sighting.instance, None)
            for mesh in self._meshes.values():
                mesh.links.seen(sighting)
            return
        if sighting.instance in self._around or len(self._around) < lan.SIGHTINGS_QUEUED:
            self._around[sighting.instance] = sighting
        self._tell(sighting)

    def _tell(self, neighbour: Neighbour) -> None:
        wall = self._machine.clocks.wall_ms()
        for mesh in self._meshes.values():
            if tags_to_accept([each.secret for each in mesh.secrets], wall).intersection(neighbour.tags):
                mesh.links.seen(neighbour)
