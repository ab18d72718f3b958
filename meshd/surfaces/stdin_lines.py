"""Lines from standard input for a program that speaks JSON-RPC over it, none of them longer than it may be."""

import os
from collections.abc import AsyncIterator
from typing import Final

import trio

LINE_LIMIT: Final = 16 << 20
"""Most bytes of a line: a blob of the largest size that a tool takes, in base64, and room around it."""

_READ_AT_ONCE: Final = 1 << 16


async def lines(fd: int = 0, limit: int = LINE_LIMIT) -> AsyncIterator[bytes | None]:
    """Each line without its end, as it comes; None in the place of one that is too long, of which nothing is kept.

    It reads the descriptor itself, in threads that are left behind when this ends: Python's buffered file has a lock, and
    the interpreter dies at its end when such a thread holds that.
    """
    buffer = bytearray()
    skipping = False
    while True:
        data = await trio.to_thread.run_sync(os.read, fd, _READ_AT_ONCE, abandon_on_cancel=True)
        if not data:
            return  # what stands there without its line feed was cut off
        *whole, rest = data.split(b"\n")
        for each in whole:
            buffer += each
            yield None if skipping or len(buffer) > limit else bytes(buffer)
            buffer.clear()
            skipping = False
        buffer += rest
        if len(buffer) > limit:
            buffer.clear()
            skipping = True
