"""Views: one fold whatever the order, live by the roster's limits, gone with the bodies they came from."""

import random
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.errors import RefusedError
from meshd.model.announcement import Addresses, Announcement, Blob, BlobRef, Child, Held, Spot, Tag, Tree, Value
from meshd.model.clock import at
from meshd.model.handle import Handle as Name
from meshd.model.handle import canonical, digest_of, tree_digest
from meshd.model.identity import NodeId
from meshd.model.record import LogId, Record
from meshd.store.database import Database
from meshd.store.views import MATCHES_LIMIT, Entry, Found
from tests.store.kit import Author, fold, fresh, told, value

NOTHING = blake3().hexdigest()[:16]
DIGEST = digest_of(canonical({"a": 1}))


def ref(content: bytes, *, list_of: bytes | None = None) -> BlobRef:
    digest = blake3(content).digest()
    return BlobRef(digest=digest, size=len(content), list_digest=digest if list_of is None else list_of)


def blob(content: bytes, *, tags: tuple[str, ...] = (), to: tuple[NodeId, ...] = (), name: str = "") -> Blob:
    return Blob(
        ref=ref(content),
        content_type="application/octet-stream",
        name=name,
        total=len(content),
        tags=tags,
        addressees=to,
    )


def change(database: Database, chain: LogId, upto: int | None) -> None:
    database.commit([lambda d: d.handles.set_live(chain, upto)])


class TestContent:
    def test_a_value_is_found_by_its_handle(self, database: Database) -> None:
        told(database, Author(), value({"a": 1}))
        assert database.handles.value("inline", DIGEST) == b'{"a":1}'
        assert database.handles.find(None, DIGEST.hex()[:12]) == [Found("inline", DIGEST)]
        assert database.handles.find("inline", DIGEST.hex()) == [Found("inline", DIGEST)]
        assert database.handles.find("other", DIGEST.hex()) == []
        assert database.handles.value("other", DIGEST) is None

    def test_a_long_value_names_its_blob_until_somebody_has_it_inline(self, database: Database) -> None:
        content = canonical({"a": 1})
        told(database, Author(), Value(table="inline", json=None, blob=ref(content), tags=()))
        assert database.handles.value("inline", DIGEST) == ref(content)
        assert database.handles.references(DIGEST) == [ref(content)]
        told(database, Author(), value({"a": 1}))
        assert database.handles.value("inline", DIGEST) == content

    @pytest.mark.parametrize(
        "body",
        [
            Value(table="inline", json=b'{"b":1,"a":2}', blob=None, tags=()),
            Value(table="inline", json=b'{"a": 1}', blob=None, tags=()),
            Value(table="inline", json=b'{"a":1,"a":1}', blob=None, tags=()),
            Value(table="inline", json=b"[" * 5000, blob=None, tags=()),
            Value(table="inline", json=b"1e999", blob=None, tags=()),
            Value(table="inline", json=b"\xff", blob=None, tags=()),
            Value(table="inline", json=b"", blob=None, tags=()),
            Value(table="inline", json=None, blob=None, tags=()),
            Value(table="inline", json=b"1", blob=ref(b"1"), tags=()),
            Value(table="blob", json=b"1", blob=None, tags=()),
            Value(table="tree", json=None, blob=ref(b"1"), tags=()),
            Value(table="Not A Table", json=b"1", blob=None, tags=()),
            Tree(children=(Child(table="../x", digest=bytes(32)),), tags=()),
            Tag(table="NO", digest=bytes(32), add=("x",), remove=()),
        ],
    )
    def test_what_is_not_what_it_says_leaves_no_row(self, database: Database, body: Announcement) -> None:
        before = database.digests()
        assert not fold(database, Author().say(body), body)
        assert database.handles.tables() == {}
        assert database.digests() == before

    def test_a_blob_as_its_first_author_describes_it(self, database: Database) -> None:
        first, later = blob(b"x", name="first"), blob(b"x", name="later")
        told(database, Author(), later, clock=at(9))
        told(database, Author(), first, clock=at(5))
        assert database.handles.blob(first.ref.digest) == first

    def test_every_description_of_a_blob_is_offered(self, database: Database) -> None:
        """One liar about the chunk list must not keep a blob from those who know the right one."""
        honest = blob(b"x")
        liar = Blob(ref=ref(b"x", list_of=bytes(32)), content_type="", name="", total=1, tags=(), addressees=())
        told(database, Author(), liar, clock=at(1))
        told(database, Author(), honest, clock=at(2))
        told(database, Author(), blob(b"x", name="again"), clock=at(3))
        assert database.handles.references(honest.ref.digest) == [liar.ref, honest.ref]

    def test_a_tree_keeps_its_order(self, database: Database) -> None:
        children = (Child(table="inline", digest=DIGEST), Child(table="blob", digest=bytes(32)))
        told(database, Author(), Tree(children=children, tags=()))
        digest = tree_digest(Name.of(child.table, child.digest) for child in children)
        assert digest == digest_of(canonical([f"h&l_inline_{DIGEST.hex()[:12]}", "h&l_blob_000000000000"]))
        assert database.handles.tree(digest) == children
        assert database.handles.tree(bytes(32)) is None

    def test_two_trees_of_one_digest_are_refused(self, database: Database) -> None:
        """The digest covers short forms: whoever finds two contents of one prefix has two trees of one digest."""
        twins = [DIGEST, DIGEST[:6] + bytes(26)]
        for digest in twins:
            told(database, Author(), Tree(children=(Child(table="inline", digest=digest),), tags=()))
        shared = tree_digest([Name.of("inline", DIGEST)])
        with pytest.raises(RefusedError, match=shared.hex()):
            database.handles.tree(shared)

    def test_metadata(self, database: Database) -> None:
        ann, ben, cay = Author(), Author(), Author()
        first = blob(b"x", tags=("a",), name="first")
        told(database, ben, first, clock=at(7))
        told(database, ann, blob(b"x", tags=("b",)), clock=at(9))
        told(database, cay, Held(digest=first.ref.digest, size=1))
        found = database.handles.metadata("blob", first.ref.digest, now_ms=0)
        assert found is not None
        assert (found.origin, found.clock, found.size) == (ben.node, at(7), 1)
        assert found.announcers == (ben.node, ann.node)
        assert (found.tags, found.holders, found.ttl_left) == (("a", "b"), (cay.node,), None)
        assert found.blob == first
        assert database.handles.metadata("blob", bytes(32), now_ms=0) is None

    def test_time_left_is_that_of_the_last_to_go(self, database: Database) -> None:
        ann, ben = Author(), Author()
        told(database, ann, value(1), ttl=10)
        told(database, ben, value(1), ttl=20)
        digest = digest_of(b"1")

        def left(now_ms: int) -> int | None:
            found = database.handles.metadata("inline", digest, now_ms=now_ms)
            assert found is not None
            return found.ttl_left

        assert [left(0), left(1), left(19_001), left(99_000)] == [20, 20, 1, 0]
        told(database, ann, value(1))
        assert left(0) is None


class TestShortForms:
    def test_the_first_binding_is_remembered_when_its_content_is_gone(self, database: Database) -> None:
        author, prefix = Author(), b"\x01" * 6
        first, second = (Value(table="t", json=None, blob=_named(prefix + bytes([n]) * 26), tags=()) for n in (1, 2))
        told(database, author, first, ttl=10)
        database.commit([lambda d: d.records.expire(10_000)])
        assert database.handles.find("t", prefix.hex()) == [], "gone is gone"
        told(database, author, second)
        found = database.handles.find("t", prefix.hex())
        assert {each.digest[6] for each in found} == {1, 2}
        assert database.handles.find("t", (prefix + b"\x02" * 26).hex()) == [Found("t", prefix + b"\x02" * 26)]
        assert database.handles.bound("t", prefix.hex()) == prefix + b"\x01" * 26

    def test_two_of_one_prefix_are_both_named(self, database: Database) -> None:
        for n in (1, 2):
            told(database, Author(), Value(table="t", json=None, blob=_named(bytes(6) + bytes([n]) * 26), tags=()))
        assert len(database.handles.find(None, "0" * 12)) == 2

    def test_a_flood_of_one_prefix_is_bounded(self, database: Database) -> None:
        author = Author()
        for n in range(MATCHES_LIMIT + 5):
            told(database, author, Value(table="t", json=None, blob=_named(bytes(6) + bytes([n]) * 26), tags=()))
        assert MATCHES_LIMIT <= len(database.handles.find(None, "0" * 12)) <= MATCHES_LIMIT + 1

    def test_prefixes_at_the_edges(self, database: Database) -> None:
        author = Author()
        for digest in (bytes(32), b"\xff" * 32):
            told(database, author, Value(table="t", json=None, blob=_named(digest), tags=()))
        assert database.handles.find(None, "0" * 12) == [Found("t", bytes(32))]
        assert database.handles.find(None, "f" * 12) == [Found("t", b"\xff" * 32)]

    def test_what_does_not_count_takes_no_name(self, database: Database) -> None:
        author = Author()
        change(database, author.data, 0)
        told(database, author, value({"a": 1}))
        assert database.handles.bound("inline", DIGEST.hex()[:12]) is None


class TestTables:
    def test_pages_cover_a_table_once(self, database: Database) -> None:
        author = Author()
        for n in range(25):
            told(database, author, value({"n": n}, "jobs", ("odd",) if n % 2 else ()))
        told(database, author, value("elsewhere"))
        assert database.handles.tables() == {"inline": 1, "jobs": 25}
        for tag, count in ((None, 25), ("odd", 12), ("none", 0)):
            pages: list[Entry] = []
            while page := database.handles.snapshot(
                "jobs", tag=tag, after=pages[-1].digest if pages else b"", limit=7, most_bytes=10**6
            ):
                assert len(page) <= 7
                pages += page
            assert len({each.digest for each in pages}) == len(pages) == count
            assert all(isinstance(each.value, bytes) and digest_of(each.value) == each.digest for each in pages)

    def test_a_page_is_bounded_in_bytes(self, database: Database) -> None:
        author = Author()
        for n in range(5):
            told(database, author, value(f"{n}" * 998))
        sizes = [len(database.handles.snapshot("inline", limit=9, most_bytes=most)) for most in (0, 1999, 2000, 10**6)]
        assert sizes == [1, 1, 2, 5]

    def test_the_same_value_of_two_authors_is_one(self, database: Database) -> None:
        for _ in range(3):
            told(database, Author(), value({"a": 1}))
        assert database.handles.tables() == {"inline": 1}
        assert len(database.handles.snapshot("inline", limit=9, most_bytes=10**6)) == 1


class TestTags:
    def test_the_last_word_by_clock_counts(self, database: Database) -> None:
        author = Author()
        told(database, author, value({"a": 1}, tags=("x", "y")), clock=at(10))
        told(database, author, Tag(table="inline", digest=DIGEST, add=("z",), remove=("x",)), clock=at(20))
        told(database, author, Tag(table="inline", digest=DIGEST, add=("x",), remove=("y",)), clock=at(15))
        assert database.handles.tags("inline", DIGEST) == ("z",)
        assert database.handles.all_tags() == {"z": 1}
        assert database.handles.tagged("z", limit=9) == [Found("inline", DIGEST)]
        assert database.handles.tagged("x", limit=9) == []

    def test_the_author_decides_between_equal_clocks(self, database: Database) -> None:
        authors = sorted((Author(), Author()), key=lambda author: author.keys.identity.signing_key)
        told(database, Author(), value({"a": 1}), clock=at(1))
        words = [
            Tag(table="inline", digest=DIGEST, add=("x",), remove=()),
            Tag(table="inline", digest=DIGEST, add=(), remove=("x",)),
        ]
        for author, word in zip(authors, words, strict=True):
            told(database, author, word, clock=at(5))
        assert database.handles.tags("inline", DIGEST) == ()

    def test_on_and_off_in_one_record_is_off(self, database: Database) -> None:
        author = Author()
        told(database, author, value({"a": 1}))
        told(database, author, Tag(table="inline", digest=DIGEST, add=("x",), remove=("x",)))
        assert database.handles.tags("inline", DIGEST) == ()

    def test_a_tag_of_what_nobody_announces_is_not_listed(self, database: Database) -> None:
        told(database, Author(), Tag(table="inline", digest=DIGEST, add=("x",), remove=()))
        assert database.handles.tagged("x", limit=9) == []
        assert database.handles.all_tags() == {}


class TestMachines:
    def test_the_newest_addresses_count(self, database: Database) -> None:
        author = Author()
        old, new = (Addresses(spots=(Spot("10.0.0.1", port),)) for port in (1, 2))
        told(database, author, new, clock=at(9))
        told(database, author, old, clock=at(5), generation=2)
        found = database.handles.addresses(author.node)
        assert found is not None and (found.addresses, found.clock) == (new, at(9))
        assert database.handles.addresses(NodeId(bytes(32))) is None

    def test_what_is_addressed_to_us_until_we_say_that_we_have_it(self, database: Database) -> None:
        ann, ben = Author(), Author()
        ours, theirs = blob(b"ours", to=(ben.node, ann.node)), blob(b"theirs", to=(ann.node,))
        for body in (ours, theirs, blob(b"anybody's")):
            told(database, ann, body)
        assert database.handles.addressed_to(ben.node, limit=9) == [ours]
        told(database, ann, Held(digest=ours.ref.digest, size=4))
        assert database.handles.addressed_to(ben.node, limit=9) == [ours], "another machine's word is not ours"
        told(database, ben, Held(digest=ours.ref.digest, size=4))
        assert database.handles.addressed_to(ben.node, limit=9) == []
        assert database.handles.holders(ours.ref.digest) == sorted((ann.node, ben.node))


class TestLimits:
    def test_what_is_cut_off_is_seen_nowhere(self, database: Database) -> None:
        author, other = Author(), Author()
        kept = value("kept")
        told(database, other, kept)
        with fresh() as without:
            fold(without, other.say(kept, generation=2), kept)
            expected = without.digests()
        seen = blob(b"x", tags=("t",), to=(other.node,))
        for body in _one_of_each(other.node):
            told(database, author, body)
        assert all(database.digests()[view] != expected[view] for view in database.handles.contents())
        change(database, author.data, 0)
        assert database.digests() == expected
        assert database.handles.addressed_to(other.node, limit=9) == []
        assert database.handles.find(None, seen.ref.digest.hex()) == []
        assert not database.handles.is_announced(seen.ref.digest)

    def test_a_limit_counts_up_to_itself_and_can_be_lifted(self, database: Database) -> None:
        author = Author()
        for n in range(1, 5):
            told(database, author, value(n))
        for upto, count in ((2, 2), (0, 0), (None, 4), (3, 3)):
            change(database, author.data, upto)
            assert database.handles.tables().get("inline", 0) == count

    def test_a_limit_may_be_known_before_the_chain(self, database: Database) -> None:
        author = Author()
        change(database, author.data, 1)
        for n in range(3):
            told(database, author, value(n))
        assert database.handles.tables() == {"inline": 1}


def test_what_expires_takes_its_folds_with_it(database: Database) -> None:
    author, other = Author(), Author()
    before = database.digests()
    for body in _one_of_each(other.node):
        told(database, author, body, ttl=5)
    assert database.digests() != before
    database.commit([lambda d: d.records.expire(5_000)])
    assert database.digests() == before


def test_folding_again_changes_nothing(database: Database) -> None:
    author = Author()
    said = [(author.say(body), body) for body in _one_of_each(author.node)]
    for record, body in said:
        assert fold(database, record, body)
    before = database.digests()
    for record, body in said:
        fold(database, record, body)
    assert database.digests() == before


def _bodies(nodes: list[NodeId]) -> st.SearchStrategy[Announcement]:
    """Few different contents and tags, so that statements meet."""
    tags = st.lists(st.sampled_from(["x", "y"]), max_size=2).map(tuple)
    contents = st.integers(0, 3)
    kinds: list[st.SearchStrategy[Any]] = [
        st.builds(lambda n, t: value(n, tags=t), contents, tags),
        st.builds(lambda n, t, to: blob(bytes([n]), tags=t, to=to), contents, tags, st.just(tuple(nodes))),
        st.builds(
            lambda n, add, remove: Tag(table="inline", digest=digest_of(canonical(n)), add=add, remove=remove),
            *(contents, tags, tags),
        ),
        st.builds(lambda n: Held(digest=blake3(bytes([n])).digest(), size=1), contents),
        st.builds(lambda n: Addresses(spots=(Spot("10.0.0.1", n + 1),)), contents),
        st.builds(lambda n: Tree(children=(Child(table="inline", digest=bytes([n]) * 32),), tags=()), contents),
    ]
    return st.one_of(kinds)


@given(st.data(), st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_any_order_folds_to_the_same_views(data: st.DataObject, seed: int) -> None:
    """Chains come interleaved in any way, limits before or after: two machines agree on every view."""
    authors = [Author(n) for n in (1, 2, 3)]
    bodies = _bodies([author.node for author in authors])
    said: list[list[tuple[Record, Announcement]]] = [
        [
            (author.say(body, clock=at(data.draw(st.integers(1, 3)))), body)
            for body in data.draw(st.lists(bodies, max_size=5))
        ]
        for author in authors
    ]
    limits = {author.data: data.draw(st.none() | st.integers(0, 5)) for author in authors}
    results = []
    for turn in range(2):
        chance = random.Random(seed + turn)
        with fresh() as database:
            if turn:
                for chain, upto in limits.items():
                    change(database, chain, upto)
            queues = [list(each) for each in said]
            while any(queues):
                queue = chance.choice([each for each in queues if each])
                fold(database, *queue.pop(0))
            for chain, upto in limits.items():
                change(database, chain, upto)
            handles = database.handles
            questions = [handles.tables(), handles.all_tags(), database.digests()]
            blobs = [handles.blob(digest) for digest in handles.digests_in("blob", limit=9)]
            results.append((questions, blobs, [handles.addresses(author.node) for author in authors]))
    assert results[0] == results[1]


def test_digests_are_what_machines_of_other_versions_print(database: Database) -> None:
    """People compare them between machines: a change here is a change of what `tether digest` means."""
    author = Author(1)
    for body in _one_of_each(author.node):
        told(database, author, body)
    assert {view: digest.hex()[:16] for view, digest in database.digests().items()} == {
        "values": "55b74fa6d37fe0fe",
        "blobs": "41a150242a6a3264",
        "trees": "b54b85505ffd612a",
        "tags": "7ce46b8525002122",
        "held": "188805fc6a01b2c7",
        "addresses": "1c20e66394a521cc",
        "agents": NOTHING,
        "mail": NOTHING,
        "threads": NOTHING,
    }


def test_a_digest_is_over_fields_behind_their_lengths(database: Database) -> None:
    """As docs/protocol/storage.md says, computed here without the store's code."""
    author = Author()
    told(database, author, Held(digest=DIGEST, size=12))
    told(database, author, value({"a": 1}, tags=("b", "a")))

    def over(*fields: bytes) -> bytes:
        return blake3(b"".join(len(field).to_bytes(4, "big") + field for field in fields)).digest()

    found = database.digests()
    assert found["held"] == over(DIGEST, author.node, b"12")
    assert found["tags"] == over(b"inline", DIGEST, b"a", b"inline", DIGEST, b"b")
    assert found["blobs"] == over()


def test_long_chains_are_asked_by_index(database: Database) -> None:
    """No question that a person or a peer asks often may read a table whole."""
    often = {
        "SELECT DISTINCT tab, digest FROM live_handle WHERE digest BETWEEN ? AND ?",
        "SELECT digest FROM live_handle WHERE tab = ? AND digest > ? ORDER BY digest LIMIT 9",
        "SELECT tag FROM live_tag WHERE tab = ? AND digest = ?",
        "SELECT digest FROM live_tag WHERE tag = ? AND tab = ? AND digest > ?",
        "SELECT node FROM live_held WHERE digest = ?",
        "SELECT rank FROM live_reachable WHERE node = ? ORDER BY rank DESC LIMIT 1",
        "SELECT h.digest FROM addressee a JOIN live_handle h ON h.record = a.record WHERE a.node = ?",
        "SELECT id FROM record WHERE due_ms IS NOT NULL AND due_ms <= ? ORDER BY due_ms LIMIT 9",
    }
    tables = ("handle", "tagged", "held", "reachable", "addressee", "record")
    for question in often:
        plan = [
            row[3]
            for row in database._connection.execute(f"EXPLAIN QUERY PLAN {question}", (None,) * question.count("?"))
        ]
        aliases = {"h": "handle", "t": "tagged", "r": "reachable", "a": "addressee"}
        scans = [
            line for line in plan if line.startswith("SCAN") and aliases.get(line.split()[1], line.split()[1]) in tables
        ]
        assert not scans, f"{question}: {plan}"


def _named(digest: bytes) -> BlobRef:
    return BlobRef(digest=digest, size=1, list_digest=digest)


def _one_of_each(node: NodeId) -> list[Announcement]:
    return [
        value({"a": 1}, tags=("t",)),
        blob(b"x", tags=("t",), to=(node,)),
        Tree(children=(Child(table="inline", digest=DIGEST),), tags=()),
        Tag(table="inline", digest=DIGEST, add=("u",), remove=()),
        Held(digest=DIGEST, size=1),
        Addresses(spots=(Spot("10.0.0.1", 1),)),
    ]
