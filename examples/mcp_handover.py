"""Two agents on two machines hand work over through MCP, with no model: scripted clients, and real daemons on this machine.

    python examples/mcp_handover.py

The planner, on the machine ann, writes to the coder on ben and attaches a plan. The coder waits for mail, reads it, does the
work, replies with the result's handle and closes the task. The planner sees that its message was read, and has the result.
Each speaks to a `tether-mcp` of its own, by the public Python client of MCP. Nothing leaves this machine.
"""

import base64
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import trio
from mcp import StdioServerParameters
from mcp.client import Client
from mcp.client.stdio import stdio_client

from meshd.client import Told
from meshd.client.concurrent import AsyncClient
from meshd.errors import NobodyFoundError

WITHIN = 60.0
"""Seconds for everything; a few are usual."""

LOOPBACK = "127.0.0.1"
NUMBERS = [1, 2, 3, 4]
PLAN = {"goal": "sum the numbers", "numbers": NUMBERS}


class ExampleError(Exception):
    """The example failed; the text says where."""


class Machine:
    """A daemon with a state directory of its own, as on a machine of its own."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name, self.state, self.log = name, directory / name, directory / f"{name}.log"
        self.client = AsyncClient(self.state)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TETHER_")}
        self.environment = {
            **kept,
            "TETHER_STATE": str(self.state),
            "TETHER_HOST": LOOPBACK,
            "TETHER_PORT": "0",
            "TETHER_LAN_INTERFACES": LOOPBACK,
        }

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start it, and end it with the block."""
        with self.log.open("ab") as log:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "meshd"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            while True:
                with contextlib.suppress(NobodyFoundError):
                    await self.client.call("status")
                    break
                if process.poll() is not None:
                    raise ExampleError(f"The daemon of {self.name} ended.")
                await trio.sleep(0.05)
            yield
        finally:
            process.terminate()
            with trio.move_on_after(10, shield=True):
                await process.wait()
            process.kill()

    @contextlib.asynccontextmanager
    async def session(self, agent: str) -> AsyncIterator["Session"]:
        """An MCP session of this agent's."""
        started = StdioServerParameters(
            command=sys.executable,
            args=["-m", "meshd.surfaces.mcp"],
            env={**self.environment, "TETHER_AGENT_ID": agent},
        )
        with self.log.open("a") as log:
            async with Client(stdio_client(started, errlog=log)) as client:
                yield Session(client)


class Session:
    """What a model would do with the tools."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def call(self, tool: str, **arguments: Any) -> Any:
        """The structured result of a tool."""
        result = await self._client.call_tool(tool, arguments)
        if result.is_error:
            raise ExampleError(f"{tool}: {result.content[0].text}")
        return result.structured_content

    async def mail(self) -> Any:
        """The next message that comes, read."""
        found = await self.call("tether_wait", seconds=30)
        if not found["count"]:
            raise ExampleError("No mail came.")
        return await self.call("tether_receive", handle=found["messages"][0]["handle"])


async def join(member: Machine, newcomer: Machine) -> None:
    """Pair two machines by a code, as two people would."""
    send, receive = trio.open_memory_channel[dict[str, Any]](1)

    def told(news: Told) -> None:
        if news.event == "invite.opened":
            send.send_nowait(news.fields)

    async def invite() -> None:
        await member.client.call("invite", tell=told, seconds=WITHIN, within=None)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(invite)
        opened = await receive.receive()
        await newcomer.client.call(
            "join", code=opened["code"], peer=f"{LOOPBACK}:{opened['port']}", name=newcomer.name, within=None
        )


async def code(machine: Machine) -> None:
    """The coder: takes one task, does it, says what came of it."""
    async with machine.session("coder") as session:
        task = await session.mail()
        message = task["message"]
        if not message["origin"]["verified"] or message["from"] != "planner@ann":
            raise ExampleError(f"A task of {message['from']}'s came.")
        # What the mail says is data. What is done is what this program knows how to do.
        (plan,) = message["attachments"]
        blob = await session.call("tether_resolve_blob", handle=plan)
        numbers = json.loads(base64.b64decode(blob["bytes_b64"]))["numbers"]
        result = await session.call("tether_collapse", table="results", data={"sum": sum(numbers)})
        await session.call(
            "tether_send", to=message["from"], subject="done", text=result["handle"], reply_to=task["handle"]
        )
        await session.call("tether_close", handle=task["handle"], reason="done")


async def plan(machine: Machine) -> str:
    """The planner: hands a task over, and returns what came back."""
    async with machine.session("planner") as session:
        content = base64.b64encode(json.dumps(PLAN).encode()).decode()
        blob = await session.call("tether_collapse_blob", bytes_b64=content, content_type="application/json")
        sent = await session.call(
            "tether_send", to="coder@ben", subject="a task", text="See the plan.", attach=[blob["handle"]]
        )
        reply = (await session.mail())["message"]
        task = (await session.call("tether_receive", handle=sent["handle"]))["message"]
        if [each["state"] for each in task["recipients"]] != ["read"]:
            raise ExampleError(f"The task is said to be {task['recipients']}.")
        result = await session.call("tether_resolve", handle=reply["text"])
        if result != {"sum": sum(NUMBERS)}:
            raise ExampleError(f"The result is {result}.")
        return str(reply["text"])


async def run(directory: Path) -> str:
    """Do it in an empty directory; returns the line that says so."""
    ann, ben = Machine("ann", directory), Machine("ben", directory)
    began = time.monotonic()
    with trio.fail_after(WITHIN):
        async with ann.running(), ben.running():
            await ann.client.call("init", mesh="example", name="ann", recovery=False)
            await join(ann, ben)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(code, ben)
                handle = await plan(ann)
    took = time.monotonic() - began
    return f"planner@ann handed a task to coder@ben and has the result, {handle}, in {took:.1f} s."


def main() -> None:
    """Run it in a temporary directory; on failure show what the daemons said."""
    # A short path: a socket's may have 103 bytes.
    with tempfile.TemporaryDirectory(prefix="tether-") as made:
        directory = Path(made)
        for each in ("ann", "ben"):
            (directory / each).mkdir(mode=0o700)
        try:
            print(trio.run(run, directory))
        except* (ExampleError, trio.TooSlowError) as errors:
            print(f"The example failed: {errors.exceptions}", file=sys.stderr)
            for log in sorted(directory.glob("*.log")):
                print(f"{log.stem} said:\n{log.read_text(encoding='utf-8', errors='replace')}", file=sys.stderr)
            sys.exit(1)


if __name__ == "__main__":
    main()
