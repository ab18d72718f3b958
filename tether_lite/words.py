"""Where the secret words come from: an argument, the environment, a file, a prompt, or made here; never from stdin."""

import getpass
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from meshd.config import ENV_PASSPHRASE
from meshd.drivers.threads import in_thread
from meshd.errors import RefusedError, UsageError
from meshd.protocol.passphrase import Secret, generate_code, parse_code, read_secret

FILE_LIMIT: Final = 4096
"""Most bytes read of a passphrase file: its first line is a passphrase, and more is another file named by mistake."""

ANSWER_LIMIT: Final = 100
"""Most bytes of an answer to a yes-or-no question."""

Warn = Callable[[str], None]


@attrs.frozen
class Given:
    """The ways in which words can be given as options, of which one at most is used."""

    passphrase: str | None = attrs.field(repr=False)
    file: Path | None
    prompt: bool


def for_listener(given: Given, warn: Warn) -> tuple[Secret, bool]:
    """The listener's secret, and whether it was made here and must be shown."""
    secret = _read(None, given, warn)
    if secret is not None:
        return secret, False
    code = generate_code(secrets.token_bytes)
    return Secret(code.secret, code), True


def for_connector(code: str | None, given: Given, warn: Warn) -> Secret:
    """The connector's secret; asked for on the terminal when nothing gives it."""
    return _read(code, given, warn) or _prompted()


async def confirm(show: Callable[[tuple[str, ...]], None], compared: tuple[str, ...]) -> bool:
    """Show transcript words and wait for a person's yes on the terminal, which stdin need not be."""
    show(compared)
    return await in_thread(_ask, abandon=True)


def _read(code: str | None, given: Given, warn: Warn) -> Secret | None:
    ways = [code is not None, given.passphrase is not None, given.file is not None, given.prompt]
    if sum(ways) > 1:
        raise UsageError(
            "The words were given in more than one way.",
            "Use one of CODE, --passphrase, --passphrase-file and --prompt.",
        )
    if code is not None:
        parsed = parse_code(code)
        return Secret(parsed.secret, parsed)
    if given.passphrase is not None:
        return read_secret(given.passphrase)
    if given.file is not None:
        return read_secret(_first_line(given.file, warn))
    if given.prompt:
        return _prompted()
    from_environment = os.environ.get(ENV_PASSPHRASE)
    return None if from_environment is None else read_secret(from_environment)


def check_terminal() -> None:
    """Raise UsageError unless there is a terminal to ask on."""
    try:
        with Path("/dev/tty").open("r+b", buffering=0):
            return
    except OSError as error:
        raise UsageError("--verify needs a terminal to ask on.", "Leave it out where nobody watches.") from error


def _ask() -> bool:
    try:
        with Path("/dev/tty").open("r+b", buffering=0) as terminal:
            terminal.write(b"Are they the same on both screens? [y/N] ")
            answer = b""
            while not answer.endswith(b"\n") and len(answer) < ANSWER_LIMIT and (more := terminal.read(ANSWER_LIMIT)):
                answer += more
    except OSError as error:
        raise RefusedError("The terminal went away before the words were compared.") from error
    return answer.strip().lower() in (b"y", b"yes")


def _first_line(file: Path, warn: Warn) -> str:
    try:
        with file.open("rb") as opened:
            if stat.S_IMODE(os.fstat(opened.fileno()).st_mode) & 0o077:
                warn(f"{file} can be read by others on this machine; chmod 600 keeps it to you.")
            data = opened.read(FILE_LIMIT + 1)
    except OSError as error:
        raise UsageError(f"Cannot read the passphrase file {file}: {error.strerror}.") from error
    if len(data) > FILE_LIMIT:
        raise UsageError(f"{file} is longer than {FILE_LIMIT} bytes.", "A passphrase file holds one line.")
    try:
        return (data.decode("utf-8-sig").splitlines() or [""])[0]
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8 text.", "A passphrase file holds one line of text.") from None


def _prompted() -> Secret:
    # getpass would fall back to standard input, which is payload, and echo it.
    try:
        with Path("/dev/tty").open("r+b", buffering=0):
            pass
    except OSError:
        raise UsageError(
            "No words were given, and there is no terminal to ask on.",
            f"Give the code, --passphrase-file FILE, or {ENV_PASSPHRASE} in the environment.",
        ) from None
    try:
        return read_secret(getpass.getpass("Code or passphrase: "))
    except EOFError:
        raise UsageError("No words were given.", "Type the code or passphrase and press Enter.") from None
