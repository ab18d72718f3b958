"""Words that people share: passphrases, codes, and the four words that name a transcript. docs/protocol/pairing.md."""

import difflib
import functools
import hashlib
import re
import unicodedata
from collections.abc import Callable
from typing import Final

import attrs

from meshd.errors import UsageError
from meshd.wire.constants import PASSPHRASE_LIMIT

NUMBER_LIMIT: Final = 999_999
"""Highest number of a code; the lowest is 1. A rendezvous server gives higher ones the more windows are open."""

DRAWN_LIMIT: Final = 999
"""Highest number that is drawn here, for a LAN."""

CODE_WORDS: Final = 3
"""Words of a generated code, and fewest of a typed one: 33 bits, and a window allows three guesses."""

_WORD_BITS: Final = 11  # 2,048 words
_NUMBER_BITS: Final = 10  # the least that can hold 999
_SEPARATORS: Final = re.compile(r"[\s\-\u2010-\u2015]+")  # chat programs turn hyphens into dashes
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,5}")  # not \d and int(): other scripts' digits, and no limit of length

_TRANSCRIPT_SALT: Final = b"tether transcript words"
_SCRYPT_N: Final = 1 << 15
_SCRYPT_R: Final = 8
# hashlib.scrypt refuses more than 32 MiB unless told, and these parameters need a little more than 128 * N * r.
_SCRYPT_MEMORY: Final = 128 * _SCRYPT_N * _SCRYPT_R + (1 << 20)


@attrs.frozen
class Code:
    """A public number, 1 to NUMBER_LIMIT, that finds the listener, and the secret words, each from BIP 39's English list.

    `str()` gives what people read to each other; `repr()` hides the words, because it ends in logs.
    """

    number: int
    words: tuple[str, ...] = attrs.field(repr=False)

    @property
    def secret(self) -> bytes:
        """What the two sides prove to each other: the words alone, since the number travels in the clear."""
        return "-".join(self.words).encode("ascii")

    def __str__(self) -> str:
        return "-".join((str(self.number), *self.words))


@attrs.frozen
class Secret:
    """What a passphrase, typed in any form, comes to: the bytes for the PAKE, and the code when it was one."""

    value: bytes = attrs.field(repr=False)
    code: Code | None


def normalise_passphrase(text: str) -> bytes:
    """The bytes of a passphrase: NFKC, white space at both ends removed, UTF-8, 1 to 1,024 bytes. Raises UsageError."""
    # The white space goes last: NFKC makes some, for example of a no-break space or of a spacing accent.
    normal = unicodedata.normalize("NFKC", text).strip()
    try:
        value = normal.encode("utf-8")
    except UnicodeEncodeError:
        # Bytes of the environment that are no UTF-8 arrive as lone surrogates. No chaining: the error holds the text.
        raise UsageError("The passphrase is not valid text.", "Give it in UTF-8.") from None
    if not value:
        raise UsageError("The passphrase is empty.", "Give some words, or none at all for a generated code.")
    if len(value) > PASSPHRASE_LIMIT:
        raise UsageError(
            f"The passphrase has {len(value):,} bytes; at most {PASSPHRASE_LIMIT:,} are allowed.",
            "Is it perhaps the wrong file?",
        )
    return value


def parse_code(text: str) -> Code:
    """The code in `text`, whatever its case and with spaces or dashes for `-`. Raises UsageError, saying what is wrong.

    A word that is not listed is refused here, before anything is sent: a typing error must not cost one of three tries.
    """
    number, *words = _split(text)
    if not _NUMBER.fullmatch(number):
        raise UsageError(
            f"{number!r} is not the number of a code.",
            f"A code begins with its number, 1 to {NUMBER_LIMIT}, e.g. 7-crystal-clock-tower.",
        )
    for word in words:
        if word not in _positions():
            close = difflib.get_close_matches(word, _wordlist(), n=3)
            advice = f"Perhaps {' or '.join(close)}?" if close else "Read the code again."
            raise UsageError(f"{word!r} is not a word of any code.", advice)
    if len(words) < CODE_WORDS:
        raise UsageError(
            f"The code has {len(words)} of at least {CODE_WORDS} words.",
            "Give all of it, e.g. 7-crystal-clock-tower.",
        )
    return Code(int(number), tuple(words))


def looks_like_code(text: str) -> bool:
    """Whether `text` has exactly the form of a code: a number from 1 to NUMBER_LIMIT and at least three words, all listed."""
    try:
        parse_code(text)
    except UsageError:
        return False
    return True


def read_secret(text: str) -> Secret:
    """The secret in a text that may be either: a code when it has exactly that form, else a passphrase. UsageError."""
    value = normalise_passphrase(text)
    if looks_like_code(text):
        code = parse_code(text)
        return Secret(code.secret, code)
    return Secret(value, None)


def generate_code(entropy: Callable[[int], bytes]) -> Code:
    """A new code of three words and a number, each as likely as any other. `entropy` gives that many random bytes."""
    number = 0
    # Drawn again until it fits, never reduced: a remainder would favour the low numbers.
    while not 1 <= number <= DRAWN_LIMIT:
        number = int.from_bytes(entropy(2)) >> (16 - _NUMBER_BITS)
    return Code(number, _words(entropy(5), CODE_WORDS))


def transcript_words(handshake_hash: bytes) -> tuple[str, str, str, str]:
    """Four words (44 bits) that name a handshake, for two people to compare. Takes about 0.1 s and 32 MiB.

    Slow on purpose: somebody in the middle would have to search for a second transcript with the same words.
    """
    digest = hashlib.scrypt(
        handshake_hash, salt=_TRANSCRIPT_SALT, n=_SCRYPT_N, r=_SCRYPT_R, p=1, maxmem=_SCRYPT_MEMORY, dklen=6
    )
    first, second, third, fourth = _words(digest, 4)
    return first, second, third, fourth


def _words(data: bytes, count: int) -> tuple[str, ...]:
    """The words that the first `count` times 11 bits of `data` stand for."""
    bits = int.from_bytes(data) >> (8 * len(data) - _WORD_BITS * count)
    mask = (1 << _WORD_BITS) - 1
    return tuple(_wordlist()[bits >> (_WORD_BITS * place) & mask] for place in reversed(range(count)))


def _split(text: str) -> list[str]:
    return _SEPARATORS.split(normalise_passphrase(text).decode("utf-8").lower())


@functools.cache
def _wordlist() -> list[str]:
    # Imported and read when first needed: most commands need no words, and their start is what a person waits for.
    from mnemonic import Mnemonic

    return Mnemonic("english").wordlist


@functools.cache
def _positions() -> frozenset[str]:
    return frozenset(_wordlist())
