"""Writes transfer.json: every frame of docs/protocol/transfer.md as bytes, whole sessions, and what either side refuses.

    python -m tests.vectors.make_transfer

The bytes come from values alone, without the machines: tests/protocol/test_transfer_vectors.py has the machines say and
hear them. A change of any of them is a change of the protocol.
"""

import json
from pathlib import Path
from typing import Any

from blake3 import blake3

from meshd.model.entry import Entry, EntryKind, ListingDigest
from meshd.wire.codec import encode_body
from meshd.wire.constants import CHUNK_SIZE, WINDOW, Frame
from meshd.wire.framing import HEADER, encode_frame
from meshd.wire.messages import Abort, End, EntryEnd, EntryFailed, EntryHeader, Offer, Pull, RefuseEntry, Stored

FILE = Path(__file__).with_name("transfer.json")

CONTENT = b"hello\n"
SIZE = len(CONTENT)
WHEN = 1_700_000_000_000_000_000
DIRECTORY = Entry(("notes",), EntryKind.DIRECTORY, 0, False, WHEN)
ENTRY = Entry(("notes", "a.txt"), EntryKind.FILE, SIZE, False, WHEN)
OTHER = Entry(("notes", "run"), EntryKind.FILE, SIZE, True, -1)
STREAM = Entry(("stdin",), EntryKind.FILE, None, False, 0)


def framed(kind: Frame, body: object) -> bytes:
    return encode_frame(kind, body if isinstance(body, bytes) else encode_body(body))


def header(entry: Entry) -> bytes:
    """The ENTRY frame that begins it."""
    return framed(
        Frame.ENTRY,
        EntryHeader(
            path=list(entry.path),
            kind=entry.kind.value,
            size=entry.size,
            executable=entry.executable,
            modified_ns=entry.modified_ns,
        ),
    )


def listing(*entries: Entry) -> bytes:
    """The digest of the listing of these, where every file holds CONTENT."""
    made = ListingDigest()
    for entry in entries:
        is_file = entry.kind is EntryKind.FILE
        sized = Entry(entry.path, entry.kind, SIZE if is_file else 0, entry.executable, entry.modified_ns)
        made.add(sized, blake3(CONTENT if is_file else b"").digest())
    return made.digest()


OFFER = framed(Frame.OFFER, Offer(stream=False, entries=1, size=SIZE, skipped=0))
CHUNK = framed(Frame.CHUNK, blake3(CONTENT).digest() + CONTENT)
ENTRY_END = framed(Frame.ENTRY_END, EntryEnd(blake3(CONTENT).digest()))
END = framed(Frame.END, End(1, SIZE, listing(ENTRY)))
PULL = framed(Frame.PULL, Pull(WINDOW))
STORED = framed(Frame.STORED, Stored(listing(ENTRY), 1, SIZE))


def frames() -> dict[str, bytes]:
    """One frame of each type, in the order of the page."""
    return {
        "OFFER": OFFER,
        "ENTRY": header(ENTRY),
        "CHUNK": CHUNK,
        "ENTRY_END": ENTRY_END,
        "ENTRY_FAILED": framed(Frame.ENTRY_FAILED, EntryFailed("it changed while it was read")),
        "END": END,
        "SENDER_ABORT": framed(Frame.SENDER_ABORT, Abort("the disk cannot be read")),
        "PULL": PULL,
        "REFUSE_ENTRY": framed(Frame.REFUSE_ENTRY, RefuseEntry(0, "the name exists")),
        "STORED": STORED,
        "RECEIVER_ABORT": framed(Frame.RECEIVER_ABORT, Abort("no space")),
    }


def sessions() -> list[dict[str, Any]]:
    """Whole sessions, turn by turn: who sends, and which frames."""
    refusal = framed(Frame.REFUSE_ENTRY, RefuseEntry(1, "a file of that name is already here"))
    made: dict[str, list[list[bytes]]] = {
        "one file": [[OFFER], [PULL], [header(ENTRY), CHUNK, ENTRY_END, END], [STORED]],
        "a stream, whose size nobody knows": [
            [framed(Frame.OFFER, Offer(stream=True, entries=1, size=None, skipped=0))],
            [PULL],
            [header(STREAM), CHUNK, ENTRY_END, framed(Frame.END, End(1, SIZE, listing(STREAM)))],
            [framed(Frame.STORED, Stored(listing(STREAM), 1, SIZE))],
        ],
        "a directory and two files, of which one is refused": [
            [framed(Frame.OFFER, Offer(stream=False, entries=3, size=2 * SIZE, skipped=1))],
            [PULL],
            [header(DIRECTORY), framed(Frame.ENTRY_END, EntryEnd(blake3(b"").digest())), header(ENTRY)],
            [refusal],
            [
                framed(Frame.ENTRY_FAILED, EntryFailed("refused")),
                *(header(OTHER), CHUNK, ENTRY_END),
                framed(Frame.END, End(2, SIZE, listing(DIRECTORY, OTHER))),
            ],
            [framed(Frame.STORED, Stored(listing(DIRECTORY, OTHER), 2, SIZE))],
        ],
    }
    return [
        {
            "what": what,
            "turns": [
                {"from": ("sender", "receiver")[number % 2], "frames": [frame.hex() for frame in turn]}
                for number, turn in enumerate(turns)
            ],
        }
        for what, turns in made.items()
    ]


def refused_by_receiver() -> list[dict[str, Any]]:
    """What a receiver that has accepted must end the transfer over, with the words that its error holds."""
    entry = header(ENTRY)
    short_digest = framed(Frame.ENTRY_END, {"digest": bytes(31)})
    cases: list[tuple[str, list[bytes], str]] = [
        ("chunk that is not what was hashed", [entry, framed(Frame.CHUNK, bytes(32) + CONTENT)], "hashed"),
        ("empty chunk", [entry, framed(Frame.CHUNK, blake3(b"").digest())], "empty chunk"),
        ("chunk without an entry", [CHUNK], "out of turn"),
        ("chunk over 1 MiB", [entry, HEADER.pack(Frame.CHUNK, 32 + CHUNK_SIZE + 1)], "allowed"),
        ("frame type that does not exist", [HEADER.pack(0x7F, 0)], "0x7f"),
        ("receiver's frame from a sender", [PULL], "0x30"),
        ("second offer", [OFFER], "out of turn"),
        ("entry in an entry", [entry, entry], "out of turn"),
        ("entry of a third kind", [encode_frame(Frame.ENTRY, entry[5:].replace(b"file", b"link"))], "EntryHeader"),
        ("entry cut short", [encode_frame(Frame.ENTRY, entry[5:-3])], "EntryHeader"),
        ("end with another listing", [framed(Frame.END, End(0, 0, bytes(32)))], "listing"),
        ("end of more than was sent", [framed(Frame.END, End(1, 0, listing()))], "listing"),
        ("digest of 31 bytes", [entry, short_digest], "32"),
    ]
    return [
        {"what": what, "frames": [frame.hex() for frame in sent], "error_says": words} for what, sent, words in cases
    ]


def refused_by_sender() -> list[dict[str, Any]]:
    """What a sender of ENTRY must end the transfer over.

    It takes the first frame when it has offered, goes on as if to hand ENTRY over until its frame `sent` is made, which
    goes out as far as the first PULL grants, and then takes the rest.
    """
    cases: list[tuple[str, list[bytes], str, str]] = [
        ("grant that is taken back", [PULL, framed(Frame.PULL, Pull(WINDOW - 1))], "ENTRY", "took back"),
        ("grant below nothing", [framed(Frame.PULL, {"limit": -1})], "OFFER", "Pull"),
        (
            "refusal of an entry never sent",
            [PULL, framed(Frame.REFUSE_ENTRY, RefuseEntry(1, ""))],
            "ENTRY",
            "never sent",
        ),
        ("refusal before a grant", [framed(Frame.REFUSE_ENTRY, RefuseEntry(0, ""))], "OFFER", "out of turn"),
        ("stored before the end", [PULL, STORED], "ENTRY_END", "out of turn"),
        ("stored before it can have come", [framed(Frame.PULL, Pull(1)), STORED], "END", "before it had all"),
        ("another listing stored", [PULL, framed(Frame.STORED, Stored(bytes(32), 1, SIZE))], "END", "something else"),
        ("more entries stored", [PULL, framed(Frame.STORED, Stored(listing(ENTRY), 2, SIZE))], "END", "something else"),
        ("more bytes stored", [PULL, framed(Frame.STORED, Stored(listing(ENTRY), 1, 7))], "END", "something else"),
        ("frame behind STORED", [PULL, STORED, PULL], "END", "out of turn"),
        ("sender's frame from a receiver", [CHUNK], "OFFER", "0x22"),
        ("frame type that does not exist", [PULL, HEADER.pack(0x7F, 0)], "ENTRY", "0x7f"),
        ("frame over 4 KiB", [HEADER.pack(Frame.PULL, 4097)], "OFFER", "allowed"),
        ("PULL cut short", [encode_frame(Frame.PULL, PULL[5:-1])], "OFFER", "Pull"),
        ("STORED cut short", [PULL, encode_frame(Frame.STORED, STORED[5:-1])], "END", "Stored"),
        ("reason of 501 characters", [framed(Frame.RECEIVER_ABORT, Abort("x" * 501))], "OFFER", "Abort"),
    ]
    return [
        {"what": what, "frames": [frame.hex() for frame in taken], "sent": sent, "error_says": words}
        for what, taken, sent, words in cases
    ]


def vectors() -> dict[str, Any]:
    """Everything that transfer.json holds."""
    return {
        "content": CONTENT.hex(),
        "listing": listing(ENTRY).hex(),
        "frames": {name: frame.hex() for name, frame in frames().items()},
        "sessions": sessions(),
        "refused_by_receiver": refused_by_receiver(),
        "refused_by_sender": refused_by_sender(),
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(vectors(), indent=1) + "\n", encoding="utf-8")
