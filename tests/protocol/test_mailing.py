"""Sealed mail: for whom, at which place, and what is refused. With vectors in tests/vectors/mail.json."""

import json

import attrs
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.errors import LocalProtocolError, RemoteProtocolError
from meshd.model.identity import Identity, Keys
from meshd.model.message import SEALED_LIMIT, TEXT_LIMIT, Agent, Attached, Letter, SealedMail
from meshd.model.record import BODY_LIMIT
from meshd.protocol.mailing import decode_said, encode_said, is_for, open_mail, seal_mail
from meshd.wire.bodies import encode
from meshd.wire.codec import decode_body
from tests.protocol.back_to_back import fixed_bytes, fixed_entropy
from tests.protocol.session_kit import ALICE, BOB, CAROL, MESH
from tests.vectors.make_mail import FILE, GENERATION, LETTER, REFUSED, SEQUENCE, WORDS, build

VECTORS = json.loads(FILE.read_text())
PLAINTEXT = encode_said(LETTER)


def sealed(*recipients: Identity, plaintext: bytes = PLAINTEXT) -> SealedMail:
    return seal_mail(
        ALICE, MESH, GENERATION, SEQUENCE, recipients or (BOB.identity,), plaintext, fixed_entropy("mailing")
    )


def opened(mail: SealedMail, keys: Keys = BOB, author: Keys = ALICE, **place: int) -> bytes:
    where = {"generation": GENERATION, "sequence": SEQUENCE, **place}
    return open_mail(keys, author.identity, MESH, where["generation"], where["sequence"], mail)


def test_the_vectors() -> None:
    assert build() == VECTORS
    recipient = Keys(*(bytes.fromhex(VECTORS["recipient"][name]) for name in ("signing_private", "noise_private")))
    for name, said in (("letter", LETTER), ("words", WORDS)):
        mail = decode_body(SealedMail, bytes.fromhex(VECTORS[name]["body"]))
        plaintext = opened(mail, recipient)
        assert plaintext.hex() == VECTORS[name]["plaintext"]
        assert decode_said(plaintext) == said


def test_the_authors_own_key_is_what_the_page_says() -> None:
    """Computed here from the RFCs alone: what the author's machine needs no box for."""
    mail = sealed()
    key = HKDF(SHA256(), 32, mail.salt, b"tether mail v1").derive(ALICE.noise_private)
    fields = (
        *(b"mail", b"tether/1", MESH, ALICE.identity.signing_key, b""),
        *(GENERATION.to_bytes(8, "big"), SEQUENCE.to_bytes(8, "big")),
    )
    place = b"".join(len(field).to_bytes(4, "big") + field for field in fields)
    assert ChaCha20Poly1305(key).decrypt(bytes(12), mail.sealed, place) == PLAINTEXT


def test_the_author_and_each_recipient_open_it_and_nobody_else() -> None:
    mail = sealed(BOB.identity, CAROL.identity)
    assert [opened(mail, keys) for keys in (ALICE, BOB, CAROL)] == [PLAINTEXT] * 3
    only = sealed(CAROL.identity)
    assert not is_for(BOB, ALICE.identity.signing_key, only)
    assert is_for(CAROL, ALICE.identity.signing_key, only) and is_for(ALICE, ALICE.identity.signing_key, only)
    with pytest.raises(LocalProtocolError):
        opened(only)
    # A box of another's is of no use under one's own key.
    (box,) = only.boxes
    stolen = attrs.evolve(only, boxes=(attrs.evolve(box, signing_key=BOB.identity.signing_key),))
    with pytest.raises(RemoteProtocolError):
        opened(stolen)


def test_it_opens_at_its_place_and_from_its_author_only() -> None:
    mail = sealed()
    for place in ({"generation": 3}, {"sequence": 8}):
        for keys in (ALICE, BOB):
            with pytest.raises(RemoteProtocolError):
                opened(mail, keys, **place)
    with pytest.raises(RemoteProtocolError):
        opened(mail, author=CAROL)
    with pytest.raises(RemoteProtocolError):
        open_mail(BOB, ALICE.identity, fixed_bytes("another mesh"), GENERATION, SEQUENCE, mail)


def test_boxes_and_texts_are_not_exchanged() -> None:
    one, two = sealed(), sealed(plaintext=encode_said(attrs.evolve(LETTER, text="another")))
    mixed = attrs.evolve(one, sealed=two.sealed)
    for keys in (ALICE, BOB):
        with pytest.raises(RemoteProtocolError):
            opened(mixed, keys) if keys is BOB else opened(attrs.evolve(mixed, salt=fixed_bytes("salt")), keys)


@given(st.integers(0, 200), st.integers(1, 255))
def test_no_changed_byte_goes_unseen(place: int, change: int) -> None:
    mail = sealed()
    data = bytearray(mail.sealed)
    data[place % len(data)] ^= change
    for keys in (ALICE, BOB):
        with pytest.raises(RemoteProtocolError):
            opened(attrs.evolve(mail, sealed=bytes(data)), keys)


def test_a_machine_whose_key_admits_no_secret_keeps_nobody_from_their_mail() -> None:
    broken = attrs.evolve(CAROL.identity, noise_key=bytes(32))
    mail = sealed(broken, BOB.identity)
    assert [box.signing_key for box in mail.boxes] == [BOB.identity.signing_key]
    assert opened(mail) == PLAINTEXT


def test_carriers_see_powers_of_two() -> None:
    sizes = {
        length: len(sealed(plaintext=encode_said(attrs.evolve(LETTER, text="x" * length))).sealed) - 16
        for length in (0, 1, 100, 1_000, 10_000, 100_000)
    }
    assert sizes[0] == sizes[1] == sizes[100] == 512
    assert all(size & (size - 1) == 0 for size in sizes.values())


def test_the_largest_letter_fits_a_record() -> None:
    letter = attrs.evolve(
        LETTER,
        text="x" * TEXT_LIMIT,
        to=tuple(Agent("a" * 63, BOB.identity.node) for _ in range(256)),
        attached=tuple(Attached("t" * 32, bytes(32)) for _ in range(32)),
    )
    recipients = [Keys(bytes([n] * 32), bytes([n] * 32)).identity for n in range(1, 65)]
    mail = sealed(*recipients, plaintext=encode_said(letter))
    assert len(mail.sealed) <= SEALED_LIMIT
    assert len(encode(mail)) <= BODY_LIMIT
    assert decode_said(opened(mail, Keys(bytes([64] * 32), bytes([64] * 32)))) == letter


@pytest.mark.parametrize("why", REFUSED)
def test_plaintexts_that_are_refused(why: str) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_said(REFUSED[why])


@settings(deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_any_plaintext_is_one_or_refused(junk: bytes, framed: bool) -> None:
    data = len(junk).to_bytes(4, "big") + b"\x01" + junk if framed else junk
    try:
        said = decode_said(data)
    except RemoteProtocolError:
        return
    assert decode_said(encode_said(said)) == said


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)


@settings(deadline=None)
@given(NAMES, st.text(max_size=300), st.lists(NAMES, max_size=5))
def test_what_is_said_comes_back(name: str, text: str, others: list[str]) -> None:
    letter = Letter(
        **{
            **{field.name: getattr(LETTER, field.name) for field in attrs.fields(Letter)},
            "sender": name,
            "text": "".join(each for each in text if not "\ud800" <= each <= "\udfff"),
            "to": tuple(Agent(each, BOB.identity.node) for each in others),
        }
    )
    assert decode_said(encode_said(letter)) == letter
