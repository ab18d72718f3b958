"""Rendezvous servers on public machines of the lab's internet, and daemons that find each other by them.

with meeting(wan, tmp_path) as servers:
    programs.listen(*servers.options)
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests.daemons import Daemon, all_linked, join
from tests.e2e.rendezvous_kit import Process
from tests.lab.nat import Machine, Wan

PORT = 4440
"""UDP port of each server: its own machine has no other."""


@attrs.frozen
class Server:
    """One server, on a machine that does nothing else: what crosses its interface is the server's."""

    machine: Machine
    process: Process

    @property
    def name(self) -> str:
        """As clients name it."""
        return f"{self.machine.address}:{PORT}"

    def start(self) -> None:
        """Serve, from now or again; on all its addresses."""
        self.process.start("--port", str(PORT))

    def kill(self) -> None:
        """`kill -9`; it is gone when this returns."""
        assert self.process.process is not None
        self.process.process.kill()
        self.process.process.wait()

    def crossed(self) -> int:
        """Bytes that its interface received and sent so far."""
        counters = self.machine.counters()
        return counters.rx_bytes + counters.tx_bytes


@attrs.frozen
class Meeting:
    """Servers, as clients are told of them."""

    servers: tuple[Server, ...]

    @property
    def options(self) -> tuple[str, ...]:
        """For the pairing commands."""
        return ("--wan", *(word for each in self.servers for word in ("--rendezvous", each.name)))

    @property
    def environment(self) -> dict[str, str]:
        """For daemons. Routers here open no ports, and need not be asked."""
        return {"TETHER_RENDEZVOUS": ",".join(each.name for each in self.servers), "TETHER_PORT_MAPPING": "0"}


@contextlib.contextmanager
def meeting(wan: Wan, directory: Path, count: int = 2, *, v6: bool = False) -> Iterator[Meeting]:
    """Servers that run while the block does. Two show a client how its router maps."""
    with contextlib.ExitStack() as stack:
        made = []
        for number in range(count):
            machine = wan.public(f"server{number}", v6=v6)
            process = Process(directory / f"server{number}", prefix=machine.prefix, host="::")
            stack.callback(process.close)
            made.append(Server(machine, process))
            made[-1].start()
        yield Meeting(tuple(made))


def founded(*these: Daemon, within: float = 40.0) -> None:
    """One mesh of these, which the first founds and the others join by a number of a rendezvous server's."""
    first, *others = these
    first.tether("init", "--mesh", "home")
    for each in others:
        join(first, each, wan=True)
    for each in others:
        all_linked(first, each, within=within)
