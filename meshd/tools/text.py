"""Numbers and tables as people read them. Pure, plain text, no colours: a pipe gets the same."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from meshd.model.text import harmless

UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
SHORT_LENGTH: Final = 8
"""Characters of a node id or mesh id that people see."""


def printable(text: str, keep: str = "") -> str:
    """Text that a peer may have chosen, fit for a terminal and, unless line feeds are to `keep`, for one line."""
    return harmless(text, keep)


def fenced(text: str) -> str:
    """Lines that somebody else wrote, each marked, so that none passes for a line of ours."""
    return "\n".join(f"| {line}".rstrip() for line in text.split("\n"))


def size(amount: float) -> str:
    """Bytes: 999 B, 1.5 MiB."""
    for unit in UNITS[:-1]:
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:,.1f} {UNITS[-1]}"


def span(seconds: float) -> str:
    """A time: 0.3 s, 12 s, 5 min, 3 h, 2 d."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    for unit, length, limit in (("s", 1, 120), ("min", 60, 120 * 60), ("h", 3600, 48 * 3600)):
        if seconds < limit:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86_400:,.0f} d"


def ago(age: float | None) -> str:
    """How long ago, or that nobody knows."""
    return "never" if age is None else f"{span(age)} ago"


def milliseconds(seconds: float) -> str:
    """A round trip: 0.42 ms, 18 ms."""
    return f"{seconds * 1000:.2f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"


def count(number: int, noun: str) -> str:
    """1 entry, 2 entries, 2 meshes, 1,000 files."""
    if number == 1:
        return f"1 {noun}"
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}{'es' if noun.endswith('sh') else 's'}"
    return f"{number:,} {plural}"


def short(identifier: str) -> str:
    """The beginning of a node id or mesh id."""
    return identifier[:SHORT_LENGTH]


def machine(found: Any) -> str:
    """A machine: its name, and enough of its id to tell it from another that took the same name."""
    return f"{found.name or '(no name)'} ({short(found.node)})"


def machines(found: Iterable[Any]) -> str:
    """Several of them, or a dash."""
    return ", ".join(machine(each) for each in found) or "-"


def columns(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, two spaces between columns, none at the end of a line."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def fields(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values, a line each, the values below each other."""
    found = list(pairs)
    width = max(len(name) for name, _ in found) + 1
    return "\n".join(f"{name + ':':<{width}} {value}".rstrip() for name, value in found)
