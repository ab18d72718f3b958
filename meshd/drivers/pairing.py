"""The driver of a pairing: a machine of protocol/pairing.py on the first stream of a QUIC connection."""

import math
import secrets
from collections.abc import Callable
from typing import Final

import trio

from meshd.drivers.exchange import READ_SIZE, exchange
from meshd.drivers.quic import Connection, ConnectionClosedError, Stream, StreamResetError
from meshd.drivers.threads import Offload
from meshd.protocol.binding import Binding
from meshd.protocol.closing import error_for_close
from meshd.protocol.handshake import Role
from meshd.protocol.pairing import PAIRING_DEADLINE, Failed, Paired, Pairing, PakeDue, TryTaken
from meshd.wire.constants import CloseCode

PAKE_SLOTS: Final = 2
"""PAKE computations at once: about 16 ms of CPU each, which strangers may ask for."""


def system_entropy(size: int) -> bytes:
    """Random bytes of the operating system."""
    return secrets.token_bytes(size)


def binding_of(connection: Connection, purpose: str = "pair") -> Binding:
    """What a handshake for this purpose over this connection is bound to."""
    return Binding(certificate_digest=connection.certificate_digest, alpn=connection.alpn, purpose=purpose)


async def pair(
    connection: Connection,
    stream: Stream,
    machine: Pairing,
    slots: trio.CapacityLimiter,
    offload: Offload,
    ending: Callable[[], CloseCode],
) -> Paired | Failed:
    """Run `machine` to its end. On Paired the connection is admitted, on Failed it is closed with the code it names.

    Cancelled, it closes the connection with what `ending` says then.
    """
    try:
        while True:
            match machine.next_event():
                case None:
                    await exchange(stream, machine)
                case PakeDue():
                    with trio.move_on_at(machine.next_deadline() or math.inf):
                        async with slots:
                            result = await offload(machine.compute_pake)
                        machine.pake_computed(result, trio.current_time())
                    machine.on_deadline(trio.current_time())
                case TryTaken():
                    pass
                case Paired() as paired:
                    return await _settle(connection, stream, machine, paired)
                case Failed(code) as failed:
                    connection.close(code, "")
                    return failed
    except trio.Cancelled:
        machine.abort(trio.current_time(), ending())
        connection.close(ending(), "")
        raise


async def _settle(connection: Connection, stream: Stream, machine: Pairing, paired: Paired) -> Paired | Failed:
    """B admits A and says so by ending its half of the stream; A goes no further before it has seen that.

    Without that A's next stream could overtake its CONFIRM, and B would end it as a stranger's second stream.
    """
    try:
        await stream.send_all(machine.data_to_send(trio.current_time()))
        if not connection.is_client:
            connection.admit()
            await stream.send_eof()
            return paired
        last = None
        with trio.move_on_after(PAIRING_DEADLINE):
            last = await stream.receive_some(READ_SIZE)
        if last == b"":
            connection.admit()
            return paired
        code: int | None = CloseCode.TIMED_OUT if last is None else CloseCode.PROTOCOL
        connection.close(CloseCode.PROTOCOL, "")
    except ConnectionClosedError as error:
        code = error.closed.told
    except StreamResetError as error:
        code = error.code
    return Failed(CloseCode.of(code, CloseCode.TIMED_OUT), error_for_close(code, Role.A, at_stake=False), spent=False)
