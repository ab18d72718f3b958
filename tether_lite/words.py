"""Where the secret words come from: an argument, the environment, a file, a prompt, or made here; never from stdin."""

import getpass
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from meshd.config import ENV_PASSPHRASE
from meshd.errors import UsageError
from meshd.protocol.passphrase import Secret, generate_code, parse_code, read_secret

FILE_LIMIT: Final = 4096
"""Most bytes read of a passphrase file: its first line is a passphrase, and more is another file named by mistake."""

Warn = Callable[[str], None]


def for_listener(passphrase: str | None, file: Path | None, prompt: bool, warn: Warn) -> tuple[Secret, bool]:
    """The listener's secret, and whether it was made here and must be shown."""
    given = _given(None, passphrase, file, prompt, warn)
    if given is not None:
        return given, False
    code = generate_code(secrets.token_bytes)
    return Secret(code.secret, code), True


def for_connector(code: str | None, passphrase: str | None, file: Path | None, prompt: bool, warn: Warn) -> Secret:
    """The connector's secret; asked for on the terminal when nothing gives it."""
    return _given(code, passphrase, file, prompt, warn) or _prompted()


def _given(code: str | None, passphrase: str | None, file: Path | None, prompt: bool, warn: Warn) -> Secret | None:
    ways = [code is not None, passphrase is not None, file is not None, prompt]
    if sum(ways) > 1:
        raise UsageError(
            "The words were given in more than one way.",
            "Use one of CODE, --passphrase, --passphrase-file and --prompt.",
        )
    if code is not None:
        parsed = parse_code(code)
        return Secret(parsed.secret, parsed)
    if passphrase is not None:
        return read_secret(passphrase)
    if file is not None:
        return read_secret(_first_line(file, warn))
    if prompt:
        return _prompted()
    from_environment = os.environ.get(ENV_PASSPHRASE)
    return None if from_environment is None else read_secret(from_environment)


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
        return (data.decode("utf-8").splitlines() or [""])[0]
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
