"""Bodies of records: bounds, types in their logs, and tests/vectors/records.json."""

import json
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import RemoteProtocolError
from meshd.model.identity import Context, is_signed, node_text
from meshd.model.record import Header, Log, Record
from meshd.model.roster import Roster, RosterRecord
from meshd.wire.bodies import TYPES, decode, encode, type_of
from meshd.wire.codec import decode_body
from tests.model.mesh_kit import keys_of
from tests.vectors import make_records

VECTORS: dict[str, Any] = json.loads(make_records.FILE.read_text(encoding="utf-8"))
BODIES = make_records.BODIES
KINDS = [kind for _, kind in TYPES.values()]
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary()
VALUES = st.recursive(SCALARS, lambda values: st.lists(values) | st.dictionaries(st.text(), values))


def by_name(value: object) -> str:
    return type(value).__name__


def record_of(kind: str, log: Log, body: bytes | None) -> Record:
    record = make_records.record(kind, log, body or b"")
    return record if body is not None else record.without_body()


def test_the_vectors_are_what_their_maker_makes() -> None:
    assert make_records.build() == VECTORS


def test_every_type_has_an_example_and_is_in_its_log() -> None:
    assert {type(body) for body in BODIES} == set(KINDS)
    for body in BODIES:
        name, log = type_of(body)
        assert TYPES[name] == (log, type(body))
        assert log is (Log.ROSTER if name.startswith("roster.") else Log.DATA)


@pytest.mark.parametrize("body", BODIES, ids=by_name)
def test_there_and_back(body) -> None:
    name, log = type_of(body)
    record = record_of(name, log, encode(body))
    assert decode(record) == body
    assert decode(Record.decode(record.encode())) == body


@pytest.mark.parametrize("body", BODIES, ids=by_name)
def test_what_means_nothing_here(body) -> None:
    name, log = type_of(body)
    other = Log.DATA if log is Log.ROSTER else Log.ROSTER
    assert decode(record_of(name, other, encode(body))) is None
    assert decode(record_of("of.tomorrow", log, encode(body))) is None
    assert decode(record_of(name, log, None)) is None


@pytest.mark.parametrize("body", BODIES, ids=by_name)
def test_a_body_that_is_cut_short_is_the_peers_fault(body) -> None:
    name, log = type_of(body)
    data = encode(body)
    for size in range(len(data)):
        with pytest.raises(RemoteProtocolError):
            decode(record_of(name, log, data[:size]))
    with pytest.raises(RemoteProtocolError):
        decode(record_of(name, log, data + b"\0"))


@pytest.mark.parametrize("body", BODIES, ids=by_name)
def test_a_missing_field_is_an_error_and_a_new_one_is_not(body) -> None:
    whole = msgspec.msgpack.decode(encode(body))
    for name in whole:
        with pytest.raises(RemoteProtocolError):
            decode_body(type(body), msgspec.msgpack.encode({key: whole[key] for key in whole if key != name}))
    assert decode_body(type(body), msgspec.msgpack.encode(whole | {"of a later version": [1]})) == body


@pytest.mark.parametrize(
    ("why", "kind", "body"), make_records.BROKEN, ids=lambda value: value if isinstance(value, str) else ""
)
def test_broken_bodies(why: str, kind: str, body: bytes) -> None:
    """The short ones are vectors too."""
    with pytest.raises(RemoteProtocolError):
        decode(record_of(kind, TYPES[kind][0], body))
    if len(body) < 4096:
        assert {"why": why, "type": kind, "body": body.hex()} in VECTORS["broken"]


@given(st.sampled_from(BODIES), st.binary(max_size=200))
def test_any_bytes_are_a_body_or_the_peers_fault(body, junk: bytes) -> None:
    taken_or_refused(type(body), junk)


@given(st.sampled_from(BODIES), st.data())
def test_any_fields_are_a_body_or_the_peers_fault(body, data) -> None:
    whole = msgspec.msgpack.decode(encode(body))
    changed = data.draw(st.dictionaries(st.sampled_from(sorted(whole)), VALUES, min_size=1, max_size=2))
    taken_or_refused(type(body), msgspec.msgpack.encode(whole | changed))


@given(st.sampled_from(BODIES), st.data())
def test_changed_bytes_are_a_body_or_the_peers_fault(body, data) -> None:
    changed = bytearray(encode(body))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(changed)))
        changed[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    taken_or_refused(type(body), bytes(changed))


def taken_or_refused(kind: type, data: bytes) -> None:
    try:
        body = decode_body(kind, data)
    except RemoteProtocolError:
        return
    # What was taken keeps to the bounds, which it would not pass a second time otherwise.
    assert decode_body(kind, encode(body)) == body
    assert attrs.evolve(body) == body


def test_vectors_of_identities() -> None:
    for vector in VECTORS["identities"]:
        identity = keys_of(vector["name"]).identity
        assert identity.signing_key.hex() == vector["signing key"]
        assert identity.noise_key.hex() == vector["noise key"]
        assert identity.binding.hex() == vector["binding"]
        assert identity.node.hex() == vector["node id"]
        assert node_text(identity.node) == vector["node text"]
        assert identity.is_bound()


@pytest.mark.parametrize("vector", VECTORS["records"], ids=lambda vector: vector["type"])
def test_vectors_of_records(vector: dict) -> None:
    record = Record.decode(bytes.fromhex(vector["encoded"]))
    assert record.is_authentic()
    assert record.encode().hex() == vector["encoded"]
    assert record.hash.hex() == vector["hash"]
    header = record.header
    for name in ("author", "mesh", "previous"):
        assert getattr(header, name).hex() == vector[name]
    for name in ("type", "log", "generation", "sequence", "clock", "ttl"):
        assert getattr(header, name) == vector[name]
    assert is_signed(header.author, record.signature, Context.RECORD, header.mesh, header.encode())
    body = decode(record)
    assert body is not None and encode(body) == record.body


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda vector: vector["why"])
def test_vectors_of_records_that_are_refused(vector: dict) -> None:
    with pytest.raises(RemoteProtocolError):
        Record.decode(bytes.fromhex(vector["encoded"]))


@pytest.mark.parametrize("vector", VECTORS["forged"], ids=lambda vector: vector["why"])
def test_vectors_of_records_that_are_not_authentic(vector: dict) -> None:
    assert not Record.decode(bytes.fromhex(vector["encoded"])).is_authentic()


def test_the_vectors_make_a_roster() -> None:
    """One mesh of four: b is revoked and c kept, so that two programs can compare what they make of it."""
    records = []
    for vector in VECTORS["mesh"]["records"]:
        record = Record.decode(bytes.fromhex(vector))
        fact = decode(record)
        assert record.is_authentic() and fact is not None
        records.append(RosterRecord.of(record, fact))
    roster = Roster.fold(bytes.fromhex(VECTORS["mesh"]["id"]), reversed(records))
    assert {member.name: member.standing.value for member in roster.members.values()} == VECTORS["mesh"]["standings"]
    assert roster.digest().hex() == VECTORS["mesh"]["digest"]


def test_a_header_has_the_layout_of_the_page() -> None:
    record = make_records.record("handle.value", Log.DATA, b"body")
    data = record.header_bytes
    parts = [1, 1, 32, 32, 4, 8, 32, 8, 4, 4, 32, 1]
    assert sum(parts) == len(data) - len("handle.value")
    assert Header.decode(data) == record.header
    assert data[66:70] == record.header.generation.to_bytes(4, "big")
    assert data[-12:] == b"handle.value"
