"""What strangers and forgers can do to an endpoint: as good as nothing."""

import os
import random

import pytest
import trio

from meshd.drivers.quic import ConnectionClosedError, DialFailedError, DriverCode, Limits, open_endpoint
from meshd.model.address import Address
from tests.drivers.pairs import IDENTITY, endpoints, engine, every_pair, linked, open_pair


@every_pair
async def test_junk_and_mutated_packets_change_nothing(pair, autojump_clock):
    """12,000 datagrams, from the true peer's address and from others: random ones, and real ones with bits turned, cut
    short, doubled, or at the wrong end."""
    chance = random.Random(f"{pair}")
    async with endpoints(pair) as world:
        seen = []
        world.network.tap = lambda data, source, target: seen.append((data, source, target))
        world.near = await world.client.dial(world.target, timeout=5)
        world.far = await world.server.accept()
        world.near.admit()
        world.far.admit()
        near, far = await open_pair(world)
        await near.send_all(bytes(20_000))
        assert len(await far.receive_some(1)) == 1
        await trio.sleep(1)
        world.network.tap = None
        elsewhere = (world.network.host("mallory").address, 4433)
        for number in range(12_000):
            data, source, target = chance.choice(seen)
            data = bytearray(data)
            match number % 5:
                case 0:
                    data = bytearray(chance.randbytes(chance.randrange(1, 1400)))
                case 1:
                    for _ in range(chance.randrange(1, 9)):
                        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
                case 2:
                    del data[chance.randrange(len(data)) :]
                case 3:
                    data = data * 2
                case 4:
                    source, target = target, source
            world.network.inject(bytes(data), source if number % 3 else elsewhere, target)
            if number % 50 == 0:
                await trio.sleep(0.0001)
        await trio.sleep(12)
        assert world.near.closed is None and world.far.closed is None
        assert world.client.connections == {world.near}
        near, far = await open_pair(world)
        await far.send_all(b"fine")
        assert await near.receive_some() == b"fine"


@every_pair
async def test_the_65th_stranger_waits_for_a_place(pair, autojump_clock):
    async with endpoints(pair) as world, trio.open_nursery() as nursery:
        dialled = []

        async def dial_four(number):
            with world.network.host(f"h{number}"):
                async with open_endpoint(engine=engine(pair[0]), identity=IDENTITY) as client:
                    for _ in range(4):
                        dialled.append(await client.dial(world.target, timeout=2))
                    await trio.sleep_forever()

        for number in range(16):
            nursery.start_soon(dial_four, number)
        await trio.sleep(3)
        assert len(dialled) == 64
        accepted = [await world.server.accept() for _ in range(64)]
        with pytest.raises(DialFailedError, match="Nobody"):
            await world.client.dial(world.target, timeout=1)
        accepted[0].admit()
        await world.client.dial(world.target, timeout=2)
        nursery.cancel_scope.cancel()


@every_pair
async def test_the_fifth_stranger_from_one_source_waits(pair, autojump_clock):
    async with endpoints(pair) as world:
        dialled = [await world.client.dial(world.target, timeout=2) for _ in range(4)]
        with pytest.raises(DialFailedError, match="Nobody"):
            await world.client.dial(world.target, timeout=2)
        dialled[0].close(0, "")
        await world.client.dial(world.target, timeout=2)


@every_pair
async def test_one_slash_64_is_one_source(pair, autojump_clock):
    async with endpoints(pair) as world, trio.open_nursery() as nursery:
        target = Address("fd00::2", world.server.port)
        outcomes = []

        async def dial(address):
            with world.network.host(address, address):
                async with open_endpoint(engine=engine(pair[0]), identity=IDENTITY) as client:
                    try:
                        await client.dial(target, timeout=2)
                    except DialFailedError:
                        outcomes.append(address)
                    await trio.sleep_forever()

        for number in range(5):
            nursery.start_soon(dial, f"2001:db8:1:2::{number + 1:x}")
        nursery.start_soon(dial, "2001:db8:1:3::1")
        await trio.sleep(3)
        assert len(outcomes) == 1 and outcomes != ["2001:db8:1:3::1"]
        nursery.cancel_scope.cancel()


@every_pair
async def test_a_second_stream_before_admission_closes(pair, autojump_clock):
    async with linked(pair, admit=False) as world:
        await open_pair(world)
        assert world.far.closed is None
        await (await world.near.open_stream()).send_all(b"x")
        assert "streams before" in (await world.near.wait_closed()).reason


@every_pair
async def test_more_than_16_kib_before_admission_closes(pair, autojump_clock):
    async with linked(pair, admit=False) as world:
        near, _far = await open_pair(world)
        await near.send_all(bytes(16 * 1024 - 1))
        await trio.sleep(1)
        assert world.far.closed is None
        await near.send_all(b"x")
        assert "too much before" in (await world.near.wait_closed()).reason


@every_pair
async def test_bytes_of_a_stream_that_was_given_up_count_too(pair, autojump_clock):
    async with linked(pair, admit=False, limits=Limits(unauthenticated_bytes=5000)) as world:
        near, far = await open_pair(world)
        far.reset(1)
        await near.send_all(bytes(6000))
        assert "too much before" in (await world.near.wait_closed()).reason


@every_pair
async def test_ten_seconds_to_authenticate(pair, autojump_clock):
    async with linked(pair, admit=False) as world:
        await trio.sleep(9.5)
        assert world.far.closed is None
        assert "not authenticated" in (await world.near.wait_closed()).reason
        assert trio.current_time() < 10.5


@every_pair
async def test_admission_lifts_all_of_it(pair, autojump_clock):
    async with linked(pair) as world:
        near, far = await open_pair(world)
        await near.send_all(bytes(100_000))
        await near.send_eof()
        while await far.receive_some():
            pass
        await open_pair(world)
        await trio.sleep(30)
        assert world.near.closed is None


@every_pair
async def test_more_streams_than_anybody_accepts_close(pair, autojump_clock):
    async with linked(pair) as world:
        with pytest.raises(ConnectionClosedError):
            # The engines grant a new stream for each one that ended, here without anybody having accepted it.
            for _ in range(1000):
                stream = await world.near.open_stream()
                await stream.send_all(b"x")
                await trio.sleep(0.02)
                stream.reset(1)
        assert world.near.closed.reason == "too many streams"


@every_pair
async def test_unidirectional_streams_close(pair, autojump_clock):
    async with linked(pair) as world:
        world.near.write(2, b"x", False)  # a client's first one (RFC 9000 section 2.1)
        assert "unidirectional" in (await world.near.wait_closed()).reason


@every_pair
async def test_datagrams_without_the_quic_bit_are_dropped(pair, autojump_clock):
    async with endpoints(pair) as world:
        sent = []
        world.network.tap = lambda data, source, target: sent.append((data, source))
        with trio.move_on_after(0.001):
            await world.client.dial(world.target, timeout=5)
        initial, target = sent[0][0], (world.bob.address, world.server.port)
        for first, answered in ((initial[0] & ~0x40, False), (initial[0], True)):
            sent.clear()
            world.network.inject(bytes([first]) + initial[1:], (world.alice.address, 1024), target)
            await trio.sleep(0.001)
            assert any(source == target for _, source in sent) is answered


@every_pair
async def test_the_quic_bit_is_set_in_all_that_is_sent(pair, autojump_clock):
    async with endpoints(pair) as world:
        first_bytes = []
        world.network.tap = lambda data, source, target: first_bytes.append(data[0])
        world.near = await world.client.dial(world.target, timeout=5)
        world.far = await world.server.accept()
        world.near.admit()
        world.far.admit()
        near, far = await open_pair(world)
        await near.send_all(bytes(500_000))
        await near.send_eof()
        while await far.receive_some():
            pass
        await trio.sleep(100)
        assert len(first_bytes) > 400 and all(byte & 0x40 for byte in first_bytes)


@every_pair
async def test_an_unvalidated_address_costs_no_state(pair, autojump_clock):
    async with endpoints(pair) as world:
        initials = []
        world.network.tap = lambda data, source, target: initials.append((data, target))
        with trio.move_on_after(0.001):
            await world.client.dial(world.target, timeout=5)
        data, target = initials[0]
        answers = []
        world.network.tap = lambda data, source, sent_to: source == target and answers.append(len(data))
        for number in range(1000):
            changed = bytearray(data)
            changed[6:14] = os.urandom(8)
            world.network.inject(bytes(changed), (world.alice.address, 1024 + number), target)
            await trio.sleep(0.001)
            assert not world.server.connections
        assert 1000 <= len(answers) <= 1010
        assert max(answers) < 200


@every_pair
async def test_an_engine_that_raises_costs_one_connection(pair, autojump_clock):
    async with linked(pair) as world:
        other = await world.client.dial(world.target, timeout=5)
        other_far = await world.server.accept()

        def broken(*arguments):
            raise IndexError("engine fault")

        world.far._quic.datagrams_to_send = broken
        await (await world.near.open_stream()).send_all(b"x")
        closed = await world.far.wait_closed()
        assert "IndexError" in closed.reason and not closed.by_peer
        assert other_far.closed is None and other.closed is None
        await world.client.dial(world.target, timeout=5)


@every_pair
async def test_a_preferred_address_is_not_followed(pair, autojump_clock, monkeypatch):
    """A server that names another address (RFC 9000 section 9.6) is talked to where it was dialled."""
    library = engine(pair[1])
    module = __import__("aioquic.quic.connection" if pair[1] == "aioquic" else "qh3.quic.tls_bridge", fromlist=["push"])
    packet = library._packet
    genuine = module.push_quic_transport_parameters

    def push(buffer, parameters, *rest):
        if parameters.original_destination_connection_id is not None:
            parameters.preferred_address = packet.QuicPreferredAddress(
                ipv4_address=("10.0.0.3", 4433),
                ipv6_address=("fd00::3", 4433),
                connection_id=bytes(8),
                stateless_reset_token=bytes(16),
            )
            offered.append(1)
        return genuine(buffer, parameters, *rest)

    offered = []
    monkeypatch.setattr(module, "push_quic_transport_parameters", push)
    async with endpoints(pair) as world:
        world.network.host("elsewhere")
        targets = set()
        world.network.tap = lambda data, source, target: targets.add(target[0])
        world.near = await world.client.dial(world.target, timeout=5)
        world.far = await world.server.accept()
        world.near.admit()
        world.far.admit()
        await open_pair(world)
        await trio.sleep(100)
        await open_pair(world)
        assert offered
        assert targets == {world.alice.address, world.bob.address}


@every_pair
@pytest.mark.parametrize("streams", [1, 2])
async def test_who_dials_a_stranger_takes_no_more_from_it_than_a_listener_would(pair, streams, autojump_clock):
    """One stream is let in: it may be the peer's next one, sent as soon as it had admitted us."""
    async with linked(pair, admit=False) as world:
        world.far.admit()
        for _ in range(streams):
            stream = await world.far.open_stream()
            await stream.send_all(b"x")
        with trio.move_on_after(1):
            await world.near.wait_closed()
        assert (world.near.closed is not None) == (streams > 1)
        if streams == 1:
            await stream.send_all(bytes(Limits().unauthenticated_bytes))
            with trio.fail_after(1):
                assert (await world.near.wait_closed()).code == DriverCode.UNAUTHENTICATED
