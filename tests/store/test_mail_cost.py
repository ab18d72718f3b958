"""What questions about mail cost in a large mailbox: as much as in a small one. Counted in steps of SQLite's machine."""

from collections.abc import Callable

import apsw
import pytest

from meshd.model.message import Agent, Reached, Target
from meshd.store.database import Database
from tests.store.kit import Author
from tests.store.test_mail import change, letter, mailed, put, reader, words

UNREAD = 3


def steps(database: Database, ask: Callable[[], object]) -> int:
    """How many a question takes."""
    count = 0

    def step() -> bool:
        nonlocal count
        count += 1
        return False

    database._connection.set_progress_handler(step, 1)
    try:
        ask()
    finally:
        database._connection.set_progress_handler(None)
    return count


def deliver(database: Database, ann: Author, ben: Author, count: int) -> None:
    """So many letters that are read or closed, and acknowledged."""
    for number in range(count):
        how = {"key": f"key {number}", "ticket": "T" if number % 3 == 0 else "", "thread": f"t{number}"}
        digest = mailed(database, ann, letter("kim", Agent("lee", ben.node), **how), ben)
        mailed(database, ben, words("closed" if number % 3 == 1 else "read", "lee", digest), ann)
        reached = Reached(
            signing_key=ann.keys.identity.signing_key, generation=1, sequence=ann.heads[ann.data].sequence, without=()
        )
        put(database, ben.say(reached), reached)


def test_no_question_on_the_way_of_a_message_grows_with_the_mailbox(
    database: Database, two: tuple[Author, Author]
) -> None:
    ann, ben = two
    mail, lee = database.mail, reader(ben, "lee", Target("machine", node=ben.node), Target("name", "lee"))
    costs: list[dict[str, int]] = []
    for more in (20, 200):
        deliver(database, ann, ben, more)
        fresh = [mailed(database, ann, letter("kim", Agent("lee", ben.node)), ben) for _ in range(UNREAD)]
        last = mail.letter(fresh[-1])
        assert last is not None and mail.count_unread(lee) == UNREAD
        costs.append(
            {
                "unread": steps(database, lambda: mail.unread(lee, limit=200)),
                "after a row": steps(database, lambda last=last: mail.unread(lee, after=last.arrival - 1, limit=200)),
                "count": steps(database, lambda: mail.count_unread(lee)),
                "inbox": steps(database, lambda: mail.inbox(lee, unread=True, limit=50)),
                "letter": steps(database, lambda digest=fresh[-1]: mail.letter(digest)),
                "words": steps(database, lambda last=last: mail.words(last.record)),
                "key": steps(database, lambda: mail.by_key(ann.node, "kim", "key 7")),
                "sent": steps(database, lambda: mail.sent(ann.node, "kim", limit=10)),
                "reached": steps(database, lambda: mail.reached(ann.keys.identity.signing_key, 1, ben.node)),
                "unacknowledged": steps(database, lambda: mail.unacknowledged(ben.node)),
                "mailboxes": steps(database, lambda: mail.mailboxes(ben.node)),
            }
        )
        for digest in fresh:
            mailed(database, ben, words("read", "lee", digest), ann)
    small, large = costs
    assert all(small.values())
    assert {name: cost for name, cost in large.items() if cost > 1.5 * small[name]} == {}


def test_what_was_settled_is_unread_again_when_the_words_count_no_more(
    database: Database, two: tuple[Author, Author]
) -> None:
    ann, ben = two
    lee, pat = reader(ben, "lee"), reader(ben, "pat")
    read, closed, ticketed = (
        mailed(database, ann, letter("kim", Agent("lee", ben.node), Agent("pat", ben.node), **how), ben)
        for how in ({}, {}, {"ticket": "T"})
    )
    mailed(database, ben, words("read", "lee", read), ann)
    mailed(database, ben, words("closed", "lee", closed), ann)
    mailed(database, ben, words("closed", "lee", ticket="T"), ann)
    later = mailed(database, ann, letter("kim", Agent("lee", ben.node), ticket="T"), ben)
    assert database.mail.unread(lee, limit=9) == [] and database.mail.count_unread(lee) == 0
    assert [each.mailed.hash for each in database.mail.unread(pat, limit=9)] == [read]
    change(database, ben, 0)
    assert [each.mailed.hash for each in database.mail.unread(lee, limit=9)] == [read, closed, ticketed, later]
    assert database.mail.count_unread(pat) == 3
    change(database, ben, None)
    assert database.mail.unread(lee, limit=9) == [] and database.mail.count_unread(pat) == 1


def test_more_than_people_count_is_not_counted(
    database: Database, two: tuple[Author, Author], monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, ben = two
    monkeypatch.setattr("meshd.store.mail.COUNTED", 5)
    for number in range(8):
        assert database.mail.count_unread(reader(ben, "lee")) == min(number, 5)
        mailed(database, ann, letter("kim", Agent("lee", ben.node)), ben)


def test_a_stranger_settles_nothing(database: Database, two: tuple[Author, Author]) -> None:
    """Whose machine is no party to a letter says what it likes of it."""
    ann, ben = two
    eve = Author()
    digest = mailed(database, ann, letter("kim", Agent("lee", ben.node), ticket="T"), ben)
    for said in (words("closed", "lee", digest), words("closed", "lee", ticket="T"), words("read", "lee", digest)):
        mailed(database, eve, said, ben)
    mailed(database, ann, words("read", "lee", digest), ben)  # by a lee of ann's machine
    assert database.mail.count_unread(reader(ben, "lee")) == 1
    row = next(database._connection.execute("SELECT sum(settled) FROM addressed"))
    assert row == (0,)


def test_what_strangers_say_of_a_ticket_costs_its_readers_nothing(
    database: Database, two: tuple[Author, Author]
) -> None:
    ann, ben = two
    eve = Author()
    lee = reader(ben, "lee")
    for _ in range(5):
        mailed(database, ann, letter("kim", Agent("lee", ben.node), ticket="T"), ben)
    costs = []
    for more in (1, 200):
        for _ in range(more):
            mailed(database, eve, words("closed", "x", ticket="T", status="done"), ben)
        costs.append(
            steps(
                database, lambda: (database.mail.inbox(lee, closed=True, limit=9), database.mail.unread(lee, limit=9))
            )
        )
    assert database.mail.count_unread(lee) == 5
    assert costs[1] < 1.5 * costs[0]


def test_plans_do_not_hang_on_values(database: Database) -> None:
    """Else SQLite compiles the statement anew for each value that is bound."""
    with Database(database.path, read_only=True) as other:
        for each in (database, other):
            assert each._connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, -1) == 1


@pytest.fixture
def two() -> tuple[Author, Author]:
    return Author(), Author()
