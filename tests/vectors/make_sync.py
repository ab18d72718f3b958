"""Write sync.json: every frame by which records are exchanged, and what must be refused.

python -m tests.vectors.make_sync
"""

import json
from pathlib import Path

from blake3 import blake3

from meshd.model.clock import at
from meshd.model.identity import Keys
from meshd.model.record import Log, LogId, Record, write_record
from meshd.wire.constants import Frame
from meshd.wire.framing import HEADER
from meshd.wire.sync import (
    SYNC_FRAMES,
    Arrived,
    AskHashes,
    AskRecords,
    Hashes,
    Heads,
    Message,
    More,
    Probe,
    Records,
    Span,
    Tip,
)

PATH = Path(__file__).parent / "sync.json"
MESH = blake3(b"a mesh").digest()
KEYS = Keys(blake3(b"signs").digest(), blake3(b"speaks").digest())
CHAIN = LogId(KEYS.identity.signing_key, Log.DATA, 3)


def record(number: int, *, ttl: int = 0) -> Record:
    """The record with that number of a fixed chain."""
    previous = record(number - 1).head if number > 1 else None
    return write_record(
        KEYS,
        mesh=MESH,
        log=Log.DATA,
        generation=3,
        previous=previous,
        clock=at(1_700_000_000_000 + number),
        kind="test.note",
        body=b"note %d" % number,
        ttl=ttl,
    )


def messages() -> dict[str, Message]:
    """Each frame, by what it shows."""
    one, two = record(1), record(2)
    tip = Tip(2, two.hash, 1234)
    return {
        "heads, complete": Heads(Log.DATA, True, ((CHAIN, tip),)),
        "heads, a chain that is gone": Heads(Log.ROSTER, False, ((LogId(CHAIN.author, Log.ROSTER, 1), None),)),
        "heads of nothing": Heads(Log.ROSTER, True, ()),
        "a question": AskRecords(1, (Span(CHAIN, 1, 2), Span(LogId(CHAIN.author, Log.ROSTER, 1), 7, 7))),
        "a question taken back": AskRecords(2, ()),
        "a push": Records(0, True, (Arrived(one, 0),)),
        "an answer": Records(1, False, (Arrived(one, 0), Arrived(two, 0))),
        "the last of an answer, expired": Records(1, True, (Arrived(record(1, ttl=60).without_body(), 61),)),
        "an answer of nothing": Records(1, True, ()),
        "more": More(),
        "a question for hashes": AskHashes(CHAIN, (1, 2, 1 << 63)),
        "hashes": Hashes((one.hash, None)),
        "a probe": Probe(b"8 bytes.", False),
        "an echo": Probe(b"8 bytes.", True),
    }


def broken() -> dict[str, tuple[Frame, bytes]]:
    """Bodies that no decoder may take."""
    good = {name: message.encode()[HEADER.size :] for name, message in messages().items()}
    heads, ask, push, hashes = (
        good["heads, complete"],
        good["a question"],
        good["a push"],
        good["a question for hashes"],
    )
    return {
        "heads without a log": (Frame.HEADS, b"\x00"),
        "heads of a third log": (Frame.HEADS, b"\x02" + heads[1:]),
        "heads with another flag": (Frame.HEADS, heads[:1] + b"\x02" + heads[2:]),
        "heads cut short": (Frame.HEADS, heads[:-1]),
        "heads of generation 0": (Frame.HEADS, heads[:34] + bytes(4) + heads[38:]),
        "heads of too many bytes": (Frame.HEADS, heads[:-8] + b"\xff" * 8),
        "a hash of nothing": (Frame.HEADS, heads[:38] + bytes(8) + heads[46:-8] + bytes(8)),
        "a question without a number": (Frame.ASK_RECORDS, ask[:3]),
        "a question numbered 0": (Frame.ASK_RECORDS, bytes(4) + ask[4:]),
        "a question for records from 0": (Frame.ASK_RECORDS, ask[:41] + bytes(8) + ask[49:]),
        "a question backwards": (Frame.ASK_RECORDS, ask[:41] + bytes(7) + b"\x09" + ask[49:]),
        "a question about a third log": (Frame.ASK_RECORDS, ask[:36] + b"\x02" + ask[37:]),
        "records without a number": (Frame.RECORDS, push[:4]),
        "records with another flag": (Frame.RECORDS, push[:4] + b"\x02" + push[5:]),
        "a push of nothing": (Frame.RECORDS, push[:5]),
        "a push that goes on": (Frame.RECORDS, push[:4] + b"\x00" + push[5:]),
        "a record cut short": (Frame.RECORDS, push[:-1]),
        "a record longer than its place": (Frame.RECORDS, push + b"\x00"),
        "a record of another format": (Frame.RECORDS, push[:16] + b"\x02" + push[17:]),
        "more of something": (Frame.MORE, b"\x00"),
        "a question for no hashes": (Frame.ASK_HASHES, hashes[:37]),
        "a question for half a hash": (Frame.ASK_HASHES, hashes[:-1]),
        "no hashes": (Frame.HASHES, b""),
        "half a hash": (Frame.HASHES, bytes(48)),
        "a short echo": (Frame.ECHO, b"7 bytes"),
    }


def made() -> dict[str, object]:
    """The whole file."""
    return {
        "limits": {Frame(kind).name: limit for kind, limit in SYNC_FRAMES.items()},
        "frames": {name: message.encode().hex() for name, message in messages().items()},
        "broken": {name: [frame.name, body.hex()] for name, (frame, body) in broken().items()},
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(made(), indent=1) + "\n")
