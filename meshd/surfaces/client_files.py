"""Configurations of other programs, changed without harm: what is there stays, and has a copy; all or nothing is written."""

import json
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from meshd.errors import RefusedError, StoreError

FILE_LIMIT: Final = 32 << 20
"""Bytes: Claude Code keeps much in its own, and more than this is another file."""

Entry = dict[str, Any]
"""Of one server: command, args, env."""


def is_complete() -> bool:
    """Whether the extra is installed by which TOML is written and tether-mcp runs."""
    try:
        _toml()  # a small part of it
    except ModuleNotFoundError:
        return False
    return True


def _toml() -> ModuleType:
    import tomlkit

    return tomlkit


def merged_json(text: str, section: str, name: str, entry: Entry) -> str:
    """JSON text with an entry in an object of it. Raises ValueError for what is no such JSON."""
    value = json.loads(text, object_pairs_hook=_unique) if text.strip() else {}
    servers = value.setdefault(section, {}) if isinstance(value, dict) else None
    if not isinstance(servers, dict) or not isinstance(servers.get(name, {}), dict):
        raise ValueError(f"it has no object {section}")
    merge(servers.setdefault(name, {}), entry)
    return json.dumps(value, indent=_indent(text), ensure_ascii=False) + "\n"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object in it has one key twice")
    return found


def _indent(text: str) -> int:
    """That of the first line inside, so that a file under version control shows what changed and no more."""
    second = text.lstrip().partition("\n")[2].partition("\n")[0]
    return len(second) - len(second.lstrip(" ")) or 2


def merged_toml(text: str, section: str, name: str, entry: Entry) -> str:
    """As merged_json, for TOML; comments stay."""
    tomlkit = _toml()
    try:
        document = tomlkit.parse(text)
        servers = document.setdefault(section, tomlkit.table(is_super_table=True))
        if not isinstance(servers, dict) or not isinstance(servers.get(name, {}), dict):
            raise ValueError(f"it has no table {section}")
        if name not in servers:
            servers[name] = tomlkit.table()
        merge(servers[name], entry)
        return str(tomlkit.dumps(document))
    except tomlkit.exceptions.TOMLKitError as error:
        raise ValueError(str(error)) from error


def merge(present: Any, entry: Entry) -> None:
    """Put an entry over the one that is there. What a person added beside it, and to its environment, stays."""
    for key, value in entry.items():
        if isinstance(value, dict) and isinstance(present.get(key), dict):
            present[key].update(value)
        else:
            present[key] = value


def change(path: Path, mode: int, merged: Callable[[str], str]) -> bool:
    """Make of a file's text what `merged` makes of it; whether that was a change. A new file gets `mode`.

    The text before is kept beside it as `.bak`. A link is followed: people keep such files elsewhere, and link them.
    Raises RefusedError for what does not parse, StoreError.
    """
    target = path.resolve()
    before = _read(target)
    try:
        text = merged("" if before is None else before.decode("utf-8-sig"))
        after = text.encode()
    except (ValueError, RecursionError) as error:  # of JSON, TOML and UTF-8 alike
        raise RefusedError(f"{path} cannot be understood: {error}.", "Nothing was written. Add it by hand.") from error
    if after == before:
        return False
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if before is not None:
            mode = stat.S_IMODE(target.stat().st_mode)
            _replace(target.with_name(f"{target.name}.bak"), before, mode)
        if _read(target) != before:
            raise RefusedError(f"{path} was changed meanwhile.", "Nothing was written. Try again.")
        _replace(target, after, mode)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}.") from error
    return True


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise RefusedError(f"{path} is no file.")
            data = file.read(FILE_LIMIT + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > FILE_LIMIT:
        raise RefusedError(f"{path} is longer than {FILE_LIMIT:,} bytes.", "Is it really a configuration?")
    return data


def _replace(path: Path, data: bytes, mode: int) -> None:
    made = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            os.fchmod(fd, mode)
            file.flush()
            os.fsync(fd)
        made.replace(path)
    except BaseException:
        made.unlink(missing_ok=True)
        raise
