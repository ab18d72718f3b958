import inspect
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import RemoteProtocolError
from meshd.model.entry import MAX_ENTRIES
from meshd.model.text import LABEL_LIMIT
from meshd.wire import messages
from meshd.wire.codec import decode_body, encode_body
from meshd.wire.constants import REASON_LIMIT
from meshd.wire.messages import (
    Abort,
    End,
    EntryEnd,
    EntryFailed,
    EntryHeader,
    Hello,
    Offer,
    Profile,
    Pull,
    RefuseEntry,
    Stored,
)

KINDS = [kind for _, kind in inspect.getmembers(messages, inspect.isclass) if attrs.has(kind)]
EXAMPLES: list[Any] = [
    Hello(versions=[1], nonce=bytes(32)),
    Profile(label="Zoës Gerät", sends=True, receives=False, verify=False),
    Offer(stream=False, entries=3, size=10**15, skipped=0),
    Offer(stream=True, entries=1, size=None, skipped=0),
    EntryHeader(path=["a", "b"], kind="file", size=0, executable=True, modified_ns=-1),
    EntryEnd(digest=bytes(32)),
    EntryFailed(reason="vanished"),
    End(entries=1, size=2, digest=bytes(32)),
    Pull(limit=1 << 40),
    RefuseEntry(index=0, reason="no"),
    Stored(digest=bytes(32), entries=0, size=0),
    Abort(reason=""),
]

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary()
VALUES = st.recursive(SCALARS, lambda values: st.lists(values) | st.dictionaries(st.text(), values))

BOUNDS: list[tuple[type, dict[str, Any], str, list[Any], list[Any]]] = [
    (Hello, {"versions": [1], "nonce": bytes(32)}, "nonce", [b"x" * 32], [b"x" * 31, b"x" * 33, "x" * 32, None]),
    (
        Hello,
        {"versions": [1], "nonce": bytes(32)},
        "versions",
        [[1], [65_535] * 8],
        [[], [1] * 9, [0], [65_536], [-1], ["1"], [True], 1],
    ),
    (
        Profile,
        {"label": "x", "sends": True, "receives": True, "verify": True},
        "label",
        ["", "é" * LABEL_LIMIT],
        ["x" * (LABEL_LIMIT + 1), b"x", None, 1],
    ),
    (Profile, {"label": "x", "sends": True, "receives": True, "verify": True}, "sends", [False], [0, 1, None, "yes"]),
    (
        Profile,
        {"label": "x", "sends": True, "receives": True, "verify": True},
        "join",
        ["no", "admit", "enter"],
        ["", "yes", None, True],
    ),
    (Abort, {"reason": ""}, "reason", ["x" * REASON_LIMIT], ["x" * (REASON_LIMIT + 1)]),
    (Pull, {"limit": 0}, "limit", [(1 << 63) - 1], [-1, 1 << 63, 1.5, None]),
    (
        Stored,
        {"digest": bytes(32), "entries": 0, "size": 0},
        "entries",
        [MAX_ENTRIES],
        [MAX_ENTRIES + 1, -1],
    ),
    (
        EntryHeader,
        {"path": ["a"], "kind": "file", "size": 0, "executable": False, "modified_ns": 0},
        "kind",
        ["dir"],
        ["link", "", 0],
    ),
]


def test_every_message_has_an_example() -> None:
    assert {type(example) for example in EXAMPLES} == set(KINDS)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_there_and_back(example) -> None:
    assert decode_body(type(example), encode_body(example)) == example


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_a_field_that_is_missing_is_an_error_and_one_that_is_new_is_not(example) -> None:
    whole = attrs.asdict(example)
    for name in (field.name for field in attrs.fields(type(example)) if field.default is attrs.NOTHING):
        with pytest.raises(RemoteProtocolError):
            decode_body(type(example), msgspec.msgpack.encode({k: v for k, v in whole.items() if k != name}))
    newer = msgspec.msgpack.encode(whole | {"of a later version": [1, {"a": None}]})
    assert decode_body(type(example), newer) == example


def test_a_profile_of_an_older_program_is_about_no_mesh() -> None:
    older = msgspec.msgpack.encode({"label": "x", "sends": True, "receives": True, "verify": True})
    assert decode_body(Profile, older).join == "no"


@pytest.mark.parametrize(("kind", "base", "field", "good", "bad"), BOUNDS, ids=lambda v: getattr(v, "__name__", None))
def test_bounds(kind, base, field, good, bad) -> None:
    for value in good:
        assert getattr(decode_body(kind, msgspec.msgpack.encode(base | {field: value})), field) == value
    for value in bad:
        with pytest.raises(RemoteProtocolError, match=f"broken {kind.__name__} message"):
            decode_body(kind, msgspec.msgpack.encode(base | {field: value}))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\xc0",
        b"\x90",
        b"\xdf\xff\xff\xff\xff",  # a map of four billion entries
        b"\x81\xa6reason\xa1\xff",  # not UTF-8
        b"\x82\xa6reason\xa0\xa1x" + b"\x91" * 5000 + b"\xc0",  # nested deeper than Python recurses
        b"\x81\xa6reason\xa0\x00",  # something behind it
    ],
    ids=["empty", "never used", "nil", "array", "huge map", "not UTF-8", "deep", "trailing"],
)
def test_broken_bodies(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_body(Abort, body)


def assert_a_message_or_the_peers_fault(kind: type, body: bytes) -> None:
    try:
        message = decode_body(kind, body)
    except RemoteProtocolError:
        return
    assert isinstance(message, kind)
    # What was taken keeps to the bounds, which it would not pass a second time otherwise.
    assert decode_body(kind, encode_body(message)) == message


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_the_peers_fault(junk: bytes) -> None:
    for kind in KINDS:
        assert_a_message_or_the_peers_fault(kind, junk)


@given(VALUES)
def test_any_messagepack_is_a_message_or_the_peers_fault(value) -> None:
    body = msgspec.msgpack.encode(value)
    for kind in KINDS:
        assert_a_message_or_the_peers_fault(kind, body)


@given(st.sampled_from(EXAMPLES), st.data())
def test_a_message_with_any_values_is_one_or_the_peers_fault(example, data) -> None:
    """Its own fields, some with other values: beyond the names of the fields, which no random map would have."""
    whole = attrs.asdict(example)
    changed = data.draw(st.dictionaries(st.sampled_from(sorted(whole)), VALUES, min_size=1, max_size=2))
    assert_a_message_or_the_peers_fault(type(example), msgspec.msgpack.encode(whole | changed))


@given(st.sampled_from(EXAMPLES), st.data())
def test_a_message_with_changed_bytes_is_one_or_the_peers_fault(example, data) -> None:
    body = bytearray(encode_body(example))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body)))
        body[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    assert_a_message_or_the_peers_fault(type(example), bytes(body))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_a_message_that_is_cut_short_is_none(example) -> None:
    body = encode_body(example)
    for size in range(len(body)):
        with pytest.raises(RemoteProtocolError):
            decode_body(type(example), body[:size])
