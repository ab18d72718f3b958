"""What one UDP socket carries besides the node's own protocol: protocols that it only dials, datagrams that are no QUIC."""

import pytest
import trio

from meshd.drivers.quic import open_endpoint
from meshd.drivers.tls_identity import TlsIdentity, fingerprint, has_fingerprint
from meshd.model.address import Address
from tests.drivers.pairs import IDENTITY, endpoints, engine, every_pair, linked, open_pair
from tests.sim.nat import Router
from tests.sim.network import simulated

OTHER = ("pigeon/3",)


@every_pair
async def test_an_endpoint_dials_other_protocols_than_its_own(pair, autojump_clock) -> None:
    async with endpoints(pair, server_alpns=OTHER) as world:
        for _ in range(2):
            near = await world.client.dial(world.target, timeout=5, alpns=OTHER)
            far = await world.server.accept()
            assert near.alpn == far.alpn == "pigeon/3"
            assert near.certificate == IDENTITY.certificate_der and not far.certificate


@every_pair
async def test_it_is_dialled_from_the_port_that_it_accepts_on(pair, autojump_clock) -> None:
    async with endpoints(pair) as world:
        await world.client.dial(world.target, timeout=5)
        far = await world.server.accept()
        assert far.peer.port == world.client.port


@every_pair
async def test_datagrams_that_are_no_quic_go_by_it(pair, autojump_clock) -> None:
    async with linked(pair) as world:
        heard = []
        world.server.on_datagram = lambda data, address: heard.append((data, address))
        here = (world.alice.address, world.client.port)
        world.client.send_datagram(b"\x01hello", (world.bob.address, world.server.port))
        world.client.send_datagram(b"\x41quic?", (world.bob.address, world.server.port))
        await trio.sleep(1)
        assert heard == [(b"\x01hello", here)]
        near, far = await open_pair(world)
        await near.send_all(b"and the connection goes on")
        assert await far.receive_some() == b"and the connection goes on"


@every_pair
async def test_where_a_peer_is_now_is_known_and_where_it_was_met_stays(pair, autojump_clock) -> None:
    async with simulated(1) as network:
        router, bob = Router(network, "5.0.0.1"), network.host("bob")
        with bob:
            server = open_endpoint(engine=engine(pair[1]), identity=IDENTITY, accept=True)
            async with server as server:
                with router.host("alice"):
                    client = open_endpoint(engine=engine(pair[0]), identity=IDENTITY)
                    async with client as client:
                        near = await client.dial(Address(bob.address, server.port), timeout=5)
                        far = await server.accept()
                        stream = await near.open_stream()
                        await stream.send_all(b"here")
                        theirs = await far.accept_stream()
                        assert await theirs.receive_some() == b"here"
                        met = far.peer
                        assert met.host == "5.0.0.1" and far.path == met and near.path == near.peer
                        router.renumber("5.0.0.99")
                        await stream.send_all(b" and elsewhere")
                        with trio.fail_after(5):
                            assert await theirs.receive_some() == b" and elsewhere"
                        await trio.sleep(1)
                        assert far.path.host == "5.0.0.99" and far.peer == met


async def test_a_key_that_lasts_has_one_fingerprint_whatever_the_certificate(autojump_clock) -> None:
    first = TlsIdentity.generate()
    again = TlsIdentity.of_key(first.private_key_pem)
    assert first.certificate_der != again.certificate_der
    assert first.fingerprint == again.fingerprint == fingerprint(again.certificate_der)
    assert len(first.fingerprint) == 52 and first.fingerprint != TlsIdentity.generate().fingerprint


@pytest.mark.parametrize("junk", [b"", b"no certificate", bytes(2000)])
def test_what_is_no_certificate_has_no_fingerprint(junk: bytes) -> None:
    identity = TlsIdentity.generate()
    assert not has_fingerprint(junk, identity.fingerprint)
    assert has_fingerprint(identity.certificate_der, identity.fingerprint)
