"""What people see: every answer in full and with nothing in it, every event, and the numbers."""

from types import SimpleNamespace

import attrs
import pytest

from meshd.notices import event_name
from meshd.tools import context, news, text
from meshd.tools.diagnosis import diagnose
from meshd.tools.operation import Operation, Tells
from meshd.tools.registry import BY_NAME, OPERATIONS
from tests.tools.samples import NOTICES, result_class, sample


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.name)
def test_every_answer_can_be_shown(operation: Operation, empty: bool) -> None:
    shown = operation.show(sample(result_class(operation.result), empty=empty))
    assert isinstance(shown, str)
    assert "<" not in shown and "None" not in shown and "namespace" not in shown
    assert all(line == line.rstrip() for line in shown.splitlines())


@pytest.mark.parametrize("kind", NOTICES, ids=lambda each: each.__name__)
def test_every_notice_has_a_line(kind: type) -> None:
    notice = sample(kind)
    line = news.line(event_name(notice), notice)
    assert "\n" not in line and line != event_name(notice)
    assert event_name(notice) in news.LINES


def test_an_event_of_a_newer_daemon_is_named() -> None:
    assert news.line("moon.rose", SimpleNamespace()) == "moon.rose"


def test_the_quarantine_says_whose_clock_is_wrong() -> None:
    found = {ours: news.LINES["quarantined"](SimpleNamespace(name="ben", ahead=700.0, ours=ours)) for ours in (0, 1)}
    assert found[0] == "the clock of ben is 12 min ahead: its records wait"
    assert "this machine's is probably slow" in found[1]


def test_an_invitation_shows_its_code_and_each_spent_try() -> None:
    show = BY_NAME["invite"].show_event
    opened = show("invite.opened", context.InviteOpened("7-crystal-clock-tower", 64327, 600.0))
    assert opened is not None and opened.startswith("Code: 7-crystal-clock-tower\n")
    assert "within 10 min: tether join 7-crystal-clock-tower" in opened
    spent = show("try.spent", SimpleNamespace(failed=3, remaining=0, why="wrong words."))
    assert spent == "Try 3 failed, none is left: wrong words."


def test_no_line_of_a_message_passes_for_one_of_ours() -> None:
    assert text.fenced("one\n\n| two \n") == "| one\n|\n| | two\n|"
    message = sample(context.Message, text="one\nError: two")
    shown = BY_NAME["receive"].show(message).splitlines()
    assert shown[-2:] == ["| one", "| Error: two"]


def test_only_what_tells_news_has_lines() -> None:
    for each in OPERATIONS:
        if each.tells is not Tells.NEWS:
            assert each.show_event("link.up", SimpleNamespace()) is None


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (text.size(0), "0 B"),
        (text.size(1023), "1023 B"),
        (text.size(1536), "1.5 KiB"),
        (text.size(5 << 40), "5.0 TiB"),
        (text.size(5 << 50), "5,120.0 TiB"),
        (text.span(-1), "0.0 s"),
        (text.span(0.34), "0.3 s"),
        (text.span(119), "119 s"),
        (text.span(600), "10 min"),
        (text.span(3 * 3600), "3 h"),
        (text.span(3 * 86_400), "3 d"),
        (text.ago(None), "never"),
        (text.ago(4), "4.0 s ago"),
        (text.milliseconds(0.00042), "0.42 ms"),
        (text.milliseconds(0.018), "18 ms"),
        (text.count(1, "entry"), "1 entry"),
        (text.count(2, "entry"), "2 entries"),
        (text.count(2, "mesh"), "2 meshes"),
        (text.count(1000, "file"), "1,000 files"),
        (text.columns(("A", "BB"), [("1", ""), ("22", "3")]), "A   BB\n1\n22  3"),
        (text.fields([("a", "1"), ("long", "2")]), "a:    1\nlong: 2"),
        (text.printable("a\x1b[2J\nb"), "a\ufffd[2J\ufffdb"),
    ],
)
def test_numbers_and_tables(shown: str, expected: str) -> None:
    assert shown == expected


LINKED = attrs.evolve(sample(context.MachineStatus), linked=True, blocked=False, round_trip=0.01)
MESH = attrs.evolve(
    sample(context.MeshStatus), machines=(LINKED,), problems=(), generation=1, waiting_records=0, name="home"
)
STATUS = attrs.evolve(
    sample(context.Status), meshes=(MESH,), problems=(), lan=True, disk_free=1 << 40, disk_floor=1 << 30
)


def levels(status: context.Status) -> list[str]:
    return [each.level for each in diagnose(status).findings if each.level != "ok"]


def test_nothing_is_found_wrong_with_what_is_well() -> None:
    assert levels(STATUS) == []
    assert BY_NAME["doctor"].exit_code(diagnose(STATUS)) == 0


@pytest.mark.parametrize(
    ("status", "found"),
    [
        (attrs.evolve(STATUS, disk_free=1), ["error"]),
        (attrs.evolve(STATUS, lan=False), ["warning"]),
        (attrs.evolve(STATUS, meshes=()), ["warning"]),
        (attrs.evolve(STATUS, problems=(context.Problem("what", "advice", "error"),)), ["error"]),
        (attrs.evolve(STATUS, meshes=(attrs.evolve(MESH, waiting_records=1),)), ["warning"]),
        (
            attrs.evolve(STATUS, meshes=(attrs.evolve(MESH, machines=(attrs.evolve(LINKED, linked=False),)),)),
            ["error", "warning"],
        ),
        (
            attrs.evolve(STATUS, meshes=(attrs.evolve(MESH, machines=(attrs.evolve(LINKED, round_trip=3.0),)),)),
            ["warning"],
        ),
    ],
)
def test_what_is_wrong_is_found_with_advice(status: context.Status, found: list[str]) -> None:
    assert levels(status) == found
    assert all(each.advice for each in diagnose(status).findings if each.level != "ok")
    assert BY_NAME["doctor"].exit_code(diagnose(status)) == int("error" in found)
