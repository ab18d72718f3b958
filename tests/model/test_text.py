"""What of a peer's text reaches a screen."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.model.text import harmless, is_showable

# The property Bidi_Control, which unicodedata does not know, by the names of its twelve characters.
BIDI_CONTROLS = frozenset(
    map(
        unicodedata.lookup,
        (
            *("ARABIC LETTER MARK", "LEFT-TO-RIGHT MARK", "RIGHT-TO-LEFT MARK"),
            *("LEFT-TO-RIGHT EMBEDDING", "RIGHT-TO-LEFT EMBEDDING", "POP DIRECTIONAL FORMATTING"),
            *("LEFT-TO-RIGHT OVERRIDE", "RIGHT-TO-LEFT OVERRIDE"),
            *("LEFT-TO-RIGHT ISOLATE", "RIGHT-TO-LEFT ISOLATE", "FIRST STRONG ISOLATE", "POP DIRECTIONAL ISOLATE"),
        ),
    )
)
near_the_edge = st.text(st.sampled_from("a é\n\t\r\x1b\x7f\x9b\u200d\u200f\u202e\u2028\u0301\ud800\ufffd\U0001f469"))


def test_the_rule_for_every_character() -> None:
    for character in map(chr, range(sys.maxunicode + 1)):
        unfit = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in BIDI_CONTROLS
        assert is_showable(character) is not unfit, hex(ord(character))


@pytest.mark.parametrize("text", ["", "Zoës Gerät ✓", "האחד", "👩‍💻", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "e\u0301", "नमस्ते", "می‌خواهم", "日本語"])
def test_what_people_write_stays(text: str) -> None:
    assert is_showable(text)
    assert harmless(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\ufffd[2J"),
        ("a\r\nb\tc", "a\ufffd\ufffdb\ufffdc"),
        ("\u202etxt.exe", "\ufffdtxt.exe"),
        ("\x9b1A\x7f", "\ufffd1A\ufffd"),
        ("a\u2028b\udc80", "a\ufffdb\ufffd"),
    ],
)
def test_what_a_terminal_obeys_is_replaced(text: str, shown: str) -> None:
    assert not is_showable(text)
    assert harmless(text) == shown


def test_what_the_caller_keeps_stays() -> None:
    assert harmless("a\r\nb\tc\x1b", keep="\n\t") == "a\ufffd\nb\tc\ufffd"


@given(st.one_of(near_the_edge, st.text()), st.sampled_from(["", "\n\t"]))
def test_each_character_stays_or_is_replaced(text: str, keep: str) -> None:
    shown = harmless(text, keep)
    assert len(shown) == len(text)
    assert all(
        after == (before if before in keep or is_showable(before) else "\ufffd")
        for before, after in zip(text, shown, strict=True)
    )
    assert is_showable(shown.translate({ord(each): None for each in keep}))
    shown.encode()  # no lone surrogate is left that no stream takes
