"""Telling this machine's agents that they have mail, in the way that each was set to: docs/protocol/mail.md, "Wake".

protocol/nudging.py says when, drivers/tmux.py and drivers/hooks.py do it. What is set is this machine's own: it is kept
beside the records, and no member can see or change it.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import attrs
import trio

from meshd.drivers.clocks import Clocks
from meshd.drivers.hooks import Hook, run_hook
from meshd.drivers.storage import Storage
from meshd.drivers.tmux import Pane, look_at_pane, tell_pane
from meshd.errors import RefusedError
from meshd.protocol.nudging import Nudging, Outcome, Tell
from meshd.store.deliveries import Delivery, Method

LOOK_PAUSE: Final = 0.1
"""Seconds between two looks at what is unread: a burst of mail is looked at ten times a second, and not each message."""

AGAIN: Final = 10.0
"""Seconds until what the disk refused is tried again."""

AT_ONCE: Final = 16
"""Agents that are told at once: each costs a few processes, and a hook may take its time."""

TEST_HANDLE: Final = "h&l_messages_000000000000"
"""What a test tells: the handle of no message."""


class Unread(Protocol):
    """A message that an agent has not read."""

    @property
    def hash(self) -> bytes: ...

    @property
    def handle(self) -> str:
        """The short one, `h&l_messages_` and 12 digits."""


class Mail(Protocol):
    """What is asked of the mesh's mail."""

    changed: trio.Event
    """Set, and replaced by a new one, whenever mail or a word about mail was folded."""

    async def local_agents(self) -> Sequence[str]:
        """Names of the agents of this machine that are known or have mail."""

    async def unread(self, agent: str) -> Sequence[Unread]:
        """Oldest first: not closed, not expired, and read by no agent of this name on any machine."""

    async def note_notified(self, agent: str, letters: Sequence[bytes]) -> None:
        """Write that the agent was told of these. Raises RefusedError, StoreError."""


Way = Pane | Hook
TellPane = Callable[[Pane, str, Callable[[], bool]], Awaitable[Outcome]]
"""Pane, handle, whether it is still wanted."""

RunHook = Callable[[Hook, str, str], Awaitable[Outcome]]
"""Hook, agent, handle."""


@attrs.frozen
class Standing:
    """How an agent is told, and how that went."""

    agent: str
    method: Method
    target: str
    """The pane, or the command's first word; empty for none."""

    is_paused: bool
    unread: int
    told_age: float | None
    """Seconds since it was last told; None: not that this run knows of."""

    reminders: int
    last: str
    """What came of the last try; empty if there was none."""


@attrs.define
class _Agent:
    """One that is told of mail, or is paused."""

    name: str
    way: Way | None = None
    method: Method = "none"
    is_paused: bool = False
    last: str = ""
    handles: dict[bytes, str] = attrs.field(factory=dict)
    """Of what is unread, oldest first."""


async def _tell_pane(pane: Pane, handle: str, is_wanted: Callable[[], bool]) -> Outcome:
    return await tell_pane(pane, handle, is_wanted=is_wanted)


class Waking:
    """Made with its mesh; works while `run` does. Agents' names are compared without case."""

    def __init__(
        self,
        mail: Mail,
        storage: Storage,
        clocks: Clocks,
        *,
        tell_pane: TellPane = _tell_pane,
        run_hook: RunHook = run_hook,
    ) -> None:
        """`tell_pane` and `run_hook` are what a test replaces."""
        self.mail = mail
        self._storage, self._clocks = storage, clocks
        self._tell_pane, self._run_hook = tell_pane, run_hook
        self._nudging = Nudging()
        self._agents: dict[str, _Agent] = {}
        self._all_paused = False
        self._loaded = False
        self._loading = trio.Lock()
        self._news = trio.Event()
        self._places = trio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        """Tell who is to be told, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_mail)
            while True:
                news = self._news
                for tell in self._nudging.next_tells(trio.current_time()):
                    nursery.start_soon(self._tell, tell)
                with trio.move_on_at(self._nudging.next_deadline()):
                    await news.wait()

    # Settings. Names are those of agents that are known.

    async def names(self) -> list[str]:
        """Agents of this machine that have mail, or are known, or were set to be told."""
        await self._load()
        found = {each.lower(): each for each in await self.mail.local_agents()}
        return sorted({**{key: each.name for key, each in self._agents.items()}, **found}.values())

    @property
    def all_paused(self) -> bool:
        """Whether nobody is told."""
        return self._all_paused

    async def standing(self, name: str) -> Standing:
        """How it stands with one agent. Raises StoreError."""
        await self._load()
        agent = self._agents.get(name.lower()) or _Agent(name)
        unread = await self.mail.unread(agent.name)
        told = self._nudging.told_at(name.lower())
        return Standing(
            agent.name,
            agent.method,
            _shown(agent.way),
            agent.is_paused,
            len(unread),
            None if told is None else max(0.0, trio.current_time() - told),
            self._nudging.reminders(name.lower()),
            agent.last,
        )

    async def set_way(self, name: str, way: Way | None) -> None:
        """Tell an agent in this way from now on, or with None not at all. Raises RefusedError, StoreError."""
        await self._load()
        method, target = _method_of(way), way.to_json() if way else {}
        kept = await self._storage.write(lambda database: database.deliveries.set_method(name, method, target))
        if not kept:
            raise _too_many()
        agent = self._agents.setdefault(name.lower(), _Agent(name))
        agent.way, agent.method, agent.last = way, method, ""
        if way is None:
            self._nudging.remove(name.lower())
        else:
            self._add(agent)
            await self._look(agent)
        self._poke()

    async def pause(self, name: str | None, paused: bool) -> None:
        """Tell an agent, or with None all of them, nothing, or again. At once, and also after a new start.

        Raises RefusedError, StoreError.
        """
        await self._load()
        if paused:
            self._set_paused(name, True)  # quiet first: the disk may take its time, or refuse
        if not await self._storage.write(lambda database: database.deliveries.pause(name, paused)):
            raise _too_many()
        self._set_paused(name, paused)
        self._poke()

    async def test(self, name: str, *, now: bool) -> Outcome:
        """What a wake would do at this moment; with `now` it is done, with TEST_HANDLE. Raises RefusedError, StoreError."""
        await self._load()
        agent = self._agents.get(name.lower()) or _Agent(name)
        if agent.way is None:
            return Outcome(False, agent.last or "nothing: no way to tell it is set. `tether wait` works all the same")
        if self._all_paused or agent.is_paused:
            return Outcome(False, "nothing: it is paused")
        if now:
            outcome = await self._carry_out(agent, agent.way, TEST_HANDLE, lambda: not self._is_paused(agent))
            agent.last = outcome.what
            return outcome
        if isinstance(agent.way, Hook):
            return Outcome(False, "would run its hook")
        found = await look_at_pane(agent.way)
        what = f"would type into {agent.way.pane}" if found.told else f"nothing just now: {found.what}"
        return Outcome(False, what)

    # The work.

    async def _load(self) -> None:
        async with self._loading:
            if self._loaded:
                return
            rows, self._all_paused = await self._storage.read(
                lambda database: (database.deliveries.all(), database.deliveries.all_paused())
            )
            self._nudging.pause(None, self._all_paused)
            for row in rows:
                agent = _agent_of(row)
                self._agents[row.agent.lower()] = agent
                if agent.way is None:
                    continue
                self._add(agent)
                if row.told_ms is not None:
                    # By the wall, which anybody may set: never in the future, so that a reminder is not put off for ever.
                    age = max(0.0, (self._clocks.wall_ms() - row.told_ms) / 1000)
                    told_at = trio.current_time() - age
                    self._nudging.restore(row.agent.lower(), row.batch, row.reminders, told_at)
            self._loaded = True

    def _add(self, agent: _Agent) -> None:
        self._nudging.add(agent.name.lower())
        self._nudging.pause(agent.name.lower(), agent.is_paused)

    def _set_paused(self, name: str | None, paused: bool) -> None:
        if name is None:
            self._all_paused = paused
            self._nudging.pause(None, paused)
        else:
            self._agents.setdefault(name.lower(), _Agent(name)).is_paused = paused
            self._nudging.pause(name.lower(), paused)

    def _is_paused(self, agent: _Agent) -> bool:
        return self._all_paused or agent.is_paused

    def _poke(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def _follow_mail(self) -> None:
        while True:
            changed = self.mail.changed
            try:
                await self._load()
                for agent in list(self._agents.values()):
                    if agent.way is not None:
                        await self._look(agent)
            except RefusedError:
                await trio.sleep(AGAIN)  # the disk; whoever writes tells people of it
                continue
            self._poke()
            await trio.sleep(LOOK_PAUSE)
            await changed.wait()

    async def _look(self, agent: _Agent) -> None:
        """See what is unread now. Raises StoreError."""
        agent.handles = {each.hash: each.handle for each in await self.mail.unread(agent.name)}
        self._nudging.unread(agent.name.lower(), list(agent.handles))

    async def _tell(self, tell: Tell) -> None:
        outcome = Outcome(False, "not tried to the end")
        agent = self._agents[tell.agent]
        try:
            async with self._places:
                await self._look(agent)  # it may have been read, or have expired, since
                letters = [each for each in tell.letters if each in agent.handles]
                if agent.way is None or not letters or not self._nudging.is_wanted(tell):
                    outcome = Outcome(False, "it is read or paused by now")
                else:
                    handle = agent.handles[letters[0]]
                    outcome = await self._carry_out(agent, agent.way, handle, lambda: self._nudging.is_wanted(tell))
        except RefusedError as error:
            outcome = Outcome(False, error.what)
        finally:
            self._nudging.ended(tell, outcome.told, trio.current_time())
            agent.last = outcome.what
            self._poke()
        if outcome.told:
            await self._note(agent, tell, letters)

    async def _carry_out(self, agent: _Agent, way: Way, handle: str, is_wanted: Callable[[], bool]) -> Outcome:
        if isinstance(way, Pane):
            return await self._tell_pane(way, handle, is_wanted)
        return await self._run_hook(way, agent.name, handle)

    async def _note(self, agent: _Agent, tell: Tell, letters: Sequence[bytes]) -> None:
        now, reminders = self._clocks.wall_ms(), self._nudging.reminders(tell.agent)
        try:
            await self._storage.write(
                lambda database: database.deliveries.told(agent.name, letters, reminders, now_ms=now)
            )
            await self.mail.note_notified(agent.name, letters)
        except RefusedError as error:
            # It was told all the same; only the sender does not see it.
            agent.last = f"{agent.last}, and not noted: {error.what}"


def _agent_of(row: Delivery) -> _Agent:
    agent = _Agent(row.agent, is_paused=row.is_paused)
    try:
        if row.method == "tmux":
            agent.way = Pane.from_json(row.target)
        elif row.method == "exec":
            agent.way = Hook.from_json(row.target)
    except RefusedError as error:
        agent.last = str(error)
        return agent
    agent.method = row.method
    return agent


def _method_of(way: Way | None) -> Method:
    return "none" if way is None else "tmux" if isinstance(way, Pane) else "exec"


def _shown(way: Way | None) -> str:
    return "" if way is None else way.pane if isinstance(way, Pane) else way.argv[0]


def _too_many() -> RefusedError:
    return RefusedError("Too many agents of this machine have settings for this.", "See: tether delivery status.")
