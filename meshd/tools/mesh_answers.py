"""What comes back from operations on meshes and on who belongs to them.

Conventions of all answers: `handle` is the short form, `full` the one with 64 digits. A node is its whole id (52
characters). Sizes are bytes; times and ages are seconds; an age counts back from the answer. Names, reasons and content
types may be a peer's own text. Paths are absolute.
"""

from typing import Literal

import attrs


@attrs.frozen
class MachineRef:
    """A machine, as people and programs name it."""

    node: str
    name: str


@attrs.frozen
class Founded:
    """A new mesh. `recovery_words` are told this once and kept nowhere; empty when none were asked for."""

    mesh: str
    name: str
    machine: MachineRef
    recovery_words: tuple[str, ...]


@attrs.frozen
class Left:
    """This machine is out of a mesh; what it kept of it is deleted."""

    mesh: str
    name: str
    told: int
    """Members that were linked and have the news."""


@attrs.frozen
class MeshSummary:
    """One mesh that this machine belongs to."""

    mesh: str
    name: str
    machine: MachineRef
    """This machine, as this mesh calls it."""

    members: int
    linked: int


@attrs.frozen
class Meshes:
    """All of them."""

    meshes: tuple[MeshSummary, ...]


@attrs.frozen
class InviteOpened:
    """A pairing window is open. `code` is a secret for the person at this terminal."""

    code: str
    port: int
    seconds: float
    wan: bool = False
    """Also across the internet: the number is a rendezvous server's."""


@attrs.frozen
class Invited:
    """A machine was admitted."""

    mesh: str
    mesh_name: str
    machine: MachineRef
    address: str


@attrs.frozen
class Joined:
    """This machine was admitted. `by` is who let it in."""

    mesh: str
    mesh_name: str
    machine: MachineRef
    by: MachineRef
    members: int


@attrs.frozen
class MemberInfo:
    """A machine that was ever admitted."""

    machine: MachineRef
    standing: Literal["active", "suspended", "revoked"]
    admitted_by: MachineRef | None
    """None: it founded the mesh."""

    depth: int
    here: bool
    """It is this machine."""

    linked: bool
    blocked: bool
    """Blocked on this machine."""

    distrusted_by: tuple[MachineRef, ...]
    """Members that blocked it on theirs."""

    forked: bool
    """It gave one number to two records; its history counts up to there only."""

    reason: str
    """Why it was revoked, as its revoker put it."""


@attrs.frozen
class Members:
    """The roster of a mesh, founder first."""

    mesh: str
    mesh_name: str
    members: tuple[MemberInfo, ...]


@attrs.frozen
class Revoked:
    """A machine is out for good, or, after a dry run, would be."""

    mesh: str
    machine: MachineRef
    suspended: tuple[MachineRef, ...]
    """Machines that came in by it, and are nobody's peers until they are admitted anew."""

    kept: tuple[MachineRef, ...]
    dry_run: bool


@attrs.frozen
class Blocked:
    """Whether this machine has to do with another."""

    machine: MachineRef
    blocked: bool


@attrs.frozen
class Renamed:
    """What this machine is called from now on."""

    machine: MachineRef
    before: str


@attrs.frozen
class RecoveryChecked:
    """Whether these are the recovery words of the mesh."""

    mesh: str
    mesh_name: str
    right: bool
