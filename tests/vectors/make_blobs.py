"""Writes blobs.json: lists, manifests and frames of docs/protocol/blobs.md as bytes, and what each side refuses.

    python -m tests.vectors.make_blobs

The bytes are put together here by hand, from maps and numbers alone: tests/wire/test_blob_vectors.py has the code say and
read them. A change of any of them is a change of the protocol.
"""

import json
import struct
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

FILE = Path(__file__).with_name("blobs.json")
MIB = 1 << 20
D, E = b"\x11" * 32, b"\x22" * 32


def content(size: int) -> bytes:
    """BLAKE3's extended output for `tether blob`: content that anybody can make again."""
    return blake3(b"tether blob").digest(size)


def listed(size: int) -> dict[str, Any]:
    data = content(size)
    chunks = b"".join(blake3(data[start : start + MIB]).digest() for start in range(0, size, MIB))
    return {
        "size": size,
        "digest": blake3(data).hexdigest(),
        "list": chunks.hex(),
        "list_digest": blake3(chunks).hexdigest(),
    }


def frame(kind: int, body: object) -> str:
    raw = body if isinstance(body, bytes) else msgspec.msgpack.encode(body)
    return (struct.pack(">BI", kind, len(raw)) + raw).hex()


def raw(number: int, data: bytes) -> bytes:
    return struct.pack(">I", number) + data


FILE_ITEM = {"digest": D.hex(), "executable": True, "path": "bin/run", "size": 12}
LARGE_ITEM = {"digest": E.hex(), "executable": False, "list": D.hex(), "path": "données.bin", "size": MIB + 1}


def manifest(*entries: dict[str, Any]) -> str:
    return json.dumps({"entries": entries, "tether": "directory/1"}, ensure_ascii=False, separators=(",", ":"))


GOOD = manifest({"directory": True, "path": "bin"}, FILE_ITEM, LARGE_ITEM)

VECTORS: dict[str, Any] = {
    "lists": [listed(size) for size in (0, 1, MIB, MIB + 1, 3 * MIB)],
    "manifest": {"json": GOOD, "digest": blake3(GOOD.encode()).hexdigest()},
    "manifests_refused": {
        "out of order": manifest(FILE_ITEM, {"directory": True, "path": "bin"}),
        "twice": manifest(FILE_ITEM, FILE_ITEM),
        "keys in another order": manifest(dict(reversed(FILE_ITEM.items()))),
        "a key that is not known": manifest({**FILE_ITEM, "mode": 420}),
        "a list for one chunk": manifest({**FILE_ITEM, "list": D.hex()}),
        "no list for two": manifest({key: value for key, value in LARGE_ITEM.items() if key != "list"}),
        "white space": GOOD.replace(":", ": "),
        "upper case": GOOD.replace(D.hex(), "AA" * 32),
        "escaped needlessly": GOOD.replace("données", "donn\\u00e9es"),
        "another format": GOOD.replace("directory/1", "directory/2"),
        "too large a file": manifest({**LARGE_ITEM, "size": (1 << 38) + 1}),
        "an empty path": manifest({**FILE_ITEM, "path": ""}),
    },
    "requests": {
        "LOOKUP": frame(0x50, {"number": 1, "digest": D}),
        "WANT_LIST": frame(0x51, {"number": 2, "digest": D, "first": 32768}),
        "WANT": frame(0x52, {"number": 3, "digest": D, "index": 7}),
        "WANT_SMALL": frame(0x53, {"number": 4, "digests": [D, E]}),
    },
    "answers": {
        "HOLDS": frame(0x58, {"number": 1, "size": 8 * MIB, "list_digest": E}),
        "LIST": frame(0x59, raw(2, D + E)),
        "BLOB_CHUNK": frame(0x5A, raw(3, b"some bytes")),
        "SMALL": frame(0x5B, {"number": 4, "found": [b"content", 1]}),
        "NOT_SERVED": frame(0x5C, {"number": 5, "why": 0}),
    },
    "requests_refused": {
        "a digest of 31 bytes": frame(0x50, {"number": 1, "digest": D[1:]}),
        "a number of five bytes": frame(0x50, {"number": 1 << 32, "digest": D}),
        "a chunk that no blob has": frame(0x52, {"number": 1, "digest": D, "index": 1 << 18}),
        "no small blob": frame(0x53, {"number": 1, "digests": []}),
        "too many small blobs": frame(0x53, {"number": 1, "digests": [D] * 257}),
        "an answer": frame(0x58, {"number": 1, "size": 1, "list_digest": E}),
        "no MessagePack": frame(0x50, b"\xc1"),
        "longer than any": frame(0x50, bytes(129)),
    },
    "answers_refused": {
        "a size that no blob has": frame(0x58, {"number": 1, "size": (1 << 38) + 1, "list_digest": E}),
        "an empty list": frame(0x59, raw(2, b"")),
        "an empty chunk": frame(0x5A, raw(3, b"")),
        "a chunk without a number": frame(0x5A, b"\0\0\0"),
        "a reason that is none": frame(0x5C, {"number": 5, "why": 3}),
        "a request": frame(0x50, {"number": 1, "digest": D}),
    },
}

if __name__ == "__main__":
    FILE.write_text(json.dumps(VECTORS, indent=1) + "\n", encoding="utf-8")
