"""Handles: short names for content. docs/protocol/blobs.md.

`h&l_inline_0123456789ab`: a kind, or the name of a table, and the first 12 hexadecimal digits of BLAKE3-256 over
canonical bytes (a blob's own bytes; for JSON, RFC 8785). 48 bits are a name and no proof: whatever is stored, sent or
decided uses all 256, written as 64 digits where a person may see them.
"""

import json
import re
from collections.abc import Iterable
from typing import Any, Final, cast

import attrs
import rfc8785
from blake3 import blake3

from meshd.errors import UsageError

SHORT_DIGITS: Final = 12
FULL_DIGITS: Final = 64
INLINE: Final = "inline"
BLOB: Final = "blob"
TREE: Final = "tree"
MESSAGES: Final = "messages"
"""The table in handles of mail, whose digits are of a record's hash. Values may be in a table of that name too."""

RESERVED_TABLES: Final = (BLOB, TREE)
"""Words that are kinds of their own; `inline` is a table as any other, the one that needs no name."""

JSON_DEPTH: Final = 100
"""Most levels of a value: deeper is an attack on whoever reads it with a recursive parser."""

_TABLE = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,30}[a-z0-9])?")
_HANDLE = re.compile(rf"h&?l_(?P<table>.+)_(?P<digits>[0-9a-f]{{{FULL_DIGITS}}}|[0-9a-f]{{{SHORT_DIGITS}}})")


def is_table(text: str) -> bool:
    """Whether a table may be called so: lower-case letters, digits, dash and underscore inside, 32 at most."""
    return _TABLE.fullmatch(text) is not None and text not in RESERVED_TABLES


def check_table(text: str) -> str:
    """`text`, or UsageError with what a table's name is."""
    if not is_table(text):
        raise UsageError(
            f"{text!r} cannot be a table.",
            "Use lower-case letters, digits, dashes and underscores inside, at most 32; blob and tree are taken.",
        )
    return text


@attrs.frozen
class Handle:
    """A handle as typed or shown: `table` is `inline`, `blob`, `tree` or a table's name; `digits` are 12 or 64."""

    table: str
    digits: str

    @classmethod
    def parse(cls, text: str) -> "Handle":
        """Read `h&l_…` or, kinder to shells, `hl_…`. Raises UsageError."""
        found = _HANDLE.fullmatch(text.strip())
        if found is None or not (is_table(found["table"]) or found["table"] in RESERVED_TABLES):
            raise UsageError(
                f"{text[:100]!r} is not a handle.",
                "A handle looks like h&l_blob_0123456789ab (in a shell: hl_blob_0123456789ab, or in quotes).",
            )
        return cls(found["table"], found["digits"])

    @classmethod
    def of(cls, table: str, digest: bytes) -> "Handle":
        """The full handle of this content."""
        return cls(table, digest.hex())

    @property
    def is_full(self) -> bool:
        """Whether it names its content beyond doubt."""
        return len(self.digits) == FULL_DIGITS

    @property
    def digest(self) -> bytes:
        """All 32 bytes of a full handle."""
        assert self.is_full
        return bytes.fromhex(self.digits)

    @property
    def short(self) -> str:
        """The form that people pass around."""
        return f"h&l_{self.table}_{self.digits[:SHORT_DIGITS]}"

    @property
    def typed(self) -> str:
        """As `str`, but whole in a shell, which would end the command at the other form's ampersand."""
        return f"hl_{self.table}_{self.digits}"

    def __str__(self) -> str:
        return f"h&l_{self.table}_{self.digits}"


def canonical(value: object) -> bytes:
    """RFC 8785 bytes of a JSON value. Raises UsageError for what JSON, or that RFC, has no form for."""
    try:
        return rfc8785.dumps(cast(Any, value))
    except (rfc8785.CanonicalizationError, RecursionError) as error:
        raise UsageError(f"This value has no canonical JSON: {error}.") from error


def digest_of(data: bytes) -> bytes:
    """BLAKE3-256, 32 bytes."""
    return blake3(data).digest()


def parse_json(text: str | bytes) -> object:
    """A JSON value (RFC 8259) that means one thing only: no key twice, no NaN, JSON_DEPTH levels. Raises UsageError."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise UsageError("An object in this JSON has one key twice.", "Which value is meant cannot be known.")
        return found

    def refuse(constant: str) -> object:
        raise UsageError(f"{constant} is not JSON.")

    try:
        value: object = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError as error:
        raise UsageError(f"This JSON is nested more than {JSON_DEPTH} levels deep.") from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise UsageError(f"This is not JSON: {error}.") from error
    if _depth(value) > JSON_DEPTH:
        raise UsageError(f"This JSON is nested more than {JSON_DEPTH} levels deep.")
    return value


def _depth(value: object) -> int:
    deepest, waiting = 0, [(value, 1)]
    while waiting:
        here, level = waiting.pop()
        deepest = max(deepest, level)
        if deepest > JSON_DEPTH:
            break
        if isinstance(here, dict):
            waiting += [(each, level + 1) for each in here.values()]
        elif isinstance(here, list):
            waiting += [(each, level + 1) for each in here]
    return deepest


def tree_digest(children: Iterable[Handle]) -> bytes:
    """The digest of a tree: BLAKE3 of the RFC 8785 list of its children's short forms, in order."""
    return digest_of(canonical([child.short for child in children]))
