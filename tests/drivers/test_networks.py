"""Changes of this machine's addresses: told once each, when they are whole. Rings and addresses are given."""

import ipaddress
import socket
import sys

import attrs
import pytest
import trio

from meshd.drivers import networks
from meshd.drivers.networks import LOOK_ANYWAY, LOOK_EVERY, SETTLE, SETTLE_LIMIT, Interface, watch_addresses
from meshd.drivers.threads import inline

HOME = (Interface("wlan0", ipaddress.ip_interface("192.168.1.5/24")),)
CAFE = (Interface("wlan0", ipaddress.ip_interface("10.3.3.3/16")),)


@attrs.define
class Kernel:
    now: tuple[Interface, ...] = HOME
    reads: int = 0
    _bell: trio.Event = attrs.field(factory=trio.Event)

    def read(self) -> tuple[Interface, ...]:
        self.reads += 1
        return self.now

    def change(self, now: tuple[Interface, ...]) -> None:
        self.now = now
        self._bell.set()

    async def ring(self) -> None:
        await self._bell.wait()
        self._bell = trio.Event()


@attrs.define
class Watched:
    kernel: Kernel = attrs.field(factory=Kernel)
    told: list[tuple[float, tuple[Interface, ...]]] = attrs.field(factory=list)

    async def run(self, **changes: object) -> None:
        def changed(now: tuple[Interface, ...]) -> None:
            self.told.append((trio.current_time(), now))

        ring = self.kernel.ring if changes.pop("with_ring", True) else None
        await watch_addresses(changed, read=self.kernel.read, ring=ring, offload=inline, **changes)


async def test_a_change_is_told_when_it_is_whole(autojump_clock) -> None:
    watched = Watched()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.run)
        await trio.sleep(10)
        began = trio.current_time()
        watched.kernel.change(())  # the old address goes
        await trio.sleep(SETTLE / 2)
        watched.kernel.change(CAFE)
        await trio.sleep(10)
        assert [now for _, now in watched.told] == [CAFE]
        assert watched.told[0][0] - began == pytest.approx(1.5 * SETTLE)
        watched.kernel.change(CAFE)  # a lifetime was renewed
        await trio.sleep(10)
        assert len(watched.told) == 1
        nursery.cancel_scope.cancel()


async def test_an_address_that_was_away_for_a_moment_is_told(autojump_clock) -> None:
    """A peer that heard from the other address meanwhile may still write there, and no link says so."""
    watched = Watched()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.run)
        await trio.sleep(10)
        watched.kernel.change(CAFE)
        await trio.sleep(SETTLE / 2)
        watched.kernel.change(HOME)
        await trio.sleep(10)
        assert [now for _, now in watched.told] == [HOME]
        nursery.cancel_scope.cancel()


async def test_messages_without_end_do_not_hide_a_change(autojump_clock) -> None:
    watched = Watched()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.run)
        await trio.sleep(1)
        for _ in range(100):
            watched.kernel.change(CAFE)
            await trio.sleep(SETTLE / 2)
        assert len(watched.told) == 1 and watched.told[0][0] <= 1 + SETTLE_LIMIT + SETTLE
        assert watched.kernel.reads < 25, "two for each SETTLE_LIMIT"
        nursery.cancel_scope.cancel()


async def test_a_message_that_was_dropped_costs_half_a_minute(autojump_clock) -> None:
    watched = Watched()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.run)
        await trio.sleep(100)
        watched.kernel.now = CAFE
        await trio.sleep(LOOK_ANYWAY + 0.1)
        assert [now for _, now in watched.told] == [CAFE]
        nursery.cancel_scope.cancel()


async def test_where_the_kernel_does_not_tell_it_is_asked_every_second(
    autojump_clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    watched = Watched()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: watched.run(with_ring=False))
        await trio.sleep(10)
        watched.kernel.now = CAFE
        await trio.sleep(LOOK_EVERY + 0.1)
        assert [now for _, now in watched.told] == [CAFE]
        nursery.cancel_scope.cancel()


async def test_a_change_since_what_is_known_is_told_at_once(autojump_clock) -> None:
    watched = Watched()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: watched.run(known=CAFE))
        await trio.sleep(0.1)
        assert [now for _, now in watched.told] == [HOME]
        nursery.cancel_scope.cancel()


def test_a_sandbox_without_netlink_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> socket.socket:
        raise PermissionError(1, "not here")

    monkeypatch.setattr(networks.socket, "socket", refused)
    with networks.kernel_ring() as ring:
        assert ring is None


@pytest.mark.skipif(sys.platform != "linux", reason="netlink is Linux's")
async def test_the_kernel_can_be_listened_to() -> None:
    with networks.kernel_ring() as ring:
        assert ring is not None
        with trio.move_on_after(0) as waiting:
            await ring()
        assert waiting.cancelled_caught


def test_own_addresses_leave_out_loopback_where_there_is_another() -> None:
    found = networks.local_interfaces()
    assert found and not any(each.ip.ip.is_link_local for each in found)
    assert len({each.ip.ip.is_loopback for each in found}) == 1
