"""Writes rendezvous.json: frames, topics, cards and punches (docs/protocol/rendezvous.md, traversal.md).

    python -m tests.vectors.make_rendezvous

Topics, keys and tags are made with the standard library, HKDF written out (RFC 5869): another program than the one tested.
"""

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from meshd.wire.rendezvous import (
    Allocate,
    Enter,
    Free,
    Leave,
    Match,
    Nat,
    Numbered,
    Observed,
    Refusal,
    Refused,
    Side,
    Third,
    Wait,
    encode,
)

FILE = Path(__file__).with_name("rendezvous.json")

MESH = bytes(range(32))
PRIVATE = (bytes(range(1, 33)), bytes(range(101, 133)))
DAYS = (0, 1, 20_784, 2**40)
NONCE = b"n" * 16
CARD_NONCE = b"c" * 12

MESSAGES = [
    Allocate(1, Nat.ONE_FOR_ALL),
    Enter(2, 47, Nat.UNKNOWN),
    Wait(3, bytes(range(32)), Side.SECOND, b"card"),
    Leave(3),
    Free(1),
    Observed("203.0.113.9", 40_007),
    Numbered(1, 47, 900),
    Match(2, "2001:db8::1", 64_327, NONCE, 12, Nat.ONE_FOR_EACH, b""),
    Refused(2, Refusal.TAKEN, 2),
    Third(1),
]


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    key = hmac.digest(salt or bytes(32), secret, hashlib.sha256)
    return hmac.digest(key, info + b"\x01", hashlib.sha256)


def vectors() -> dict[str, Any]:
    one, two = (X25519PrivateKey.from_private_bytes(each) for each in PRIVATE)
    public = [each.public_key().public_bytes_raw() for each in (one, two)]
    secret = hkdf(one.exchange(two.public_key()), MESH, b"tether pair v1")
    first = public[0] < public[1]
    topics = {day: hmac.digest(secret, b"rendezvous" + day.to_bytes(8, "big"), hashlib.sha256) for day in DAYS}
    four, six = bytes([192, 168, 1, 5]), bytes.fromhex("20010db8000000000000000000000005")
    port = (64_327).to_bytes(2, "big")
    body = msgspec.msgpack.encode({"nat": 2, "places": [four + port, six + port]})
    padded = (len(body).to_bytes(2, "big") + body).ljust(240, b"\0")
    topic = topics[DAYS[2]]
    side = 0 if first else 1
    box = ChaCha20Poly1305(hkdf(secret, b"", b"tether card v1")).encrypt(CARD_NONCE, padded, topic + bytes([side]))
    punch_key = hmac.digest(secret, b"punch" + NONCE, hashlib.sha256)
    tags = [(attempt, each) for attempt in (1, 2, 3) for each in (0, 1)]
    return {
        "frames": [{"message": type(each).__name__, "frame": encode(each).hex()} for each in MESSAGES],
        "pair": {
            "mesh": MESH.hex(),
            "private": [each.hex() for each in PRIVATE],
            "public": [each.hex() for each in public],
            "secret": secret.hex(),
            "side_of_the_first": side,
            "topics": [{"day": day, "topic": each.hex()} for day, each in topics.items()],
            "card_of_the_first": {"day": DAYS[2], "nonce": CARD_NONCE.hex(), "card": (CARD_NONCE + box).hex()},
        },
        "punches": {
            "nonce": NONCE.hex(),
            "key": punch_key.hex(),
            "datagrams": [
                {
                    "attempt": attempt,
                    "side": each,
                    "datagram": (
                        bytes([1, attempt]) + hmac.digest(punch_key, bytes([attempt, each]), hashlib.sha256)[:16]
                    ).hex(),
                }
                for attempt, each in tags
            ],
        },
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(vectors(), indent=1) + "\n", encoding="utf-8")
