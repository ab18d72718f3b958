"""Peers that do not keep to the rules, made of the project's own parts, for real processes to meet.

They run in this process, each on a trio loop in a thread of its own, so that tests read from top to bottom.
"""

import contextlib
import queue
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import attrs
import trio

from meshd import status
from meshd.drivers import handoff
from meshd.drivers.pairing import binding_of, system_entropy
from meshd.drivers.payload import Source
from meshd.drivers.quic import (
    Connection,
    ConnectionClosedError,
    DialFailedError,
    Endpoint,
    Stream,
    StreamResetError,
    open_endpoint,
)
from meshd.drivers.quic_engine import Engine
from meshd.drivers.tls_identity import TlsIdentity
from meshd.errors import TetherError
from meshd.model.address import Address
from meshd.protocol.admission import Window
from meshd.protocol.handshake import Role
from meshd.protocol.pairing import Pairing, PakeDue
from meshd.protocol.passphrase import read_secret
from meshd.wire.constants import PAIRING_FRAMES, CloseCode, Frame
from meshd.wire.framing import FrameDecoder, encode_frame
from meshd.wire.messages import Profile

LINK_LOST = (ConnectionClosedError, StreamResetError, trio.ClosedResourceError)


@contextlib.contextmanager
def running(service: Callable[..., Awaitable[None]]) -> Iterator[Any]:
    """Run `service(task_status)` until the block ends; yields what it reports as started."""
    started: queue.Queue[Any] = queue.Queue()
    scope = trio.CancelScope()

    async def main() -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                started.put((trio.lowlevel.current_trio_token(), await nursery.start(service)))

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    try:
        token, value = started.get(timeout=20)
        yield value
    finally:
        with contextlib.suppress(trio.RunFinishedError, UnboundLocalError):
            token.run_sync_soon(scope.cancel)
        thread.join(20)


def settings(words: str, port: int, **changes: Any) -> handoff.Settings:
    """A connector's settings, as the command would make them."""
    values: dict[str, Any] = {"engine": Engine(None), "number": None, "label": "stranger", "timeout": 10.0}
    values |= {"secret": read_secret(words).value, "observer": lambda event: None, "peer": Address("127.0.0.1", port)}
    return handoff.Settings(**(values | changes))


@attrs.define
class Ending:
    """How a connector of ours ended: None and 0 for success."""

    error: TetherError | None = None
    events: list[status.Event] = attrs.field(factory=list)

    @property
    def code(self) -> int:
        return self.error.exit_code if self.error else 0


def connect_all(given: list[handoff.Settings], source: Callable[[], Source]) -> list[Ending]:
    """Connect with all of these at the same moment, and wait for their ends."""
    endings = [Ending() for _ in given]

    async def connect(each: handoff.Settings, ending: Ending) -> None:
        try:
            cargo = handoff.Cargo(source(), None)
            outcomes = await handoff.connect(attrs.evolve(each, observer=ending.events.append), cargo)
            if any(outcome.refused for outcome in outcomes):
                ending.error = handoff.RefusedError("some entries")
        except TetherError as error:
            ending.error = error

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for each, ending in zip(given, endings, strict=True):
                nursery.start_soon(connect, each, ending)

    trio.run(main)
    return endings


@attrs.define
class Middle:
    """Ends real QUIC on both sides and hands on every byte of the first stream, and every close."""

    target: int
    port: int = 0
    seen: list[bytes] = attrs.field(factory=list)
    """What came from the connector, in the clear of this place, one connection after another."""

    async def serve(self, task_status: trio.TaskStatus["Middle"]) -> None:
        identity = TlsIdentity.generate()
        async with (
            open_endpoint(engine=Engine(None), identity=identity, accept=True) as front,
            open_endpoint(engine=Engine(None), identity=identity) as back,
            trio.open_nursery() as nursery,
        ):
            self.port = front.port
            task_status.started(self)
            while True:
                nursery.start_soon(self._meet, await front.accept(), back)

    async def _meet(self, near: Connection, back: Endpoint) -> None:
        near.admit()
        try:
            far = await back.dial(Address("127.0.0.1", self.target), timeout=5)
        except DialFailedError:
            near.close(CloseCode.WINDOW_CLOSED, "")
            return
        self.seen.append(b"")
        with contextlib.suppress(*LINK_LOST):
            near_stream, far_stream = await near.accept_stream(), await far.open_stream()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hand_on, near_stream, far_stream, True)
                nursery.start_soon(self._hand_on, far_stream, near_stream, False)
                nursery.start_soon(_close_alike, near, far)
                nursery.start_soon(_close_alike, far, near)

    async def _hand_on(self, source: Stream, target: Stream, is_forward: bool) -> None:
        with contextlib.suppress(*LINK_LOST):
            while data := await source.receive_some():
                if is_forward:
                    self.seen[-1] += data
                await target.send_all(data)


async def _close_alike(one: Connection, other: Connection) -> None:
    other.close((await one.wait_closed()).code, "")


@attrs.define
class Mute:
    """A listener that takes a connector's proof and then says nothing, or only that it is busy."""

    words: str
    answer: CloseCode | None
    proofs: int = 0

    async def serve(self, task_status: trio.TaskStatus[int]) -> None:
        async with open_endpoint(engine=Engine(None), identity=TlsIdentity.generate(), accept=True) as endpoint:
            task_status.started(endpoint.port)
            async with trio.open_nursery() as nursery:
                while True:
                    nursery.start_soon(self._meet, await endpoint.accept())

    async def _meet(self, connection: Connection) -> None:
        machine = Pairing(
            Role.B,
            secret=read_secret(self.words).value,
            binding=binding_of(connection),
            static_private=system_entropy(32),
            profile=Profile(label="", sends=False, receives=True, verify=False),
            window=Window(),
            entropy=system_entropy,
            now=trio.current_time(),
        )
        with contextlib.suppress(*LINK_LOST):
            stream = await connection.accept_stream()
            while data := await stream.receive_some():
                if data[0] == Frame.NOISE:
                    self.proofs += 1
                    if self.answer is not None:
                        connection.close(self.answer, "")
                    await connection.wait_closed()
                    return
                machine.receive_data(data, trio.current_time())
                while event := machine.next_event():
                    assert isinstance(event, PakeDue)
                    machine.pake_computed(machine.compute_pake(), trio.current_time())
                await stream.send_all(machine.data_to_send(trio.current_time()))


def replay_messages(port: int, messages: bytes) -> int:
    """Say what a connector once said on its first stream, each message when its turn comes, over a new connection.

    Returns the code with which the listener closes it.
    """
    frames = FrameDecoder(PAIRING_FRAMES)
    frames.receive(messages)

    async def main() -> int:
        async with open_endpoint(engine=Engine(None), identity=TlsIdentity.generate()) as endpoint:
            connection = await endpoint.dial(Address("127.0.0.1", port), timeout=5)
            with contextlib.suppress(*LINK_LOST):
                stream = await connection.open_stream()
                while frame := frames.next_frame():
                    await stream.send_all(encode_frame(*frame))
                    await stream.receive_some()
            with trio.fail_after(15):
                return (await connection.wait_closed()).code

    return trio.run(main)


@attrs.define
class Recorder:
    """Passes UDP datagrams on between a connector and a listener, and keeps what the connector sent."""

    target: int
    port: int = 0
    sent: list[bytes] = attrs.field(factory=list)
    answered: int = 0

    async def serve(self, task_status: trio.TaskStatus["Recorder"]) -> None:
        with (
            trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as front,
            trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back,
        ):
            await front.bind(("127.0.0.1", 0))
            await back.connect(("127.0.0.1", self.target))
            self.port = front.getsockname()[1]
            task_status.started(self)
            data, client = await front.recvfrom(2048)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._answers, front, back, client)
                while True:
                    self.sent.append(data)
                    await back.send(data)
                    data, _ = await front.recvfrom(2048)

    async def _answers(self, front: Any, back: Any, client: Any) -> None:
        with contextlib.suppress(OSError):
            while True:
                await front.sendto(await back.recv(2048), client)
                self.answered += 1
