"""The Noise wrapper against the published vectors, and against what the library would do without it."""

import hashlib
import warnings
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from noise.connection import Keypair, NoiseConnection

from meshd.errors import LocalProtocolError
from meshd.protocol.handshake import MESSAGE_LIMIT, TAG_SIZE, HandshakeError, NoiseHandshake, Pattern, Role

SUITE = "25519_ChaChaPoly_BLAKE2s"
NAME = f"Noise_XXpsk0_{SUITE}"
PATTERNS: dict[Pattern, int] = {"XXpsk0": 3, "IK": 2, "K": 1}
"""Each with its count of handshake messages."""
EXTRACTS = Path(__file__).parent.parent / "vectors" / "noise"
PUBLISHED = Path("/usr/share/gocode/src/github.com/flynn/noise/vectors.txt")
PSK = bytes(range(32))


def blocks(text: str, pattern: str) -> list[dict[str, str]]:
    parsed = [dict(line.split("=", 1) for line in block.splitlines()) for block in text.strip().split("\n\n")]
    return [block for block in parsed if block["handshake"] == f"Noise_{pattern}_{SUITE}"]


def public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def side(role: Role, *, psk: bytes = PSK, prologue: bytes = b"") -> NoiseHandshake:
    return NoiseHandshake(
        "XXpsk0",
        role,
        static_private=hashlib.sha256(b"static" + role.value.encode()).digest(),
        prologue=prologue,
        psk=psk,
        ephemeral_private=hashlib.sha256(b"ephemeral" + role.value.encode()).digest(),
    )


def finished() -> tuple[NoiseHandshake, NoiseHandshake]:
    a, b = side(Role.A), side(Role.B)
    b.read(a.write())
    a.read(b.write())
    b.read(a.write())
    return a, b


VECTORS = {pattern: blocks((EXTRACTS / f"{pattern}_{SUITE}.txt").read_text(), pattern) for pattern in PATTERNS}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_extract_has_all_its_blocks(pattern: Pattern) -> None:
    assert len(VECTORS[pattern]) == 4
    assert any("prologue" in block for block in VECTORS[pattern])


@pytest.mark.skipif(not PUBLISHED.exists(), reason="golang-github-flynn-noise-dev is not installed")
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_extract_is_what_was_published(pattern: Pattern) -> None:
    assert blocks(PUBLISHED.read_text(), pattern) == VECTORS[pattern]


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("pattern", PATTERNS)
def test_published_vectors(pattern: Pattern, number: int) -> None:
    vector, messages = VECTORS[pattern][number], PATTERNS[pattern]

    def value(key: str) -> bytes:
        return bytes.fromhex(vector.get(key, ""))

    def made(role: Role) -> NoiseHandshake:
        name, other = ("init", "resp") if role is Role.A else ("resp", "init")
        knows_peer = pattern == "K" or (pattern == "IK" and role is Role.A)
        return NoiseHandshake(
            pattern,
            role,
            static_private=value(f"{name}_static"),
            prologue=value("prologue"),
            psk=value("preshared_key") if pattern == "XXpsk0" else None,
            ephemeral_private=None if pattern == "K" and role is Role.B else value(f"gen_{name}_ephemeral"),
            remote_static=public(value(f"{other}_static")) if knows_peer else None,
        )

    sides = [made(Role.A), made(Role.B)]
    count = sum(key.endswith("_ciphertext") for key in vector)
    assert count > messages
    for number in range(count if pattern != "K" else messages):
        # Turns begin again with the initiator when the transport opens; that is the order of this file of vectors.
        turn = number % 2 if number < messages else (number - messages) % 2
        writer, reader = sides[turn], sides[1 - turn]
        payload, ciphertext = value(f"msg_{number}_payload"), value(f"msg_{number}_ciphertext")
        if number < messages:
            assert writer.write(payload) == ciphertext
            assert reader.read(ciphertext) == payload
        else:
            assert writer.encrypt(payload) == ciphertext
            assert reader.decrypt(ciphertext) == payload
    assert all(side.finished for side in sides)
    assert sides[0].handshake_hash == sides[1].handshake_hash
    assert sides[0].remote_static == sides[1].local_static == public(value("resp_static"))
    assert sides[1].remote_static == sides[0].local_static == public(value("init_static"))


KEYS_WANTED = {
    ("XXpsk0", Role.A): {"psk", "ephemeral_private"},
    ("XXpsk0", Role.B): {"psk", "ephemeral_private"},
    ("IK", Role.A): {"remote_static", "ephemeral_private"},
    ("IK", Role.B): {"ephemeral_private"},
    ("K", Role.A): {"remote_static", "ephemeral_private"},
    ("K", Role.B): {"remote_static"},
}


@pytest.mark.parametrize(("pattern", "role"), KEYS_WANTED)
def test_no_key_is_left_out_and_none_is_given_for_nothing(pattern: Pattern, role: Role) -> None:
    """A psk that is silently not used would be worse than an error."""
    names = ("psk", "ephemeral_private", "remote_static")
    for given in range(8):
        keys = {name: public(PSK) for bit, name in enumerate(names) if given >> bit & 1}
        if set(keys) == KEYS_WANTED[pattern, role]:
            NoiseHandshake(pattern, role, static_private=PSK, prologue=b"", **keys)
        else:
            with pytest.raises(LocalProtocolError):
                NoiseHandshake(pattern, role, static_private=PSK, prologue=b"", **keys)


def test_no_warning_for_entropy_that_was_handed_in() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finished()


def test_the_private_attributes_are_there() -> None:
    """Fails when an upgrade takes away what handshake.py leans on, naming it."""
    connection = NoiseConnection.from_name(NAME.encode())
    connection.set_as_initiator()
    connection.set_psks(psk=PSK)
    connection.set_keypair_from_private_bytes(Keypair.STATIC, PSK)
    connection.start_handshake()
    assert connection._next_fn == connection.write_message
    state = connection.noise_protocol.handshake_state
    assert state.s.public_bytes == public(PSK)
    assert hasattr(state, "e")
    assert hasattr(state, "rs")
    assert not hasattr(state.rs, "public_bytes")


def test_the_library_alone_would_write_after_a_failed_read() -> None:
    """Why the wrapper dies: if this ever raises, the library has learnt it and the rule costs nothing."""
    connection = NoiseConnection.from_name(NAME.encode())
    connection.set_as_responder()
    connection.set_psks(psk=PSK)
    connection.set_keypair_from_private_bytes(Keypair.STATIC, PSK)
    connection.start_handshake()
    with pytest.raises(Exception):  # noqa: B017 - whichever it raises
        connection.read_message(side(Role.A, psk=bytes(32)).write())
    assert len(connection.write_message()) == 96

    b = side(Role.B)
    with pytest.raises(HandshakeError):
        b.read(side(Role.A, psk=bytes(32)).write())
    for use in (b.write, lambda: b.read(b""), lambda: b.encrypt(b""), lambda: b.decrypt(b"")):
        with pytest.raises(LocalProtocolError):
            use()
    for name in ("finished", "handshake_hash", "remote_static", "local_static"):
        with pytest.raises(LocalProtocolError):
            getattr(b, name)


FIRST = side(Role.A).write()


@pytest.mark.parametrize(
    "message",
    [
        b"",
        FIRST[:31],
        FIRST[:-1],
        FIRST + b"\0",
        bytes(32) + FIRST[32:],
        FIRST[:-1] + bytes([FIRST[-1] ^ 1]),
        bytes(MESSAGE_LIMIT + 1),
    ],
    ids=["empty", "short key", "short tag", "longer", "low order", "flipped", "over the limit"],
)
def test_every_bad_message_is_one_error(message: bytes) -> None:
    b = side(Role.B)
    with pytest.raises(HandshakeError) as caught:
        b.read(message)
    assert str(caught.value) == "The other side sent a message that does not verify."


def test_a_low_order_ephemeral_of_the_responder_is_one_error() -> None:
    a, b = side(Role.A), side(Role.B)
    b.read(a.write())
    with pytest.raises(HandshakeError):
        a.read(bytes(32) + b.write()[32:])


def test_another_prologue_does_not_verify() -> None:
    with pytest.raises(HandshakeError):
        side(Role.B, prologue=b"one").read(side(Role.A, prologue=b"two").write())


def test_turns_are_ours_to_keep() -> None:
    a, b = side(Role.A), side(Role.B)
    for misuse in (b.write, lambda: a.read(b""), lambda: a.encrypt(b""), lambda: b.decrypt(b"")):
        with pytest.raises(LocalProtocolError):
            misuse()
    for unknown in ("handshake_hash", "remote_static"):
        with pytest.raises(LocalProtocolError):
            getattr(a, unknown)
    b.read(a.write())  # a misuse kills nothing
    with pytest.raises(LocalProtocolError):
        a.write()
    a, b = finished()
    for misuse in (a.write, lambda: a.read(b"")):
        with pytest.raises(LocalProtocolError):
            misuse()


@pytest.mark.parametrize("short", ["static_private", "psk", "ephemeral_private"])
def test_keys_have_32_bytes(short: str) -> None:
    keys = {"static_private": PSK, "psk": PSK, "ephemeral_private": PSK} | {short: PSK[:31]}
    with pytest.raises(LocalProtocolError):
        NoiseHandshake("XXpsk0", Role.A, prologue=b"", **keys)


def test_transport_holds_its_limits_both_ways() -> None:
    a, b = finished()
    largest = bytes(MESSAGE_LIMIT - TAG_SIZE)
    assert b.decrypt(a.encrypt(largest)) == largest
    with pytest.raises(LocalProtocolError):
        a.encrypt(largest + b"\0")
    with pytest.raises(HandshakeError):
        b.decrypt(bytes(MESSAGE_LIMIT + 1))
    with pytest.raises(LocalProtocolError):
        b.encrypt(b"")


def test_transport_messages_have_one_order() -> None:
    a, b = finished()
    first, second = a.encrypt(b"1"), a.encrypt(b"2")
    assert b.decrypt(first) == b"1"
    with pytest.raises(HandshakeError):
        b.decrypt(first)
    with pytest.raises(LocalProtocolError):
        b.decrypt(second)
