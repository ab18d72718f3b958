"""Which of a peer's characters may be shown: the one rule for labels, names, reasons and what goes to a terminal.

Unfit are control characters (C0, DEL, C1), line and paragraph separators and lone surrogates, which only a broken
decoder lets through: they move a cursor, start a line or cannot be written. Unfit too are the characters with the
property Bidi_Control, which let `txt.exe` be read as `exe.txt`. All else stays, the joiners in emoji and combining marks
too: they stand in what honest people write, and change no line but their own word.

Sources: Unicode 15, chapter 23.1 (control codes) and PropList.txt (Bidi_Control); CVE-2021-42574.
"""

import re
from typing import Final

LABEL_LIMIT: Final = 63
"""Most characters of a machine's chosen label, as in a DNS label."""

_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def is_showable(text: str) -> bool:
    """Whether `text` may be shown as it is, on one line."""
    return _UNFIT.search(text) is None


def is_label(text: str) -> bool:
    """Whether a machine may call itself so: at most LABEL_LIMIT characters, all of which may be shown."""
    return len(text) <= LABEL_LIMIT and is_showable(text)


def harmless(text: str, keep: str = "") -> str:
    """`text` with each unfit character replaced by U+FFFD, but for those in `keep` (a line feed, a tab)."""
    return _UNFIT.sub(lambda found: found[0] if found[0] in keep else "\N{REPLACEMENT CHARACTER}", text)
