"""Asking a peer for a sign of life, on every pairing of the engines."""

import pytest
import trio

from tests.drivers.pairs import every_pair, linked


@every_pair
async def test_a_peer_that_is_there_answers_in_a_round_trip(autojump_clock, pair) -> None:
    async with linked(pair, delay=0.05) as world:
        await trio.sleep(5)
        for asked in (world.near, world.far):
            took = await asked.probe(1.0)
            assert took is not None and 0.1 <= took < 0.2


@every_pair
async def test_a_lost_ping_is_repeated_in_time(autojump_clock, pair) -> None:
    async with linked(pair) as world:
        await trio.sleep(5)
        world.network.cut(world.alice, world.bob)
        world.network.at(0.05, world.network.heal, world.alice, world.bob)
        assert await world.near.probe(1.0) is not None


@every_pair
async def test_only_the_answer_to_this_ping_counts(autojump_clock, pair) -> None:
    """As after a sleep: what the peer said long ago comes out of a buffer, and it has forgotten us since."""
    async with linked(pair) as world:
        stream = await world.far.open_stream()
        await stream.send_all(b"long ago")
        world.network.link(world.alice, world.bob, delay=0.3)
        await stream.send_all(b" and far away")
        await trio.sleep(0.1)
        world.network.cut(world.alice, world.bob)
        began = trio.current_time()
        assert await world.near.probe(1.0) is None
        assert trio.current_time() - began == pytest.approx(1.0)
        assert world.near.closed is None  # whoever asked decides


@every_pair
async def test_probes_at_once_are_answered_each(autojump_clock, pair) -> None:
    async with linked(pair) as world:
        await trio.sleep(1)
        answers = []

        async def ask() -> None:
            answers.append(await world.near.probe(1.0))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask)
        assert len(answers) == 10 and None not in answers


@every_pair
async def test_a_connection_that_is_over_or_ends_meanwhile_gives_no_sign(autojump_clock, pair) -> None:
    async with linked(pair) as world:
        world.network.cut(world.alice, world.bob)
        world.network.at(0.2, world.near.close)
        began = trio.current_time()
        assert await world.near.probe(5.0) is None
        assert trio.current_time() - began == pytest.approx(0.2)
        assert await world.near.probe(5.0) is None
        assert trio.current_time() - began == pytest.approx(0.2)
