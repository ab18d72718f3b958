"""Asks the router to let others in at our UDP port, and takes that back at the end.

docs/protocol/traversal.md, "Mappings on request"; UPnP-IGD alone: docs/decisions/0014. Whatever calls itself a router is a
stranger: what it says is bounded, checked, and believed no further than that an address of its making is a candidate.
"""

import json
import os
import random
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Literal, Never

import attrs
import trio

from meshd.drivers import igd
from meshd.drivers.ssdp import Router, find_routers, private_interfaces
from meshd.model.address import Address
from meshd.notices import Notify, PortMapped, PortUnmapped

LEASE: Final = 7200
"""Seconds that a mapping is asked for: a machine that was switched off leaves it no longer. Renewed at half of that."""

LEASE_FLOOR: Final = 120
"""Seconds that a mapping is taken to last at least: a router that says less is not asked more often than each minute."""

AGAIN: Final = (60.0, 3600.0)
"""Seconds after a look that led to no mapping before the next, doubled each time up to the second. Most routers that
have it do not turn it off, and most networks without it never get it."""

SETTLE: Final = 5.0
"""Seconds between two looks at least, however often the network changes."""

ANSWER: Final = 15.0
"""Seconds for one conversation with a router: five requests of a second or two by a slow one."""

WITHDRAW: Final = 4.0
"""Seconds for taking the mapping back at the end: a person waits for that. The lease does it where this does not."""

OTHERS: Final = 3
"""Public ports to try besides our own, when that is taken."""

NO_ROUTER: Final = "no router here offers it (UPnP)"
NO_ANSWER: Final = "the router did not answer, or not in a form that can be read"
MISSING: Final = "miniupnpc is not installed: pip install 'tether-mesh[port-mapping]', which may need a C compiler"


@attrs.frozen
class Mapped:
    """Who sends to this public address reaches our port."""

    address: Address
    lease: int
    """Seconds, 0 for a router that knows no end."""


@attrs.frozen
class NotMapped:
    """That it does not, and why."""

    why: str
    for_ever: bool = False
    """Nothing on the network changes that."""


Task = Literal["map", "unmap"]
Ask = Callable[[Task, Router, int, int, Sequence[int]], Awaitable[Mapped | NotMapped]]
"""Task, router, our port, lease, public ports: one conversation with a router. Bounded in time, and never raises for
anything that a router does."""

Find = Callable[[], Awaitable[Sequence[Router]]]
"""One search, bounded in time."""


@attrs.define(eq=False)
class PortMapping:
    """Keeps our UDP port mapped while it is `run`.

    Start it only where somebody is to come from the internet, which is where a rendezvous server is configured, and
    `port_mapping` is on: it sends multicast and speaks to the router. A daemon in a test, or of a LAN, has no server and
    leaves the network alone. Nothing of it is loaded or open between two looks.

    `on_change` gets the address that the router opened, or None; each time that this is another. Only an address that the
    whole internet can send to counts: with another the router is behind a second one, or a carrier's. It is not called at
    the end. `host` is what the port is bound to, empty for all addresses. `find` and `ask` are what a test replaces.
    """

    port: int
    on_change: Callable[[Address | None], None]
    notify: Notify = lambda _: None
    host: str = ""
    find: Find | None = None
    ask: Ask | None = None
    lease: int = LEASE
    _address: Address | None = attrs.field(init=False, default=None)
    _told: object = attrs.field(init=False, default=None)
    _claim: tuple[Router, tuple[int, ...]] | None = attrs.field(init=False, default=None)
    """What a router may have opened: what it said, or what it is being asked."""
    _changed: trio.Event = attrs.field(init=False, factory=trio.Event)

    def network_changed(self) -> None:
        """Look again: our addresses are others, or a server sees us at another one. Never waits."""
        self._changed.set()

    async def run(self) -> Never:
        """Ask, and renew, for ever; when cancelled take it back, which takes `WITHDRAW` seconds at most.

        Never raises for what a router does, nor for one that is not there.
        """
        again, longest = AGAIN
        try:
            while True:
                afresh, self._changed = self._changed.is_set(), trio.Event()
                answer = await self._look(afresh)
                self._tell(answer)
                if isinstance(answer, Mapped):
                    again, pause = AGAIN[0], max(answer.lease or self.lease, LEASE_FLOOR) / 2
                elif answer.for_ever:
                    await trio.sleep_forever()
                else:
                    pause, again = (AGAIN[0], 2 * AGAIN[0]) if afresh else (again, min(2 * again, longest))
                await trio.sleep(SETTLE)
                with trio.move_on_after(pause):
                    await self._changed.wait()
        finally:
            with trio.move_on_after(WITHDRAW, shield=True):
                await self._withdraw()

    async def _look(self, afresh: bool) -> Mapped | NotMapped:
        """Renew at the router that we have; where there is none, or it fails, or the network is another, find one."""
        if self._claim is not None and not afresh:
            answer = await self._map(self._claim[0])
            if isinstance(answer, Mapped):
                return answer
        routers = sorted(await self._find(), key=lambda router: self._claim is None or router != self._claim[0])
        if self._claim is not None and self._claim[0] not in routers:
            with trio.move_on_after(WITHDRAW):
                await self._withdraw()  # from another network that does not reach; one more address here that does
        result = NotMapped(NO_ROUTER)
        for router in routers:
            answer = await self._map(router)
            if isinstance(answer, Mapped):
                return answer
            result = answer
        return result

    async def _map(self, router: Router) -> Mapped | NotMapped:
        first = self._address.port if self._address is not None else self.port
        others = random.sample(range(49_152, 65_536), OTHERS)  # nobody guards these: they are to be free, no secret
        self._claim = router, (first, *(each for each in others if each != first))
        answer = await self._ask("map", router, self._claim[1])
        self._claim = (router, (answer.address.port,)) if isinstance(answer, Mapped) else None
        return answer

    async def _withdraw(self) -> None:
        if self._claim is not None:
            await self._ask("unmap", *self._claim)
            self._claim = None

    async def _find(self) -> Sequence[Router]:
        return await (self.find() if self.find else find_routers(lambda: private_interfaces(self.host)))

    async def _ask(self, task: Task, router: Router, publics: Sequence[int]) -> Mapped | NotMapped:
        return await (self.ask or ask_router)(task, router, self.port, self.lease, publics)

    def _tell(self, answer: Mapped | NotMapped) -> None:
        address = answer.address if isinstance(answer, Mapped) else None
        if address != self._address:
            self._address = address
            self.on_change(address)
        notice = PortMapped(str(address)) if isinstance(answer, Mapped) else PortUnmapped(answer.why)
        if notice != self._told:
            self._told = notice
            self.notify(notice)


async def ask_router(task: Task, router: Router, port: int, lease: int, publics: Sequence[int]) -> Mapped | NotMapped:
    """One conversation, in a process of its own (igd.py says why), which is gone at the end of this, also by cancellation."""
    arguments = [task, router.url, router.host, str(port), str(lease), *map(str, publics)]
    # No folder of the person's in the path of imports, and no passphrase in the environment, of what strangers speak to.
    command = [sys.executable, "-P", "-m", igd.__name__, *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TETHER_")}
    try:
        with trio.fail_after(ANSWER):
            done = await trio.run_process(
                command,
                stdin=subprocess.DEVNULL,
                capture_stdout=True,
                stderr=subprocess.DEVNULL,  # the library's word on each refused connection
                check=False,
                env=environment,
                start_new_session=True,  # an interrupt from the terminal is ours to act on, by withdrawing
            )
    except (OSError, trio.TooSlowError):
        return NotMapped(NO_ANSWER)
    return read_answer(done.stdout, publics)


def read_answer(line: bytes, publics: Sequence[int]) -> Mapped | NotMapped:
    """What the process said: words of the router's, in the end."""
    try:
        answer: Any = json.loads(line)
    except (ValueError, RecursionError):
        return NotMapped(NO_ANSWER)
    match answer:
        case ["mapped", str(host), int(public), int(lease)] if igd.is_public(host) and public in publics and lease >= 0:
            return Mapped(Address(host, public), lease)
        case ["private", str(host)]:
            return NotMapped(
                f"the router is behind another, or a carrier's: its own address is {host[:40] or 'not told'}"
            )
        case ["gone"]:
            return NotMapped("taken back")
        case ["failed", str(why)]:
            return NotMapped(f"the router refused: {why:.100}")
        case ["missing"]:
            return NotMapped(MISSING, for_ever=True)
    return NotMapped(NO_ANSWER)
