"""How agents are told: one row each, names without case, one row for all, and bounds."""

from meshd.store.database import Database
from meshd.store.deliveries import AGENTS_LIMIT, BATCH_LIMIT, Delivery


def test_a_row_is_one_agents_whatever_the_case(database: Database) -> None:
    deliveries = database.deliveries
    assert deliveries.all() == [] and not deliveries.all_paused()
    assert deliveries.set_method("Codex", "tmux", {"pane": "%1"})
    assert deliveries.pause("codex", True)
    assert deliveries.all() == [Delivery("Codex", "tmux", {"pane": "%1"}, is_paused=True)]
    assert deliveries.set_method("CODEX", "none", {})
    assert deliveries.all() == [Delivery("Codex", "none", {}, is_paused=True)], "a pause outlives the way"


def test_all_is_a_row_of_its_own(database: Database) -> None:
    deliveries = database.deliveries
    assert deliveries.pause(None, True)
    assert deliveries.all_paused() and deliveries.all() == []
    deliveries.pause("codex", False)
    assert deliveries.all_paused()
    deliveries.pause(None, False)
    assert not deliveries.all_paused()


def test_what_was_told_is_kept_with_a_bound(database: Database) -> None:
    deliveries = database.deliveries
    letters = [number.to_bytes(32, "big") for number in range(BATCH_LIMIT + 5)]
    deliveries.told("codex", letters, 1, now_ms=7)
    assert deliveries.all() == [], "nothing for one that has no row"
    deliveries.set_method("codex", "exec", {"argv": ["x"]})
    deliveries.told("Codex", letters, 2, now_ms=9)
    (row,) = deliveries.all()
    assert row.batch == tuple(letters[-BATCH_LIMIT:]) and (row.told_ms, row.reminders) == (9, 2)
    deliveries.set_method("codex", "exec", {"argv": ["y"]})
    assert deliveries.all()[0].batch == row.batch


def test_rows_are_bounded(database: Database) -> None:
    deliveries = database.deliveries
    assert all(deliveries.set_method(f"agent{number}", "none", {}) for number in range(AGENTS_LIMIT))
    assert not deliveries.set_method("one-more", "none", {}) and not deliveries.pause("one-more", True)
    assert deliveries.set_method("agent0", "exec", {}) and deliveries.pause(None, True)


def test_a_target_that_is_no_json_is_none(database: Database) -> None:
    database.deliveries.set_method("codex", "tmux", {})
    database._connection.execute("UPDATE deliveries SET target = '{'")
    assert database.deliveries.all()[0].target is None
