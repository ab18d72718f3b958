"""One round between a machine of protocol/ and the stream that carries it."""

import math
from typing import Final, Protocol

import trio

from meshd.drivers.quic import ConnectionClosedError, Stream, StreamResetError

READ_SIZE: Final = 16 * 1024
"""Most bytes taken at once; the driver below admits no more than this in all before authentication."""


class Machine(Protocol):
    """What a round needs of a machine (docs/tour.md, "The shape of a machine")."""

    def receive_data(self, data: bytes, now: float) -> None: ...

    def data_to_send(self, now: float) -> bytes: ...

    def next_deadline(self) -> float | None: ...

    def on_deadline(self, now: float) -> None: ...

    def connection_lost(self, now: float, code: int | None = None) -> None: ...


async def exchange(stream: Stream, machine: Machine, read_size: int = READ_SIZE) -> None:
    """Send what is due, then take what comes, until the deadline. The end of the stream is told as a lost connection."""
    received = None
    try:
        # Over both: a peer that does not read must not hold us either.
        with trio.move_on_at(machine.next_deadline() or math.inf):
            await send_due(stream, machine)
            received = await stream.receive_some(read_size)
    except ConnectionClosedError as error:
        machine.connection_lost(trio.current_time(), error.closed.told)
    except StreamResetError as error:
        machine.connection_lost(trio.current_time(), error.code)
    else:
        if received is None:
            machine.on_deadline(trio.current_time())
        elif received:
            machine.receive_data(received, trio.current_time())
        else:
            machine.connection_lost(trio.current_time())


async def send_due(stream: Stream, machine: Machine) -> None:
    """Send what is due. Raises ConnectionClosedError or StreamResetError."""
    data = machine.data_to_send(trio.current_time())
    if data:
        await stream.send_all(data)
