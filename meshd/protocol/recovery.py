"""Recovery words: 24 words of BIP 39 that hold a mesh's highest key, shown once, kept nowhere. Rules: membership.md.

The words are 32 bytes and a checksum of 8 bits (BIP 39, "Generating the mnemonic"): most single slips are noticed before
anything is signed. The bytes are an Ed25519 seed; BIP 39's stretching is for words that people choose, and these are drawn.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import Final

from blake3 import blake3
from mnemonic import Mnemonic

from meshd.errors import UsageError
from meshd.model.identity import KEY_SIZE, Keys

WORDS: Final = 24

_NOISE: Final = "tether recovery noise key v1"


def new_words(entropy: Callable[[int], bytes]) -> tuple[str, ...]:
    """New recovery words, from 32 random bytes."""
    return tuple(_mnemonic().to_mnemonic(entropy(KEY_SIZE)).split())


def recovery_keys(text: str) -> Keys:
    """The keys in recovery words, in any case and with any white space. Raises UsageError, which names no word."""
    words = re.split(r"[\s-]+", text.strip().lower())
    if len(words) != WORDS:
        raise UsageError(f"These are {len(words)} words; recovery words are {WORDS}.")
    known = set(_mnemonic().wordlist)
    wrong = [str(place) for place, word in enumerate(words, 1) if word not in known]
    if wrong:
        raise UsageError(
            f"Word {' and '.join(wrong[:4])} of the recovery words is not on the list.", "Look for a slip."
        )
    if not _mnemonic().check(" ".join(words)):
        raise UsageError(
            "These recovery words do not fit together.", "Look for a wrong word, or two that changed places."
        )
    seed = bytes(_mnemonic().to_entropy(words))
    # It takes no part in handshakes; a key pair of ours has both halves, and this one is derived so that it is no other's.
    return Keys(seed, blake3(seed, derive_key_context=_NOISE).digest())


@cache
def _mnemonic() -> Mnemonic:
    return Mnemonic("english")
