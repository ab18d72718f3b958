"""Content in whole nodes: what is kept and fetched by itself, what goes, and what a member may lie about."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from meshd.drivers.blob_tree import add_directory
from meshd.drivers.threads import inline
from meshd.errors import NobodyFoundError, RefusedError, UsageError
from meshd.model.announcement import INLINE_LIMIT, Blob, BlobRef, Child, Held, Tree, Value
from meshd.model.chunks import reference
from meshd.model.handle import Handle, digest_of
from meshd.model.manifest import CONTENT_TYPE
from meshd.node import content, handle_calls, keeping
from meshd.notices import Trouble
from meshd.wire.sync import Arrived
from tests.sim.nodes import Lab, Machine, lab, until, until_async

Told = list[Any]


async def put(machine: Machine, path: Path, *addressees: str, wait: float = 0.0, **more: Any) -> Any:
    options = {"name": None, "content_type": None, "tags": (), "ttl": 0, **more}
    return await machine.call("put", mesh=None, path=str(path), machines=addressees, wait=wait, **options)


async def get(machine: Machine, handle: str, out: Path, wait: float = 10.0) -> Any:
    told: Told = []
    return await machine.call(
        "get", mesh=None, handle=handle, out=str(out), overwrite=True, accept=(), wait=wait, tell=told.append
    )


def blob(data: bytes, kind: str = "text/plain", **more: Any) -> Blob:
    ref, _ = reference(data)
    values = {"content_type": kind, "name": "x", "total": ref.size, "tags": (), "addressees": (), **more}
    return Blob(ref=ref, **values)


async def holds(machine: Machine, data: bytes) -> bool:
    return await machine.mesh.blobs.holds(digest_of(data))


def file(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


class TestKeeping:
    async def test_what_is_addressed_to_a_machine_comes_is_pinned_and_said_to_be_held(
        self, autojump_clock: object, tmp_path: Path
    ) -> None:
        async with lab(tmp_path) as here:
            ann, ben, cleo = await here.founded("ann", "ben", "cleo")
            done = await put(ann, file(tmp_path, "a", b"for ben"), "ben", wait=30.0)
            assert [each.name for each in done.held_by] == ["ben"]
            assert await holds(ben, b"for ben") and not await holds(cleo, b"for ben")
            assert await ben.mesh.blobs.is_pinned(digest_of(b"for ben"))

    async def test_names_of_what_does_not_exist_keep_nothing_else_from_coming(
        self, autojump_clock: object, tmp_path: Path
    ) -> None:
        async with lab(tmp_path) as here:
            ann, ben = await here.founded("ann", "ben")
            lies = [blob(f"lie {number}".encode(), addressees=(ben.id,)) for number in range(100)]
            await ann.mesh.journal.append(*lies)
            await until(lambda: len(ben.mesh.keeping._busy) == keeping.AT_ONCE, "it looks for them")
            done = await put(ann, file(tmp_path, "a", b"real"), "ben", wait=6 * keeping.PATIENCE)
            assert [each.name for each in done.held_by] == ["ben"]
            assert len(ben.mesh.keeping._failed) <= len(lies)
            assert not ben.saw(Trouble), "that nobody has it is nothing to tell"

    async def test_the_policy_all_brings_everything_values_in_blobs_and_directories_too(
        self, autojump_clock: object, tmp_path: Path
    ) -> None:
        async with lab(tmp_path) as here:
            ann, ben = await here.founded("ann", "ben")
            long = json.dumps("x" * INLINE_LIMIT)
            await ann.call("collapse", mesh=None, json=long, path=None, table="notes", tags=(), ttl=0)
            (tmp_path / "tree").mkdir()
            file(tmp_path / "tree", "inside", b"inside")
            await put(ann, tmp_path / "tree")
            await put(ann, file(tmp_path, "a", b"before"))
            await ben.stop()
            ben.settings = ben.settings._replace(blob_policy="all")
            await ben.start()
            for data in (b"before", b"inside", long.encode()):
                await until_async(partial(holds, ben, data), f"ben has {data[:10]!r}")
            await put(ann, file(tmp_path, "b", b"after"))
            await until_async(partial(holds, ben, b"after"), "what comes later too")
            assert not await ben.mesh.blobs.is_pinned(digest_of(b"after"))

    async def test_under_a_cap_nothing_comes_that_would_only_have_to_go(
        self, autojump_clock: object, tmp_path: Path
    ) -> None:
        async with lab(tmp_path) as here:
            ann, _ = await here.founded("ann", "ben")
            ben = await here.machine("cap", blob_policy="all", blob_cap=1000)
            await here.join(ann, ben)
            await put(ann, file(tmp_path, "large", b"l" * 2000))
            await put(ann, file(tmp_path, "small", b"s" * 900))
            await until_async(partial(holds, ben, b"s" * 900), "it has the small one")
            await trio.sleep(5 * keeping.AGAIN)
            assert not await holds(ben, b"l" * 2000)

    async def test_a_look_is_not_made_for_every_record(
        self, autojump_clock: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with lab(tmp_path) as here:
            ann = await here.machine("ann")
            await ann.call("init", mesh="lab", name="ann", recovery=False)
            await trio.sleep(10)
            looks = 0
            wanted = ann.mesh.keeping._wanted

            async def counting() -> dict[bytes, bool]:
                nonlocal looks
                looks += 1
                return await wanted()

            monkeypatch.setattr(ann.mesh.keeping, "_wanted", counting)
            for number in range(50):
                await ann.value(str(number))
            await trio.sleep(10)
            assert 1 <= looks <= 3


class TestCollecting:
    async def collected(self, machine: Machine, **settings: Any) -> set[bytes]:
        """Digests that `gc` would drop of what is old enough."""
        await trio.sleep(1)
        machine.node.machine.settings = machine.settings._replace(**settings)
        return {each.digest for each in (await machine.mesh.keeping.collect(True)).blobs}

    @pytest.fixture
    def no_grace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(keeping, "GRACE", -3600.0)

    async def test_what_nobody_names_goes_and_everything_else_stays(
        self, autojump_clock: object, tmp_path: Path, no_grace: None
    ) -> None:
        async with lab(tmp_path) as here:
            ann, ben = await here.founded("ann", "ben")
            mine = await put(ann, file(tmp_path, "mine", b"mine"))
            theirs = await put(ben, file(tmp_path, "theirs", b"theirs"))
            kept = await put(ben, file(tmp_path, "kept", b"kept"))
            for each in (theirs, kept):
                await get(ann, each.full, tmp_path / "out")
            await ann.call("pin", mesh=None, handle=kept.full, wait=1.0, tell=lambda progress: None)
            (tmp_path / "tree").mkdir()
            file(tmp_path / "tree", "inside", b"inside")
            await put(ann, tmp_path / "tree")
            stray = await ann.mesh.blobs.add_bytes(b"stray")
            assert await self.collected(ann) == {stray.digest}
            names = {digest_of(b"theirs"), stray.digest}
            assert await self.collected(ann, blob_policy="pinned") == names, "what others announced goes as well"
            assert await self.collected(ann, blob_cap=1 << 20) == {stray.digest}, "the cap is not reached"
            assert await self.collected(ann, blob_cap=1) == names
            assert mine.full and await holds(ann, b"theirs"), "it was asked, and not done"

    async def test_new_blobs_are_spared(self, autojump_clock: object, tmp_path: Path) -> None:
        async with lab(tmp_path) as here:
            ann = await here.machine("ann")
            await ann.call("init", mesh="lab", name="ann", recovery=False)
            await ann.mesh.blobs.add_bytes(b"its record is on the way")
            assert await self.collected(ann, blob_policy="pinned", blob_cap=0) == set()

    async def test_who_is_suspended_drops_nothing_that_counts_again_when_it_is_back(
        self, autojump_clock: object, tmp_path: Path, no_grace: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(keeping, "TEND_EVERY", 60.0)
        async with lab(tmp_path) as here:
            ann, ben = await here.founded("ann", "ben")
            cleo = await here.machine("cleo")
            await here.join(ben, cleo)
            await here.all_linked(ann, ben, cleo)
            await put(cleo, file(tmp_path, "mine", b"mine"))
            await ann.call("revoke", mesh=None, machine="ben", keep=(), reason="", dry_run=False)
            # Nobody talks with it any more; somehow it hears why.
            roster = await ann.mesh.storage.read(lambda database: database.records.roster())
            await cleo.mesh.journal.accept([Arrived(record, 0) for record in roster])
            assert not cleo.mesh.is_in
            with pytest.raises(RefusedError, match="cannot be told"):
                await cleo.mesh.keeping.collect(False)
            await trio.sleep(2 * keeping.TEND_EVERY)
            assert await holds(cleo, b"mine")


class TestLies:
    async def test_a_file_that_somebody_calls_a_directory_is_still_a_file(
        self, autojump_clock: object, tmp_path: Path
    ) -> None:
        async with lab(tmp_path) as here:
            ann, ben = await here.founded("ann", "ben")
            await ben.mesh.journal.append(blob(b"a file", CONTENT_TYPE))  # the earliest word is its own
            done = await put(ann, file(tmp_path, "a", b"a file"))
            await here.agree(ann, ben)
            for machine in (ann, ben):
                got = await get(machine, done.full, tmp_path / "out")
                assert not got.directory and (tmp_path / "out").read_bytes() == b"a file"

    async def test_a_directory_that_somebody_calls_a_file_is_still_one(
        self, autojump_clock: object, tmp_path: Path
    ) -> None:
        async with lab(tmp_path) as here:
            ann, ben = await here.founded("ann", "ben")
            (tmp_path / "tree").mkdir()
            file(tmp_path / "tree", "inside", b"inside")
            added = await add_directory(ben.mesh.blobs, tmp_path / "tree", offload=inline)
            data = await ben.mesh.blobs.read(added.ref.digest, 1 << 20)
            await ben.mesh.journal.append(blob(data, "text/plain"))
            done = await put(ann, tmp_path / "tree")
            await here.agree(ann, ben)
            got = await get(ben, done.full, tmp_path / "out")
            assert got.directory and (tmp_path / "out" / "inside").read_bytes() == b"inside"

    async def test_lies_about_size_and_chunks_do_not_keep_a_blob_away(
        self, autojump_clock: object, tmp_path: Path
    ) -> None:
        async with lab(tmp_path) as here:
            ann, ben, cleo = await here.founded("ann", "ben", "cleo")
            data = b"t" * 3_000_000
            digest = digest_of(data)
            for size in (1, 1 << 38, len(data)):
                ref = BlobRef(digest=digest, size=size, list_digest=bytes(32))
                lie = Blob(ref=ref, content_type="", name="", total=size, tags=(), addressees=())
                await cleo.mesh.journal.append(lie)
            await cleo.mesh.journal.append(Held(digest=digest, size=1))
            done = await put(ann, file(tmp_path, "a", data))
            await here.agree(ann, ben, cleo)
            got = await get(ben, done.full, tmp_path / "out", wait=30.0)
            assert got.size == len(data) and (tmp_path / "out").read_bytes() == data

    async def test_bytes_that_are_announced_as_json_and_are_not_are_refused(
        self, autojump_clock: object, tmp_path: Path
    ) -> None:
        async with lab(tmp_path) as here:
            ann, ben = await here.founded("ann", "ben")
            for data in (b"\xff\xfe", b"{", b'{"b":1, "a":2}', b"[" * 200):
                ref = await ben.mesh.blobs.add_bytes(data)
                await ben.mesh.journal.append(Value(table="notes", json=None, blob=ref, tags=()))
                handle = str(Handle.of("notes", ref.digest))
                await until_async(partial(ann.has, handle), "it is announced")
                with pytest.raises(RefusedError, match="not canonical JSON"):
                    await ann.call("resolve", mesh=None, handle=handle, shallow=False, wait=5.0)
                # In a tree likewise: it is no value that is missing.
                tree = await ann.call("tree", mesh=None, handles=(handle,), tags=(), ttl=0)
                with pytest.raises(RefusedError, match="not canonical JSON"):
                    await ann.call("resolve", mesh=None, handle=tree.full, shallow=False, wait=5.0)

    async def test_a_tree_that_would_burst_is_refused(
        self, autojump_clock: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(handle_calls, "JSON_LIMIT", 100_000)
        async with lab(tmp_path) as here:
            ann = await here.machine("ann")
            await ann.call("init", mesh="lab", name="ann", recovery=False)
            handle = await ann.value("x" * 1000)
            leaf = await ann.call("tree", mesh=None, handles=(handle,) * 50, tags=(), ttl=0)
            assert (await ann.call("resolve", mesh=None, handle=leaf.full, shallow=False, wait=0.0)).json
            whole = await ann.call("tree", mesh=None, handles=(leaf.full,) * 3, tags=(), ttl=0)
            with pytest.raises(RefusedError, match="100,000 bytes"):
                await ann.call("resolve", mesh=None, handle=whole.full, shallow=False, wait=0.0)

    async def test_a_tree_of_what_nobody_has_is_waited_for_once(self, autojump_clock: object, tmp_path: Path) -> None:
        async with lab(tmp_path) as here:
            ann, ben = await here.founded("ann", "ben")
            children = []
            for number in range(20):
                ref, _ = reference(f'"{number}"'.encode())
                await ben.mesh.journal.append(Value(table="notes", json=None, blob=ref, tags=()))
                children.append(Child(table="notes", digest=ref.digest))
            (record,) = await ben.mesh.journal.append(Tree(children=tuple(children), tags=()))
            assert record.header.sequence
            await here.agree(ann, ben)
            (digest,) = await ann.mesh.storage.read(lambda database: database.handles.digests_in("tree", limit=2))
            began = trio.current_time()
            found = await ann.call(
                "resolve", mesh=None, handle=str(Handle.of("tree", digest)), shallow=False, wait=10.0
            )
            assert len(found.missing) == 20
            assert trio.current_time() - began < 20


class TestLocating:
    async def test_a_handle_is_found_short_or_full_and_waited_for_only_with_somebody_to_say_it(
        self, autojump_clock: object, tmp_path: Path
    ) -> None:
        async with lab(tmp_path) as here:
            ann = await here.machine("ann")
            await ann.call("init", mesh="lab", name="ann", recovery=False)
            handle = await ann.value("here")
            found = await content.locate(ann.mesh, handle)
            assert await content.locate(ann.mesh, Handle.parse(handle).short) == found
            began = trio.current_time()
            for wait in (0.0, 5.0):
                with pytest.raises(NobodyFoundError):
                    await content.locate(ann.mesh, "h&l_notes_0123456789ab", wait)
            assert trio.current_time() == began, "nobody is linked"
            with pytest.raises(UsageError):
                await content.locate(ann.mesh, "notes")

    @pytest.mark.parametrize("hops", [1, 2])
    async def test_what_another_machine_has_just_said_is_found(
        self, autojump_clock: object, tmp_path: Path, hops: int
    ) -> None:
        async with lab(tmp_path, delay=0.1 / hops) as here:
            ann, _, cleo = await here.founded("ann", "ben", "cleo")
            if hops == 2:
                here.cut_off(ann, cleo)
                await until(lambda: "ann" not in cleo.linked, "ben is between them")
            handle = await ann.value("just now")
            assert not await cleo.has(handle)
            assert (await content.locate(cleo.mesh, handle, 30.0)).table == "notes"

    async def test_who_has_just_joined_or_started_hears_of_it_as_well(
        self, autojump_clock: object, tmp_path: Path
    ) -> None:
        async with lab(tmp_path, delay=0.02) as here:
            ann, ben = await here.founded("ann", "ben")
            cleo = await here.machine("cleo")
            handle = await ben.value("before")
            await here.join(ann, cleo)
            assert (await content.locate(cleo.mesh, handle, 30.0)).table == "notes"
            await cleo.stop()
            later = await ben.value("while it was away")
            await cleo.start()
            assert not cleo.linked
            assert (await content.locate(cleo.mesh, later, 30.0)).table == "notes"

    async def test_what_nobody_has_said_is_refused_once_all_have_been_heard(
        self, autojump_clock: object, tmp_path: Path
    ) -> None:
        async with lab(tmp_path, delay=0.1) as here:
            ann, ben = await here.founded("ann", "ben")
            unknown = str(Handle.of("notes", digest_of(b'"never"')))
            for longest in (2.0, content.NEWS_WAIT + 0.1):  # at last one that does not answer
                began = trio.current_time()
                with pytest.raises(NobodyFoundError):
                    await content.locate(ann.mesh, unknown, 30.0)
                assert trio.current_time() - began < longest
                here.cut_off(ben)

    async def test_who_should_have_a_blob_is_named_when_nobody_does(
        self, autojump_clock: object, tmp_path: Path
    ) -> None:
        async with lab(tmp_path) as here:
            ann, ben = await here.founded("ann", "ben")
            done = await put(ann, file(tmp_path, "a", b"content"))
            await until_async(partial(ben.has, done.full), "it is announced")
            await ann.stop()
            await until(lambda: not ben.linked, "ann is away")
            with pytest.raises(NobodyFoundError, match=r"Last known to be on ann \(not linked\)"):
                await get(ben, done.full, tmp_path / "out", wait=2.0)


async def founded_alone(here: Lab, name: str) -> Machine:
    made = await here.machine(name)
    await made.call("init", mesh="lab", name=name, recovery=False)
    return made


class TestTables:
    async def test_a_table_goes_out_and_comes_in_again_checked(self, autojump_clock: object, tmp_path: Path) -> None:
        async with lab(tmp_path) as here:
            ann, ben = await founded_alone(here, "ann"), await founded_alone(here, "ben")
            for number in range(5):
                await ann.value(f"ü {number}")
            out = tmp_path / "notes.jsonl"
            done = await ann.call("export_table", mesh=None, table="notes", out=str(out), overwrite=False)
            assert done.handles == 5 and done.size == out.stat().st_size
            lines = out.read_text().splitlines()
            assert [json.loads(line).keys() for line in lines[1:]] == [{"handle": 0, "value": 0, "tags": 0}.keys()] * 5
            lines[2] = lines[2].replace("ü", "o")
            out.write_text("\n".join(lines))
            got = await ben.call("import_table", mesh=None, path=str(out))
            assert (got.handles, got.new, len(got.refused)) == (4, 4, 1)
            assert not list(tmp_path.glob(".*.part"))

    async def test_who_loses_patience_leaves_no_half_export(self, autojump_clock: object, tmp_path: Path) -> None:
        async with lab(tmp_path) as here:
            ann, ben = await here.founded("ann", "ben")
            ref, _ = reference(b'"nobody has it"')
            await ben.mesh.journal.append(Value(table="notes", json=None, blob=ref, tags=()))
            await here.agree(ann, ben)
            with trio.move_on_after(1) as scope:
                await ann.call("export_table", mesh=None, table="notes", out=str(tmp_path / "x"), overwrite=False)
            assert scope.cancelled_caught
            assert not list(tmp_path.glob(".*.part")) and not (tmp_path / "x").exists()
