"""What every pairing of engines owes the protocols above: the contract of streams."""

import pytest
import trio
import trio.testing

from meshd.drivers.quic import HIGH_WATER, ConnectionClosedError, Limits, StreamResetError
from tests.drivers.pairs import every_pair, linked, open_pair, read_all

DATA = bytes(range(256)) * 300


@every_pair
async def test_echo(pair, autojump_clock):
    async with linked(pair) as world:
        near, far = await open_pair(world)
        assert world.near.streams == {near} and world.far.streams == {far}
        async with trio.open_nursery() as nursery:

            async def echo():
                while part := await far.receive_some():
                    await far.send_all(part)
                await far.send_eof()

            nursery.start_soon(echo)
            await near.send_all(DATA)
            await near.send_eof()
            assert await read_all(near) == DATA
        assert not world.near.streams and not world.far.streams


@every_pair
async def test_empty_stream_and_repeated_eof(pair, autojump_clock):
    async with linked(pair) as world:
        near = await world.near.open_stream()
        await near.send_all(b"")
        await near.send_eof()
        await near.send_eof()
        far = await world.far.accept_stream()
        assert await read_all(far) == b""
        with pytest.raises(trio.ClosedResourceError):
            await near.send_all(b"x")


@every_pair
async def test_many_streams_at_once_in_both_directions(pair, autojump_clock):
    # Eighty, of which a few are busy at a time: docs/decisions/0006-few-busy-streams.md.
    async with linked(pair) as world:
        done = []
        busy = trio.CapacityLimiter(4)

        async def ask(opener, number):
            async with busy:
                stream = await opener.open_stream()
                await stream.send_all(b"%d:" % number + DATA[:5000])
                await stream.send_eof()
                assert await read_all(stream) == DATA[:5000] + b":%d" % number
                done.append(number)

        async def answer_all(acceptor):
            async with trio.open_nursery() as nursery:
                for _ in range(40):
                    nursery.start_soon(answer, await acceptor.accept_stream())

        async def answer(stream):
            number, _, rest = (await read_all(stream)).partition(b":")
            await stream.send_all(rest + b":" + number)
            await stream.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_all, world.near)
            nursery.start_soon(answer_all, world.far)
            for number in range(40):
                nursery.start_soon(ask, world.near, number)
                nursery.start_soon(ask, world.far, number)
        assert len(done) == 80


@every_pair
async def test_half_close_both_ways(pair, autojump_clock):
    async with linked(pair) as world:
        near, far = await open_pair(world)
        await near.send_eof()
        assert await read_all(far) == b""
        await far.send_all(b"still here")
        await far.send_eof()
        assert await read_all(near) == b"still here"


@every_pair
async def test_reset_reaches_both_directions_of_the_peer(pair, autojump_clock):
    async with linked(pair) as world:
        near, far = await open_pair(world)
        near.reset(77)
        with pytest.raises(StreamResetError) as caught:
            await far.receive_some()
        assert caught.value.code == 77
        with pytest.raises(StreamResetError) as caught:
            while True:
                await far.send_all(b"x" * 100)
                await trio.sleep(0.01)
        assert caught.value.code == 77
        with pytest.raises(trio.ClosedResourceError):
            await near.receive_some()
        assert world.near.closed is None and world.far.closed is None
        near, far = await open_pair(world)


@every_pair
async def test_aclose_ends_sending_in_order_and_refuses_the_rest(pair, autojump_clock):
    async with linked(pair) as world:
        near, far = await open_pair(world)
        await near.send_all(DATA)
        await near.aclose()
        await near.aclose()
        assert await read_all(far) == DATA
        with pytest.raises(StreamResetError):
            while True:
                await far.send_all(b"x" * 100)
                await trio.sleep(0.01)
        await far.aclose()
        await trio.sleep(1)
        assert not world.near.streams and not world.far.streams
        assert world.near.closed is None and world.far.closed is None


@every_pair
async def test_aclose_when_all_was_read(pair, autojump_clock):
    async with linked(pair) as world:
        for _ in range(3):
            near, far = await open_pair(world)
            await near.send_eof()
            assert await read_all(far) == b""
            await far.aclose()
            assert await read_all(near) == b""
            await near.aclose()
        assert world.near.closed is None and world.far.closed is None


@every_pair
async def test_send_all_waits_instead_of_buffering_without_bound(pair, autojump_clock):
    """The peer's engine widens its window whether or not anybody reads, so a slow reader alone stops nobody: what bounds
    the sender's memory is this, and the receiver's `Limits.unread_stream`."""
    async with linked(pair) as world:
        near, _far = await open_pair(world)
        world.network.cut(world.alice, world.bob)
        with trio.move_on_after(5) as scope:
            await near.send_all(bytes(16 * HIGH_WATER))
        assert scope.cancelled_caught
        assert HIGH_WATER / 2 < world.near.buffered(near.stream_id) <= HIGH_WATER * 1.25


@every_pair
async def test_send_all_goes_on_as_acknowledgements_drain(pair, autojump_clock):
    async with linked(pair, delay=0.02) as world:
        near, far = await open_pair(world)
        size = 3 * HIGH_WATER
        async with trio.open_nursery() as nursery:

            async def send():
                await near.send_all(bytes(size))
                await near.send_eof()

            nursery.start_soon(send)
            assert len(await read_all(far)) == size


@every_pair
async def test_unread_flood_ends_the_connection(pair, autojump_clock):
    async with linked(pair, limits=Limits(unread_stream=100_000)) as world:
        near, _far = await open_pair(world)
        with pytest.raises(ConnectionClosedError):
            await near.send_all(bytes(2 * HIGH_WATER))
            await near.receive_some()
        assert (await world.near.wait_closed()).reason == "sent more than is being read"
        assert world.near.closed.by_peer and not world.far.closed.by_peer


@every_pair
async def test_unread_flood_over_many_streams(pair, autojump_clock):
    async with linked(pair, limits=Limits(unread_connection=100_000)) as world:
        for _ in range(15):
            stream = await world.near.open_stream()
            await stream.send_all(bytes(10_000))
        assert (await world.near.wait_closed()).by_peer


@every_pair
@pytest.mark.parametrize("who", ["near", "far"])
async def test_what_is_given_up_unread_counts_no_more(pair, who, autojump_clock):
    async with linked(pair, limits=Limits(unread_connection=100_000)) as world:
        for _ in range(15):
            near, far = await open_pair(world)
            await near.send_all(bytes(10_000))
            await trio.sleep(0.2)
            {"near": near, "far": far}[who].reset(1)
            await trio.sleep(0.2)
        assert world.far.closed is None


@every_pair
async def test_cancelled_receive_loses_nothing(pair, autojump_clock):
    async with linked(pair) as world:
        near, far = await open_pair(world)
        for _ in range(3):
            with trio.move_on_after(0.5) as scope:
                await far.receive_some()
            assert scope.cancelled_caught
        await near.send_all(b"hello")
        assert await far.receive_some() == b"hello"


@every_pair
async def test_send_eof_ends_a_send_all_that_waits(pair, autojump_clock):
    async with linked(pair) as world:
        near, _far = await open_pair(world)
        world.network.cut(world.alice, world.bob)
        with trio.fail_after(2):
            async with trio.open_nursery() as nursery:

                async def send():
                    with pytest.raises(trio.ClosedResourceError):
                        await near.send_all(bytes(16 * HIGH_WATER))

                nursery.start_soon(send)
                await trio.sleep(1)
                await near.send_eof()


@every_pair
async def test_one_task_at_a_time(pair, autojump_clock):
    async with linked(pair) as world:
        near, _far = await open_pair(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.receive_some)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await near.receive_some()
            nursery.cancel_scope.cancel()


@every_pair
async def test_what_arrived_before_the_end_is_still_read(pair, autojump_clock):
    async with linked(pair) as world:
        near, far = await open_pair(world)
        await near.send_all(b"last words")
        await trio.sleep(0.1)
        world.near.close(9, "gone")
        await world.far.wait_closed()
        assert await far.receive_some() == b"last words"
        with pytest.raises(ConnectionClosedError) as caught:
            await far.receive_some()
        assert caught.value.closed.code == 9 and caught.value.closed.by_peer
        with pytest.raises(trio.BrokenResourceError):
            await far.send_all(b"x")
        with pytest.raises(ConnectionClosedError):
            await world.far.open_stream()
        with pytest.raises(ConnectionClosedError):
            await world.far.accept_stream()


@every_pair
async def test_what_is_sent_at_once_arrives_and_what_waits_is_known(pair, autojump_clock):
    async with linked(pair) as world:
        near, far = await open_pair(world)
        world.network.cut(world.alice, world.bob)
        for _ in range(4):
            near.send_now(bytes(50_000))
        await trio.sleep(0.01)
        assert 0 < near.unsent <= 200_000  # some has left, into the cut
        world.network.heal(world.alice, world.bob)
        near.send_now(b"end")
        await near.send_eof()
        assert await read_all(far) == bytes(200_000) + b"end"
        assert near.unsent == 0
        with pytest.raises(trio.ClosedResourceError):
            near.send_now(b"more")
        world.near.close()
        assert near.unsent == 0
