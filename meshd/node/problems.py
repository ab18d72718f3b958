"""What a person should know of now: what is wrong for as long as it is, and what went wrong a moment ago."""

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from meshd.model import clock
from meshd.model.identity import node_id
from meshd.model.member import Standing
from meshd.notices import GenerationOpened, Notice, Trouble
from meshd.tools.context import Problem

if TYPE_CHECKING:
    from meshd.node.mesh import Mesh

RECENT: Final = 3600.0
"""Seconds that a trouble is shown after it happened last."""

TROUBLES: Final = 16
"""Different troubles that are shown."""


class Problems:
    """One a daemon."""

    def __init__(self) -> None:
        self._troubles: OrderedDict[tuple[str, str], tuple[Trouble, float]] = OrderedDict()

    def note(self, notice: Notice) -> None:
        """Remember what people are to be told."""
        if isinstance(notice, GenerationOpened):
            notice = Trouble(
                f"This machine goes on under generation {notice.generation}: {notice.why}.",
                "All is well if you copied, moved or restored it. Never run two copies of one machine: the second needs keys "
                "of its own. If you know of no copy, somebody may have its keys: revoke it.",
                "warning",
            )
        if isinstance(notice, Trouble):
            self._troubles[notice.what, notice.advice] = notice, time.monotonic()
            self._troubles.move_to_end((notice.what, notice.advice))
            while len(self._troubles) > TROUBLES:
                self._troubles.popitem(last=False)

    def of(self, mesh: "Mesh | None") -> list[Problem]:
        """Those of one mesh, or those of the machine as a whole."""
        if mesh is not None:
            return [*_standing(mesh), *_forks(mesh), *_waiting(mesh)]
        since = time.monotonic() - RECENT
        return [
            Problem(trouble.what, trouble.advice, trouble.level)
            for trouble, happened in self._troubles.values()
            if happened >= since
        ]


def _standing(mesh: "Mesh") -> list[Problem]:
    me = mesh.me
    if me is None:
        return [
            Problem(
                f"The admission of this machine to the mesh {mesh.name} counts no more: it was made after its author was "
                "revoked.",
                "Let another member invite it again: tether invite there, tether join here.",
                "error",
            )
        ]
    if me.standing is Standing.ACTIVE:
        return []
    if me.standing is Standing.SUSPENDED:
        return [
            Problem(
                "Whoever let this machine in was revoked, and this machine is suspended.",
                "Let another member invite it again: tether invite there, tether join here.",
                "error",
            )
        ]
    return [
        Problem(
            f"This machine was revoked in the mesh {mesh.name}.",
            "That is for good: it can come back with new keys only, in a new state directory.",
            "error",
        )
    ]


def _forks(mesh: "Mesh") -> list[Problem]:
    return [
        Problem(
            f"{mesh.name_of(node_id(fork.chain.author))} gave number {fork.sequence} of generation "
            f"{fork.chain.generation} to two records: what follows is not used.",
            "Its keys are used twice, or it was copied. If you do not know why, revoke it.",
            "warning",
        )
        for fork in mesh.roster.forks
    ]


def _waiting(mesh: "Mesh") -> list[Problem]:
    now = mesh.machine.clocks.wall_ms()
    found: dict[bytes, int] = {}
    for chain, each in mesh.journal.waiting.items():
        ahead = max(0, clock.milliseconds(each.clock) - now) // 1000
        found[chain.author] = max(ahead, found.get(chain.author, 0))
    return [
        Problem(
            f"Records of {mesh.name_of(node_id(author))} wait: its clock is {ahead:,} s ahead of this machine's.",
            "Set the clock that is wrong. They count once this machine's clock comes there.",
            "warning",
        )
        for author, ahead in found.items()
    ]
