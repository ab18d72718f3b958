"""Agents on simulated machines."""

from typing import Any

from meshd.tools.context import Session
from tests.sim.nodes import Machine, until_async


class Person:
    """An agent of a machine, asking as the control socket would."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine, self.name = machine, name
        self.session = Session()

    async def bind(self, **said: Any) -> Any:
        card = {"label": None, "tags": (), "capabilities": (), "status": None, **said}
        return await self.machine.call(
            "agent_register", mesh=None, name=self.name, bind=True, session=self.session, **card
        )

    async def send(self, to: str, text: str = "text", subject: str = "subject", **more: Any) -> Any:
        given = {
            **{"attach": (), "tags": (), "ttl": 0, "ticket": None, "thread": None, "reply_to": None, "key": None},
            "wait": 0.0,
            **more,
        }
        return await self.machine.call(
            "send", mesh=None, to=to, subject=subject, text=text, sender=self.name, session=self.session, **given
        )

    async def inbox(self, **how: Any) -> Any:
        given = {"unread": False, "include_closed": False, "tag": None, "limit": 50, "after": None, **how}
        return await self.machine.call("inbox", mesh=None, agent=self.name, session=self.session, **given)

    async def subjects(self, **how: Any) -> list[str]:
        return [each.subject for each in (await self.inbox(**how)).messages]

    async def receive(self, handle: str, peek: bool = False) -> Any:
        return await self.machine.call(
            "receive", mesh=None, handle=handle, agent=self.name, peek=peek, session=self.session
        )

    async def close(self, handle: str | None = None, ticket: str | None = None, **how: Any) -> Any:
        given = {"status": "completed", "reason": "", **how}
        return await self.machine.call(
            "close", mesh=None, handle=handle, ticket=ticket, agent=self.name, session=self.session, **given
        )

    async def wait(self, seconds: float = 60.0, after: str | None = None) -> Any:
        return await self.machine.call(
            "wait", mesh=None, agent=self.name, seconds=seconds, after=after, session=self.session
        )

    async def state(self, handle: str) -> str:
        found = await self.machine.call(
            "sent", mesh=None, handle=handle, agent=self.name, limit=1, after=None, session=self.session
        )
        state: str = found.messages[0].state
        return state

    async def comes_to(self, handle: str, *states: str, within: float = 60.0) -> None:
        async def asked() -> bool:
            return await self.state(handle) in states

        await until_async(asked, f"{handle} is {' or '.join(states)}", within)

    async def has(self, *subjects: str, within: float = 60.0) -> None:
        async def asked() -> bool:
            return set(subjects) <= set(await self.subjects(include_closed=True))

        await until_async(asked, f"{self.name} has {subjects}", within)
