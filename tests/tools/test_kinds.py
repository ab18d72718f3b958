"""What each kind of argument takes, from a person and from a socket that takes anything."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import UsageError
from meshd.tools import kinds
from meshd.tools.kinds import Kind
from meshd.tools.operation import MANY_LIMIT, Argument

EVERY = {name: value for name, value in vars(kinds).items() if isinstance(value, Kind)}

RIGHT: list[tuple[Kind, Any, Any]] = [
    (kinds.NAME, "tower", "tower"),
    (kinds.MACHINE, "a2c4", "a2c4"),
    (kinds.ADDRESS, "192.0.2.7", "192.0.2.7:64327"),
    (kinds.ADDRESS, "[2001:db8::1]:7", "[2001:db8::1]:7"),
    (kinds.HANDLE, "hl_blob_0123456789ab", "h&l_blob_0123456789ab"),
    (kinds.HANDLE, "h&l_plans_" + "a" * 64, "h&l_plans_" + "a" * 64),
    (kinds.TABLE, "blob", "blob"),
    (kinds.TAG, "ein Tag", "ein Tag"),
    (kinds.CONTENT_TYPE, "text/plain; charset=utf-8", "text/plain; charset=utf-8"),
    (kinds.JSON, ' {"b": 1}', ' {"b": 1}'),
    (kinds.SECONDS, 5, 5.0),
    (kinds.TTL, 90, 90),
    (kinds.COUNT, 1000, 1000),
    (kinds.FLAG, True, True),
    (kinds.INPUT, "/a/b", "/a/b"),
    (kinds.SECRET, "7-a-b-c", "7-a-b-c"),
]

WRONG: list[tuple[Kind, Any]] = [
    *((kinds.NAME, each) for each in ("", "-a", "a b", "a" * 64, "ä", "a/b", 7, None, "a\n")),
    *((kinds.MESH, each) for each in ("../x", "a" * 65)),
    *((kinds.ADDRESS, each) for each in ("", "a:b", "a:0", "a b", "x" * 301, ["a"])),
    *((kinds.HANDLE, each) for each in ("h&l_blob_0123", "blob_0123456789ab", "h&l_../x_0123456789ab", 1, "x" * 500)),
    *((kinds.TABLE, each) for each in ("Plans", "a/b", "", "a" * 33, None)),
    *((kinds.TAG, each) for each in ("", "a\nb", "a" * 64, "\u202ea")),
    *((kinds.CONTENT_TYPE, each) for each in ("text", "text/plain\r\nX: y", "")),
    *((kinds.JSON, each) for each in ("{", '{"a":1,"a":2}', "NaN", "[" * 5000, " " * (kinds.JSON_LIMIT + 1), {"a": 1})),
    *((kinds.SECONDS, each) for each in (-1, math.nan, math.inf, True, "5", None, kinds.WAIT_LIMIT + 1)),
    *((kinds.TTL, each) for each in (-1, 1.5, True, kinds.TTL_LIMIT + 1)),
    *((kinds.COUNT, each) for each in (0, 1001, 1.0, "1")),
    *((kinds.FLAG, each) for each in (0, 1, "true", None)),
    *((kinds.INPUT, each) for each in ("a", "", "/a\0b", "/" + "a" * 4096, 3)),
    *((kinds.SECRET, each) for each in ("", None, "a" * 1025)),
]


@pytest.mark.parametrize(("kind", "given_value", "expected"), RIGHT)
def test_right(kind: Kind, given_value: Any, expected: Any) -> None:
    found = kind.check(given_value)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(("kind", "given_value"), WRONG)
def test_wrong(kind: Kind, given_value: Any) -> None:
    with pytest.raises(UsageError):
        kind.check(given_value)


def test_a_secret_is_not_repeated_in_its_error() -> None:
    with pytest.raises(UsageError) as caught:
        kinds.SECRET.check("crystal" * 200)
    assert "crystal" not in str(caught.value)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("name", EVERY)
@given(value=ANYTHING)
def test_any_json_is_taken_or_refused(name: str, value: object) -> None:
    try:
        EVERY[name].check(value)
    except UsageError:
        pass
    else:
        assert not isinstance(value, dict | list | None)


@pytest.mark.parametrize("name", EVERY)
@given(text=st.text(max_size=30))
def test_any_text_is_read_or_refused(name: str, text: str) -> None:
    try:
        found = EVERY[name].parse(text)
    except UsageError:
        return
    assert isinstance(found, str | int | float)


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90), ("15m", 900), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600), ("0", 0)]
)
def test_durations(text: str, expected: int) -> None:
    assert kinds.duration(text) == expected
    assert kinds.seconds(text) == expected


@pytest.mark.parametrize("text", ["", "m", "-1", "1.5h", "1 h", "1y", "\u0661"])
def test_no_durations(text: str) -> None:
    with pytest.raises(UsageError):
        kinds.duration(text)


def test_many_values_are_a_list_of_bounded_length() -> None:
    argument = Argument("tags", kinds.TAG, "Tags.", many=True)
    assert argument.check(["a", "b"]) == ("a", "b")
    for wrong in ("ab", ["a"] * (MANY_LIMIT + 1), [1], None):
        with pytest.raises(UsageError, match=r"^tags: "):
            argument.check(wrong)


@pytest.mark.parametrize("kind", [kinds.SUBJECT, kinds.TEXT, kinds.MAIL_TEXT])
@pytest.mark.parametrize("value", ["words " * 150_000, ["words"], "words\ud800"])
def test_what_is_said_in_private_is_in_no_error(kind: kinds.Kind, value: object) -> None:
    with pytest.raises(UsageError) as caught:
        kind.check(value)
    assert "words" not in str(caught.value)
