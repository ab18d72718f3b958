"""The streams on which this machine asks members for blobs: one a link, shared by all fetches. See protocol/asking.py."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import trio

from meshd.drivers.link import Link
from meshd.drivers.one_error import one_error
from meshd.drivers.quic import Stream
from meshd.errors import RemoteProtocolError
from meshd.model.identity import NodeId
from meshd.protocol.asking import Answered, Asking

REQUEST_DEADLINE: Final = 30.0
"""Seconds for our requests, a few KiB, to leave: a peer that takes no more of them has stopped."""


class Peer:
    """A member that can be asked, until its stream ends."""

    def __init__(self, link: Link, stream: Stream) -> None:
        self.node = link.node
        self.asking = Asking()
        self._stream = stream
        self._asked = trio.Event()

    def send(self) -> None:
        """There are requests to send."""
        self._asked.set()

    async def run(self, heard: Callable[["Peer"], None], take: Callable[["Peer", Answered], Awaitable[None]]) -> None:
        """Send requests and hand answers on, one after another. Raises RemoteProtocolError and what the stream raises."""
        with one_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send)
                while data := await self._stream.receive_some():
                    self.asking.receive_data(data, trio.current_time())
                    heard(self)
                    while (answered := self.asking.next_event()) is not None:
                        await take(self, answered)
                nursery.cancel_scope.cancel()

    async def _send(self) -> None:
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            data = self.asking.data_to_send(trio.current_time())
            with trio.move_on_after(REQUEST_DEADLINE) as waiting:
                await self._stream.send_all(data)
            if waiting.cancelled_caught:
                raise RemoteProtocolError("The other side reads no more requests for blobs.")


Peers = Mapping[NodeId, Peer]


def full(peers: Peers) -> set[NodeId]:
    """Those that can take no more requests for now."""
    return {node for node, peer in peers.items() if peer.asking.is_full}
