"""What may be asked about values and trees: the part of the context that puts JSON in and gets it out."""

import json as json_text
import secrets
from functools import partial
from pathlib import Path
from typing import Final

from meshd.drivers.state import explained
from meshd.errors import NobodyFoundError, RefusedError, UsageError
from meshd.model.announcement import (
    CHILDREN_LIMIT,
    INLINE_LIMIT,
    TAG_LIMIT,
    TAGS_LIMIT,
    BlobRef,
    Child,
    Tag,
    Tree,
    Value,
)
from meshd.model.handle import BLOB, MESSAGES, TREE, Handle, canonical, check_table, digest_of, parse_json, tree_digest
from meshd.model.text import is_showable
from meshd.node import content
from meshd.node.calls import Calls
from meshd.node.mesh import Mesh
from meshd.store.views import Found
from meshd.tools.context import (
    VALUE_LIMIT,
    Collapsed,
    Resolved,
    Row,
    Snapshot,
    TableCount,
    Tables,
    TagCount,
    Tagged,
    Tags,
)

JSON_LIMIT: Final = 64 << 20
"""Most bytes of one JSON value, or of all that a tree comes to: it is in memory, at several times its size."""

TREE_DEPTH: Final = 32
"""Levels of trees within trees that are resolved: more is a mistake, or made to tire us."""

TREE_NODES: Final = 20_000
"""Handles that one tree may come to in all when it is resolved."""

SNAPSHOT_LIMIT: Final = 1000
"""Most rows of one page."""


class HandleCalls(Calls):
    """Values, trees, tables and tags."""

    async def collapse(
        self, *, mesh: str | None, json: str | None, path: str | None, table: str, tags: tuple[str, ...], ttl: int
    ) -> Collapsed:
        chosen = self.mesh(mesh)
        check_table(table)
        if (json is None) == (path is None):
            raise UsageError("Give JSON, or a file of JSON, and not both.")
        text = json if json is not None else await self.node.machine.offload(partial(_read_json, Path(path or "")))
        data = await self.node.machine.offload(lambda: canonical(parse_json(text)))
        digest = digest_of(data)
        blob = None if len(data) <= INLINE_LIMIT else await chosen.blobs.add_bytes(data)
        body = Value(table=table, json=None if blob else data, blob=blob, tags=check_tags(tags))
        new = await self._announce(chosen, Found(table, digest), body, tags, ttl)
        return await self._collapsed(chosen, Found(table, digest), len(data), new)

    async def tree(self, *, mesh: str | None, handles: tuple[str, ...], tags: tuple[str, ...], ttl: int) -> Collapsed:
        chosen = self.mesh(mesh)
        if len(handles) > CHILDREN_LIMIT:
            raise UsageError(f"A tree has at most {CHILDREN_LIMIT:,} children.", "Make a tree of trees.")
        found = [await content.locate(chosen, each, content.LINK_WAIT) for each in handles]
        children = tuple(Child(table=each.table, digest=each.digest) for each in found)
        digest = tree_digest(Handle.of(each.table, each.digest) for each in children)
        body = Tree(children=children, tags=check_tags(tags))
        new = await self._announce(chosen, Found(TREE, digest), body, tags, ttl)
        return await self._collapsed(chosen, Found(TREE, digest), len(children), new)

    async def resolve(self, *, mesh: str | None, handle: str, shallow: bool, wait: float) -> Resolved:
        chosen = self.mesh(mesh)
        await _refuse_message(chosen, handle)
        found = await content.locate(chosen, handle, wait)
        if found.table == BLOB:
            raise UsageError(
                f"{handle} is a blob.", f"Write it to a file: tether get {Handle.parse(handle).typed} -o PATH."
            )
        missing: list[str] = []
        if found.table == TREE:
            value = await _Resolving(chosen, wait, missing).tree(found, shallow)
            data = await self.node.machine.offload(partial(_dump, value))
        else:
            data = await value_of(chosen, found, wait)
        named = self.named(found)
        if len(data) <= VALUE_LIMIT:
            return Resolved(*named, data.decode(), None, tuple(missing))
        path = self.node.machine.state.outgoing / f"value-{secrets.token_hex(8)}"
        await self.node.machine.offload(partial(_write, path, data))
        return Resolved(*named, None, str(path), tuple(missing))

    async def tables(self, *, mesh: str | None) -> Tables:
        chosen = self.mesh(mesh)
        found = await chosen.storage.read(lambda database: database.handles.tables())
        return Tables(chosen.hex, tuple(TableCount(table, count) for table, count in found.items()))

    async def snapshot(
        self, *, mesh: str | None, table: str, tag: str | None, limit: int, after: str | None
    ) -> Snapshot:
        chosen = self.mesh(mesh)
        if not 1 <= limit <= SNAPSHOT_LIMIT:
            raise UsageError(f"A page has 1 to {SNAPSHOT_LIMIT:,} rows.")
        start = Handle.parse(after).digest if after and Handle.parse(after).is_full else b""
        if after and not start:
            raise UsageError("A page goes on after a full handle.", "Give what the page before named as next.")
        if table in (BLOB, TREE):
            digests = await chosen.storage.read(
                lambda database: database.handles.digests_in(table, tag=tag, after=start, limit=limit)
            )
            values: list[tuple[bytes, bytes | None]] = [(each, None) for each in digests]
        else:
            check_table(table)
            entries = await chosen.storage.read(
                lambda database: database.handles.snapshot(
                    table, tag=tag, after=start, limit=limit, most_bytes=VALUE_LIMIT
                )
            )
            values = [(each.digest, each.value if isinstance(each.value, bytes) else None) for each in entries]
        rows = [await self._row(chosen, Found(table, digest), value) for digest, value in values]
        return Snapshot(table, tuple(rows), rows[-1].full if rows else None)

    async def tags(self, *, mesh: str | None) -> Tags:
        chosen = self.mesh(mesh)
        found = await chosen.storage.read(lambda database: database.handles.all_tags())
        return Tags(chosen.hex, tuple(TagCount(tag, count) for tag, count in found.items()))

    async def tag(self, *, mesh: str | None, handle: str, add: tuple[str, ...], remove: tuple[str, ...]) -> Tagged:
        chosen = self.mesh(mesh)
        found = await content.locate(chosen, handle, content.LINK_WAIT)
        both = set(check_tags(add)) & set(check_tags(remove))
        if both:
            raise UsageError(f"{', '.join(sorted(both))} cannot be put on and taken off at once.")
        if add or remove:
            await chosen.journal.append(Tag(table=found.table, digest=found.digest, add=add, remove=remove))
        tags = await chosen.storage.read(lambda database: database.handles.tags(found.table, found.digest))
        return Tagged(*self.named(found), tags)

    async def _announce(self, mesh: Mesh, found: Found, body: Value | Tree, tags: tuple[str, ...], ttl: int) -> bool:
        """Write a record of some content unless one that lasts says it all; whether the content is new to the mesh."""
        now = mesh.journal.now_ms()
        known = await mesh.storage.read(
            lambda database: database.handles.metadata(found.table, found.digest, now_ms=now)
        )
        if known is None or ttl or known.ttl_left is not None or not set(tags) <= set(known.tags):
            await mesh.journal.append(body, ttl=ttl)
        return known is None

    async def _collapsed(self, mesh: Mesh, found: Found, size: int, new: bool) -> Collapsed:
        return Collapsed(*await self.told(mesh, found), size, new)

    async def _row(self, mesh: Mesh, found: Found, value: bytes | None) -> Row:
        tags = await mesh.storage.read(lambda database: database.handles.tags(found.table, found.digest))
        return Row(*self.named(found), None if value is None else value.decode(), tags)


class _Resolving:
    """One tree on its way to JSON."""

    def __init__(self, mesh: Mesh, wait: float, missing: list[str]) -> None:
        self._mesh, self._wait, self._missing = mesh, wait, missing
        self._nodes = self._bytes = 0

    async def tree(self, found: Found, shallow: bool, depth: int = 1) -> list[object]:
        children = await self._mesh.storage.read(lambda database: database.handles.tree(found.digest))
        if children is None:
            raise NobodyFoundError(f"{Handle.of(*_pair(found)).short} is announced no more.")
        self._nodes += len(children)
        if depth > TREE_DEPTH or self._nodes > TREE_NODES:
            raise RefusedError(
                f"This tree has more than {TREE_DEPTH} levels or {TREE_NODES:,} handles.", "Resolve it with --shallow."
            )
        return [
            str(Handle.of(each.table, each.digest)) if shallow else await self._child(each, depth) for each in children
        ]

    async def _child(self, child: Child, depth: int) -> object:
        name = str(Handle.of(child.table, child.digest))
        if child.table == BLOB:
            return name
        try:
            if child.table == TREE:
                return await self.tree(Found(TREE, child.digest), False, depth + 1)
            data = await value_of(self._mesh, Found(child.table, child.digest), self._wait)
        except NobodyFoundError:
            # One wait is for all: a tree of thousands that nobody has would take days.
            self._wait = 0.0
            self._missing.append(name)
            return name
        # Few bytes of tree may name one long value many thousand times.
        self._bytes += len(data)
        if self._bytes > JSON_LIMIT:
            raise RefusedError(f"This tree comes to more than {JSON_LIMIT:,} bytes.", "Resolve it with --shallow.")
        value: object = await self._mesh.machine.offload(partial(json_text.loads, data))
        return value


async def value_of(mesh: Mesh, found: Found, wait: float) -> bytes:
    """The canonical JSON of a value, fetched if it is long and elsewhere. Raises NobodyFoundError, RefusedError."""
    value = await mesh.storage.read(lambda database: database.handles.value(found.table, found.digest))
    if isinstance(value, bytes):
        return value
    if not isinstance(value, BlobRef):
        raise NobodyFoundError(f"{Handle.of(*_pair(found)).short} is announced no more.")
    if value.size > JSON_LIMIT:
        raise RefusedError(f"This value has {value.size:,} bytes; {JSON_LIMIT:,} are allowed.")
    await content.bring(mesh, found.digest, wait=wait)
    data = await mesh.blobs.read(found.digest, JSON_LIMIT)
    if not await mesh.machine.offload(partial(_is_canonical, data)):
        # Nobody could see that in the record: the bytes have this digest, and are something else.
        raise RefusedError(f"What is announced as {Handle.of(*_pair(found)).short} is not canonical JSON.")
    return data


async def _refuse_message(mesh: Mesh, text: str) -> None:
    """A message has a handle as content has, and is read in another way. Content in a table of that name is content."""
    handle = Handle.parse(text)
    if handle.table != MESSAGES:
        return
    is_message = await mesh.storage.read(
        lambda database: (
            bool(database.mail.find(handle.digits)) and not database.handles.find(handle.table, handle.digits)
        )
    )
    if is_message:
        raise UsageError(f"{handle.short} is a message.", f"Read it with: tether receive {handle.typed}")


def check_tags(tags: tuple[str, ...]) -> tuple[str, ...]:
    """`tags`, or UsageError with what a tag is."""
    if len(tags) > TAGS_LIMIT:
        raise UsageError(f"At most {TAGS_LIMIT} tags at once.")
    for tag in tags:
        if not tag or len(tag) > TAG_LIMIT or not is_showable(tag) or tag != tag.strip():
            raise UsageError(
                f"{tag!r:.100} cannot be a tag.", f"A tag has 1 to {TAG_LIMIT} characters that can be shown."
            )
    return tags


def _pair(found: Found) -> tuple[str, bytes]:
    return found.table, found.digest


def _is_canonical(data: bytes) -> bool:
    try:
        return canonical(parse_json(data)) == data
    except UsageError:
        return False


def _dump(value: object) -> bytes:
    return json_text.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _read_json(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(JSON_LIMIT + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > JSON_LIMIT:
        raise UsageError(f"{path} has more than {JSON_LIMIT:,} bytes.", "Put it in as a file: tether put.")
    return data


def _write(path: Path, data: bytes) -> None:
    with explained(path):
        path.touch(mode=0o600, exist_ok=False)
        path.write_bytes(data)
