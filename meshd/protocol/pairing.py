"""Pairing: two machines that hold the same words make a key bound to their connection. docs/protocol/pairing.md.

The one place that knows spake2. Calling contract of `Pairing`: after every call take all events with `next_event`, then
send what `data_to_send` gives, then wait for `next_deadline` at most. On `PakeDue` run `compute_pake` in a thread and
hand its result to `pake_computed`; meanwhile every other method may be called. Times: seconds of one monotonic clock.
"""

import enum
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

import attrs
from spake2 import SPAKE2_A, SPAKE2_B

from meshd.errors import ConnectionLostError, LocalProtocolError, RefusedError, RemoteProtocolError, TetherError
from meshd.model.text import is_label
from meshd.protocol.admission import Try, Window
from meshd.protocol.binding import Binding
from meshd.protocol.closing import error_for_close, met_ourselves, no_common_version, wrong_words
from meshd.protocol.handshake import KEY_SIZE, HandshakeError, NoiseHandshake, Role
from meshd.wire.codec import decode_body, encode_body
from meshd.wire.constants import (
    DIGEST_SIZE,
    PAIRING_FRAMES,
    VERSIONS,
    CloseCode,
    Frame,
)
from meshd.wire.framing import FrameDecoder, encode_frame
from meshd.wire.messages import Hello, Profile

PAIRING_DEADLINE: Final = 10.0
"""Seconds for all of it, waiting for a turn at the arithmetic included."""

NONCE_SIZE: Final = 32
"""Random bytes in a HELLO."""


@attrs.frozen
class PakeDue:
    """`compute_pake` is to be run, in a thread: 8 to 16 ms."""


@attrs.frozen
class TryTaken:
    """From here on the try is spent unless pairing succeeds."""


@attrs.frozen
class Paired:
    """The peer holds the words. When this comes to A, its own CONFIRM is still to be sent."""

    peer: Profile
    peer_static: bytes
    """The peer's Noise public key, 32 bytes."""

    handshake_hash: bytes
    """The same 32 bytes on both sides, for `transcript_words`."""


@attrs.frozen
class Failed:
    """The pairing is over; nothing more may be sent. It may follow `Paired`, when the peer sends where it must not."""

    code: CloseCode
    """What to close the connection with; what the peer closed it with, when it did."""

    error: TetherError
    spent: bool
    """Whether it cost a try."""


Event = PakeDue | TryTaken | Paired | Failed


@attrs.frozen
class PakeResult:
    """What `compute_pake` hands to `pake_computed`. Neither part when the peer's message was refused."""

    message: bytes = b""
    key: bytes = attrs.field(default=b"", repr=False)


class State(enum.Enum):
    """What the machine waits for."""

    HELLO = enum.auto()
    SHARE_COMPUTED = enum.auto()
    PAKE = enum.auto()
    KEY_COMPUTED = enum.auto()
    NOISE = enum.auto()
    LAST_NOISE = enum.auto()
    CONFIRM = enum.auto()
    PAIRED = enum.auto()
    FAILED = enum.auto()


class Own(enum.Enum):
    """What moves the machine besides frames."""

    COMPUTED = enum.auto()
    REFUSED = enum.auto()
    """spake2 would not take the peer's message."""


class Pairing:
    """One pairing over one connection, as A or as B.

    `secret` is a passphrase's bytes or a code's; `static_private` our X25519 key (32 bytes); `window` counts the tries
    of this secret and is shared by all its pairings. `entropy` gives that many random bytes: a nonce, the SPAKE2
    scalar (64, in the thread of `compute_pake`) and the Noise ephemeral key, in this order. Bytes from the peer never
    raise: they end in `Failed`. LocalProtocolError means that our own side called out of turn.
    """

    def __init__(
        self,
        role: Role,
        *,
        secret: bytes,
        binding: Binding,
        static_private: bytes,
        profile: Profile,
        window: Window,
        entropy: Callable[[int], bytes],
        now: float,
    ) -> None:
        if not secret or len(static_private) != KEY_SIZE or len(binding.certificate_digest) != DIGEST_SIZE:
            raise LocalProtocolError("pairing needs a secret, an X25519 key and the SHA-256 of a certificate")
        if not is_label(profile.label):
            raise LocalProtocolError("the label is one that a peer would refuse")
        self._role = role
        self._secret = secret
        self._binding = binding
        self._static_private = static_private
        self._profile = profile
        self._window = window
        self._entropy = entropy
        self._deadline = now + PAIRING_DEADLINE

        self._state = State.HELLO
        self._decoder = FrameDecoder(PAIRING_FRAMES)
        self._events: deque[Event] = deque()
        self._out = bytearray()
        self._nonce = entropy(NONCE_SIZE)
        self._hello = encode_body(Hello(versions=list(VERSIONS), nonce=self._nonce))
        self._peer_hello = b""
        self._spake: SPAKE2_A | SPAKE2_B | None = None
        self._pake_message = b""
        self._peer_pake_message = b""
        self._noise: NoiseHandshake | None = None
        self._try: Try | None = None
        self._at_stake = False
        if role is Role.A:
            self._send(Frame.HELLO, self._hello)

    # The five doors.

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes of the first stream, in pieces of any size."""
        self.on_deadline(now)
        if self._over(State.FAILED):
            return
        self._decoder.receive(data)
        try:
            while not self._over(State.FAILED) and (frame := self._decoder.next_frame()):
                self._step(*frame)
            if self._over(State.PAIRED) and self._decoder.buffered:
                raise RemoteProtocolError("The other side sent more than pairing needs.")
        except HandshakeError:
            self._fail(CloseCode.WRONG_WORDS, wrong_words())
        except RemoteProtocolError as error:
            self._fail(CloseCode.PROTOCOL, error)

    def next_event(self) -> Event | None:
        """What has happened, oldest first; None when that is all."""
        return self._events.popleft() if self._events else None

    def data_to_send(self, now: float) -> bytes:
        """Bytes for the first stream. Nothing once the pairing has failed."""
        self.on_deadline(now)
        data = bytes(self._out)
        self._out.clear()
        return data

    def next_deadline(self) -> float | None:
        """When to call `on_deadline`; None when there is nothing to wait for."""
        return None if self._over(State.PAIRED, State.FAILED) else self._deadline

    def on_deadline(self, now: float) -> None:
        """Give up when the time is over; before that, nothing."""
        if now >= self._deadline and not self._over(State.PAIRED, State.FAILED):
            error = ConnectionLostError(f"Pairing was not complete after {PAIRING_DEADLINE:.0f} seconds.", "Try again.")
            self._fail(CloseCode.TIMED_OUT, error)

    # Commands.

    def compute_pake(self) -> PakeResult:
        """The SPAKE2 arithmetic that is due: 8 ms for A, twice; 16 ms for B. For a thread: changes no state of its own.

        Once the pairing has failed, which it may while this waits for its turn, the result is empty.
        """
        state, spake, message = self._state, self._spake, self._pake_message
        if state not in (State.SHARE_COMPUTED, State.KEY_COMPUTED, State.FAILED):
            raise LocalProtocolError("there is nothing to compute now")
        if state is State.FAILED or spake is None:
            return PakeResult()
        try:
            message = message or spake.start()
            return PakeResult(message, spake.finish(self._peer_pake_message) if state is State.KEY_COMPUTED else b"")
        # A point outside the group comes as ValueError, a wrong side as SPAKEError, and more may come: all one thing.
        except Exception:
            return PakeResult()

    def pake_computed(self, result: PakeResult, now: float) -> None:
        """Go on with what `compute_pake` gave. Ignored when the pairing has failed in the meantime."""
        self.on_deadline(now)
        if self._over(State.FAILED):
            return
        self._pake_message = result.message
        self._step(Own.COMPUTED if result.message else Own.REFUSED, result.key)

    def abort(self, now: float, code: CloseCode = CloseCode.INTERRUPTED) -> None:
        """End a pairing that is not complete, for a reason of our own. A try at stake is spent."""
        self.on_deadline(now)
        if not self._over(State.PAIRED, State.FAILED):
            self._fail(code, ConnectionLostError("Pairing was stopped on this side."))

    def connection_lost(self, now: float, code: int | None = None) -> None:
        """The connection ended before pairing did. A try at stake is spent.

        `code` is what the peer closed it with, None when the link just went away; `Failed` says TIMED_OUT for that,
        and for a code that we do not know.
        """
        self.on_deadline(now)
        if self._over(State.PAIRED, State.FAILED):
            return
        error = error_for_close(code, self._role, self._at_stake)
        self._fail(CloseCode.of(code, CloseCode.TIMED_OUT), error)

    # Transitions, in the order of the page. Each runs when TRANSITIONS has already moved the machine on.

    def _step(self, trigger: Frame | Own, body: bytes) -> None:
        transition = TRANSITIONS[self._role].get((self._state, trigger))
        if transition is None and isinstance(trigger, Frame):
            raise RemoteProtocolError(f"The other side sent a {trigger.name} frame out of turn.")
        if transition is None:
            raise LocalProtocolError(f"{trigger} is not due in {self._state}")
        self._state, action = transition
        action(self, body)

    def _a_hello(self, body: bytes) -> None:
        if self._meet(body):
            self._begin_pake()

    def _b_hello(self, body: bytes) -> None:
        if self._meet(body):
            self._send(Frame.HELLO, self._hello)

    def _meet(self, body: bytes) -> bool:
        peer = decode_body(Hello, body)
        self._peer_hello = body
        if not set(peer.versions) & set(VERSIONS):
            self._fail(CloseCode.VERSION, no_common_version())
        elif peer.nonce == self._nonce:
            self._fail(CloseCode.SELF, met_ourselves())
        return not self._over(State.FAILED)

    def _begin_pake(self) -> None:
        # A try is set aside before any arithmetic, and before A can have put one of its own at stake: who must be told
        # "busy" hears it while that costs nothing on either side. Whoever ends before NOISE gives it back.
        self._try = self._window.take()
        if self._try is not None:
            side = SPAKE2_A if self._role is Role.A else SPAKE2_B
            self._spake = side(self._secret, idA=self._bound("A"), idB=self._bound("B"), entropy_f=self._entropy)
            self._events.append(PakeDue())
        elif self._window.closed:
            error = RefusedError("Three tries with these words have failed.", "Start again, with other words.")
            self._fail(CloseCode.WINDOW_CLOSED, error)
        else:
            error = RefusedError("All tries with these words are in use just now.", "Try again in a few seconds.")
            self._fail(CloseCode.BUSY, error)

    def _a_share_computed(self, _: bytes) -> None:
        self._send(Frame.PAKE, self._pake_message)

    def _a_pake(self, body: bytes) -> None:
        self._peer_pake_message = body
        self._events.append(PakeDue())

    def _b_pake(self, body: bytes) -> None:
        self._peer_pake_message = body
        self._begin_pake()

    def _a_key_computed(self, key: bytes) -> None:
        noise = self._begin_noise(key)
        self._put_at_stake()
        self._send(Frame.NOISE, noise.write())

    def _b_key_computed(self, key: bytes) -> None:
        self._begin_noise(key)
        self._send(Frame.PAKE, self._pake_message)

    def _pake_refused(self, _: bytes) -> None:
        self._fail(CloseCode.WRONG_WORDS, wrong_words())

    def _begin_noise(self, key: bytes) -> NoiseHandshake:
        self._noise = NoiseHandshake(
            "XXpsk0",
            self._role,
            static_private=self._static_private,
            prologue=self._bound("AB"),
            psk=key,
            ephemeral_private=self._entropy(KEY_SIZE),
        )
        return self._noise

    def _b_noise(self, body: bytes) -> None:
        self._put_at_stake()
        self._send(Frame.NOISE, self._read_noise(body).write())

    def _a_noise(self, body: bytes) -> None:
        noise = self._read_noise(body)
        if self._is_somebody_else(noise):
            self._send(Frame.NOISE, noise.write())

    def _b_last_noise(self, body: bytes) -> None:
        noise = self._read_noise(body)
        if self._is_somebody_else(noise):
            self._send(Frame.CONFIRM, noise.encrypt(encode_body(self._profile)))

    def _a_confirm(self, body: bytes) -> None:
        noise, peer = self._read_confirm(body)
        self._send(Frame.CONFIRM, noise.encrypt(encode_body(self._profile)))
        self._paired(noise, peer)

    def _b_confirm(self, body: bytes) -> None:
        self._paired(*self._read_confirm(body))

    def _read_noise(self, body: bytes) -> NoiseHandshake:
        noise = self._ready_noise()
        if noise.read(body):
            raise RemoteProtocolError("The other side sent a handshake message with a payload.")
        return noise

    def _is_somebody_else(self, noise: NoiseHandshake) -> bool:
        # Two pairings of one node, one as A and one as B, may be wired to each other by whoever is between.
        if noise.remote_static == noise.local_static:
            self._fail(CloseCode.SELF, met_ourselves())
        return not self._over(State.FAILED)

    def _read_confirm(self, body: bytes) -> tuple[NoiseHandshake, Profile]:
        noise = self._ready_noise()
        peer = decode_body(Profile, noise.decrypt(body))
        if not is_label(peer.label):
            raise RemoteProtocolError("The other side calls itself something that cannot be shown.")
        return noise, peer

    def _ready_noise(self) -> NoiseHandshake:
        if self._noise is None:
            raise LocalProtocolError("there is no Noise handshake in this state")
        return self._noise

    def _paired(self, noise: NoiseHandshake, peer: Profile) -> None:
        if self._try is not None:
            self._try.succeeded()
        self._try = None
        self._events.append(Paired(peer, noise.remote_static, noise.handshake_hash))
        self._forget()

    def _put_at_stake(self) -> None:
        self._at_stake = True
        self._events.append(TryTaken())

    def _fail(self, code: CloseCode, error: TetherError) -> None:
        spent = self._try is not None and self._at_stake
        if self._try is not None and self._at_stake:
            self._try.failed()
        elif self._try is not None:
            self._try.unused()
        self._try = None
        self._state = State.FAILED
        self._out.clear()
        self._events.append(Failed(code, error, spent))
        self._forget()

    def _forget(self) -> None:
        # Python wipes no memory; dropping what is secret at least keeps it out of a later dump of this object.
        self._secret = self._static_private = b""
        self._spake = self._noise = None

    def _over(self, *states: State) -> bool:
        return self._state in states

    def _send(self, kind: Frame, body: bytes) -> None:
        self._out += encode_frame(kind, body)

    def _bound(self, role: str) -> bytes:
        if self._role is Role.A:
            return self._binding.fields(role, self._hello, self._peer_hello)
        return self._binding.fields(role, self._peer_hello, self._hello)


_Action = Callable[[Pairing, bytes], None]

TRANSITIONS: Final[Mapping[Role, Mapping[tuple[State, Frame | Own], tuple[State, _Action]]]] = {
    Role.A: {
        (State.HELLO, Frame.HELLO): (State.SHARE_COMPUTED, Pairing._a_hello),
        (State.SHARE_COMPUTED, Own.COMPUTED): (State.PAKE, Pairing._a_share_computed),
        (State.PAKE, Frame.PAKE): (State.KEY_COMPUTED, Pairing._a_pake),
        (State.KEY_COMPUTED, Own.COMPUTED): (State.NOISE, Pairing._a_key_computed),
        (State.KEY_COMPUTED, Own.REFUSED): (State.FAILED, Pairing._pake_refused),
        (State.NOISE, Frame.NOISE): (State.CONFIRM, Pairing._a_noise),
        (State.CONFIRM, Frame.CONFIRM): (State.PAIRED, Pairing._a_confirm),
    },
    Role.B: {
        (State.HELLO, Frame.HELLO): (State.PAKE, Pairing._b_hello),
        (State.PAKE, Frame.PAKE): (State.KEY_COMPUTED, Pairing._b_pake),
        (State.KEY_COMPUTED, Own.COMPUTED): (State.NOISE, Pairing._b_key_computed),
        (State.KEY_COMPUTED, Own.REFUSED): (State.FAILED, Pairing._pake_refused),
        (State.NOISE, Frame.NOISE): (State.LAST_NOISE, Pairing._b_noise),
        (State.LAST_NOISE, Frame.NOISE): (State.CONFIRM, Pairing._b_last_noise),
        (State.CONFIRM, Frame.CONFIRM): (State.PAIRED, Pairing._b_confirm),
    },
}
"""What may happen when. A frame that is not listed is the peer's fault, anything else not listed is ours."""
