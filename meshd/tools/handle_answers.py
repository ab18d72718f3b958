"""What comes back from operations on handles. Conventions: mesh_answers.py."""

from typing import Literal

import attrs

from meshd.tools.mesh_answers import MachineRef


@attrs.frozen
class Collapsed:
    """A value or a tree of handles has a handle, and is durable here. `new`: it had none before."""

    handle: str
    full: str
    size: int
    new: bool


@attrs.frozen
class Resolved:
    """What a handle means. Canonical JSON is in `json`, or, above VALUE_LIMIT bytes, in the file `path`, which the
    caller deletes."""

    handle: str
    full: str
    json: str | None
    path: str | None
    missing: tuple[str, ...]
    """Full handles within a tree that nobody could give; each stands in the JSON as itself, a text."""


VALUE_LIMIT = 256 * 1024
"""Most bytes of JSON inside an answer or a request: escaped, it still fits a line of the control socket."""


@attrs.frozen
class Put:
    """Bytes, a file or a directory has a handle, and is durable here."""

    handle: str
    full: str
    size: int
    """Of the blob; `total` adds up the files of a directory."""

    total: int
    files: int
    content_type: str
    new: bool
    held_by: tuple[MachineRef, ...]
    """Of the machines it was put for, those that are known to hold it."""


@attrs.frozen
class Got:
    """A blob was written to `path`, checked whole. `moved` came over the network for it, the rest was here."""

    handle: str
    full: str
    path: str
    size: int
    files: int
    directory: bool
    moved: int
    seconds: float


@attrs.frozen
class Metadata:
    """What is known about a handle. What does not apply to its kind is None or empty."""

    handle: str
    full: str
    kind: Literal["value", "blob", "directory", "tree"]
    table: str
    size: int
    total: int
    name: str
    content_type: str
    tags: tuple[str, ...]
    origin: MachineRef
    """Who announced it first, by clock."""

    announced_by: tuple[MachineRef, ...]
    age: float
    """Since the first announcement, by its author's clock."""

    ttl_left: float | None
    """None: it does not expire."""

    here: bool
    """Its content is on this machine, whole."""

    pinned: bool
    held_by: tuple[MachineRef, ...]
    """Members that are known to hold it, ourselves included."""

    children: tuple[str, ...]
    """Full handles, in order."""


@attrs.frozen
class TableCount:
    """How many handles a table has; blobs and trees are tables too."""

    table: str
    handles: int


@attrs.frozen
class Tables:
    """By name."""

    mesh: str
    tables: tuple[TableCount, ...]


@attrs.frozen
class Row:
    """One handle of a snapshot. `json` is None for a blob, a tree, and a value that is too long or not here."""

    handle: str
    full: str
    json: str | None
    tags: tuple[str, ...]


@attrs.frozen
class Snapshot:
    """A page of a table in order of digests: at most `limit` rows and VALUE_LIMIT bytes of JSON.

    `next` is what to give as `after` for the page that follows; None when this was the last.
    """

    table: str
    rows: tuple[Row, ...]
    next: str | None


@attrs.frozen
class TagCount:
    """How many handles have a tag."""

    tag: str
    handles: int


@attrs.frozen
class Tags:
    """By name."""

    mesh: str
    tags: tuple[TagCount, ...]


@attrs.frozen
class Tagged:
    """The tags that a handle has now."""

    handle: str
    full: str
    tags: tuple[str, ...]


@attrs.frozen
class Pinned:
    """Whether a handle's content is kept here whatever happens; with it that of all below it."""

    handle: str
    full: str
    pinned: bool


@attrs.frozen
class CollectedBlob:
    """A blob that went, or would go."""

    handle: str
    full: str
    size: int
    why: str


@attrs.frozen
class Collected:
    """What was deleted, or after a dry run would be. At most 1,000 blobs are listed; the sums count all."""

    dry_run: bool
    blobs: tuple[CollectedBlob, ...]
    count: int
    size: int
    left: int
    """Bytes of blobs that stay."""


@attrs.frozen
class Exported:
    """A table was written to a file."""

    table: str
    path: str
    handles: int
    size: int


@attrs.frozen
class Imported:
    """Handles of a file were hashed again and kept. `refused` names those whose content is another."""

    table: str
    handles: int
    new: int
    refused: tuple[str, ...]
