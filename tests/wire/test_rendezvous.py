"""The frames between a client and a rendezvous server, and punches: what is taken, and that nothing else is."""

import contextlib
import ipaddress
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import RemoteProtocolError
from meshd.model.address import Address
from meshd.wire.constants import Frame
from meshd.wire.framing import HEADER, FrameDecoder
from meshd.wire.rendezvous import (
    CARD_LIMIT,
    CLIENT_FRAMES,
    FRAME_LIMIT,
    FROM_CLIENT,
    FROM_SERVER,
    NUMBER_LIMIT,
    PUNCH_SIZE,
    SERVER_FRAMES,
    Allocate,
    CardBody,
    Enter,
    Free,
    Leave,
    Match,
    Nat,
    Numbered,
    Observed,
    Refusal,
    Refused,
    Side,
    Third,
    Wait,
    address_of,
    decode_client,
    decode_punch,
    decode_server,
    encode,
    encode_punch,
)

LAST = (1 << 32) - 1
FROM_A_CLIENT: list[Any] = [
    Allocate(1, Nat.UNKNOWN),
    Enter(2, 7, Nat.ONE_FOR_EACH),
    Enter(LAST, NUMBER_LIMIT, Nat.NONE),
    Wait(3, bytes(32), Side.SECOND, b"c" * CARD_LIMIT),
    Leave(4),
    Free(5),
]
FROM_A_SERVER: list[Any] = [
    Observed("203.0.113.9", 4000),
    Observed("2001:db8::9", 65_535),
    Numbered(1, 42, 900),
    Match(2, "203.0.113.9", 1, bytes(16), 5_000, Nat.ONE_FOR_ALL, b"c" * CARD_LIMIT),
    Refused(3, Refusal.TAKEN, 2),
    Third(4),
]


@pytest.mark.parametrize(
    ("messages", "decode", "limits"),
    [(FROM_A_CLIENT, decode_client, CLIENT_FRAMES), (FROM_A_SERVER, decode_server, SERVER_FRAMES)],
)
def test_what_is_said_is_heard(messages: list[Any], decode: Any, limits: dict[int, int]) -> None:
    decoder = FrameDecoder(limits)
    for byte in b"".join(encode(each) for each in messages):
        decoder.receive(bytes([byte]))
    came = []
    while (frame := decoder.next_frame()) is not None:
        came.append(decode(*frame))
    assert came == messages
    assert max(len(encode(each)) for each in messages) <= FRAME_LIMIT + HEADER.size


def heard(message: Any) -> Any:
    """What a client makes of what a server said."""
    decoder = FrameDecoder(SERVER_FRAMES)
    decoder.receive(encode(message))
    frame = decoder.next_frame()
    assert frame is not None
    return decode_server(*frame)


def test_neither_side_takes_what_the_other_says() -> None:
    for mine, limits in ((FROM_A_CLIENT, SERVER_FRAMES), (FROM_A_SERVER, CLIENT_FRAMES)):
        decoder = FrameDecoder(limits)
        decoder.receive(encode(mine[0]))
        with pytest.raises(RemoteProtocolError):
            decoder.next_frame()


BAD: list[tuple[Any, dict[str, list[Any]]]] = [
    (Allocate(1, Nat.UNKNOWN), {"ref": [0, -1, LAST + 1, "1", None], "nat": [4, -1, "x"]}),
    (Enter(1, 7, Nat.UNKNOWN), {"number": [0, NUMBER_LIMIT + 1, 7.5]}),
    (Wait(1, bytes(32), Side.FIRST, b""), {"topic": [bytes(31), bytes(33)], "side": [2], "card": [bytes(513), 1]}),
    (Observed("203.0.113.9", 1), {"host": ["", "localhost", "203.0.113", "x" * 46, 4], "port": [0, 65_536]}),
    (Numbered(1, 1, 1), {"seconds": [-1, 86_401]}),
    (
        Match(1, "203.0.113.9", 1, bytes(16), 0, Nat.UNKNOWN, b""),
        {"host": ["example.org"], "nonce": [bytes(15), bytes(17)], "wait_ms": [-1, 5_001]},
    ),
    (Refused(1, Refusal.TAKEN, 0), {"why": [0, 5]}),
]


@pytest.mark.parametrize(
    ("good", "field", "value"),
    [(good, field, value) for good, fields in BAD for field, values in fields.items() for value in values],
)
def test_what_is_out_of_bounds_is_refused(good: Any, field: str, value: Any) -> None:
    body = msgspec.msgpack.encode({**attrs.asdict(good), field: value})
    kinds = {kind: frame for frame, kind in (FROM_CLIENT | FROM_SERVER).items()}
    frame = kinds[type(good)]
    with pytest.raises(RemoteProtocolError):
        (decode_client if frame in FROM_CLIENT else decode_server)(frame, body)


@given(st.sampled_from(list(FROM_CLIENT)), st.binary(max_size=200))
def test_any_bytes_from_a_client_are_a_message_or_refused(frame: Frame, body: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        assert isinstance(decode_client(frame, body), FROM_CLIENT[frame])


@given(st.sampled_from(list(FROM_SERVER)), st.binary(max_size=200))
def test_any_bytes_from_a_server_are_a_message_or_refused(frame: Frame, body: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        assert isinstance(decode_server(frame, body), FROM_SERVER[frame])


def test_addresses_come_out_as_addresses() -> None:
    assert address_of(Observed("2001:db8::9", 1)) == Address("2001:db8::9", 1)


@pytest.mark.parametrize(
    "host", ["2001:db8::1%\0", "fe80::1%eth0", "2001:db8::1%", "9.9.9.9\0", "09.9.9.9", "example.org"]
)
def test_what_a_socket_would_choke_on_is_refused(host: str) -> None:
    with pytest.raises(RemoteProtocolError, match="address"):
        heard(Observed(host, 1))


@pytest.mark.parametrize(
    ("said", "taken"),
    [("::ffff:9.9.9.9", "9.9.9.9"), ("2001:DB8:0::9", "2001:db8::9"), ("2001:db8::9", "2001:db8::9")],
)
def test_an_address_has_one_spelling(said: str, taken: str) -> None:
    message = heard(Observed(said, 1))
    assert isinstance(message, Observed) and address_of(message) == Address(taken, 1)
    packed = ipaddress.ip_address(said).packed + b"\0\1"
    assert CardBody(Nat.UNKNOWN, [packed, packed]).addresses() == [Address(taken, 1)]


@given(st.integers(0, 255), st.binary(min_size=16, max_size=16))
def test_a_punch_is_no_quic_packet_and_comes_back(attempt: int, tag: bytes) -> None:
    datagram = encode_punch(attempt, tag)
    assert len(datagram) == PUNCH_SIZE <= 64 and not datagram[0] & 0x40
    assert decode_punch(datagram) == (attempt, tag)


@given(st.binary(max_size=64))
def test_whatever_else_comes_is_no_punch(datagram: bytes) -> None:
    found = decode_punch(datagram)
    assert found is None or (len(datagram) == PUNCH_SIZE and datagram[0] == 1)


@given(st.lists(st.binary(min_size=6, max_size=18), max_size=8))
def test_of_a_card_only_addresses_are_taken(places: list[bytes]) -> None:
    for address in CardBody(Nat.UNKNOWN, places).addresses():
        ipaddress.ip_address(address.host)
        assert 0 < address.port < 65_536
