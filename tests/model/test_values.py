"""Small values: clocks, bounds, names, consent."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import UsageError
from meshd.model import bounds, clock
from meshd.model.facts import Admit, countersign
from meshd.model.name import check_name, is_name, same_name
from tests.model.mesh_kit import keys_of

values = st.integers(0, clock.CLOCK_LIMIT - 1)
walls = st.integers(0, (1 << 47) - 1)


@given(values, walls)
def test_a_clock_never_goes_back_and_is_never_behind_the_wall(last: int, wall: int) -> None:
    ticked = clock.tick(last, wall)
    assert ticked > last
    assert clock.milliseconds(ticked) >= wall
    assert ticked == last + 1 or clock.milliseconds(ticked) == wall


@given(walls)
def test_a_clock_holds_its_milliseconds(wall: int) -> None:
    assert clock.milliseconds(clock.at(wall)) == wall
    assert clock.at(wall) < clock.tick(clock.at(wall), wall) < clock.at(wall + 1)


def test_a_counter_runs_into_the_milliseconds() -> None:
    full = clock.at(8) - 1
    assert clock.tick(full, 7) == clock.at(8)


def test_ahead_is_beyond_the_drift() -> None:
    assert not clock.is_ahead(clock.at(1000 + clock.DRIFT_LIMIT), 1000)
    assert clock.is_ahead(clock.at(1001 + clock.DRIFT_LIMIT), 1000)
    assert not clock.is_ahead(clock.at(0), 1000)


@attrs.frozen
class Bounded:
    text: str = attrs.field(default="ab", validator=bounds.size(1, 3))
    count: int = attrs.field(default=0, validator=bounds.number(-1, 1))
    several: tuple[bytes, ...] = attrs.field(default=(), validator=bounds.each(2, bounds.size(1, 1)))
    perhaps: bytes | None = attrs.field(default=None, validator=bounds.optional(bounds.size(0, 1)))


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("text", ["a", "abc"], ["", "abcd"]),
        ("count", [-1, 1], [-2, 2]),
        ("several", [(), (b"a", b"b")], [(b"a", b"b", b"c"), (b"ab",), (b"a", b"")]),
        ("perhaps", [None, b"", b"x"], [b"xy"]),
    ],
)
def test_bounds(field: str, good: list, bad: list) -> None:
    for value in good:
        assert getattr(Bounded(**{field: value}), field) == value
    for value in bad:
        with pytest.raises(ValueError, match=f"{field} "):
            Bounded(**{field: value})


@pytest.mark.parametrize("text", ["a", "Z9", "nas.home", "a-b_c", "9", "x" * 63])
def test_names(text: str) -> None:
    assert is_name(text) and check_name(text) == text


@pytest.mark.parametrize("text", ["", ".a", "-a", "_a", "a b", "a/b", "é", "a\n", "\na", "x" * 64, "a\0"])
def test_what_is_no_name(text: str) -> None:
    assert not is_name(text)
    with pytest.raises(UsageError, match="cannot be a machine"):
        check_name(text, "machine")


def test_names_are_compared_without_case() -> None:
    assert same_name("NAS", "nas")
    assert not same_name("nas", "nas2")


def test_consent_is_to_one_admission() -> None:
    keys, mesh, admitter = keys_of("newcomer"), bytes(32), keys_of("admitter").identity.signing_key
    admit = countersign(keys, mesh, admitter, "n")
    assert admit.is_countersigned(mesh, admitter)
    assert not admit.is_countersigned(bytes([1]) * 32, admitter)
    assert not admit.is_countersigned(mesh, keys.identity.signing_key)
    others = keys_of("other").identity
    for change in (
        {"name": "m"},
        {"noise_key": others.noise_key},
        {"binding": others.binding},
        {"signing_key": others.signing_key},
        {"countersignature": bytes(64)},
    ):
        assert not attrs.evolve(admit, **change).is_countersigned(mesh, admitter)


@pytest.mark.parametrize("field", [field.name for field in attrs.fields(Admit)])
def test_an_admission_has_its_sizes(field: str) -> None:
    admit = countersign(keys_of("n"), bytes(32), bytes(32), "n")
    value = getattr(admit, field)
    with pytest.raises(ValueError, match=field):
        attrs.evolve(admit, **{field: value * 65})
