"""The server as its clients see it, on a simulated network in virtual time."""

import os
import random

import pytest
import trio

from meshd.drivers.quic import DialFailedError, DriverCode, open_endpoint
from meshd.drivers.tls_identity import fingerprint
from meshd.wire.constants import CloseCode, Frame
from meshd.wire.framing import encode_frame
from meshd.wire.rendezvous import (
    Allocate,
    Enter,
    Free,
    Leave,
    Match,
    Nat,
    Numbered,
    Observed,
    Refusal,
    Refused,
    Side,
    Third,
    Wait,
    address_of,
    encode,
)
from rendezvous import app
from rendezvous.app import ALPNS, CONNECTIONS_PER_SOURCE, FRAMES_AT_ONCE, FRAMES_PER_SECOND
from tests.drivers.pairs import IDENTITY, engine
from tests.rendezvous.kit import KEY, Caller, every_engine, observed, served
from tests.sim.nat import Router

TOPIC = b"t" * 32


async def number_of(caller: Caller, ref: int = 1) -> int:
    await caller.say(Allocate(ref, Nat.UNKNOWN))
    found: Numbered = await caller.hear(Numbered, ref=ref)
    return found.number


@every_engine
async def test_a_number_makes_two_meet_at_the_addresses_that_the_server_sees(name, autojump_clock) -> None:
    async with served(name) as world:
        assert fingerprint(KEY.certificate_der) == KEY.fingerprint
        ann, ben = await world.caller(), await world.caller()
        number = await number_of(ann)
        assert fingerprint(ann.connection.certificate) == KEY.fingerprint
        await ben.say(Enter(9, number, Nat.ONE_FOR_ALL))
        seen = [await observed(each) for each in (ann, ben)]
        to_ann, to_ben = await ann.hear(Match, ref=1), await ben.hear(Match, ref=9)
        assert [address_of(each) for each in seen] == [address_of(to_ben), address_of(to_ann)]
        assert seen[0].port == ann.endpoint.port
        assert to_ann.nonce == to_ben.nonce and (to_ann.nat, to_ben.nat) == (Nat.ONE_FOR_ALL, Nat.UNKNOWN)
        assert world.server.board.matches == 1


@every_engine
async def test_observed_comes_first_of_all(name, autojump_clock) -> None:
    async with served(name) as world:
        caller = await world.caller()
        await caller.say(Allocate(1, Nat.UNKNOWN), Leave(1))
        await caller.hear(Numbered)
        assert [type(each) for each in caller.heard] == [Observed]


@every_engine
async def test_a_third_is_sent_away_until_the_owner_frees_the_place(name, autojump_clock) -> None:
    async with served(name) as world:
        ann, ben, cat = [await world.caller() for _ in range(3)]
        number = await number_of(ann)
        await ben.say(Enter(1, number, Nat.UNKNOWN))
        await ben.hear(Match)
        await cat.say(Enter(1, number, Nat.UNKNOWN))
        assert await cat.hear(Refused) == Refused(1, Refusal.TAKEN, 2)
        assert await ann.hear(Third) == await ben.hear(Third) == Third(1)
        await ann.hear(Match)
        await ann.say(Free(1))
        await trio.sleep(2)
        await cat.say(Enter(2, number, Nat.UNKNOWN))
        assert address_of(await ann.hear(Match)) == address_of(await observed(cat))


@every_engine
async def test_members_meet_under_a_topic_and_a_machine_that_moved_does_not_meet_its_past(name, autojump_clock) -> None:
    async with served(name) as world:
        old, new, ben = [await world.caller() for _ in range(3)]
        await old.say(Wait(1, TOPIC, Side.FIRST, b"old"))
        await observed(old)
        await trio.sleep(0.2)
        await new.say(Wait(5, TOPIC, Side.FIRST, b"new"))
        assert await old.hear(Refused) == Refused(1, Refusal.TAKEN, 0)
        await ben.say(Wait(1, TOPIC, Side.SECOND, b"ben"))
        to_ben, to_new = await ben.hear(Match), await new.hear(Match, ref=5)
        assert (to_ben.card, to_new.card) == (b"new", b"ben")
        assert address_of(to_ben) == address_of(await observed(new))
        assert world.server.board.waits == 0


@every_engine
async def test_what_has_lived_its_time_is_taken_back(name, autojump_clock) -> None:
    async with served(name) as world:
        ann = await world.caller()
        number = await number_of(ann)
        await ann.say(Wait(2, TOPIC, Side.FIRST, b""))
        await trio.sleep(890)
        assert ann.connection.closed is None and world.server.board.numbers == 1, "a client that pings stays"
        for ref in (1, 2):
            assert await ann.hear(Refused, within=15, ref=ref) == Refused(ref, Refusal.EXPIRED, 1)
        ben = await world.caller()
        await ben.say(Enter(1, number, Nat.UNKNOWN))
        assert (await ben.hear(Refused)).why is Refusal.NO_SUCH_NUMBER


@every_engine
async def test_with_a_client_goes_what_it_asked_for(name, autojump_clock) -> None:
    async with served(name) as world:
        ways = {}
        for way in ("closes", "ends its stream", "falls silent"):
            ways[way] = await world.caller()
            await number_of(ways[way])
            await ways[way].say(Wait(2, way.encode().ljust(32), Side.FIRST, b""))
        await trio.sleep(1)
        assert (world.server.board.numbers, world.server.board.waits) == (3, 3)
        ways["closes"].connection.close()
        await ways["ends its stream"].stream.send_eof()
        world.network.cut(world.network._by_address["10.0.0.4"], world.host)
        assert await ways["ends its stream"].is_closed() == CloseCode.DONE
        assert world.server.board.clients == 1
        await trio.sleep(60)
        assert world.server.board.clients == 0 and world.server.board.is_empty
        assert not world.server._clients and not world.server._of_source


@every_engine
async def test_both_begin_at_one_time(name, autojump_clock) -> None:
    """Ann's packets take 10 ms, Ben's 200: Ann waits for as long as the word takes longer to reach Ben."""
    async with served(name) as world:
        hosts = [world.network.host(each) for each in ("ann", "ben")]
        for host, delay in zip(hosts, (0.01, 0.2), strict=True):
            world.network.link(host, world.host, delay=delay)
        ann, ben = [await world.caller(host) for host in hosts]
        begins = []

        async def meet(caller: Caller, side: Side) -> None:
            await caller.say(Wait(1, TOPIC, side, b""))
            match = await caller.hear(Match)
            begins.append(trio.current_time() + match.wait_ms / 1000)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(meet, ann, Side.FIRST)
            nursery.start_soon(meet, ben, Side.SECOND)
        assert abs(begins[0] - begins[1]) < 0.02


@every_engine
async def test_who_moved_hears_it_and_is_matched_where_it_is(name, autojump_clock) -> None:
    async with served(name) as world:
        router = Router(world.network, "5.0.0.1")
        ann, ben = await world.caller(router.host("ann")), await world.caller()
        await ann.say(Wait(1, TOPIC, Side.FIRST, b""))
        first = await observed(ann)
        assert first.host == "5.0.0.1"
        await trio.sleep(1)
        router.renumber("5.0.0.99")
        await ann.say(Leave(7))
        second = await observed(ann)
        assert second.host == "5.0.0.99"
        await ben.say(Wait(1, TOPIC, Side.SECOND, b""))
        assert address_of(await ben.hear(Match)) == address_of(second)
        assert ann.connection.closed is None


@every_engine
async def test_an_address_from_which_nothing_answers_is_never_told(name, autojump_clock) -> None:
    """A client whose packets bear a victim's address as their sender."""
    async with served(name) as world:
        victim = world.network.host("victim")
        mallory, ben = await world.caller(), await world.caller()
        await mallory.say(Wait(1, TOPIC, Side.FIRST, b""))
        true = await observed(mallory)
        await trio.sleep(1)
        caught = []
        mine = (world.network._by_address[true.host].address, mallory.endpoint.port)
        world.network.tap = lambda data, source, target: source == mine and caught.append((data, target))
        world.network.cut(world.network._by_address[true.host], world.host)
        await mallory.say(Leave(7))
        await trio.sleep(0.01)
        data, target = caught[0]
        world.network.inject(data, (victim.address, 999), target)
        await trio.sleep(0.5)
        await ben.say(Wait(1, TOPIC, Side.SECOND, b""))
        assert address_of(await ben.hear(Match)) == address_of(true)


# Caps


@every_engine
async def test_connections_of_one_source(name, autojump_clock) -> None:
    async with served(name) as world:
        first = await world.caller()
        others = [await world.caller(endpoint=first.endpoint) for _ in range(CONNECTIONS_PER_SOURCE - 1)]
        for each in (first, *others):
            await each.say(Leave(1))
            await observed(each)
        one_more = await world.caller(endpoint=first.endpoint)
        assert await one_more.is_closed() == CloseCode.BUSY
        elsewhere = await world.caller()
        await number_of(elsewhere)
        others[0].connection.close()
        await trio.sleep(1)
        again = await world.caller(endpoint=first.endpoint)
        await number_of(again)
        assert world.server.counts.let_go == {"connections": 1}


@every_engine
async def test_a_full_server_is_silent_and_serves_who_is_in(name, autojump_clock) -> None:
    async with served(name, clients=2) as world:
        ann, ben = await world.caller(), await world.caller()
        number = await number_of(ann)
        with pytest.raises(DialFailedError, match="Nobody"):
            await world.caller(timeout=2)
        await ben.say(Enter(1, number, Nat.UNKNOWN))
        await ann.hear(Match)
        ben.connection.close()
        await trio.sleep(1)
        await number_of(await world.caller())


@every_engine
async def test_a_burst_of_frames_is_taken_and_a_flood_is_not(name, autojump_clock) -> None:
    async with served(name) as world:
        ann, ben = await world.caller(), await world.caller()
        number = await number_of(ann)
        waits = [Wait(ref, ref.to_bytes(32, "big"), Side.FIRST, b"c" * 512) for ref in range(1, 257)]
        await ben.say(*waits)
        await trio.sleep(2)
        assert world.server.board.waits == 256
        await trio.sleep(FRAMES_AT_ONCE / FRAMES_PER_SECOND)
        for _ in range(100):
            await ben.say(*[Leave(300)] * 2)
            await trio.sleep(2 / FRAMES_PER_SECOND)
        assert ben.connection.closed is None, "so many a second are allowed for ever"
        await ben.say(*[Leave(300)] * (FRAMES_AT_ONCE + 50))
        assert await ben.is_closed() == CloseCode.BUSY
        await trio.sleep(1)
        assert world.server.board.waits == 0
        cat = await world.caller()
        await cat.say(Enter(1, number, Nat.UNKNOWN))
        await ann.hear(Match)


@every_engine
async def test_who_does_not_read_is_let_go(name, autojump_clock) -> None:
    """Its network takes nothing in any more, while the server has much to say."""
    async with served(name) as world:
        caller = await world.caller()
        await caller.say(Leave(1))
        await observed(caller)
        host = world.network._by_address["10.0.0.2"]
        world.network.cut(host, world.host)
        (client,) = world.server._clients.values()
        most = 0
        while client.connection.closed is None:
            for _ in range(50):
                world.server._tell(client, Match(1, "192.0.2.1", 1, bytes(16), 0, Nat.UNKNOWN, bytes(512)))
                most = max(most, client.stream.unsent)
            await trio.sleep(0.001)
        assert client.connection.closed.code == CloseCode.BUSY and not client.connection.closed.by_peer
        assert most <= app.UNSENT_LIMIT + 1024
        assert world.server.counts.let_go == {"does not read": 1}


@every_engine
async def test_ten_seconds_to_say_something(name, autojump_clock) -> None:
    async with served(name) as world:
        silent, half = await world.caller(), await world.caller()
        await half.stream.send_all(encode(Leave(1))[:3])
        await observed(half)
        for each in (silent, half):
            assert await each.is_closed(within=12) == DriverCode.UNAUTHENTICATED
        said = await world.caller()
        await said.say(Leave(1))
        await trio.sleep(30)
        assert said.connection.closed is None


# Broken and hostile clients


@every_engine
@pytest.mark.parametrize(
    "bytes_of",
    [
        lambda: encode_frame(Frame.ALLOCATE, b""),
        lambda: encode_frame(Frame.ALLOCATE, b"\xc1"),
        lambda: encode_frame(Frame.NUMBER, b"\x80"),
        lambda: encode_frame(Frame.HELLO, bytes(10)),
        lambda: encode(Observed("203.0.113.1", 1)),
        lambda: encode_frame(Frame.WAIT, bytes(1025)),
        lambda: bytes([Frame.LEAVE]) + b"\xff" * 4,
        lambda: os.urandom(500),
    ],
    ids=["empty", "no MessagePack", "a server's", "pairing's", "a whole server's", "too long", "endless", "noise"],
)
async def test_anything_else_ends_the_connection(name, bytes_of, autojump_clock) -> None:
    async with served(name) as world:
        caller = await world.caller()
        await caller.say(Allocate(1, Nat.UNKNOWN))
        await caller.hear(Numbered)
        # Noise may begin like a frame that goes on: its type is then made wrong.
        data = bytes_of()
        await caller.stream.send_all(data if data[0] != 0x60 or len(data) < 400 else b"\x00" + data)
        assert await caller.is_closed() == CloseCode.PROTOCOL
        await number_of(await world.caller())
        assert world.server.board.numbers == 1


@every_engine
async def test_a_second_stream_ends_the_connection(name, autojump_clock) -> None:
    async with served(name) as world:
        caller = await world.caller()
        await number_of(caller)
        await (await caller.connection.open_stream()).send_all(b"x")
        assert await caller.is_closed() == DriverCode.STREAMS


async def test_mutated_frames_end_their_own_connection_at_most(autojump_clock) -> None:
    chance = random.Random(7)
    async with served() as world:
        ann = await world.caller()
        number = await number_of(ann)
        good = b"".join(
            encode(each)
            for each in (Allocate(1, Nat.NONE), Enter(2, 7, Nat.NONE), Wait(3, TOPIC, Side.FIRST, b"card"), Leave(1))
        )
        for _ in range(100):
            data = bytearray(good)
            for _ in range(chance.randrange(1, 4)):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            caller = await world.caller()
            await caller.stream.send_all(bytes(data))
            await trio.sleep(0.1)
            caller.connection.close()
        await trio.sleep(1)
        assert world.server.board.clients == 1 and world.server.board.numbers == 1
        ben = await world.caller()
        await ben.say(Enter(1, number, Nat.UNKNOWN))
        await ann.hear(Match)


async def test_another_protocol_is_not_served(autojump_clock) -> None:
    async with served() as world:
        with world.network.host("stranger"):
            async with open_endpoint(engine=engine("qh3"), identity=IDENTITY) as endpoint:
                with pytest.raises(DialFailedError, match="not a Tether"):
                    await endpoint.dial(world.target, timeout=5)
        await number_of(await world.caller())


# Its end


@every_engine
async def test_a_restart_forgets_everything_and_has_the_same_key(name, autojump_clock) -> None:
    async with served(name) as world:
        ann, ben = await world.caller(), await world.caller()
        number = await number_of(ann)
        await world.stop()
        for each in (ann, ben):
            assert await each.is_closed() == CloseCode.DONE
        with pytest.raises(DialFailedError):
            await ann.endpoint.dial(world.target, timeout=1, alpns=ALPNS)
        await world.start()
        again = await world.caller(endpoint=ann.endpoint)
        assert fingerprint(again.connection.certificate) == KEY.fingerprint
        await again.say(Enter(1, number, Nat.UNKNOWN))
        assert (await again.hear(Refused)).why is Refusal.NO_SUCH_NUMBER
        await again.say(Enter(1, await number_of(await world.caller(endpoint=ben.endpoint)), Nat.UNKNOWN))
        await again.hear(Match)


async def test_ten_percent_loss_stops_nobody(autojump_clock) -> None:
    async with served(loss=0.1, seed=3) as world:
        for number in range(20):
            ann, ben = await world.caller(), await world.caller()
            topic = bytes([number]) * 32
            await ann.say(Wait(1, topic, Side.FIRST, b"a"))
            await ben.say(Wait(1, topic, Side.SECOND, b"b"))
            assert (await ann.hear(Match, within=20)).card == b"b"
            assert (await ben.hear(Match, within=20)).card == b"a"
