"""Two pairing machines wired to each other, with entropy and time under the test's control."""

import hashlib
from collections.abc import Callable

from meshd.protocol.admission import Window
from meshd.protocol.binding import Binding
from meshd.protocol.handshake import Role
from meshd.protocol.pairing import Event, Failed, Paired, Pairing, PakeDue, PakeResult, TryTaken
from meshd.wire.constants import PAIRING_FRAMES, CloseCode, Frame
from meshd.wire.framing import FrameDecoder
from meshd.wire.messages import Profile

SECRET = b"crystal-clock-tower"
DIGEST = hashlib.sha256(b"the server's certificate").digest()
ALPN = "tether/1"


def fixed_bytes(label: str, size: int = 32) -> bytes:
    return hashlib.shake_256(label.encode()).digest(size)


def fixed_entropy(label: str) -> Callable[[int], bytes]:
    """Bytes that differ from call to call and not from run to run."""
    calls = 0

    def entropy(size: int) -> bytes:
        nonlocal calls
        calls += 1
        return fixed_bytes(f"{label} {calls}", size)

    return entropy


def pairing(
    role: Role,
    *,
    secret: bytes = SECRET,
    digest: bytes = DIGEST,
    alpn: str = ALPN,
    window: Window | None = None,
    name: str | None = None,
    static: bytes | None = None,
    label: str | None = None,
    now: float = 0.0,
) -> Pairing:
    name = name or f"machine {role.value}"
    return Pairing(
        role,
        secret=secret,
        binding=Binding(certificate_digest=digest, alpn=alpn),
        static_private=static or fixed_bytes(f"{name} static"),
        profile=Profile(label=label or name, sends=role is Role.A, receives=role is Role.B, verify=False),
        window=window or Window(),
        entropy=fixed_entropy(name),
        now=now,
    )


class Ran:
    """A machine, what it said and what it sent; does the arithmetic where a driver would use a thread."""

    def __init__(self, machine: Pairing) -> None:
        self.machine = machine
        self.events: list[Event] = []
        self.sent = b""
        self.results: list[PakeResult] = []

    def turn(self, now: float = 1.0) -> bytes:
        while (event := self.machine.next_event()) is not None:
            self.events.append(event)
            if isinstance(event, PakeDue):
                self.results.append(self.machine.compute_pake())
                self.machine.pake_computed(self.results[-1], now)
        data = self.machine.data_to_send(now)
        self.sent += data
        return data

    def feed(self, data: bytes, piece: int | None = None, now: float = 1.0) -> bytes:
        """Give `data` whole or in pieces of `piece` bytes; what the machine answered."""
        size = piece or max(len(data), 1)
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        answer = b""
        for part in pieces:
            self.machine.receive_data(part, now)
            answer += self.turn(now)
        return answer

    @property
    def failed(self) -> Failed | None:
        return next((event for event in self.events if isinstance(event, Failed)), None)

    @property
    def paired(self) -> Paired | None:
        return next((event for event in self.events if isinstance(event, Paired)), None)

    @property
    def tried(self) -> bool:
        return TryTaken() in self.events

    @property
    def code(self) -> CloseCode | None:
        return self.failed.code if self.failed else None

    @property
    def frames(self) -> list[tuple[Frame, bytes]]:
        decoder = FrameDecoder(PAIRING_FRAMES)
        decoder.receive(self.sent)
        frames = []
        while (frame := decoder.next_frame()) is not None:
            frames.append(frame)
        return frames


def run(a: Pairing, b: Pairing, *, piece: int | None = None, now: float = 1.0) -> tuple[Ran, Ran]:
    """Let the two talk until both are silent; who fails closes the connection, as the driver does."""
    one, two = Ran(a), Ran(b)
    to_b, to_a = one.turn(now), two.turn(now)
    while to_a or to_b:
        to_a += two.feed(to_b, piece, now)
        to_b = b""
        if two.failed:
            a.connection_lost(now, two.failed.code)
        to_b += one.feed(to_a, piece, now)
        to_a = b""
        if one.failed:
            b.connection_lost(now, one.failed.code)
            two.turn(now)
    one.turn(now)
    return one, two
