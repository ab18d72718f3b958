"""Frames: a type (1 byte), a length (4 bytes, big-endian), and that many bytes. Whole or byte by byte, the same frames."""

import struct
from collections.abc import Mapping

from meshd.errors import RemoteProtocolError
from meshd.wire.constants import Frame

HEADER = struct.Struct(">BI")


def encode_frame(kind: Frame, body: bytes) -> bytes:
    """One frame, ready to send."""
    return HEADER.pack(kind, len(body)) + body


class FrameDecoder:
    """Cuts a byte stream into frames.

    `limits` maps each allowed type to the most bytes its body may have; they are checked on the header, before a body
    is waited for, so that a peer cannot make us hold more than the longest allowed frame.
    """

    def __init__(self, limits: Mapping[int, int]) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._start = 0

    @property
    def buffered(self) -> int:
        """Bytes received that no frame has taken yet."""
        return len(self._buffer) - self._start

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer; `next_frame` gives what they complete."""
        if self._start:
            del self._buffer[: self._start]
            self._start = 0
        self._buffer += data

    def next_frame(self) -> tuple[Frame, bytes] | None:
        """The next whole frame, or None. Raises RemoteProtocolError for a type or length that is not allowed here."""
        if self.buffered < HEADER.size:
            return None
        kind, length = HEADER.unpack_from(self._buffer, self._start)
        limit = self._limits.get(kind)
        if limit is None:
            raise RemoteProtocolError(f"The other side sent a frame of type {kind:#04x}, which is not allowed here.")
        if length > limit:
            raise RemoteProtocolError(
                f"The other side sent a {Frame(kind).name} frame of {length:,} bytes; {limit:,} are allowed."
            )
        if self.buffered < HEADER.size + length:
            return None
        start = self._start + HEADER.size
        self._start = start + length
        with memoryview(self._buffer) as view:
            return Frame(kind), bytes(view[start : self._start])
