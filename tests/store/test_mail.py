"""Mail in the store: whose it is, what is said of it, who counts, and what a page costs."""

from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.model.announcement import Tag
from meshd.model.identity import NodeId
from meshd.model.message import (
    WITHOUT_LIMIT,
    Agent,
    Box,
    Card,
    Letter,
    OpenMail,
    Reached,
    Said,
    SealedMail,
    Target,
    Thread,
    Words,
)
from meshd.model.record import Record
from meshd.store.database import Database
from meshd.store.mail import Reader, agent_key
from tests.store.kit import Author, fresh

NOW = 2_000_000


def letter(sender: str = "kim", *to: Agent, **fields: Any) -> Letter:
    given = {
        **{"target": Target("agent"), "subject": "subject", "text": "text", "attached": (), "tags": (), "ticket": ""},
        **{"thread": "", "reply_to": b"", "key": ""},
        **fields,
    }
    return Letter(sender=sender, to=to, **given)


def words(state: str, agent: str, *letters: bytes, **fields: Any) -> Words:
    return Words(letters=letters, agent=agent, state=state, **{"ticket": "", "status": "", "reason": "", **fields})  # type: ignore[arg-type]


def sealed(author: Author, *recipients: Author, ttl: int = 0) -> tuple[Record, SealedMail]:
    body = SealedMail(
        boxes=tuple(Box(each.keys.identity.signing_key, b"box") for each in recipients), salt=bytes(32), sealed=b"x"
    )
    return author.say(body, ttl=ttl), body


def put(database: Database, record: Record, body: Any, said: Said | None = None, **how: bool) -> None:
    def job(d: Database) -> None:
        d.records.insert(record, age_ms=0, now_ms=NOW)
        d.mail.fold(record, body, said, **how)
        d.mail.fold(record, body, said, **how)  # a second time changes nothing

    (done,) = database.commit([job])
    assert done.error is None, done.error


def mailed(database: Database, author: Author, said: Said, *recipients: Author, ttl: int = 0) -> bytes:
    record, body = sealed(author, *recipients, ttl=ttl)
    put(database, record, body, said)
    return record.hash


def reader(author: Author, name: str, *targets: Target) -> Reader:
    return Reader(name=name, node=author.node, targets=(agent_key(name, author.node), *(each.key for each in targets)))


def change(database: Database, author: Author, upto: int | None) -> None:
    database.commit([lambda d: d.handles.set_live(author.data, upto)])


@pytest.fixture
def two() -> tuple[Author, Author]:
    return Author(), Author()


def test_a_letter_is_in_the_inbox_of_whom_it_is_for(database: Database, two: tuple[Author, Author]) -> None:
    ann, ben = two
    digest = mailed(database, ann, letter("Kim", Agent("Lee", ben.node), tags=("t",)), ben)
    (found,) = database.mail.inbox(reader(ben, "lee"), limit=9)
    assert (found.mailed.hash, found.read, found.closed) == (digest, False, "")
    assert database.mail.inbox(reader(ben, "pat"), limit=9) == []
    assert database.mail.inbox(reader(ann, "lee"), limit=9) == []
    assert database.mail.inbox(reader(ben, "lee"), tag="t", limit=9) and not database.mail.inbox(
        reader(ben, "lee"), tag="tt", limit=9
    )
    assert [each.hash for each in database.mail.sent(ann.node, "KIM", limit=9)] == [digest]
    assert database.mail.find(digest.hex()[:12]) == [digest] == database.mail.find(digest.hex())


def test_reading_is_each_agents_own(database: Database, two: tuple[Author, Author]) -> None:
    ann, ben = two
    digest = mailed(database, ann, letter("kim", target=Target("machine", node=ben.node)), ben)
    here = Target("machine", node=ben.node)
    mailed(database, ben, words("read", "lee", digest), ann)
    assert database.mail.inbox(reader(ben, "lee", here), limit=9)[0].read
    assert not database.mail.inbox(reader(ben, "pat", here), limit=9)[0].read
    assert database.mail.count_unread(reader(ben, "lee", here)) == 0
    assert database.mail.count_unread(reader(ben, "pat", here)) == 1


def test_words_may_come_before_their_letter_and_count_from_parties_only(database: Database) -> None:
    ann, ben, stranger = Author(), Author(), Author()
    record, body = sealed(ann, ben)
    mailed(database, ben, words("read", "lee", record.hash), ann)
    mailed(database, stranger, words("closed", "x", record.hash, status="cancelled"), ann)
    put(database, record, body, letter("kim", Agent("lee", ben.node)))
    (found,) = database.mail.inbox(reader(ben, "lee"), closed=True, limit=9)
    assert found.read and found.closed == ""
    mailed(database, ann, words("closed", "kim", record.hash, status="superseded", reason="why"), ben)
    assert database.mail.closed(found.mailed.record, ben.node) == ("superseded", "why")
    assert database.mail.inbox(reader(ben, "lee"), limit=9) == []
    assert [each.state for each in database.mail.words(found.mailed.record)] == ["read", "closed"]


def test_a_ticket_counts_for_letters_of_its_parties_also_later_ones(database: Database) -> None:
    ann, ben, stranger = Author(), Author(), Author()
    mailed(database, ben, words("closed", "lee", ticket="T", status="done"), ann)
    mailed(database, ann, letter("kim", Agent("lee", ben.node), ticket="T"), ben)
    mailed(database, stranger, letter("sly", Agent("max", ann.node), ticket="T"), ann)
    assert database.mail.inbox(reader(ben, "lee"), limit=9) == []
    assert len(database.mail.inbox(reader(ann, "max"), limit=9)) == 1
    assert len(database.mail.of_ticket("T", 9)) == 2


def test_what_a_revocation_cuts_off_is_seen_nowhere_and_may_come_back(
    database: Database, two: tuple[Author, Author]
) -> None:
    ann, ben = two
    digest = mailed(database, ann, letter("kim", Agent("lee", ben.node)), ben)
    card = Card(name="kim", label="", tags=(), capabilities=(), status="", live=True, removed=False)
    put(database, ann.say(card), card)
    mailed(database, ben, words("read", "lee", digest), ann)
    for author, upto, letters, read, agents in (
        (ann, 0, 0, False, 0),
        (ann, 1, 1, True, 0),
        (ben, 0, 1, False, 0),
        (ann, None, 1, False, 1),
        (ben, None, 1, True, 1),
    ):
        change(database, author, upto)
        found = database.mail.inbox(reader(ben, "lee"), limit=9)
        assert (len(found), any(each.read for each in found), len(database.mail.agents(256))) == (letters, read, agents)


def test_what_expires_takes_all_with_it(database: Database, two: tuple[Author, Author]) -> None:
    ann, ben = two
    digest = mailed(database, ann, letter("kim", Agent("lee", ben.node), text="needle"), ben, ttl=5)
    assert database.mail.search("needle", limit=9)
    database.commit([lambda d: d.records.expire(NOW + 6_000)])
    assert database.mail.letter(digest) is None and database.mail.is_expired(digest)
    assert database.mail.find(digest.hex()[:12]) == [digest]
    assert not database.mail.search("needle", limit=9) and not database.mail.inbox(reader(ben, "lee"), limit=9)
    assert database.mail.mailboxes(ben.node) == []


def test_what_is_for_many_is_closed_for_others_by_its_author_alone(database: Database) -> None:
    ann, ben, cleo = Author(), Author(), Author()
    for target in (Target("tag", "t"), Target("broadcast")):
        said = letter("kim", target=target)
        if target.kind == "broadcast":
            body = OpenMail(letter=said)
            record = ann.say(body)
            put(database, record, body)
        else:
            record, sealed_body = sealed(ann, ben, cleo)
            put(database, record, sealed_body, said)
        mailed(database, cleo, words("closed", "sly", record.hash, status="cancelled"), ann, ben)
        readers = [reader(each, "lee", target) for each in (ben, cleo)]
        assert [len(database.mail.inbox(each, limit=9)) for each in readers] == [1, 0], "cleo's own machine alone"
        assert [database.mail.count_unread(each) for each in readers] == [1, 0]
        mailed(database, ann, words("closed", "kim", record.hash, status="done"), ben, cleo)
        assert [len(database.mail.inbox(each, limit=9)) for each in readers] == [0, 0]
        assert [database.mail.count_unread(each) for each in readers] == [0, 0]


def test_arrivals_are_acknowledged_once_and_not_our_own(database: Database, two: tuple[Author, Author]) -> None:
    ann, ben = two
    mailed(database, ann, letter("kim", Agent("lee", ben.node)), ben)
    mailed(database, ben, letter("lee", Agent("lee", ben.node)))
    assert database.mail.unacknowledged(ben.node) == [(ann.data, 1, ())]
    reached = Reached(signing_key=ann.keys.identity.signing_key, generation=1, sequence=1, without=())
    put(database, ben.say(reached), reached)
    assert database.mail.unacknowledged(ben.node) == []
    assert database.mail.reached(ann.keys.identity.signing_key, 1, ben.node) == 1
    assert database.mail.reached(ann.keys.identity.signing_key, 1, ann.node) == 0


def withheld(database: Database, author: Author, reader: Author) -> Record:
    """A letter that came as expired, by the word of who carried it."""
    record, body = sealed(author, reader, ttl=10)

    def job(d: Database) -> None:
        d.records.insert(record.without_body(), age_ms=11_000, now_ms=NOW)
        d.mail.fold(record.without_body(), body, None)

    (done,) = database.commit([job])
    assert done.error is None
    return record


def test_a_letter_that_came_without_its_body_is_not_called_there(
    database: Database, two: tuple[Author, Author]
) -> None:
    ann, ben = two

    def say() -> tuple[int, ...]:
        ((chain, number, without),) = database.mail.unacknowledged(ben.node)
        said = Reached(signing_key=chain.author, generation=chain.generation, sequence=number, without=without)
        put(database, ben.say(said), said)
        return without

    mailed(database, ann, letter("kim", Agent("lee", ben.node)), ben)
    withheld(database, ann, ben)
    tag = Tag(table="inline", digest=bytes(32), add=(), remove=())
    database.commit([lambda d: d.records.insert(ann.say(tag, ttl=1).without_body(), age_ms=2_000, now_ms=NOW)])
    mailed(database, ann, letter("kim", Agent("lee", ben.node)), ben)
    assert say() == (2,), "of other records nobody claims anything"
    there = [database.mail.has_reached(ann.data, number, ben.node) for number in (1, 2, 4, 5)]
    assert there == [True, False, True, False]
    mailed(database, ann, letter("kim", Agent("lee", ben.node)), ben)
    assert say() == (), "each is named once"
    assert not database.mail.has_reached(ann.data, 2, ben.node)
    # More than one word can name: it says no more than it can.
    for _ in range(WITHOUT_LIMIT + 3):
        withheld(database, ann, ben)
    mailed(database, ann, letter("kim", Agent("lee", ben.node)), ben)
    assert len(say()) == WITHOUT_LIMIT
    assert database.mail.reached(ann.keys.identity.signing_key, 1, ben.node) == 5 + WITHOUT_LIMIT
    assert say() == tuple(range(6 + WITHOUT_LIMIT, 9 + WITHOUT_LIMIT))
    assert database.mail.unacknowledged(ben.node) == []


def test_what_does_not_open_is_kept_for_an_answer(database: Database, two: tuple[Author, Author]) -> None:
    ann, ben = two
    record, body = sealed(ann, ben)
    put(database, record, body, unreadable=True)
    ((header, digest),) = database.mail.unreadable(64)
    assert (header, digest) == (record.header, record.hash)
    database.commit([lambda d: d.mail.forget_unreadable(digest)])
    assert database.mail.unreadable(64) == []


def test_nonsense_that_a_member_signed_leaves_no_row(database: Database, two: tuple[Author, Author]) -> None:
    ann, ben = two
    for body in (
        OpenMail(letter=letter("no name!")),
        OpenMail(letter=letter("kim", subject="two\nlines")),
        OpenMail(letter=letter("kim", Agent("\u0430nn", ben.node))),
        OpenMail(letter=letter("kim", target=Target("machine"))),
        Thread(name="no name", description=""),
        Card(name="kim", label="\u202eevil", tags=(), capabilities=(), status="", live=True, removed=False),
    ):
        put(database, ann.say(body), body)
    assert database.mail.agents(256) == [] and database.mail.topics(NodeId(bytes(32))) == []
    assert database.mail.sent(ann.node, "kim", limit=9) == []


def test_the_newest_card_counts_whatever_came_first(database: Database) -> None:
    ann = Author()
    old, new = (
        Card(name="kim", label=label, tags=(), capabilities=(), status="", live=True, removed=False)
        for label in ("old", "new")
    )
    records = [ann.say(old), ann.say(new)]
    for record, body in zip(records, (old, new), strict=True):
        put(database, record, body)
    (found,) = database.mail.agents(256)
    assert found.card.label == "new"
    gone = attrs.evolve(new, removed=True)
    put(database, ann.say(gone), gone)
    assert database.mail.agents(256) == []


def test_a_search_takes_words_as_words(database: Database, two: tuple[Author, Author]) -> None:
    ann, ben = two
    digest = mailed(database, ann, letter("kim", Agent("lee", ben.node), text='an "odd" NEAR(word*) OR -thing'), ben)
    for query in ("odd", "NEAR", "or thing", '"', "word*", "col:umn", "NOT odd", "an-odd"):
        found = database.mail.search(query, limit=9)
        assert found == [] or [each.hash for each in found] == [digest]
    assert database.mail.search("odd thing", limit=9)
    assert not database.mail.search("odd missing", limit=9)


def test_pages_hold_each_letter_once(database: Database, two: tuple[Author, Author]) -> None:
    ann, ben = two
    digests = [mailed(database, ann, letter("kim", Agent("lee", ben.node)), ben) for _ in range(9)]
    mailed(database, ben, words("read", "lee", *digests[2:5]), ann)
    found, after = [], None
    while page := database.mail.inbox(reader(ben, "lee"), after=after, limit=2):
        found += page
        after = (int(page[-1].read), page[-1].mailed.rank)
    unread = digests[:2] + digests[5:]
    assert [each.mailed.hash for each in found] == [*reversed(unread), *reversed(digests[2:5])]
    arrivals = database.mail.unread(reader(ben, "lee"), limit=99)
    assert [each.mailed.hash for each in arrivals] == unread
    later = database.mail.unread(reader(ben, "lee"), after=arrivals[3].mailed.record, limit=99)
    assert [each.mailed.hash for each in later] == unread[4:]


@settings(deadline=None, max_examples=30)
@given(st.randoms(use_true_random=False))
def test_the_order_of_arrival_makes_no_difference(chance: Any) -> None:
    """Records of three machines, each chain in its order, the chains mixed: the same lists and digests."""
    ann, ben, cleo = Author(1), Author(2), Author(3)
    first, body = sealed(ann, ben, cleo)
    queues = [
        [(first, body, letter("kim", Agent("lee", ben.node), ticket="T"))],
        [(*sealed(ben, ann, cleo), words("read", "lee", first.hash)), (*_reached(ben, ann), None)],
        [(*sealed(cleo, ann, ben), words("closed", "max", ticket="T", status="done"))],
    ]
    results = []
    for _ in range(2):
        left = [list(each) for each in queues]
        with fresh() as database:
            while any(left):
                put(database, *chance.choice([each for each in left if each]).pop(0))
            (found,) = database.mail.inbox(reader(ben, "lee"), closed=True, limit=9)
            results.append((found.read, found.closed, database.digests()))
    assert results[0] == results[1]
    assert results[0][:2] == (True, "done")


def _reached(by: Author, author: Author) -> tuple[Record, Reached]:
    body = Reached(signing_key=author.keys.identity.signing_key, generation=1, sequence=1, without=())
    return by.say(body), body


def test_nobody_is_told_of_their_own_letter_but_by_name(database: Database) -> None:
    ann = Author()
    everybody = Target("broadcast")
    body = OpenMail(letter=letter("kim", target=everybody))
    put(database, ann.say(body), body)
    assert database.mail.inbox(reader(ann, "kim", everybody), limit=9) == []
    assert len(database.mail.inbox(reader(ann, "lee", everybody), limit=9)) == 1
    mailed(database, ann, letter("kim", Agent("kim", NodeId(ann.node))))
    assert len(database.mail.inbox(reader(ann, "kim", everybody), limit=9)) == 1
