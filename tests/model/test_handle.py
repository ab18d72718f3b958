import json

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import UsageError
from meshd.model.handle import (
    JSON_DEPTH,
    RESERVED_TABLES,
    Handle,
    canonical,
    check_table,
    digest_of,
    is_table,
    parse_json,
)
from tests.vectors import make_handles

VECTORS = json.loads(make_handles.FILE.read_text(encoding="utf-8"))
tables = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,30}[a-z0-9])?", fullmatch=True)
digests = st.binary(min_size=32, max_size=32)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def test_the_vectors_are_what_their_maker_makes() -> None:
    assert make_handles.build() == VECTORS


@pytest.mark.parametrize("vector", VECTORS["values"], ids=lambda vector: vector["handle"])
def test_vectors_of_values(vector: dict) -> None:
    for text in vector["written"]:
        data = canonical(parse_json(text))
        assert data == vector["canonical"].encode()
        digest = blake3(data).digest()
        assert digest.hex() == vector["digest"]
        assert Handle.of(vector["table"], digest).short == vector["handle"]


@pytest.mark.parametrize("vector", VECTORS["blobs"], ids=lambda vector: vector["handle"])
def test_vectors_of_blobs(vector: dict) -> None:
    digest = digest_of(bytes.fromhex(vector["bytes"]))
    assert (digest.hex(), Handle.of("blob", digest).short) == (vector["digest"], vector["handle"])


def test_the_form_that_is_whole_in_a_shell() -> None:
    handle = Handle("blob", "0123456789ab")
    assert handle.typed == "hl_blob_0123456789ab" and Handle.parse(handle.typed) == handle


def test_two_values_with_one_short_form() -> None:
    one, two = VECTORS["one short form"]
    digests = [digest_of(canonical(parse_json(each["canonical"]))) for each in (one, two)]
    assert [digest.hex() for digest in digests] == [one["digest"], two["digest"]]
    assert digests[0] != digests[1]
    assert Handle.of("inline", digests[0]).short == Handle.of("inline", digests[1]).short == "h&l_inline_fc1dd96309a0"


@pytest.mark.parametrize("text", VECTORS["not JSON"])
def test_what_is_not_json_or_could_mean_two_things(text: str) -> None:
    with pytest.raises(UsageError):
        canonical(parse_json(text))


@pytest.mark.parametrize("text", VECTORS["not handles"])
def test_what_is_no_handle(text: str) -> None:
    with pytest.raises(UsageError, match="not a handle"):
        Handle.parse(text)


@given(tables.filter(is_table) | st.sampled_from(RESERVED_TABLES), digests)
def test_there_and_back(table: str, digest: bytes) -> None:
    handle = Handle.of(table, digest)
    assert handle.is_full and handle.digest == digest
    for text in (str(handle), str(handle).replace("h&l", "hl"), f" {handle}\n"):
        assert Handle.parse(text) == handle
    short = Handle.parse(handle.short)
    assert not short.is_full
    assert short.table == table and digest.hex().startswith(short.digits)
    assert Handle.parse(short.short) == short


@given(st.text(max_size=100) | st.from_regex(r"h&?l_.{0,40}_[0-9a-f]{12}"))
def test_any_text_is_a_handle_or_a_usage_error(text: str) -> None:
    try:
        handle = Handle.parse(text)
    except UsageError as error:
        assert len(str(error)) < 400
        return
    assert str(handle) in (text.strip(), text.strip().replace("hl_", "h&l_", 1))


@pytest.mark.parametrize("table", ["inline", "a", "a_b-c", "0", "x" * 32])
def test_tables(table: str) -> None:
    assert is_table(table) and check_table(table) == table


@pytest.mark.parametrize("table", ["", "A", "_a", "a_", "a b", "é", "x" * 33, "blob", "tree", "a\n"])
def test_what_is_no_table(table: str) -> None:
    with pytest.raises(UsageError):
        check_table(table)


@given(json_values)
def test_the_order_of_keys_and_white_space_mean_nothing(value: object) -> None:
    data = canonical(value)
    assert canonical(parse_json(data)) == data
    assert canonical(parse_json(json.dumps(value, indent=3))) == data


def test_depth() -> None:
    deepest = "[" * JSON_DEPTH + "]" * JSON_DEPTH
    assert canonical(parse_json(deepest)) == deepest.encode()
    for levels in (JSON_DEPTH + 1, 500_000):
        with pytest.raises(UsageError, match="levels deep"):
            parse_json("[" * levels + "]" * levels)
    with pytest.raises(UsageError, match="levels deep"):
        parse_json('{"a":' * (JSON_DEPTH + 1) + "1" + "}" * (JSON_DEPTH + 1))


@given(st.binary(max_size=60))
def test_any_bytes_are_json_or_a_usage_error(data: bytes) -> None:
    try:
        value = parse_json(data)
    except UsageError:
        return
    try:
        canonical(value)
    except UsageError:
        return
    assert parse_json(canonical(value)) == value
