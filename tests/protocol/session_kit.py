"""Two session machines wired to each other, with who knows whom under the test's control."""

import hashlib
from collections.abc import Sequence

import attrs

from meshd.model.identity import Identity, Keys
from meshd.protocol.binding import Binding
from meshd.protocol.session import PURPOSE, AnsweredSession, DialledSession
from meshd.protocol.session_events import Claimed, Confirmed, Event, Failed, Hinted, Tagged
from meshd.wire.constants import CloseCode, Frame
from meshd.wire.framing import FrameDecoder
from meshd.wire.session import FRAMES_OF_A
from tests.protocol.back_to_back import ALPN, DIGEST, fixed_bytes, fixed_entropy

MESH = fixed_bytes("mesh")
SECRETS = tuple(fixed_bytes(f"secret {number}") for number in (5, 4, 3, 2, 1))
"""Newest first."""


def keys(name: str) -> Keys:
    return Keys.generate(fixed_entropy(f"{name} keys"))


ALICE, BOB, CAROL = keys("alice"), keys("bob"), keys("carol")


def binding(digest: bytes = DIGEST) -> Binding:
    return Binding(certificate_digest=digest, alpn=ALPN, purpose=PURPOSE)


def dialled(
    *,
    own: Keys = ALICE,
    mesh: bytes = MESH,
    secrets: Sequence[bytes] = SECRETS[:1],
    introduction: Sequence[bytes] = (),
    digest: bytes = DIGEST,
    name: str = "dialled",
    now: float = 0.0,
) -> DialledSession:
    return DialledSession(
        keys=own,
        mesh=mesh,
        secrets=secrets,
        introduction=introduction,
        binding=binding(digest),
        entropy=fixed_entropy(name),
        now=now,
    )


def answered(*, own: Keys = BOB, digest: bytes = DIGEST, name: str = "answered", now: float = 0.0) -> AnsweredSession:
    return AnsweredSession(keys=own, binding=binding(digest), entropy=fixed_entropy(name), now=now)


@attrs.define
class Ran:
    """A machine, whom it knows, what it said and what it sent."""

    machine: DialledSession | AnsweredSession
    members: Sequence[Identity] = ()
    meshes: Sequence[tuple[bytes, bytes]] = ()
    """Pairs of mesh id and secret."""
    events: list[Event] = attrs.field(factory=list)
    sent: bytes = b""

    def turn(self, now: float = 1.0) -> bytes:
        while (event := self.machine.next_event()) is not None:
            self.events.append(event)
            self._answer(event)
        data = self.machine.data_to_send(now)
        self.sent += data
        return data

    def _answer(self, event: Event) -> None:
        machine = self.machine
        match event:
            case Hinted() if isinstance(machine, DialledSession):
                found = [member for member in self.members if event.is_of(member.node)]
                if found:
                    machine.call(found[0])
                else:
                    machine.give_up(CloseCode.NOT_A_MEMBER, "nobody we know")
            case Tagged() if isinstance(machine, AnsweredSession):
                found_mesh = [(mesh, secret) for mesh, secret in self.meshes if event.is_of(secret)]
                if found_mesh:
                    machine.choose(*found_mesh[0])
                else:
                    machine.choose_none()
            case Claimed() if isinstance(machine, AnsweredSession):
                known = [
                    member
                    for member in self.members
                    if (member.noise_key, member.signing_key) == (event.noise_key, event.signing_key)
                ]
                if known:
                    machine.accept(known[0])
                else:
                    machine.refuse()

    def feed(self, data: bytes, piece: int | None = None, now: float = 1.0) -> bytes:
        """Give `data` whole or in pieces of `piece` bytes; what the machine answered."""
        size = piece or max(len(data), 1)
        answer = b""
        for start in range(0, len(data), size):
            self.machine.receive_data(data[start : start + size], now)
            answer += self.turn(now)
        return answer

    @property
    def failed(self) -> Failed | None:
        return next((event for event in self.events if isinstance(event, Failed)), None)

    @property
    def code(self) -> CloseCode | None:
        return self.failed.error.code if self.failed else None

    @property
    def confirmed(self) -> Confirmed | None:
        return next((event for event in self.events if isinstance(event, Confirmed)), None)

    @property
    def claimed(self) -> Claimed | None:
        return next((event for event in self.events if isinstance(event, Claimed)), None)

    @property
    def frames(self) -> list[tuple[Frame, bytes]]:
        decoder = FrameDecoder(FRAMES_OF_A)
        decoder.receive(self.sent)
        frames = []
        while (frame := decoder.next_frame()) is not None:
            frames.append(frame)
        return frames


def alice(machine: DialledSession | None = None, knows: Sequence[Keys] = (BOB,)) -> Ran:
    """Who dials."""
    return Ran(machine or dialled(), [each.identity for each in knows])


def bob(
    machine: AnsweredSession | None = None,
    knows: Sequence[Keys] = (ALICE,),
    meshes: Sequence[tuple[bytes, bytes]] = ((MESH, SECRETS[0]),),
) -> Ran:
    """Who answers."""
    return Ran(machine or answered(), [each.identity for each in knows], meshes)


def talk(a: Ran, b: Ran, *, piece: int | None = None, now: float = 1.0) -> None:
    """Let the two talk until both are silent. Who fails closes the connection, as the driver does."""
    to_b, to_a = a.turn(now), b.turn(now)
    while to_a or to_b:
        to_a += b.feed(to_b, piece, now)
        to_b = a.feed(to_a, piece, now)
        to_a = b""
    for one, other in ((a, b), (b, a)):
        if one.failed:
            other.machine.connection_lost(now, one.failed.error.code)
            other.turn(now)


def other_certificate() -> bytes:
    return hashlib.sha256(b"of the one in the middle").digest()
