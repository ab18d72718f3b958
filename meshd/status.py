"""What happens, as frozen values: a face shows them to a person or prints them as JSON. No secret is ever in one.

Texts that a peer wrote (labels, paths, reasons) are marked so; whoever shows them on a terminal makes them harmless.
Sizes are in bytes, times in seconds.
"""

from collections.abc import Callable
from typing import Literal

import attrs

Direction = Literal["send", "receive"]


@attrs.frozen
class Waiting:
    """A listener's window is open on this UDP port. `number` is that of its code; a chosen passphrase has none."""

    port: int
    number: int | None
    seconds: float


@attrs.frozen
class Numbered:
    """A rendezvous server gave this number to the listener's window: the other side enters it. Another may follow."""

    number: int
    server: str


@attrs.frozen
class Warned:
    """Something that does not stop the run but that the person should know."""

    text: str


@attrs.frozen
class LeftOut:
    """Something under a path to be sent that will not be. `failed`: it should have been, but cannot be read."""

    path: str
    reason: str
    failed: bool


@attrs.frozen
class Searching:
    """A connector looks for the listener with this number (None: any that waits for a chosen passphrase)."""

    number: int | None
    seconds: float


@attrs.frozen
class Dialling:
    """A connector tries one address."""

    address: str


@attrs.frozen
class TrySpent:
    """One of the three tries of this window is gone."""

    failed: int
    remaining: int
    why: str


@attrs.frozen
class Paired:
    """Both sides hold the same words. `label` is the other machine's own choice of name (the peer's text)."""

    label: str
    address: str


@attrs.frozen
class Started:
    """A payload begins to move. `size` is None for a stream."""

    direction: Direction
    entries: int
    size: int | None


@attrs.frozen
class Progress:
    """Content moved so far."""

    direction: Direction
    entries: int
    size: int


@attrs.frozen
class EntryRefused:
    """One entry is not, or will not be, stored (path and reason may be the peer's text)."""

    direction: Direction
    path: str
    reason: str


@attrs.frozen
class Finished:
    """A direction is complete: stored and confirmed. `refused` counts the entries that were not stored."""

    direction: Direction
    entries: int
    size: int
    refused: int
    seconds: float


@attrs.frozen
class Joined:
    """A mesh has one machine more. `machine` is who came in, `by` who let it in; names are the machines' own."""

    mesh: str
    machine: str
    by: str


Event = (
    Waiting
    | Numbered
    | Warned
    | LeftOut
    | Searching
    | Dialling
    | TrySpent
    | Paired
    | Started
    | Progress
    | EntryRefused
    | Finished
    | Joined
)

Observer = Callable[[Event], None]
