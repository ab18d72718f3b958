"""Telling agents of their mail: which letters, once, remembered, paused at once; and the calls that set it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest
import trio

from meshd.drivers.clocks import Clocks
from meshd.drivers.hooks import Hook
from meshd.drivers.storage import open_storage
from meshd.drivers.threads import inline
from meshd.drivers.tmux import Pane
from meshd.errors import NobodyFoundError, RefusedError, StoreError
from meshd.node import waking
from meshd.node.delivery_calls import DeliveryCalls
from meshd.node.waking import TEST_HANDLE, Waking
from meshd.protocol.nudging import Outcome
from meshd.tools.context import Deliveries
from tests.node.waking_kit import FakeMail

A, B, C = (bytes([number]) * 32 for number in (1, 2, 3))
PANE = Pane("/run/tmux.sock", 100, "%1", 200)
HOOK = Hook("/usr/bin/true", ("true",))


class World:
    """What `Waking` does to the world, noted."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        """Pane or agent, and handle."""
        self.outcome = Outcome(True, "typed")
        self.during: Callable[[], Awaitable[object]] | None = None
        self.most_at_once = self._now = 0

    async def tell_pane(self, pane: Pane, handle: str, is_wanted: Callable[[], bool]) -> Outcome:
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            if self.during is not None:
                await self.during()
            await trio.sleep(0.3)
            if not is_wanted():
                return Outcome(False, "it is read or paused by now")
            if self.outcome.told:
                self.told.append((pane.pane, handle))
            return self.outcome
        finally:
            self._now -= 1

    async def run_hook(self, hook: Hook, agent: str, handle: str) -> Outcome:
        await trio.lowlevel.checkpoint()
        self.told.append((agent, handle))
        return self.outcome


class Bench:
    def __init__(self, path: Path) -> None:
        self.path, self.mail, self.world = path, FakeMail(), World()
        self.clocks = Clocks(lambda: int(trio.current_time() * 1000) + 10**12, lambda: 0)
        self.registered: list[str] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Waking]:
        async with open_storage(self.path / "mesh.db", offload=inline) as storage:
            made = Waking(self.mail, storage, self.clocks, tell_pane=self.world.tell_pane, run_hook=self.world.run_hook)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(made.run)
                yield made
                nursery.cancel_scope.cancel()

    def calls(self, made: Waking) -> DeliveryCalls:
        """The context's part, in a node with one mesh."""

        async def register(name: str) -> object:
            self.registered.append(name)
            return SimpleNamespace(agent=SimpleNamespace(name=name))

        agents = SimpleNamespace(register=register)
        mesh = SimpleNamespace(waking=made, agents=agents, name="home", hex="ab" * 32, name_of=lambda node: "tower")
        machine = SimpleNamespace(keys=SimpleNamespace(identity=SimpleNamespace(node=bytes(32))), offload=inline)
        return DeliveryCalls(SimpleNamespace(meshes={b"": mesh}, unopened=[], machine=machine))  # type: ignore[arg-type]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def handle(letter: bytes) -> str:
    return f"h&l_messages_{letter.hex()[:12]}"


async def test_mail_is_told_once_with_the_oldest_handle_and_the_sender_can_see_it(
    bench: Bench, autojump_clock: object
) -> None:
    async with bench.running() as made:
        await made.set_way("codex", PANE)
        bench.mail.arrive("codex", A, B)
        await trio.sleep(2)
        assert bench.world.told == [("%1", handle(A))]
        assert bench.mail.noted == [("codex", (A, B))]
        await trio.sleep(200)
        standing = await made.standing("Codex")
        assert (standing.method, standing.target, standing.unread, standing.reminders) == ("tmux", "%1", 2, 0)
        assert standing.last == "typed" and standing.told_age is not None and 200 <= standing.told_age < 203
        await trio.sleep(3600)
        assert len(bench.world.told) == 4 and (await made.standing("codex")).reminders == 3


async def test_reading_anywhere_ends_it_and_what_comes_later_is_told_anew(bench: Bench, autojump_clock: object) -> None:
    async with bench.running() as made:
        await made.set_way("codex", PANE)
        bench.mail.arrive("codex", A)
        await trio.sleep(1)
        bench.mail.read("codex", A)
        await trio.sleep(3600)
        bench.mail.arrive("codex", B)
        await trio.sleep(1)
        assert bench.world.told == [("%1", handle(A)), ("%1", handle(B))]


async def test_what_is_read_while_it_is_looked_at_is_not_told(bench: Bench, autojump_clock: object) -> None:
    async def read() -> None:
        bench.mail.read("codex", A)
        await trio.sleep(0.2)

    bench.world.during = read
    async with bench.running() as made:
        await made.set_way("codex", PANE)
        bench.mail.arrive("codex", A)
        await trio.sleep(3600)
        assert not bench.world.told and not bench.mail.noted


async def test_what_expired_in_silence_is_not_told(bench: Bench, autojump_clock: object) -> None:
    async with bench.running() as made:
        await made.set_way("codex", PANE)
        bench.world.outcome = Outcome(False, "a draft stands there")
        bench.mail.arrive("codex", A)
        await trio.sleep(100)
        bench.mail.boxes["codex"].clear()  # and nobody says so
        bench.world.outcome = Outcome(True, "typed")
        await trio.sleep(3600)
        assert not bench.world.told


async def test_nothing_without_a_way_and_nothing_while_paused(bench: Bench, autojump_clock: object) -> None:
    async with bench.running() as made:
        bench.mail.arrive("codex", A)
        await trio.sleep(60)
        assert not bench.world.told
        await made.pause(None, True)
        await made.set_way("codex", PANE)
        await trio.sleep(3600)
        await made.pause("codex", True)
        await made.pause(None, False)
        await trio.sleep(3600)
        assert not bench.world.told
        assert (await made.test("codex", now=True)) == Outcome(False, "nothing: it is paused")
    async with bench.running() as made:
        await trio.sleep(3600)
        assert not bench.world.told and (await made.standing("codex")).is_paused, "also after a new start"
        await made.pause("codex", False)
        await trio.sleep(1)
        assert bench.world.told == [("%1", handle(A))]


async def test_a_pause_holds_back_the_try_that_is_under_way(bench: Bench, autojump_clock: object) -> None:
    async with bench.running() as made:

        async def pause() -> None:
            await made.pause("codex", True)

        bench.world.during = pause
        await made.set_way("codex", PANE)
        bench.mail.arrive("codex", A)
        await trio.sleep(60)
        assert not bench.world.told


async def test_a_new_start_remembers_what_was_told_and_how(bench: Bench, autojump_clock: object) -> None:
    async with bench.running() as made:
        await made.set_way("codex", PANE)
        bench.mail.arrive("codex", A)
        await trio.sleep(400)
        assert len(bench.world.told) == 2
    async with bench.running() as made:
        await trio.sleep(100)
        assert len(bench.world.told) == 2
        await trio.sleep(3600)
        assert len(bench.world.told) == 4, "one line and three reminders, over both runs"


async def test_agents_are_told_side_by_side_and_each_one_thing_at_a_time(bench: Bench, autojump_clock: object) -> None:
    async with bench.running() as made:
        for number in range(waking.AT_ONCE + 4):
            bench.mail.arrive(f"agent{number}", A, B)
            await made.set_way(f"agent{number}", attrs.evolve(PANE, pane=f"%{number}"))
        await trio.sleep(2)
        assert bench.world.most_at_once <= waking.AT_ONCE and bench.world.most_at_once > 1
        assert sorted(pane for pane, _ in bench.world.told) == sorted(f"%{n}" for n in range(waking.AT_ONCE + 4))


async def test_a_try_that_failed_is_said_and_made_again(bench: Bench, autojump_clock: object) -> None:
    bench.world.outcome = Outcome(False, "a draft stands there")
    async with bench.running() as made:
        await made.set_way("codex", PANE)
        bench.mail.arrive("codex", A)
        await trio.sleep(1)
        assert (await made.standing("codex")).last == "a draft stands there" and not bench.mail.noted
        bench.world.outcome = Outcome(True, "typed")
        await trio.sleep(10)
        assert bench.world.told == [("%1", handle(A))]


async def test_a_word_that_cannot_be_written_is_said_and_nothing_is_typed_twice(
    bench: Bench, autojump_clock: object
) -> None:
    bench.mail.fault = StoreError("No space is left.", "")
    async with bench.running() as made:
        await made.set_way("codex", PANE)
        bench.mail.arrive("codex", A)
        await trio.sleep(60)
        assert len(bench.world.told) == 1
        assert (await made.standing("codex")).last == "typed, and not noted: No space is left."


async def test_off_is_off(bench: Bench, autojump_clock: object) -> None:
    async with bench.running() as made:
        await made.set_way("codex", PANE)
        await made.set_way("CODEX", None)
        bench.mail.arrive("codex", A)
        await trio.sleep(3600)
        assert not bench.world.told
        assert "no way to tell it" in (await made.test("codex", now=True)).what


async def test_what_the_disk_holds_instead_of_a_pane_is_nothing_that_is_typed_into(
    bench: Bench, autojump_clock: object
) -> None:
    for target in ({"socket": "relative", "server": 5, "pane": "%1", "process": 6}, {"pane": "%1; kill-server"}, [], 7):
        async with open_storage(bench.path / "mesh.db", offload=inline) as storage:
            await storage.write(lambda database, target=target: database.deliveries.set_method("codex", "tmux", target))
        async with bench.running() as made:
            bench.mail.arrive("codex", A)
            await trio.sleep(10)
            standing = await made.standing("codex")
            assert standing.method == "none" and "Register it anew" in standing.last
        assert not bench.world.told


class TestCalls:
    async def test_exec_status_test_pause_off(self, bench: Bench, autojump_clock: object) -> None:
        async with bench.running() as made:
            calls = bench.calls(made)
            found = await calls.delivery_exec(mesh=None, agent="codex", argv=("true", "-x"))
            assert isinstance(found, Deliveries) and not found.paused
            (row,) = found.agents
            assert (row.agent.name, row.agent.machine.name) == ("codex", "tower")
            assert (row.method, row.target, row.unread, row.last_told_age) == ("exec", "true", 0, None)
            tested = await calls.delivery_test(mesh=None, agent="codex", now=False)
            assert (tested.told, tested.what) == (False, "would run its hook") and not bench.world.told
            tested = await calls.delivery_test(mesh=None, agent="codex", now=True)
            assert tested.told and bench.world.told == [("codex", TEST_HANDLE)]
            assert (await calls.delivery_pause(mesh=None, agent=None)).paused
            assert (await calls.delivery_status(mesh=None, agent=None)).paused
            assert not (await calls.delivery_resume(mesh=None, agent=None)).paused
            assert (await calls.delivery_pause(mesh=None, agent="codex")).agents[0].paused
            assert (await calls.delivery_off(mesh=None, agent="codex")).agents[0].method == "none"

    async def test_an_agent_that_nobody_knows_is_refused(self, bench: Bench, autojump_clock: object) -> None:
        async with bench.running() as made:
            calls = bench.calls(made)
            with pytest.raises(NobodyFoundError, match="tether agent register nobody"):
                await calls.delivery_test(mesh=None, agent="nobody", now=True)
            with pytest.raises(RefusedError):
                await calls.delivery_exec(mesh=None, agent="nobody", argv=("no-such-program-here",))
            assert not bench.registered, "what was refused makes nobody known"
            await calls.delivery_exec(mesh=None, agent="nobody", argv=("true",))
            assert bench.registered == ["nobody"], "who says how an agent is told means that there is one"

    async def test_a_hook_that_is_not_there_is_refused(self, bench: Bench, autojump_clock: object) -> None:
        async with bench.running() as made:
            for argv in (("no-such-program-here",), (), ("./relative",), ("true",) * 65, ("true", "x" * 9000)):
                with pytest.raises(RefusedError):
                    await bench.calls(made).delivery_exec(mesh=None, agent="codex", argv=argv)

    async def test_a_pane_outside_of_tmux_is_refused(self, bench: Bench, autojump_clock: object) -> None:
        async with bench.running() as made:
            for socket, pane in ((None, None), ("/no/such/socket,1,0", "%1"), ("/dev/null,1,0", "%1"), ("x", "%1")):
                with pytest.raises(RefusedError):
                    await bench.calls(made).delivery_tmux(mesh=None, agent="codex", socket=socket, pane=pane)
            assert (await made.standing("codex")).method == "none"
