"""The standard streams: what they are when a process is started without them."""

import os
import sys
from typing import Final

from meshd.errors import UsageError

IN: Final = 0
OUT: Final = 1

_missing: set[int] = set()


def fill_missing() -> None:
    """Open /dev/null in the place of closed streams, or the next socket would take their numbers. Called once, first."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            _missing.add(number)
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def payload_in() -> int:
    """The number of standard input, as payload. Raises UsageError when there is none: nothing is not an empty payload."""
    if IN in _missing:
        raise UsageError("There is no standard input to send.", "Give something to --send.")
    return IN


def payload_out() -> int:
    """The number of standard output, for payload. Raises UsageError when there is none: it would be lost in silence."""
    if OUT in _missing:
        raise UsageError("There is no standard output to write to.", "Give --into DIR.")
    return OUT
