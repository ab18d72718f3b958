"""Sealed boxes: for whom, from whom, and nowhere else. With vectors in tests/vectors/joining.json."""

import json

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.errors import LocalProtocolError
from meshd.model.facts import SEALED_LIMIT
from meshd.model.identity import Keys
from meshd.protocol.handshake import HandshakeError
from meshd.protocol.sealing import OVERHEAD, PAYLOAD_LIMIT, Place, seal, unseal
from tests.protocol.back_to_back import fixed_bytes, fixed_entropy
from tests.protocol.session_kit import ALICE, BOB, CAROL
from tests.vectors.make_joining import FILE, PLACE

SECRET = fixed_bytes("a mesh secret")


def sealed(payload: bytes = SECRET, place: Place = PLACE) -> bytes:
    return seal(ALICE, BOB.identity.noise_key, place, payload, fixed_entropy("sealing"))


def test_the_vector() -> None:
    vector = json.loads(FILE.read_text())["sealed"]

    def value(name: str) -> bytes:
        return bytes.fromhex(vector[name])

    assert PLACE.prologue == value("prologue")
    reader = Keys(value("signing_private"), value("noise_private"))
    assert unseal(reader, value("author_noise_key"), PLACE, value("box")) == value("payload")


@settings(deadline=None)
@given(st.binary(max_size=PAYLOAD_LIMIT))
def test_there_and_back(payload: bytes) -> None:
    box = sealed(payload)
    assert len(box) == len(payload) + OVERHEAD <= SEALED_LIMIT
    assert unseal(BOB, ALICE.identity.noise_key, PLACE, box) == payload


def test_it_opens_in_its_place_only() -> None:
    box = sealed()
    others = {
        "purpose": "mail",
        "mesh": fixed_bytes("other mesh"),
        "author": CAROL.identity.signing_key,
        "generation": PLACE.generation + 1,
        "sequence": PLACE.sequence + 1,
    }
    assert {field.name for field in attrs.fields(Place)} == {*others, "recipient"}
    for name, other in others.items():
        with pytest.raises(HandshakeError):
            unseal(BOB, ALICE.identity.noise_key, attrs.evolve(PLACE, **{name: other}), box)


def test_it_opens_for_one_and_names_one() -> None:
    box = sealed()
    place_of_carol = attrs.evolve(PLACE, recipient=CAROL.identity.signing_key)
    with pytest.raises(HandshakeError):
        unseal(CAROL, ALICE.identity.noise_key, place_of_carol, box)
    with pytest.raises(LocalProtocolError):
        unseal(CAROL, ALICE.identity.noise_key, PLACE, box)
    with pytest.raises(HandshakeError):
        unseal(BOB, CAROL.identity.noise_key, PLACE, box)


@settings(deadline=None)
@given(st.binary(max_size=SEALED_LIMIT))
def test_whatever_comes_is_one_error(box: bytes) -> None:
    with pytest.raises(HandshakeError):
        unseal(BOB, ALICE.identity.noise_key, PLACE, box)


@pytest.mark.parametrize("place", range(len(sealed())))
def test_no_changed_byte_goes_through(place: int) -> None:
    box = bytearray(sealed())
    box[place] ^= 1
    with pytest.raises(HandshakeError):
        unseal(BOB, ALICE.identity.noise_key, PLACE, bytes(box))


def test_a_key_without_secrets_is_an_error_of_the_key() -> None:
    with pytest.raises(HandshakeError):
        seal(ALICE, bytes(32), PLACE, SECRET, fixed_entropy("sealing"))


def test_what_is_not_ours_to_seal() -> None:
    with pytest.raises(LocalProtocolError):
        sealed(bytes(PAYLOAD_LIMIT + 1))
    with pytest.raises(LocalProtocolError):
        seal(CAROL, BOB.identity.noise_key, PLACE, SECRET, fixed_entropy("sealing"))
