"""When a reader is told: one line a batch, three reminders, none after it was read, none while paused. Virtual time."""

import math
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from meshd.protocol.nudging import PAUSE_READ, PAUSE_UNREAD, REMINDER_GAPS, RETRY, Nudging, Tell

A, B, C, D = (bytes([number]) * 32 for number in range(1, 5))
MINUTE = 60.0


class Run:
    """One machine, one reader, and a clock that jumps from deadline to deadline."""

    def __init__(self, *, works: Callable[[float], bool] = lambda _: True) -> None:
        self.machine, self.now, self.works = Nudging(), 1000.0, works
        self.machine.add("codex")
        self.lines: list[tuple[float, Tell]] = []
        self.tries = 0

    def unread(self, *letters: bytes) -> None:
        self.machine.unread("codex", letters)
        self.until(self.now)

    def until(self, end: float) -> None:
        """Go on to `end`, doing what is due."""
        while True:
            for tell in self.machine.next_tells(self.now):
                self.tries += 1
                done = self.works(self.now)
                if done:
                    self.lines.append((self.now, tell))
                self.machine.ended(tell, done, self.now)
            due = self.machine.next_deadline()
            assert due > self.now, "what was due was given"
            if due > end:
                self.now = max(self.now, end)
                return
            self.now = due

    def after(self, seconds: float) -> None:
        self.until(self.now + seconds)

    @property
    def numbers(self) -> list[int]:
        return [tell.reminder for _, tell in self.lines]


def test_a_batch_is_told_once_and_reminded_of_after_5_15_and_45_minutes() -> None:
    run = Run()
    began = run.now
    run.unread(A, B)
    run.after(10 * 3600)
    assert [(when - began, tell.reminder) for when, tell in run.lines] == [
        *((0, 0), (5 * MINUTE, 1), (15 * MINUTE, 2), (45 * MINUTE, 3))
    ]
    assert {tell.letters for _, tell in run.lines} == {(A, B)}
    assert run.machine.next_deadline() == math.inf


def test_reading_stops_the_reminders() -> None:
    run = Run()
    run.unread(A)
    run.after(6 * MINUTE)
    run.unread()
    run.after(3600)
    assert run.numbers == [0, 1]


def test_what_was_read_in_part_is_reminded_of_by_the_rest() -> None:
    run = Run()
    run.unread(A, B)
    run.after(MINUTE)
    run.unread(B)
    run.after(3600)
    assert run.numbers == [0, 1, 2, 3]
    assert run.lines[-1][1].letters == (B,)


def test_a_burst_is_two_lines() -> None:
    """The first at once; all that comes within the pause in one more."""
    run = Run()
    letters = [bytes([number]) * 32 for number in range(1, 101)]
    for count in range(1, len(letters) + 1):
        run.unread(*letters[:count])
        run.after(0.1)
    run.after(PAUSE_UNREAD)
    assert [len(tell.letters) for _, tell in run.lines] == [1, 100]
    assert run.lines[1][0] - run.lines[0][0] == PAUSE_UNREAD


def test_who_reads_is_told_of_the_next_message_after_a_short_pause() -> None:
    run = Run()
    run.unread(A)
    run.after(1)
    run.unread()
    run.unread(B)
    run.after(PAUSE_READ)
    assert [tell.letters for _, tell in run.lines] == [(A,), (B,)]
    run.unread()
    run.after(MINUTE)
    run.unread(C)
    assert run.lines[-1][1].letters == (C,), "at once, long after the last"


def test_a_new_batch_has_its_own_reminders() -> None:
    run = Run()
    run.unread(A)
    run.after(3 * 3600)
    run.unread(A, B)
    run.after(3 * 3600)
    assert run.numbers == [0, 1, 2, 3, 0, 1, 2, 3]


def test_a_flood_at_one_who_does_not_read_is_a_few_lines_an_hour() -> None:
    run = Run()
    letters: list[bytes] = []
    for number in range(24 * 60):
        letters.append(number.to_bytes(32, "big"))
        run.unread(*letters)
        run.after(MINUTE)
    assert 4 < len(run.lines) < 24 * 5
    assert len([when for when, _ in run.lines if when - run.lines[0][0] < 3600]) <= 12


def test_nothing_while_paused_and_one_line_when_it_ends() -> None:
    run = Run()
    run.unread(A)
    run.machine.pause("codex", True)
    run.unread(A, B)
    run.after(5 * 3600)
    assert run.numbers == [0]
    assert run.machine.next_deadline() == math.inf
    run.machine.pause("codex", False)
    run.after(0)
    assert len(run.lines) == 2 and run.lines[1][1].letters == (A, B)
    run.after(4 * MINUTE)
    assert len(run.lines) == 2, "what the pause held back does not come in a row"


def test_paused_for_all_is_paused_for_each() -> None:
    run = Run()
    run.machine.pause(None, True)
    run.unread(A)
    run.after(3600)
    assert not run.lines
    run.machine.pause(None, False)
    run.after(0)
    assert run.numbers == [0]


def test_a_try_that_failed_costs_no_reminder_and_is_made_again_with_pauses() -> None:
    run = Run(works=lambda now: now >= 1000 + 3600)
    run.unread(A)
    run.after(3600)
    assert run.numbers in ([], [0])
    assert 60 <= run.tries <= 70, "about one a minute"
    run.after(2 * 3600)
    assert run.numbers == [0, 1, 2, 3]


def test_the_first_tries_are_near_each_other() -> None:
    run = Run(works=lambda now: now >= 1000 + RETRY[0])
    run.unread(A)
    run.after(RETRY[0])
    assert run.numbers == [0]


def test_a_try_under_way_is_the_only_one_and_is_not_wanted_once_it_was_read_or_paused() -> None:
    machine = Nudging()
    machine.add("codex")
    machine.unread("codex", [A])
    (tell,) = machine.next_tells(0.0)
    assert machine.next_tells(0.0) == [] and machine.next_deadline() == math.inf
    assert machine.is_wanted(tell)
    machine.pause("codex", True)
    assert not machine.is_wanted(tell)
    machine.pause("codex", False)
    machine.unread("codex", [B])
    assert not machine.is_wanted(tell)
    machine.ended(tell, True, 1.0)
    assert machine.told("codex") == frozenset(), "what was read while it was told is no batch"
    (second,) = machine.next_tells(1.0 + PAUSE_READ)
    assert second == Tell("codex", (B,), 0)


def test_one_that_was_removed_is_told_nothing_and_a_late_end_harms_nothing() -> None:
    machine = Nudging()
    machine.add("codex")
    machine.unread("codex", [A])
    (tell,) = machine.next_tells(0.0)
    machine.remove("codex")
    machine.add("codex")
    machine.unread("codex", [A])
    (again,) = machine.next_tells(0.0)
    machine.ended(tell, True, 1.0)
    assert machine.is_wanted(again)
    machine.unread("nobody", [A])
    assert machine.told("nobody") == frozenset() and machine.told_at("nobody") is None


def test_a_new_start_tells_nothing_that_was_told() -> None:
    run = Run()
    run.machine.restore("codex", [A, B], 2, run.now - 20 * MINUTE)
    run.unread(A)
    run.after(10 * 3600)
    assert run.numbers == [3]
    assert run.machine.reminders("codex") == 3 and run.machine.told_at("codex") == 1000 + 10 * MINUTE


steps = st.lists(
    st.one_of(
        st.tuples(st.just("unread"), st.frozensets(st.sampled_from([A, B, C, D]))),
        st.tuples(st.just("pause"), st.booleans()),
        st.tuples(st.just("wait"), st.floats(0, 4000)),
    ),
    max_size=40,
)


@given(steps, st.randoms(use_true_random=False))
def test_whatever_happens_the_bounds_hold(steps: list[tuple[str, object]], chance: object) -> None:
    run = Run(works=lambda _: chance.random() < 0.7)  # type: ignore[attr-defined]
    unread: frozenset[bytes] = frozenset()
    paused = False
    for kind, value in steps:
        before = len(run.lines)
        if kind == "unread":
            assert isinstance(value, frozenset)
            unread = value
            run.unread(*sorted(unread))
        elif kind == "pause":
            paused = bool(value)
            run.machine.pause("codex", paused)
        else:
            assert isinstance(value, float)
            run.after(value)
        made = run.lines[before:]
        assert not (made and (paused or not unread))
        assert all(frozenset(tell.letters) == unread for _, tell in made)
        assert len([tell for _, tell in made if tell.reminder == 0]) <= 1, "no new batch without new mail"
    for (earlier, _), (later, _) in zip(run.lines, run.lines[1:], strict=False):
        assert later - earlier >= PAUSE_READ
    for tell in (tell for _, tell in run.lines):
        assert 0 <= tell.reminder <= len(REMINDER_GAPS) and tell.letters
