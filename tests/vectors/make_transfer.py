"""Writes transfer.json: every frame of docs/protocol/transfer.md as bytes, one whole session, and what must be refused.

    python -m tests.vectors.make_transfer

The bytes are made by this program; a change of any of them is a change of the protocol. tests/protocol/test_vectors.py
checks that the program still makes and reads them.
"""

import json
from pathlib import Path

from blake3 import blake3

from meshd.model.entry import Entry, EntryKind, ListingDigest
from meshd.wire.codec import encode_body
from meshd.wire.constants import CHUNK_SIZE, WINDOW, Frame
from meshd.wire.framing import HEADER, encode_frame
from meshd.wire.messages import Abort, End, EntryEnd, EntryFailed, EntryHeader, Offer, Pull, RefuseEntry, Stored

CONTENT = b"hello\n"
ENTRY = Entry(("notes", "a.txt"), EntryKind.FILE, len(CONTENT), False, 1_700_000_000_000_000_000)


def listing() -> bytes:
    """The digest of the listing that holds just ENTRY."""
    made = ListingDigest()
    made.add(ENTRY, blake3(CONTENT).digest())
    return made.digest()


def frames() -> dict[str, bytes]:
    """One frame of each type, in the order of the page."""
    digest = blake3(CONTENT).digest()
    header = EntryHeader(
        path=list(ENTRY.path), kind="file", size=ENTRY.size, executable=False, modified_ns=ENTRY.modified_ns
    )
    bodies: list[tuple[Frame, object]] = [
        (Frame.OFFER, Offer(stream=False, entries=1, size=len(CONTENT), skipped=0)),
        (Frame.ENTRY, header),
        (Frame.CHUNK, digest + CONTENT),
        (Frame.ENTRY_END, EntryEnd(digest)),
        (Frame.ENTRY_FAILED, EntryFailed("it changed while it was read")),
        (Frame.END, End(1, len(CONTENT), listing())),
        (Frame.SENDER_ABORT, Abort("the disk cannot be read")),
        (Frame.PULL, Pull(WINDOW)),
        (Frame.REFUSE_ENTRY, RefuseEntry(0, "the name exists")),
        (Frame.STORED, Stored(listing(), 1, len(CONTENT))),
        (Frame.RECEIVER_ABORT, Abort("no space")),
    ]
    return {
        kind.name: encode_frame(kind, body if isinstance(body, bytes) else encode_body(body)) for kind, body in bodies
    }


def refused() -> list[dict[str, object]]:
    """What a receiver that has accepted must end the transfer over, with the words that its error holds."""
    made = frames()
    wrong_chunk = encode_frame(Frame.CHUNK, bytes(32) + CONTENT)
    cases: list[tuple[str, list[bytes], str]] = [
        ("chunk that is not what was hashed", [made["ENTRY"], wrong_chunk], "hashed"),
        ("empty chunk", [made["ENTRY"], encode_frame(Frame.CHUNK, blake3(b"").digest())], "empty chunk"),
        ("chunk without an entry", [made["CHUNK"]], "out of turn"),
        ("chunk over 1 MiB", [made["ENTRY"], HEADER.pack(Frame.CHUNK, 32 + CHUNK_SIZE + 1)], "allowed"),
        ("frame type that does not exist", [b"\x7f\x00\x00\x00\x00"], "0x7f"),
        ("receiver's frame from a sender", [made["PULL"]], "0x30"),
        ("entry of a third kind", [encode_frame(Frame.ENTRY, made["ENTRY"][5:].replace(b"file", b"link"))], "EntryHeader"),
        ("entry cut short", [encode_frame(Frame.ENTRY, made["ENTRY"][5:-3])], "EntryHeader"),
        ("end with another listing", [encode_frame(Frame.END, encode_body(End(0, 0, bytes(32))))], "listing"),
        (
            "digest of 31 bytes",
            [made["ENTRY"], encode_frame(Frame.ENTRY_END, encode_body({"digest": bytes(31)}))],
            "32",
        ),
    ]
    return [
        {"what": what, "frames": [frame.hex() for frame in sent], "error_says": words} for what, sent, words in cases
    ]


def vectors() -> dict[str, object]:
    """Everything that transfer.json holds."""
    made = frames()
    session = [made[name] for name in ("OFFER", "ENTRY", "CHUNK", "ENTRY_END", "END")]
    return {
        "content": CONTENT.hex(),
        "listing": listing().hex(),
        "frames": {name: frame.hex() for name, frame in made.items()},
        "session_of_the_sender": b"".join(session).hex(),
        "refused": refused(),
    }


if __name__ == "__main__":
    Path(__file__).with_name("transfer.json").write_text(json.dumps(vectors(), indent=1) + "\n", encoding="utf-8")
