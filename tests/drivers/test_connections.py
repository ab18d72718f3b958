"""Dialling, liveness and the end of connections, for every pairing of engines."""

import errno
import hashlib
import os
import re

import attrs
import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from meshd.drivers.quic import (
    Closed,
    ConnectionClosedError,
    DialFailedError,
    DriverCode,
    VersionMismatchError,
    open_endpoint,
)
from meshd.drivers.quic_connection import UNANSWERED
from meshd.drivers.quic_engine import HandshakeDone
from meshd.drivers.quic_versions import judge_versions
from meshd.drivers.tls_identity import TlsIdentity
from meshd.errors import ConnectionLostError
from meshd.model.address import Address
from tests.drivers.pairs import IDENTITY, endpoints, engine, every_pair, linked, open_pair
from tests.sim.network import simulated


@every_pair
async def test_both_sides_know_the_servers_certificate(pair, autojump_clock):
    async with linked(pair) as world:
        digest = hashlib.sha256(IDENTITY.certificate_der).digest()
        assert world.near.certificate_digest == world.far.certificate_digest == IDENTITY.digest == digest
        assert world.near.is_client and not world.far.is_client
        assert world.near.alpn == world.far.alpn == "tether/1"
        assert world.near.peer == world.target
        assert world.far.peer.host == world.alice.address


@every_pair
async def test_dual_stack_and_ipv6(pair, autojump_clock):
    async with endpoints(pair) as world:
        connection = await world.client.dial(Address("fd00::2", world.server.port), timeout=5)
        far = await world.server.accept()
        assert (connection.peer.host, far.peer.host) == ("fd00::2", "fd00::1")


@every_pair
async def test_close_carries_code_and_reason_and_is_idempotent(pair, autojump_clock):
    async with linked(pair) as world:
        world.near.close(1234, "because")
        world.near.close(1, "later")
        assert await world.near.wait_closed() == Closed(1234, "because", by_peer=False)
        assert await world.far.wait_closed() == Closed(1234, "because", by_peer=True)
        assert (world.near.closed.told, world.far.closed.told) == (None, 1234)
        assert world.client.connections == {world.near} and world.server.connections == {world.far}
        await trio.sleep(2)
        assert not world.client.connections and not world.server.connections


@every_pair
async def test_a_lost_close_is_repeated_to_a_peer_that_still_talks(pair, autojump_clock):
    async with linked(pair) as world:
        _near, far = await open_pair(world)
        world.network.cut(world.alice, world.bob)
        world.near.close(5, "done")
        await trio.sleep(0.001)
        world.network.heal(world.alice, world.bob)
        await far.send_all(b"still there?")
        with trio.fail_after(1):
            assert (await world.far.wait_closed()).code == 5


@every_pair
async def test_leaving_the_endpoint_tells_the_peers(pair, autojump_clock):
    async with endpoints(pair) as world:
        with world.alice:
            async with open_endpoint(engine=engine(pair[0]), identity=IDENTITY) as client:
                near = await client.dial(world.target, timeout=5)
                far = await world.server.accept()
                start = trio.current_time()
            assert trio.current_time() - start <= 0.3
        assert near.closed == Closed(0, "", by_peer=False)
        assert await far.wait_closed() == Closed(0, "", by_peer=True)


@every_pair
async def test_cancelling_the_owner_of_an_endpoint_still_tells_the_peers(pair, autojump_clock):
    async with endpoints(pair) as world:
        with world.alice, trio.CancelScope() as scope:
            async with open_endpoint(engine=engine(pair[0]), identity=IDENTITY) as client:
                await client.dial(world.target, timeout=5)
                far = await world.server.accept()
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert (await far.wait_closed()).by_peer


async def test_an_error_in_the_block_comes_out_as_it_went_in(autojump_clock):
    # One engine: it is never asked anything.
    async with simulated(1) as network:
        with network.host("alice"), pytest.raises(KeyError, match="mine"):
            async with open_endpoint(engine=engine("qh3"), identity=IDENTITY):
                raise KeyError("mine")


@every_pair
async def test_keepalive_holds_an_idle_link(pair, autojump_clock):
    async with linked(pair) as world:
        world.network.sent = 0
        await trio.sleep(600)
        assert world.near.closed is None and world.far.closed is None
        assert 60 <= world.network.sent <= 400
        await open_pair(world)


@every_pair
async def test_silence_is_a_lost_connection(pair, autojump_clock):
    async with linked(pair) as world:
        near, _far = await open_pair(world)
        world.near.watch(ping=3, silence=10)
        world.network.cut(world.alice, world.bob)
        start = trio.current_time()
        with pytest.raises(ConnectionClosedError) as caught:
            await near.receive_some()
        assert caught.value.closed.timed_out and not caught.value.closed.by_peer
        assert 9 <= trio.current_time() - start <= 10.5
        assert (await world.far.wait_closed()).timed_out
        assert trio.current_time() - start <= 41


@every_pair
@pytest.mark.parametrize("quiet_end", ["near", "far"])
async def test_what_was_said_in_vain_is_a_lost_connection_sooner(pair, autojump_clock, quiet_end):
    """Who has something under way gives up after 10 s; who has nothing, 10 s after its next keepalive."""
    async with linked(pair) as world:
        near, far = await open_pair(world)
        await trio.sleep(1)
        world.network.cut(world.alice, world.bob)
        start = trio.current_time()
        await (far if quiet_end == "near" else near).send_all(b"in vain")
        ends = {"near": world.near, "far": world.far}
        quiet = ends.pop(quiet_end)
        (speaker,) = ends.values()
        closed = await speaker.wait_closed()
        assert closed.timed_out and trio.current_time() - start == pytest.approx(UNANSWERED, abs=0.1)
        assert (await quiet.wait_closed()).timed_out
        assert trio.current_time() - start <= 15 + UNANSWERED + 0.1


@every_pair
async def test_a_peer_that_reads_nothing_is_not_lost(pair, autojump_clock):
    """Flow control holds back what is for it, and its program answers pings all the same."""
    async with linked(pair) as world:
        near, _far = await open_pair(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, bytes(4 << 20))
            await trio.sleep(60)
            assert world.near.closed is None and world.far.closed is None
            nursery.cancel_scope.cancel()


@every_pair
async def test_a_short_cut_is_survived(pair, autojump_clock):
    async with linked(pair) as world:
        near, far = await open_pair(world)
        world.near.watch(ping=3, silence=10)
        world.network.cut(world.alice, world.bob)
        world.network.at(6, world.network.heal, world.alice, world.bob)
        await near.send_all(b"through")
        assert await far.receive_some() == b"through"


@every_pair
async def test_dialling_nobody_fails_in_time_and_leaves_nothing(pair, autojump_clock):
    async with endpoints(pair, accept=False) as world:
        start = trio.current_time()
        with pytest.raises(DialFailedError, match="Nobody answered"):
            await world.client.dial(world.target, timeout=3)
        assert trio.current_time() - start == pytest.approx(3, abs=0.01)
        await trio.sleep(1)
        assert not world.client.connections and not world.server.connections


@every_pair
async def test_cancelled_dial_and_accept_leave_nothing(pair, autojump_clock):
    async with endpoints(pair) as world:
        with trio.move_on_after(1) as scope:
            await world.server.accept()
        assert scope.cancelled_caught
        for seconds in (0.0, 0.012, 0.018):
            with trio.move_on_after(seconds) as scope:
                await world.client.dial(world.target, timeout=5)
            assert scope.cancelled_caught
        await trio.sleep(15)
        assert not world.client.connections and not world.server.connections
        await world.client.dial(world.target, timeout=5)
        assert (await world.server.accept()).closed is None


@every_pair
async def test_dialling_without_a_way_fails_at_once(pair, autojump_clock):
    async with endpoints(pair) as world:
        start = trio.current_time()
        with pytest.raises(DialFailedError, match=os.strerror(errno.EHOSTUNREACH)):
            await world.client.dial(Address("192.0.2.1", 9), timeout=30)
        assert trio.current_time() - start < 1
        with pytest.raises(DialFailedError, match="interface"):
            await world.client.dial(Address("fe80::1%nosuch0", 9), timeout=30)
        for host in ("two..dots", "x" * 64 + ".example", "\udcff.example"):
            with pytest.raises(DialFailedError, match="cannot be the name"):
                await world.client.dial(Address(host, 9), timeout=30)


@every_pair
async def test_refused_with_a_code_when_no_longer_accepting(pair, autojump_clock):
    async with endpoints(pair) as world:
        world.server.stop_accepting(99, "busy elsewhere")
        connection = await world.client.dial(world.target, timeout=5)
        closed = await connection.wait_closed()
        assert (closed.code, closed.reason, closed.by_peer) == (99, "busy elsewhere", True)


@every_pair
async def test_no_version_in_common(pair, autojump_clock):
    async with endpoints(pair, client_alpns=("tether/1",), server_alpns=("tether/2", "tether/3")) as world:
        async with trio.open_nursery() as nursery:

            async def accept():
                with pytest.raises(VersionMismatchError) as caught:
                    await world.server.accept()
                assert not caught.value.this_is_older
                assert "the other side is older" in str(caught.value)

            nursery.start_soon(accept)
            with pytest.raises(VersionMismatchError) as caught:
                await world.client.dial(world.target, timeout=5)
            assert caught.value.this_is_older
            assert str(caught.value) == (
                "The other side speaks tether version 2, 3 only, this side 1: this side is older. Update it."
            )
        await trio.sleep(2)
        assert not world.client.connections and not world.server.connections


@every_pair
async def test_the_best_common_version_is_chosen(pair, autojump_clock):
    async with linked(pair, client_alpns=("tether/1", "tether/2"), server_alpns=("tether/2", "tether/1")) as world:
        assert world.near.alpn == world.far.alpn == "tether/2"


@every_pair
async def test_something_else_entirely(pair, autojump_clock):
    async with endpoints(pair, server_alpns=("pigeon/1",)) as world:
        with pytest.raises(DialFailedError, match="not a Tether") as caught:
            await world.client.dial(world.target, timeout=5)
        assert caught.value.closed is not None and caught.value.closed.is_transport
        assert caught.value.closed.told is None


STRANGE = ("pigeon/1", "tether")
"""An endpoint of another kind that knows our bare name, so that a test holds its end of the exchange of versions."""


@attrs.frozen
class Says:
    """What a hostile end does with the stream of the exchange."""

    data: bytes = b""
    code: int | None = None
    """Reset with this code instead of ending in order."""

    async def on(self, stream):
        await stream.send_all(self.data)
        if self.code is None:
            await stream.send_eof()
        else:
            await trio.sleep(0.1)
            stream.reset(self.code)


MUDDLED = [
    Says(b""),
    Says(b"pigeon/1"),
    Says(b"tether/99999"),
    Says(b"\xff" * 200),
    Says(b"tether/2," * 100),
    Says(b"tether/2,", code=7),
]


@every_pair
@pytest.mark.parametrize("says", MUDDLED, ids=str)
async def test_a_muddled_list_of_versions(pair, says, autojump_clock):
    async with endpoints(pair, server_alpns=STRANGE) as world, trio.open_nursery() as nursery:

        async def answer():
            connection = await world.server.accept()
            await says.on(await connection.accept_stream())
            await connection.wait_closed()

        nursery.start_soon(answer)
        with pytest.raises(DialFailedError, match="no Tether that says"):
            await world.client.dial(world.target, timeout=5)


@every_pair
@pytest.mark.parametrize("says", MUDDLED, ids=str)
async def test_a_caller_with_a_muddled_list_of_versions_is_let_go(pair, says, autojump_clock):
    async with endpoints(pair, client_alpns=STRANGE, server_alpns=("tether/2",)) as world:
        near = await world.client.dial(world.target, timeout=5)
        await says.on(await near.open_stream())
        assert (await near.wait_closed()).told == DriverCode.VERSIONS
        with trio.move_on_after(5) as scope:
            await world.server.accept()
        assert scope.cancelled_caught


@every_pair
@pytest.mark.parametrize(("pause", "what", "at_most"), [(0.01, "no Tether that says", 1.0), (0.5, "Nobody", 5.1)])
async def test_a_list_of_versions_without_an_end_is_not_waited_for(pair, pause, what, at_most, autojump_clock):
    async with endpoints(pair, server_alpns=STRANGE) as world, trio.open_nursery() as nursery:

        async def go_on():
            stream = await (await world.server.accept()).accept_stream()
            with pytest.raises(ConnectionLostError):
                while True:
                    await stream.send_all(b"tether/2,")
                    await trio.sleep(pause)

        nursery.start_soon(go_on)
        with pytest.raises(DialFailedError, match=what):
            await world.client.dial(world.target, timeout=5)
        assert trio.current_time() <= at_most


LIKELY = st.lists(
    st.sampled_from([b"tether/", b"tether", b"/", b",", b"1", b"2", b"0009", b"12345", b"\xc2\xb2", b"-1"])
)


@given(st.one_of(st.binary(max_size=300), LIKELY.map(b"".join)))
@example(b"tether/2," * 28)
@example(b"tether/9999")
def test_any_list_of_versions_is_a_mismatch_or_a_failure(heard):
    try:
        mismatch = judge_versions(heard, ("tether/1",))
    except DialFailedError:
        return
    assert len(heard) <= 256 and re.search(rb"(^|,)tether/[0-9]{1,4}(,|$)", heard)
    assert len(str(mismatch)) < 500 and str(mismatch).isascii()


@every_pair
async def test_a_key_that_does_not_fit_the_certificate_is_refused(pair, autojump_clock):
    other = TlsIdentity.generate()
    forged = TlsIdentity(IDENTITY.certificate_der, IDENTITY.certificate_pem, other.private_key_pem)
    async with endpoints(pair, identity=forged) as world:
        with pytest.raises(DialFailedError) as caught:
            await world.client.dial(world.target, timeout=5)
        assert caught.value.closed is not None and caught.value.closed.code == 0x133  # TLS alert decrypt_error
        with trio.move_on_after(5) as scope:
            await world.server.accept()
        assert scope.cancelled_caught


@every_pair
async def test_resumption_and_a_missing_certificate_are_refused(pair, autojump_clock, monkeypatch):
    async with endpoints(pair) as world:
        honest = world.client.engine
        monkeypatch.setattr(type(honest), "peer_certificate_der", lambda self, quic: None)
        with pytest.raises(DialFailedError):
            await world.client.dial(world.target, timeout=5)
        monkeypatch.undo()
        genuine = type(honest).next_event

        def resumed(self, quic):
            event = genuine(self, quic)
            return HandshakeDone(event.alpn, True) if isinstance(event, HandshakeDone) else event

        monkeypatch.setattr(type(honest), "next_event", resumed)
        with pytest.raises(DialFailedError):
            await world.client.dial(world.target, timeout=5)


@every_pair
@pytest.mark.parametrize("host", ["10.0.0.2", "fd00::2"])
async def test_the_narrowest_path_of_ipv6_is_wide_enough(pair, host, autojump_clock):
    """1,280 octets with the IP header, and larger probes vanish without a word, as in a VPN."""
    async with endpoints(pair, mtu=1280) as world:
        world.near = await world.client.dial(Address(host, world.server.port), timeout=5)
        world.far = await world.server.accept()
        world.near.admit()
        world.far.admit()
        near, far = await open_pair(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, bytes(300_000))
            nursery.start_soon(far.send_all, bytes(300_000))
            for stream in (near, far):
                received = 0
                while received < 300_000:
                    received += len(await stream.receive_some())
        assert trio.current_time() < 5
