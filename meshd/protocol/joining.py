"""Joining: a machine that has paired with a member is admitted to its mesh. docs/protocol/pairing.md, "Joining a mesh".

Calling contract of both machines: after every call take all events with `next_event` and answer each in its time, send what
`data_to_send` gives, wait for `next_deadline` at most. `Asked`, `Consented`, `Offered` and `Welcomed` are questions; while
one is open, the machine only waits. Times: seconds of one monotonic clock. Bytes from the peer never raise: they end in
`Failed`. LocalProtocolError means that our own side called out of turn.
"""

import enum
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final

import attrs

from meshd.errors import ConnectionLostError, LocalProtocolError, RefusedError, RemoteProtocolError, TetherError
from meshd.model.facts import Admit, countersign
from meshd.model.identity import Context, Identity, Keys, is_signed
from meshd.model.name import is_name
from meshd.protocol.closing import error_for_close
from meshd.protocol.handshake import Role
from meshd.wire.codec import decode_body, encode_body
from meshd.wire.constants import REASON_LIMIT, CloseCode, Frame
from meshd.wire.framing import FrameDecoder, encode_frame
from meshd.wire.joining import (
    BATCH_LIMIT,
    FRAMES_OF_MEMBER,
    FRAMES_OF_NEWCOMER,
    ROSTER_LIMIT,
    ROSTER_RECORDS,
    Admitted,
    Consent,
    Join,
    JoinOffer,
    JoinRefused,
    MeshSecret,
    RosterBatch,
)

JOINING_DEADLINE: Final = 60.0
"""Seconds for all of it: two disks and a roster of thousands over a slow link. No person is waited for."""


@attrs.frozen
class Asked:
    """To the member: this machine asks to be admitted under this name. `offer` it a name, or `refuse`."""

    newcomer: Identity
    name: str


@attrs.frozen
class Consented:
    """To the member: write this admission durably, then say so with `admitted`; or `refuse`."""

    admission: Admit


@attrs.frozen
class Offered:
    """To the newcomer: this mesh would take it, under this name. `consent`, or `refuse`."""

    mesh: bytes
    mesh_name: str
    admitter: Identity
    name: str


@attrs.frozen
class Welcomed:
    """To the newcomer: it is admitted. Check all (protocol/welcome.py), store it durably, then say so with `stored`."""

    offered: Offered
    secrets: tuple[MeshSecret, ...] = attrs.field(repr=False)
    records: tuple[bytes, ...] = attrs.field(repr=False)
    """Encoded roster records, not looked at."""


@attrs.frozen
class Joined:
    """The newcomer has it all. For itself: its JOINED is still to be sent. The member closes the connection now."""


@attrs.frozen
class Failed:
    """It is over. What is still to be sent says why, if it was refused here; then close with `code`."""

    code: CloseCode
    error: TetherError


Event = Asked | Consented | Offered | Welcomed | Joined | Failed


class State(enum.Enum):
    """What a machine waits for."""

    JOIN = enum.auto()
    CONSENT = enum.auto()
    JOINED = enum.auto()
    OFFER = enum.auto()
    ADMITTED = enum.auto()
    ROSTER = enum.auto()
    ASKED = enum.auto()
    """An event to be answered by our own side."""
    OVER = enum.auto()
    FAILED = enum.auto()


def error_for_end(code: int | None, role: Role) -> TetherError:
    """The error to show when the connection ended under a joining: by the peer with `code`, or by itself (None)."""
    if code is None:
        return ConnectionLostError("The connection was lost before joining was complete.", "Try again.")
    return error_for_close(code, role, at_stake=False)


class _Joining:
    """What both machines share: the five doors."""

    role: ClassVar[Role]
    frames: ClassVar[Mapping[int, int]]
    transitions: ClassVar[Mapping[tuple[State, Frame], Callable[[Any, bytes], None]]]

    def __init__(self, keys: Keys, handshake_hash: bytes, peer_static: bytes, state: State, now: float) -> None:
        self._keys, self._handshake_hash, self._peer_static = keys, handshake_hash, peer_static
        self._deadline = now + JOINING_DEADLINE
        self._state = state
        self._decoder = FrameDecoder(self.frames)
        self._events: deque[Event] = deque()
        self._out = bytearray()

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes of the stream, in pieces of any size."""
        self.on_deadline(now)
        if self._is_over():
            return
        self._decoder.receive(data)
        try:
            while not self._is_over() and (frame := self._decoder.next_frame()):
                self._step(*frame)
        except RemoteProtocolError as error:
            self._fail(CloseCode.PROTOCOL, error)

    def next_event(self) -> Event | None:
        """What has happened, oldest first; None when that is all."""
        return self._events.popleft() if self._events else None

    def data_to_send(self, now: float) -> bytes:
        """Bytes for the stream."""
        self.on_deadline(now)
        data = bytes(self._out)
        self._out.clear()
        return data

    def next_deadline(self) -> float | None:
        """When to call `on_deadline`; None when there is nothing to wait for."""
        return None if self._is_over() else self._deadline

    def on_deadline(self, now: float) -> None:
        """Give up when the time is over; before that, nothing."""
        if now >= self._deadline and not self._is_over():
            error = ConnectionLostError(f"Joining was not complete after {JOINING_DEADLINE:.0f} seconds.", "Try again.")
            self._fail(CloseCode.TIMED_OUT, error)

    def connection_lost(self, now: float, code: int | None = None) -> None:
        """The connection, or the peer's half of the stream, ended. `code` is what the peer closed it with, if it did."""
        self.on_deadline(now)
        if not self._is_over():
            error: TetherError = ConnectionLostError(
                "The connection was lost before joining was complete.", "Try again."
            )
            if code == CloseCode.REFUSED:
                error = RefusedError("The other side refused.")
            self._fail(CloseCode.of(code, CloseCode.TIMED_OUT), error)

    def refuse(self, error: TetherError) -> None:
        """End it for a reason of our own that the peer is to hear (500 characters of it)."""
        if self._answered():
            self._fail(CloseCode.REFUSED, error)
            self._send(Frame.JOIN_REFUSED, encode_body(JoinRefused(error.what[:REASON_LIMIT])))

    # What the two have in common inside.

    def _step(self, kind: Frame, body: bytes) -> None:
        if kind is Frame.JOIN_REFUSED:
            reason = decode_body(JoinRefused, body).reason
            self._fail(CloseCode.REFUSED, RefusedError(f"The other side refused: {reason}"))
            return
        action = self.transitions.get((self._state, kind))
        if action is None:
            raise RemoteProtocolError(f"The other side sent a {kind.name} frame out of turn.")
        action(self, body)

    def _check_identity(self, peer: Identity, signature: bytes, role: Role, *more: bytes) -> None:
        """The peer holds all three: the Noise key that paired, the signing key, and its bond between them."""
        if peer.noise_key != self._peer_static or peer.noise_key == self._keys.identity.noise_key:
            raise RemoteProtocolError("The other side paired with another key than it shows.")
        fields = (role.value.encode(), self._handshake_hash, *more)
        if not peer.is_bound() or not is_signed(peer.signing_key, signature, Context.JOIN, *fields):
            raise RemoteProtocolError("The other side's signature does not verify.")

    def _ask(self, event: Event) -> None:
        self._state = State.ASKED
        self._events.append(event)

    def _answered(self) -> bool:
        """Whether an answer still matters; the time may have run out, or the peer gone, under the question."""
        if self._state is State.FAILED:
            return False
        if self._state is not State.ASKED:
            raise LocalProtocolError(f"nothing was asked in {self._state}")
        return True

    def _finish(self) -> None:
        self._state = State.OVER
        self._events.append(Joined())

    def _fail(self, code: CloseCode, error: TetherError) -> None:
        self._state = State.FAILED
        self._out.clear()
        self._events.clear()
        self._events.append(Failed(code, error))

    def _is_over(self) -> bool:
        return self._state in (State.OVER, State.FAILED)

    def _send(self, kind: Frame, body: bytes = b"") -> None:
        self._out += encode_frame(kind, body)


class Admitting(_Joining):
    """The member: who invited, and listened. `peer_static` is the Noise key that the newcomer paired with."""

    role = Role.B
    frames = FRAMES_OF_NEWCOMER

    def __init__(
        self, *, keys: Keys, mesh: bytes, mesh_name: str, handshake_hash: bytes, peer_static: bytes, now: float
    ) -> None:
        super().__init__(keys, handshake_hash, peer_static, State.JOIN, now)
        self._mesh, self._mesh_name = mesh, mesh_name
        self._newcomer: Identity | None = None
        self._name = ""
        self._admission: Admit | None = None

    def offer(self, name: str) -> None:
        """Answer `Asked`: it may come in, and is going to be called so."""
        if not self._answered():
            return
        if self._newcomer is None or not is_name(name):
            raise LocalProtocolError("there is nobody to offer anything to, or no machine can be called so")
        self._name = name
        self._state = State.CONSENT
        me = self._keys.identity
        offer = JoinOffer(
            mesh=self._mesh,
            mesh_name=self._mesh_name,
            signing_key=me.signing_key,
            noise_key=me.noise_key,
            binding=me.binding,
            name=name,
            signature=self._keys.sign(Context.JOIN, Role.B.value.encode(), self._handshake_hash, self._mesh),
        )
        self._send(Frame.JOIN_OFFER, encode_body(offer))

    def admitted(self, secrets: Sequence[MeshSecret], records: Sequence[bytes]) -> None:
        """Answer `Consented`: the admission is durable; these are all secrets in use and all roster records, encoded."""
        if not self._answered():
            return
        if self._admission is None:
            raise LocalProtocolError("nobody has consented")
        self._state = State.JOINED
        self._send(Frame.ADMITTED, encode_body(Admitted(list(secrets))))
        for batch in _batches(records):
            self._send(Frame.ROSTER, encode_body(RosterBatch(batch)))
        self._send(Frame.ROSTER_END)

    def _on_join(self, body: bytes) -> None:
        join = decode_body(Join, body)
        self._newcomer = Identity(join.signing_key, join.noise_key, join.binding)
        self._check_identity(self._newcomer, join.signature, Role.A)
        if not is_name(join.name):
            raise RemoteProtocolError("The other side calls its machine something that is no name.")
        self._ask(Asked(self._newcomer, join.name))

    def _on_consent(self, body: bytes) -> None:
        consent = decode_body(Consent, body)
        newcomer = self._newcomer
        assert newcomer is not None
        admission = Admit(
            signing_key=newcomer.signing_key,
            noise_key=newcomer.noise_key,
            binding=newcomer.binding,
            name=self._name,
            countersignature=consent.countersignature,
        )
        if not admission.is_countersigned(self._mesh, self._keys.identity.signing_key):
            raise RemoteProtocolError("The other side's consent does not verify.")
        self._admission = admission
        self._ask(Consented(admission))

    def _on_joined(self, body: bytes) -> None:
        self._finish()

    transitions: ClassVar[Mapping[tuple[State, Frame], Callable[[Any, bytes], None]]] = {
        (State.JOIN, Frame.JOIN): _on_join,
        (State.CONSENT, Frame.CONSENT): _on_consent,
        (State.JOINED, Frame.JOINED): _on_joined,
    }


class Entering(_Joining):
    """The newcomer: who had the code, and dialled. `peer_static` is the Noise key that the member paired with."""

    role = Role.A
    frames = FRAMES_OF_MEMBER

    def __init__(self, *, keys: Keys, name: str, handshake_hash: bytes, peer_static: bytes, now: float) -> None:
        super().__init__(keys, handshake_hash, peer_static, State.OFFER, now)
        if not is_name(name):
            raise LocalProtocolError("no machine can be called so")
        self._offered: Offered | None = None
        self._secrets: tuple[MeshSecret, ...] = ()
        self._records: list[bytes] = []
        self._size = 0
        me = keys.identity
        join = Join(
            signing_key=me.signing_key,
            noise_key=me.noise_key,
            binding=me.binding,
            name=name,
            signature=keys.sign(Context.JOIN, Role.A.value.encode(), handshake_hash),
        )
        self._send(Frame.JOIN, encode_body(join))

    def consent(self) -> None:
        """Answer `Offered`: yes. From here on the member may write the admission, whether we hear of it or not."""
        if not self._answered():
            return
        if (offered := self._offered) is None:
            raise LocalProtocolError("nothing was offered")
        self._state = State.ADMITTED
        admission = countersign(self._keys, offered.mesh, offered.admitter.signing_key, offered.name)
        self._send(Frame.CONSENT, encode_body(Consent(admission.countersignature)))

    def stored(self) -> None:
        """Answer `Welcomed`: it is checked and durable here."""
        if self._answered():
            self._send(Frame.JOINED)
            self._finish()

    def _on_offer(self, body: bytes) -> None:
        offer = decode_body(JoinOffer, body)
        admitter = Identity(offer.signing_key, offer.noise_key, offer.binding)
        self._check_identity(admitter, offer.signature, Role.B, offer.mesh)
        if not is_name(offer.name) or not (is_name(offer.mesh_name) or offer.mesh_name == ""):
            raise RemoteProtocolError("The other side offers a name that is none.")
        self._offered = Offered(offer.mesh, offer.mesh_name, admitter, offer.name)
        self._ask(self._offered)

    def _on_admitted(self, body: bytes) -> None:
        self._secrets = tuple(decode_body(Admitted, body).secrets)
        self._state = State.ROSTER

    def _on_roster(self, body: bytes) -> None:
        records = decode_body(RosterBatch, body).records
        self._size += len(body)
        if not records or len(self._records) + len(records) > ROSTER_RECORDS or self._size > ROSTER_LIMIT:
            raise RemoteProtocolError("The other side sends more of a roster than any mesh has, or nothing at all.")
        self._records += records

    def _on_roster_end(self, body: bytes) -> None:
        assert self._offered is not None
        self._ask(Welcomed(self._offered, self._secrets, tuple(self._records)))

    transitions: ClassVar[Mapping[tuple[State, Frame], Callable[[Any, bytes], None]]] = {
        (State.OFFER, Frame.JOIN_OFFER): _on_offer,
        (State.ADMITTED, Frame.ADMITTED): _on_admitted,
        (State.ROSTER, Frame.ROSTER): _on_roster,
        (State.ROSTER, Frame.ROSTER_END): _on_roster_end,
    }


def _batches(records: Sequence[bytes]) -> list[list[bytes]]:
    """Records in groups of at most BATCH_LIMIT bytes, in their order."""
    batches: list[list[bytes]] = []
    room = 0
    for record in records:
        if len(record) > room:
            batches.append([])
            room = BATCH_LIMIT
        batches[-1].append(record)
        room -= len(record)
    return batches
