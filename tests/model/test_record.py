import struct

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import RemoteProtocolError
from meshd.model.record import (
    BODY_LIMIT,
    ENCODED_LIMIT,
    HEADER_LIMIT,
    NO_HASH,
    TYPE_LIMIT,
    Head,
    Header,
    Log,
    LogId,
    Record,
    write_record,
)
from tests.model.mesh_kit import keys_of

KEYS = keys_of("author")
MESH = bytes(range(32))


def written(body: bytes = b"body", **changes) -> Record:
    values = {
        "mesh": MESH,
        "log": Log.DATA,
        "generation": 3,
        "previous": Head(6, b"p" * 32),
        "clock": 5 << 16,
        "kind": "handle.value",
        "ttl": 60,
    } | changes
    return write_record(KEYS, body=body, **values)


RECORD = written()
types = st.from_regex(r"[a-z][a-z0-9]{0,6}(\.[a-z][a-z0-9]{0,6}){0,3}", fullmatch=True)
numbers = st.integers(1, (1 << 64) - 1)
headers = st.builds(
    Header,
    mesh=st.binary(min_size=32, max_size=32),
    author=st.binary(min_size=32, max_size=32),
    log=st.sampled_from(Log),
    generation=st.integers(1, (1 << 32) - 1),
    sequence=numbers,
    previous=st.binary(min_size=32, max_size=32),
    clock=st.integers(0, (1 << 64) - 1),
    type=types,
    ttl=st.integers(0, (1 << 32) - 1),
    body_size=st.integers(0, BODY_LIMIT),
    body_digest=st.binary(min_size=32, max_size=32),
)


def test_a_record_follows_the_one_before() -> None:
    assert (RECORD.header.sequence, RECORD.header.previous) == (7, b"p" * 32)
    first = written(previous=None)
    assert (first.header.sequence, first.header.previous) == (1, NO_HASH)
    assert written(previous=None, first_previous=b"q" * 32).header.previous == b"q" * 32
    assert RECORD.chain == LogId(KEYS.identity.signing_key, Log.DATA, 3)
    assert RECORD.head == Head(7, RECORD.hash)
    assert RECORD.header.node == KEYS.identity.node


def test_there_and_back() -> None:
    for record in (RECORD, RECORD.without_body(), written(b""), written(bytes(BODY_LIMIT))):
        data = record.encode()
        again = Record.decode(data)
        assert again == record and again.encode() == data and again.hash == record.hash
        assert again.is_authentic()
        assert len(data) <= ENCODED_LIMIT


@given(headers)
def test_any_header_there_and_back(header: Header) -> None:
    data = header.encode()
    assert Header.decode(data) == header
    assert len(data) <= HEADER_LIMIT


def test_what_is_dropped_of_a_body_leaves_the_hash() -> None:
    bare = RECORD.without_body()
    assert bare.body is None and bare.hash == RECORD.hash
    assert bare.is_authentic()


def test_the_hash_leaves_the_signature_out_and_the_signature_leaves_nothing_out() -> None:
    flipped = attrs.evolve(RECORD, signature=bytes([RECORD.signature[0] ^ 1]) + RECORD.signature[1:])
    assert flipped.hash == RECORD.hash
    assert not flipped.is_authentic()
    for place in range(len(RECORD.header_bytes)):
        changed = bytearray(RECORD.header_bytes)
        changed[place] ^= 1
        try:
            header = Header.decode(bytes(changed))
        except RemoteProtocolError:
            continue
        forged = Record(header, bytes(changed), RECORD.signature, RECORD.body)
        assert not forged.is_authentic() and forged.hash != RECORD.hash


@pytest.mark.parametrize("body", [b"bodY", b"", b"body "])
def test_another_body_is_not_authentic(body: bytes) -> None:
    assert not attrs.evolve(RECORD, body=body).is_authentic()


def test_a_record_of_another_mesh_or_author_is_not_authentic() -> None:
    other = attrs.evolve(RECORD.header, mesh=bytes(32))
    assert not Record(other, RECORD.header_bytes, RECORD.signature, RECORD.body).is_authentic()
    other = attrs.evolve(RECORD.header, author=keys_of("other").identity.signing_key)
    assert not Record(other, other.encode(), RECORD.signature, RECORD.body).is_authentic()


BAD_HEADERS = {
    "format": lambda data: b"\2" + data[1:],
    "log": lambda data: data[:1] + b"\2" + data[2:],
    "generation 0": lambda data: data[:66] + bytes(4) + data[70:],
    "sequence 0": lambda data: data[:70] + bytes(8) + data[78:],
    "body too large": lambda data: data[:122] + struct.pack(">I", BODY_LIMIT + 1) + data[126:],
    "length of the type": lambda data: data[:158] + bytes([data[158] + 1]) + data[159:],
    "no type": lambda data: data[:158] + b"\0",
    "one more": lambda data: data + b"x",
    "upper case": lambda data: data[:-1] + b"E",
    "no ASCII": lambda data: data[:-1] + b"\xe9",
    "a dot at the end": lambda data: data[:-1] + b".",
    "a line": lambda data: data[:-1] + b"\n",
    "too long a type": lambda data: data[:158] + bytes([TYPE_LIMIT + 1]) + b"a" * (TYPE_LIMIT + 1),
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_a_header_that_would_not_have_been_written_is_refused(name: str) -> None:
    data = BAD_HEADERS[name](RECORD.header_bytes)
    assert data != RECORD.header_bytes
    with pytest.raises(RemoteProtocolError):
        Header.decode(data)


def test_every_prefix_is_refused() -> None:
    data = RECORD.encode()
    for size in range(len(data)):
        with pytest.raises(RemoteProtocolError):
            Record.decode(data[:size])


@pytest.mark.parametrize(
    "data",
    [
        RECORD.encode() + b"x",
        RECORD.without_body().encode() + b"x",
        RECORD.encode()[:2] + b"\2" + RECORD.encode()[3:],
        RECORD.encode()[:2] + b"\0" + RECORD.encode()[3:],
        RECORD.without_body().encode()[:2] + b"\1" + RECORD.without_body().encode()[3:],
        b"\xff\xff" + RECORD.encode()[2:],
        b"\0\0" + RECORD.encode()[2:],
    ],
    ids=["trailing", "trailing, no body", "flag 2", "unexpected body", "missing body", "long header", "no header"],
)
def test_parts_that_do_not_fit_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Record.decode(data)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_record_or_the_peers_fault(data: bytes) -> None:
    try:
        record = Record.decode(data)
    except RemoteProtocolError:
        return
    assert record.encode() == data


@given(st.data())
def test_changed_bytes_are_a_record_or_the_peers_fault(data: st.DataObject) -> None:
    changed = bytearray(RECORD.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(changed)))
        changed[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        record = Record.decode(bytes(changed))
    except RemoteProtocolError:
        return
    assert record.encode() == changed
    assert not record.is_authentic() or bytes(changed) in (RECORD.encode(), RECORD.without_body().encode())
