"""Content by its handle: which content is meant, and having it here. docs/protocol/blobs.md, "Names"."""

from typing import TYPE_CHECKING, Final

import trio

from meshd.drivers.blob_files import DamagedError
from meshd.drivers.blob_tree import fetch_directory, read_manifest
from meshd.drivers.fetching import Observer
from meshd.errors import NobodyFoundError, RefusedError, TetherError
from meshd.model.announcement import BlobRef
from meshd.model.handle import BLOB, Handle
from meshd.model.manifest import CONTENT_TYPE
from meshd.store.views import Found

if TYPE_CHECKING:  # it is made of parts that ask here
    from meshd.node.mesh import Mesh

NEWS_WAIT: Final = 5.0
"""Seconds to wait for the record that announces a handle: it was perhaps made elsewhere a moment ago."""

LINK_WAIT: Final = 2.0
"""Seconds to wait for a first link: this machine has perhaps just joined, started or woken."""

HOP_WAIT: Final = 0.5
"""The same once every linked member has said all that it holds: what one beyond them wrote comes in a few round trips."""


async def locate(mesh: "Mesh", text: str, wait: float = 0.0) -> Found:
    """The content that a typed handle means.

    Raises UsageError for no handle, NobodyFoundError for one that nobody has announced, RefusedError when a short form
    has more than one meaning, naming all.
    """
    handle = Handle.parse(text)
    end = trio.current_time() + min(wait, NEWS_WAIT)
    others = any(each.node != mesh.machine.keys.identity.node for each in mesh.roster.active())
    first_link = min(end, trio.current_time() + (LINK_WAIT if others else 0.0))
    heard = False
    while True:
        news = mesh.keeping.next_news
        found = await mesh.storage.read(lambda database: database.handles.find(handle.table, handle.digits))
        if len(found) == 1:
            return found[0]
        if found:
            names = " and ".join(str(Handle.of(each.table, each.digest)) for each in found)
            raise RefusedError(
                f"{handle.short} may mean {names}.", "Two contents have this short name: use the full one."
            )
        if trio.current_time() >= (end if mesh.links.current else first_link):
            raise NobodyFoundError(
                f"Nobody has announced {handle} in the mesh {mesh.name}, as far as this machine knows.",
                "Is it from another mesh (--mesh), expired, or from a machine that was not linked since?",
            )
        with trio.move_on_at(end):
            if heard:
                await news.wait()
            elif await mesh.hear_everybody():
                heard = True
                end = min(end, trio.current_time() + HOP_WAIT)
            else:
                with trio.move_on_after(HOP_WAIT):
                    await news.wait()


async def bring(mesh: "Mesh", digest: bytes, *, wait: float | None, observer: Observer | None = None) -> BlobRef:
    """Have a blob here, whole. `wait`: seconds without a byte of it before giving up; None for ever.

    Descriptions of one blob may differ, and be lies about its size and chunks: the earliest is believed first, and at
    last none. Raises NobodyFoundError (with who has it, as far as is known), RefusedError.
    """
    references = await mesh.storage.read(lambda database: database.handles.references(digest))
    failure: TetherError | None = None
    for ref in (*references, None):
        try:
            return await mesh.fetching.fetch(
                digest,
                size=None if ref is None else ref.size,
                list_digest=None if ref is None else ref.list_digest,
                patience=wait,
                observer=observer,
            )
        except NobodyFoundError as error:
            raise NobodyFoundError(error.what, f"{error.advice} {await _last_known(mesh, digest)}".strip()) from error
        except RefusedError as error:
            failure = error
    assert failure is not None
    raise failure


async def bring_all(
    mesh: "Mesh", found: Found, *, wait: float | None, observer: Observer | None = None
) -> tuple[BlobRef, bool]:
    """As `bring`, and of a directory all its files as well. Returns the reference, and whether it is a directory."""
    ref = await bring(mesh, found.digest, wait=wait, observer=observer)
    is_directory = found.table == BLOB and await _is_directory(mesh, ref)
    if is_directory:
        await fetch_directory(
            mesh.blobs, mesh.fetching, ref, patience=wait, observer=observer, offload=mesh.machine.offload
        )
    return ref, is_directory


async def _is_directory(mesh: "Mesh", ref: BlobRef) -> bool:
    """Whether a blob that is here is one: somebody says so, and it is the list of one.

    Both, because any member may describe anybody's blob, and date that back: neither does a file become unreadable by
    being called a directory, nor the other way round.
    """
    kinds = await mesh.storage.read(lambda database: database.handles.content_types(ref.digest))
    if CONTENT_TYPE not in kinds:
        return False
    try:
        await read_manifest(mesh.blobs, ref.digest, offload=mesh.machine.offload)
    except DamagedError:
        raise
    except RefusedError:
        return False
    return True


async def _last_known(mesh: "Mesh", digest: bytes) -> str:
    """Who should have a blob, and is not here to ask."""
    now = mesh.journal.now_ms()
    found = await mesh.storage.read(lambda database: database.handles.metadata(BLOB, digest, now_ms=now))
    if found is None:
        return ""
    me = mesh.machine.keys.identity.node
    holders = [node for node in dict.fromkeys((*found.holders, found.origin)) if node != me]
    names = [f"{mesh.name_of(node)}{'' if node in mesh.links.current else ' (not linked)'}" for node in holders]
    return f"Last known to be on {', '.join(names)}." if names else ""
