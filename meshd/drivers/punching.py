"""Punches from the one socket of a machine: runs the machines of protocol/punching.py. docs/protocol/traversal.md."""

import random
from collections.abc import Callable, Iterable
from typing import Final

import attrs
import trio

from meshd.drivers.quic import Endpoint
from meshd.drivers.udp import SocketAddress
from meshd.errors import RefusedError
from meshd.model.address import Address
from meshd.protocol.punching import Ended, Opened, Pacer, Punch
from meshd.wire.rendezvous import Side

RUNS_LIMIT: Final = 64
"""Matches at a time: each member that is looked for has two at most, and the rates are shared anyway."""


@attrs.frozen
class Outcome:
    """How a match ended that led to no link."""

    heard: bool
    sent: int


@attrs.define(eq=False)
class _Run:
    machine: Punch
    wake: trio.Event = attrs.field(factory=trio.Event)


class Puncher:
    """One for each endpoint; takes its datagrams that are no QUIC."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._pacer = Pacer()
        self._runs: set[_Run] = set()
        endpoint.on_datagram = self._receive

    @property
    def has_room(self) -> bool:
        """Whether another match can be punched for."""
        return len(self._runs) < RUNS_LIMIT

    async def punch(
        self,
        key: bytes,
        side: Side,
        candidates: Iterable[Address],
        *,
        after: float,
        loopback: bool,
        opened: Callable[[Opened], None],
    ) -> Outcome:
        """Begin `after` seconds from now, call `opened` for each path that opens, and return when all attempts are over.

        Whoever gets a link meanwhile cancels this. Raises RefusedError beyond RUNS_LIMIT.
        """
        if not self.has_room:
            raise RefusedError("Too many machines are looked for at once.")
        machine = Punch(
            key,
            side,
            [each for each in candidates if self._endpoint.can_reach(each.host)],
            now=trio.current_time() + after,
            pacer=self._pacer,
            # Spacing need not be unforeseeable: nobody gains by knowing when the next comes.
            chance=random.random,
            loopback=loopback,
        )
        run = _Run(machine)
        self._runs.add(run)
        try:
            while True:
                run.wake = trio.Event()
                for data, address in machine.datagrams_to_send(trio.current_time()):
                    self._endpoint.send_datagram(data, (address.host, address.port))
                while (event := machine.next_event()) is not None:
                    if isinstance(event, Ended):
                        return Outcome(event.heard, machine.sent)
                    opened(event)
                deadline = machine.next_deadline()
                with trio.move_on_at(float("inf") if deadline is None else deadline):
                    await run.wake.wait()
        finally:
            self._runs.discard(run)

    def _receive(self, data: bytes, source: SocketAddress) -> None:
        for run in self._runs:
            if run.machine.is_ours(data):
                run.machine.receive_datagram(data, Address(*source), trio.current_time())
                run.wake.set()
                return
