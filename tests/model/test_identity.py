from hypothesis import given
from hypothesis import strategies as st

from meshd.model.identity import (
    KEY_SIZE,
    SHORT_LENGTH,
    SIGNATURE_SIZE,
    Context,
    Identity,
    Keys,
    is_signed,
    node_id,
    node_text,
    short_text,
    signed_bytes,
)
from tests.model.mesh_kit import keys_of

KEYS = keys_of("one")
OTHER = keys_of("other")
fields = st.lists(st.binary(max_size=40), max_size=4)


def test_an_id_is_the_hash_of_the_signing_key_in_base32() -> None:
    node = KEYS.identity.node
    assert node == node_id(KEYS.identity.signing_key) and len(node) == 32
    text = node_text(node)
    assert len(text) == 52 and set(text) <= set("abcdefghijklmnopqrstuvwxyz234567")
    assert short_text(node) == text[:SHORT_LENGTH]


def test_keys_know_their_public_half_and_say_nothing_of_the_private() -> None:
    again = Keys(KEYS.signing_private, KEYS.noise_private)
    assert again.identity == KEYS.identity
    assert len(KEYS.identity.signing_key) == len(KEYS.identity.noise_key) == KEY_SIZE
    for secret in (KEYS.signing_private, KEYS.noise_private):
        assert secret.hex() not in repr(KEYS) and repr(secret) not in repr(KEYS)


def test_new_keys_take_64_bytes_of_entropy() -> None:
    asked = []

    def entropy(count: int) -> bytes:
        asked.append(count)
        return bytes([len(asked)]) * count

    keys = Keys.generate(entropy)
    assert sum(asked) == 64
    assert (keys.signing_private, keys.noise_private) == (b"\1" * 32, b"\2" * 32)


def test_an_identity_is_bound_by_its_own_signing_key() -> None:
    mine, other = KEYS.identity, OTHER.identity
    assert mine.is_bound()
    assert not Identity(mine.signing_key, other.noise_key, mine.binding).is_bound()
    assert not Identity(other.signing_key, mine.noise_key, mine.binding).is_bound()
    assert not Identity(mine.signing_key, mine.noise_key, bytes(SIGNATURE_SIZE)).is_bound()


def test_a_signature_is_for_one_purpose_one_key_and_these_fields() -> None:
    for purpose in Context:
        signature = KEYS.sign(purpose, b"ab", b"c")
        assert len(signature) == SIGNATURE_SIZE
        key = KEYS.identity.signing_key
        assert is_signed(key, signature, purpose, b"ab", b"c")
        assert not is_signed(key, signature, purpose, b"a", b"bc")
        assert not is_signed(key, signature, purpose, b"abc")
        assert not is_signed(OTHER.identity.signing_key, signature, purpose, b"ab", b"c")
        assert not any(is_signed(key, signature, other, b"ab", b"c") for other in Context if other is not purpose)


@given(fields, fields)
def test_what_is_signed_has_one_reading(one: list[bytes], other: list[bytes]) -> None:
    same = signed_bytes(Context.RECORD, *one) == signed_bytes(Context.RECORD, *other)
    assert same is (one == other)


@given(st.binary(max_size=70), st.binary(max_size=70))
def test_broken_keys_and_signatures_are_only_wrong(key: bytes, signature: bytes) -> None:
    assert not is_signed(key, signature, Context.RECORD, b"x") or len(signature) == SIGNATURE_SIZE
    assert not is_signed(KEYS.identity.signing_key, signature, Context.RECORD, b"x")
