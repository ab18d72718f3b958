"""Writes mail.json: a letter and words as sealed for one machine, and plaintexts that are refused.

    python -m tests.vectors.make_mail

Fixed keys and entropy, so always the same file.
"""

import json
from pathlib import Path
from typing import Any

from meshd.model.message import Agent, Attached, Letter, Target, Words
from meshd.protocol.mailing import encode_said, seal_mail
from meshd.wire.bodies import encode
from tests.protocol.back_to_back import fixed_bytes, fixed_entropy
from tests.protocol.session_kit import ALICE, BOB, MESH

FILE = Path(__file__).parent / "mail.json"
GENERATION, SEQUENCE = 2, 7

LETTER = Letter(
    sender="codex",
    target=Target("agent"),
    to=(Agent("claude", BOB.identity.node),),
    subject="the build is red",
    text="see the log\nand say what you think",
    attached=(Attached("blob", fixed_bytes("a log")),),
    tags=("build", "ci"),
    ticket="T-17",
    thread="release-2",
    reply_to=fixed_bytes("an earlier message"),
    key="attempt-1",
)
WORDS = Words(
    letters=(fixed_bytes("a letter"), fixed_bytes("another")),
    ticket="",
    agent="claude",
    state="closed",
    status="completed",
    reason="merged",
)

_whole = encode_said(LETTER)
REFUSED = {
    "empty": b"",
    "four bytes": b"\0\0\0\0",
    "a third kind": _whole[:4] + b"\x03" + _whole[5:],
    "longer than it is": b"\xff\xff\xff\xff" + _whole[4:],
    "a sender that is no name": encode_said(LETTER).replace(b"codex", b"co ex"),
    "a subject of two lines": encode_said(LETTER).replace(b"build is", b"build\nis"),
    "a state that is none": encode_said(WORDS).replace(b"closed", b"opened"),
}


def build() -> dict[str, Any]:
    said = {}
    for name, each in (("letter", LETTER), ("words", WORDS)):
        plaintext = encode_said(each)
        mail = seal_mail(
            ALICE, MESH, GENERATION, SEQUENCE, [BOB.identity], plaintext, fixed_entropy(f"mail vector {name}")
        )
        said[name] = {"plaintext": plaintext.hex(), "body": encode(mail).hex()}
    return {
        "author": {
            "signing_key": ALICE.identity.signing_key.hex(),
            "noise_key": ALICE.identity.noise_key.hex(),
            "noise_private": ALICE.noise_private.hex(),
        },
        "recipient": {"signing_private": BOB.signing_private.hex(), "noise_private": BOB.noise_private.hex()},
        "mesh": MESH.hex(),
        "generation": GENERATION,
        "sequence": SEQUENCE,
        **said,
        "refused": {name: data.hex() for name, data in REFUSED.items()},
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(build(), indent=1) + "\n")
