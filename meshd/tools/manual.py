"""The part of docs/tether.md that lists every command, from the registry: `python -m meshd.tools.manual` writes it anew.

A test holds the page against this, so that nobody can change one without the other.
"""

import sys
from pathlib import Path
from typing import Final

import attrs

from meshd.tools import context, diagnosis
from meshd.tools.kinds import FLAG
from meshd.tools.operation import Argument, Operation
from meshd.tools.registry import OPERATIONS

BEGIN: Final = "<!-- The list of commands is made by: python -m meshd.tools.manual docs/tether.md -->\n"
END: Final = "<!-- End of the list. -->\n"


def commands() -> str:
    """The list, in Markdown."""
    return "\n".join(_command(each) for each in sorted(OPERATIONS, key=lambda each: each.words))


def _command(operation: Operation) -> str:
    name = " ".join(operation.words)
    lines = [f"### `tether {name}`", "", f"{operation.summary} {operation.details}".rstrip(), ""]
    rows = [_row(each) for each in operation.arguments if each.name != "mesh" or each.kind.name != "MESH"]
    if operation.asks or operation.confirms:
        rows.append("| `--yes` | | Do not ask. |")
    if rows:
        lines += ["| on the command line | on the socket | meaning |", "|---|---|---|", *rows, ""]
    lines += ["```sh", *(f"{each.line}   # {each.purpose}" for each in operation.examples), "```", ""]
    mesh = "; takes `--mesh` (`mesh`)" if any(each.kind.name == "MESH" for each in operation.arguments) else ""
    lines += [f"Method `{operation.name}`{mesh}. Answer: {_answer(operation)}.", ""]
    return "\n".join(lines)


def _row(argument: Argument) -> str:
    kind = argument.kind
    if argument.positional:
        place = f"`{argument.name.upper() if argument.is_secret else kind.name}`"
    elif argument.is_secret:
        place = "asked for"
    elif argument.programs_only:
        place = "-"
    else:
        options = argument.options or (f"--{argument.name.replace('_', '-')}",)
        value = "" if kind is FLAG else f" {kind.name}"
        place = f"`{', '.join(options)}{value}`"
    default = argument.default
    said = f" Unless given {default:g}." if isinstance(default, int | float) and default and kind is not FLAG else ""
    said = f" Unless given {default}." if isinstance(default, str) and default else said
    name = f"`{argument.name}`{', a list' if argument.many else ''}"
    return f"| {place} | {name} | {argument.meaning}{said} |"


def _answer(operation: Operation) -> str:
    answer = getattr(context, operation.result, None) or getattr(diagnosis, operation.result)
    return f"`{operation.result}` ({', '.join(f'`{each.name}`' for each in attrs.fields(answer))})"


def rewritten(page: str) -> str:
    """The page with the list as it is now."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin and end, "the page has no place for the list"
    return f"{before}{BEGIN}\n{commands()}\n{END}{after}"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).write_text(rewritten(Path(name).read_text(encoding="utf-8")), encoding="utf-8")
