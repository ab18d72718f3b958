"""Who is let in when an endpoint is full, or has enough handshakes to do."""

import pytest
import trio

from meshd.drivers.quic import DialFailedError, Limits, open_endpoint
from meshd.drivers.quic_door import NoPlace, source_of
from tests.drivers.pairs import IDENTITY, endpoints, engine, every_pair, open_pair


@every_pair
async def test_a_full_endpoint_is_silent_to_newcomers_and_serves_who_is_in(pair, autojump_clock) -> None:
    async with endpoints(pair, limits=Limits(connections=2)) as world:
        inside = [await world.client.dial(world.target, timeout=2) for _ in range(2)]
        accepted = [await world.server.accept() for _ in range(2)]
        for each in accepted:
            each.admit()  # a place is a place, admitted or not
        sent = []
        world.network.tap = lambda data, source, target: sent.append((source[0], target[0]))
        stranger = world.network.host("newcomer")
        with stranger:
            async with open_endpoint(engine=engine(pair[0]), identity=IDENTITY) as newcomer:
                with pytest.raises(DialFailedError, match="Nobody"):
                    await newcomer.dial(world.target, timeout=1)
                assert (world.bob.address, stranger.address) not in sent, "not even a Retry"
                assert world.server.door.refused[NoPlace.FULL] >= 1 and world.server.door.inside == 2
                world.near, world.far = inside[0], accepted[0]
                near, far = await open_pair(world)
                await far.send_all(b"served")
                assert await near.receive_some() == b"served"
                inside[1].close()
                await trio.sleep(0.1)
                assert world.server.door.inside == 1
                await newcomer.dial(world.target, timeout=2)


@every_pair
async def test_handshakes_beyond_the_rate_come_later(pair, autojump_clock) -> None:
    """Ten at once at two a second: two now, the others as QUIC repeats itself."""
    limits = Limits(handshakes_per_second=2.0, unauthenticated_per_source=100, unauthenticated_seconds=100.0)
    async with endpoints(pair, limits=limits) as world, trio.open_nursery() as nursery:
        done: list[float] = []
        began = trio.current_time()

        async def dial() -> None:
            await world.client.dial(world.target, timeout=60)
            done.append(trio.current_time() - began)

        for _ in range(10):
            nursery.start_soon(dial)
        await trio.sleep(0.5)
        assert len(done) == 2 and world.server.door.refused[NoPlace.HANDSHAKES] >= 8
        await trio.sleep(55)
        assert len(done) == 10
        assert all(later >= (number - 1) / 2 for number, later in enumerate(sorted(done)))


@every_pair
async def test_who_is_refused_is_counted_by_why(pair, autojump_clock) -> None:
    async with endpoints(pair, limits=Limits(unauthenticated_per_source=1)) as world:
        await world.client.dial(world.target, timeout=2)
        with pytest.raises(DialFailedError):
            await world.client.dial(world.target, timeout=1)
        assert set(world.server.door.refused) == {NoPlace.SOURCE}


async def test_nothing_is_counted_of_who_has_gone(autojump_clock) -> None:
    async with endpoints(("qh3", "qh3")) as world:
        for way in ("closed here", "closed there", "admitted", "both"):
            near = await world.client.dial(world.target, timeout=2)
            far = await world.server.accept()
            if way in ("admitted", "both"):
                far.admit()
                far.admit()
            (far if way == "closed here" else near).close()
            await trio.sleep(1)
            far.admit()
            assert world.server.door.inside == 0
            assert not world.server.door._strangers and not world.server.door._of_source
        assert world.client.door.inside == 0


def test_a_source_is_an_ipv4_address_or_a_slash_64() -> None:
    assert source_of("203.0.113.9") != source_of("203.0.113.10")
    assert source_of("2001:db8:1:2::1") == source_of("2001:db8:1:2:ffff::9") != source_of("2001:db8:1:3::1")
