import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mnemonic import Mnemonic

from meshd.errors import UsageError
from meshd.protocol.passphrase import (
    Code,
    generate_code,
    looks_like_code,
    normalise_passphrase,
    parse_code,
    read_secret,
    transcript_words,
)
from meshd.wire.constants import PASSPHRASE_LIMIT

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "words.json").read_text())
WORDS = Mnemonic("english").wordlist


def dice(*draws: bytes):
    """Entropy that gives these bytes in turn, and checks that exactly so many were asked for."""
    left = list(draws)

    def entropy(size: int) -> bytes:
        drawn = left.pop(0)
        assert len(drawn) == size
        return drawn

    return entropy


def number_draw(number: int) -> bytes:
    return (number << 6).to_bytes(2)


def test_the_list_is_the_one_that_codes_out_there_use() -> None:
    assert hashlib.sha256("".join(f"{word}\n" for word in WORDS).encode()).hexdigest() == (
        "2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda"
    )


@pytest.mark.parametrize("vector", VECTORS["codes"], ids=lambda vector: repr(vector["text"]))
def test_codes(vector) -> None:
    text = vector["text"]
    if "refused" in vector:
        with pytest.raises(UsageError) as caught:
            parse_code(text)
        assert vector["refused"] in str(caught.value)
        assert not looks_like_code(text)
        if text.strip():
            assert read_secret(text).code is None
            assert read_secret(text).value == normalise_passphrase(text)
    else:
        code = parse_code(text)
        assert (code.number, code.secret, str(code)) == (vector["number"], vector["secret"].encode(), vector["shown"])
        assert looks_like_code(text)
        assert read_secret(text).value == vector["secret"].encode()
        assert read_secret(text).code == code


@pytest.mark.parametrize("vector", VECTORS["passphrases"], ids=lambda vector: ascii(vector["text"]))
def test_passphrases(vector) -> None:
    if "refused" in vector:
        with pytest.raises(UsageError, match=vector["refused"]) as caught:
            normalise_passphrase(vector["text"])
        # A chained UnicodeEncodeError would print the passphrase in a traceback.
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
    else:
        assert normalise_passphrase(vector["text"]).hex() == vector["hex"]
        assert read_secret(vector["text"]).value.hex() == vector["hex"]


@pytest.mark.parametrize("vector", VECTORS["transcripts"], ids=lambda vector: vector["handshake_hash"][:4])
def test_transcript_words(vector) -> None:
    assert list(transcript_words(bytes.fromhex(vector["handshake_hash"]))) == vector["words"]


def test_the_limit_counts_bytes_after_normalising() -> None:
    assert len(normalise_passphrase(" " * 5000 + "é" * (PASSPHRASE_LIMIT // 2))) == PASSPHRASE_LIMIT
    with pytest.raises(UsageError, match="1,024"):
        normalise_passphrase("é" * (PASSPHRASE_LIMIT // 2) + "x")
    with pytest.raises(UsageError, match="1,024"):
        normalise_passphrase("\ufdfa" * 100)  # one character that normalises to 33 bytes
    with pytest.raises(UsageError, match="1,024"):
        parse_code("7-" + "9" * 5000)


@given(st.text())
def test_any_text_is_a_passphrase_or_a_usage_error(text: str) -> None:
    try:
        value = normalise_passphrase(text)
    except UsageError:
        return
    assert normalise_passphrase(value.decode()) == value


@given(st.text())
def test_any_text_is_a_code_or_a_usage_error(text: str) -> None:
    try:
        parse_code(text)
    except UsageError:
        assert not looks_like_code(text)


def test_a_code_is_read_back_as_it_was_shown() -> None:
    assert parse_code("7-crystal-clock-tower") == Code(7, ("crystal", "clock", "tower"))
    code = generate_code(dice(number_draw(512), b"\x12\x34\x56\x78\x9a"))
    assert parse_code(str(code)) == code
    assert parse_code(str(code).upper().replace("-", " ")) == code
    assert read_secret(str(code)).value == code.secret


def test_every_word_can_be_drawn_in_every_place() -> None:
    for place in range(3):
        drawn = set()
        for index in range(2048):
            bits = (index << (11 * (2 - place))) << 7
            drawn.add(generate_code(dice(number_draw(1), bits.to_bytes(5))).words[place])
        assert drawn == set(WORDS)


def test_numbers_are_drawn_again_not_folded() -> None:
    entropy = dice(number_draw(0), number_draw(1000), number_draw(1023), number_draw(999), bytes(5))
    assert generate_code(entropy).number == 999
    numbers = [generate_code(dice(number_draw(number), bytes(5))).number for number in range(1, 1000)]
    assert numbers == list(range(1, 1000))


def test_no_repr_shows_a_secret() -> None:
    shown = repr(parse_code("7-crystal-clock-tower")) + repr(read_secret("7 crystal clock tower"))
    shown += repr(read_secret("my long passphrase"))
    for secret in ("crystal", "clock", "tower", "long"):
        assert secret not in shown
    assert "7" in shown


def test_the_word_list_is_not_loaded_until_a_word_is_needed() -> None:
    program = (
        "import sys; from meshd.protocol.passphrase import normalise_passphrase, read_secret;"
        "read_secret('plain words'); assert 'mnemonic' not in sys.modules;"
        "read_secret('7 zoo zebra zero'); assert 'mnemonic' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parent.parent.parent)
