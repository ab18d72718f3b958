"""Two joining machines wired to each other, and small meshes of true records."""

from collections.abc import Sequence

import attrs

from meshd.model.facts import Admit, Found, Revoke, countersign
from meshd.model.identity import Identity, Keys
from meshd.model.record import NO_HASH, Head, Log, Record, write_record
from meshd.model.roster import Roster, RosterRecord
from meshd.protocol.joining import Admitting, Asked, Consented, Entering, Event, Failed, Joined, Offered, Welcomed
from meshd.wire import bodies
from meshd.wire.joining import MeshSecret
from tests.protocol.back_to_back import fixed_bytes
from tests.protocol.session_kit import ALICE, BOB

HASH = fixed_bytes("handshake hash")


class Mesh:
    """Roster records of one mesh, each author with one chain."""

    def __init__(self, founder: Keys = ALICE, name: str = "home", nonce: str = "nonce") -> None:
        me = founder.identity
        found = Found(
            mesh_name=name,
            name="founder",
            noise_key=me.noise_key,
            binding=me.binding,
            recovery_key=b"",
            nonce=fixed_bytes(nonce),
        )
        self._heads: dict[bytes, Head] = {}
        self.records: list[Record] = []
        self.id = NO_HASH
        self.name = name
        self.id = self.write(founder, found).hash

    def write(self, keys: Keys, fact: bodies.Body) -> Record:
        """The next roster record of `keys`."""
        kind, log = bodies.type_of(fact)
        assert log is Log.ROSTER
        author = keys.identity.signing_key
        record = write_record(
            keys,
            mesh=self.id,
            log=log,
            generation=1,
            previous=self._heads.get(author),
            clock=len(self.records) << 16,
            kind=kind,
            body=bodies.encode(fact),
        )
        self._heads[author] = record.head
        self.records.append(record)
        return record

    def admit(self, parent: Keys, newcomer: Keys, name: str = "newcomer") -> Record:
        return self.write(parent, countersign(newcomer, self.id, parent.identity.signing_key, name))

    def revoke(self, by: Keys, target: Keys) -> Record:
        fact = Revoke(signing_key=target.identity.signing_key, cuts=(), keep=(), reason="lost")
        return self.write(by, fact)

    @property
    def encoded(self) -> list[bytes]:
        return [record.encode() for record in self.records]

    def roster(self) -> Roster:
        facts = [(record, bodies.decode(record)) for record in self.records]
        return Roster.fold(self.id, [RosterRecord.of(record, fact) for record, fact in facts])


def secrets_of(mesh: Mesh) -> list[MeshSecret]:
    return [MeshSecret(number=1, record=NO_HASH, secret=fixed_bytes("mesh secret"))]


def admitting(mesh: Mesh, *, own: Keys = ALICE, peer: Identity | None = None, now: float = 0.0) -> Admitting:
    return Admitting(
        keys=own,
        mesh=mesh.id,
        mesh_name=mesh.name,
        handshake_hash=HASH,
        peer_static=(peer or BOB.identity).noise_key,
        now=now,
    )


def entering(*, own: Keys = BOB, peer: Identity | None = None, name: str = "bob", now: float = 0.0) -> Entering:
    return Entering(keys=own, name=name, handshake_hash=HASH, peer_static=(peer or ALICE.identity).noise_key, now=now)


@attrs.define
class Ran:
    """A machine, what it said and what it sent. It agrees to all that it is asked."""

    machine: Admitting | Entering
    mesh: Mesh
    records: Sequence[bytes] | None = None
    """What the newcomer is given; None for the mesh as it is then."""
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
            case Asked(_, name):
                assert isinstance(machine, Admitting)
                machine.offer(name)
            case Consented(admission):
                assert isinstance(machine, Admitting)
                self.mesh.write(ALICE, admission)
                machine.admitted(secrets_of(self.mesh), self.mesh.encoded if self.records is None else self.records)
            case Offered():
                assert isinstance(machine, Entering)
                machine.consent()
            case Welcomed():
                assert isinstance(machine, Entering)
                machine.stored()
            case _:
                pass

    def feed(self, data: bytes, piece: int | None = None, now: float = 1.0) -> bytes:
        size = piece or max(len(data), 1)
        answer = b""
        for start in range(0, len(data), size):
            self.machine.receive_data(data[start : start + size], now)
            answer += self.turn(now)
        return answer

    def event(self, kind: type) -> Event | None:
        return next((event for event in self.events if isinstance(event, kind)), None)

    @property
    def failed(self) -> Failed | None:
        return next((event for event in self.events if isinstance(event, Failed)), None)

    @property
    def joined(self) -> bool:
        return Joined() in self.events


def talk(newcomer: Ran, member: Ran, *, piece: int | None = None, now: float = 1.0) -> None:
    """Let the two talk until both are silent."""
    to_member, to_newcomer = newcomer.turn(now), b""
    while to_member or to_newcomer:
        to_newcomer += member.feed(to_member, piece, now)
        to_member = newcomer.feed(to_newcomer, piece, now)
        to_newcomer = b""


def admission_of(ran: Ran) -> Admit:
    event = ran.event(Consented)
    assert isinstance(event, Consented)
    return event.admission
