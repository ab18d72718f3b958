"""Whole handoffs on the simulated network: discovery aside, the code that runs is the one that `tether_lite` runs."""

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import attrs
import trio
from blake3 import blake3

from meshd import status
from meshd.drivers import handoff, payload
from meshd.drivers.meeting import Settings
from meshd.drivers.threads import inline
from meshd.errors import TetherError
from meshd.model.address import DEFAULT_PORT, Address
from meshd.model.entry import Entry, EntryKind
from tests.drivers.pairs import PAIRS, engine
from tests.sim.network import Network, run, simulated

VIRTUAL_LIMIT = 600.0
"""Virtual seconds after which a run counts as hung: every deadline of the protocol is far below."""


class MemorySource:
    """One stream, from memory."""

    may_block = False

    def __init__(self, data: bytes) -> None:
        self._data, self._at, self._began, self._over = data, 0, False, False

    def scan(self) -> payload.Survey:
        return payload.Survey(1, None)

    def pieces(self, budget: int) -> list[payload.Piece]:
        if not self._began:
            self._began = True
            return [payload.Began(Entry(("stdin",), EntryKind.FILE, None, False, 0))]
        part = self._data[self._at : self._at + min(budget, 64 * 1024)]
        self._at += len(part)
        if part:
            return [payload.Content(part)]
        if self._over:
            return []
        self._over = True
        return [payload.Ended(blake3(self._data).digest())]

    def skip(self, path: tuple[str, ...]) -> None:
        self._at = len(self._data)

    def close(self) -> None:
        pass


class MemorySink:
    """Keeps one stream in memory; `stored` is None until all of it was verified."""

    may_block = False

    def __init__(self) -> None:
        self._data = bytearray()
        self.stored: bytes | None = None

    def prepare(self, size: int | None) -> None:
        pass

    def begin(self, entry: Entry) -> str | None:
        return None

    def write(self, chunk: bytes) -> str | None:
        self._data += chunk
        return None

    def end(self, digest: bytes) -> str | None:
        return None if blake3(self._data).digest() == digest else "its content is not what was declared"

    def abandon(self) -> None:
        self._data.clear()

    def finish(self) -> payload.Report:
        self.stored = bytes(self._data)
        return payload.Report(entries=1, size=len(self.stored))

    def discard(self) -> None:
        self._data.clear()


@attrs.define
class Result:
    """How both sides of one handoff ended: None for success (exit 0), else the error that the person sees."""

    seed: int
    engines: tuple[str, str]
    sent: bytes
    sender: TetherError | None = None
    receiver: TetherError | None = None
    stored: bytes | None = None
    virtual_seconds: float = 0.0

    @property
    def complete(self) -> bool:
        return self.sender is None and self.receiver is None

    def check(self) -> None:
        """What must hold at any loss: stated errors only, right bytes, and no sender's 0 without the receiver's."""
        note = f"seed {self.seed}, {'-'.join(self.engines)}: sender {self.sender!r}, receiver {self.receiver!r}"
        if self.receiver is None:
            assert self.stored == self.sent, f"wrong bytes: {note}"
        if self.sender is None:
            assert self.receiver is None, f"the sender succeeded alone: {note}"
        for error in (self.sender, self.receiver):
            assert error is None or (error.what and error.exit_code in (3, 4, 5, 6)), f"no stated error: {note}"


@asynccontextmanager
async def silently(port: int, number: int | None, interfaces: Sequence[str]) -> AsyncIterator[None]:
    """An announcement that nobody hears: the simulated network has no multicast."""
    yield


def settings(**changes: object) -> Settings:
    """Settings for one side; the secret is the same wherever nothing else is said."""
    values: dict[str, object] = {
        "secret": b"crystal-nuclear-tango",
        "number": None,
        "label": "sim",
        "timeout": 30.0,
        "observer": ignore,
        "announce": silently,
        "offload": inline,
    }
    return Settings(**{**values, **changes})  # type: ignore[arg-type]


def ignore(event: status.Event) -> None:
    """An observer that looks away."""


def run_handoff(seed: int, size: int, prepare: Callable[[Network], None] | None = None, **link: float) -> Result:
    """Hand `size` random bytes from connector to listener over links with these faults. The seed picks the engines."""
    pair = PAIRS[seed % len(PAIRS)]
    result = Result(seed, pair, random.Random(seed).randbytes(size))

    async def main() -> None:
        async with simulated(seed, **link) as network:
            alice, bob = network.host("alice"), network.host("bob")
            if prepare is not None:
                prepare(network)
            sink = MemorySink()

            async def listen() -> None:
                try:
                    await handoff.listen(settings(engine=engine(pair[1])), handoff.Cargo(None, sink))
                    result.stored = sink.stored
                except TetherError as error:
                    result.receiver = error

            async def connect() -> None:
                peer = Address(bob.address, DEFAULT_PORT)
                try:
                    cargo = handoff.Cargo(MemorySource(result.sent), None)
                    await handoff.connect(settings(engine=engine(pair[0]), peer=peer), cargo)
                except TetherError as error:
                    result.sender = error

            with trio.fail_after(VIRTUAL_LIMIT):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(bob.run, listen)
                    nursery.start_soon(alice.run, connect)
            result.virtual_seconds = trio.current_time()

    run(main)
    return result
