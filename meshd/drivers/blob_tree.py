"""Directories as blobs: put in from this disk, and fetched whole. docs/protocol/blobs.md, "Directories"."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import trio

from meshd.drivers.blob_disk import BlobDisk, NewBlob
from meshd.drivers.blob_files import BlobStore
from meshd.drivers.fetching import Fetching, Observer
from meshd.drivers.one_error import one_error
from meshd.drivers.payload import Began, Content, Ended, Piece, Skipped
from meshd.drivers.threads import Offload, in_thread
from meshd.drivers.tree_source import TreeSource
from meshd.errors import RefusedError, UsageError
from meshd.model.announcement import BlobRef
from meshd.model.chunks import reference
from meshd.model.entry import Entry, EntryKind
from meshd.model.manifest import MANIFEST_LIMIT, Item, Manifest, file_item
from meshd.store.blobs import SMALL_LIMIT

_STEP: Final = 4 << 20
"""Bytes that are read from a tree at once, and bytes of small files that share a commit."""

_BATCH: Final = 1024
"""Small files that share a commit at most."""

_FILES_AT_ONCE: Final = 4
"""Large files of a directory that are fetched side by side: the next one looks for holders while others move."""


@attrs.frozen
class AddedDirectory:
    """A directory that was put in: the reference of its manifest, bytes of its files, entries, and what was left out."""

    ref: BlobRef
    total: int
    entries: int
    skipped: Sequence[Skipped]


async def add_directory(store: BlobStore, path: Path, *, offload: Offload = in_thread) -> AddedDirectory:
    """Keep a directory: each file as a blob, and the manifest that names them.

    Links, devices and the like are left out and named. Raises UsageError (no directory, unreadable, changed
    meanwhile), RefusedError (too many files, no space); what was put in until then stays until it is collected.
    """
    source = TreeSource([path])
    adding = _Adding(path, source, store.disk)
    try:
        survey = await offload(source.scan)
        if survey.unreadable:
            raise UsageError(f"{survey.unreadable[0].path} cannot be read: {survey.unreadable[0].reason}.")
        while await offload(adding.step):
            await adding.keep(store)
        await adding.keep(store, everything=True)
    finally:
        with trio.CancelScope(shield=True):
            await offload(adding.close)
    manifest = Manifest.of(adding.items)
    ref = await store.add_bytes(await offload(manifest.encode))
    await store.name_parts(ref.digest, [item.digest for item in manifest.items if item.digest is not None])
    return AddedDirectory(ref, manifest.total, len(manifest.items), survey.skipped)


class _Adding:
    """A tree on its way into a store. `step` blocks and is for a thread; `keep` stores what steps have read."""

    def __init__(self, path: Path, source: TreeSource, disk: BlobDisk) -> None:
        self.items: list[Item] = []
        self._path = path
        self._source = source
        self._disk = disk
        self._entry: Entry | None = None
        self._data = bytearray()
        self._new: NewBlob | None = None
        self._small: list[tuple[BlobRef, bytes]] = []
        self._small_size = 0
        self._large: list[tuple[Entry, NewBlob]] = []

    def step(self) -> bool:
        """Read on; False at the end."""
        pieces = self._source.pieces(_STEP)
        for piece in pieces:
            self._take(piece)
        return bool(pieces)

    async def keep(self, store: BlobStore, *, everything: bool = False) -> None:
        """Store large files one by one, small ones when there are many."""
        for entry, new in self._large:
            self.items.append(_item(entry, await store.keep(new)))
            new.discard()
        self._large.clear()
        if self._small and (everything or len(self._small) >= _BATCH or self._small_size >= _STEP):
            await store.add_small(self._small)
            self._small.clear()
            self._small_size = 0

    def close(self) -> None:
        """Let go of all that is open."""
        self._source.close()
        for new in (*(new for _, new in self._large), *([self._new] if self._new else [])):
            new.discard()

    def _take(self, piece: Piece) -> None:
        match piece:
            case Began(entry):
                if len(entry.path) == 1 and entry.kind is not EntryKind.DIRECTORY:
                    raise UsageError(f"{self._path} is no directory.")
                self._entry = entry
                self._data.clear()
                if (entry.size or 0) > SMALL_LIMIT:
                    self._new = self._disk.create()
            case Content(data) if self._new is not None:
                self._new.write(data)
            case Content(data):
                self._data += data
            case Ended():
                assert self._entry is not None
                self._end(self._entry)
            case _:
                assert self._entry is not None
                shown = self._path.joinpath(*self._entry.path[1:])
                raise UsageError(f"{shown}: {piece.reason}.", "Store the directory again when nothing writes to it.")

    def _end(self, entry: Entry) -> None:
        if self._new is not None:
            self._large.append((entry, self._new))
            self._new = None
        elif entry.kind is EntryKind.FILE:
            ref, _ = reference(bytes(self._data))
            self._small.append((ref, bytes(self._data)))
            self._small_size += ref.size
            self.items.append(_item(entry, ref))
        elif len(entry.path) > 1:
            self.items.append(Item("/".join(entry.path[1:])))


def _item(entry: Entry, ref: BlobRef) -> Item:
    return file_item("/".join(entry.path[1:]), ref, entry.executable)


async def read_manifest(store: BlobStore, digest: bytes, *, offload: Offload = in_thread) -> Manifest:
    """The manifest that a blob is. Raises RefusedError when it is none, AbsentError, DamagedError."""
    data = await store.read(digest, MANIFEST_LIMIT)
    return await offload(partial(Manifest.decode, data))


async def fetch_directory(
    store: BlobStore,
    fetching: Fetching,
    ref: BlobRef,
    *,
    limit: int | None = None,
    patience: float | None = None,
    observer: Observer | None = None,
    offload: Offload = in_thread,
) -> Manifest:
    """Have a directory here: its manifest and every file it names. `limit` is the most bytes of all files.

    Small files come many at a time. Raises as `Fetching.fetch` does; what has come by then stays.
    """
    if ref.size > MANIFEST_LIMIT:
        raise RefusedError(f"This directory's list takes {ref.size:,} bytes; {MANIFEST_LIMIT:,} are allowed.")
    await fetching.fetch(
        ref.digest, size=ref.size, list_digest=ref.list_digest, limit=MANIFEST_LIMIT, patience=patience
    )
    manifest = await read_manifest(store, ref.digest, offload=offload)
    if limit is not None and manifest.total > limit:
        raise RefusedError(f"The directory's files take {manifest.total:,} bytes; {limit:,} are allowed here.")
    files = {item.digest: item for item in manifest.items if item.digest is not None}
    await store.name_parts(ref.digest, files)
    await fetching.fetch_small([(digest, item.size) for digest, item in files.items() if item.size <= SMALL_LIMIT])
    missing = [files[digest] for digest in await store.missing(list(files))]
    await _fetch_each(fetching, missing, patience, observer)
    return manifest


async def _fetch_each(
    fetching: Fetching, items: Sequence[Item], patience: float | None, observer: Observer | None
) -> None:
    waiting = iter(items)

    async def work() -> None:
        for item in waiting:
            assert item.digest is not None
            ref = item.ref
            await fetching.fetch(
                ref.digest, size=ref.size, list_digest=ref.list_digest, patience=patience, observer=observer
            )

    with one_error():
        async with trio.open_nursery() as nursery:
            for _ in range(min(_FILES_AT_ONCE, len(items))):
                nursery.start_soon(work)
