"""Writes finding.json: LAN tags, TXT records that are taken and refused (docs/protocol/finding.md).

    python -m tests.vectors.make_finding

The tags are made with the standard library alone: another program than the one that is tested.
"""

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("finding.json")

SECRETS = (bytes(32), bytes(range(32)), b"\xff" * 32)
HOURS = (0, 1, 472_222, 2**40)


def tag(secret: bytes, hour: int) -> str:
    return hmac.new(secret, b"lan" + hour.to_bytes(8, "big"), hashlib.sha256).hexdigest()[:16]


def vectors() -> dict[str, Any]:
    one, two = (tag(secret, HOURS[2]) for secret in SECRETS[:2])
    eight = ",".join(tag(bytes([number]) * 32, HOURS[2]) for number in range(8))
    return {
        "lan_tags": [
            {"secret": secret.hex(), "hour": hour, "tag": tag(secret, hour)} for secret in SECRETS for hour in HOURS
        ],
        "neighbours": [
            {"text": {"v": "1", "tags": one}, "tags": [one]},
            {"text": {"v": "1", "tags": f"{one},{two}", "pair": "7"}, "tags": [one, two]},
            {"text": {"v": "1", "tags": eight, "more": "later"}, "tags": eight.split(",")},
        ],
        "not_neighbours": [
            {"text": {"v": "1"}, "why": "no tags: a pairing command, or a daemon without a mesh"},
            {"text": {"v": "2", "tags": one}, "why": "another version"},
            {"text": {"tags": one}, "why": "no version"},
            {"text": {"v": "1", "tags": ""}, "why": "empty"},
            {"text": {"v": "1", "tags": one[:-1]}, "why": "a tag too short"},
            {"text": {"v": "1", "tags": one + "0"}, "why": "a tag too long"},
            {"text": {"v": "1", "tags": one.upper()}, "why": "upper case"},
            {"text": {"v": "1", "tags": one + ","}, "why": "ends in a comma"},
            {"text": {"v": "1", "tags": f"{one}, {two}"}, "why": "a space"},
            {"text": {"v": "1", "tags": f"{eight},{one}"}, "why": "nine tags"},
        ],
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(vectors(), indent=1) + "\n", encoding="utf-8")
