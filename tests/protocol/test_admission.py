import pytest

from meshd.errors import LocalProtocolError
from meshd.protocol.admission import TRIES, Try, Window


def take(window: Window) -> Try:
    taken = window.take()
    assert taken is not None
    return taken


def test_three_failures_close_the_window() -> None:
    window = Window()
    for count in range(1, TRIES + 1):
        assert not window.closed
        take(window).failed()
        assert (window.failed, window.remaining, window.open_tries) == (count, TRIES - count, 0)
    assert window.closed
    assert window.take() is None


def test_open_tries_occupy_without_closing() -> None:
    window = Window()
    tries = [take(window) for _ in range(TRIES)]
    assert window.take() is None
    assert not window.closed
    assert (window.open_tries, window.remaining, window.failed) == (TRIES, 0, 0)
    tries[0].unused()
    assert window.remaining == 1
    assert window.take() is not None


@pytest.mark.parametrize("give_back", [Try.succeeded, Try.unused])
def test_what_costs_nothing_can_go_on_for_ever(give_back) -> None:
    window = Window()
    for _ in range(10 * TRIES):
        give_back(take(window))
    assert (window.failed, window.remaining, window.open_tries) == (0, TRIES, 0)


def test_success_does_not_heal_failures() -> None:
    window = Window()
    take(window).failed()
    take(window).succeeded()
    assert (window.failed, window.remaining) == (1, TRIES - 1)


@pytest.mark.parametrize("first", [Try.succeeded, Try.unused, Try.failed])
@pytest.mark.parametrize("second", [Try.succeeded, Try.unused, Try.failed])
def test_a_try_has_one_result(first, second) -> None:
    window = Window()
    one = take(window)
    first(one)
    before = (window.failed, window.remaining, window.open_tries)
    with pytest.raises(LocalProtocolError):
        second(one)
    assert (window.failed, window.remaining, window.open_tries) == before


def test_a_forgotten_try_is_as_good_as_spent() -> None:
    window = Window()
    for _ in range(TRIES):
        take(window)
    assert window.take() is None
