"""The journal over a real store: durable and folded when it says so, cheap for crowds, careful with its own history."""

from pathlib import Path

import pytest
import trio

from meshd.drivers.journal import WORD_WAIT, found_mesh, open_journal
from meshd.drivers.storage import open_storage
from meshd.drivers.threads import Offload, inline
from meshd.errors import RefusedError, RemoteProtocolError, StoreError
from meshd.model.clock import DRIFT_LIMIT, at
from meshd.model.facts import Cut, Found, Rename
from meshd.model.record import Log, LogId, Record, write_record
from meshd.model.roster import Roster
from meshd.notices import ForkFound, GenerationOpened, Quarantined, RecordsStored, Trouble
from meshd.wire.bodies import encode, type_of
from meshd.wire.sync import Arrived, Span
from tests.drivers.journal_kit import WALL, Pen, Time, machine, records, value
from tests.model.mesh_kit import Mesh


def lab(*names: str) -> Mesh:
    mesh = Mesh()
    mesh.admit("f", *names)
    return mesh


class Writer:
    """A member elsewhere that writes data records."""

    def __init__(self, mesh: Mesh, name: str, generation: int = 1) -> None:
        self.mesh, self.keys, self.generation = mesh.id, mesh[name].keys, generation
        self.last: Record | None = None
        self.chain = LogId(mesh[name].key, Log.DATA, generation)

    def say(self, content: object, *, clock: int = at(WALL), ttl: int = 0, kind: str = "handle.value") -> Arrived:
        self.last = write_record(
            self.keys,
            mesh=self.mesh,
            log=Log.DATA,
            generation=self.generation,
            previous=self.last.head if self.last else None,
            clock=clock,
            kind=kind,
            body=encode(value(content)),
            ttl=ttl,
        )
        return Arrived(self.last, 0)


async def test_what_is_appended_is_durable_folded_and_told(tmp_path: Path, autojump_clock: object) -> None:
    mesh = lab("a")
    async with machine(mesh, "a", tmp_path) as a:
        told: list[Record] = []
        a.journal.on_change.append(told.extend)
        written = await a.journal.append(value(1), value(2), Rename("anna"))
        assert [record.header.sequence for record in written] == [1, 2, 1] and told == written
        assert await a.values() == 2 and a.journal.roster.members[mesh["a"].key].name == "anna"
        assert a.saw(RecordsStored)
        heads = a.journal.heads()
    async with machine(mesh, "a", tmp_path) as a:
        assert a.journal.heads() == heads and await a.values() == 2
        clocks = [each.record.header.clock for each in await a.journal.read(written[0].chain, 1, 10, 10**6)]
        assert clocks == sorted(set(clocks)) and clocks[0] >= at(WALL)


async def test_ten_thousand_callers_share_few_commits(tmp_path: Path, autojump_clock: object) -> None:
    mesh = lab("a")
    commits = 0

    async def counting(work, *, abandon=False):
        nonlocal commits
        commits += 1
        return await inline(work)

    offload: Offload = counting
    async with (
        open_storage(tmp_path / "a.db", offload=offload) as storage,
        open_journal(mesh.id, storage, Pen(mesh["a"].keys), clocks=Time().clocks, offload=inline) as journal,
    ):
        await journal.begin(records(mesh))
        commits, results = 0, []

        async def call(number: int) -> None:
            results.extend(await journal.append(value(number)))

        async with trio.open_nursery() as nursery:
            for number in range(10_000):
                nursery.start_soon(call, number)
        assert sorted(record.header.sequence for record in results) == list(range(1, 10_001))
        assert commits <= 10_000 // 512 + 2
        assert journal.heads(Log.DATA)[results[0].chain].sequence == 10_000


async def test_a_caller_that_goes_away_takes_nobody_with_it(tmp_path: Path, autojump_clock: object) -> None:
    mesh = lab("a")
    async with machine(mesh, "a", tmp_path) as a:
        results = []

        async def call(number: int) -> None:
            results.extend(await a.journal.append(value(number)))

        async with trio.open_nursery() as nursery:
            scopes = []
            for number in range(50):

                async def one(number: int = number) -> None:
                    with trio.CancelScope() as scope:
                        scopes.append(scope)
                        await call(number)

                nursery.start_soon(one)
            await trio.testing.wait_all_tasks_blocked()
            for scope in scopes[::3]:
                scope.cancel()
        after = await a.journal.append(value("after"))
        held = await a.journal.read(after[0].chain, 1, 1000, 10**7)
        assert [each.record.header.sequence for each in held] == list(range(1, len(held) + 1))
        assert {record.hash for record in results} <= {each.record.hash for each in held}


async def test_records_from_elsewhere_are_stored_once_and_in_order(tmp_path: Path, autojump_clock: object) -> None:
    mesh = lab("a", "b")
    b = Writer(mesh, "b")
    arrived = [b.say(number) for number in range(10)]
    async with machine(mesh, "a", tmp_path) as a:
        gap = await a.journal.accept(arrived[5:])
        assert gap.stuck == {b.chain} and not gap.stored and not gap.conflicts
        assert len((await a.journal.accept(arrived[:6])).stored) == 6
        again = await a.journal.accept(arrived)
        assert [record.header.sequence for record in again.stored] == [7, 8, 9, 10] and not again.stuck
        assert await a.values() == 10


async def test_a_forged_record_is_the_carriers_doing_and_nothing_of_it_is_taken(
    tmp_path: Path, autojump_clock: object
) -> None:
    mesh = lab("a", "b")
    good = Writer(mesh, "b").say(1)
    forged = Arrived(Record(good.record.header, good.record.header_bytes, bytes(64), good.record.body), 0)
    other_body = Arrived(Record(good.record.header, good.record.header_bytes, good.record.signature, b"x"), 0)
    elsewhere = Mesh("nobody's")
    elsewhere.admit("f", "b")
    stranger = Writer(elsewhere, "b").say(1)
    async with machine(mesh, "a", tmp_path) as a:
        for bad in (forged, other_body, stranger):
            with pytest.raises(RemoteProtocolError):
                await a.journal.accept([good, bad])
        assert not a.journal.heads(Log.DATA)


async def test_what_says_nothing_is_kept_and_passed_on(tmp_path: Path, autojump_clock: object) -> None:
    mesh = lab("a", "b")
    b = Writer(mesh, "b")
    unknown, wrong = b.say(1, kind="future.thing"), b.say(2, kind="handle.blob")
    async with machine(mesh, "a", tmp_path) as a:
        await a.journal.accept([unknown, wrong, b.say(3)])
        assert await a.values() == 1
        found, rest = await a.journal.read_spans([Span(b.chain, 1, 99)])
        assert [each.record.encode() for each in found[:2]] == [unknown.record.encode(), wrong.record.encode()]
        assert rest == ()


async def test_void_records_are_neither_stored_nor_told(tmp_path: Path, autojump_clock: object) -> None:
    mesh = lab("a", "b")
    stranger = Writer(mesh, "nobody")
    b = Writer(mesh, "b")
    arrived = [b.say(number) for number in range(5)]
    async with machine(mesh, "f", tmp_path) as f:
        assert (await f.journal.accept([stranger.say(1)])).stuck == {stranger.chain}
        await f.journal.accept(arrived)
        third = arrived[2].record
        await f.journal.append(mesh.revocation("b", [Cut(Log.DATA, 1, 3, third.hash)]))
        assert f.journal.heads()[b.chain].sequence == 3 and f.journal.heads()[b.chain].hash == third.hash
        assert await f.values() == 3
        assert len((await f.journal.read_spans([Span(b.chain, 1, 5)]))[0]) == 3
        assert await f.journal.hashes(b.chain, [3, 4]) == [third.hash, None]
        assert (await f.journal.accept([b.say(6)])).stuck == {b.chain}
    async with machine(mesh, "f", tmp_path) as f:  # and it is so after a restart
        assert f.journal.heads()[b.chain].sequence == 3 and await f.values() == 3


async def test_a_fork_is_proven_when_its_first_double_number_is_seen(tmp_path: Path, autojump_clock: object) -> None:
    mesh = lab("a", "b")
    one, two = Writer(mesh, "b"), Writer(mesh, "b")
    common = [one.say(number) for number in range(3)]
    two.last = one.last
    left, right = [one.say("left"), one.say("left too")], [two.say("right"), two.say("right too")]
    async with machine(mesh, "a", tmp_path) as a:
        await a.journal.accept(common + left)
        later = await a.journal.accept(right[1:])
        assert later.conflicts == {one.chain} and not a.journal.roster.forks, "a later pair would freeze too little"
        first = await a.journal.accept(right[:1])
        assert not first.conflicts and first.stuck == {one.chain}
        assert a.journal.roster.limit(one.chain) == 3 == a.journal.heads()[one.chain].sequence
        assert await a.values() == 3 and len(a.saw(ForkFound)) == 1
        written = a.journal.heads()[LogId(mesh["a"].key, Log.ROSTER, 1)].sequence
        await a.journal.accept(right[:1])
        assert a.journal.heads()[LogId(mesh["a"].key, Log.ROSTER, 1)].sequence == written, "proven once"


async def test_clocks_far_ahead_wait_and_are_folded_when_their_time_comes(
    tmp_path: Path, autojump_clock: object
) -> None:
    mesh = lab("a", "b", "c")
    b, c = Writer(mesh, "b"), Writer(mesh, "c")
    hour = 3_600_000
    async with machine(mesh, "a", tmp_path) as a:
        await a.journal.accept([b.say(1), b.say(2, clock=at(WALL + hour)), b.say(3), c.say("fine")])
        assert await a.values() == 2 and a.journal.waiting[b.chain].first == 2
        (notice,) = a.saw(Quarantined)
        assert isinstance(notice, Quarantined) and notice.ahead == pytest.approx(3600, abs=60) and not notice.ours
        assert len((await a.journal.read_spans([Span(b.chain, 1, 9)]))[0]) == 3, "stored and forwarded"
        (mine,) = await a.journal.append(value("mine"))
        assert mine.header.clock < at(WALL + DRIFT_LIMIT), "a clock in quarantine is not followed"
        await a.journal.accept([c.say("fast too", clock=at(WALL + hour))])
        assert [notice.ours for notice in a.saw(Quarantined) if isinstance(notice, Quarantined)] == [False, True]
    async with machine(mesh, "a", tmp_path) as a:
        assert set(a.journal.waiting) == {b.chain, c.chain} and await a.values() == 3
        await trio.sleep((hour - DRIFT_LIMIT) / 1000 + 61)
        assert not a.journal.waiting and await a.values() == 6


async def test_time_to_live_is_counted_on_and_no_hop_resets_it(tmp_path: Path, autojump_clock: object) -> None:
    mesh = lab("a", "b")
    b = Writer(mesh, "b")
    short = b.say("short", ttl=100)
    time = Time()
    async with machine(mesh, "a", tmp_path, time=time) as a:
        await a.journal.accept([Arrived(short.record, 40)])
        (mine,) = await a.journal.append(value("mine"), ttl=30)
        await trio.sleep(20)
        (found,) = await a.journal.read(b.chain, 1, 1, 10**6)
        assert 60 <= found.age <= 61 and found.record.body is not None
        time.wall_offset -= 10_000_000  # somebody sets the clock back
        await trio.sleep(11)
        assert await a.values() == 1
        time.boot_offset += 25_000  # the lid was closed
        a.journal.woke()
        (found,) = await a.journal.read(b.chain, 1, 1, 10**6)
        assert 95 <= found.age <= 98
        await trio.sleep(6)
        (found,) = await a.journal.read(b.chain, 1, 1, 10**6)
        assert found.record.body is None and await a.values() == 0
        assert a.journal.heads()[mine.chain].hash == mine.hash


async def test_what_has_expired_is_accepted_as_a_header(tmp_path: Path, autojump_clock: object) -> None:
    mesh = lab("a", "b")
    b = Writer(mesh, "b")
    old = Arrived(b.say(1, ttl=10).record.without_body(), 11)
    async with machine(mesh, "a", tmp_path) as a:
        assert len((await a.journal.accept([old, b.say(2)])).stored) == 2
        assert await a.values() == 1


@pytest.mark.parametrize(
    ("kind", "ttl", "age"),
    [("handle.value", 0, 0), ("handle.value", 10, 9), ("mail.open", 0, 99), ("mail.sealed", 10, 9)],
)
async def test_a_body_that_nobody_had_a_reason_to_drop_is_asked_of_others(
    tmp_path: Path, autojump_clock: object, kind: str, ttl: int, age: int
) -> None:
    mesh = lab("a", "b")
    whole = Writer(mesh, "b").say(1, ttl=ttl, kind=kind)
    async with machine(mesh, "a", tmp_path) as a:
        with pytest.raises(RemoteProtocolError, match="without its body"):
            await a.journal.accept([Arrived(whole.record.without_body(), age)])
        assert len((await a.journal.accept([whole])).stored) == 1


async def test_a_roster_record_has_its_body_whatever_its_time_to_live(tmp_path: Path, autojump_clock: object) -> None:
    mesh = lab("a", "b")
    keys = mesh["b"].keys
    kind, log = type_of(Rename("bea"))
    record = write_record(
        keys,
        mesh=mesh.id,
        log=log,
        generation=9,
        previous=None,
        clock=at(WALL),
        kind=kind,
        body=encode(Rename("bea")),
        ttl=1,
    )
    async with machine(mesh, "a", tmp_path) as a:
        with pytest.raises(RemoteProtocolError, match="without its body"):
            await a.journal.accept([Arrived(record.without_body(), 5)])
        await a.journal.accept([Arrived(record, 0)])
        await trio.sleep(5)
        (found,) = await a.journal.read(record.chain, 1, 1, 10**6)
        assert found.record.body is not None and a.journal.roster.members[mesh["b"].key].name == "bea"


async def test_a_first_write_waits_for_word_of_our_own_records(tmp_path: Path, autojump_clock: trio.abc.Clock) -> None:
    mesh = lab("a")
    async with machine(mesh, "a", tmp_path) as a:
        await a.journal.append(value(1))
    async with machine(mesh, "a", tmp_path) as a:
        before = trio.current_time()
        await a.journal.append(value(2))
        assert trio.current_time() - before == pytest.approx(WORD_WAIT, abs=0.1)
        before = trio.current_time()
        await a.journal.append(value(3))
        assert trio.current_time() == before
        a.journal.own_history_elsewhere()
        await a.journal.append(value(4))
        assert trio.current_time() == before, "one claim in a minute may hold us up"
        await trio.sleep(61)
        a.journal.own_history_elsewhere()
        before = trio.current_time()
        await a.journal.append(value(5))
        assert trio.current_time() - before == pytest.approx(WORD_WAIT, abs=0.1)
    async with machine(mesh, "a", tmp_path) as a, trio.open_nursery() as nursery:
        before = trio.current_time()
        nursery.start_soon(a.journal.append, value(6))
        await trio.sleep(1)
        a.journal.heard_of_ourselves()
        await trio.sleep(0.01)
        assert await a.values() == 6 and trio.current_time() - before < 2


async def test_who_is_alone_waits_for_nobody(tmp_path: Path, autojump_clock: object) -> None:
    mesh = Mesh()
    for _ in range(2):
        async with machine(mesh, "f", tmp_path) as f:
            before = trio.current_time()
            await f.journal.append(value(before))
            assert trio.current_time() == before


async def test_own_records_from_elsewhere_open_a_new_generation(tmp_path: Path, autojump_clock: object) -> None:
    mesh = lab("a", "b")
    elsewhere = Writer(mesh, "a")
    async with machine(mesh, "a", tmp_path) as a:
        assert len((await a.journal.accept([elsewhere.say(1), elsewhere.say(2)])).stored) == 2
        assert a.journal.generation > 1 and a.saw(GenerationOpened)
        (record,) = await a.journal.append(value("new"))
        assert record.header.generation == a.journal.generation and record.header.sequence == 1
        assert elsewhere.last is not None and record.header.previous == elsewhere.last.hash
        opened = a.journal.generation
    async with machine(mesh, "a", tmp_path) as a:  # the key file was set back: the store knows better
        assert a.journal.generation > opened
    async with machine(mesh, "a", tmp_path, generation=9000) as a:
        await a.journal.accept([elsewhere.say(3)])
        assert a.journal.generation == 9000, "an older generation is history, and no copy that runs now"


async def test_an_own_fork_is_left_for_a_new_generation(tmp_path: Path, autojump_clock: object) -> None:
    mesh = lab("a", "b")
    async with machine(mesh, "a", tmp_path) as a:
        written = await a.journal.append(value(1), value(2))
        twin = Writer(mesh, "a")
        twin.last = written[0]
        await a.journal.accept([twin.say("other")])
        assert a.journal.roster.limit(twin.chain) == 1 and a.saw(ForkFound)
        (after,) = await a.journal.append(value(3))
        assert after.header.generation > 1 and await a.values() == 2


async def test_who_is_out_writes_nothing(tmp_path: Path, autojump_clock: object) -> None:
    mesh = lab("a")
    mesh.revoke("f", "a")
    async with machine(mesh, "a", tmp_path) as a:
        with pytest.raises(RefusedError, match="not a member"):
            await a.journal.append(value(1))


async def test_an_author_gets_no_more_than_its_quota(tmp_path: Path, autojump_clock: object) -> None:
    mesh = lab("a", "b", "c")
    b, c = Writer(mesh, "b"), Writer(mesh, "c")
    async with machine(mesh, "a", tmp_path) as a:
        a.journal.quota = 1000
        accepted = await a.journal.accept([b.say(number) for number in range(10)] + [c.say(1)])
        assert accepted.stuck == {b.chain} and 1 < len(accepted.stored) < 6
        await a.journal.accept([b.say(11)])
        assert len(a.saw(Trouble)) == 1 and c.chain in a.journal.heads()


async def test_an_author_gets_no_more_than_so_many_chains(tmp_path: Path, autojump_clock: object) -> None:
    mesh = lab("a", "b")
    async with machine(mesh, "a", tmp_path) as a:
        many = [Writer(mesh, "b", generation).say(generation) for generation in range(1, 600)]
        assert len((await a.journal.accept(many)).stored) == 512
        assert len((await a.journal.accept(many)).stored) == 0


async def test_the_recovery_words_write_what_counts(tmp_path: Path, autojump_clock: object) -> None:
    mesh = lab("a", "b")
    async with machine(mesh, "a", tmp_path) as a:
        with pytest.raises(RefusedError, match="recovery words"):
            await a.journal.append_as(mesh["b"].keys, mesh.revocation("b"))
        first = await a.journal.append_as(mesh.recovery.keys, mesh.revocation("b"))
        second = await a.journal.append_as(mesh.recovery.keys, mesh.new_secret(2), mesh.new_secret(3))
        assert not a.journal.roster.members[mesh["b"].key].is_active
        assert len({record.header.generation for record in first + second}) == 3


async def test_a_founder_begins_a_mesh_and_a_newcomer_takes_it_over_in_any_order(
    tmp_path: Path, autojump_clock: object
) -> None:
    mesh = lab("a")
    mesh.admit("a", "b")
    mesh.admit("b", "c")
    keys = mesh["f"].keys
    found = Found(
        mesh_name="home",
        name="first",
        noise_key=keys.identity.noise_key,
        binding=keys.identity.binding,
        recovery_key=b"",
        nonce=bytes(32),
    )
    first = found_mesh(keys, found, generation=1, wall_ms=WALL)
    async with (
        open_storage(tmp_path / "home.db", offload=inline) as storage,
        open_journal(first.hash, storage, Pen(keys), clocks=Time().clocks, offload=inline) as journal,
    ):
        await journal.begin([first])
        assert journal.roster.mesh_name == "home"
        (renamed,) = await journal.append(Rename("second"))
        assert renamed.header.sequence == 2 and renamed.header.previous == first.hash
    async with machine(mesh, "c", tmp_path, begin=False) as c:
        with pytest.raises(RefusedError, match="do not begin"):
            await c.journal.begin(records(mesh)[1:])
        await c.journal.begin(records(mesh)[::-1])
        assert len(c.journal.roster.active()) == 4


async def test_a_full_disk_is_an_answer_and_what_was_written_stays(tmp_path: Path, autojump_clock: object) -> None:
    mesh = lab("a")
    async with machine(mesh, "a", tmp_path) as a:
        (kept,) = await a.journal.append(value("kept"))
        real = a.storage.write

        async def full(job: object) -> object:
            raise StoreError("No space is left.", "Free some.")

        a.storage.write = full
        with pytest.raises(StoreError):
            await a.journal.append(value("lost"))
        a.storage.write = real
        (after,) = await a.journal.append(value("after"))
        assert after.header.sequence == 2 and after.header.previous == kept.hash


async def test_a_proof_that_only_void_records_carry_is_written_again(tmp_path: Path, autojump_clock: object) -> None:
    mesh = lab("a", "b", "liar")
    mesh.fork("b", "liar", 3, Log.DATA)
    chain = LogId(mesh["liar"].key, Log.DATA, 1)
    async with machine(mesh, "a", tmp_path) as a:
        (fork,) = a.journal.roster.forks
        assert fork.carried and (fork.chain, fork.sequence) == (chain, 3)
        mine = LogId(mesh["a"].key, Log.ROSTER, 1)
        assert mine not in a.journal.heads()
        mesh.revoke("f", "b", cuts=())  # all that `b` wrote is void now
        await a.journal.accept([Arrived(mesh["f"].written[-1][0], 0)])
        (fork,) = a.journal.roster.forks
        assert fork.carried and a.journal.heads()[mine].sequence == 1
        assert a.journal.roster.limit(chain) == 2


async def test_a_revocation_of_ours_that_makes_a_proof_void_has_us_write_it_again(
    tmp_path: Path, autojump_clock: object
) -> None:
    mesh = lab("b", "liar")
    mesh.fork("b", "liar", 3, Log.DATA)
    chain = LogId(mesh["liar"].key, Log.DATA, 1)
    async with machine(mesh, "f", tmp_path) as f:
        await f.journal.append(mesh.revocation("b", cuts=()))
        (fork,) = f.journal.roster.forks
        assert fork.carried and f.journal.roster.limit(chain) == 2


async def test_the_branch_that_a_revocation_names_takes_the_place_of_the_other(
    tmp_path: Path, autojump_clock: object
) -> None:
    mesh = lab("a", "b", "x")
    mesh.rename("b", "before")
    named = mesh["b"].cut()
    other = write_record(
        mesh["b"].keys,
        mesh=mesh.id,
        log=Log.ROSTER,
        generation=1,
        previous=None,
        clock=1,
        kind=type_of(Rename("thief"))[0],
        body=encode(Rename("thief")),
    )
    ((right, _),) = mesh["b"].written
    mesh["b"].written.clear()
    async with machine(mesh, "a", tmp_path) as a:
        await a.journal.accept([Arrived(other, 0)])
        await a.journal.drop_branch(other.chain)
        assert a.journal.heads()[other.chain].hash == other.hash, "nobody has revoked it: it stays"
        mesh.revoke("f", "b", cuts=[named])
        await a.journal.accept([Arrived(mesh["f"].written[-1][0], 0)])
        assert a.journal.roster.members[mesh["b"].key].name == "b"
        told: list[Roster] = []
        a.journal.on_roster.append(told.append)
        await a.journal.drop_branch(other.chain)
        assert other.chain not in a.journal.heads() and told == [a.journal.roster]
        await a.journal.accept([Arrived(right, 0)])
        assert a.journal.heads()[right.chain].hash == right.hash
        assert a.journal.roster.members[mesh["b"].key].name == "before"
        await a.journal.drop_branch(right.chain)
        assert a.journal.heads()[right.chain].hash == right.hash, "that is the one"
    async with machine(mesh, "a", tmp_path) as a:
        assert a.journal.heads()[right.chain].hash == right.hash


async def test_what_is_durable_is_told_though_who_brought_it_is_gone(tmp_path: Path, autojump_clock: object) -> None:
    mesh = lab("a", "b")
    mesh.rename("b", "berta")
    arrived, _ = mesh["b"].written.pop()  # the machine below does not begin with it
    async with machine(mesh, "a", tmp_path) as a:
        real = a.storage.write
        with trio.CancelScope() as scope:

            async def write_and_go(job: object) -> object:
                done = await real(job)
                scope.cancel()
                return done

            a.storage.write = write_and_go
            await a.journal.accept([Arrived(arrived, 0)])
        a.storage.write = real
        assert scope.cancel_called
        assert a.journal.roster.members[mesh["b"].key].name == "berta"
        assert a.journal.heads()[LogId(mesh["b"].key, Log.ROSTER, 1)].sequence == 1
