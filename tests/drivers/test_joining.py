"""Invitations from end to end on the simulated network: pairing with the machines' own keys, joining, and what goes wrong."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from meshd import status
from meshd.drivers import handoff
from meshd.drivers.joining import Admission, Entry, Given, invite, join
from meshd.drivers.link_streams import Purpose, open_frame
from meshd.drivers.meeting import Seeker, Settings
from meshd.drivers.quic import Connection
from meshd.drivers.threads import inline
from meshd.errors import (
    ConnectionLostError,
    NobodyFoundError,
    RefusedError,
    RemoteProtocolError,
    TetherError,
    WrongPassphraseError,
)
from meshd.model.facts import Admit
from meshd.model.identity import Identity, Keys
from meshd.model.record import NO_HASH
from meshd.protocol.joining import Offered, Welcomed
from meshd.protocol.welcome import Roll
from meshd.wire.constants import CloseCode
from meshd.wire.joining import MeshSecret
from tests.drivers.meshes import Belonging, Machine, machine
from tests.drivers.pairs import engine, every_pair
from tests.protocol.back_to_back import fixed_bytes
from tests.protocol.joining_kit import Mesh
from tests.protocol.session_kit import ALICE, BOB, CAROL
from tests.sim.handoffs import MemorySink, MemorySource, settings
from tests.sim.network import Network, simulated

SECRET = b"crystal-nuclear-tango"
WRONG = b"abandon-ability-able"
MESH_SECRET = MeshSecret(number=1, record=NO_HASH, secret=fixed_bytes("mesh secret"))


@attrs.define
class House:
    """The admitting mesh (drivers/joining.py, `Host`)."""

    seen: Mesh
    own: Keys = ALICE
    no: TetherError | None = None
    no_write: TetherError | None = None
    extra: list[bytes] = attrs.field(factory=list)
    asked: list[tuple[Identity, str]] = attrs.field(factory=list)
    written: Callable[[], None] = lambda: None

    @property
    def mesh(self) -> bytes:
        return self.seen.id

    @property
    def mesh_name(self) -> str:
        return self.seen.name

    def name_for(self, newcomer: Identity, wanted: str) -> str:
        self.asked.append((newcomer, wanted))
        if self.no is not None:
            raise self.no
        return wanted + "-2"

    async def admit(self, admission: Admit) -> Given:
        await trio.lowlevel.checkpoint()
        if self.no_write is not None:
            raise self.no_write
        self.seen.write(self.own, admission)
        self.written()
        return Given([MESH_SECRET], [*self.seen.encoded, *self.extra])


@attrs.define
class Visitor:
    """The machine that enters (drivers/joining.py, `Guest`)."""

    no: TetherError | None = None
    no_disk: TetherError | None = None
    entered: list[tuple[Welcomed, Roll]] = attrs.field(factory=list)

    def consider(self, offered: Offered) -> None:
        if self.no is not None:
            raise self.no

    async def enter(self, welcomed: Welcomed, roll: Roll) -> None:
        await trio.lowlevel.checkpoint()
        if self.no_disk is not None:
            raise self.no_disk
        self.entered.append((welcomed, roll))


@attrs.define
class End:
    """How one side ended."""

    result: object = None
    error: TetherError | None = None
    events: list[status.Event] = attrs.field(factory=list)

    async def of(self, work: Callable[[], Awaitable[object]]) -> None:
        try:
            self.result = await work()
        except TetherError as error:
            self.error = error


@attrs.define
class World:
    network: Network
    member: Machine
    newcomer: Machine
    nursery: trio.Nursery
    house: House
    visitor: Visitor = attrs.field(factory=Visitor)
    invited: End = attrs.field(factory=End)
    joined: End = attrs.field(factory=End)

    def invite(self, seconds: float = 600.0) -> None:
        self.nursery.start_soon(self.invited.of, lambda: self._invite(seconds))

    async def _invite(self, seconds: float) -> Admission:
        return await invite(
            self.member.reception,
            self.member.keys,
            self.house,
            secret=SECRET,
            label="founder",
            seconds=seconds,
            observer=self.invited.events.append,
            offload=inline,
        )

    def settings(self, secret: bytes = SECRET) -> Settings:
        return settings(
            engine=self.newcomer.endpoint.engine,
            peer=self.member.address,
            secret=secret,
            observer=self.joined.events.append,
        )

    def join(self, secret: bytes = SECRET) -> None:
        self.nursery.start_soon(self.joined.of, lambda: self._join(secret))

    async def _join(self, secret: bytes) -> Entry:
        machine = self.newcomer
        return await join(self.settings(secret), machine.endpoint, machine.keys, "bob", self.visitor)

    async def both(self) -> None:
        with trio.fail_after(120):
            while not (self.invited.result or self.invited.error) or not (self.joined.result or self.joined.error):
                await trio.sleep(0.05)


@asynccontextmanager
async def invitation(
    house: House | None = None, *, pair: tuple[str, str] = ("qh3", "qh3"), newcomer: Keys = BOB, **link: float
) -> AsyncIterator[World]:
    house = house or House(Mesh())
    async with simulated(1, **link) as network:
        alice, bob = network.host("alice"), network.host("bob")
        async with (
            machine(alice, ALICE, Belonging(ALICE, house.seen), used=pair[1]) as member,
            machine(bob, newcomer, used=pair[0]) as near,
            trio.open_nursery() as nursery,
        ):
            yield World(network, member, near, nursery, house)
            nursery.cancel_scope.cancel()


@every_pair
async def test_a_machine_joins_and_is_then_linked(pair, autojump_clock) -> None:
    async with invitation(pair=pair) as world:
        world.invite()
        world.join()
        await world.both()
        assert (world.invited.error, world.joined.error) == (None, None)
        assert world.invited.result == Admission(BOB.identity, "bob-2", world.newcomer.address)
        ((welcomed, roll),) = world.visitor.entered
        assert world.joined.result == Entry(welcomed.offered, world.member.address)
        assert welcomed.offered == Offered(world.house.mesh, "home", ALICE.identity, "bob-2")
        assert welcomed.secrets == (MESH_SECRET,)
        assert roll.roster.members[BOB.identity.signing_key].name == "bob-2"
        assert world.house.asked == [(BOB.identity, "bob")]
        assert status.Paired("founder", str(world.member.address)) in world.joined.events
        await trio.sleep(2)
        assert not world.member.endpoint.connections and not world.newcomer.endpoint.connections

        world.newcomer.memberships.append(Belonging(BOB, world.house.seen))
        link = await world.newcomer.dial(world.member)
        assert link.peer == ALICE.identity


async def test_a_large_roster_over_a_bad_network(autojump_clock) -> None:
    mesh = Mesh()
    for number in range(300):
        mesh.admit(ALICE, Keys(fixed_bytes(f"s{number}"), fixed_bytes(f"n{number}")), f"m{number}")
    async with invitation(House(mesh), loss=0.05, delay=0.02) as world:
        world.invite()
        world.join()
        await world.both()
        assert world.joined.error is None
        assert len(world.visitor.entered[0][1].records) == 302


async def test_wrong_words_spend_the_three_tries_of_an_invitation(autojump_clock) -> None:
    async with invitation() as world:
        world.invite()
        for tries in (1, 2, 3):
            world.joined = End()
            with pytest.raises(WrongPassphraseError):
                await world._join(WRONG)
            await trio.sleep(0.1)
            assert len([e for e in world.invited.events if isinstance(e, status.TrySpent)]) == tries
        await trio.sleep(0.1)
        assert isinstance(world.invited.error, WrongPassphraseError)
        assert len(world.house.seen.records) == 1
        with pytest.raises(NobodyFoundError):
            await world._join(SECRET)


async def test_an_invitation_ends_and_members_are_answered_all_the_while(autojump_clock) -> None:
    mesh = Mesh()
    mesh.admit(ALICE, CAROL, "carol")
    async with invitation(House(mesh), newcomer=CAROL) as world:
        world.newcomer.memberships.append(Belonging(CAROL, mesh))
        world.invite(seconds=60)
        await trio.sleep(1)
        assert (await world.newcomer.dial(world.member)).peer == ALICE.identity
        await trio.sleep(60)
        assert isinstance(world.invited.error, NobodyFoundError)
        connection = await world.newcomer.connect(world.member)
        await (await connection.open_stream()).send_all(b"\x01")
        assert (await connection.wait_closed()).code == CloseCode.WINDOW_CLOSED
        assert (await world.newcomer.dial(world.member)).peer == ALICE.identity


async def test_one_invitation_at_a_time(autojump_clock) -> None:
    async with invitation() as world:
        world.invite(seconds=60)
        await trio.sleep(1)
        with pytest.raises(RefusedError):
            await world._invite(60)
        await trio.sleep(60)
        world.invited = End()
        world.invite()
        world.join()
        await world.both()
        assert world.joined.error is None


async def test_who_comes_second_hears_that_somebody_was_first(autojump_clock) -> None:
    async with invitation() as world:
        world.house = slow = SlowHouse(world.house.seen)
        world.invite()
        world.join()
        await trio.sleep(1)
        carol = world.network.host("carol")
        async with machine(carol, CAROL) as third:
            with pytest.raises(NobodyFoundError) as caught:
                await join(world.settings(), third.endpoint, CAROL, "carol", Visitor())
            assert "Somebody else who holds the words has paired" in str(caught.value)
        slow.gate.set()
        await world.both()
        assert world.joined.error is None


@attrs.define
class SlowHouse(House):
    """Writes when it is let."""

    gate: trio.Event = attrs.field(factory=trio.Event, kw_only=True)

    async def admit(self, admission: Admit) -> Given:
        await self.gate.wait()
        return await House.admit(self, admission)


# Nothing, or a mesh that works


async def test_the_member_says_no(autojump_clock) -> None:
    async with invitation(House(Mesh(), no=RefusedError("That machine was revoked."))) as world:
        world.invite()
        world.join()
        await world.both()
        assert world.invited.error is world.house.no
        assert isinstance(world.joined.error, RefusedError)
        assert world.joined.error.what == "The other side refused: That machine was revoked."
        assert len(world.house.seen.records) == 1 and not world.visitor.entered


async def test_the_newcomer_says_no(autojump_clock) -> None:
    async with invitation() as world:
        world.visitor.no = RefusedError("This machine is in a mesh of that name.")
        world.invite()
        world.join()
        await world.both()
        assert world.joined.error is world.visitor.no
        assert isinstance(world.invited.error, RefusedError)
        assert len(world.house.seen.records) == 1


async def test_a_member_whose_disk_is_full_admits_nobody(autojump_clock) -> None:
    async with invitation(House(Mesh(), no_write=RefusedError("There is no room on the disk."))) as world:
        world.invite()
        world.join()
        await world.both()
        assert world.invited.error is world.house.no_write
        assert isinstance(world.joined.error, RefusedError) and not world.visitor.entered


async def test_a_newcomer_whose_disk_is_full_can_be_invited_again(autojump_clock) -> None:
    async with invitation() as world:
        world.visitor.no_disk = RefusedError("There is no room on the disk.")
        world.invite()
        world.join()
        await world.both()
        assert world.joined.error is world.visitor.no_disk
        admission = world.invited.result
        assert isinstance(admission, Admission) and isinstance(admission.trouble, RefusedError)
        world.visitor.no_disk = None
        world.invited, world.joined = End(), End()
        world.invite()
        world.join()
        await world.both()
        assert world.invited.result == Admission(BOB.identity, "bob-2", world.newcomer.address)
        assert len(world.visitor.entered) == 1
        assert world.house.seen.roster().members[BOB.identity.signing_key].is_active


async def test_a_roster_that_is_not_right_is_not_stored(autojump_clock) -> None:
    other = Mesh(nonce="another")
    async with invitation(House(Mesh(), extra=other.encoded)) as world:
        world.invite()
        world.join()
        await world.both()
        assert isinstance(world.joined.error, RemoteProtocolError)
        assert not world.visitor.entered


@pytest.mark.parametrize("when", ["before the admission", "after it"])
async def test_a_network_that_fails_under_it(when: str, autojump_clock) -> None:
    async with invitation() as world:

        def cut() -> None:
            world.network.cut(world.member.host, world.newcomer.host)

        if when == "after it":
            world.house.written = cut
        else:
            world.visitor = CuttingVisitor(cut)
        world.invite()
        world.join()
        await world.both()
        assert isinstance(world.joined.error, ConnectionLostError) and not world.visitor.entered
        if when == "after it":
            admission = world.invited.result
            assert isinstance(admission, Admission) and isinstance(admission.trouble, ConnectionLostError)
        else:
            assert isinstance(world.invited.error, ConnectionLostError)
            assert len(world.house.seen.records) == 1
        world.network.heal(world.member.host, world.newcomer.host)
        world.house.written = lambda: None
        world.visitor = Visitor()
        world.invited, world.joined = End(), End()
        world.invite()
        world.join()
        await world.both()
        assert world.joined.error is None and world.invited.error is None


class CuttingVisitor(Visitor):
    """The network goes as it looks at the offer."""

    def __init__(self, cut: Callable[[], None]) -> None:
        super().__init__()
        self.cut = cut

    def consider(self, offered: Offered) -> None:
        self.cut()


async def test_who_pairs_and_then_does_not_join_is_not_waited_for(autojump_clock) -> None:
    for first in (None, open_frame(Purpose.SYNC), b"\x06", b"junk that is no frame"):
        async with invitation() as world:
            world.invite()
            found = world.settings()
            profile = handoff.Profile(label="bob", sends=False, receives=False, verify=False, join="enter")
            met = await Seeker(found, world.newcomer.endpoint, found.pairings(profile, BOB.noise_private)).find()
            start = trio.current_time()
            if first is not None:
                await (await met.connection.open_stream()).send_all(first)
            await met.connection.wait_closed()
            assert trio.current_time() - start <= 61
            await trio.sleep(0.1)
            assert isinstance(world.invited.error, ConnectionLostError)


# With a handoff at the other end


async def test_who_only_hands_over_is_told_plainly(autojump_clock) -> None:
    async with invitation() as world:
        world.invite()
        found = attrs.evolve(world.settings(), engine=engine("qh3"))
        with world.newcomer.host, pytest.raises(RefusedError) as caught:
            await handoff.connect(found, handoff.Cargo(MemorySource(b"x"), None))
        await trio.sleep(1)
        for error in (caught.value, world.invited.error):
            assert isinstance(error, RefusedError)
            assert error.what == "One side holds these words for a mesh, the other for a payload."
        assert len(world.house.seen.records) == 1


async def test_who_joins_a_listener_that_takes_a_payload_is_told_plainly(autojump_clock) -> None:
    async with simulated(1) as network:
        alice, bob = network.host("alice"), network.host("bob")
        listening = End()
        async with machine(bob, BOB) as newcomer, trio.open_nursery() as nursery:
            nursery.start_soon(
                alice.run,
                lambda: listening.of(
                    lambda: handoff.listen(
                        settings(engine=engine("qh3"), secret=SECRET, port=4242), handoff.Cargo(None, MemorySink())
                    )
                ),
            )
            await trio.sleep(0.1)
            found = settings(
                engine=engine("qh3"), secret=SECRET, peer=attrs.evolve(newcomer.address, host=alice.address, port=4242)
            )
            with pytest.raises(RefusedError) as caught:
                await join(found, newcomer.endpoint, BOB, "bob", Visitor())
            assert "for a payload" in caught.value.what
        assert isinstance(listening.error, RefusedError) and "for a payload" in listening.error.what


async def test_cancelled_the_door_is_shut_and_callers_are_told(autojump_clock) -> None:
    async with invitation() as world:
        connections: list[Connection] = []
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world._invite, 600)
                await trio.sleep(0.1)
                connection = await world.newcomer.connect(world.member)
                connections.append(connection)
                stream = await connection.open_stream()
                await stream.send_all(b"\x01\0\0")
                await trio.sleep(0.1)
                scope.cancel()
        assert (await connections[0].wait_closed()).code == CloseCode.INTERRUPTED
        world.invite()
        world.join()
        await world.both()
        assert world.joined.error is None
