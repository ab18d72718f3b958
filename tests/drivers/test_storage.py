"""The way to the database: shared commits, cancellation that leaves no doubt, readers, closing."""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from meshd.drivers.storage import TOGETHER_LIMIT, WAITING_LIMIT, Storage, open_storage
from meshd.drivers.threads import in_thread, inline
from meshd.errors import StoreError
from meshd.store.database import Database
from tests.store.kit import Author, value

T = TypeVar("T")


def put(name: str) -> Callable[[Database], str]:
    def job(database: Database) -> str:
        database.meta.set(name, b"here")
        return name

    return job


def fail(database: Database) -> None:
    database.meta.set("failed", b"")
    raise KeyError("on purpose")


async def names(storage: Storage) -> list[str]:
    return list(await storage.read(lambda database: database.meta.starting("")))


class Gate:
    """Work on the disk that waits at a gate while it is shut, and is counted."""

    def __init__(self) -> None:
        self.passes = 0
        self.waiting = trio.Event()
        self.opened = trio.Event()
        self.opened.set()

    def shut(self) -> None:
        self.waiting, self.opened = trio.Event(), trio.Event()

    async def __call__(self, work: Callable[[], T], *, abandon: bool = False) -> T:
        self.waiting.set()
        await self.opened.wait()
        self.passes += 1
        return work()


async def test_a_write_is_there_when_it_returns(tmp_path: Path) -> None:
    async with open_storage(tmp_path / "mesh.db", offload=in_thread) as storage:
        assert await storage.write(put("a")) == "a"
        assert await names(storage) == ["a"]
    async with open_storage(tmp_path / "mesh.db") as storage:
        assert await names(storage) == ["a"]


async def test_an_error_belongs_to_who_asked(tmp_path: Path) -> None:
    async with open_storage(tmp_path / "mesh.db", offload=inline) as storage:
        with pytest.raises(KeyError, match="on purpose"):
            await storage.write(fail)
        await storage.write(put("a"))
        with pytest.raises(KeyError):
            await storage.read(lambda database: {}["nothing"])
        assert await names(storage) == ["a"]


async def test_what_comes_together_shares_commits_in_order(tmp_path: Path) -> None:
    gate = Gate()
    order: list[int] = []
    async with open_storage(tmp_path / "mesh.db", offload=gate) as storage:
        gate.shut()
        passes = gate.passes
        async with trio.open_nursery() as nursery:
            nursery.start_soon(storage.write, put("first"))
            await gate.waiting.wait()
            for number in range(TOGETHER_LIMIT + 1):
                nursery.start_soon(storage.write, lambda _, number=number: order.append(number))
                await trio.testing.wait_all_tasks_blocked()
            gate.opened.set()
        assert gate.passes - passes == 3, "the first, those who waited for it, and one beyond the limit"
    assert order == list(range(TOGETHER_LIMIT + 1))


async def test_one_failure_in_a_shared_commit_is_one(tmp_path: Path) -> None:
    gate = Gate()
    raised: list[Exception] = []

    async def failing(storage: Storage) -> None:
        with pytest.raises(KeyError) as caught:
            await storage.write(fail)
        raised.append(caught.value)

    async with open_storage(tmp_path / "mesh.db", offload=gate) as storage:
        gate.shut()
        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(storage.write, put(name))
                nursery.start_soon(failing, storage)
            await trio.testing.wait_all_tasks_blocked()
            gate.opened.set()
        assert len(raised) == 3
        assert await names(storage) == ["a", "b", "c"]


async def test_a_failed_commit_fails_all_with_an_error_of_their_own(tmp_path: Path) -> None:
    gate = Gate()
    errors: list[StoreError] = []

    async def writing(storage: Storage, job: Callable[[Database], object]) -> None:
        with pytest.raises(StoreError) as caught:
            await storage.write(job)
        errors.append(caught.value)

    def fill(database: Database) -> None:
        database.meta.set("big", bytes(1_000_000))

    async with open_storage(tmp_path / "mesh.db", offload=gate) as storage:
        await storage.write(lambda database: database._connection.pragma("max_page_count", 200))
        gate.shut()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(storage.write, put("first"))
            await gate.waiting.wait()
            for job in (put("a"), fill, put("b")):
                nursery.start_soon(writing, storage, job)
            await trio.testing.wait_all_tasks_blocked()
            gate.opened.set()
        assert len({id(error) for error in errors}) == 3
        assert all("No space" in error.what for error in errors)
        await storage.write(put("later"))
        assert await names(storage) == ["first", "later"]


async def test_cancelled_while_it_waits_means_not_written(tmp_path: Path) -> None:
    gate = Gate()
    async with open_storage(tmp_path / "mesh.db", offload=gate) as storage:
        gate.shut()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(storage.write, put("first"))
            await gate.waiting.wait()
            with trio.CancelScope() as scope:
                scope.cancel()
                await storage.write(put("second"))
            assert scope.cancelled_caught
            gate.opened.set()
        await storage.write(put("third"))
        assert await names(storage) == ["first", "third"]


@pytest.mark.parametrize("leading", [True, False])
async def test_cancelled_once_begun_is_carried_to_its_end(tmp_path: Path, leading: bool) -> None:
    """Both for who carries the commit and for who waits for another to: the caller learns that it happened."""
    gate = Gate()
    scope = trio.CancelScope()
    results: list[str] = []

    async def cancelled(storage: Storage) -> None:
        with scope:
            results.append(await storage.write(put("mine")))
            await trio.sleep_forever()

    async with open_storage(tmp_path / "mesh.db", offload=gate) as storage:
        gate.shut()
        async with trio.open_nursery() as nursery:
            if not leading:
                nursery.start_soon(storage.write, put("before"))
                await gate.waiting.wait()
                nursery.start_soon(storage.write, put("leads"))
                await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(cancelled, storage)
            await trio.testing.wait_all_tasks_blocked()
            if not leading:
                first, gate.waiting = gate.opened, trio.Event()
                gate.opened = trio.Event()
                first.set()
                await gate.waiting.wait()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            gate.opened.set()
        assert scope.cancelled_caught
        assert results == ["mine"]
        assert "mine" in await names(storage)


async def test_closing_lets_those_who_wait_finish_and_refuses_the_rest(tmp_path: Path) -> None:
    gate = Gate()
    async with trio.open_nursery() as nursery:
        async with open_storage(tmp_path / "mesh.db", offload=gate) as storage:
            gate.shut()
            for name in "abc":
                nursery.start_soon(storage.write, put(name))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(_open_later, gate)
        with pytest.raises(StoreError, match="ending"):
            await storage.write(put("late"))
        with pytest.raises(StoreError, match="ending"):
            await storage.read(lambda database: database.meta.get("a"))
    async with open_storage(tmp_path / "mesh.db") as storage:
        assert await names(storage) == ["a", "b", "c"]


async def _open_later(gate: Gate) -> None:
    await trio.testing.wait_all_tasks_blocked()
    gate.opened.set()


async def test_ten_thousand_at_once_are_all_kept(tmp_path: Path) -> None:
    """More than may wait: the others wait to be let in, nothing is lost, and flushes are few."""
    count = 10_000
    assert count > 5 * WAITING_LIMIT
    gate = Gate()
    async with open_storage(tmp_path / "mesh.db", offload=gate) as storage:
        passes = gate.passes
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(storage.write, put(f"{number}"))
        assert gate.passes - passes < count / 20
        assert set(await names(storage)) == {f"{number}" for number in range(count)}


async def test_a_copy_is_one_state(tmp_path: Path) -> None:
    author = Author()
    async with open_storage(tmp_path / "mesh.db") as storage:
        record = author.say(value(1))
        await storage.write(lambda database: database.records.insert(record, age_ms=0, now_ms=0))
        await storage.copy_to(tmp_path / "copy.db")
        await storage.write(put("later"))
        with pytest.raises(StoreError, match="File exists"):
            await storage.copy_to(tmp_path / "copy.db")
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    with Database(tmp_path / "copy.db") as copy:
        assert copy.records.heads() == author.heads
        assert copy.meta.starting("") == {}


async def test_a_body_that_raises_is_raised_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        async with open_storage(tmp_path / "mesh.db", offload=inline):
            raise KeyError
