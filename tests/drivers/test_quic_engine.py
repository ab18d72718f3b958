"""The engines without a driver, back to back, and the headers and tokens that are our own."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.drivers.quic_engine import CONNECTION_ID_LENGTH, Engine, HandshakeDone, StreamData
from meshd.drivers.quic_retry import SMALLEST_INITIAL, RetryTokens, parse_long_header
from tests.drivers.pairs import IDENTITY, engine, every_engine, every_pair

CLIENT, SERVER = ("192.0.2.1", 1111), ("192.0.2.2", 2222)


class BackToBack:
    """A client and a server whose datagrams are carried by hand, one millisecond a round."""

    def __init__(self, pair, *, retry, shrink=None):
        self.near, self.far = engine(pair[0]), engine(pair[1])
        configuration = self.near.configuration(is_client=True, alpns=("tether/1",))
        if shrink is not None:
            configuration.max_datagram_size = shrink
        self.accepting = self.far.configuration(is_client=False, alpns=("tether/1",), identity=IDENTITY)
        self.now, self.retry, self.tokens = 100.0, retry, RetryTokens()
        self.client, self.server = self.near.client(configuration), None
        self.client.connect(SERVER, self.now)
        self.events = {"client": [], "server": []}

    def round(self):
        self.now += 0.001
        for data, _ in self.near.datagrams_to_send(self.client, self.now):
            if self.server is None:
                self._arrive(data)
            if self.server is not None:
                self.far.receive(self.server, [data], CLIENT, self.now)
        if self.server is not None:
            for data, _ in self.far.datagrams_to_send(self.server, self.now):
                self.near.receive(self.client, [data], SERVER, self.now)
            self.events["server"] += iter(lambda: self.far.next_event(self.server), None)
        self.events["client"] += iter(lambda: self.near.next_event(self.client), None)

    def _arrive(self, data):
        header = parse_long_header(data)
        if not self.retry:
            self.server = self.far.server(self.accepting, header.destination_id, None)
        elif not header.token:
            retry_id = bytes(CONNECTION_ID_LENGTH)
            token = self.tokens.issue(CLIENT, header.destination_id, retry_id, self.now)
            self.near.receive(self.client, [self.far.encode_retry(header, retry_id, token)], SERVER, self.now)
        else:
            original_id = self.tokens.original_id(header.token, CLIENT, header.destination_id, self.now)
            self.server = self.far.server(self.accepting, original_id, header.destination_id)

    def shake_hands(self):
        for _ in range(12):
            self.round()
        return all(any(isinstance(event, HandshakeDone) for event in events) for events in self.events.values())


@every_pair
@pytest.mark.parametrize("retry", [True, False], ids=["retry", "no-retry"])
def test_handshake_with_an_initial_of_1200_bytes(pair, retry):
    """A qh3 server raises on aioquic's single small Initial unless a Retry came first. The driver always sends one; when
    the other case stops raising, its page of reasons may lose a line."""
    both = BackToBack(pair, retry=retry, shrink=1200)
    if pair == ("aioquic", "qh3") and not retry:
        with pytest.raises(Exception, match="capacity exhausted"):
            both.shake_hands()
    else:
        assert both.shake_hands()


@every_pair
def test_send_buffered_counts_what_was_never_sent(pair):
    both = BackToBack(pair, retry=True)
    assert both.shake_hands()
    for near, quic, step in ((both.near, both.client, 0), (both.far, both.server, 1)):
        stream_id = quic.get_next_available_stream_id()
        assert stream_id == step
        assert near.send_buffered(quic, stream_id) == 0
        quic.send_stream_data(stream_id, b"")
        assert quic.get_next_available_stream_id() == stream_id + 4
        quic.send_stream_data(stream_id, bytes(500_000))
        assert near.send_buffered(quic, stream_id) == 500_000
        near.datagrams_to_send(quic, both.now)
        assert 400_000 < near.send_buffered(quic, stream_id) < 500_000


@every_pair
def test_windows_open_as_data_arrives(pair):
    """The first window is small against strangers; a transfer must not notice."""
    both = BackToBack(pair, retry=True)
    assert both.shake_hands()
    both.client.send_stream_data(0, bytes(4_000_000), True)
    for _ in range(4000):
        both.round()
        for quic in (both.client, both.server):
            if (timer := quic.get_timer()) is not None and timer <= both.now:
                quic.handle_timer(both.now)
        if any(isinstance(event, StreamData) and event.fin for event in both.events["server"]):
            break
    assert sum(len(event.data) for event in both.events["server"] if isinstance(event, StreamData)) == 4_000_000


def carry(pair, *, streams, size, seed, loss):
    """Both sides send on streams of their own and answer those of the other; True when all of it arrives."""
    both, chance = BackToBack(pair, retry=True), random.Random(seed)
    assert both.shake_hands()
    sides = ((both.near, both.client, CLIENT), (both.far, both.server, SERVER))
    for side, (_, quic, _) in enumerate(sides):
        for number in range(streams):
            quic.send_stream_data(4 * number + side, bytes(size), True)
    answered, done, wire = set(), set(), []
    while len(done) < 4 * streams and both.now < 160:
        both.now += 0.001
        for side, (near, quic, _) in enumerate(sides):
            if (timer := quic.get_timer()) is not None and timer <= both.now:
                quic.handle_timer(both.now)
            for data, _ in near.datagrams_to_send(quic, both.now):
                if chance.random() >= loss:
                    wire.append((both.now + 0.005, 1 - side, data))
        arrived, wire = [each for each in wire if each[0] <= both.now], [each for each in wire if each[0] > both.now]
        for _, side, data in arrived:
            sides[side][0].receive(sides[side][1], [data], sides[1 - side][2], both.now)
        for side, (near, quic, _) in enumerate(sides):
            for event in iter(lambda near=near, quic=quic: near.next_event(quic), None):
                if isinstance(event, StreamData):
                    if event.fin:
                        done.add((side, event.stream_id))
                    if event.stream_id % 2 != side and event.stream_id not in answered:
                        answered.add(event.stream_id)
                        quic.send_stream_data(event.stream_id, bytes(size), True)
    return len(done) == 4 * streams


@every_pair
def test_one_busy_stream_a_side_survives_loss(pair):
    assert all(carry(pair, streams=1, size=100_000, seed=seed, loss=0.05) for seed in range(3))


@pytest.mark.xfail(reason="qh3 2.1.0 stalls, or raises 'reserved stream is missing'", strict=True)
def test_qh3_with_many_busy_streams_and_loss():
    """A fault of the library, without the driver: two qh3 with several streams busy both ways stop acknowledging after
    losses, until silence ends the connection. One stream a side was never seen to. aioquic at either end does not."""
    assert all(carry(("qh3", "qh3"), streams=8, size=60_000, seed=seed, loss=0.05) for seed in range(8))


@every_pair
def test_an_ending_is_known_at_once(pair):
    both = BackToBack(pair, retry=True)
    assert both.shake_hands()
    assert both.near.ending(both.client) is None
    both.client.close(7, None, "bye")
    both.round()
    mine, theirs = both.near.ending(both.client), both.far.ending(both.server)
    assert (mine.code, mine.by_peer, mine.is_application) == (7, False, True)
    assert (theirs.code, theirs.reason, theirs.by_peer, theirs.is_application) == (7, "bye", True, True)


@every_pair
def test_an_idle_time_out_is_told_from_a_close(pair):
    both = BackToBack(pair, retry=True)
    assert both.shake_hands()
    for near, quic in ((both.near, both.client), (both.far, both.server)):
        quic.handle_timer(both.now + 100)
        assert near.ending(quic).timed_out


def test_only_the_chosen_engine_is_imported():
    import subprocess
    import sys

    for name, other in (("qh3", "aioquic"), ("aioquic", "qh3")):
        code = (
            f"import sys; from meshd.drivers.quic_engine import Engine; Engine({name!r});"
            f"assert not any(m == {other!r} or m.startswith({other + '.'!r}) for m in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
    assert Engine().name == "qh3"


@every_engine
def test_answers_without_state(name):
    configuration = engine(name).configuration(is_client=True, alpns=("tether/1",))
    client = engine(name).client(configuration)
    client.connect(SERVER, 1.0)
    data = engine(name).datagrams_to_send(client, 1.0)[0][0]
    header = parse_long_header(data)
    assert len(data) >= SMALLEST_INITIAL and header.is_initial and header.version == 1 and header.token == b""
    assert header.source_id == client.host_cid
    assert header.destination_id == client.original_destination_connection_id
    negotiation = parse_long_header(engine(name).encode_version_negotiation(header))
    assert negotiation.version == 0 and negotiation.destination_id == client.host_cid
    retry = parse_long_header(engine(name).encode_retry(header, b"retry-id", b"token"))
    assert not retry.is_initial and retry.source_id == b"retry-id"


@given(st.binary(max_size=80), st.integers(0, 255))
def test_any_bytes_are_a_header_or_none(data, first):
    parse_long_header(data)
    parse_long_header(bytes([first]) + b"\0\0\0\1" + data)


@given(st.binary(max_size=400))
def test_any_bytes_as_a_token_are_refused(token):
    assert RetryTokens().original_id(token, CLIENT, b"retry-id", 1.0) is None


def test_a_token_is_good_for_one_address_one_id_and_a_short_time():
    tokens = RetryTokens()
    token = tokens.issue(CLIENT, b"original", b"retry-id", 100.0)
    assert tokens.original_id(token, CLIENT, b"retry-id", 101.0) == b"original"
    assert tokens.original_id(token, SERVER, b"retry-id", 101.0) is None
    assert tokens.original_id(token, (CLIENT[0], 1112), b"retry-id", 101.0) is None
    assert tokens.original_id(token, CLIENT, b"other-id", 101.0) is None
    assert tokens.original_id(token, CLIENT, b"retry-id", 132.0) is None
    assert RetryTokens().original_id(token, CLIENT, b"retry-id", 101.0) is None
    for place, bit in itertools.product(range(len(token)), range(8)):
        changed = bytearray(token)
        changed[place] ^= 1 << bit
        assert tokens.original_id(bytes(changed), CLIENT, b"retry-id", 101.0) is None
