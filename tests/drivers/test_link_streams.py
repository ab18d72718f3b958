"""The streams of a link: who may open which, what ends it, and what a broken end means to the rest of the daemon."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from meshd.drivers.link_streams import OPEN_DEADLINE, Purpose, open_frame, read_purpose, serve_link
from meshd.drivers.quic import Closed, ConnectionClosedError
from meshd.errors import RemoteProtocolError, StoreError
from meshd.wire.constants import CloseCode, Frame
from meshd.wire.framing import encode_frame


class Connection:
    """What serve_link uses of one: streams that a test hands in, and the codes with which it was closed."""

    def __init__(self) -> None:
        self.arriving, self._receive = trio.open_memory_channel[Any](8)
        self.codes: list[int] = []
        self.opened: list[Any] = []
        self.closed = None

    async def open_stream(self) -> Any:
        here, there = trio.testing.memory_stream_pair()
        self.opened.append(there)
        return here

    async def accept_stream(self) -> Any:
        return await self._receive.receive()

    def close(self, code: int = 0, reason: str = "") -> None:
        self.codes.append(code)

    async def arrives(self, data: bytes) -> Any:
        here, there = trio.testing.memory_stream_pair()
        await there.send_all(data)
        await self.arriving.send(here)
        return there


class Link:
    def __init__(self, dialled_here: bool) -> None:
        self.connection, self.dialled_here = Connection(), dialled_here
        self.leaving = trio.Event()


class Served:
    """Which streams were served."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def by(self, name: str, then: Callable[[], Awaitable[None]] = trio.sleep_forever) -> Any:
        async def serve(link: Any, stream: Any) -> None:
            self.names.append(name)
            await then()

        return serve


async def run(link: Link, served: Served, **ends: Callable[[], Awaitable[None]]) -> str:
    names = ("sync", "ask", "answer")
    return await serve_link(link, **{name: served.by(name, ends.get(name, trio.sleep_forever)) for name in names})


async def at_once() -> None:
    pass


async def disk_fails() -> None:
    raise StoreError("The disk is full.")


async def test_who_dialled_opens_the_sync_stream_and_each_its_own_fetch_stream(autojump_clock: object) -> None:
    link, served = Link(dialled_here=True), Served()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, link, served)
        await link.connection.arrives(open_frame(Purpose.FETCH))
        await trio.sleep(1)
        assert sorted(served.names) == ["answer", "ask", "sync"]
        opened = {bytes(await each.receive_some()) for each in link.connection.opened}
        assert opened == {open_frame(Purpose.SYNC), open_frame(Purpose.FETCH)}
        nursery.cancel_scope.cancel()
    assert link.connection.codes == [CloseCode.DONE]


@pytest.mark.parametrize(
    "data",
    [
        open_frame(Purpose.JOIN),
        encode_frame(Frame.OPEN, b"\x09"),
        encode_frame(Frame.OPEN, b"") + b"\x01",
        encode_frame(Frame.OPEN, b"\x01\x01"),
        encode_frame(Frame.HELLO, b"\x01"),
        b"\x00" * 6,
    ],
)
async def test_a_stream_for_anything_else_ends_the_link(autojump_clock: object, data: bytes) -> None:
    link = Link(dialled_here=False)
    await link.connection.arrives(data)
    with trio.fail_after(1):
        assert "The other side opened a stream" in await run(link, Served())
    assert link.connection.codes[0] == CloseCode.PROTOCOL


async def test_a_purpose_may_be_had_once_and_the_sync_stream_from_who_dialled_only(autojump_clock: object) -> None:
    for dialled_here, purposes in ((False, [Purpose.SYNC, Purpose.SYNC]), (True, [Purpose.SYNC])):
        link = Link(dialled_here)
        for purpose in purposes:
            await link.connection.arrives(open_frame(purpose))
        with trio.fail_after(1):
            assert "it may not, or twice" in await run(link, Served())


async def test_a_stream_that_says_nothing_is_not_waited_for(autojump_clock: object) -> None:
    link = Link(dialled_here=False)
    await link.connection.arrives(open_frame(Purpose.SYNC)[:3])
    began = trio.current_time()
    await run(link, Served())
    assert trio.current_time() - began == pytest.approx(OPEN_DEADLINE)


@pytest.mark.parametrize("name", ["sync", "ask", "answer"])
async def test_the_link_ends_with_any_of_its_streams(autojump_clock: object, name: str) -> None:
    link = Link(dialled_here=False)
    for purpose in (Purpose.SYNC, Purpose.FETCH):
        await link.connection.arrives(open_frame(purpose))
    with trio.fail_after(1):
        await run(link, Served(), **{name: at_once})
    assert link.connection.codes == [CloseCode.DONE]


@pytest.mark.parametrize("early", [True, False], ids=["before its streams are open", "after"])
async def test_of_a_link_that_is_leaving_only_records_are_left(autojump_clock: object, early: bool) -> None:
    link, ended = Link(dialled_here=False), []

    async def until_ended() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        ends = {"sync": partial(trio.sleep, 5), "ask": until_ended, "answer": until_ended}
        nursery.start_soon(partial(run, link, Served(), **ends))
        await trio.sleep(0 if early else 1)
        leaves = trio.current_time()
        link.leaving.set()
        for purpose in (Purpose.SYNC, Purpose.FETCH):
            await link.connection.arrives(open_frame(purpose))
        await trio.sleep(1)
        assert not link.connection.codes, "the stream for records goes on"
        assert all(each == leaves for each in ended)
    assert link.connection.codes == [CloseCode.DONE]


async def test_a_disk_that_fails_under_a_link_ends_the_link_and_no_more(autojump_clock: object) -> None:
    link = Link(dialled_here=True)
    with trio.fail_after(1):
        assert await run(link, Served(), sync=disk_fails) == "The disk is full."
    assert link.connection.codes == [CloseCode.DONE]


async def test_a_cancellation_in_the_moment_of_a_loss_is_only_a_cancellation(autojump_clock: object) -> None:
    lost = Closed(CloseCode.NOT_A_MEMBER, "", by_peer=True)

    async def ends_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            raise ConnectionClosedError(lost) from None

    link = Link(dialled_here=True)
    with trio.move_on_after(1) as scope:
        await run(link, Served(), ask=ends_when_cancelled)
    assert scope.cancelled_caught


async def test_the_frame_is_read_byte_by_byte_and_not_a_byte_more(autojump_clock: object) -> None:
    here, there = trio.testing.memory_stream_pair()

    async def send() -> None:
        for byte in open_frame(Purpose.FETCH) + b"next":
            await there.send_all(bytes([byte]))
            await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        assert await read_purpose(here) is Purpose.FETCH
        left = b""
        while len(left) < 4:
            left += await here.receive_some()
        assert left == b"next"
    await there.aclose()
    with pytest.raises(RemoteProtocolError):
        await read_purpose(here)
