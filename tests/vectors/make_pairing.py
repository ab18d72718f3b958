"""Writes pairing.json: `python -m tests.vectors.make_pairing` from the root. Fixed entropy, so always the same file."""

import hashlib
import json
from pathlib import Path
from typing import Any

from meshd.protocol.binding import Binding
from meshd.protocol.handshake import Role
from meshd.protocol.passphrase import transcript_words
from meshd.wire.codec import encode_body
from meshd.wire.constants import PAIRING_FRAMES, Frame
from meshd.wire.framing import HEADER, encode_frame
from meshd.wire.messages import Hello
from tests.protocol.back_to_back import ALPN, DIGEST, SECRET, Ran, fixed_bytes, pairing, run

FILE = Path(__file__).parent / "pairing.json"

IDENTITY = (1).to_bytes(32, "little")
ORDER_8 = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
ORDER_2 = (2**255 - 20).to_bytes(32, "little")
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


def failures(a: Ran, b: Ran) -> list[dict[str, Any]]:
    """Each: which machine, made how, is fed what, and the close code it must end in."""
    from_a = [encode_frame(*frame) for frame in a.frames]
    from_b = [encode_frame(*frame) for frame in b.frames]
    found: list[dict[str, Any]] = []

    def add(name: str, role: Role, frames: list[bytes], code: str, *, spent: bool = False, **machine: str) -> None:
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
    add("last NOISE flipped", Role.B, [*from_a[:3], flipped(from_a[3], 20)], "WRONG_WORDS", spent=True)
    add("CONFIRM before the last NOISE", Role.B, [*from_a[:3], from_a[4]], "PROTOCOL", spent=True)
    return found


def build() -> dict[str, Any]:
    a, b = run(pairing(Role.A), pairing(Role.B))
    return {"session": session(a, b), "failures": failures(a, b)}


if __name__ == "__main__":
    FILE.write_text(json.dumps(build(), indent=1) + "\n")
