"""What may be asked about agents."""

from collections import Counter

from meshd.model.identity import NodeId
from meshd.node import mail_shown
from meshd.node.handle_calls import check_tags
from meshd.node.mail_asking import MailAsking
from meshd.tools.context import Agents, Registered, Session


class AgentCalls(MailAsking):
    """Who there is."""

    async def agent_register(
        self,
        *,
        mesh: str | None,
        name: str,
        label: str | None,
        tags: tuple[str, ...],
        capabilities: tuple[str, ...],
        status: str | None,
        bind: bool,
        session: Session,
    ) -> Registered:
        chosen = self._mesh_of(mesh, session)
        chosen.agents.who_asks(session, name)
        info = await chosen.agents.register(
            name,
            session,
            label=label,
            tags=check_tags(tags),
            capabilities=check_tags(capabilities),
            status=status,
            bind=bind,
        )
        return Registered(info, bool(session.agent))

    async def agent_remove(self, *, mesh: str | None, agent: str, session: Session) -> Registered:
        chosen = self._mesh_of(mesh, session)
        return Registered(await chosen.agents.remove(agent), False)

    async def who(self, *, mesh: str | None, to: str | None) -> Agents:
        chosen = self.mesh(mesh)
        known = await chosen.agents.known()
        if to is not None:
            meant = {agent.key for agent in (await chosen.agents.meant(to, "")).agents}
            known = {key: each for key, each in known.items() if (key[1], key[0]) in meant}
        found = sorted(known.values(), key=lambda each: (chosen.name_of(each.node), each.card.name.lower()))
        # In turn from each machine: one that has very many does not keep the others' out of the answer.
        turns: Counter[NodeId] = Counter()
        in_turn = []
        for each in found:
            turns[each.node] += 1
            in_turn.append((turns[each.node], chosen.agents.info(each)))
        infos = mail_shown.fitting(info for _, info in sorted(in_turn, key=lambda each: each[0]))
        infos = tuple(sorted(infos, key=lambda info: (info.agent.machine.name, info.agent.name.lower())))
        return Agents(chosen.hex, infos, len(found) - len(infos))
