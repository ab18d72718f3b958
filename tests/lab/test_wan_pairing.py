"""The pairing commands across the lab's internet: behind routers, by rendezvous servers that carry nothing else."""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from meshd.wire.constants import RENDEZVOUS_PROTOCOL
from tests.lab.meeting import PORT, Server
from tests.lab.nat import Machine, Nat, inside
from tests.lab.test_two_hosts import digest_of

PAYLOAD = 100_000_000

MEETING_COSTS = 100_000
"""Bytes that cross the servers' interfaces at most, both directions and all layers: handshakes, a number, a match."""

LATER_COSTS = 20_000
"""Bytes at most from paired to the end: the good-bye, and signs of life."""


@pytest.fixture
def pair(wan, at):
    """(programs at home, programs at another home), each behind a port-restricted router."""
    return [at(wan.client(name, Nat.PORT_RESTRICTED)) for name in ("ann", "ben")]


def code_of(listener) -> str:
    return listener.event("code")["code"]


def payload(path: Path) -> Path:
    path.write_bytes(os.urandom(PAYLOAD))
    return path


def test_servers_carry_no_payload(pair, servers):
    """100 MB: what crosses the servers' interfaces is a thousandth of that, and before the two have met."""
    ann, ben = pair

    def crossed() -> int:
        return sum(each.crossed() for each in servers.servers)

    before = crossed()
    sent = payload(ben.directory / "random")
    listener = ann.listen(*servers.options)
    connector = ben.connect(*servers.options, code_of(listener), stdin=sent)
    for run in (connector, listener):
        run.event("paired")
    swapped = crossed()
    connector.exits(0, within=100)
    listener.exits(0)
    after = crossed()
    assert digest_of(listener.output) == digest_of(sent)
    seconds = connector.event("finished")["seconds"]
    print(
        f"\n{PAYLOAD / 1e6 / seconds:.0f} MB/s; servers: {swapped - before:,} bytes to paired, {after - swapped:,} later"
    )
    assert swapped - before > 1000, "less would mean that nothing was measured"
    assert after - before < MEETING_COSTS and after - swapped < LATER_COSTS


def test_servers_may_end_once_two_have_met(pair, servers):
    """Killed in the middle of 100 MB."""
    ann, ben = pair
    sent = payload(ben.directory / "random")
    listener = ann.listen(*servers.options)
    connector = ben.connect(*servers.options, code_of(listener), stdin=sent)
    connector.event("progress", size=lambda size: size > PAYLOAD // 4)
    for server in servers.servers:
        server.kill()
    moved = max(event["size"] for event in connector.all_of("progress"))
    assert connector.code is None and moved < PAYLOAD * 3 // 4, f"too late to prove anything: {moved:,}"
    connector.exits(0, within=100)
    listener.exits(0)
    assert digest_of(listener.output) == digest_of(sent)


def test_chosen_words_with_the_number_apart(pair, servers, words):
    """`--token`, `--relay-url` in place of `--rendezvous`, and `--local-addr` on both sides, which their routers keep."""
    ann, ben = pair
    relays = [word.replace("--rendezvous", "--relay-url") for word in servers.options]
    assert "--relay-url" in relays
    listener = ann.start("listen", "--json", "--passphrase", words, *relays, "--local-addr", "0.0.0.0:5001")
    number = listener.event("numbered")["number"]
    assert listener.event("waiting")["port"] == 5001 and not listener.all_of("code")
    refused = ben.connect("--passphrase", words, *relays, stdin=b"").exits(2)
    assert "--token" in refused.error
    given = ("--token", str(number), "--local-addr", "0.0.0.0:5002")
    connector = ben.connect("--passphrase", words, *relays, *given, stdin=b"hello").exits(0)
    assert listener.exits(0).out == b"hello"
    assert [each.event("paired")["address"].rpartition(":")[2] for each in (connector, listener)] == ["5001", "5002"]


def test_without_a_server_it_is_said(wan, pair, servers):
    """None is named: 2. None answers, since none runs there or nothing is there at all: 4, with each address and why."""
    code = "7-crystal-clock-tower"
    for side, words in zip(pair, (("listen",), ("connect", code)), strict=True):
        run = side.start(words[0], "--json", "--wan", *words[1:], stdin=b"").exits(2)
        assert "none is built in" in run.error
    nobody = servers.servers[0].machine.address.removesuffix("2") + "9"
    down = [servers.servers[0].name, f"{nobody}:{PORT}"]
    servers.servers[0].kill()
    far = ("--wan", *(word for name in down for word in ("--rendezvous", name)))
    runs = [pair[0].start("listen", "--json", *far), pair[1].connect(*far, code, stdin=b"")]
    for run in runs:
        run.exits(4)
        print(f"\n{run.seconds:.1f} s: {run.error}")
        assert all(name in run.error for name in down) and run.seconds < 15
        assert "No rendezvous server could be reached" in run.error and "let UDP out?" in run.error


def test_who_knows_the_number_and_not_the_words(wan, at, pair, servers):
    """Loses its try and is told so, is seen, and keeps nobody out."""
    ann, ben = pair
    eve = at(wan.client("eve", Nat.FULL_CONE))
    listener = ann.listen(*servers.options)
    number, *words = code_of(listener).split("-")
    guess = "-".join((number, *reversed(words)))
    guesser = eve.connect(*servers.options, guess, stdin=b"from eve").exits(3)
    assert not guesser.all_of("paired")
    assert listener.event("try_spent")["remaining"] == 2
    connector = ben.connect(*servers.options, code_of(listener), stdin=b"from ben").exits(0)
    assert listener.exits(0).out == b"from ben" and not connector.all_of("try_spent")
    assert len(listener.all_of("try_spent")) == 1


# Datagrams with a false source.

FORGED = 200

HEADERS = 14 + 20 + 8
"""Bytes of Ethernet, IPv4 and UDP."""

QUIET = 2.0
"""Seconds in which a server that took the victim for a client would have repeated itself: QUIC does so after 0.3 to 1 s."""


@contextlib.contextmanager
def heard(machine: Machine) -> Iterator[list[bytes]]:
    """Take frames that a machine's interface receives: the list is filled when the block ends."""
    frames: list[bytes] = []
    with inside(machine):
        ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    with ear:
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        yield frames
        ear.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, (*_, kind, _, _) = ear.recvfrom(2048)
                if kind != socket.PACKET_OUTGOING:
                    frames.append(frame)


def client_of(server: Server) -> QuicConnection:
    """A client that has something to say to the server."""
    made = QuicConnection(configuration=QuicConfiguration(is_client=True, alpn_protocols=[RENDEZVOUS_PROTOCOL]))
    made.connect((server.machine.address, PORT), now=time.monotonic())
    return made


def first_of(client: QuicConnection) -> bytes:
    ((datagram, _), *_) = client.datagrams_to_send(time.monotonic())
    return datagram


def forged(data: bytes, source: tuple[str, int], to: tuple[str, int]) -> bytes:
    """An IPv4 packet that says that it comes from there; the kernel completes its header."""
    udp = struct.pack("!HHHH", source[1], to[1], 8 + len(data), 0) + data
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(to[0])
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0) + addresses + udp


def test_a_false_source_draws_retries_and_nothing_else(wan, servers):
    """First words to a server from a victim's address, some with a token that was given to the liar: the victim gets less
    for each than was sent, nothing that a connection would say, and nothing later."""
    server = servers.servers[0]
    victim, liar = wan.public("victim"), wan.public("liar")
    # The internet lets the liar lie, which most networks do not.
    port = f"port{liar.address.split('.')[1]}"
    wan.core.sysctl(ipv4__conf__all__rp_filter=0, **{f"ipv4__conf__{port}__rp_filter": 0})
    to = (server.machine.address, PORT)
    with inside(liar):
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with raw, own:
        own.settimeout(5)

        def answered(client: QuicConnection) -> bytes:
            """The client's first words, sent honestly, and the server's answer."""
            own.sendto(first_of(client), to)
            return own.recv(2048)

        tokens = []
        for _ in range(FORGED // 10):
            client = client_of(server)
            client.receive_datagram(answered(client), to, time.monotonic())
            tokens.append(first_of(client))
        plain = [first_of(client_of(server)) for _ in range(FORGED - len(tokens))]
        lies = [*plain, *tokens]
        with heard(victim) as frames:
            for number, data in enumerate(lies):
                raw.sendto(forged(data, (victim.address, 20_000 + number), to), (to[0], 0))
            assert answered(client_of(server))[0] >> 4 == 0xF, "the server is there, and has read what came before"
            time.sleep(QUIET)  # this is what is tested, not a way to wait for something
    datagrams = [frame for frame in frames if frame[12:14] == b"\x08\x00"]
    answers = [frame[HEADERS:] for frame in datagrams]
    print(
        f"\n{len(lies)} lies of {sum(map(len, lies)):,} bytes drew {len(answers)} answers of {sum(map(len, answers)):,}"
    )
    assert FORGED // 2 < len(answers) <= FORGED, "fewer would mean that the lies did not arrive"
    assert {(frame[23], frame[26:30], frame[34:36]) for frame in datagrams} == {
        (socket.IPPROTO_UDP, socket.inet_aton(to[0]), PORT.to_bytes(2, "big"))
    }
    assert all(answer[0] >> 4 == 0xF and len(answer) < min(map(len, lies)) / 4 for answer in answers), "each is a Retry"
    assert sum(map(len, frames)) - sum(map(len, datagrams)) < 1000, "and beside them some ARP"
