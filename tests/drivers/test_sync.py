"""Real stores brought up to date over streams, in virtual time: what people see of it in the end."""

import itertools
import random
import shutil
from pathlib import Path

import pytest
import trio

from meshd.drivers.sync import UNSENT_LIMIT
from meshd.errors import StoreError, TimedOutError
from meshd.model.facts import Rename
from meshd.model.record import Log, LogId
from meshd.model.roster import Standing
from meshd.notices import ForkFound, GenerationOpened, Trouble
from meshd.wire.constants import CloseCode
from meshd.wire.sync import AskRecords, Heads, Probe, Span
from tests.drivers.journal_kit import Machine, Time, join, link_of, machine, value
from tests.drivers.test_journal import Writer
from tests.model.mesh_kit import Mesh


def lab(*names: str) -> Mesh:
    mesh = Mesh()
    mesh.admit("f", *names)
    return mesh


async def equal(*machines: Machine) -> bool:
    digests = [await each.digests() for each in machines]
    heads = [each.journal.heads() for each in machines]
    return all(each == digests[0] for each in digests) and all(each == heads[0] for each in heads)


async def test_two_machines_hold_the_same(tmp_path: Path, autojump_clock: object) -> None:
    mesh = lab("a", "b")
    async with machine(mesh, "a", tmp_path) as a, machine(mesh, "b", tmp_path) as b, trio.open_nursery() as nursery:
        await a.journal.append(*(value(["a", number]) for number in range(300)))
        await b.journal.append(*(value(["b", number]) for number in range(200)))
        wire = join(nursery, a, b)
        await trio.sleep(1)
        assert await equal(a, b) and await a.values() == 500
        (link, _) = wire.links
        assert a.syncing.is_settled(link) and not wire.errors
        before = trio.current_time()
        await a.journal.append(value("pushed"))
        while await b.values() != 501:
            await trio.sleep(0.001)
        assert trio.current_time() - before < 0.02
        await trio.sleep(0.2)
        lag = a.syncing.lag(link)
        assert lag is not None and not (lag.records_here or lag.records_there or lag.bytes_there)
        nursery.cancel_scope.cancel()


async def test_ten_thousand_records_through_a_third_while_the_writer_is_gone(
    tmp_path: Path, autojump_clock: object
) -> None:
    mesh = lab("a", "b", "c")
    async with machine(mesh, "c", tmp_path) as c:
        async with machine(mesh, "a", tmp_path) as a, trio.open_nursery() as nursery:
            join(nursery, a, c)
            for start in range(0, 10_000, 1000):
                await a.journal.append(*(value(number) for number in range(start, start + 1000)))
            while await c.values() < 10_000:
                await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
        async with machine(mesh, "b", tmp_path) as b, trio.open_nursery() as nursery:
            join(nursery, b, c)
            while await b.values() < 10_000:
                await trio.sleep(0.1)
            await trio.sleep(0.2)
            assert await equal(b, c)
            nursery.cancel_scope.cancel()


async def test_a_probe_is_answered_by_the_program(tmp_path: Path, autojump_clock: object) -> None:
    mesh = lab("a", "b")
    async with machine(mesh, "a", tmp_path) as a, machine(mesh, "b", tmp_path) as b, trio.open_nursery() as nursery:
        wire = join(nursery, a, b)
        await trio.sleep(0.1)
        link = wire.links[0]
        assert await a.syncing.probe(link) >= 0 and link.probed_at == trio.current_time()
        wire.scope.cancel()
        await wire.over.wait()
        with pytest.raises(TimedOutError):
            await a.syncing.probe(link)
        nursery.cancel_scope.cancel()


async def test_who_is_revoked_is_put_out_at_once(tmp_path: Path, autojump_clock: object) -> None:
    mesh = lab("a", "b")
    async with machine(mesh, "f", tmp_path) as f, machine(mesh, "b", tmp_path) as b, trio.open_nursery() as nursery:
        wire = join(nursery, f, b)
        await trio.sleep(0.1)
        await f.journal.append(mesh.revocation("b"))
        with trio.fail_after(1):
            await wire.over.wait()
        assert wire.links[0].connection.code == CloseCode.NOT_A_MEMBER
        assert b.journal.roster.members[mesh["b"].key].standing is Standing.REVOKED, "and it knows why"
        nursery.cancel_scope.cancel()


async def test_a_newcomer_that_was_introduced_is_settled_by_its_roster(tmp_path: Path, autojump_clock: object) -> None:
    mesh = lab("a")
    async with machine(mesh, "a", tmp_path) as a:
        mesh.admit("f", "n")
        async with machine(mesh, "n", tmp_path) as n, trio.open_nursery() as nursery:
            settled = []
            a.syncing.on_settled.append(settled.append)
            wire = join(nursery, a, n)
            wire.links[0].introduced = True
            await trio.sleep(0.1)
            assert settled == [wire.links[0]] and not wire.links[0].introduced
            assert a.journal.roster.members[mesh["n"].key].is_active
            nursery.cancel_scope.cancel()


async def test_a_backup_that_is_restored_goes_on_under_a_new_generation(tmp_path: Path, autojump_clock: object) -> None:
    mesh = lab("a", "b")
    async with machine(mesh, "b", tmp_path) as b:
        async with machine(mesh, "a", tmp_path) as a:
            await a.journal.append(*(value(number) for number in range(10)))
        shutil.copy(tmp_path / "a.db", tmp_path / "backup")
        async with machine(mesh, "a", tmp_path) as a, trio.open_nursery() as nursery:
            wire = join(nursery, a, b)
            await a.journal.append(*(value(["after", number]) for number in range(10)))
            await trio.sleep(1)
            wire.scope.cancel()
        shutil.move(tmp_path / "backup", tmp_path / "a.db")
        async with machine(mesh, "a", tmp_path) as a, trio.open_nursery() as nursery:
            join(nursery, a, b)
            (written,) = await a.journal.append(value("new"))
            await trio.sleep(1)
            assert written.header.generation > 1 and a.saw(GenerationOpened)
            assert await equal(a, b) and await b.values() == 21 and not b.saw(ForkFound)
            nursery.cancel_scope.cancel()


async def test_an_author_that_tells_two_stories_is_found_out_and_people_are_told(
    tmp_path: Path, autojump_clock: object
) -> None:
    mesh = lab("a", "b", "liar")
    one, two = Writer(mesh, "liar"), Writer(mesh, "liar")
    common = [one.say(number) for number in range(40)]
    two.last = one.last
    async with machine(mesh, "a", tmp_path) as a, machine(mesh, "b", tmp_path) as b, trio.open_nursery() as nursery:
        await a.journal.accept(common + [one.say(["one", number]) for number in range(5)])
        await b.journal.accept(common + [two.say(["two", number]) for number in range(9)])
        join(nursery, a, b)
        await trio.sleep(2)
        for each in (a, b):
            assert each.journal.heads()[one.chain].sequence == 40 and await each.values() == 40
            (fork,) = each.saw(ForkFound)
            assert isinstance(fork, ForkFound) and fork.sequence == 41 and fork.name == "liar"
        assert await equal(a, b)
        nursery.cancel_scope.cancel()


async def test_who_asks_and_does_not_read_is_not_read_either(tmp_path: Path, autojump_clock: object) -> None:
    mesh = lab("a", "b")
    async with machine(mesh, "a", tmp_path) as a, machine(mesh, "b", tmp_path) as b, trio.open_nursery() as nursery:
        ours, theirs = trio.testing.lockstep_stream_pair()
        nursery.start_soon(a.syncing.serve, link_of(a, b), theirs)
        taken = 0
        await ours.send_all(Heads(Log.ROSTER, True, ()).encode())
        with trio.move_on_after(5):
            while taken < 64 << 20:
                await ours.send_all(Probe(b"12345678", echo=False).encode() * 5000)
                taken += 13 * 5000
        assert taken < 4 * UNSENT_LIMIT
        nursery.cancel_scope.cancel()


async def test_a_machine_that_breaks_the_protocol_is_named_and_harms_no_other_link(
    tmp_path: Path, autojump_clock: object
) -> None:
    mesh = lab("a", "b", "c")
    async with (
        machine(mesh, "a", tmp_path) as a,
        machine(mesh, "b", tmp_path) as b,
        machine(mesh, "c", tmp_path) as c,
        trio.open_nursery() as nursery,
    ):
        good = join(nursery, a, b)
        ours, theirs = trio.testing.memory_stream_pair()

        async def serve() -> None:
            with pytest.raises(Exception, match="before the rosters"):
                await a.syncing.serve(link_of(a, c), theirs)

        nursery.start_soon(serve)
        await ours.send_all(AskRecords(1, (Span(LogId(bytes(32), Log.DATA, 1), 1, 2),)).encode())
        await trio.sleep(1)
        await a.journal.append(value(1))
        await trio.sleep(1)
        assert await equal(a, b) and not good.errors
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", range(4))
async def test_many_machines_through_partitions_restarts_and_bad_clocks(
    seed: int, tmp_path: Path, autojump_clock: object
) -> None:
    """Journals, stores and streams together. What only the machine can get wrong: test_replication_chaos.py."""
    chance = random.Random(seed)
    names = ("f", "a", "b", "c", "d")
    mesh = lab(*names[1:])
    # One machine's clock is two hours ahead, one's a day behind.
    times = {name: Time() for name in names}
    times["c"].wall_offset, times["d"].wall_offset = 7_200_000, -86_400_000
    written = 0
    for _ in range(3):
        async with AllOf(mesh, names, tmp_path, times) as machines, trio.open_nursery() as nursery:
            wires = []
            for _ in range(12):
                here, there = chance.sample(list(machines.values()), 2)
                match chance.randrange(4):
                    case 0:
                        wires.append(join(nursery, here, there))
                    case 1 if wires:
                        wires.pop(chance.randrange(len(wires))).scope.cancel()
                    case 2:
                        await here.journal.append(Rename(f"{here.name}{written}"))
                    case _:
                        count = chance.randrange(40)
                        await here.journal.append(*(value([here.name, written, number]) for number in range(count)))
                        written += count
                await trio.sleep(chance.choice((0, 0.001, 0.1, 2)))
            nursery.cancel_scope.cancel()
    async with AllOf(mesh, names, tmp_path, times) as machines, trio.open_nursery() as nursery:
        row = list(machines.values())
        for here, there in itertools.pairwise(row):
            join(nursery, here, there)
        await trio.sleep(100)
        assert len({frozenset(each.journal.heads().items()) for each in row}) == 1
        assert len({each.journal.roster.digest() for each in row}) == 1
        assert any(each.journal.waiting for each in row if each.name != "c")
        fast = LogId(mesh["c"].key, Log.DATA, 1)
        assert all(set(each.journal.waiting) <= {fast} for each in row if each.name != "d")
        for time in times.values():  # somebody sets the clocks right
            time.wall_offset = 7_200_000
        await trio.sleep(100)
        assert not any(each.journal.waiting for each in row)
        assert await equal(*row) and await row[0].values() == written
        nursery.cancel_scope.cancel()


class AllOf:
    """Several machines, each over its own store."""

    def __init__(self, mesh: Mesh, names: tuple[str, ...], folder: Path, times: dict[str, Time]) -> None:
        self._opening = [(name, machine(mesh, name, folder, time=times[name])) for name in names]

    async def __aenter__(self) -> dict[str, Machine]:
        return {name: await opening.__aenter__() for name, opening in self._opening}

    async def __aexit__(self, *error: object) -> None:
        for _, opening in reversed(self._opening):
            await opening.__aexit__(None, None, None)


async def test_a_disk_that_refuses_is_told_of_and_tried_again(tmp_path: Path, autojump_clock: object) -> None:
    mesh = lab("a", "b")
    async with machine(mesh, "a", tmp_path) as a, machine(mesh, "b", tmp_path) as b, trio.open_nursery() as nursery:
        await a.journal.append(*(value(number) for number in range(100)))
        real = b.storage.write

        async def full(job: object) -> object:
            raise StoreError("No space is left.", "Free some.")

        b.storage.write = full
        wire = join(nursery, a, b)
        await trio.sleep(10)
        assert b.saw(Trouble) and len(b.saw(Trouble)) < 4 and not wire.errors
        b.storage.write = real
        await trio.sleep(40)
        assert await equal(a, b) and not wire.errors
        nursery.cancel_scope.cancel()
