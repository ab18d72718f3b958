"""The drivers of joining: after pairing, one side admits and the other enters. docs/protocol/pairing.md, "Joining a mesh"."""

from collections.abc import Sequence
from functools import partial
from typing import Final, Literal, Protocol

import attrs
import trio

from meshd import status
from meshd.drivers.door import PING, SILENCE, Door, Met, Pairings
from meshd.drivers.exchange import exchange, send_due
from meshd.drivers.link_streams import Purpose, open_frame, read_purpose
from meshd.drivers.meeting import Seeker, Settings
from meshd.drivers.quic import Connection, ConnectionClosedError, Endpoint, Stream, StreamResetError
from meshd.drivers.reception import Reception
from meshd.drivers.threads import Offload, in_thread
from meshd.errors import ConnectionLostError, LocalProtocolError, RemoteProtocolError, TetherError
from meshd.model.address import Address
from meshd.model.facts import Admit
from meshd.model.identity import Identity, Keys
from meshd.protocol.closing import other_purpose
from meshd.protocol.handshake import Role
from meshd.protocol.joining import (
    JOINING_DEADLINE,
    Admitting,
    Asked,
    Consented,
    Entering,
    Event,
    Failed,
    Joined,
    Offered,
    Welcomed,
    error_for_end,
)
from meshd.protocol.welcome import Roll, check_roll
from meshd.wire.constants import CloseCode
from meshd.wire.joining import MeshSecret
from meshd.wire.messages import Profile

READ_SIZE: Final = 256 * 1024
"""Most bytes taken at once of a roster."""

FAREWELL: Final = 5.0
"""Seconds for the peer to take the last words of this side and close."""


@attrs.frozen
class Given:
    """What a newcomer is given: the secrets in use, and all roster records, encoded, its own admission among them."""

    secrets: Sequence[MeshSecret] = attrs.field(repr=False)
    records: Sequence[bytes] = attrs.field(repr=False)


class Host(Protocol):
    """The mesh that admits."""

    @property
    def mesh(self) -> bytes:
        """Mesh id, 32 bytes."""

    @property
    def mesh_name(self) -> str: ...

    def name_for(self, newcomer: Identity, wanted: str) -> str:
        """What the newcomer is to be called, perhaps as it wants. Raises TetherError for who may not come in: its
        `what` is told to the other side."""

    async def admit(self, admission: Admit) -> Given:
        """Write the admission durably, and say what the newcomer gets. Raises TetherError likewise."""


class Guest(Protocol):
    """The machine that enters."""

    def consider(self, offered: Offered) -> None:
        """Look at what is offered. Raises TetherError to say no; its `what` is told to the other side."""

    async def enter(self, welcomed: Welcomed, roll: Roll) -> None:
        """Store the mesh durably: all of it or nothing. Raises TetherError when that fails."""


@attrs.frozen
class Admission:
    """How an invitation ended well: the machine is in the roster."""

    newcomer: Identity
    name: str
    address: Address
    """Where the newcomer called from."""
    trouble: TetherError | None = None
    """Why the newcomer did not say that it has stored everything: it may have, or it is to be invited again."""


@attrs.frozen
class Entry:
    """How joining ended well."""

    offered: Offered
    address: Address
    """Where the member was reached."""


async def invite(
    reception: Reception,
    keys: Keys,
    host: Host,
    *,
    secret: bytes,
    label: str,
    seconds: float,
    observer: status.Observer,
    offload: Offload = in_thread,
) -> Admission:
    """Open a window of `seconds` at the reception, and take the first who holds the words into the mesh.

    `secret` is that of a code or passphrase, `label` this machine's name. Announcing the window is the caller's. Raises
    NobodyFoundError, WrongPassphraseError, RefusedError (another invitation is open), and what joining raises.
    """
    pairings = Pairings(
        secret=secret,
        profile=joining_profile(label, "admit"),
        observer=observer,
        offload=offload,
        static_private=keys.noise_private,
    )
    door = Door(pairings, seconds)
    # Until the very end: who comes second with the same words is to hear that somebody was first.
    with reception.opened(door):
        met = await door.admit_one()
        observer(status.Paired(met.paired.peer.label, str(met.connection.peer)))
        return await admit_newcomer(met, keys, host)


async def join(settings: Settings, endpoint: Endpoint, keys: Keys, name: str, guest: Guest) -> Entry:
    """Find who invites, pair, and enter its mesh; `name` is this machine's.

    Raises NobodyFoundError, WrongPassphraseError, and what joining raises.
    """
    pairings = settings.pairings(joining_profile(name, "enter"), keys.noise_private)
    met = await Seeker(settings, endpoint, pairings).find()
    settings.observer(status.Paired(met.paired.peer.label, str(met.connection.peer)))
    return await enter_mesh(met, keys, name, guest, settings.offload)


def joining_profile(label: str, join: Literal["admit", "enter"]) -> Profile:
    """What a pairing that is about a mesh says of itself. `label` is the machine's name."""
    return Profile(label=label, sends=False, receives=False, verify=False, join=join)


async def admit_newcomer(met: Met, keys: Keys, host: Host) -> Admission:
    """Take whom we have met into the mesh, and end the connection. `keys` are those that paired.

    Raises TetherError when nothing came of it; the roster is then as it was, or (the write itself failed) as the error
    says. Cancelled, it ends the connection.
    """
    connection = met.connection
    admission: Admission | None = None
    try:
        _agree(met, "enter")
        stream = await _accept(connection)
        machine = Admitting(
            keys=keys,
            mesh=host.mesh,
            mesh_name=host.mesh_name,
            handshake_hash=met.paired.handshake_hash,
            peer_static=met.paired.peer_static,
            now=trio.current_time(),
        )
        while True:
            match await _next_event(stream, machine):
                case Asked(newcomer, wanted):
                    try:
                        machine.offer(host.name_for(newcomer, wanted))
                    except TetherError as error:
                        machine.refuse(error)
                case Consented(fact):
                    try:
                        # Half a write is worse than a late end: the newcomer's consent is given, and disks are quick.
                        with trio.CancelScope(shield=True):
                            given = await host.admit(fact)
                    except TetherError as error:
                        machine.refuse(error)
                    else:
                        admission = Admission(fact.identity, fact.name, connection.peer)
                        machine.admitted(given.secrets, given.records)
                case Joined() if admission is not None:
                    connection.close(CloseCode.DONE, "")
                    return admission
                case Failed(code, error):
                    await _say_last(connection, stream, machine, code)
                    raise error
                case event:
                    raise LocalProtocolError(f"{event} came to who admits")
    except TetherError as error:
        connection.close(CloseCode.INTERRUPTED, "")
        if admission is not None:
            return attrs.evolve(admission, trouble=error)
        raise _told(error, Role.B) from error
    except BaseException:
        connection.close(CloseCode.INTERRUPTED, "")
        raise


async def enter_mesh(met: Met, keys: Keys, name: str, guest: Guest, offload: Offload) -> Entry:
    """Enter the mesh of whom we have met, and end the connection. `keys` are those that paired, `name` this machine's.

    Raises TetherError when nothing came of it; nothing is stored then. Cancelled, it ends the connection.
    """
    connection = met.connection
    try:
        _agree(met, "admit")
        stream = await connection.open_stream()
        await stream.send_all(open_frame(Purpose.JOIN))
        machine = Entering(
            keys=keys,
            name=name,
            handshake_hash=met.paired.handshake_hash,
            peer_static=met.paired.peer_static,
            now=trio.current_time(),
        )
        while True:
            match await _next_event(stream, machine):
                case Offered() as offered:
                    try:
                        guest.consider(offered)
                    except TetherError as error:
                        machine.refuse(error)
                    else:
                        machine.consent()
                case Welcomed() as welcomed:
                    try:
                        roll = await offload(partial(check_roll, welcomed.offered, keys.identity, welcomed.records))
                        with trio.CancelScope(shield=True):
                            await guest.enter(welcomed, roll)
                    except TetherError as error:
                        machine.refuse(error)
                    else:
                        machine.stored()
                        return await _leave(connection, stream, machine, Entry(welcomed.offered, connection.peer))
                case Failed(code, error):
                    await _say_last(connection, stream, machine, code)
                    raise error
                case event:
                    raise LocalProtocolError(f"{event} came to who enters")
    except TetherError as error:
        connection.close(CloseCode.INTERRUPTED, "")
        raise _told(error, Role.A) from error
    except BaseException:
        connection.close(CloseCode.INTERRUPTED, "")
        raise


def _agree(met: Met, theirs: Literal["admit", "enter"]) -> None:
    """Both sides are here for the same thing. Raises RefusedError, and the peer hears of it too."""
    met.connection.watch(ping=PING, silence=SILENCE)
    if met.paired.peer.join != theirs:
        met.connection.close(CloseCode.PURPOSE, "")
        raise other_purpose()


async def _accept(connection: Connection) -> Stream:
    """The newcomer's stream. Raises ConnectionLostError."""
    stream = None
    with trio.move_on_after(JOINING_DEADLINE):
        stream = await connection.accept_stream()
    if stream is None:
        raise ConnectionLostError("The other side paired, and then did not ask to join.", "Try again.")
    if await read_purpose(stream) is not Purpose.JOIN:
        raise RemoteProtocolError("The other side paired, and then wanted something else than to join.")
    return stream


def _told(error: TetherError, role: Role) -> TetherError:
    """What the end of the connection means to a person, where the peer said why."""
    return error_for_end(error.closed.told, role) if isinstance(error, ConnectionClosedError) else error


async def _next_event(stream: Stream, machine: Admitting | Entering) -> Event:
    while (event := machine.next_event()) is None:
        await exchange(stream, machine, READ_SIZE)
    return event


async def _leave(connection: Connection, stream: Stream, machine: Entering, entry: Entry) -> Entry:
    """Say that all is stored, and let the member end it: closing here might overtake that word.

    Whatever happens to the connection now, this machine is in.
    """
    try:
        await send_due(stream, machine)
        with trio.move_on_after(FAREWELL):
            await connection.wait_closed()
    except (ConnectionClosedError, StreamResetError):
        pass
    connection.close(CloseCode.DONE, "")
    return entry


async def _say_last(connection: Connection, stream: Stream, machine: Admitting | Entering, code: CloseCode) -> None:
    """Send why it was refused here, if it was, and let the peer read it before the connection ends."""
    try:
        data = machine.data_to_send(trio.current_time())
        if data:
            await stream.send_all(data)
            await stream.send_eof()
            with trio.move_on_after(FAREWELL):
                await connection.wait_closed()
    except (ConnectionClosedError, StreamResetError):
        pass
    connection.close(code, "")
