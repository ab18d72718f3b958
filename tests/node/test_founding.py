"""A mesh comes to be as a whole, or not at all, wherever it is cut off; and one that cannot be read stops no daemon."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from meshd.drivers.clocks import Clocks
from meshd.drivers.state import StateDirectory
from meshd.drivers.storage import open_storage
from meshd.drivers.threads import inline
from meshd.errors import RefusedError, StoreError
from meshd.model.facts import countersign
from meshd.model.identity import Identity
from meshd.model.record import Record
from meshd.node import secrets
from meshd.node.founding import MESHES_LIMIT, mesh_of, place, was_here
from meshd.node.machine import Machine
from meshd.notices import Trouble
from meshd.store.database import Database
from tests.drivers.journal_kit import Pen
from tests.model.mesh_kit import Mesh
from tests.sim.nodes import lab

T = TypeVar("T")

FIRST = secrets.first_secret(b"1" * 32)


class CutOffError(Exception):
    """The machine lost its power."""


class Cutting:
    """Blocking work, that ends for good after so many calls."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    async def __call__(self, work: Callable[[], T], *, abandon: bool = False) -> T:
        await trio.lowlevel.checkpoint()
        self.left -= 1
        if self.left < 0:
            raise CutOffError
        return work()


def records_of(mesh: Mesh) -> list[Record]:
    return [record for each in mesh.machines.values() for record, _ in each.written]


def machine(state: StateDirectory, mesh: Mesh, name: str = "f", offload: Any = inline) -> Machine:
    fields: dict[str, Any] = {
        "state": state,
        "author": Pen(mesh[name].keys),
        "endpoint": None,
        "settings": None,
        "notify": lambda notice: None,
        "entropy": bytes,
        "clocks": Clocks.of_system(),
        "offload": offload,
    }
    return Machine(**fields)


@pytest.fixture
def mesh() -> Mesh:
    made = Mesh()
    made.admit("f", "a")
    return made


async def test_a_founded_mesh_is_there_with_its_secret(mesh: Mesh, tmp_path: Path) -> None:
    with StateDirectory.open(tmp_path / "state") as state:
        directory = await place(machine(state, mesh), mesh.id, records_of(mesh), [FIRST])
        assert state.mesh_directories() == [directory]
        assert not list(state.incoming.iterdir())
        async with open_storage(directory.database, offload=inline) as storage:
            assert await storage.read(mesh_of) == mesh.id
            assert await storage.read(secrets.held) == [FIRST]
            assert len(await storage.read(lambda database: database.records.roster())) == 2
        for made in (directory.path, directory.blobs, directory.partial):
            assert made.stat().st_mode & 0o777 == 0o700


async def test_power_lost_at_any_moment_leaves_a_whole_mesh_or_none(mesh: Mesh, tmp_path: Path) -> None:
    whole = 0
    for calls in range(100):
        path = tmp_path / str(calls)
        with StateDirectory.open(path) as state:
            cutting = Cutting(calls)
            with contextlib.suppress(CutOffError, StoreError):
                await place(machine(state, mesh, offload=cutting), mesh.id, records_of(mesh), [FIRST])
            whole += cutting.left >= 0
        with StateDirectory.open(path) as state:
            assert not list(state.incoming.iterdir()), "what never came to be is gone at the next start"
            for directory in state.mesh_directories():
                with Database(directory.database) as database:
                    assert database.look(mesh_of) == mesh.id
                    assert database.look(secrets.held) == [FIRST]
            if not state.mesh_directories():
                await place(machine(state, mesh), mesh.id, records_of(mesh), [FIRST])
            assert len(state.mesh_directories()) == 1
        if whole:
            assert calls > 5, "it was cut off at several places"
            return
    raise AssertionError("it never came to its end")


async def test_what_cannot_found_a_mesh_leaves_nothing(mesh: Mesh, tmp_path: Path) -> None:
    with StateDirectory.open(tmp_path / "state") as state:
        with pytest.raises(RefusedError):
            await place(machine(state, mesh), mesh.id, records_of(mesh)[1:], [FIRST])
        assert not state.mesh_directories() and not list(state.incoming.iterdir())


async def test_a_mesh_that_is_there_is_not_written_over(mesh: Mesh, tmp_path: Path) -> None:
    with StateDirectory.open(tmp_path / "state") as state:
        directory = await place(machine(state, mesh), mesh.id, records_of(mesh), [FIRST])
        before = directory.database.read_bytes()
        with pytest.raises(StoreError):
            await place(machine(state, mesh), mesh.id, records_of(mesh), [])
        assert directory.database.read_bytes() == before
        assert not list(state.incoming.iterdir())


async def test_there_are_only_so_many(mesh: Mesh, tmp_path: Path) -> None:
    with StateDirectory.open(tmp_path / "state") as state:
        for number in range(MESHES_LIMIT):
            state.mesh(bytes([number]) * 32).database.touch()
        with pytest.raises(RefusedError, match="16 meshes"):
            await place(machine(state, mesh), mesh.id, records_of(mesh), [FIRST])


async def test_who_comes_back_goes_on_under_another_generation(mesh: Mesh, tmp_path: Path) -> None:
    """It has lost what it wrote, others have not: the same numbers once more would be a fork."""
    with StateDirectory.open(tmp_path / "state") as state:
        entered = machine(state, mesh, "a")
        await place(entered, mesh.id, records_of(mesh), [FIRST])
        assert entered.author.generation == 1, "who comes for the first time has nothing to lose"
        state.drop_mesh(state.mesh_directories()[0])
        mesh.rename("a", "other")
        await place(entered, mesh.id, records_of(mesh), [FIRST])
        assert entered.author.generation > 1


def test_being_admitted_twice_tells_of_an_earlier_time(mesh: Mesh) -> None:
    def here(identity: Identity) -> bool:
        return was_here(identity, mesh.id, records_of(mesh))

    assert here(mesh["f"].keys.identity), "it admitted somebody"
    assert not here(mesh["a"].keys.identity)
    mesh.admit("f", "b")
    mesh.write("b", countersign(mesh["a"].keys, mesh.id, mesh["b"].key, "a"))
    assert here(mesh["a"].keys.identity)
    founder = Mesh()
    assert not was_here(founder["f"].keys.identity, founder.id, records_of(founder)), "founding is no return"


async def test_a_mesh_that_cannot_be_opened_stops_neither_the_daemon_nor_the_others(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with lab(tmp_path) as here:
        ann = await here.machine("ann")
        for name in ("one", "two", "three"):
            await ann.call("init", mesh=name, name="ann", recovery=False)
        meshes = {mesh.name: mesh.directory for mesh in ann.node.meshes.values()}
        await ann.stop()
        shutil.rmtree(meshes["one"].path)
        meshes["one"].path.mkdir()
        meshes["one"].database.touch()  # nothing is in it
        meshes["two"].database.write_bytes(b"this is no database" * 100)
        ann.notices.clear()
        await ann.start()
        assert [mesh.name for mesh in ann.node.meshes.values()] == ["three"]
        told = ann.saw(Trouble)
        assert len(told) == 2 and all(str(meshes["one"].path.parent) in each.what for each in told)
        status = await ann.call("status", mesh=None)
        assert [mesh.name for mesh in status.meshes] == ["three"]
        assert {each.what for each in told} <= {each.what for each in status.problems}
