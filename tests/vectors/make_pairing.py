"""Writes pairing.json: `python -m tests.vectors.make_pairing` from the root. Fixed entropy, so always the same file."""

import hashlib
import json
from pathlib import Path
from typing import Any

from meshd.protocol.admission import TRIES
from meshd.protocol.binding import Binding
from meshd.protocol.handshake import NoiseHandshake, Role
from meshd.protocol.passphrase import transcript_words
from meshd.wire.codec import encode_body
from meshd.wire.constants import PAIRING_FRAMES, Frame
from meshd.wire.framing import HEADER, encode_frame
from meshd.wire.messages import Hello, Profile
from tests.protocol.back_to_back import ALPN, DIGEST, SECRET, Ran, fixed_bytes, pairing, run

FILE = Path(__file__).parent / "pairing.json"

IDENTITY = (1).to_bytes(32, "little")
ORDER_8 = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
ORDER_2 = (2**255 - 20).to_bytes(32, "little")
LABELS = {"a line break": "a\nb", "an escape": "\x1b[2J", "text turned round": "\u202ecod.exe"}
"""What a label may not hold, with a label that holds it."""

NOT_ON_THE_CURVE = (2).to_bytes(32, "little")


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def session(a: Ran, b: Ran) -> dict[str, Any]:
    (_, hello_a), (_, pake_a), (_, noise_1), (_, noise_3), (_, confirm_a) = a.frames
    (_, hello_b), (_, pake_b), (_, noise_2), (_, confirm_b) = b.frames
    assert a.paired is not None and b.paired is not None
    assert a.results[-1].key == b.results[-1].key
    binding = Binding(certificate_digest=DIGEST, alpn=ALPN)
    values = {
        "secret": SECRET,
        "certificate_digest": DIGEST,
        "static_private_a": fixed_bytes("machine A static"),
        "static_private_b": fixed_bytes("machine B static"),
        "nonce_a": fixed_bytes("machine A 1"),
        "nonce_b": fixed_bytes("machine B 1"),
        "scalar_entropy_a": fixed_bytes("machine A 2", 64),
        "scalar_entropy_b": fixed_bytes("machine B 2", 64),
        "ephemeral_private_a": fixed_bytes("machine A 3"),
        "ephemeral_private_b": fixed_bytes("machine B 3"),
        "hello_a": hello_a,
        "hello_b": hello_b,
        "identity_a": binding.fields("A", hello_a, hello_b),
        "identity_b": binding.fields("B", hello_a, hello_b),
        "prologue": binding.fields("AB", hello_a, hello_b),
        "pake_a": pake_a,
        "pake_b": pake_b,
        "spake2_key": a.results[-1].key,
        "noise_1": noise_1,
        "noise_2": noise_2,
        "noise_3": noise_3,
        "profile_a": encode_body(b.paired.peer),
        "profile_b": encode_body(a.paired.peer),
        "confirm_b": confirm_b,
        "confirm_a": confirm_a,
        "handshake_hash": a.paired.handshake_hash,
    }
    words = transcript_words(a.paired.handshake_hash)
    return {"alpn": ALPN} | {name: value.hex() for name, value in values.items()} | {"transcript_words": words}


def who_holds_the_words(a: Ran, b: Ran, role: Role, static: bytes | None = None) -> NoiseHandshake:
    """The handshake of `role` in the session of these two, to say in it what an honest machine would not."""
    (_, hello_a), (_, hello_b) = a.frames[0], b.frames[0]
    name = f"machine {role.value}"
    return NoiseHandshake(
        "XXpsk0",
        role,
        static_private=static or fixed_bytes(f"{name} static"),
        prologue=Binding(certificate_digest=DIGEST, alpn=ALPN).fields("AB", hello_a, hello_b),
        psk=a.results[-1].key,
        ephemeral_private=fixed_bytes(f"{name} 3"),
    )


def rule_breakers(a: Ran, b: Ran) -> list[tuple[str, Role, list[bytes], str]]:
    """What somebody sends who holds the words and breaks the page: its name, to whom, all frames, the close code."""
    noise_1, noise_3 = (a.frames[index][1] for index in (2, 3))
    noise_2 = b.frames[2][1]
    from_a = [encode_frame(*frame) for frame in a.frames]
    from_b = [encode_frame(*frame) for frame in b.frames]

    def to_a(profile: bytes) -> list[bytes]:
        handshake = who_holds_the_words(a, b, Role.B)
        handshake.read(noise_1)
        handshake.write()
        handshake.read(noise_3)
        return [*from_b[:3], encode_frame(Frame.CONFIRM, handshake.encrypt(profile))]

    def to_b(profile: bytes) -> list[bytes]:
        handshake = who_holds_the_words(a, b, Role.A)
        handshake.write()
        handshake.read(noise_2)
        handshake.write()
        return [*from_a[:4], encode_frame(Frame.CONFIRM, handshake.encrypt(profile))]

    def noise_from_a(payload: bytes = b"", last_payload: bytes = b"", static: bytes | None = None) -> list[bytes]:
        handshake = who_holds_the_words(a, b, Role.A, static)
        messages = [handshake.write(payload)]
        if not payload:
            handshake.read(noise_2)
            messages.append(handshake.write(last_payload))
        return [*from_a[:2], *(encode_frame(Frame.NOISE, message) for message in messages)]

    def noise_from_b(payload: bytes = b"", static: bytes | None = None) -> list[bytes]:
        handshake = who_holds_the_words(a, b, Role.B, static)
        handshake.read(noise_1)
        return [*from_b[:2], encode_frame(Frame.NOISE, handshake.write(payload))]

    found = [
        ("NOISE with a payload", Role.A, noise_from_b(payload=b"hello"), "PROTOCOL"),
        ("NOISE with a payload", Role.B, noise_from_a(payload=b"hello"), "PROTOCOL"),
        ("last NOISE with a payload", Role.B, noise_from_a(last_payload=b"hello"), "PROTOCOL"),
        ("own static key", Role.A, noise_from_b(static=fixed_bytes("machine A static")), "SELF"),
        ("own static key", Role.B, noise_from_a(static=fixed_bytes("machine B static")), "SELF"),
    ]
    for name, profile in (
        *((f"label with {what}", encode_body(Profile(label, True, True, False))) for what, label in LABELS.items()),
        ("label that is too long", encode_body(Profile("x" * 64, True, True, False))),
        ("profile that is none", b"\xc1"),
    ):
        found += [(name, Role.A, to_a(profile), "PROTOCOL"), (name, Role.B, to_b(profile), "PROTOCOL")]
    return found


def failures(a: Ran, b: Ran) -> list[dict[str, Any]]:
    """Each: which machine, made how, is fed what, and the close code it must end in."""
    from_a = [encode_frame(*frame) for frame in a.frames]
    from_b = [encode_frame(*frame) for frame in b.frames]
    found: list[dict[str, Any]] = []

    def add(name: str, role: Role, frames: list[bytes], code: str, *, spent: bool = False, **machine: Any) -> None:
        fed = [frame.hex() for frame in frames]
        found.append({"name": name, "role": role.value, "fed": fed, "code": code, "spent": spent} | machine)

    def hello(versions: list[int]) -> bytes:
        return encode_frame(Frame.HELLO, encode_body(Hello(versions=versions, nonce=bytes(32))))

    other_digest = hashlib.sha256(b"another certificate").digest().hex()
    add("wrong words", Role.B, from_a[:3], "WRONG_WORDS", spent=True, secret=b"zoo-zebra-zero".hex())
    add("wrong words", Role.A, from_b[:3], "WRONG_WORDS", spent=True, secret=b"zoo-zebra-zero".hex())
    for role, frames in ((Role.A, from_b), (Role.B, from_a)):
        wrong = {"code": "WRONG_WORDS", "spent": True, "certificate_digest": other_digest}
        add("wrong certificate", role, frames[:3], **wrong)
        add("wrong ALPN", role, frames[:3], "WRONG_WORDS", spent=True, alpn="tether/2")

        other = b"B" if role is Role.A else b"A"
        pake = frames[1][HEADER.size :]
        for name, message in (
            ("wrong side", role.value.encode() + pake[1:]),
            ("unknown side", b"S" + pake[1:]),
            ("identity element", other + IDENTITY),
            ("element of order 2", other + ORDER_2),
            ("element of order 8", other + ORDER_8),
            ("not on the curve", other + NOT_ON_THE_CURVE),
            ("truncated PAKE", pake[:-1]),
            ("empty PAKE", b""),
        ):
            add(name, role, [frames[0], encode_frame(Frame.PAKE, message)], "WRONG_WORDS")

        noise = frames[2][HEADER.size :]
        for name, message in (
            ("truncated NOISE", noise[:-1]),
            ("NOISE shorter than a key", noise[:31]),
            ("empty NOISE", b""),
            ("longer NOISE", noise + b"\0"),
            ("flipped key", flipped(noise, 0)),
            ("flipped tag", flipped(noise, len(noise) - 1)),
            ("low-order ephemeral", bytes(32) + noise[32:]),
        ):
            add(name, role, [*frames[:2], encode_frame(Frame.NOISE, message)], "WRONG_WORDS", spent=True)
        before_confirm = 3 if role is Role.A else 4
        confirm = frames[before_confirm][HEADER.size :]
        for name, message in (("flipped CONFIRM", flipped(confirm, 0)), ("empty CONFIRM", b"")):
            fed = [*frames[:before_confirm], encode_frame(Frame.CONFIRM, message)]
            add(name, role, fed, "WRONG_WORDS", spent=True)
        add("trailing frame", role, [*frames, encode_frame(Frame.CONFIRM, confirm)], "PROTOCOL")
        add("trailing byte", role, [*frames, b"\0"], "PROTOCOL")

        for stage, (kind, limit) in enumerate(PAIRING_FRAMES.items()):
            stage = min(stage, before_confirm) if kind is not Frame.CONFIRM else before_confirm
            # The header alone: nobody may wait for a body that is not allowed.
            oversize = HEADER.pack(kind, limit + 1)
            at_stake = stage >= 2 if role is Role.A else stage > 2
            add(f"oversize {kind.name}", role, [*frames[:stage], oversize], "PROTOCOL", spent=at_stake)
        add("unknown frame type", role, [HEADER.pack(0x7F, 0)], "PROTOCOL")
        add("frame of a transfer", role, [HEADER.pack(Frame.OFFER, 0)], "PROTOCOL")
        add("PAKE before HELLO", role, [frames[1]], "PROTOCOL")
        add("second HELLO", role, [frames[0], frames[0]], "PROTOCOL")
        add("NOISE before PAKE", role, [frames[0], frames[2]], "PROTOCOL")
        add("HELLO is no MessagePack", role, [encode_frame(Frame.HELLO, b"\xc1")], "PROTOCOL")
        add("HELLO with a short nonce", role, [frames[0].replace(b"\xc4\x20", b"\xc4\x1f")], "PROTOCOL")
        add("only version 2", role, [hello([2])], "VERSION")
        mine = from_a if role is Role.A else from_b
        add("own nonce", role, [mine[0]], "SELF")
        add("reflected PAKE", role, [frames[0], mine[1]], "WRONG_WORDS")
        until_try = frames[: 1 if role is Role.A else 2]
        add("all tries set aside", role, until_try, "BUSY", tries={"set_aside": TRIES})
        add("two tries spent, the third set aside", role, until_try, "BUSY", tries={"spent": 2, "set_aside": 1})
        add("all tries spent", role, until_try, "WINDOW_CLOSED", tries={"spent": TRIES})
    for name, role, frames, code in rule_breakers(a, b):
        add(name, role, frames, code, spent=True)
    add("last NOISE flipped", Role.B, [*from_a[:3], flipped(from_a[3], 20)], "WRONG_WORDS", spent=True)
    add("CONFIRM before the last NOISE", Role.B, [*from_a[:3], from_a[4]], "PROTOCOL", spent=True)
    return found


def build() -> dict[str, Any]:
    a, b = run(pairing(Role.A), pairing(Role.B))
    return {"session": session(a, b), "failures": failures(a, b)}


if __name__ == "__main__":
    FILE.write_text(json.dumps(build(), indent=1) + "\n")
