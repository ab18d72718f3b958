"""Tools carried out for one MCP session: who it is, the calls of a tool's plan, files between it and the daemon.

Nothing here knows MCP, and nothing a tool: it takes plans (tools/agent_tool.py) and asks the daemon.
"""

import io
import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import trio

from meshd.client.lines import silent
from meshd.client.session import AgentSession
from meshd.config import ENV_AGENT
from meshd.errors import ConnectionLostError, NobodyFoundError, RefusedError, TetherError, TimedOutError
from meshd.surfaces import passing, starting
from meshd.tools.agent_tool import (
    ACCESS_DENIED,
    NO_DAEMON,
    VALUE_ERROR,
    Call,
    Outcome,
    Tool,
    ToolError,
    error_name,
    same_agent,
)

CALL_WITHIN: Final = 300.0
"""Seconds for one call that may take as long as it takes. Clients give up, and cancel, long before."""

LATE: Final = 30.0
"""Seconds by which an operation may be late with saying that its own time is over."""


class Desk:
    """One session's calls. `pinned`: the agent that the environment says it is; empty if it says none."""

    def __init__(self, session: AgentSession, pinned: str = "", *, start: bool = False) -> None:
        self._session, self._pinned, self._start = session, pinned, start
        self._agent = ""
        self._binding = trio.Lock()

    async def carry_out(self, tool: Tool, arguments: Mapping[str, Any]) -> Outcome:
        """What comes of a tool. Raises ToolError, and nothing else that is foreseen."""
        given = tool.check(arguments)
        await self._identify(tool, given)
        plan = tool.plan(given)
        try:
            call = next(plan)
            while True:
                call = plan.send(await self._answer(call))
        except StopIteration as done:
            outcome: Outcome = done.value
            return outcome

    async def _identify(self, tool: Tool, given: dict[str, Any]) -> None:
        """Be the agent that the tool is asked by, if it matters which."""
        claimed: str = (given[tool.claims] or "") if tool.claims else ""
        if not claimed and not tool.needs_agent(given):
            return
        async with self._binding:
            mine = self._pinned or self._agent
            if mine and claimed and not same_agent(mine, claimed) and (tool.reads or not self._pinned):
                why = f"set by {ENV_AGENT}" if self._pinned else "by its first call"
                raise ToolError(
                    ACCESS_DENIED,
                    f"This session is the agent {mine}, {why}, and no other.",
                    f"Leave out {tool.claims}, or say {mine}; mail of another agent is for that agent's session.",
                )
            name = mine or claimed
            if not name:
                raise ToolError(
                    VALUE_ERROR,
                    "It is not known which agent you are.",
                    f"Give from_agent or for_agent with your name once, or have {ENV_AGENT} set for this server.",
                )
            if self._agent != name:
                await self._bind(name)
                self._agent = name
        if tool.claims:
            given[tool.claims] = name

    async def _bind(self, name: str) -> None:
        await self._reach()
        try:
            await self._session.bind(name)
        except RefusedError as error:
            raise ToolError(
                ACCESS_DENIED, error.what, error.advice or f"Choose another name for this session ({ENV_AGENT})."
            ) from error
        except TetherError as error:
            raise ToolError(error_name(error), error.what, error.advice) from error

    async def _reach(self) -> None:
        """Have a connection to the daemon, which is started if it may be. Raises ToolError."""
        try:
            try:
                await self._session.connect()
            except NobodyFoundError:
                if not self._start:
                    raise
                await starting.start(self._session.state, self._session.connect)
        except NobodyFoundError as error:
            raise ToolError(NO_DAEMON, error.what, error.advice) from error
        except RefusedError as error:
            raise ToolError(ACCESS_DENIED, error.what, error.advice) from error
        except TetherError as error:
            raise ToolError(error_name(error), error.what, error.advice) from error

    async def _answer(self, call: Call) -> Any:
        await self._reach()
        try:
            async with AsyncExitStack() as files:
                arguments = await self._prepared(call, files)
                try:
                    answer = await self._ask(call, arguments)
                except ConnectionLostError as lost:
                    # Each of these may be asked twice, a message since it has a key. Where the daemon does not come
                    # back, what became of the first is what must be said.
                    try:
                        await self._reach()
                    except TetherError:
                        raise lost from None
                    answer = await self._ask(call, arguments)
                return await self._picked_up(call, arguments, answer)
        except TetherError as error:
            raise ToolError(error_name(error, call), error.what, error.advice) from error

    async def _prepared(self, call: Call, files: AsyncExitStack) -> dict[str, Any]:
        arguments = dict(call.arguments)
        if any(each.name == "key" for each in call.operation.arguments):
            arguments.setdefault("key", secrets.token_hex(16))
        if call.content is not None:
            path = passing.incoming(self._session.state)
            files.callback(path.unlink, missing_ok=True)
            await trio.to_thread.run_sync(passing.lay_down, path, io.BytesIO(call.content), "What was given")
            arguments["path"] = str(path)
        if call.picks_up:
            path = passing.outgoing(self._session.state)
            files.callback(path.unlink, missing_ok=True)
            # The first of two askings may have written it before the daemon ended.
            arguments |= {"out": str(path), "overwrite": True}
        return arguments

    async def _ask(self, call: Call, arguments: dict[str, Any]) -> Any:
        within = call.operation.within or CALL_WITHIN
        if not call.seconds:
            return await self._session.call(call.operation.name, within=within, **arguments)
        # A time-out of the operation is an answer; one of the daemon is not.
        with trio.move_on_after(call.seconds + LATE):
            try:
                return await self._session.call(call.operation.name, within=None, **arguments)
            except TimedOutError:
                return None
        raise silent()

    async def _picked_up(self, call: Call, arguments: Mapping[str, Any], answer: Any) -> Any:
        if call.picks_up:
            return await trio.to_thread.run_sync(passing.pick_up, Path(arguments["out"]), call.most)
        if call.operation.payload and answer["path"]:
            data = await trio.to_thread.run_sync(passing.pick_up, Path(answer["path"]), call.most)
            return {**answer, "json": data.decode(), "path": None}
        return answer
