"""Blobs as files and directories on this disk. docs/protocol/blobs.md, "Directories".

What comes out was written by a member of the mesh, who may be hostile: paths go through drivers/tree_sink.py, which
checks each of them, and every byte is compared with its digest on the way.
"""

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import trio
from blake3 import blake3

from meshd.drivers.blob_files import AbsentError, BlobStore, DamagedError
from meshd.drivers.blob_tree import read_manifest
from meshd.drivers.durable import sync_directory, sync_file
from meshd.drivers.payload import Refusal, Report
from meshd.drivers.staging import PREFIX
from meshd.drivers.threads import Offload, in_thread
from meshd.drivers.tree_sink import TreeSink
from meshd.errors import RefusedError, UsageError
from meshd.model.entry import Entry, EntryKind
from meshd.model.manifest import Item
from meshd.store.blobs import SMALL_LIMIT
from meshd.wire.fetch import SMALL_BYTES, SMALL_COUNT, Absence

_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
"""What file systems without hard links say."""


async def export_blob(
    store: BlobStore, digest: bytes, out: Path, *, overwrite: bool = False, offload: Offload = in_thread
) -> None:
    """Write a blob to a file, checked on its way, durable when it returns. All or nothing stands under that name.

    Raises UsageError (the name is taken, no such directory), AbsentError, DamagedError, RefusedError (no space).
    """
    _, chunks = await store.whole(digest)
    with _explained(out):
        export = await offload(partial(_Export, out, overwrite))
        try:
            for index in range(chunks.count):
                await offload(partial(export.write, await store.chunk(digest, index)))
            if export.digest != digest:
                raise DamagedError(digest)
            await offload(export.finish)
        finally:
            with trio.CancelScope(shield=True):
                await offload(export.close)


async def export_directory(
    store: BlobStore,
    digest: bytes,
    out: Path,
    *,
    overwrite: bool = False,
    admitted: frozenset[str] = frozenset(),
    offload: Offload = in_thread,
) -> Report:
    """Write the directory whose manifest this blob is into `out`, which is made if only its last part is missing.

    `admitted` are protected names that the person asked for (`check_admitted`). The report says what was refused, by
    path and reason. Raises UsageError, AbsentError, DamagedError, RefusedError; then nothing new stays in `out`.
    """
    manifest = await read_manifest(store, digest, offload=offload)
    sink = await offload(partial(TreeSink, out, overwrite=overwrite, admitted=admitted))
    try:
        await offload(partial(sink.prepare, manifest.total))
        refused: list[Refusal] = []
        for first, items in _batches(manifest.items):
            if _is_small(items[0]):
                reasons = await _write_small(store, sink, items, offload)
            else:
                reasons = [await _write_large(store, sink, items[0], offload)]
            for index, reason in enumerate(reasons, first):
                if reason is not None:
                    refused.append(Refusal(index, manifest.items[index].parts, reason))
        report = await offload(sink.finish)
        return attrs.evolve(report, refused=(*refused, *report.refused))
    finally:
        with trio.CancelScope(shield=True):
            await offload(sink.discard)


def _is_small(item: Item) -> bool:
    return item.digest is None or item.size <= SMALL_LIMIT


def _batches(items: Sequence[Item]) -> Iterator[tuple[int, Sequence[Item]]]:
    """Entries that are written in one go, each with the index of the first: small ones many together, others alone."""
    first = size = 0
    for index, item in enumerate(items):
        size += item.size
        if not _is_small(item) or size > SMALL_BYTES or index - first == SMALL_COUNT:
            if index > first:
                yield first, items[first:index]
            first, size = index, item.size
        if not _is_small(item):
            yield first, items[index : index + 1]
            first, size = index + 1, 0
    if first < len(items):
        yield first, items[first:]


async def _write_small(store: BlobStore, sink: TreeSink, items: Sequence[Item], offload: Offload) -> list[str | None]:
    """Directories and small files into the sink. For each, why it was refused, or None."""
    digests = list({item.digest for item in items if item.digest is not None})
    contents = dict(zip(digests, await store.small(digests, len(digests) * SMALL_LIMIT + 1), strict=True))
    for digest, content in contents.items():
        if content is Absence.DAMAGED:
            raise DamagedError(digest)
        if content is Absence.ABSENT:
            raise AbsentError(digest)

    def write() -> list[str | None]:
        return [_write_one(sink, item, contents[item.digest] if item.digest else b"") for item in items]

    return await offload(write)


def _write_one(sink: TreeSink, item: Item, content: bytes | Absence) -> str | None:
    reason = sink.begin(_entry(item))
    if isinstance(content, Absence):  # a blob of other size than this hostile manifest says
        sink.abandon()
        return reason or "it is longer than was declared"
    if content:
        reason = reason or sink.write(content)
    last = sink.end(item.digest or blake3(b"").digest())
    return reason or last


async def _write_large(store: BlobStore, sink: TreeSink, item: Item, offload: Offload) -> str | None:
    """One file into the sink, chunk by chunk."""
    digest = item.ref.digest
    _, chunks = await store.whole(digest)
    reason = await offload(partial(sink.begin, _entry(item)))
    for index in range(chunks.count):
        if reason is not None:
            break
        reason = await offload(partial(sink.write, await store.chunk(digest, index)))
    last = await offload(partial(sink.end, digest))
    return reason or last


def _entry(item: Item) -> Entry:
    kind = EntryKind.DIRECTORY if item.digest is None else EntryKind.FILE
    return Entry(item.parts, kind, item.size, item.executable, time.time_ns())


class _Export:
    """A file that is being written beside its name. Blocking; raises OSError."""

    def __init__(self, out: Path, overwrite: bool) -> None:
        if out.is_dir():
            raise UsageError(f"{out} is a directory.", "Name a file in it.")
        if not overwrite and os.path.lexists(out):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        self._out, self._overwrite = out, overwrite
        self._part = out.with_name(f"{PREFIX}{secrets.token_hex(8)}.part")
        self._fd = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        self._whole = blake3()

    @property
    def digest(self) -> bytes:
        return self._whole.digest()

    def write(self, data: bytes) -> None:
        self._whole.update(data)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def finish(self) -> None:
        sync_file(self._fd)
        if self._overwrite:
            self._part.replace(self._out)
        else:
            self._link()
        fd = os.open(self._out.absolute().parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            sync_directory(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)

    def _link(self) -> None:
        """Take the name unless something has it: a link never replaces, where the file system has links."""
        try:
            os.link(self._part, self._out, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if os.path.lexists(self._out):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
            self._part.rename(self._out)


@contextlib.contextmanager
def _explained(out: Path) -> Iterator[None]:
    """Turn what the disk says of the file that a person named into an error that helps them."""
    try:
        yield
    except FileExistsError:
        raise UsageError(f"{out} is already here.", "Name another file, or say --overwrite.") from None
    except FileNotFoundError:
        raise UsageError(f"{out.parent} does not exist.", "Make it first, or name another directory.") from None
    except OSError as error:
        raise RefusedError(f"{out} cannot be written: {error.strerror or error}.") from error
