"""Sessions: two members that know each other's keys prove it over a new connection. docs/protocol/session.md.

Calling contract of both machines: after every call take all events with `next_event` and answer each before anything
else, then send what `data_to_send` gives, then wait for `next_deadline` at most. A machine looks nothing up: `Hinted`,
`Tagged` and `Claimed` are questions to who holds the rosters. Times: seconds of one monotonic clock. Bytes from the peer
never raise: they end in `Failed`. LocalProtocolError means that our own side called out of turn.
"""

import abc
import enum
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final

from meshd.errors import LocalProtocolError, RemoteProtocolError
from meshd.model.identity import KEY_SIZE, Context, Identity, Keys, is_signed
from meshd.protocol.binding import Binding
from meshd.protocol.handshake import NoiseHandshake, Role
from meshd.protocol.session_events import (
    Claimed,
    Confirmed,
    Event,
    Failed,
    Hinted,
    SessionError,
    Tagged,
    session_hint,
    session_tag,
)
from meshd.wire.codec import decode_body, encode_body
from meshd.wire.constants import VERSIONS, CloseCode, Frame
from meshd.wire.framing import FrameDecoder, encode_frame
from meshd.wire.session import (
    FRAMES_OF_A,
    FRAMES_OF_B,
    INTRODUCTION_LIMIT,
    INTRODUCTION_RECORDS,
    TAG_SIZE,
    TAGS,
    ConfirmA,
    ConfirmB,
    HelloA,
    HelloB,
)

SESSION_DEADLINE: Final = 9.5
"""Seconds for all of it. The driver ends a stranger 10 s after its first datagram; that little less lets every refusal end
with this page's code, which is one for all of them."""

NONCE_SIZE: Final = 32
"""Random bytes in a hello."""

PURPOSE: Final = "session"
"""What the binding of a session's handshake says that it is for."""


class State(enum.Enum):
    """What a machine waits for."""

    HELLO = enum.auto()
    LOOKUP = enum.auto()
    """`Hinted` or `Tagged` to be answered."""
    NOISE = enum.auto()
    CONFIRM = enum.auto()
    JUDGEMENT = enum.auto()
    """`Claimed` to be answered."""
    CONFIRMED = enum.auto()
    REFUSED = enum.auto()
    """B's mind is made up, and nobody is to see it before the deadline."""
    FAILED = enum.auto()


class _Session(abc.ABC):
    """What both machines share: the five doors."""

    role: ClassVar[Role]
    frames: ClassVar[Mapping[int, int]]

    def __init__(self, keys: Keys, binding: Binding, entropy: Callable[[int], bytes], now: float) -> None:
        if binding.purpose != PURPOSE:
            raise LocalProtocolError("the binding is one for something else")
        self._keys, self._binding, self._entropy = keys, binding, entropy
        self._deadline = now + SESSION_DEADLINE
        self._state = State.HELLO
        self._decoder = FrameDecoder(self.frames)
        self._events: deque[Event] = deque()
        self._out = bytearray()
        self._nonce = entropy(NONCE_SIZE)
        self._hello = b""
        self._noise: NoiseHandshake | None = None
        self._mesh = b""

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes of the first stream, in pieces of any size."""
        self.on_deadline(now)
        if self._is_in(State.CONFIRMED, State.REFUSED, State.FAILED):
            return
        self._decoder.receive(data)
        try:
            while not self._is_in(State.CONFIRMED, State.REFUSED, State.FAILED) and (
                frame := self._decoder.next_frame()
            ):
                self._step(*frame)
        except RemoteProtocolError as error:
            self._reject(error.what)

    def next_event(self) -> Event | None:
        """What has happened, oldest first; None when that is all."""
        return self._events.popleft() if self._events else None

    def data_to_send(self, now: float) -> bytes:
        """Bytes for the first stream. Nothing once the session was refused or has failed."""
        self.on_deadline(now)
        data = bytes(self._out)
        self._out.clear()
        return data

    def next_deadline(self) -> float | None:
        """When to call `on_deadline`; None when there is nothing to wait for."""
        return None if self._is_in(State.CONFIRMED, State.FAILED) else self._deadline

    def on_deadline(self, now: float) -> None:
        """Give up when the time is over; before that, nothing."""
        if now >= self._deadline and not self._is_in(State.CONFIRMED, State.FAILED):
            self._fail(CloseCode.NOT_A_MEMBER, f"There was no session after {SESSION_DEADLINE:g} seconds.")

    def connection_lost(self, now: float, code: int | None = None) -> None:
        """The connection, or the peer's half of the stream, ended. `code` is what the peer closed it with, if it did."""
        self.on_deadline(now)
        if self._is_in(State.CONFIRMED, State.FAILED):
            return
        match code:
            case CloseCode.NOT_A_MEMBER:
                what = "The other side does not count this machine as a member, or is none itself."
            case CloseCode.SELF:
                what = "Both ends are this machine."
            case CloseCode.VERSION:
                what = "The two sides speak different versions of this protocol."
            case CloseCode.DONE:
                what = "The other side needs no session: it has one with this machine."
            case _:
                what = "The connection was lost before there was a session."
        self._fail(CloseCode.of(code, CloseCode.NOT_A_MEMBER), what)

    # What the two have in common inside.

    def _step(self, kind: Frame, body: bytes) -> None:
        transition = TRANSITIONS[self.role].get((self._state, kind))
        if transition is None:
            raise RemoteProtocolError(f"The other side sent a {kind.name} frame out of turn.")
        self._state, action = transition
        action(self, body)

    @abc.abstractmethod
    def _reject(self, what: str) -> None:
        """The peer broke the rules, or is not who it should be."""

    def _met(self, versions: Sequence[int], nonce: bytes) -> bool:
        """Whether the hello is one to go on with. Neither end here depends on who belongs to what."""
        if not set(versions) & set(VERSIONS):
            self._fail(
                CloseCode.VERSION, "The two sides speak different versions of this protocol.", "Update the older."
            )
        elif nonce == self._nonce:
            self._fail(CloseCode.SELF, "Both ends are this machine.")
        return not self._is_in(State.FAILED)

    def _handshake(self, hello_a: bytes, hello_b: bytes, remote_static: bytes | None) -> NoiseHandshake:
        self._noise = NoiseHandshake(
            "IK",
            self.role,
            static_private=self._keys.noise_private,
            prologue=self._binding.fields("AB", hello_a, hello_b),
            ephemeral_private=self._entropy(KEY_SIZE),
            remote_static=remote_static,
        )
        return self._noise

    def _running(self) -> NoiseHandshake:
        if self._noise is None:
            raise LocalProtocolError("there is no handshake in this state")
        return self._noise

    def _read_noise(self, body: bytes) -> NoiseHandshake:
        noise = self._running()
        if noise.read(body):
            raise RemoteProtocolError("The other side sent a handshake message with a payload.")
        return noise

    def _read_last(self, body: bytes) -> bytes:
        """A CONFIRM in the clear: the last thing that the peer says on this stream."""
        plaintext = self._running().decrypt(body)
        if self._decoder.buffered:
            raise RemoteProtocolError("The other side sent more than a session needs.")
        return plaintext

    def _signature(self) -> bytes:
        role = self.role.value.encode()
        return self._keys.sign(Context.SESSION, role, self._running().handshake_hash, self._mesh)

    def _is_signed(self, signing_key: bytes, signature: bytes, role: Role) -> bool:
        fields = (role.value.encode(), self._running().handshake_hash, self._mesh)
        return is_signed(signing_key, signature, Context.SESSION, *fields)

    def _confirmed(self, peer: Identity) -> None:
        self._state = State.CONFIRMED
        self._events.append(Confirmed(self._mesh, peer, self._running().handshake_hash))

    def _fail(self, code: CloseCode, what: str, advice: str = "") -> None:
        self._state = State.FAILED
        self._out.clear()
        self._noise = None
        self._events.clear()
        self._events.append(Failed(SessionError(code, what, advice)))

    def _answered(self, state: State) -> bool:
        """Whether an answer to an event still matters; the time may have run out under the question."""
        if self._is_in(State.FAILED):
            return False
        if not self._is_in(state):
            raise LocalProtocolError(f"nothing was asked in {self._state}")
        return True

    def _is_in(self, *states: State) -> bool:
        return self._state in states

    def _send(self, kind: Frame, body: bytes) -> None:
        self._out += encode_frame(kind, body)


class DialledSession(_Session):
    """Side A: who dialled, for one mesh.

    `secrets` are the mesh's, newest first, 32 bytes each; `introduction` our own admissions as encoded records, the
    newest last, of which the last that fit are sent. `entropy` gives that many random bytes: a nonce, tags to fill up
    with, and the Noise ephemeral key, in this order.

    A hangs up at once when anything is wrong. It tells no more by that than by not going on, and the time of a place on
    B's side is saved.
    """

    role = Role.A
    frames = FRAMES_OF_B

    def __init__(
        self,
        *,
        keys: Keys,
        mesh: bytes,
        secrets: Sequence[bytes],
        introduction: Sequence[bytes],
        binding: Binding,
        entropy: Callable[[int], bytes],
        now: float,
    ) -> None:
        super().__init__(keys, binding, entropy, now)
        self._mesh = mesh
        self._secrets = tuple(secrets[:TAGS])
        self._introduction = _fitting(introduction)
        self._peer: Identity | None = None
        self._peer_hello = b""
        tags = [session_tag(secret, self._nonce) for secret in self._secrets]
        tags += [entropy(TAG_SIZE) for _ in range(TAGS - len(tags))]
        self._hello = encode_body(HelloA(versions=list(VERSIONS), nonce=self._nonce, tags=tags))
        self._send(Frame.SESSION_HELLO, self._hello)

    def call(self, peer: Identity) -> None:
        """Answer `Hinted`: this member is meant."""
        if not self._answered(State.LOOKUP):
            return
        self._peer = peer
        self._state = State.NOISE
        noise = self._handshake(self._hello, self._peer_hello, peer.noise_key)
        self._send(Frame.NOISE, noise.write())

    def give_up(self, code: CloseCode, what: str) -> None:
        """Answer `Hinted`: nobody that we would link with. The code is NOT_A_MEMBER, or DONE for one linked already."""
        if self._answered(State.LOOKUP):
            self._fail(code, what)

    def _reject(self, what: str) -> None:
        self._fail(CloseCode.NOT_A_MEMBER, what)

    def _on_hello(self, body: bytes) -> None:
        hello = decode_body(HelloB, body)
        self._peer_hello = body
        if not self._met(hello.versions, hello.nonce):
            return
        hinted = Hinted(hello.hint, self._nonce, hello.nonce, self._secrets)
        if hinted.is_of(self._keys.identity.node):
            self._fail(CloseCode.SELF, "Both ends are this machine.")
        else:
            self._events.append(hinted)

    def _on_noise(self, body: bytes) -> None:
        noise = self._read_noise(body)
        confirm = ConfirmA(
            mesh=self._mesh,
            signing_key=self._keys.identity.signing_key,
            signature=self._signature(),
            introduction=self._introduction,
        )
        self._send(Frame.CONFIRM, noise.encrypt(encode_body(confirm)))

    def _on_confirm(self, body: bytes) -> None:
        confirm = decode_body(ConfirmB, self._read_last(body))
        assert self._peer is not None
        if not self._is_signed(self._peer.signing_key, confirm.signature, Role.B):
            raise RemoteProtocolError("The other side's signature does not verify.")
        self._confirmed(self._peer)


class AnsweredSession(_Session):
    """Side B: who accepted the connection, for whichever of its meshes is meant.

    `entropy` gives that many random bytes: a nonce, a hint for who gets no true one, and the Noise ephemeral key, in this
    order.

    Whatever is wrong (unknown, revoked, blocked, another certificate, broken bytes), B falls silent and ends with one
    code at one deadline, so that nobody can find out by asking who belongs to what.
    """

    role = Role.B
    frames = FRAMES_OF_A

    def __init__(self, *, keys: Keys, binding: Binding, entropy: Callable[[int], bytes], now: float) -> None:
        super().__init__(keys, binding, entropy, now)
        self._peer_hello = self._nonce_a = b""
        self._claimed: Claimed | None = None

    def choose(self, mesh: bytes, secret: bytes) -> None:
        """Answer `Tagged`: this mesh (its id) is meant, with this secret of it."""
        if not self._answered(State.LOOKUP):
            return
        self._mesh = mesh
        self._entropy(TAG_SIZE)  # so that a true hint takes as long, and tests as many bytes, as another
        self._say_hello(session_hint(secret, self._nonce_a, self._nonce, self._keys.identity.node))
        self._state = State.NOISE

    def choose_none(self) -> None:
        """Answer `Tagged`: none of our meshes. The peer gets a hello like any other, and then nothing."""
        if not self._answered(State.LOOKUP):
            return
        self._say_hello(self._entropy(TAG_SIZE))
        self._state = State.REFUSED

    def accept(self, peer: Identity) -> None:
        """Answer `Claimed`: this member, or newcomer with a good introduction, it is."""
        if not self._answered(State.JUDGEMENT):
            return
        claimed = self._claimed
        if claimed is None or (peer.noise_key, peer.signing_key) != (claimed.noise_key, claimed.signing_key):
            raise LocalProtocolError("another machine is accepted than the one that came")
        confirm = encode_body(ConfirmB(signature=self._signature()))
        self._send(Frame.CONFIRM, self._running().encrypt(confirm))
        self._confirmed(peer)

    def refuse(self) -> None:
        """Answer `Claimed`: unknown, revoked or blocked."""
        if self._answered(State.JUDGEMENT):
            self._reject("It is not a member.")

    def _reject(self, what: str) -> None:
        if not self._is_in(State.FAILED):
            self._state = State.REFUSED
            self._noise = None
            self._out.clear()
            self._events.clear()

    def _on_hello(self, body: bytes) -> None:
        hello = decode_body(HelloA, body)
        self._peer_hello, self._nonce_a = body, hello.nonce
        if self._met(hello.versions, hello.nonce):
            self._events.append(Tagged(tuple(hello.tags), hello.nonce))

    def _say_hello(self, hint: bytes) -> None:
        self._hello = encode_body(HelloB(versions=list(VERSIONS), nonce=self._nonce, hint=hint))
        self._send(Frame.SESSION_HELLO, self._hello)

    def _on_noise(self, body: bytes) -> None:
        # A claim and no proof: anybody can send a message 1 that was heard before. It gets message 2 and nothing else.
        self._handshake(self._peer_hello, self._hello, None)
        self._send(Frame.NOISE, self._read_noise(body).write())

    def _on_confirm(self, body: bytes) -> None:
        confirm = decode_body(ConfirmA, self._read_last(body))
        noise = self._running()
        if confirm.mesh != self._mesh or noise.remote_static == noise.local_static:
            raise RemoteProtocolError("The other side means another mesh, or is this machine.")
        if not self._is_signed(confirm.signing_key, confirm.signature, Role.A):
            raise RemoteProtocolError("The other side's signature does not verify.")
        introduction = tuple(confirm.introduction)
        self._claimed = Claimed(self._mesh, noise.remote_static, confirm.signing_key, introduction)
        self._events.append(self._claimed)


def _fitting(introduction: Sequence[bytes]) -> list[bytes]:
    """The last admissions that may be sent: those next to us, which the peer knows least."""
    room, kept = INTRODUCTION_LIMIT, []
    for record in reversed(introduction[-INTRODUCTION_RECORDS:]):
        room -= len(record) + 5  # MessagePack's longest length
        if room < 0:
            break
        kept.append(record)
    return kept[::-1]


_Action = Callable[[Any, bytes], None]

TRANSITIONS: Final[Mapping[Role, Mapping[tuple[State, Frame], tuple[State, _Action]]]] = {
    Role.A: {
        (State.HELLO, Frame.SESSION_HELLO): (State.LOOKUP, DialledSession._on_hello),
        (State.NOISE, Frame.NOISE): (State.CONFIRM, DialledSession._on_noise),
        (State.CONFIRM, Frame.CONFIRM): (State.CONFIRMED, DialledSession._on_confirm),
    },
    Role.B: {
        (State.HELLO, Frame.SESSION_HELLO): (State.LOOKUP, AnsweredSession._on_hello),
        (State.NOISE, Frame.NOISE): (State.CONFIRM, AnsweredSession._on_noise),
        (State.CONFIRM, Frame.CONFIRM): (State.JUDGEMENT, AnsweredSession._on_confirm),
    },
}
"""What a frame may do when; answers to events move the machines on besides. Anything not listed is the peer's fault."""
