"""Records on disk: chains without gaps, ages, expiry, quarantine; the bytes as they came."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.model.announcement import Held
from meshd.model.facts import Rename
from meshd.model.record import Head, Log, LogId, Record
from meshd.store.database import Database
from meshd.store.records import EXPIRE_AT_ONCE, INTEGER_LIMIT, ConflictError, GapError
from tests.store.kit import Author, fold, fresh, keep, value


def test_a_record_comes_back_as_it_came(database: Database) -> None:
    author = Author()
    record = author.say(value({"a": 1}))
    assert keep(database, record) == [True]
    stored = database.records.get(author.data, 1, now_ms=0)
    assert stored is not None
    assert stored.record == record and stored.record.encode() == record.encode() and stored.record.is_authentic()
    assert database.records.by_hash(record.hash) == record
    assert database.records.hash_at(author.data, 1) == record.hash


def test_a_second_time_is_no_news(database: Database) -> None:
    record = Author().say(value(1))
    assert keep(database, record, record) == [True, False]
    assert keep(database, record) == [False]
    assert keep(database, record.without_body()) == [False]
    assert database.records.by_hash(record.hash) == record


def test_heads_are_the_last_of_each_chain(database: Database) -> None:
    one, other = Author(), Author()
    records = [one.say(value(1)), one.say(value(2)), one.say(Rename("ann")), other.say(value(3), generation=7)]
    keep(database, *records)
    assert database.records.heads() == {**one.heads, **other.heads}
    assert database.records.heads(Log.ROSTER) == {records[2].chain: Head(1, records[2].hash)}
    assert database.records.heads(Log.DATA) == {records[1].chain: records[1].head, records[3].chain: records[3].head}
    assert database.records.head(records[1].chain) == records[1].head
    assert database.records.head(LogId(one.keys.identity.signing_key, Log.DATA, 9)) is None


def test_sizes_are_those_of_the_records(database: Database) -> None:
    author = Author()
    records = [author.say(value("x" * n)) for n in range(5)]
    keep(database, *records)
    framing = 3  # of a record's encoding: lengths, which are not stored
    assert database.records.sizes() == {author.data: sum(len(each.encode()) - framing for each in records)}


@pytest.mark.parametrize("held", [0, 1, 5])
def test_a_gap_is_refused_and_says_what_is_held(database: Database, held: int) -> None:
    author = Author()
    records = [author.say(value(n)) for n in range(held + 2)]
    keep(database, *records[:held])
    with pytest.raises(GapError) as raised:
        keep(database, records[held + 1])
    assert raised.value.held == held
    assert database.records.heads() == ({author.data: records[held - 1].head} if held else {})


def test_another_record_with_a_number_that_is_taken(database: Database) -> None:
    author = Author()
    records = [author.say(value(n)) for n in range(3)]
    rival = author.write("handle.value", b"other", after=records[0].head)
    keep(database, *records)
    with pytest.raises(ConflictError) as raised:
        keep(database, rival)
    assert raised.value.held == records[1] and raised.value.certain


def test_a_record_that_follows_another_one_than_ours(database: Database) -> None:
    author = Author()
    records = [author.say(value(n)) for n in range(2)]
    rival = author.write("handle.value", b"other", after=records[0].head)
    follower = author.write("handle.value", b"more", after=rival.head)
    keep(database, *records)
    with pytest.raises(ConflictError) as raised:
        keep(database, follower)
    assert raised.value.held == records[1] and not raised.value.certain


def test_a_range_is_bounded_in_records_and_bytes(database: Database) -> None:
    author = Author()
    records = [author.say(value("x" * 100)) for _ in range(10)]
    keep(database, *records)
    size = len(records[0].encode())

    def numbers(first: int, most: int, most_bytes: int) -> list[int]:
        found = database.records.range(author.data, first, most=most, most_bytes=most_bytes, now_ms=0)
        return [each.record.header.sequence for each in found]

    assert numbers(1, 100, 10**9) == list(range(1, 11))
    assert numbers(8, 2, 10**9) == [8, 9]
    assert numbers(3, 100, 3 * size) == [3, 4, 5]
    assert numbers(3, 100, 3 * size - 1) == [3, 4]
    assert numbers(3, 100, 0) == [3], "one at least, or nobody would ever get on"
    assert numbers(11, 100, 10**9) == []


@pytest.mark.parametrize("number", [-1, 0, INTEGER_LIMIT + 1, (1 << 64) - 1])
def test_numbers_that_no_record_has_find_nothing(database: Database, number: int) -> None:
    """A peer may ask for any 64 bits; SQLite's integers have a sign."""
    author = Author()
    keep(database, author.say(value(1)))
    assert database.records.range(author.data, number, most=5, most_bytes=100, now_ms=0) == []
    assert database.records.get(author.data, number, now_ms=0) is None
    assert database.records.hash_at(author.data, number) is None


def test_the_largest_number_is_a_gap(database: Database) -> None:
    author = Author()
    record = author.write("handle.value", b"", after=Head((1 << 64) - 2, bytes(32)))
    with pytest.raises(GapError):
        keep(database, record)


def test_the_largest_clock_is_stored(database: Database) -> None:
    author = Author()
    record = author.say(value(1), clock=(1 << 64) - 1)
    assert fold(database, record, value(1))
    assert database.records.by_hash(record.hash) == record


def test_roster_records_come_chain_by_chain(database: Database) -> None:
    one, other = Author(1), Author(2)
    records = [one.say(Rename("a")), other.say(Rename("b")), one.say(Rename("c")), other.say(value(1))]
    keep(database, *records)
    found = database.records.roster()
    assert sorted(each.hash for each in found) == sorted(each.hash for each in records[:3])
    ours = [each for each in found if each.chain == records[0].chain]
    assert ours == [records[0], records[2]]


class TestAges:
    def test_an_age_goes_on_from_what_it_came_with(self, database: Database) -> None:
        author = Author()
        keep(database, author.say(value(1), ttl=100), age_ms=30_000, now_ms=1_000_000)
        stored = database.records.get(author.data, 1, now_ms=1_005_000)
        assert stored is not None and stored.age == 35 and stored.arrived_ms == 1_000_000

    def test_a_started_second_counts(self, database: Database) -> None:
        """Rounded down, a record that changes hands every second would never age."""
        author = Author()
        keep(database, author.say(value(1), ttl=100), now_ms=1_000)
        ages = [
            each.age
            for now in (1_000, 1_001, 2_000, 2_001)
            for each in database.records.range(author.data, 1, most=1, most_bytes=0, now_ms=now)
        ]
        assert ages == [0, 1, 1, 2]

    def test_bodies_go_when_their_time_is_over(self, database: Database) -> None:
        author = Author()
        brief, lasting, for_ever = (author.say(value(n), ttl=ttl) for n, ttl in enumerate((10, 20, 0)))
        keep(database, brief, lasting, for_ever)
        assert database.records.next_due_ms() == 10_000
        assert database.commit([lambda d: d.records.expire(9_999)])[0].value == []
        assert database.commit([lambda d: d.records.expire(10_000)])[0].value == [brief.hash]
        assert database.records.next_due_ms() == 20_000
        assert database.commit([lambda d: d.records.expire(10**12)])[0].value == [lasting.hash]
        assert database.records.next_due_ms() is None
        found = database.records.range(author.data, 1, most=9, most_bytes=10**6, now_ms=0)
        assert [each.record for each in found] == [brief.without_body(), lasting.without_body(), for_ever]
        assert all(each.record.is_authentic() for each in found)
        assert database.records.heads() == {author.data: for_ever.head}

    def test_what_comes_too_old_is_stored_as_a_header(self, database: Database) -> None:
        author = Author()
        record = author.say(value(1), ttl=10)
        assert keep(database, record, age_ms=10_000, now_ms=0) == [True]
        assert database.records.by_hash(record.hash) == record.without_body()
        assert database.records.next_due_ms() is None

    def test_roster_records_never_go(self, database: Database) -> None:
        record = Author().say(Rename("ann"), ttl=1)
        keep(database, record, age_ms=5_000, now_ms=9_000)
        assert database.commit([lambda d: d.records.expire(10**12)])[0].value == []
        assert database.records.roster() == [record]

    def test_one_call_drops_a_bounded_number(self, database: Database) -> None:
        author = Author()
        keep(database, *(author.write("x", b"", ttl=1) for _ in range(EXPIRE_AT_ONCE + 1)))
        counts = [len(database.commit([lambda d: d.records.expire(5_000)])[0].value or []) for _ in range(3)]
        assert counts == [EXPIRE_AT_ONCE, 1, 0]

    @given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(-(10**6), 10**6)), min_size=1, max_size=8))
    @settings(max_examples=20, deadline=None)
    def test_counted_time_never_runs_backwards(self, runs: list[tuple[int, int]]) -> None:
        """Each run: how long it was up, and how the wall clock stood at the next start against its end."""
        with fresh() as database:
            wall, last = 10**12, 0
            for up, jump in runs:
                counted = database.records.resume_count(wall)
                assert counted >= last
                counted, wall = counted + up, wall + up
                database.commit([lambda d, at=(counted, wall): d.records.mark_count(*at)])
                wall, last = wall + jump, counted
            assert database.records.resume_count(wall) == last + max(0, jump)


class TestQuarantine:
    def test_a_chain_waits_from_a_number_on(self, database: Database) -> None:
        author = Author()
        records = [author.say(value(n), clock=n << 16) for n in range(1, 4)]
        keep(database, *records)
        database.commit([lambda d: d.records.set_quarantined(author.data, 2)])
        (waiting,) = database.records.quarantined().values()
        assert (waiting.chain, waiting.first, waiting.clock) == (author.data, 2, records[1].header.clock)
        database.commit([lambda d: d.records.set_quarantined(author.data, None)])
        assert database.records.quarantined() == {}

    def test_it_is_remembered_before_the_record_is_there(self, database: Database) -> None:
        author = Author()
        database.commit([lambda d: d.records.set_quarantined(author.data, 1)])
        assert database.records.quarantined()[author.data].clock == 0
        assert database.records.heads() == {}, "a chain of which nothing is held has no head"


@given(st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_any_order_with_repetition_ends_in_the_same_chains(seed: int) -> None:
    chance = random.Random(seed)
    authors = [Author(n) for n in (1, 2)]
    records = [author.say(value(n), generation=chance.choice((1, 2))) for author in authors for n in range(6)]
    waiting: list[Record] = records * 2
    with fresh() as database:
        while waiting:
            record = chance.choice(waiting)
            try:
                keep(database, record)
            except GapError:
                continue
            waiting.remove(record)
        assert database.records.heads() == {**authors[0].heads, **authors[1].heads}
        for record in records:
            assert database.records.by_hash(record.hash) == record


def test_an_unknown_type_is_kept(database: Database) -> None:
    author = Author()
    record = author.write("quantum.mail", b"\xff\x00", log=Log.DATA)
    assert keep(database, record) == [True]
    assert database.records.by_hash(record.hash) == record


def test_a_header_without_its_body_is_a_record_too(database: Database) -> None:
    author = Author()
    record = author.say(Held(digest=bytes(32), size=1), ttl=1)
    assert keep(database, record.without_body()) == [True]
    assert not fold(database, record, Held(digest=bytes(32), size=1)), "what is not held is not folded"
