"""`tether demo`: three daemons on this machine become a mesh, lose one, and heal, and every step is checked.

It drives real daemons, each with a temporary directory of its own, through the client that any program may use. Nothing
of this user's own mesh is touched, and nothing leaves this machine: the daemons listen on 127.0.0.1 only.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import click
import trio

from meshd import config
from meshd.client import Told
from meshd.client.concurrent import AsyncClient
from meshd.errors import ConnectionLostError, NobodyFoundError, TimedOutError
from meshd.surfaces import render

ALL_WITHIN: Final = 120.0
"""Seconds for the whole; about ten are usual."""

STEP_WITHIN: Final = 40.0
"""Seconds for one step on a busy machine."""

BLOB_SIZE: Final = 5 * (1 << 20) + 17

_ASK_EVERY: Final = 0.1
_LOOPBACK: Final = "127.0.0.1"
_OWN_SETTINGS: Final = tuple(rule.env for rule in config.RULES)

Say = Callable[[str], None]


class _Machine:
    """One daemon, as it could run on a machine of its own."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.state = directory / name
        self.log = directory / f"{name}.log"
        self.process: trio.Process | None = None
        self._client = AsyncClient(self.state)

    async def start(self) -> None:
        self.state.mkdir(mode=0o700, exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if name not in _OWN_SETTINGS}
        environment = {
            **kept,
            config.ENV_STATE: str(self.state),
            "TETHER_HOST": _LOOPBACK,
            "TETHER_PORT": "0",
            config.ENV_LAN_INTERFACES: _LOOPBACK,
        }
        environment.pop("NOTIFY_SOCKET", None)  # a service manager that waits for us would take it for us
        with self.log.open("ab") as log:
            self.process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "meshd"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        await self.eventually(self._is_up, "starts")

    async def _is_up(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise ConnectionLostError(f"The daemon of {self.name} ended by itself.", self.last_words())
        try:
            await self.call("status", within=STEP_WITHIN)
        except NobodyFoundError:
            return False
        return True

    async def call(self, operation: str, **arguments: Any) -> Any:
        return await self._client.call(operation, **{"within": STEP_WITHIN, **arguments})

    async def eventually(self, holds: Callable[[], Awaitable[bool]], what: str) -> None:
        """Ask until it is so."""
        with trio.move_on_after(STEP_WITHIN):
            while True:
                if await holds():
                    return
                await trio.sleep(_ASK_EVERY)
        raise TimedOutError(f"{self.name}: not within {STEP_WITHIN:g} s: it {what}.", self.last_words())

    async def kill(self) -> None:
        """As a power cut would."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            await self.process.wait()

    def last_words(self) -> str:
        """The last line of its log, which mostly says why."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            return ""
        return next((line for line in reversed(lines) if line.strip()), "")


async def _join(member: _Machine, newcomer: _Machine) -> None:
    """Pair two machines by a code, as two people would."""
    send, receive = trio.open_memory_channel[dict[str, Any]](1)

    def told(news: Told) -> None:
        if news.event == "invite.opened":
            send.send_nowait(news.fields)

    async with trio.open_nursery() as nursery:

        async def invite() -> None:
            await member.call("invite", tell=told, seconds=STEP_WITHIN, within=None)

        nursery.start_soon(invite)
        opened = await receive.receive()
        await newcomer.call(
            "join", code=opened["code"], peer=f"{_LOOPBACK}:{opened['port']}", name=newcomer.name, within=None
        )


async def _agree(machines: list[_Machine], what: str) -> str:
    """Wait until every view is the same on all of them, and return their common digest."""
    found: list[str] = []

    async def equal() -> bool:
        found[:] = [json.dumps((await each.call("digest"))["views"]) for each in machines]
        return len(set(found)) == 1

    await machines[0].eventually(equal, what)
    return str(json.loads(found[0])[0]["digest"])


async def _resolves(machine: _Machine, handle: str, value: object) -> None:
    async def same() -> bool:
        try:
            return bool(json.loads((await machine.call("resolve", handle=handle, wait=1.0))["json"]) == value)
        except (NobodyFoundError, TimedOutError):
            return False  # the news is on its way

    await machine.eventually(same, f"resolves {handle}")


async def _story(ann: _Machine, ben: _Machine, cleo: _Machine, directory: Path, say: Say) -> None:
    for each in (ann, ben, cleo):
        await each.start()
    say("three daemons are up")
    await ann.call("init", mesh="demo", name=ann.name, recovery=False)
    await _join(ann, ben)
    await _join(ann, cleo)
    await _agree([ann, ben, cleo], "knows the same members")
    say("ann founded a mesh; ben and cleo joined it by a code")

    plan = {"title": "demo", "steps": [1, 2, 3]}
    handle = (await ann.call("collapse", json=json.dumps(plan), table="plans"))["handle"]
    for each in (ben, cleo):
        await _resolves(each, handle, plan)
    say(f"ann's value {handle} resolves on ben and cleo")

    content = secrets.token_bytes(BLOB_SIZE)
    source, copy = directory / "source", directory / "copy"
    source.write_bytes(content)
    blob = (await ann.call("put", path=str(source), machines=[ben.name], wait=STEP_WITHIN, within=None))["full"]
    await ann.kill()
    say("ben holds a file of ann's; ann is gone (kill -9)")

    await cleo.call("get", handle=blob, out=str(copy), wait=STEP_WITHIN, within=None)
    if copy.read_bytes() != content:
        raise ConnectionLostError("The file that came is not the one that went.")
    late = {"written": "while ann was away"}
    second = (await ben.call("collapse", json=json.dumps(late)))["handle"]
    await _resolves(cleo, second, late)
    say("cleo got the file from ben, byte for byte, and both went on without ann")

    await ann.start()
    await _resolves(ann, second, late)
    await _agree([ann, ben, cleo], "has healed")
    say("ann is back and has what it missed")


@contextlib.asynccontextmanager
async def _machines(directory: Path) -> AsyncIterator[list[_Machine]]:
    made = [_Machine(name, directory) for name in ("ann", "ben", "cleo")]
    try:
        yield made
    finally:
        with trio.CancelScope(shield=True):  # a killed process ends at once
            for each in made:
                await each.kill()


async def _run(directory: Path, say: Say) -> None:
    with trio.move_on_after(ALL_WITHIN):
        async with _machines(directory) as (ann, ben, cleo):
            await _story(ann, ben, cleo, directory, say)
            return
    raise TimedOutError(f"The demo took more than {ALL_WITHIN:g} s.")


def _demo(verbose: bool, keep: bool) -> None:
    started = time.monotonic()
    # A short path: a socket's may have 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="tether-demo-"))
    say: Say = (lambda line: click.echo(f"- {line}", err=True)) if verbose else lambda _: None
    try:
        trio.run(_run, directory, say)
    except BaseExceptionGroup as group:
        raise _first(group) from group
    finally:
        if keep:
            click.echo(f"Kept {directory}", err=True)
        else:
            shutil.rmtree(directory, ignore_errors=True)
    click.echo(
        f"OK: three machines paired, shared values and a file, lost one, and healed, in {time.monotonic() - started:.1f} s."
    )


def _first(error: BaseException) -> BaseException:
    """The one that a person can act on: nurseries of one task each have nothing else to tell."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


demo = click.Command(
    "demo",
    params=[
        click.Option(["--verbose", "-v"], is_flag=True, help="Say what is done, step by step."),
        click.Option(["--keep"], is_flag=True, help="Keep the temporary directory with states and logs."),
    ],
    callback=_demo,
    help="Try it: three daemons on this machine pair, replicate, lose one, heal. Your own mesh is not touched.",
    epilog=render.EXIT_CODES_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
)
