"""What a pairing's end means to the person at this side. The codes: docs/protocol/pairing.md, "How it ends"."""

from meshd.errors import (
    ConnectionLostError,
    NobodyFoundError,
    RefusedError,
    RemoteProtocolError,
    TetherError,
    WrongPassphraseError,
)
from meshd.protocol.handshake import Role
from meshd.wire.constants import CloseCode


def wrong_words() -> WrongPassphraseError:
    """The one text for everything that spake2 and noise refuse: nobody can tell which of the two it was."""
    return WrongPassphraseError(
        "Wrong words, or someone between you.",
        "Compare the words with the other person; if they are the same on both sides, do not go on over this network.",
    )


def met_ourselves() -> NobodyFoundError:
    """Both ends are one node, or somebody sends our own messages back to us."""
    return NobodyFoundError("Both ends are this same program.", "Start the other side on the other machine.")


def no_common_version() -> ConnectionLostError:
    """The two programs speak no common version."""
    return ConnectionLostError(
        "The two sides speak different versions of this protocol.", "Update the older program of the two."
    )


def other_purpose() -> RefusedError:
    """One side joins a mesh, the other hands something over."""
    return RefusedError(
        "One side holds these words for a mesh, the other for a payload.",
        "Use `tether invite` and `tether join` (or --join on both sides) for a mesh, no --join to hand something over.",
    )


def error_for_close(code: int | None, role: Role, at_stake: bool) -> TetherError:
    """The error to show when the peer closed with `code`, or when the link just ended (None).

    `role` is ours; `at_stake` says whether one of our tries was at stake. What the peer says is a claim: it gives no
    try back, since a listener who guesses could call every failed guess "busy".
    """
    match code:
        case None:
            return ConnectionLostError("The connection was lost before pairing was complete.", "Try again.")
        case CloseCode.WRONG_WORDS if at_stake:
            return wrong_words()
        case CloseCode.WRONG_WORDS:
            return RemoteProtocolError("The other side says that the words are wrong, but it has not seen any.")
        case CloseCode.BUSY:
            return RefusedError("The other side is busy with somebody else just now.", "Try again in a few seconds.")
        case CloseCode.WINDOW_CLOSED if role is Role.A:
            return RefusedError(
                "The other side takes no more tries: three were wrong, or its time was over.",
                "Have it started again, with other words.",
            )
        case CloseCode.WINDOW_CLOSED:
            return RefusedError("The other side has used up its tries.", "Start both sides again, with other words.")
        case CloseCode.TAKEN:
            return RefusedError(
                "Somebody else who holds the words has paired with the other side.",
                "If that was none of you, somebody knows your words: choose others.",
            )
        case CloseCode.PROTOCOL:
            return RemoteProtocolError(
                "The other side did not understand this program and ended the connection.", "Update both programs."
            )
        case CloseCode.TIMED_OUT:
            return ConnectionLostError("The other side waited too long and gave up.", "Try again.")
        case CloseCode.INTERRUPTED:
            return ConnectionLostError("The program on the other side was stopped.", "Start it there again.")
        case CloseCode.SELF:
            return met_ourselves()
        case CloseCode.VERSION:
            return no_common_version()
        case CloseCode.WORDS_DIFFER:
            return WrongPassphraseError(
                "The person at the other side sees other words: someone is between you.",
                "Do not go on over this network.",
            )
        case CloseCode.REFUSED:
            return RefusedError("The other side refused.")
        case CloseCode.PURPOSE:
            return other_purpose()
        case _:
            return ConnectionLostError("The other side ended the connection before pairing was complete.", "Try again.")
