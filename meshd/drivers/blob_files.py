"""Blobs that one mesh keeps on this machine: put in, looked up, checked at every read, handed out, dropped.

A blob's row is written after its bytes are durable and removed before they are, so that a row never promises what is
not there. docs/protocol/blobs.md, "On disk".
"""

import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

import attrs
import trio
from blake3 import blake3

from meshd.drivers.blob_disk import BlobDisk, NewBlob, PartialBlob, open_regular
from meshd.drivers.threads import Offload, in_thread
from meshd.drivers.tree_sink import FREE_FLOOR
from meshd.errors import NobodyFoundError, RefusedError, UsageError
from meshd.model.announcement import BlobRef
from meshd.model.chunks import CHUNK, ChunkList, reference
from meshd.model.handle import BLOB, Handle
from meshd.store.blobs import SMALL_LIMIT, Blobs, HeldBlob, Usage
from meshd.wire.fetch import Absence

T = TypeVar("T")

LISTS_KEPT: Final = 4
"""Blobs whose chunk lists stay in memory: a list is 32 KiB for each GiB, and 8 MiB for the largest blob."""

PARTIAL_AGE: Final = 7 * 24 * 3600
"""Seconds after which `collect` takes what an unfinished fetch left: a machine that was away for a week is rare."""


class HasBlobs(Protocol):
    """What of a database is needed here."""

    @property
    def blobs(self) -> Blobs: ...


class Rows(Protocol):
    """What of drivers/storage.py is needed here."""

    async def write(self, job: Callable[[HasBlobs], T]) -> T: ...

    async def read(self, job: Callable[[HasBlobs], T]) -> T: ...


class AbsentError(NobodyFoundError):
    """A blob is not here."""

    def __init__(self, digest: bytes) -> None:
        super().__init__(f"{Handle.of(BLOB, digest).short} is not on this machine.")


class DamagedError(RefusedError):
    """The copy here is not the blob any more: its medium, or somebody, changed it."""

    def __init__(self, digest: bytes) -> None:
        super().__init__(
            f"This machine's copy of {Handle.of(BLOB, digest).short} is damaged, and is not used.",
            "Get it again: what is wrong of it is fetched from another machine that has it. Look at the disk.",
        )


@attrs.frozen
class Collected:
    """What `collect` took, or would take: blobs, oldest first, and bytes that abandoned fetches had left."""

    blobs: Sequence[HeldBlob]
    partials: int

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(blob.size for blob in self.blobs) + self.partials


@attrs.frozen
class Room:
    """Blobs and their disk. `free` is -1 where the file system does not count; `partials` are bytes of fetches."""

    usage: Usage
    partials: int
    free: int
    floor: int


class BlobStore:
    """The blobs of one mesh. Made by `BlobStore.open`."""

    def __init__(
        self,
        disk: BlobDisk,
        rows: Rows,
        *,
        on_damaged: Callable[[bytes], None],
        offload: Offload,
        wall: Callable[[], float],
    ) -> None:
        self.disk = disk
        self._rows = rows
        self._on_damaged = on_damaged
        self._offload = offload
        self._wall = wall
        self._known: OrderedDict[bytes, tuple[HeldBlob, ChunkList]] = OrderedDict()
        # Of a file being placed and the same one being collected, one goes first as a whole.
        self._placing = trio.Lock()

    @classmethod
    async def open(
        cls,
        directory: Path,
        rows: Rows,
        *,
        on_damaged: Callable[[bytes], None] = lambda _: None,
        floor: int = FREE_FLOOR,
        offload: Offload = in_thread,
        wall: Callable[[], float] = time.time,
    ) -> "BlobStore":
        """The blobs in a mesh's directory, set right after whatever end the last run had.

        `floor` is bytes of disk that stay free. `on_damaged` hears, once, of each copy here that turns out damaged.
        Raises RefusedError when the directory cannot be used.
        """
        disk = await offload(partial(BlobDisk, directory, floor))
        store = cls(disk, rows, on_damaged=on_damaged, offload=offload, wall=wall)
        await store._set_right()
        return store

    # In.

    async def add_bytes(self, data: bytes) -> BlobRef:
        """Keep some bytes. Durable when it returns. Raises RefusedError (no space)."""
        if len(data) <= SMALL_LIMIT:
            ref, _ = reference(data)
            await self.add_small([(ref, data)])
            return ref
        async with self.new() as new:
            for start in range(0, len(data), CHUNK):
                await self._offload(partial(new.write, data[start : start + CHUNK]))
            return await self.keep(new)

    async def add_file(self, path: Path) -> BlobRef:
        """Keep a copy of a file. Raises UsageError (no file, unreadable, changed meanwhile), RefusedError (no space)."""
        fd = await self._offload(partial(open_regular, path))
        try:
            before = os.fstat(fd)
            async with self.new() as new:
                try:
                    while await self._offload(partial(new.copy, fd)):
                        pass
                    after = os.fstat(fd)
                except OSError as error:
                    raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
                if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                    raise UsageError(f"{path} changed while it was read.", "Store it again when nothing writes to it.")
                return await self.keep(new)
        finally:
            os.close(fd)

    @asynccontextmanager
    async def new(self) -> AsyncIterator[NewBlob]:
        """A blob to be written piece by piece and then given to `keep`; else nothing stays of it."""
        new = await self._offload(self.disk.create)
        try:
            yield new
        finally:
            with trio.CancelScope(shield=True):  # many GiB must not stay behind because somebody lost patience
                await self._offload(new.discard)

    async def keep(self, new: NewBlob) -> BlobRef:
        """Keep what was written. Durable when it returns.

        One that is held already is placed again: that costs a rename, and mends a copy that has gone bad unseen.
        """
        ref, chunks = await self._offload(new.finish)
        if ref.size <= SMALL_LIMIT:
            await self.add_small([(ref, await self._offload(partial(new.content, ref.size)))])
            return ref
        async with self._placing:
            await self._offload(partial(new.place, ref.digest))
            await self._write_row(ref, chunks)
        return ref

    async def add_small(self, blobs: Sequence[tuple[BlobRef, bytes]]) -> None:
        """Keep blobs of SMALL_LIMIT bytes at most, whose references the caller computed or checked, in one commit."""
        now = self._now_ms()
        held = [(HeldBlob(ref.digest, ref.size, ref.list_digest, False, False, now), data) for ref, data in blobs]
        await self._offload(partial(self.disk.require, sum(ref.size for ref, _ in blobs)))

        def job(database: HasBlobs) -> None:
            for blob, data in held:
                database.blobs.add(blob, content=data)

        await self._rows.write(job)

    # Looked up.

    async def find(self, digest: bytes) -> HeldBlob | None:
        """What is known of a blob here, damaged or not."""
        known = self._known.get(digest)
        return known[0] if known else await self._rows.read(lambda database: database.blobs.find(digest))

    async def holds(self, digest: bytes) -> bool:
        """Whether it is here, whole as far as anybody has seen."""
        blob = await self.find(digest)
        return blob is not None and not blob.is_damaged

    async def missing(self, digests: Sequence[bytes]) -> list[bytes]:
        """Those of them that are not here whole."""
        return await self._rows.read(lambda database: database.blobs.missing_of(digests))

    async def usage(self) -> Room:
        """How much there is, and how much may still come."""
        usage = await self._rows.read(lambda database: database.blobs.usage())
        partials = await self._offload(self.disk.partial_size)
        return Room(usage, partials, await self._offload(self.disk.free), self.disk.floor)

    # Out. Every byte is checked against its digest on its way, so that a flipped one is refused, never served.

    async def whole(self, digest: bytes) -> tuple[HeldBlob, ChunkList]:
        """A blob that is here, and its chunk list. Raises AbsentError, DamagedError."""
        known = self._known.get(digest)
        if known is None:
            blob, listed = await self._rows.read(
                lambda database: (database.blobs.find(digest), database.blobs.chunk_list(digest))
            )
            if blob is None:
                raise AbsentError(digest)
            if blob.is_damaged:
                raise DamagedError(digest)
            try:
                chunks = (
                    ChunkList(blob.size, listed or b"") if blob.size > CHUNK else ChunkList.of_one(digest, blob.size)
                )
            except ValueError:
                chunks = None
            if chunks is None or chunks.digest != blob.list_digest:
                raise await self._damaged(digest)
            known = self._known[digest] = (blob, chunks)
            if len(self._known) > LISTS_KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(digest)
        return known

    async def chunk(self, digest: bytes, index: int) -> bytes:
        """The bytes of one chunk of a blob that is here, checked. Raises AbsentError, DamagedError."""
        blob, chunks = await self.whole(digest)
        assert 0 <= index < chunks.count
        if blob.is_file:
            data = await self._offload(partial(self.disk.read_chunk, digest, chunks, index))
        else:
            data = await self._rows.read(lambda database: database.blobs.content(digest))
            data = data if data is not None and chunks.fits(index, data) else None
        if data is None:
            raise await self._not_there(digest)
        return data

    async def small(self, digests: Sequence[bytes], most: int) -> list[bytes | Absence]:
        """Contents of blobs that are rows, checked, or why not; it ends with the one that reaches `most` bytes."""

        def job(database: HasBlobs) -> list[bytes | Absence]:
            found: list[bytes | Absence] = []
            size = 0
            for digest in digests:
                one = _small(database.blobs, digest)
                found.append(one)
                size += len(one) if isinstance(one, bytes) else 0
                if size >= most:
                    break
            return found

        found = await self._rows.read(job)
        for digest, one in zip(digests, found, strict=False):
            if one is Absence.DAMAGED:
                await self._damaged(digest)
        return found

    async def read(self, digest: bytes, limit: int) -> bytes:
        """All of a blob of `limit` bytes at most. Raises AbsentError, DamagedError, RefusedError (longer)."""
        _, chunks = await self.whole(digest)
        if chunks.size > limit:
            raise RefusedError(
                f"{Handle.of(BLOB, digest).short} has {chunks.size:,} bytes; {limit:,} are allowed here."
            )
        return b"".join([await self.chunk(digest, index) for index in range(chunks.count)])

    # Fetched.

    async def resume(self, digest: bytes, chunks: ChunkList) -> PartialBlob:
        """Where a fetch writes, with what an earlier one left there. The caller closes it. Raises RefusedError."""
        return await self._offload(partial(self.disk.resume, digest, chunks))

    async def keep_fetched(self, fetched: PartialBlob) -> BlobRef | None:
        """Check all of a blob whose chunks are here, and keep it. None when the whole is not what it should be.

        Raises RefusedError when the disk fails.
        """
        chunks = fetched.chunks
        whole, at = blake3(max_threads=blake3.AUTO), 0
        while at < chunks.size:
            at = await self._offload(partial(fetched.digest_on, whole, at))
        if whole.digest() != fetched.digest:
            return None
        ref = BlobRef(digest=fetched.digest, size=chunks.size, list_digest=chunks.digest)
        if ref.size <= SMALL_LIMIT:
            await self.add_small([(ref, await self._offload(fetched.content))])
            await self._offload(partial(self.disk.drop_partial, ref.digest))
            return ref
        async with self._placing:
            await self._offload(fetched.place)
            await self._write_row(ref, chunks)
        return ref

    # Kept and dropped.

    async def pin(self, digest: bytes) -> None:
        """Keep it for good, from when it is here; for a directory, what its manifest names too."""
        now = self._now_ms()
        await self._rows.write(lambda database: database.blobs.pin(digest, now))

    async def unpin(self, digest: bytes) -> bool:
        """Let it go when space is needed. Returns whether it was pinned."""
        return await self._rows.write(lambda database: database.blobs.unpin(digest))

    async def is_pinned(self, digest: bytes) -> bool:
        """Whether it is pinned by itself."""
        return await self._rows.read(lambda database: database.blobs.is_pinned(digest))

    async def pins(self) -> list[bytes]:
        """All pinned digests, oldest pin first, held or not."""
        return await self._rows.read(lambda database: database.blobs.pins())

    async def name_parts(self, whole: bytes, parts: Iterable[bytes]) -> None:
        """Say which blobs a manifest names, so that they are kept as long as it is."""
        named = list(parts)
        await self._rows.write(lambda database: database.blobs.name_parts(whole, named))

    async def collect(
        self,
        *,
        dry_run: bool,
        keep: Callable[[bytes], bool] = lambda _: False,
        cap: int = 0,
        grace: float = 0.0,
    ) -> Collected:
        """Drop the oldest blobs that nothing needs until `cap` bytes are left, and what abandoned fetches left.

        Pinned ones stay, what `keep` says stays, and so do the parts of both. `keep` is called in a worker thread.
        `grace` spares what came in the last so many seconds: somebody may be about to name it.
        """
        before = self._now_ms() - int(grace * 1000)

        def choose(database: HasBlobs) -> list[HeldBlob]:
            left, chosen = database.blobs.usage().size, []
            for blob in database.blobs.collectable(keep):
                if left <= cap or blob.added_ms > before:
                    break
                chosen.append(blob)
                left -= blob.size
            return chosen

        async with self._placing:
            chosen = await self._rows.read(choose)
            stale = await self._offload(partial(self.disk.stale, self._wall() - PARTIAL_AGE))
            if not dry_run:
                await self._remove(chosen)
                for digest, _ in stale:
                    await self._offload(partial(self.disk.drop_partial, digest))
        return Collected(chosen, sum(size for _, size in stale))

    # Inside.

    def _now_ms(self) -> int:
        return int(self._wall() * 1000)

    async def _write_row(self, ref: BlobRef, chunks: ChunkList) -> None:
        blob = HeldBlob(ref.digest, ref.size, ref.list_digest, True, False, self._now_ms())
        listed = chunks.digests if chunks.count > 1 else None
        await self._rows.write(lambda database: database.blobs.add(blob, chunk_list=listed))
        self._known.pop(ref.digest, None)

    async def _remove(self, blobs: Sequence[HeldBlob]) -> None:
        for blob in blobs:
            self._known.pop(blob.digest, None)

        def job(database: HasBlobs) -> None:
            for blob in blobs:
                database.blobs.remove(blob.digest)

        await self._rows.write(job)
        for blob in blobs:
            if blob.is_file:
                await self._offload(partial(self.disk.remove, blob.digest))

    async def _not_there(self, digest: bytes) -> AbsentError | DamagedError:
        """Why a chunk could not be read: dropped meanwhile, or damaged."""
        self._known.pop(digest, None)
        if await self._rows.read(lambda database: database.blobs.find(digest)) is None:
            return AbsentError(digest)
        return await self._damaged(digest)

    async def _damaged(self, digest: bytes) -> DamagedError:
        self._known.pop(digest, None)
        if await self._rows.write(lambda database: database.blobs.mark_damaged(digest)):
            self._on_damaged(digest)
        return DamagedError(digest)

    async def _set_right(self) -> None:
        """Make rows and files agree after any end of the last run, and after a restore without blobs."""

        def compare(database: HasBlobs) -> tuple[list[HeldBlob], list[bytes], list[bytes]]:
            gone: list[HeldBlob] = []
            damaged: list[bytes] = []
            unknown: list[bytes] = []
            for first in range(256):
                there = self.disk.names(first)
                for blob in database.blobs.files(first):
                    size = there.pop(blob.digest, None)
                    if size is None:
                        gone.append(blob)
                    elif size != blob.size and not blob.is_damaged:
                        damaged.append(blob.digest)
                unknown += there
            return gone, damaged, unknown

        await self._offload(self.disk.sweep_new)
        gone, damaged, unknown = await self._rows.read(compare)
        await self._remove(gone)
        for digest in damaged:
            await self._damaged(digest)
        for digest in unknown:
            await self._offload(partial(self.disk.unplace, digest))


def _small(blobs: Blobs, digest: bytes) -> bytes | Absence:
    blob = blobs.find(digest)
    if blob is None:
        return Absence.ABSENT
    if blob.is_file and not blob.is_damaged:
        return Absence.LARGE
    content = None if blob.is_damaged else blobs.content(digest)
    return content if content is not None and blake3(content).digest() == digest else Absence.DAMAGED
