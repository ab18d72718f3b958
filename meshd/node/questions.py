"""Questions to a mesh's database that are asked in a loop: jobs for `Storage.read`, bound with functools.partial."""

from collections.abc import Iterable

from meshd.model.announcement import Addresses, BlobRef, Child
from meshd.model.identity import NodeId
from meshd.store.database import Database
from meshd.store.views import Entry, Found


def value(found: Found, database: Database) -> bytes | BlobRef | None:
    """The JSON of a value, or the blob that holds it."""
    return database.handles.value(found.table, found.digest)


def values(table: str, digests: Iterable[bytes], database: Database) -> set[bytes]:
    """Those of some digests that a table has."""
    return {digest for digest in digests if database.handles.value(table, digest) is not None}


def children(digest: bytes, database: Database) -> tuple[Child, ...]:
    """The children of a tree; none of one that is announced no more."""
    return database.handles.tree(digest) or ()


def tags(found: Found, database: Database) -> tuple[str, ...]:
    """The tags of some content."""
    return database.handles.tags(found.table, found.digest)


def page(table: str, after: bytes, limit: int, most_bytes: int, database: Database) -> list[Entry]:
    """A page of a table."""
    return database.handles.snapshot(table, after=after, limit=limit, most_bytes=most_bytes)


def addresses(node: NodeId, database: Database) -> Addresses | None:
    """Where a machine says that it is."""
    found = database.handles.addresses(node)
    return None if found is None else found.addresses
