"""Handoffs among several hosts in virtual time: wrong words, crowds, silence, a man in the middle, people who say no."""

from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio

from meshd import status
from meshd.drivers import handoff
from meshd.drivers.meeting import ConfirmWords
from meshd.drivers.quic import Connection, ConnectionClosedError, Stream, open_endpoint
from meshd.drivers.quic_engine import Engine
from meshd.drivers.tls_identity import TlsIdentity
from meshd.errors import (
    ConnectionLostError,
    NobodyFoundError,
    RefusedError,
    TetherError,
    WrongPassphraseError,
)
from meshd.model.address import DEFAULT_PORT, Address
from tests.drivers.pairs import engine, every_pair
from tests.sim.handoffs import MemorySink, MemorySource, settings
from tests.sim.network import Host, simulated

PAYLOAD = b"a payload that must arrive whole or not at all" * 1000
WRONG = b"abandon-ability-able"


@attrs.define
class Side:
    """One side of a handoff: what it saw, and how it ended."""

    events: list[status.Event] = attrs.field(factory=list)
    error: TetherError | None = None
    done: bool = False

    async def run(self, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except TetherError as error:
            self.error = error
        self.done = True

    def saw(self, kind: type) -> list[status.Event]:
        return [event for event in self.events if isinstance(event, kind)]


def listening(nursery: trio.Nursery, host: Host, cargo: handoff.Cargo, used: Engine, **changes: object) -> Side:
    side = Side()
    configured = settings(engine=used, observer=side.events.append, **{"timeout": 600.0, **changes})
    nursery.start_soon(host.run, side.run, lambda: handoff.listen(configured, cargo))
    return side


def connecting(
    nursery: trio.Nursery, host: Host, to: Host, cargo: handoff.Cargo, used: Engine, **changes: object
) -> Side:
    side = Side()
    peer = Address(to.address, DEFAULT_PORT)
    configured = settings(engine=used, observer=side.events.append, peer=peer, **changes)
    nursery.start_soon(host.run, side.run, lambda: handoff.connect(configured, cargo))
    return side


def sending() -> handoff.Cargo:
    return handoff.Cargo(MemorySource(PAYLOAD), None)


@every_pair
async def test_both_directions_at_once(pair: tuple[str, str], autojump_clock: object) -> None:
    up, down = MemorySink(), MemorySink()
    async with simulated(1) as network, trio.open_nursery() as nursery:
        alice, bob = network.host("alice"), network.host("bob")
        listener = listening(nursery, bob, handoff.Cargo(MemorySource(b"down"), up), engine(pair[1]))
        both = handoff.Cargo(MemorySource(PAYLOAD), down)
        connector = connecting(nursery, alice, bob, both, engine(pair[0]))
    assert (listener.error, connector.error) == (None, None)
    assert (up.stored, down.stored) == (PAYLOAD, b"down")


async def test_wrong_words_spend_three_tries_and_then_the_window_is_closed(autojump_clock: object) -> None:
    async with simulated(2) as network, trio.open_nursery() as nursery:
        alice, bob = network.host("alice"), network.host("bob")
        sink = MemorySink()
        listener = listening(nursery, bob, handoff.Cargo(None, sink), engine("qh3"))
        for tries in (1, 2, 3):
            async with trio.open_nursery() as attempt:
                connector = connecting(attempt, alice, bob, sending(), engine("qh3"), secret=WRONG)
            assert isinstance(connector.error, WrongPassphraseError)
            assert len(listener.saw(status.TrySpent)) == tries
        with trio.fail_after(5):
            while not listener.done:
                await trio.sleep(0.01)
        assert isinstance(listener.error, WrongPassphraseError)
        async with trio.open_nursery() as attempt:
            late = connecting(attempt, alice, bob, sending(), engine("qh3"))
        assert isinstance(late.error, NobodyFoundError)
        assert sink.stored is None


async def test_twenty_at_once_with_wrong_words_spend_three_tries(autojump_clock: object) -> None:
    async with simulated(3) as network, trio.open_nursery() as nursery:
        bob = network.host("bob")
        listener = listening(nursery, bob, handoff.Cargo(None, MemorySink()), engine("qh3"))
        crowd = [
            connecting(nursery, network.host(f"host{n}"), bob, sending(), engine("qh3"), secret=WRONG)
            for n in range(20)
        ]
    assert sum(isinstance(each.error, WrongPassphraseError) for each in crowd) == 3
    assert sum(isinstance(each.error, NobodyFoundError) for each in crowd) == 17
    assert isinstance(listener.error, WrongPassphraseError)
    assert len(listener.saw(status.TrySpent)) == 3


async def test_of_several_right_connectors_one_gets_in(autojump_clock: object) -> None:
    async with simulated(4) as network, trio.open_nursery() as nursery:
        bob = network.host("bob")
        sink = MemorySink()
        listener = listening(nursery, bob, handoff.Cargo(None, sink), engine("qh3"))
        crowd = [connecting(nursery, network.host(f"host{n}"), bob, sending(), engine("qh3")) for n in range(5)]
    assert listener.error is None
    assert sink.stored == PAYLOAD
    assert sum(each.error is None for each in crowd) == 1
    assert all(isinstance(each.error, NobodyFoundError | RefusedError) for each in crowd if each.error)


@pytest.mark.parametrize("lost", ["sender", "receiver"])
@every_pair
async def test_a_peer_that_vanishes_is_missed_within_twenty_seconds(
    pair: tuple[str, str], lost: str, autojump_clock: object
) -> None:
    async with simulated(6) as network, trio.open_nursery() as nursery:
        alice, bob = network.host("alice"), network.host("bob")
        sink = MemorySink()
        listener = listening(nursery, bob, handoff.Cargo(None, sink), engine(pair[1]))
        endless = handoff.Cargo(MemorySource(bytes(64 << 20)), None)
        connector = connecting(nursery, alice, bob, endless, engine(pair[0]))
        while not listener.saw(status.Progress):
            await trio.sleep(0.01)
        network.cut(alice, bob)
        survivor = listener if lost == "sender" else connector
        with trio.fail_after(20):
            while not survivor.done:
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    assert isinstance(survivor.error, ConnectionLostError)
    assert "nothing was heard" in str(survivor.error)
    assert sink.stored is None


async def test_a_short_partition_is_survived(autojump_clock: object) -> None:
    async with simulated(7) as network, trio.open_nursery() as nursery:
        alice, bob = network.host("alice"), network.host("bob")
        sink = MemorySink()
        listener = listening(nursery, bob, handoff.Cargo(None, sink), engine("qh3"))
        data = bytes(1 << 20)
        connector = connecting(nursery, alice, bob, handoff.Cargo(MemorySource(data), None), engine("qh3"))
        while not listener.saw(status.Progress):
            await trio.sleep(0.01)
        network.cut(alice, bob)
        network.at(5.0, network.heal, alice, bob)
    assert (listener.error, connector.error) == (None, None)
    assert sink.stored == data


@pytest.mark.parametrize(
    ("listens", "connects", "words"),
    [
        (handoff.Cargo(None, MemorySink()), handoff.Cargo(None, MemorySink()), "wait to receive"),
        (handoff.Cargo(MemorySource(b"x"), None), handoff.Cargo(MemorySource(b"y"), None), "want to send"),
    ],
)
async def test_directions_that_do_not_fit_are_said_on_both_sides(
    listens: handoff.Cargo, connects: handoff.Cargo, words: str, autojump_clock: object
) -> None:
    async with simulated(8) as network, trio.open_nursery() as nursery:
        alice, bob = network.host("alice"), network.host("bob")
        listener = listening(nursery, bob, listens, engine("qh3"))
        connector = connecting(nursery, alice, bob, connects, engine("qh3"))
    for side in (listener, connector):
        assert isinstance(side.error, RefusedError)
    assert words in f"{listener.error} {connector.error}"


@pytest.mark.parametrize("answer", [True, False])
async def test_people_compare_the_same_words_and_a_no_sends_nothing(answer: bool, autojump_clock: object) -> None:
    shown: list[tuple[str, ...]] = []

    def person(says: bool) -> ConfirmWords:
        async def confirm(words: tuple[str, ...]) -> bool:
            shown.append(words)
            await trio.sleep(60)  # people are slow, and that is all right
            return says

        return confirm

    async with simulated(9) as network, trio.open_nursery() as nursery:
        alice, bob = network.host("alice"), network.host("bob")
        sink = MemorySink()
        listener = listening(nursery, bob, handoff.Cargo(None, sink), engine("qh3"), confirm_words=person(True))
        connector = connecting(nursery, alice, bob, sending(), engine("qh3"), confirm_words=person(answer))
    assert len(shown) == 2
    assert shown[0] == shown[1]
    assert len(shown[0]) == 4
    if answer:
        assert (listener.error, connector.error, sink.stored) == (None, None, PAYLOAD)
    else:
        assert isinstance(listener.error, WrongPassphraseError)
        assert isinstance(connector.error, WrongPassphraseError)
        assert sink.stored is None


async def test_a_listener_started_later_is_found(autojump_clock: object) -> None:
    async with simulated(10) as network, trio.open_nursery() as nursery:
        alice, bob = network.host("alice"), network.host("bob")
        connector = connecting(nursery, alice, bob, sending(), engine("qh3"))
        await trio.sleep(17)
        sink = MemorySink()
        listener = listening(nursery, bob, handoff.Cargo(None, sink), engine("qh3"))
    assert (listener.error, connector.error, sink.stored) == (None, None, PAYLOAD)


async def test_nobody_comes_within_the_time(autojump_clock: object) -> None:
    async with simulated(11) as network, trio.open_nursery() as nursery:
        listener = listening(nursery, network.host("bob"), handoff.Cargo(None, MemorySink()), engine("qh3"))
    assert isinstance(listener.error, NobodyFoundError)
    assert trio.current_time() == pytest.approx(600, abs=2)


async def carry(source: Stream, target: Stream) -> None:
    try:
        while data := await source.receive_some():
            await target.send_all(data)
        await target.send_eof()
    except (ConnectionClosedError, trio.ClosedResourceError):
        return


async def carry_close(source: Connection, target: Connection) -> None:
    target.close((await source.wait_closed()).code, "")


@every_pair
async def test_a_man_in_the_middle_gets_the_counted_tries_and_no_bytes(
    pair: tuple[str, str], autojump_clock: object
) -> None:
    """He ends real QUIC on both sides and carries every stream byte and close faithfully; both ends hold the right words."""
    async with simulated(12) as network, trio.open_nursery() as nursery:
        alice, mallory, bob = network.host("alice"), network.host("mallory"), network.host("bob")
        carried = 0

        async def sit_between() -> None:
            nonlocal carried
            used, identity = engine(pair[0]), TlsIdentity.generate()
            opened = open_endpoint(engine=used, identity=identity, port=DEFAULT_PORT, accept=True)
            async with opened as endpoint, trio.open_nursery() as carriers:
                while True:
                    near = await endpoint.accept()
                    carried += 1
                    near.admit()
                    far = await endpoint.dial(Address(bob.address, DEFAULT_PORT), timeout=5)
                    one, other = await near.accept_stream(), await far.open_stream()
                    carriers.start_soon(carry, one, other)
                    carriers.start_soon(carry, other, one)
                    carriers.start_soon(carry_close, far, near)

        sink = MemorySink()
        listener = listening(nursery, bob, handoff.Cargo(None, sink), engine(pair[1]))
        nursery.start_soon(mallory.run, sit_between)
        errors = []
        for _ in range(3):
            async with trio.open_nursery() as attempt:
                connector = connecting(attempt, alice, mallory, sending(), engine(pair[0]))
            errors.append(connector.error)
            assert not connector.saw(status.Started)
        with trio.move_on_after(30):
            while not listener.done:
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    assert all(isinstance(error, WrongPassphraseError) for error in errors)
    assert isinstance(listener.error, WrongPassphraseError)
    assert len(listener.saw(status.TrySpent)) == 3
    assert carried == 3
    assert sink.stored is None
