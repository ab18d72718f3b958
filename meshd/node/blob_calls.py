"""What may be asked about files and directories: the part of the context that puts them in, gets them out and keeps them."""

import mimetypes
import time
from functools import partial
from pathlib import Path
from typing import Final, Literal

import trio

from meshd.drivers.blob_export import export_blob, export_directory
from meshd.drivers.blob_tree import add_directory, read_manifest
from meshd.errors import RefusedError, UsageError
from meshd.model import clock
from meshd.model.announcement import Blob, BlobRef, Child
from meshd.model.entry import check_admitted
from meshd.model.handle import BLOB, TREE, Handle
from meshd.model.identity import NodeId
from meshd.model.manifest import CONTENT_TYPE
from meshd.model.text import harmless
from meshd.node import content, questions
from meshd.node.calls import Calls
from meshd.node.handle_calls import TREE_NODES, check_tags
from meshd.node.mesh import Mesh
from meshd.notices import BlobProgress
from meshd.store.views import Found
from meshd.tools.context import Collected, CollectedBlob, Got, Metadata, Pinned, Put, TellProgress

ANY_TYPE: Final = "application/octet-stream"
LISTED: Final = 1000
"""Collected blobs that an answer names."""


class BlobCalls(Calls):
    """Blobs and directories."""

    async def put(
        self,
        *,
        mesh: str | None,
        path: str,
        name: str | None,
        content_type: str | None,
        machines: tuple[str, ...],
        tags: tuple[str, ...],
        ttl: int,
        wait: float,
    ) -> Put:
        chosen = self.mesh(mesh)
        check_tags(tags)
        addressees = self._addressees(chosen, machines)
        source = Path(path)
        offload = self.node.machine.offload
        if is_directory := await offload(source.is_dir):
            added = await add_directory(chosen.blobs, source, offload=offload)
            ref, total, kind = added.ref, added.total, CONTENT_TYPE
            files = await self._files_in(chosen, ref.digest)
        else:
            ref = await chosen.blobs.add_file(source)
            total, files = ref.size, 1
            kind = content_type or mimetypes.guess_type(name or source.name)[0] or ANY_TYPE
        if kind == CONTENT_TYPE and not is_directory:
            raise UsageError(f"{CONTENT_TYPE} is the type of directories.", "Give the file another --content-type.")
        shown = harmless(source.name if name is None else name)[:255]
        found = Found(BLOB, ref.digest)
        now = chosen.journal.now_ms()
        known = await chosen.storage.read(lambda database: database.handles.metadata(*_pair(found), now_ms=now))
        body = Blob(ref=ref, content_type=kind, name=shown, total=total, tags=tags, addressees=addressees)
        says_more = known is None or known.blob is None or not set(tags) <= set(known.tags)
        if says_more or ttl or addressees or (known is not None and known.ttl_left is not None):
            await chosen.journal.append(body, ttl=ttl)
        held_by = await self._wait_for_holders(chosen, ref.digest, addressees, wait)
        handle, full = await self.told(chosen, found)
        return Put(
            handle=handle,
            full=full,
            size=ref.size,
            total=total,
            files=files,
            content_type=kind,
            new=known is None,
            held_by=tuple(self.machine(chosen, node) for node in held_by),
        )

    async def get(
        self,
        *,
        mesh: str | None,
        handle: str,
        out: str,
        overwrite: bool,
        accept: tuple[str, ...],
        wait: float,
        tell: TellProgress,
    ) -> Got:
        chosen = self.mesh(mesh)
        admitted = check_admitted(accept)
        began = time.monotonic()
        found = await content.locate(chosen, handle, wait)
        if found.table != BLOB:
            raise UsageError(f"{handle} is no blob.", f"See it with tether resolve {Handle.parse(handle).typed}.")
        moved: dict[str, int] = {}

        def note(progress: BlobProgress) -> None:
            moved[progress.handle] = progress.moved
            tell(progress)

        ref, is_directory = await content.bring_all(chosen, found, wait=wait, observer=note)
        target, offload = Path(out), self.node.machine.offload
        files = 1
        if is_directory:
            report = await export_directory(
                chosen.blobs, ref.digest, target, overwrite=overwrite, admitted=admitted, offload=offload
            )
            files = await self._files_in(chosen, ref.digest)
            if report.refused:
                first = report.refused[0]
                raise RefusedError(
                    f"{len(report.refused)} of its entries were not written, first {'/'.join(first.path)!r:.200}: "
                    f"{first.reason}. The other {report.entries} are there."
                )
        else:
            await export_blob(chosen.blobs, ref.digest, target, overwrite=overwrite, offload=offload)
        return Got(
            *self.named(found),
            path=out,
            size=ref.size,
            files=files,
            directory=is_directory,
            moved=sum(moved.values()),
            seconds=time.monotonic() - began,
        )

    async def metadata(self, *, mesh: str | None, handle: str) -> Metadata:
        chosen = self.mesh(mesh)
        found = await content.locate(chosen, handle, content.LINK_WAIT)
        now = chosen.journal.now_ms()
        known = await chosen.storage.read(lambda database: database.handles.metadata(*_pair(found), now_ms=now))
        if known is None:
            raise RefusedError(f"{handle} was announced under this short name, and is no more.")
        blob = known.blob
        children: tuple[Child, ...] = ()
        if found.table == TREE:
            children = await chosen.storage.read(partial(questions.children, found.digest))
        value = None
        if found.table not in (BLOB, TREE):
            value = await chosen.storage.read(lambda database: database.handles.value(*_pair(found)))
        is_blob = blob is not None or isinstance(value, BlobRef)
        here = await chosen.blobs.holds(found.digest) if is_blob else True
        me = self.node.machine.keys.identity.node
        holders = dict.fromkeys((*((me,) if here else ()), *known.holders)) if is_blob else {}
        kind: Literal["value", "blob", "directory", "tree"]
        if found.table == TREE:
            kind = "tree"
        elif blob is None:
            kind = "value"
        else:
            kind = "directory" if blob.content_type == CONTENT_TYPE else "blob"
        return Metadata(
            *self.named(found),
            kind=kind,
            table=found.table,
            size=known.size,
            total=known.size if blob is None else blob.total,
            name="" if blob is None else blob.name,
            content_type="" if blob is None else blob.content_type,
            tags=known.tags,
            origin=self.machine(chosen, known.origin),
            announced_by=tuple(self.machine(chosen, node) for node in known.announcers),
            age=max(0.0, (self.node.machine.clocks.wall_ms() - clock.milliseconds(known.clock)) / 1000),
            ttl_left=None if known.ttl_left is None else float(known.ttl_left),
            here=here,
            pinned=await chosen.blobs.is_pinned(found.digest),
            held_by=tuple(self.machine(chosen, node) for node in holders),
            children=tuple(str(Handle.of(each.table, each.digest)) for each in children),
        )

    async def pin(self, *, mesh: str | None, handle: str, wait: float, tell: TellProgress) -> Pinned:
        chosen = self.mesh(mesh)
        found = await content.locate(chosen, handle, wait)
        for each in await self._contents(chosen, found):
            await content.bring_all(chosen, each, wait=wait, observer=tell)
            await chosen.blobs.pin(each.digest)
        return Pinned(*self.named(found), True)

    async def unpin(self, *, mesh: str | None, handle: str) -> Pinned:
        chosen = self.mesh(mesh)
        found = await content.locate(chosen, handle)
        for each in await self._contents(chosen, found):
            await chosen.blobs.unpin(each.digest)
        return Pinned(*self.named(found), False)

    async def gc(self, *, mesh: str | None, dry_run: bool) -> Collected:
        chosen = self.mesh(mesh)
        collected = await chosen.keeping.collect(dry_run)
        usage = (await chosen.blobs.usage()).usage
        listed = [
            CollectedBlob(*self.named(Found(BLOB, each.digest)), each.size, "nobody pinned or needs it here")
            for each in collected.blobs[:LISTED]
        ]
        left = usage.size - (sum(each.size for each in collected.blobs) if dry_run else 0)
        return Collected(dry_run, tuple(listed), len(collected.blobs), collected.size, left)

    async def _files_in(self, mesh: Mesh, digest: bytes) -> int:
        """How many files, directories not counted, a directory has."""
        manifest = await read_manifest(mesh.blobs, digest, offload=self.node.machine.offload)
        return sum(item.digest is not None for item in manifest.items)

    async def _contents(self, mesh: Mesh, found: Found) -> list[Found]:
        """The blobs that some content stands for: itself, or what is below a tree."""
        waiting, blobs = [found], dict[Found, None]()
        seen: set[Found] = set()
        while waiting:
            each = waiting.pop()
            if each in seen:
                continue
            seen.add(each)
            if len(seen) > TREE_NODES:
                raise RefusedError(
                    f"This tree has more than {TREE_NODES:,} handles.", "Name the parts of it by themselves."
                )
            if each.table == TREE:
                children = await mesh.storage.read(partial(questions.children, each.digest))
                waiting += [Found(child.table, child.digest) for child in children]
            elif each.table == BLOB or isinstance(await mesh.storage.read(partial(questions.value, each)), BlobRef):
                blobs[each] = None
        if not blobs:
            raise UsageError(
                "Values are on every machine anyhow.", "Pinning is for blobs, directories and trees of them."
            )
        return list(blobs)

    def _addressees(self, mesh: Mesh, machines: tuple[str, ...]) -> tuple[NodeId, ...]:
        found = [self.member(mesh, each) for each in machines]
        for member in found:
            if not member.is_active:
                raise UsageError(f"{member.name} is no active member.", "See: tether members.")
        return tuple(dict.fromkeys(member.node for member in found))

    async def _wait_for_holders(
        self, mesh: Mesh, digest: bytes, addressees: tuple[NodeId, ...], wait: float
    ) -> list[NodeId]:
        """Those of the addressees that say they hold a blob, once all do or the time is over."""
        end = trio.current_time() + wait
        me = self.node.machine.keys.identity.node
        while True:
            news = mesh.keeping.next_news
            holders = set(await mesh.storage.read(lambda database: database.handles.holders(digest)))
            holding = [node for node in addressees if node in holders or node == me]
            if len(holding) == len(addressees) or trio.current_time() >= end:
                return holding
            with trio.move_on_at(end):
                await news.wait()


def _pair(found: Found) -> tuple[str, bytes]:
    return found.table, found.digest
