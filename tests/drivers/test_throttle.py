"""The upload limit, in virtual time."""

import pytest
import trio
from trio.testing import MockClock

from meshd.drivers.throttle import SLICE, Throttle


async def send(throttle: Throttle, size: int) -> float:
    began = trio.current_time()
    for _ in range(size // SLICE):
        await throttle.take(SLICE)
    return trio.current_time() - began


async def test_without_a_limit_nothing_waits(autojump_clock: MockClock) -> None:
    assert await send(Throttle(), 100 << 20) == 0


@pytest.mark.parametrize("rate", [10_000, 1 << 20, 100 << 20])
async def test_the_rate_is_kept(autojump_clock: MockClock, rate: int) -> None:
    size = max(rate * 10 // SLICE, 2) * SLICE
    assert await send(Throttle(rate), size) == pytest.approx(size / rate, rel=0.02, abs=SLICE / rate)


async def test_links_take_turns(autojump_clock: MockClock) -> None:
    throttle = Throttle(1 << 20)
    took = []

    async def one() -> None:
        took.append(await send(throttle, 2 << 20))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(one)
    assert min(took) > 5.7
    assert max(took) < 6.1


async def test_who_waits_hears_of_a_new_rate(autojump_clock: MockClock) -> None:
    throttle = Throttle(1000)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, throttle, 100 * SLICE)
        await trio.sleep(5)
        throttle.set_rate(None)
    assert trio.current_time() - began == pytest.approx(5)
    assert throttle.rate is None


async def test_idle_time_saves_up_little(autojump_clock: MockClock) -> None:
    throttle = Throttle(1 << 20)
    await send(throttle, SLICE)
    await trio.sleep(1000)
    assert await send(throttle, 1 << 20) > 0.85


async def test_a_cancelled_wait_takes_nothing(autojump_clock: MockClock) -> None:
    throttle = Throttle(SLICE)
    await throttle.take(SLICE)
    with trio.move_on_after(0.5):
        await throttle.take(SLICE)
    assert await send(throttle, SLICE) == pytest.approx(0.5, abs=0.01)
