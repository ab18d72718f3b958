"""Numbers that both ends must agree on. A limit's comment says why it has its size."""

import enum
from typing import Final

PROTOCOL: Final = "tether/1"
"""Name of this protocol, bound into every handshake; also the ALPN of a connection that speaks it."""

RENDEZVOUS_PROTOCOL: Final = "tether-rendezvous/1"
"""The ALPN of a connection with a rendezvous server."""

VERSIONS: Final = (1,)
"""Versions of the pairing messages that this program speaks, newest first."""

CHUNK_SIZE: Final = 1 << 20
"""Most bytes of payload in one CHUNK: large enough that a digest a chunk costs nothing, small enough to hold several."""

WINDOW: Final = 8 << 20
"""Bytes of frames a receiver grants ahead of what it has written: a 10 Gbit/s LAN at 6 ms, and flat memory."""

DIGEST_SIZE: Final = 32
"""Bytes of BLAKE3-256, and of SHA-256."""

PASSPHRASE_LIMIT: Final = 1024
"""Most bytes of a passphrase in UTF-8: more is a file pasted by mistake."""

REASON_LIMIT: Final = 500
"""Most characters of a reason that a peer may make us show."""


class Frame(enum.IntEnum):
    """Frame types; docs/protocol/ has a page for each block."""

    HELLO = 0x01
    PAKE = 0x02
    NOISE = 0x03
    CONFIRM = 0x04
    SESSION_HELLO = 0x05
    OPEN = 0x06
    JOIN = 0x10
    JOIN_OFFER = 0x11
    CONSENT = 0x12
    ADMITTED = 0x13
    ROSTER = 0x14
    ROSTER_END = 0x15
    JOINED = 0x16
    JOIN_REFUSED = 0x17
    OFFER = 0x20
    ENTRY = 0x21
    CHUNK = 0x22
    ENTRY_END = 0x23
    ENTRY_FAILED = 0x24
    END = 0x25
    SENDER_ABORT = 0x2E
    PULL = 0x30
    REFUSE_ENTRY = 0x31
    STORED = 0x32
    RECEIVER_ABORT = 0x3E
    HEADS = 0x40
    ASK_RECORDS = 0x41
    RECORDS = 0x42
    MORE = 0x43
    ASK_HASHES = 0x44
    HASHES = 0x45
    PROBE = 0x46
    ECHO = 0x47
    LOOKUP = 0x50
    WANT_LIST = 0x51
    WANT = 0x52
    WANT_SMALL = 0x53
    HOLDS = 0x58
    LIST = 0x59
    BLOB_CHUNK = 0x5A
    SMALL = 0x5B
    NOT_SERVED = 0x5C
    ALLOCATE = 0x60
    ENTER = 0x61
    WAIT = 0x62
    LEAVE = 0x63
    FREE = 0x64
    OBSERVED = 0x68
    NUMBER = 0x69
    MATCH = 0x6A
    REFUSED = 0x6B
    THIRD = 0x6C


PAIRING_FRAMES: Final[dict[int, int]] = {
    Frame.HELLO: 256,
    Frame.PAKE: 33,  # SPAKE2 over Ed25519: one side byte and one element
    Frame.NOISE: 512,  # the longest XX message is 96 bytes and its payload is empty
    Frame.CONFIRM: 1024,
}
"""Most bytes of each frame's body while pairing. What is not listed is not allowed."""

SENDER_FRAMES: Final[dict[int, int]] = {
    Frame.OFFER: 4096,
    Frame.ENTRY: 8192,  # a path of 4,096 bytes in 64 parts, and its numbers
    Frame.CHUNK: DIGEST_SIZE + CHUNK_SIZE,
    Frame.ENTRY_END: 4096,
    Frame.ENTRY_FAILED: 4096,
    Frame.END: 4096,
    Frame.SENDER_ABORT: 4096,
}
"""What a receiver takes from a sender, and how long each may be."""

RECEIVER_FRAMES: Final[dict[int, int]] = {
    Frame.PULL: 4096,
    Frame.REFUSE_ENTRY: 4096,
    Frame.STORED: 4096,
    Frame.RECEIVER_ABORT: 4096,
}
"""What a sender takes from a receiver, and how long each may be."""


class CloseCode(enum.IntEnum):
    """QUIC application close codes; docs/protocol/pairing.md."""

    DONE = 0x00
    WRONG_WORDS = 0x01
    BUSY = 0x02
    WINDOW_CLOSED = 0x03
    TAKEN = 0x04
    PROTOCOL = 0x05
    TIMED_OUT = 0x06
    INTERRUPTED = 0x07
    REFUSED = 0x08
    SELF = 0x09
    VERSION = 0x0A
    WORDS_DIFFER = 0x0B
    NOT_A_MEMBER = 0x0C
    PURPOSE = 0x0D
    REPLACED = 0x0E

    @classmethod
    def of(cls, code: int | None, otherwise: "CloseCode") -> "CloseCode":
        """The code with this number, or another for a number that is none of ours."""
        return next((each for each in cls if each == code), otherwise)
