"""What a command asks the person: secrets, which `ps` must not show, and whether to go on."""

import getpass
import os
import sys
from pathlib import Path
from typing import Final

from meshd.errors import RefusedError, UsageError
from meshd.tools.operation import Argument

SECRET_LIMIT: Final = 4096
"""Most bytes of words on standard input: 24 words are a few hundred, and more is another file given by mistake."""

_ANSWER_LIMIT: Final = 100


def secret(argument: Argument, given: tuple[str, ...]) -> str:
    """The words: as an argument, from the environment, from standard input, or asked for on the terminal."""
    words = " ".join(given) or (os.environ.get(argument.env, "") if argument.env else "")
    if not words and not sys.stdin.isatty():
        words = _from_stdin()
    if not words.strip() and _has_terminal():
        words = _asked(argument.name)
    found = " ".join(words.split())
    if not found:
        where = f", or in {argument.env}" if argument.env else ""
        verb = "are" if argument.name.endswith("s") else "is"
        raise UsageError(
            f"The {argument.name} {verb} missing.", f"Type on the terminal, or give on standard input{where}."
        )
    return found


def confirm(question: str) -> None:
    """Return when the person at the terminal says yes. Raises UsageError without a terminal, RefusedError for a no."""
    try:
        with Path("/dev/tty").open("r+b", buffering=0) as terminal:
            terminal.write(f"{question} [y/N] ".encode())
            answer = b""
            while not answer.endswith(b"\n") and len(answer) < _ANSWER_LIMIT and (more := terminal.read(_ANSWER_LIMIT)):
                answer += more
    except OSError as error:
        raise UsageError(
            "This asks first, and there is no terminal to ask on.", "Give --yes where nobody watches."
        ) from error
    if answer.strip().lower() not in (b"y", b"yes"):
        raise RefusedError("Not done: the answer was no.")


def _has_terminal() -> bool:
    # getpass would fall back to standard input, and echo it.
    try:
        with Path("/dev/tty").open("r+b", buffering=0):
            return True
    except OSError:
        return False


def _from_stdin() -> str:
    data = sys.stdin.buffer.read(SECRET_LIMIT + 1)
    if len(data) > SECRET_LIMIT:
        raise UsageError(f"Standard input has more than {SECRET_LIMIT:,} bytes: these are no words.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError("The words on standard input are not UTF-8 text.") from None


def _asked(what: str) -> str:
    try:
        return getpass.getpass(f"{what.capitalize()}: ")
    except EOFError:
        return ""
