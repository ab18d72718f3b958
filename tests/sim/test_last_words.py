"""What each side may say when the link dies around the very end: docs/protocol/transfer.md, "Order"."""

import trio

from meshd import status
from meshd.drivers import handoff
from meshd.errors import ConnectionLostError
from tests.drivers.pairs import engine
from tests.sim.handoffs import MemorySink
from tests.sim.network import simulated
from tests.sim.test_handoff import PAYLOAD, connecting, listening, sending


class CuttingSink(MemorySink):
    """Stores everything, and cuts the line before anybody can be told."""

    def __init__(self, cut: object) -> None:
        super().__init__()
        self._cut = cut

    def finish(self) -> object:  # type: ignore[override]
        self._cut()  # type: ignore[operator]
        return super().finish()


async def test_a_sender_that_hears_no_confirmation_says_that_it_does_not_know(autojump_clock: object) -> None:
    async with simulated(21) as network, trio.open_nursery() as nursery:
        alice, bob = network.host("alice"), network.host("bob")
        sink = CuttingSink(lambda: network.cut(alice, bob))
        listener = listening(nursery, bob, handoff.Cargo(None, sink), engine("qh3"))  # type: ignore[arg-type]
        connector = connecting(nursery, alice, bob, sending(), engine("qh3"))
    assert listener.error is None
    assert sink.stored == PAYLOAD
    assert listener.saw(status.Warned), "the receiver says that the sender may not know"
    assert isinstance(connector.error, ConnectionLostError)
    assert "is not known" in str(connector.error)
    assert "not kept" not in str(connector.error)
