"""Every error that a person may meet: what was wrong, who erred, what to do, and the exit code that goes with it.

The exit codes are one table for all commands; README and `--help` print it from here.
"""

from typing import ClassVar

EXIT_DONE = 0
EXIT_USAGE = 2
EXIT_WRONG_PASSPHRASE = 3
EXIT_NOBODY_FOUND = 4
EXIT_CONNECTION_LOST = 5
EXIT_REFUSED = 6
EXIT_TIMED_OUT = 7
EXIT_INTERRUPTED = 130

EXIT_CODES: dict[int, str] = {
    EXIT_DONE: "done",
    EXIT_USAGE: "wrong usage",
    EXIT_WRONG_PASSPHRASE: "wrong passphrase",
    EXIT_NOBODY_FOUND: "nobody found (no peer, no daemon, no such handle or name)",
    EXIT_CONNECTION_LOST: "connection lost before the end",
    EXIT_REFUSED: "refused (limits, names, space)",
    EXIT_TIMED_OUT: "timed out",
    EXIT_INTERRUPTED: "interrupted",
}


class TetherError(Exception):
    """The base of all errors that end a command.

    `what` is one line that says what went wrong and who erred; `advice`, when there is any, one line that says what to
    do about it. `str()` joins them.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(what, advice)
        self.what = what
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.what} {self.advice}".rstrip()


class UsageError(TetherError):
    """The person asked for something that makes no sense; nothing was sent."""

    exit_code = EXIT_USAGE


class WrongPassphraseError(TetherError):
    """The two sides do not hold the same words, or somebody stands between them: nobody can tell which."""

    exit_code = EXIT_WRONG_PASSPHRASE


class NobodyFoundError(TetherError):
    """No peer that could be meant was found, or more than could be tried."""

    exit_code = EXIT_NOBODY_FOUND


class ExpiredError(NobodyFoundError):
    """What is asked for was here, and its time to live is over: it will not come back."""


class ConnectionLostError(TetherError):
    """The link ended before both sides knew that all had arrived."""

    exit_code = EXIT_CONNECTION_LOST


class RemoteProtocolError(ConnectionLostError):
    """The peer sent what the protocol forbids. The only error that bytes from a peer may cause in a machine."""


class RefusedError(TetherError):
    """One side, or the person at it, would not take what the other offered: limits, names, space."""

    exit_code = EXIT_REFUSED


class StoreError(RefusedError):
    """The disk, or what is kept on it, does not allow what was asked. What was acknowledged before stays as it is."""


class TimedOutError(TetherError):
    """What was waited for did not happen in the time that was given."""

    exit_code = EXIT_TIMED_OUT


class LocalProtocolError(Exception):
    """Our own code called a protocol machine out of turn. A fault in this program, never the peer's doing."""
