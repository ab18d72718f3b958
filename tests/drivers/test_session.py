"""Sessions over the simulated network, for every pairing of engines where the engine may matter."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from meshd.drivers.door import hear
from meshd.drivers.link import PathKind
from meshd.drivers.link_streams import Purpose, open_frame, read_purpose
from meshd.drivers.quic import Closed, DriverCode
from meshd.drivers.session import AlreadyLinkedError, SessionError
from meshd.model.identity import Keys
from meshd.wire.constants import CloseCode, Frame
from meshd.wire.framing import encode_frame
from tests.drivers.meshes import Belonging, Machine, machine
from tests.drivers.pairs import every_pair, linked
from tests.protocol.back_to_back import fixed_bytes
from tests.protocol.joining_kit import Mesh
from tests.protocol.session_kit import ALICE, BOB, CAROL, dialled, keys
from tests.sim.network import simulated


def home() -> Mesh:
    mesh = Mesh()
    mesh.admit(ALICE, BOB, "bob")
    return mesh


@attrs.define
class World:
    alice: Machine
    bob: Machine


@asynccontextmanager
async def two(
    dialler: Belonging, answerer: Belonging, *more: Belonging, pair: tuple[str, str] = ("qh3", "qh3"), **link: float
) -> AsyncIterator[World]:
    """Alice dials, Bob answers for all of `answerer` and `more`."""
    async with simulated(1, **link) as network:
        alice, bob = network.host("alice"), network.host("bob")
        async with (
            machine(bob, answerer.own, answerer, *more, used=pair[1]) as far,
            machine(alice, dialler.own, dialler, used=pair[0]) as near,
        ):
            yield World(near, far)


async def answered(world: World) -> None:
    with trio.fail_after(5):
        while not world.bob.links:
            await trio.sleep(0.01)


@every_pair
async def test_members_link_and_streams_go_both_ways(pair, autojump_clock) -> None:
    mesh = home()
    async with two(Belonging(ALICE, mesh), Belonging(BOB, mesh), pair=pair) as world:
        near = await world.alice.dial(world.bob)
        await answered(world)
        (far,) = world.bob.links
        assert (near.mesh, near.peer, near.path, near.introduced) == (mesh.id, BOB.identity, PathKind.BY_HAND, False)
        assert (far.mesh, far.peer, far.path, far.introduced) == (mesh.id, ALICE.identity, PathKind.ACCEPTED, False)
        assert near.dialled_here and not far.dialled_here
        assert near.connection.admitted and far.connection.admitted
        for one, other in ((near, far), (far, near)):
            stream = await one.connection.open_stream()
            await stream.send_all(open_frame(Purpose.FETCH) + bytes(100_000))
            theirs = await other.connection.accept_stream()
            assert await read_purpose(theirs) is Purpose.FETCH
            count = 0
            while count < 100_000:
                count += len(await theirs.receive_some())
        await trio.sleep(60)
        assert near.connection.closed is far.connection.closed is None
        assert len(near.connection.streams) == len(far.connection.streams) == 2, "the first stream is over"


async def test_over_a_network_that_loses(autojump_clock) -> None:
    mesh = home()
    async with two(Belonging(ALICE, mesh), Belonging(BOB, mesh), loss=0.2, delay=0.05) as world:
        await world.alice.dial(world.bob)
        await answered(world)


async def test_of_several_meshes_the_one_that_is_meant(autojump_clock) -> None:
    mesh, other = home(), Mesh(founder=BOB, nonce="another")
    elsewhere = Belonging(BOB, other, [fixed_bytes("other secret")])
    async with two(Belonging(ALICE, mesh), elsewhere, Belonging(BOB, mesh)) as world:
        await world.alice.dial(world.bob)
        await answered(world)
        assert world.bob.links[0].mesh == mesh.id


# Who does not get in


def unknown_mesh() -> tuple[Belonging, Belonging]:
    mesh = home()
    return Belonging(ALICE, mesh, [fixed_bytes("guessed")]), Belonging(BOB, mesh)


def unknown_machine() -> tuple[Belonging, Belonging]:
    """Admitted, as it says, but it shows nothing for it."""
    mesh, theirs = home(), home()
    theirs.admit(ALICE, CAROL)
    return Belonging(CAROL, theirs, is_silent=True), Belonging(BOB, mesh)


def revoked() -> tuple[Belonging, Belonging]:
    before, after = home(), home()
    for mesh in (before, after):
        mesh.admit(ALICE, CAROL, "carol")
    after.revoke(ALICE, CAROL)
    return Belonging(CAROL, before), Belonging(BOB, after)


def blocked() -> tuple[Belonging, Belonging]:
    mesh = home()
    return Belonging(ALICE, mesh), Belonging(BOB, mesh, blocked={ALICE.identity.node})


def impostor() -> tuple[Belonging, Belonging]:
    """Alice's stolen Noise key under a signing key of its own."""
    mesh = home()
    return Belonging(Keys(fixed_bytes("impostor"), ALICE.noise_private), mesh), Belonging(BOB, mesh)


REFUSED = (unknown_mesh, unknown_machine, revoked, blocked, impostor)


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
async def test_who_is_refused_cannot_tell_why(kind, autojump_clock) -> None:
    dialler, answerer = kind()
    async with two(dialler, answerer) as world:
        connection = await world.alice.connect(world.bob)
        start = trio.current_time()
        # By hand, since our own dialler hangs up as soon as it knows.
        session = dialled(
            own=dialler.own,
            mesh=dialler.mesh,
            secrets=dialler.secrets(),
            introduction=dialler.introduction(),
            digest=connection.certificate_digest,
        )
        stream = await connection.open_stream()
        await stream.send_all(session.data_to_send(0.0))
        session.receive_data(await stream.receive_some(), 0.0)
        session.next_event()
        session.call(BOB.identity)
        await stream.send_all(session.data_to_send(0.0))
        with trio.move_on_after(5):
            session.receive_data(await stream.receive_some(), 0.0)
            await stream.send_all(session.data_to_send(0.0))
        closed = await connection.wait_closed()
        assert closed == Closed(CloseCode.NOT_A_MEMBER, "", by_peer=True)
        assert 9.4 < trio.current_time() - start <= 9.7
        assert not world.bob.links


@pytest.mark.parametrize("kind", [unknown_mesh, revoked, blocked, impostor], ids=lambda kind: kind.__name__)
async def test_who_dials_hears_that_it_is_no_member(kind, autojump_clock) -> None:
    async with two(*kind()) as world:
        with pytest.raises(SessionError) as caught:
            await world.alice.dial(world.bob)
        assert caught.value.code is CloseCode.NOT_A_MEMBER
        assert not world.bob.links
        await trio.sleep(2)
        assert not world.alice.endpoint.connections and not world.bob.endpoint.connections


async def test_what_breaks_the_rules_is_told_no_earlier(autojump_clock) -> None:
    mesh = home()
    async with two(Belonging(ALICE, mesh), Belonging(BOB, mesh)) as world:
        for junk in (
            b"\xff",
            encode_frame(Frame.NOISE, bytes(96)),
            encode_frame(Frame.SESSION_HELLO, b"\xc1"),
            b"\x05",
        ):
            connection = await world.alice.connect(world.bob)
            start = trio.current_time()
            stream = await connection.open_stream()
            await stream.send_all(junk)
            assert (await connection.wait_closed()).code == CloseCode.NOT_A_MEMBER
            assert trio.current_time() - start > 9.4


async def test_a_strangers_limits_hold_while_it_is_answered(autojump_clock) -> None:
    mesh = home()
    async with two(Belonging(ALICE, mesh), Belonging(BOB, mesh)) as world:
        connection = await world.alice.connect(world.bob)
        stream = await connection.open_stream()
        await stream.send_all(bytes([Frame.SESSION_HELLO]) + bytes(20_000))
        assert (await connection.wait_closed()).code == DriverCode.UNAUTHENTICATED

        connection = await world.alice.connect(world.bob)
        for _ in range(2):
            await (await connection.open_stream()).send_all(bytes([Frame.SESSION_HELLO]))
        assert (await connection.wait_closed()).code == DriverCode.UNAUTHENTICATED

        connection = await world.alice.connect(world.bob)
        start = trio.current_time()
        assert (await connection.wait_closed()).code in (CloseCode.TIMED_OUT, DriverCode.UNAUTHENTICATED)
        assert trio.current_time() - start <= 10.1


async def test_a_first_byte_that_comes_late_gets_no_more_time(autojump_clock) -> None:
    mesh = home()
    async with two(Belonging(ALICE, mesh), Belonging(BOB, mesh)) as world:
        connection = await world.alice.connect(world.bob)
        start = trio.current_time()
        stream = await connection.open_stream()
        await trio.sleep(8)
        await stream.send_all(bytes([Frame.SESSION_HELLO]))
        await connection.wait_closed()
        assert trio.current_time() - start <= 10.1


@every_pair
async def test_the_first_words_are_heard_whole(pair, autojump_clock) -> None:
    async with linked(pair, admit=False) as world:
        stream = await world.near.open_stream()
        await stream.send_all(b"first words")
        caller = await hear(world.far)
        assert caller is not None and caller.first == b"first words"
        assert not world.far.admitted


# What a dialler finds out


async def test_who_reaches_itself_notices(autojump_clock) -> None:
    mesh = home()
    async with two(Belonging(ALICE, mesh), Belonging(BOB, mesh)) as world:
        with pytest.raises(SessionError) as caught:
            await world.alice.dial(world.alice)
        assert caught.value.code is CloseCode.SELF


async def test_a_member_that_is_linked_already_is_named(autojump_clock) -> None:
    mesh = home()
    async with two(Belonging(ALICE, mesh), Belonging(BOB, mesh)) as world:
        await world.alice.dial(world.bob)
        with pytest.raises(AlreadyLinkedError) as caught:
            await world.alice.dial(world.bob, is_linked=lambda node: node == BOB.identity.node)
        assert caught.value.node == BOB.identity.node
        await trio.sleep(1)
        assert len(world.bob.links) == 1


async def test_a_listener_of_a_handoff_is_no_member(autojump_clock) -> None:
    mesh = home()
    async with simulated(1) as network:
        alice, bob = network.host("alice"), network.host("bob")
        async with machine(bob, BOB, answers=False) as far, machine(alice, ALICE, Belonging(ALICE, mesh)) as near:
            with pytest.raises(SessionError):
                await near.dial(far)


async def never(caller: object) -> None:
    await trio.sleep_forever()


async def test_a_peer_that_says_nothing_is_given_up_at_the_deadline(autojump_clock) -> None:
    mesh = home()
    async with two(Belonging(ALICE, mesh), Belonging(BOB, mesh)) as world:
        world.bob.reception.answer = never
        start = trio.current_time()
        with pytest.raises(SessionError):
            await world.alice.dial(world.bob)
        assert 9 < trio.current_time() - start < 10


async def test_cancelled_the_connection_is_closed(autojump_clock) -> None:
    mesh = home()
    async with two(Belonging(ALICE, mesh), Belonging(BOB, mesh)) as world:
        world.bob.reception.answer = never
        with trio.move_on_after(1) as scope:
            await world.alice.dial(world.bob)
        assert scope.cancelled_caught
        await trio.sleep(2)
        assert not world.alice.endpoint.connections


# Introductions


async def test_a_machine_that_is_new_here_shows_how_it_was_admitted(autojump_clock) -> None:
    before, after = home(), home()
    newcomer = keys("newcomer")
    after.admit(BOB, CAROL, "carol")
    after.admit(CAROL, newcomer, "newcomer")
    async with two(Belonging(newcomer, after), Belonging(BOB, before)) as world:
        await world.alice.dial(world.bob)
        await answered(world)
        (link,) = world.bob.links
        assert link.introduced and link.peer == newcomer.identity


async def test_what_a_revoked_machine_admitted_does_not_come_in(autojump_clock) -> None:
    before, after = home(), home()
    for mesh in (before, after):
        mesh.admit(ALICE, CAROL, "carol")
    after.revoke(ALICE, CAROL)
    stolen = keys("stolen")
    before.admit(CAROL, stolen, "stolen")
    async with two(Belonging(stolen, before), Belonging(BOB, after)) as world:
        with pytest.raises(SessionError):
            await world.alice.dial(world.bob)
        assert not world.bob.links
