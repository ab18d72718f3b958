"""What two sides without a common version say to each other: docs/decisions/0003-version-mismatch.md."""

import re
from collections.abc import Iterable

from meshd.drivers.quic_stream import Stream
from meshd.drivers.quic_terms import DialFailedError, StreamResetError, VersionMismatchError

_LIST_MAX = 256
"""Bytes of a list at most."""
_SMALL_NUMBER = re.compile("[0-9]{1,4}")
_NO_LIST = "The other side is no Tether that says which version it speaks."


def bare_name(alpns: tuple[str, ...]) -> str:
    """The name without a version, under which two sides meet that have nothing else in common."""
    return alpns[0].partition("/")[0]


async def exchange_versions(stream: Stream, alpns: tuple[str, ...]) -> VersionMismatchError:
    """Say what is spoken here, hear what is spoken there, and return the error to raise over it.

    Raises DialFailedError when the other side says nothing of use, ConnectionClosedError.
    """
    heard = b""
    try:
        await stream.send_all(",".join(alpns).encode())
        await stream.send_eof()
        while len(heard) <= _LIST_MAX and (data := await stream.receive_some(_LIST_MAX)):
            heard += data
    except StreamResetError as error:
        raise DialFailedError(_NO_LIST) from error
    return judge_versions(heard, alpns)


def judge_versions(heard: bytes, alpns: tuple[str, ...]) -> VersionMismatchError:
    """What a peer's list amounts to. Raises DialFailedError for one that is too long or names no version of ours' kind."""
    name = bare_name(alpns)
    theirs = _versions(heard.decode("ascii", "replace").split(","), name)
    if not theirs or len(heard) > _LIST_MAX:
        raise DialFailedError(_NO_LIST)
    return VersionMismatchError(_versions(alpns, name), theirs)


def _versions(alpns: Iterable[str], name: str) -> tuple[int, ...]:
    parts = (alpn.partition("/") for alpn in alpns)
    return tuple(sorted({int(number) for left, _, number in parts if left == name and _SMALL_NUMBER.fullmatch(number)}))
