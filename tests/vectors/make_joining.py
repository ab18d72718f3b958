"""Writes joining.json: `python -m tests.vectors.make_joining` from the root. Fixed entropy, so always the same file."""

import json
from pathlib import Path
from typing import Any

from meshd.protocol.sealing import Place, seal
from meshd.wire.framing import FrameDecoder
from meshd.wire.joining import FRAMES_OF_MEMBER, FRAMES_OF_NEWCOMER
from tests.protocol.back_to_back import fixed_bytes, fixed_entropy
from tests.protocol.joining_kit import HASH, Mesh, Ran, admitting, entering, talk
from tests.protocol.session_kit import ALICE, BOB, MESH

FILE = Path(__file__).parent / "joining.json"

PLACE = Place(
    purpose="secret",
    mesh=MESH,
    author=ALICE.identity.signing_key,
    recipient=BOB.identity.signing_key,
    generation=2,
    sequence=7,
)


def frames(sent: bytes, limits: dict[int, int]) -> list[dict[str, str]]:
    """What was sent, by the names of the frames."""
    decoder = FrameDecoder(limits)
    decoder.receive(sent)
    found = []
    while (frame := decoder.next_frame()) is not None:
        found.append({"frame": frame[0].name, "body": frame[1].hex()})
    return found


def build() -> dict[str, Any]:
    mesh = Mesh()
    newcomer, member = Ran(entering(), mesh), Ran(admitting(mesh), mesh)
    talk(newcomer, member)
    payload = fixed_bytes("a mesh secret")
    box = seal(ALICE, BOB.identity.noise_key, PLACE, payload, fixed_entropy("sealing vector"))
    sealed = {
        "author_noise_key": ALICE.identity.noise_key,
        "signing_private": BOB.signing_private,
        "noise_private": BOB.noise_private,
        "prologue": PLACE.prologue,
        "payload": payload,
        "box": box,
    }
    return {
        "joining": {
            "handshake_hash": HASH.hex(),
            "mesh": mesh.id.hex(),
            "from_newcomer": frames(newcomer.sent, FRAMES_OF_NEWCOMER),
            "from_member": frames(member.sent, FRAMES_OF_MEMBER),
        },
        "sealed": {name: value.hex() for name, value in sealed.items()},
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(build(), indent=1) + "\n")
