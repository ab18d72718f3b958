"""What may be asked about how agents of this machine are told of mail: the part of the context that sets wakes."""

from meshd.drivers.hooks import find_hook
from meshd.drivers.tmux import register_pane
from meshd.errors import NobodyFoundError
from meshd.model.name import same_name
from meshd.node.calls import Calls
from meshd.node.mesh import Mesh
from meshd.tools.context import AgentRef, Deliveries, Delivery, WakeTested


class DeliveryCalls(Calls):
    """Wakes: how they stand, pausing, trying, setting. All of it is this machine's own."""

    async def delivery_status(self, *, mesh: str | None, agent: str | None) -> Deliveries:
        chosen = self.mesh(mesh)
        return await self._deliveries(chosen, None if agent is None else await self._known(chosen, agent))

    async def delivery_pause(self, *, mesh: str | None, agent: str | None) -> Deliveries:
        return await self._pause(mesh, agent, True)

    async def delivery_resume(self, *, mesh: str | None, agent: str | None) -> Deliveries:
        return await self._pause(mesh, agent, False)

    async def delivery_test(self, *, mesh: str | None, agent: str, now: bool) -> WakeTested:
        chosen = self.mesh(mesh)
        name = await self._known(chosen, agent)
        outcome = await chosen.waking.test(name, now=now)
        return WakeTested(AgentRef(name, self.here(chosen), True), outcome.told, outcome.what)

    async def delivery_tmux(self, *, mesh: str | None, agent: str, socket: str | None, pane: str | None) -> Deliveries:
        chosen = self.mesh(mesh)
        found = await register_pane(socket, pane)
        name = await self._made_known(chosen, agent)
        await chosen.waking.set_way(name, found)
        return await self._deliveries(chosen, name)

    async def delivery_exec(self, *, mesh: str | None, agent: str, argv: tuple[str, ...]) -> Deliveries:
        chosen = self.mesh(mesh)
        found = await self.node.machine.offload(lambda: find_hook(argv))
        name = await self._made_known(chosen, agent)
        await chosen.waking.set_way(name, found)
        return await self._deliveries(chosen, name)

    async def delivery_off(self, *, mesh: str | None, agent: str) -> Deliveries:
        chosen = self.mesh(mesh)
        name = await self._known(chosen, agent)
        await chosen.waking.set_way(name, None)
        return await self._deliveries(chosen, name)

    async def _pause(self, mesh: str | None, agent: str | None, paused: bool) -> Deliveries:
        chosen = self.mesh(mesh)
        name = None if agent is None else await self._known(chosen, agent)
        await chosen.waking.pause(name, paused)
        return await self._deliveries(chosen, name)

    async def _made_known(self, mesh: Mesh, agent: str) -> str:
        """The same, and one that was not known is from now on: whoever sets how it is told means that there is one."""
        return (await mesh.agents.register(agent)).agent.name

    async def _known(self, mesh: Mesh, agent: str) -> str:
        """An agent of this machine, as it is written."""
        for name in await mesh.waking.names():
            if same_name(name, agent):
                return name
        raise NobodyFoundError(
            f"No agent of this machine is called {agent!r:.80}.", f"Make it known first: tether agent register {agent}."
        )

    async def _deliveries(self, mesh: Mesh, agent: str | None) -> Deliveries:
        names = await mesh.waking.names() if agent is None else [agent]
        found = [await mesh.waking.standing(name) for name in names]
        here = self.here(mesh)
        return Deliveries(
            mesh.waking.all_paused,
            tuple(
                Delivery(
                    AgentRef(each.agent, here, True),
                    each.method,
                    each.target,
                    each.is_paused,
                    each.unread,
                    each.told_age,
                    each.reminders,
                    each.last,
                )
                for each in found
            ),
        )
