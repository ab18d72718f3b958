"""Machines that fetch blobs from each other, over streams in memory and in virtual time."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from meshd.drivers.blob_files import DamagedError
from meshd.errors import NobodyFoundError, RefusedError
from meshd.notices import BlobProgress, BlobStored, Damaged
from tests.drivers.blob_kit import MIB, flip, linked, machines, noise, put


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, MIB, MIB + 1, 5 * MIB + 17])
async def test_a_blob_of_any_size_comes_whole(tmp_path: Path, autojump_clock: MockClock, size: int) -> None:
    async with machines(tmp_path, "alice", "bob") as (alice, bob):
        data = noise(size)
        ref = await put(alice, data)
        async with linked(bob, alice):
            assert await bob.fetching.fetch(ref.digest) == ref
        assert await bob.store.read(ref.digest, size) == data
        assert [notice.size for notice in bob.told(BlobStored)] == [size]
        assert not list((bob.directory / "partial").iterdir())


async def test_what_is_here_is_not_moved_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with machines(tmp_path, "alice", "bob") as (alice, bob):
        ref = await put(alice, noise(3 * MIB))
        await put(bob, noise(3 * MIB))
        async with linked(bob, alice):
            assert await bob.fetching.fetch(ref.digest) == ref
        assert alice.sent == 0


async def test_many_who_want_one_blob_share_one_fetch(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with machines(tmp_path, "alice", "bob") as (alice, bob):
        ref = await put(alice, noise(4 * MIB))
        async with linked(bob, alice, rate=8 * MIB), trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(bob.fetching.fetch, ref.digest)
        assert alice.sent < 4 * MIB + 10_000


async def test_a_flipped_byte_is_refused_by_name_and_never_served(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with machines(tmp_path, "alice", "bob") as (alice, bob):
        ref = await put(alice, noise(4 * MIB))
        flip(alice, ref.digest, 2 * MIB + 5)
        async with linked(bob, alice):
            with pytest.raises(RefusedError, match="on alice is damaged"):
                await bob.fetching.fetch(ref.digest, patience=60)
        assert [notice.name for notice in bob.told(Damaged)] == ["alice"]
        assert not await bob.store.holds(ref.digest)
        with pytest.raises(DamagedError):
            await alice.store.chunk(ref.digest, 0)


async def test_a_damaged_copy_is_mended_by_its_bad_chunk_alone(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with machines(tmp_path, "alice", "bob") as (alice, bob):
        data = noise(6 * MIB)
        ref = await put(alice, data)
        await put(bob, data)
        flip(bob, ref.digest, MIB)
        with pytest.raises(DamagedError):
            await bob.store.read(ref.digest, len(data))
        async with linked(bob, alice):
            await bob.fetching.fetch(ref.digest)
        assert await bob.store.read(ref.digest, len(data)) == data
        assert alice.sent < MIB + 10_000


async def test_a_damaged_holder_is_replaced_by_a_good_one(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with machines(tmp_path, "alice", "bob", "carol") as (alice, bob, carol):
        data = noise(8 * MIB)
        ref = await put(alice, data)
        await put(carol, data)
        flip(alice, ref.digest, 3 * MIB)
        async with linked(bob, alice, rate=20 * MIB), linked(bob, carol, rate=5 * MIB):
            await bob.fetching.fetch(ref.digest, patience=60)
        assert await bob.store.read(ref.digest, len(data)) == data


async def test_nobody_has_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with machines(tmp_path, "alice", "bob") as (alice, bob), linked(bob, alice):
        began = trio.current_time()
        with pytest.raises(NobodyFoundError):
            await bob.fetching.fetch(bytes(32), patience=7)
        assert trio.current_time() - began == pytest.approx(7)


async def test_who_gets_it_later_is_asked_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with machines(tmp_path, "alice", "bob") as (alice, bob), trio.open_nursery() as nursery:
        data = noise(2 * MIB)

        async def later() -> None:
            await trio.sleep(3)
            await put(alice, data)

        digest = (await put(alice, data)).digest
        await alice.store.collect(dry_run=False)
        assert not await alice.store.holds(digest)
        nursery.start_soon(later)
        async with linked(bob, alice):
            await bob.fetching.fetch(digest, patience=30)


async def test_a_slow_holder_costs_almost_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    size, rate = 200 * MIB, 40 * MIB
    took = []
    for number, slow in enumerate((None, rate / 10)):
        (tmp_path / str(number)).mkdir()
        async with machines(tmp_path / str(number), "alice", "bob", "carol") as (alice, bob, carol):
            ref = await put(alice, noise(size))
            async with linked(bob, alice, rate=rate):
                began = trio.current_time()
                if slow is None:
                    await bob.fetching.fetch(ref.digest)
                else:
                    await put(carol, noise(size))
                    carol.throttle.set_rate(int(slow))
                    async with linked(bob, carol):
                        await bob.fetching.fetch(ref.digest)
                took.append(trio.current_time() - began)
    alone, both = took
    assert both < alone * 1.02


async def test_a_lost_link_is_replaced(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with machines(tmp_path, "alice", "bob", "carol") as (alice, bob, carol):
        data = noise(20 * MIB)
        ref = await put(alice, data)
        await put(carol, data)
        async with (
            linked(bob, carol, rate=4 * MIB),
            linked(bob, alice, rate=4 * MIB) as alices,
            trio.open_nursery() as n,
        ):
            n.start_soon(bob.fetching.fetch, ref.digest)
            await trio.sleep(1)
            alices.cancel()
        assert await bob.store.holds(ref.digest)
        assert alice.sent + carol.sent < 20 * MIB + 9 * MIB


async def test_after_a_kill_little_moves_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What a killed receiver leaves is a file without a word about what is in it."""
    size = 100 * MIB
    async with machines(tmp_path, "alice", "bob") as (alice, bob):
        ref = await put(alice, noise(size))
        async with linked(bob, alice, rate=20 * MIB):
            with trio.move_on_after(2.5):
                await bob.fetching.fetch(ref.digest)
        half = alice.sent
        assert 40 * MIB < half < 60 * MIB
        async with machines(tmp_path, "bob") as (again,):
            async with linked(again, alice):
                await again.fetching.fetch(ref.digest)
            assert await again.store.holds(ref.digest)
        assert alice.sent - size <= 16 * MIB


async def test_a_partial_is_offered_to_nobody(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with machines(tmp_path, "alice", "bob", "carol") as (alice, bob, carol):
        ref = await put(alice, noise(20 * MIB))
        async with linked(bob, alice, rate=4 * MIB), linked(carol, bob):
            with trio.move_on_after(3):
                await bob.fetching.fetch(ref.digest)
            with pytest.raises(NobodyFoundError):
                await carol.fetching.fetch(ref.digest, patience=2)
        assert bob.sent < 1000


async def test_holders_that_go_give_the_slot_back(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Blobs whose holders are gone must not keep others from moving."""
    async with machines(tmp_path, "alice", "bob", "carol") as (alice, bob, carol), trio.open_nursery() as nursery:
        refs = [await put(alice, noise(20 * MIB, seed)) for seed in range(3)]
        other = await put(carol, noise(2 * MIB, 9))
        async with linked(bob, alice, rate=2 * MIB):
            for ref in refs:
                nursery.start_soon(bob.fetching.fetch, ref.digest)
            await trio.sleep(3)
        async with linked(bob, carol):
            await bob.fetching.fetch(other.digest, patience=20)
        nursery.cancel_scope.cancel()


async def test_progress_is_told(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with machines(tmp_path, "alice", "bob") as (alice, bob):
        ref = await put(alice, noise(20 * MIB))
        seen: list[BlobProgress] = []
        async with linked(bob, alice, rate=5 * MIB):
            await bob.fetching.fetch(ref.digest, observer=seen.append)
        assert 5 < len(seen) < 15
        assert seen[-1].done == seen[-1].size == 20 * MIB
        assert [one.done for one in seen] == sorted(one.done for one in seen)


async def test_too_large_is_refused_before_it_moves(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with machines(tmp_path, "alice", "bob") as (alice, bob):
        ref = await put(alice, noise(3 * MIB))
        async with linked(bob, alice):
            with pytest.raises(RefusedError, match="allowed"):
                await bob.fetching.fetch(ref.digest, limit=2 * MIB)
        assert alice.sent < 1000


async def test_no_space_is_an_answer(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with machines(tmp_path, "alice", "bob") as (alice, bob):
        ref = await put(alice, noise(3 * MIB))
        bob.store.disk.floor = 1 << 60
        async with linked(bob, alice):
            with pytest.raises(RefusedError, match="no space"):
                await bob.fetching.fetch(ref.digest)
        assert alice.sent < 1000


async def test_ten_thousand_small_blobs_are_few_round_trips(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with machines(tmp_path, "alice", "bob") as (alice, bob):
        data = [noise(1000, seed) for seed in range(3000)]
        refs = [await put(alice, one) for one in data]
        asked = 0
        answer = alice.serving._answer

        async def count(request: object) -> list[bytes]:
            nonlocal asked
            asked += 1
            return await answer(request)

        alice.serving._answer = count
        async with linked(bob, alice):
            assert await bob.fetching.fetch_small([(ref.digest, ref.size) for ref in refs]) == []
        assert asked < 20
        assert await bob.store.missing([ref.digest for ref in refs]) == []
