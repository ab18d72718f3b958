"""What happens in a daemon, as frozen values: `tether events` streams them, logs note them. No secret is in any.

Node ids are the full 52 characters, handles the full form, sizes in bytes, times in seconds. Names are the peers' own
text; whoever shows one on a terminal makes it harmless.
"""

import re
from collections.abc import Callable
from typing import Literal

import attrs


@attrs.frozen
class LinkUp:
    """A member is linked. `path` says how its address was found."""

    mesh: str
    node: str
    name: str
    address: str
    path: str


@attrs.frozen
class LinkDown:
    """A link ended."""

    mesh: str
    node: str
    name: str
    why: str


@attrs.frozen
class RecordsStored:
    """Records of one author are durable here, written here or arrived."""

    mesh: str
    node: str
    count: int
    arrived: bool


@attrs.frozen
class RosterChanged:
    """Who belongs to the mesh, or what they are called, is not what it was."""

    mesh: str
    members: int
    change: str


@attrs.frozen
class ForkFound:
    """An author gave two records one number: its chain is frozen there."""

    mesh: str
    node: str
    name: str
    generation: int
    sequence: int


@attrs.frozen
class GenerationOpened:
    """This machine's history was copied or restored, and goes on under a new generation."""

    mesh: str
    generation: int
    why: str


@attrs.frozen
class Quarantined:
    """Records from a clock far ahead wait. `ours`: most peers look fast, so it is this machine's clock that is wrong."""

    mesh: str
    node: str
    name: str
    ahead: float
    ours: bool


@attrs.frozen
class BlobProgress:
    """Content of a blob arrives: `moved` bytes in this run, `done` of `size` in all."""

    mesh: str
    handle: str
    moved: int
    done: int
    size: int
    holders: int


@attrs.frozen
class BlobStored:
    """A blob is here, whole and checked."""

    mesh: str
    handle: str
    size: int
    moved: int
    seconds: float


@attrs.frozen
class BlobFailed:
    """A blob did not come."""

    mesh: str
    handle: str
    why: str


@attrs.frozen
class MailArrived:
    """Messages of so many machines are here, and their senders are told."""

    mesh: str
    machines: int


@attrs.frozen
class Damaged:
    """A stored copy does not match its digest and is not used again. `node` is the holder, perhaps this machine."""

    mesh: str
    handle: str
    node: str
    name: str


@attrs.frozen
class TrySpent:
    """Somebody failed to pair while a window was open."""

    failed: int
    remaining: int
    why: str


@attrs.frozen
class PortMapped:
    """The router lets others in at our port, by this public address."""

    address: str


@attrs.frozen
class PortUnmapped:
    """It does not, any more or at all."""

    why: str


@attrs.frozen
class Trouble:
    """Something a person should know and may have to act on."""

    what: str
    advice: str
    level: Literal["warning", "error"]


Notice = (
    LinkUp
    | LinkDown
    | RecordsStored
    | RosterChanged
    | ForkFound
    | GenerationOpened
    | Quarantined
    | BlobProgress
    | BlobStored
    | BlobFailed
    | MailArrived
    | Damaged
    | TrySpent
    | PortMapped
    | PortUnmapped
    | Trouble
)

Notify = Callable[[Notice], None]
"""Takes a notice at once and never waits."""


def event_name(notice: Notice) -> str:
    """`LinkUp` as `link.up`: the name under which logs and event streams know it."""
    return re.sub("(?<!^)(?=[A-Z])", ".", type(notice).__name__).lower()
