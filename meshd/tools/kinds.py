"""Kinds of arguments: what each takes, how the command line reads it, and how the daemon checks it.

`parse` is light, for every start of the command; `check` is the word that counts, since the control socket takes
anything. What is only checked imports what it needs when it is called.
"""

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from meshd.errors import UsageError
from meshd.model.name import NAME_LIMIT, is_name
from meshd.model.text import is_showable

DAY: Final = 86_400
TTL_LIMIT: Final = 3660 * DAY
"""Ten years in seconds: what should last longer has no time to live."""

WAIT_LIMIT: Final = 7 * DAY
COUNT_LIMIT: Final = 1000
PATH_LIMIT: Final = 4096
"""Bytes, PATH_MAX of Linux with its zero."""

TEXT_LIMIT: Final = 500
CODE_LIMIT: Final = 1024
TAG_LIMIT: Final = 63
CONTENT_TYPE_LIMIT: Final = 127

_TIMES: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": DAY, "w": 7 * DAY}
_DURATION = re.compile(r"([0-9]{1,9})([smhdw]?)")
_CONTENT_TYPE = re.compile(r"[!-~]+/[!-~]+(?:; ?[!-~]+)*")


class Kind(NamedTuple):
    """What an argument may be."""

    name: str
    """In capitals, as `--help` shows it."""

    schema: dict[str, Any]
    """JSON Schema of one value."""

    check: Callable[[Any], Any]
    """From JSON's value to the context's. Raises UsageError."""

    parse: Callable[[str], Any] = str
    """From the command line's text to JSON's value. Raises UsageError."""


def _refuse(value: object, form: str) -> UsageError:
    return UsageError(f"{value!r:.100} is not {form}.")


def _string(
    limit: int, form: str, fits: Callable[[str], bool], *, least: int = 1, repeat: bool = True
) -> Callable[[Any], str]:
    """`repeat`: an error shows the value. Not where it may be a message's own words: errors end in logs."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or not least <= len(value) <= limit or not fits(value):
            raise _refuse(value, form) if repeat else UsageError(f"This is not {form}.")
        return value

    return check


def _text_schema(limit: int, least: int = 1) -> dict[str, Any]:
    return {"type": "string", "minLength": least, "maxLength": limit}


def _is_path(text: str) -> bool:
    return text.startswith("/") and "\0" not in text


def _check_handle(value: Any) -> str:
    from meshd.model.handle import Handle

    return str(Handle.parse(_short(value)))


def _check_table(value: Any) -> str:
    from meshd.model.handle import RESERVED_TABLES, is_table

    if value not in RESERVED_TABLES and not (isinstance(value, str) and is_table(value)):
        raise UsageError(
            f"{value!r:.100} cannot be a table.",
            "Use lower-case letters, digits, dashes and underscores inside, at most 32.",
        )
    return str(value)


def _check_address(value: Any) -> str:
    from meshd.model.address import Address

    return str(Address.parse(_short(value)))


def _short(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 300:
        raise _refuse(value, "a text of at most 300 characters")
    return value


def _number(low: float, high: float, form: str, *, whole: bool) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        # A bool is an int to Python; NaN is within no range, since every comparison with it is false.
        fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool) and low <= value <= high
        if not fits:
            raise _refuse(value, form)
        return value if whole else float(value)

    return check


def _check_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _refuse(value, "true or false")
    return value


def _check_secret(value: Any) -> str:
    # The value is not repeated: errors end in logs and on screens.
    if not isinstance(value, str) or not 0 < len(value) <= CODE_LIMIT:
        raise UsageError(f"The words are missing, or longer than {CODE_LIMIT:,} characters.")
    return value


def _check_json(value: Any) -> str:
    from meshd.model.handle import parse_json

    if not isinstance(value, str):
        raise _refuse(value, "a text of JSON")
    if len(value.encode(errors="replace")) > JSON_LIMIT:
        raise UsageError(f"JSON of more than {JSON_LIMIT:,} bytes goes through a file.")
    parse_json(value)
    return value


def duration(text: str) -> int:
    """Seconds of `90`, `15m`, `12h`, `7d`, `2w`. Raises UsageError."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise _refuse(text, "a time such as 90 (seconds), 15m, 12h, 7d or 2w")
    return int(found[1]) * _TIMES[found[2]]


def seconds(text: str) -> float:
    """A number of seconds, or a duration with its unit. Raises UsageError."""
    try:
        return float(text)
    except ValueError:
        return float(duration(text))


def whole(text: str) -> int:
    """A number. Raises UsageError."""
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise _refuse(text, "a number")
    return int(text)


_PATH = _string(PATH_LIMIT, "an absolute path", _is_path)

JSON_LIMIT: Final = 256 * 1024
"""`context.VALUE_LIMIT`, which is not imported here: it would make each start of the command a third slower."""

FLAG = Kind("", {"type": "boolean"}, _check_flag)
TEXT = Kind(
    "TEXT",
    _text_schema(TEXT_LIMIT, 0),
    _string(TEXT_LIMIT, "a line of at most 500 characters", is_showable, least=0, repeat=False),
)
NAME = Kind(
    "NAME",
    _text_schema(NAME_LIMIT),
    _string(
        NAME_LIMIT,
        "a name: letters, digits, dots, dashes and underscores, at most 63, a letter or digit first",
        is_name,
    ),
)
MESH = Kind("MESH", _text_schema(64), _string(64, "a mesh: its name, or at least 4 characters of its id", is_name))
MACHINE = Kind(
    "MACHINE",
    _text_schema(NAME_LIMIT),
    _string(NAME_LIMIT, "a machine: its name, or at least 4 characters of its id", is_name),
)
ADDRESS = Kind("HOST:PORT", _text_schema(300), _check_address)
HANDLE = Kind("HANDLE", _text_schema(110), _check_handle)
TABLE = Kind("TABLE", _text_schema(32), _check_table)
TAG = Kind("TAG", _text_schema(TAG_LIMIT), _string(TAG_LIMIT, "a tag: 1 to 63 characters on one line", is_showable))
CONTENT_TYPE = Kind(
    "TYPE",
    _text_schema(CONTENT_TYPE_LIMIT),
    _string(CONTENT_TYPE_LIMIT, "a content type such as text/plain", lambda text: bool(_CONTENT_TYPE.fullmatch(text))),
)
FILE_NAME = Kind("NAME", _text_schema(255), _string(255, "a name of at most 255 characters", is_showable))
JSON = Kind("JSON", {"type": "string", "maxLength": JSON_LIMIT}, _check_json)
SECRET = Kind("WORDS", _text_schema(CODE_LIMIT), _check_secret)
CURSOR = Kind("CURSOR", _text_schema(200), _string(200, "what `next` of a page was", is_showable))
SECONDS = Kind(
    "SECONDS",
    {"type": "number", "minimum": 0, "maximum": WAIT_LIMIT},
    _number(0, WAIT_LIMIT, "a number of seconds, at most a week", whole=False),
    seconds,
)
MAIL_TEXT_LIMIT: Final = 128 * 1024
"""Bytes of a message's text: docs/protocol/mail.md, "Limits"."""

SUBJECT_LIMIT: Final = 200


def _check_mail_text(value: Any) -> str:
    if not isinstance(value, str):
        raise UsageError("This is not a text.")
    # A lone surrogate, which JSON can spell, is no text.
    size = len(value.encode(errors="surrogatepass"))
    if size > MAIL_TEXT_LIMIT:
        raise UsageError(
            f"The text has {size:,} bytes; a message takes {MAIL_TEXT_LIMIT:,}.", "Attach what is larger as a file."
        )
    if any("\ud800" <= each <= "\udfff" for each in value):
        raise UsageError("The text has half a character (a lone surrogate).")
    return value


def _check_attachment(value: Any) -> str:
    """A handle, or the absolute path of a file that is put first."""
    if isinstance(value, str) and value.startswith("/"):
        return str(_PATH(value))
    return _check_handle(value)


SUBJECT = Kind(
    "SUBJECT",
    _text_schema(SUBJECT_LIMIT, 0),
    _string(
        SUBJECT_LIMIT,
        f"a subject: one line of at most {SUBJECT_LIMIT} characters, none of which controls",
        is_showable,
        least=0,
        repeat=False,
    ),
)
MAIL_TEXT = Kind("TEXT", {"type": "string", "maxLength": MAIL_TEXT_LIMIT}, _check_mail_text)
"""The command takes `-`, or nothing, for its standard input."""

TARGET = Kind(
    "TO",
    _text_schema(200),
    _string(
        200, "an agent (name, name@machine), or tag:, cap:, label:, machine: with a word, or broadcast", is_showable
    ),
)
AGENT = Kind(
    "AGENT",
    _text_schema(NAME_LIMIT),
    _string(NAME_LIMIT, "an agent's name: letters, digits, dots, dashes and underscores, at most 63", is_name),
)
PANE = Kind("WORD", _text_schema(PATH_LIMIT), _string(PATH_LIMIT, "a text of at most 4,096 characters", is_showable))
"""A word for another program, passed on as it is."""
KEY = Kind("KEY", _text_schema(100), _string(100, "a key: 1 to 100 characters on one line", is_showable))
LABEL = Kind(
    "LABEL", _text_schema(NAME_LIMIT, 0), _string(NAME_LIMIT, "a label of at most 63 characters", is_showable, least=0)
)
WORD = Kind(
    "WORD", _text_schema(NAME_LIMIT), _string(NAME_LIMIT, "a word: 1 to 63 characters on one line", is_showable)
)
TTL = Kind(
    "TIME",
    {"type": "integer", "minimum": 0, "maximum": TTL_LIMIT},
    _number(0, TTL_LIMIT, "a time to live in seconds, at most ten years; 0 is for ever", whole=True),
    duration,
)
COUNT = Kind(
    "N",
    {"type": "integer", "minimum": 1, "maximum": COUNT_LIMIT},
    _number(1, COUNT_LIMIT, f"a number, 1 to {COUNT_LIMIT}", whole=True),
    whole,
)

INPUT = Kind("PATH", _text_schema(PATH_LIMIT), _PATH)
"""A path that the daemon reads; the command makes it absolute, and takes `-` for its standard input."""

OUTPUT = Kind("PATH", _text_schema(PATH_LIMIT), _PATH)
"""A path that the daemon writes; the command makes it absolute, and takes `-` for its standard output."""

ATTACHMENT = Kind("FILE", _text_schema(PATH_LIMIT), _check_attachment)
"""A handle, or a path that the daemon reads; the command makes what is no handle absolute."""
