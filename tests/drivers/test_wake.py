"""Lost time is noticed, by either of its signs; clocks are given."""

import attrs
import pytest
import trio

from meshd.drivers.wake import LOOK_EVERY, awake_clock, boot_clock, watch_for_wakes


@attrs.define
class Clocks:
    """Virtual time, and what a sleep or a stop adds to it."""

    slept: float = 0.0
    stopped: float = 0.0

    def boot(self) -> float:
        return trio.current_time() + self.slept + self.stopped

    def awake(self) -> float:
        return trio.current_time() + self.stopped


@pytest.mark.parametrize(
    ("slept", "stopped", "told"),
    [
        (0.0, 0.0, []),
        (3600.0, 0.0, [3600.0]),  # a lid was closed
        (2.0, 0.0, [2.0]),
        (0.5, 0.0, []),
        (0.0, 40.0, [40.0]),  # SIGSTOP: both clocks ran on
        (0.0, 4.0, []),  # a busy machine
        (7.0, 40.0, [47.0]),
    ],
)
async def test_what_counts_as_a_wake(autojump_clock, slept, stopped, told) -> None:
    clocks, heard, when = Clocks(), [], []

    def woke(lost: float) -> None:
        heard.append(lost)
        when.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: watch_for_wakes(woke, boot=clocks.boot, awake=clocks.awake))
        await trio.sleep(60.1)
        clocks.slept, clocks.stopped = slept, stopped
        began = trio.current_time()
        await trio.sleep(60)
        assert heard == pytest.approx(told)
        assert all(each - began <= LOOK_EVERY for each in when)
        clocks.slept += 100
        await trio.sleep(60)
        assert len(heard) == len(told) + 1
        nursery.cancel_scope.cancel()


def test_the_clocks_of_this_machine_run_and_sleep_is_never_negative() -> None:
    boot, awake = boot_clock(), awake_clock()
    assert boot >= awake - 0.1 and boot_clock() >= boot and awake_clock() >= awake
