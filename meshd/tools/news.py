"""How a person sees an event: one line each, without its time. The names are those of `meshd.notices.event_name`."""

from collections.abc import Callable
from typing import Any, Final

from meshd.tools.text import count, short, size, span


def _link_up(told: Any) -> str:
    return f"{told.name} is linked at {told.address} ({told.path})"


def _link_down(told: Any) -> str:
    return f"{told.name} is not linked any more: {told.why}"


def _records_stored(told: Any) -> str:
    return f"{count(told.count, 'record')} of {short(told.node)} {'arrived' if told.arrived else 'written'}"


def _roster_changed(told: Any) -> str:
    return f"roster: {told.change}; {count(told.members, 'member')}"


def _fork_found(told: Any) -> str:
    return f"{told.name} gave number {told.sequence} of generation {told.generation} to two records: frozen there"


def _generation_opened(told: Any) -> str:
    return f"this machine goes on under generation {told.generation}: {told.why}"


def _quarantined(told: Any) -> str:
    if told.ours:
        return f"most clocks look fast, {told.name}'s by {span(told.ahead)}: this machine's is probably slow"
    return f"the clock of {told.name} is {span(told.ahead)} ahead: its records wait"


def _blob_progress(told: Any) -> str:
    return f"{told.handle}: {size(told.done)} of {size(told.size)}, from {count(told.holders, 'machine')}"


def _blob_stored(told: Any) -> str:
    return f"{told.handle} is here: {size(told.size)}, {size(told.moved)} moved in {span(told.seconds)}"


def _blob_failed(told: Any) -> str:
    return f"{told.handle} did not come: {told.why}"


def _mail_arrived(told: Any) -> str:
    return f"mail of {count(told.machines, 'machine')} arrived"


def _damaged(told: Any) -> str:
    return f"{told.handle} is damaged at {told.name} and not used from there"


def _try_spent(told: Any) -> str:
    return f"pairing try {told.failed} failed, {told.remaining} left: {told.why}"


def _port_mapped(told: Any) -> str:
    return f"the router lets others in at {told.address}"


def _port_unmapped(told: Any) -> str:
    return f"the router lets nobody in by itself: {told.why}"


def _trouble(told: Any) -> str:
    return f"{told.level}: {told.what} {told.advice}".rstrip()


LINES: Final[dict[str, Callable[[Any], str]]] = {
    "link.up": _link_up,
    "link.down": _link_down,
    "records.stored": _records_stored,
    "roster.changed": _roster_changed,
    "fork.found": _fork_found,
    "generation.opened": _generation_opened,
    "quarantined": _quarantined,
    "blob.progress": _blob_progress,
    "blob.stored": _blob_stored,
    "blob.failed": _blob_failed,
    "mail.arrived": _mail_arrived,
    "damaged": _damaged,
    "try.spent": _try_spent,
    "port.mapped": _port_mapped,
    "port.unmapped": _port_unmapped,
    "trouble": _trouble,
}


def line(event: str, told: Any) -> str:
    """The line for an event; a newer daemon's unknown one by its name."""
    return LINES[event](told) if event in LINES else event
