"""What stands where a pane's program takes its next line: judged from the screen and from who is in the foreground.

Three are known: shells at their prompt, Claude Code's composer, Codex's composer. Everything that is not surely one of them
is busy, and nothing is typed: a question, a password, a pager, an editor, a dialog, a program that nobody heard of. So is what
cannot be told from a draft (a prompt on the right, a prompt without a known last sign). Being wrong in that direction
costs a line that comes later; in the other it would spoil what a person is writing.
"""

import re
from collections.abc import Sequence
from typing import Final

import attrs

from meshd.drivers.foreground import LINE_EDITORS, Foreground, Program
from meshd.drivers.screen import Cell, Row, Screen, is_blank, text_of


@attrs.frozen
class Composer:
    """Where the next line is written."""

    prompt: str
    """What stands before it, to see that it is the same one later."""

    text: str
    """What stands in it; empty when nothing does."""

    room: int
    """Columns left in its row."""


@attrs.frozen
class Busy:
    """Nothing may be typed."""

    why: str
    """For people. Nothing of the screen is in it, which may show anything."""


def find_composer(screen: Screen, foreground: Foreground) -> Composer | Busy:
    """Where the next line goes and what stands there, or why that cannot be known."""
    if foreground.reads_password:
        return Busy("it waits for a password")
    if foreground.program is Program.SHELL:
        return _shell(screen, foreground)
    if foreground.program is Program.OTHER:
        return Busy(f"{foreground.name or 'another program'} is in its foreground")
    if foreground.by_line:
        return Busy(f"{foreground.program.value} does not read keys")
    return _claude(screen) if foreground.program is Program.CLAUDE else _codex(screen)


# Shells.

_SIGNS: Final = "$#%>\N{HEAVY RIGHT-POINTING ANGLE QUOTATION MARK ORNAMENT}"
"""With one of these and a space a prompt ends."""

_PROMPT = re.compile(rf"(?P<prompt>.*?[{_SIGNS}][ ])(?P<text>.*)", re.DOTALL)

_CONTINUED = re.compile(r"[a-z ]*> |….*", re.DOTALL)
"""The next line of something unfinished: `> `, zsh's `dquote> `. Its first line is a draft."""

_PLACES: Final = "@~/:[("
"""What stands in the first word of a prompt of several words: a user, a place, an environment in parentheses."""


def _shell(screen: Screen, foreground: Foreground) -> Composer | Busy:
    if foreground.name in LINE_EDITORS and foreground.by_line:
        return Busy("the shell is not at its prompt")
    if not foreground.by_line and foreground.echoes:
        return Busy("something in the shell reads single keys")
    if screen.alternate or not screen.cursor_shown:
        return Busy("its whole screen is in use")
    row = screen.row(screen.y)
    if not is_blank(row[screen.x :]):
        return Busy("something stands right of the cursor: a draft, or a prompt on the right")
    if not all(is_blank(below) for below in screen.rows[screen.y + 1 :]):
        return Busy("something stands below the cursor")
    # Blanks up to the cursor count: they may be typed ones.
    before = _padded(row, screen.x)
    found = _PROMPT.fullmatch(before)
    if found is None:
        return Busy("no prompt that is known stands at the cursor")
    prompt = found["prompt"]
    if _CONTINUED.fullmatch(prompt):
        return Busy("a line that is not finished stands there")
    if not _is_prompt(prompt):
        return Busy("no prompt that is known stands at the cursor")
    return Composer(prompt, found["text"], screen.width - screen.x)


def _is_prompt(text: str) -> bool:
    """Whether this is a prompt, and not one without a sign of its own, with a draft behind it that ends in one.

    `work echo $ ` and `work cat > ` are such. The signs that commands may end in stand close to the prompt's last word.
    """
    words = text.split()
    first, last = words[0], words[-1]
    if len(words) > 1 and not (set(first) & set(_PLACES) and (len(last) > 1 or last not in "$#>")):
        return False
    return not last.endswith(">") or bool(set(last + first) & set(_PLACES))


def _padded(row: Row, columns: int) -> str:
    """The text of the first columns, with blanks where a row ends before them."""
    text = "".join(" " if cell.is_blank and cell.text else cell.text for cell in row[:columns])
    return text + " " * (columns - min(len(row), columns))


# Claude Code: a prompt between two rules, or in a box.

_CLAUDE_SIGNS: Final = ">\N{HEAVY RIGHT-POINTING ANGLE QUOTATION MARK ORNAMENT}"

_RULE = re.compile(r" ?[╭╰]?─{3,}(.*─{3,})?[╮╯]?")

_WORKS = re.compile(r"\b(esc|ctrl\+c) to interrupt", re.IGNORECASE)
"""What both programs show while a turn is under way: a line would be queued, and they are no readers who sleep."""

_ASKS = re.compile(
    r"enter to (confirm|select|submit)|esc to (cancel|exit|go back)|\(y/n\)|\[y/n\]|-- normal --", re.IGNORECASE
)
"""What stands below a dialog, or where keys are commands."""

NEAR: Final = 8
"""Rows above and below a composer that belong to it: what it does, hints, a line of state."""


def _claude(screen: Screen) -> Composer | Busy:
    texts = [text_of(row) for row in screen.rows]
    for y in range(len(texts) - 2, 0, -1):
        if not (_RULE.fullmatch(texts[y - 1]) and _RULE.fullmatch(texts[y + 1])):
            continue
        start = _after_sign(screen.rows[y], _CLAUDE_SIGNS, border="│")
        if start is None:
            continue
        cells = _without_border(screen.rows[y][start:])
        if why := _surroundings(texts[max(0, y - 1 - NEAR) : y - 1], texts[y + 2 :]):
            return Busy(why)
        text = _typed(cells)
        shown = text_of(cells)
        if screen.cursor_shown and (screen.x, screen.y) != (start + len(text), y):
            return Busy("the cursor is not in the composer")
        width = screen.width - start - (2 if "│" in texts[y][-1:] else 0)
        return Composer("claude", text, width - (len(shown) if text else 0))
    return Busy("Claude Code shows no composer of one line")


# Codex: a prompt at the left, its hint in it, a free row, a line of state. It had a bar at the left before.

_CODEX_BAR: Final = "▌"
_CODEX_SIGNS: Final = "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}" + _CODEX_BAR


def _codex(screen: Screen) -> Composer | Busy:
    if not screen.cursor_shown:
        return Busy("Codex shows no cursor")
    y = screen.y
    start = _after_sign(screen.row(y), _CODEX_SIGNS)
    if start is None:
        return Busy("the cursor is not in Codex's composer")
    sign = text_of(screen.row(y)[: start - 1])
    texts = [text_of(row) for row in screen.rows]
    if texts[y + 1 : y + 2] != [""] and y + 1 < len(texts):
        return Busy("more than one line stands in Codex's composer")
    if sign.strip() == _CODEX_BAR and y and texts[y - 1].startswith(sign):
        return Busy("more than one line stands in Codex's composer")
    if why := _surroundings(texts[max(0, y - NEAR) : y], texts[y + 1 :]):
        return Busy(why)
    cells = screen.row(y)[start:]
    text = _typed(cells)
    if not text and is_blank(cells):
        # An empty composer shows a hint. Without it, empty lines of a draft may stand there.
        return Busy("Codex's composer shows no hint, so it may not be empty")
    if screen.x != start + len(text):
        return Busy("the cursor is not at the end of Codex's composer")
    return Composer("codex", text, screen.width - start - len(text))


# Both.


def _after_sign(row: Row, signs: str, border: str = "") -> int | None:
    """The column where the text begins, if the row begins with one of the signs and a blank."""
    for x, cell in enumerate(row[:4]):
        if cell.text and cell.text in signs:
            return x + 2 if is_blank(row[x + 1 : x + 2]) else None
        if not cell.is_blank and cell.text != border:
            break
    return None


def _without_border(cells: Sequence[Cell]) -> Sequence[Cell]:
    for place in range(len(cells) - 1, -1, -1):
        if cells[place].text == "│":
            return cells[:place]
        if not cells[place].is_blank:
            break
    return cells


def _typed(cells: Sequence[Cell]) -> str:
    """What somebody has written there: all but a hint, which is dim, perhaps with the cursor on its first character."""
    shown = [cell for cell in cells if not cell.is_blank]
    if not shown:
        # A cursor that the program draws stands behind blanks that somebody typed.
        return " " * max((x for x, cell in enumerate(cells) if cell.is_inverse), default=0)
    is_hint = all(cell.is_dim for cell in shown[1:]) and not cells[0].is_blank
    if is_hint and (shown[0].is_dim or (shown[0].is_inverse and len(shown) > 1)):
        return ""
    return text_of(cells)


def _surroundings(above: Sequence[str], below: Sequence[str]) -> str:
    """Why the composer is not to be used now; empty for no reason."""
    if any(_WORKS.search(text) for text in (*above, *below)):
        return "its program is at work"
    if len([text for text in below if text]) > NEAR or any(_ASKS.search(text) for text in below):
        return "a question stands there"
    return ""
