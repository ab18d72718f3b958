"""Names in addresses: machines, agents, meshes, tables. Labels, which are only shown, are in text.py."""

import re
from typing import Final

from meshd.errors import UsageError

NAME_LIMIT: Final = 63
"""Most characters of a name."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def is_name(text: str) -> bool:
    """Whether a machine, an agent or a mesh may be called so."""
    return _NAME.fullmatch(text) is not None


def check_name(text: str, what: str = "name") -> str:
    """`text`, or UsageError with what a name is."""
    if not is_name(text):
        raise UsageError(
            f"{text!r} cannot be {'an' if what[0] in 'aeiou' else 'a'} {what}.",
            "Use letters, digits, dots, dashes and underscores, at most 63, a letter or digit first.",
        )
    return text


def same_name(one: str, other: str) -> bool:
    """Names are compared without case."""
    return one.lower() == other.lower()
