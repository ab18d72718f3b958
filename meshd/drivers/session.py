"""The driver of a session: machines of protocol/session.py on a first stream. docs/protocol/session.md."""

from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from meshd.drivers.exchange import exchange, send_due
from meshd.drivers.link import Link, PathKind
from meshd.drivers.pairing import binding_of, system_entropy
from meshd.drivers.quic import Connection, ConnectionClosedError, Stream, StreamResetError
from meshd.errors import LocalProtocolError
from meshd.model.identity import Identity, Keys, NodeId
from meshd.protocol.session import PURPOSE, AnsweredSession, DialledSession
from meshd.protocol.session_events import Claimed, Confirmed, Event, Failed, Hinted, SessionError, Tagged
from meshd.wire.constants import CloseCode

__all__ = ["AlreadyLinkedError", "Membership", "SessionError", "answer_session", "dial_session"]


class Membership(Protocol):
    """What one mesh tells about itself to the sessions of this machine. Nothing here waits."""

    @property
    def mesh(self) -> bytes:
        """Mesh id, 32 bytes."""

    def secrets(self) -> Sequence[bytes]:
        """The mesh secrets that this machine has ever held, newest first, 32 bytes each: who dials offers the newest
        three, who answers knows them all, so that a member that missed a change still finds the others."""

    def members(self) -> Sequence[Identity]:
        """The active members that are not blocked here, without ourselves."""

    def by_noise(self, noise_key: bytes) -> Identity | None:
        """The one of `members()` with this Noise key."""

    def blocks(self, node: NodeId) -> bool:
        """Whether the person here will have nothing to do with this machine."""

    def introduction(self) -> Sequence[bytes]:
        """The admissions from the founder to us, encoded records, ours last."""

    def introduced(self, noise_key: bytes, signing_key: bytes, records: Sequence[bytes]) -> Identity | None:
        """Whom these records admit, if they do and nothing is known against it (protocol/introduction.py)."""


class AlreadyLinkedError(SessionError):
    """What answered is a member that is linked already. `node` says which: its address is worth remembering."""

    def __init__(self, node: NodeId) -> None:
        super().__init__(CloseCode.DONE, "That member is linked already.")
        self.node = node


async def dial_session(
    connection: Connection,
    keys: Keys,
    membership: Membership,
    *,
    is_linked: Callable[[NodeId], bool],
    path: PathKind,
) -> Link:
    """Open a session for one mesh over a connection that was dialled here; afterwards the connection is admitted.

    Raises AlreadyLinkedError, or SessionError whatever else is wrong; its `code` is SELF where we reached ourselves. The
    connection is closed then, and when this is cancelled.
    """
    machine = DialledSession(
        keys=keys,
        mesh=membership.mesh,
        secrets=membership.secrets(),
        introduction=membership.introduction(),
        binding=binding_of(connection, PURPOSE),
        entropy=system_entropy,
        now=trio.current_time(),
    )
    try:
        stream = await connection.open_stream()
        while True:
            match await _next_event(stream, machine):
                case Hinted() as hinted:
                    found = next((each for each in membership.members() if hinted.is_of(each.node)), None)
                    if found is None:
                        machine.give_up(
                            CloseCode.NOT_A_MEMBER, "Whoever answers there is no member that is known here."
                        )
                    elif is_linked(found.node):
                        raise AlreadyLinkedError(found.node)
                    else:
                        machine.call(found)
                case Confirmed(mesh, peer):
                    connection.admit()
                    await stream.aclose()
                    return Link(mesh, peer, connection, path, trio.current_time())
                case Failed(error):
                    raise error
                case event:
                    raise LocalProtocolError(f"{event} came to who dialled")
    except SessionError as error:
        connection.close(error.code, "")
        raise
    except ConnectionClosedError as error:
        raise _lost(machine, error.closed.told) from error
    except BaseException:
        connection.close(CloseCode.INTERRUPTED, "")
        raise


async def answer_session(
    connection: Connection, stream: Stream, first: bytes, keys: Keys, memberships: Sequence[Membership]
) -> Link:
    """Answer whoever opens a session on `stream`, whose first bytes have been read; afterwards the peer is admitted.

    Raises SessionError: at one deadline and with one code, whatever was wrong. The connection is closed then, and when
    this is cancelled.
    """
    now = trio.current_time()
    machine = AnsweredSession(keys=keys, binding=binding_of(connection, PURPOSE), entropy=system_entropy, now=now)
    machine.receive_data(first, now)
    chosen: Membership | None = None
    introduced = False
    try:
        while True:
            match await _next_event(stream, machine):
                case Tagged() as tagged:
                    # Every secret is looked at whatever is found, so that the answer takes the same time for all.
                    matches = [
                        (each, secret) for each in memberships for secret in each.secrets() if tagged.is_of(secret)
                    ]
                    if matches:
                        chosen, secret = matches[0]
                        machine.choose(chosen.mesh, secret)
                    else:
                        machine.choose_none()
                case Claimed() as claimed if chosen is not None:
                    peer, introduced = judge(chosen, claimed)
                    if peer is None:
                        machine.refuse()
                    else:
                        machine.accept(peer)
                case Confirmed(mesh, peer):
                    # First admitted, then told: its next stream may be as fast as our answer.
                    connection.admit()
                    await send_due(stream, machine)
                    await stream.aclose()
                    now = trio.current_time()
                    return Link(mesh, peer, connection, PathKind.ACCEPTED, now, introduced=introduced)
                case Failed(error):
                    raise error
                case event:
                    raise LocalProtocolError(f"{event} came to who was dialled")
    except SessionError as error:
        connection.close(error.code, "")
        raise
    except ConnectionClosedError as error:
        raise _lost(machine, error.closed.told) from error
    except StreamResetError as error:
        connection.close(CloseCode.NOT_A_MEMBER, "")
        raise _lost(machine, None) from error
    except BaseException:
        connection.close(CloseCode.INTERRUPTED, "")
        raise


def judge(membership: Membership, claimed: Claimed) -> tuple[Identity | None, bool]:
    """Whom a claim lets in, and whether on the strength of its introduction alone.

    A Noise key that is known with another signing key is an impostor's, whatever it was introduced with.
    """
    known = membership.by_noise(claimed.noise_key)
    if known is not None:
        return (known if known.signing_key == claimed.signing_key else None), False
    if not claimed.introduction:
        return None, False
    newcomer = membership.introduced(claimed.noise_key, claimed.signing_key, claimed.introduction)
    return newcomer, newcomer is not None


async def _next_event(stream: Stream, machine: DialledSession | AnsweredSession) -> Event:
    while (event := machine.next_event()) is None:
        await exchange(stream, machine)
    return event


def _lost(machine: DialledSession | AnsweredSession, code: int | None) -> SessionError:
    """What the machine makes of a connection that ended under a call of ours."""
    machine.connection_lost(trio.current_time(), code)
    match machine.next_event():
        case Failed(error):
            return error
        case _:
            return SessionError(CloseCode.NOT_A_MEMBER, "The connection was lost as the session began.")
