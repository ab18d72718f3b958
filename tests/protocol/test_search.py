"""Whom a connector tries: one at a time, three tries in all, whatever the LAN announces."""

import pytest

from meshd.errors import ConnectionLostError, NobodyFoundError, WrongPassphraseError
from meshd.model.address import Address
from meshd.model.candidate import Candidate, Gone
from meshd.protocol.search import CANDIDATES_LIMIT, GRACE, RETRY_AFTER, Attempt, GiveUp, Miss, Search, Wait


def listener(name: str, number: int | None = None) -> Candidate:
    return Candidate(name, number, (Address("192.0.2.1", 64327),))


def searching(*candidates: Candidate, number: int | None = None) -> Search:
    search = Search(number, None, 0.0, 30.0)
    for candidate in candidates:
        search.seen(candidate)
    return search


def give_up(search: Search, now: float) -> Exception:
    step = search.next_step(now)
    assert isinstance(step, GiveUp), step
    return step.error


def test_it_waits_until_somebody_comes_and_then_tries_them() -> None:
    search = searching()
    assert search.next_step(0.0) == Wait(30.0)
    search.seen(listener("a"))
    assert search.next_step(12.0) == Attempt(listener("a"))


def test_nobody_in_time_names_the_way_round_blocked_multicast() -> None:
    error = give_up(searching(), 30.0)
    assert isinstance(error, NobodyFoundError)
    assert "--peer HOST:PORT" in str(error)


def test_a_code_finds_its_number_and_nobody_else() -> None:
    search = searching(listener("a", 7), listener("b", None), listener("c", 12), number=12)
    assert search.next_step(0.0) == Attempt(listener("c", 12))
    others = searching(listener("a", 7), listener("b", None), number=12)
    assert others.next_step(0.0) == Wait(30.0)
    assert "number 7" in str(give_up(others, 30.0))


def test_a_bare_passphrase_passes_by_windows_with_a_code() -> None:
    assert searching(listener("a", 7), listener("b")).next_step(0.0) == Attempt(listener("b"))


def test_a_wrong_passphrase_ends_it_once_no_other_candidate_shows_up() -> None:
    search = searching(listener("a"))
    search.missed(listener("a"), Miss.WRONG, 1.0)
    assert search.next_step(1.0) == Wait(1.0 + GRACE)
    assert isinstance(give_up(search, 1.0 + GRACE), WrongPassphraseError)


def test_the_right_one_of_three_is_found_with_the_third_try() -> None:
    search = searching(listener("a"), listener("b"), listener("c"))
    for name in ("a", "b"):
        assert search.next_step(0.0) == Attempt(listener(name))
        search.missed(listener(name), Miss.WRONG, 0.0)
    assert search.next_step(0.0) == Attempt(listener("c"))


def test_none_is_tried_beyond_the_third_and_all_are_listed() -> None:
    candidates = [Candidate(name, None, (Address(f"192.0.2.{n}", 1),)) for n, name in enumerate("abcde", 1)]
    search = searching(*candidates)
    for candidate in candidates[:3]:
        assert search.next_step(0.0) == Attempt(candidate)
        search.missed(candidate, Miss.WRONG, 0.0)
    error = give_up(search, GRACE)
    assert isinstance(error, NobodyFoundError)
    assert all(f"192.0.2.{n}" in str(error) for n in range(1, 6))
    assert "code" in str(error)
    assert "--peer" in str(error)


@pytest.mark.parametrize("miss", [Miss.UNREACHABLE, Miss.BUSY])
def test_what_cost_no_try_is_tried_again_after_a_pause(miss: Miss) -> None:
    search = searching(listener("a"))
    for now in (0.0, 5.0, 10.0, 15.0, 20.0):
        assert search.next_step(now) == Attempt(listener("a"))
        search.missed(listener("a"), miss, now, "because")
        assert search.next_step(now) == Wait(now + RETRY_AFTER)
    error = give_up(search, 30.0)
    assert isinstance(error, NobodyFoundError)
    assert "192.0.2.1:64327: because" in str(error)


def test_an_unreachable_candidate_does_not_keep_the_others_waiting() -> None:
    search = searching(listener("a"), listener("b"))
    search.missed(listener("a"), Miss.UNREACHABLE, 0.0)
    assert search.next_step(0.0) == Attempt(listener("b"))


def test_silence_after_our_proof_is_a_lost_connection_and_is_not_repeated() -> None:
    search = searching(listener("a"))
    search.missed(listener("a"), Miss.SILENT, 0.0)
    assert isinstance(give_up(search, GRACE), ConnectionLostError)


def test_a_closed_listener_is_passed_by_and_a_later_one_is_awaited() -> None:
    search = searching(listener("a"))
    search.missed(listener("a"), Miss.UNFIT, 0.0)
    assert search.next_step(GRACE) == Wait(30.0)
    search.seen(listener("b"))
    assert search.next_step(2.0) == Attempt(listener("b"))


def test_an_announcement_taken_back_is_forgotten() -> None:
    search = searching(listener("a"))
    search.seen(Gone("a"))
    assert search.next_step(0.0) == Wait(30.0)


def test_an_address_by_hand_is_the_only_one_tried_and_a_wrong_word_there_is_final() -> None:
    search = Search(None, Address("192.0.2.9", 5), 0.0, 30.0)
    search.seen(listener("a"))
    step = search.next_step(0.0)
    assert isinstance(step, Attempt)
    assert step.candidate.addresses == (Address("192.0.2.9", 5),)
    search.missed(step.candidate, Miss.WRONG, 0.0)
    assert isinstance(give_up(search, 0.0), WrongPassphraseError)


@pytest.mark.parametrize("miss", [Miss.UNREACHABLE, Miss.UNFIT])
def test_nobody_at_an_address_by_hand(miss: Miss) -> None:
    search = Search(None, Address("192.0.2.9", 5), 0.0, 30.0)
    step = search.next_step(0.0)
    assert isinstance(step, Attempt)
    search.missed(step.candidate, miss, 0.0)
    assert isinstance(give_up(search, 30.0), NobodyFoundError)


def test_a_flood_of_announcements_is_bounded() -> None:
    search = searching(*(listener(str(n), 9) for n in range(CANDIDATES_LIMIT + 50)), number=7)
    assert str(give_up(search, 30.0)).count("number 9") == CANDIDATES_LIMIT
