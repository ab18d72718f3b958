"""Writes session.json: `python -m tests.vectors.make_session` from the root. Fixed entropy, so always the same file."""

import json
from pathlib import Path
from typing import Any

from meshd.wire.codec import decode_body
from meshd.wire.session import HelloA, HelloB
from tests.protocol.back_to_back import ALPN, DIGEST, fixed_bytes
from tests.protocol.session_kit import ALICE, BOB, MESH, SECRETS, alice, binding, bob, dialled, talk

FILE = Path(__file__).parent / "session.json"

INTRODUCTION = [b"stands for an encoded admission", b"and for the next"]


def build() -> dict[str, Any]:
    a, b = alice(dialled(introduction=INTRODUCTION)), bob()
    talk(a, b)
    assert a.confirmed is not None and b.confirmed is not None
    (_, hello_a), (_, noise_1), (_, confirm_a) = a.frames
    (_, hello_b), (_, noise_2), (_, confirm_b) = b.frames
    values = {
        "certificate_digest": DIGEST,
        "mesh": MESH,
        "secret": SECRETS[0],
        "signing_private_a": ALICE.signing_private,
        "noise_private_a": ALICE.noise_private,
        "signing_private_b": BOB.signing_private,
        "noise_private_b": BOB.noise_private,
        "ephemeral_private_a": fixed_bytes("dialled 4"),
        "ephemeral_private_b": fixed_bytes("answered 3"),
        "nonce_a": decode_body(HelloA, hello_a).nonce,
        "nonce_b": decode_body(HelloB, hello_b).nonce,
        "tag": decode_body(HelloA, hello_a).tags[0],
        "hint": decode_body(HelloB, hello_b).hint,
        "hello_a": hello_a,
        "hello_b": hello_b,
        "prologue": binding().fields("AB", hello_a, hello_b),
        "noise_1": noise_1,
        "noise_2": noise_2,
        "handshake_hash": a.confirmed.handshake_hash,
        "confirm_a": confirm_a,
        "confirm_b": confirm_b,
    }
    session = {name: value.hex() for name, value in values.items()}
    return {"session": {"alpn": ALPN} | session | {"introduction": [each.hex() for each in INTRODUCTION]}}


if __name__ == "__main__":
    FILE.write_text(json.dumps(build(), indent=1) + "\n")
