"""What tmux shows of a pane, as cells: what stands in each column, and whether it is dim or inverse.

`capture-pane -e` gives text with SGR sequences (ECMA-48), and what the programs of the pane wrote may hold anything. Nothing
here is ever printed.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

import attrs

BLANK: Final = " \u00a0"
"""A space, and the one that does not break, which Claude Code puts behind its prompt."""

_PIECE = re.compile(
    r"\x1b\[(?P<sgr>[0-9;:]*)m"
    r"|\x1b\[[0-?]*[ -/]*[@-~]"  # any other control sequence
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # an operating system command, such as a link
    r"|\x1b[ -/]*[0-~]"
    r"|(?P<charset>[\x0e\x0f])"
    r"|(?P<character>[^\x00-\x1f\x7f])",
    re.DOTALL,
)

_LINE_DRAWING: Final = dict(zip("jklmnqtuvwx", "┘┐┌└┼─├┤┴┬│", strict=True))
"""What tmux writes in the terminal's second character set."""


@attrs.frozen
class Cell:
    """One column of a row."""

    text: str
    """What stands there; empty in the second column of a wide character."""

    is_dim: bool = False
    is_inverse: bool = False

    @property
    def is_blank(self) -> bool:
        """Nothing to see, though it may be inverse: a cursor that a program draws."""
        return self.text in BLANK


Row = tuple[Cell, ...]


@attrs.frozen
class Screen:
    """A pane at one moment."""

    rows: tuple[Row, ...]
    width: int
    x: int
    """The cursor's column, from 0."""

    y: int
    cursor_shown: bool
    alternate: bool
    """The alternate screen is shown, as editors and pagers do."""

    def row(self, number: int) -> Row:
        """A row, empty outside of the screen."""
        return self.rows[number] if 0 <= number < len(self.rows) else ()

    def looks_like(self, other: "Screen") -> bool:
        """Whether both show the same, cursor and all; colours may differ."""
        return (self.x, self.y, self.alternate, self.width) == (other.x, other.y, other.alternate, other.width) and [
            text_of(row) for row in self.rows
        ] == [text_of(row) for row in other.rows]


def text_of(cells: Sequence[Cell]) -> str:
    """What stands in them, blanks at the end left out, each blank a space."""
    return "".join(" " if cell.text and cell.text in BLANK else cell.text for cell in cells).rstrip()


def is_blank(cells: Sequence[Cell]) -> bool:
    """Whether nothing stands in them."""
    return all(cell.is_blank for cell in cells)


def read_rows(capture: str, width: int, height: int) -> tuple[Row, ...]:
    """The rows of a capture with its attributes; never more than `height` of `width` columns."""
    rows = []
    dim = inverse = False
    for line in capture.split("\n")[:height]:
        row: list[Cell] = []
        drawing = False
        for found in _PIECE.finditer(line):
            if found["sgr"] is not None:
                dim, inverse = _attributes(found["sgr"], dim, inverse)
            elif found["charset"]:
                drawing = found["charset"] == "\x0e"
            elif found["character"]:
                character = found["character"]
                columns = _columns(character)
                if not columns and row:
                    last = next(each for each in range(len(row) - 1, -1, -1) if row[each].text or not each)
                    row[last] = attrs.evolve(row[last], text=row[last].text[:8] + character)
                    continue
                row.append(Cell(_LINE_DRAWING.get(character, character) if drawing else character, dim, inverse))
                if columns == 2:
                    row.append(Cell("", dim, inverse))
        rows.append(tuple(row[:width]))
    return tuple(rows)


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _attributes(parameters: str, dim: bool, inverse: bool) -> tuple[bool, bool]:
    numbers = iter(parameters.split(";"))
    for each in numbers:
        number = each.partition(":")[0] or "0"
        if number in ("38", "48", "58") and ":" not in each:
            # A colour: 5 and one number, or 2 and three. Its 2 is not the 2 that dims.
            for _ in range({"5": 1, "2": 3}.get(next(numbers, ""), 0)):
                next(numbers, None)
        elif number == "0":
            dim = inverse = False
        elif number in ("2", "22"):
            dim = number == "2"
        elif number in ("7", "27"):
            inverse = number == "7"
    return dim, inverse
