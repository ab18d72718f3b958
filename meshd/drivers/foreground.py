"""Which program a terminal belongs to just now, and whether that reads a line, keys, or a password.

What a screen shows can be anybody's text. This is the kernel's word: the foreground process group of the terminal, what it
was started as, and how the terminal is set. `read -p '$ '` in a script looks like a shell's prompt, and is none.
"""

import enum
import os
import stat
import sys
import termios
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Final

import attrs

from meshd.drivers.command import run_command

ARGV_LIMIT: Final = 4096
"""Bytes of a command line that are looked at: which program it is stands at its beginning."""

PS_WITHIN: Final = 2.0

LINE_EDITORS: Final = frozenset({"bash", "zsh", "fish", "ksh", "ksh93", "mksh"})
"""Shells that read keys and show them themselves while they are at their prompt, and at no other time."""

PLAIN_SHELLS: Final = frozenset({"sh", "dash", "ash"})
"""Shells that may also leave the line to the terminal."""

INTERPRETERS: Final = ("node", "bun", "deno", "python")
"""What an agent's program may be started by; then its own name is the next word."""

_WITH_WORD: Final = frozenset({"--rcfile", "--init-file", "-O", "+O", "-o", "+o", "-C", "--init-command"})
"""Options of shells that are followed by a word of their own."""


class Program(enum.Enum):
    """What is known well enough to be typed to."""

    SHELL = "a shell"
    CLAUDE = "Claude Code"
    CODEX = "Codex"
    OTHER = "another program"


@attrs.frozen
class Foreground:
    """A terminal's foreground at one moment."""

    program: Program
    name: str
    """What it is called, for people; its own words, so at most 32 plain characters."""

    by_line: bool
    """The terminal gathers lines (ICANON): no line editor, and nothing that reads single keys."""

    echoes: bool
    """The terminal shows what is typed (ECHO)."""

    @property
    def reads_password(self) -> bool:
        """A line is gathered and not shown."""
        return self.by_line and not self.echoes


async def look_at_foreground(process: int, terminal: str) -> Foreground:
    """Of the terminal of `process`, whose device is `terminal`. Raises OSError when it cannot be known."""
    group = _group(process, terminal) if sys.platform == "linux" else await _group_by_ps(process)
    argv = _argv(group) if sys.platform == "linux" else await _argv_by_ps(group)
    by_line, echoes = _modes(terminal)
    name = _name(argv)
    return Foreground(
        program_of(argv), "".join(each for each in name if each.isalnum() or each in "._-")[:32], by_line, echoes
    )


def program_of(argv: Sequence[str]) -> Program:
    """What a command line starts. A shell that runs a script or a command is no shell at its prompt."""
    name = _name(argv)
    if name in LINE_EDITORS | PLAIN_SHELLS:
        return Program.SHELL if _is_interactive(argv[1:]) else Program.OTHER
    if name.startswith(INTERPRETERS) and len(argv) > 1:
        path = PurePosixPath(argv[1])
        name = path.name
        if "@anthropic-ai" in path.parts and "claude-code" in path.parts:
            return Program.CLAUDE
        if "@openai" in path.parts and "codex" in path.parts:
            return Program.CODEX
    return {"claude": Program.CLAUDE, "codex": Program.CODEX}.get(name, Program.OTHER)


def _name(argv: Sequence[str]) -> str:
    return PurePosixPath(argv[0].removeprefix("-")).name if argv else ""


def _is_interactive(words: Sequence[str]) -> bool:
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in _WITH_WORD:
            skip = True
        elif not word.startswith(("-", "+")) or word in ("-", "--") or _is_command(word):
            return False
    return not skip


def _is_command(option: str) -> bool:
    return option.startswith("--command") if option.startswith("--") else "c" in option


def _group(process: int, terminal: str) -> int:
    """The foreground process group of a process's terminal, which must be the device that is named."""
    with Path(f"/proc/{process}/stat").open("rb") as file:
        # The name in parentheses may hold anything, also parentheses.
        fields = file.read(4096).rpartition(b")")[2].split()
    number, group = int(fields[4]), int(fields[5])
    device = Path(terminal).stat().st_rdev
    if (os.major(device), os.minor(device)) != ((number >> 8) & 0xFFF, (number & 0xFF) | ((number >> 12) & 0xFFF00)):
        raise OSError(f"{terminal} is not the terminal of process {process}")
    return group


def _argv(group: int) -> list[str]:
    if Path(f"/proc/{group}").stat().st_uid != os.getuid():
        return []  # another user's, by sudo or su: nothing is known of it
    with Path(f"/proc/{group}/cmdline").open("rb") as file:
        return file.read(ARGV_LIMIT).decode(errors="replace").rstrip("\0").split("\0")


async def _group_by_ps(process: int) -> int:
    return int(await _ps(process, "tpgid="))


async def _argv_by_ps(group: int) -> list[str]:
    owner, _, words = (await _ps(group, "uid=", "args=")).partition(" ")
    return words.split() if owner == str(os.getuid()) else []


async def _ps(process: int, *columns: str) -> str:
    """Where there is no /proc: POSIX's own way to ask."""
    argv = ["ps", *(word for column in columns for word in ("-o", column)), "-p", str(process)]
    ended = await run_command(argv, environment={"PATH": os.defpath, "LC_ALL": "C"}, within=PS_WITHIN, limit=ARGV_LIMIT)
    text = ended.output.decode(errors="replace").strip()
    if ended.code != 0 or not text:
        raise OSError(f"ps knows nothing of process {process}")
    return text


def _modes(terminal: str) -> tuple[bool, bool]:
    # It must not become the daemon's own terminal, and opening it must not wait.
    fd = os.open(terminal, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISCHR(os.fstat(fd).st_mode):
            raise OSError(f"{terminal} is no terminal")
        local = termios.tcgetattr(fd)[3]
    except termios.error as error:
        raise OSError(f"{terminal} is no terminal") from error
    finally:
        os.close(fd)
    return bool(local & termios.ICANON), bool(local & termios.ECHO)
