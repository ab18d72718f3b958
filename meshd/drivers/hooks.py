"""The exec hook: a program of the person's that is run when an agent has mail. docs/protocol/mail.md, "Wake".

It is given a handle and the agent's name in its environment, and nothing of a message, neither there nor in its arguments.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

from meshd.config import ENV_AGENT
from meshd.drivers.command import plain_environment, run_command
from meshd.errors import RefusedError, UsageError
from meshd.model.handle import MESSAGES, Handle
from meshd.protocol.nudging import Outcome

WITHIN: Final = 30.0
"""Seconds that a hook may take: a notice takes none, and what takes longer is to put itself into the background."""

ARGUMENTS_LIMIT: Final = 64
LENGTH_LIMIT: Final = 8192
"""Characters of all arguments together: they are a row of the database, and stand in `tether delivery status`."""

ENV_HANDLE: Final = "TETHER_HANDLE"


def typed_handle(handle: str) -> str:
    """A message's short handle in the form that is whole in every shell. Raises RefusedError for anything else."""
    try:
        found = Handle.parse(handle)
    except UsageError as error:
        raise RefusedError("That is no handle of a message.") from error
    if found.table != MESSAGES or found.is_full or handle not in (found.short, found.typed):
        raise RefusedError("That is no handle of a message.")
    return found.typed


@attrs.frozen
class Hook:
    """A program that was found, and what it is called with."""

    program: str
    """Its absolute path: another directory in PATH does not change later which program it is."""

    argv: tuple[str, ...]
    """As the person gave them; the first is what the program sees itself called."""

    def to_json(self) -> dict[str, object]:
        """For the database."""
        return {"program": self.program, "argv": list(self.argv)}

    @classmethod
    def from_json(cls, found: object) -> "Hook":
        """What `to_json` made. Raises RefusedError for anything else: a disk may hold what it likes."""
        if isinstance(found, dict):
            program, argv = found.get("program"), found.get("argv")
            if isinstance(program, str) and isinstance(argv, list) and all(isinstance(each, str) for each in argv):
                return cls(_checked(program), _bounded(argv))
        raise RefusedError("The hook that is on disk cannot be read.", "Set it anew: tether delivery exec.")


def find_hook(argv: Sequence[str], path: str | None = None) -> Hook:
    """The hook that a person gives. `path`: in place of this process's PATH. Raises RefusedError."""
    words = _bounded(argv)
    name = words[0]
    if "/" in name and not name.startswith("/"):
        raise RefusedError(f"{name!r:.80} is relative to a directory.", "Give the program's whole path.")
    found = shutil.which(name, path=path)
    if found is None:
        raise RefusedError(
            f"No program {name!r:.80} is found.", "The daemon looks in its own PATH; give the program's whole path."
        )
    return Hook(str(Path(found).absolute()), words)


async def run_hook(
    hook: Hook, agent: str, handle: str, *, environment: Mapping[str, str] | None = None, within: float = WITHIN
) -> Outcome:
    """Run it once. Exit code 0 is told. `environment` in place of this process's. Raises RefusedError for no handle."""
    given = {
        **plain_environment(os.environ if environment is None else environment),
        ENV_HANDLE: typed_handle(handle),
        ENV_AGENT: agent,
    }
    try:
        ended = await run_command([hook.program, *hook.argv[1:]], environment=given, within=within)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        return Outcome(False, f"the hook cannot be started: {reason or 'its arguments cannot be passed on'}")
    if ended.code is None:
        return Outcome(False, f"the hook took longer than {within:g} s and was ended")
    if ended.code:
        return Outcome(False, f"the hook ended with {ended.code}")
    return Outcome(True, "the hook ended with 0")


def _bounded(argv: Sequence[str]) -> tuple[str, ...]:
    if not 0 < len(argv) <= ARGUMENTS_LIMIT or sum(map(len, argv)) > LENGTH_LIMIT or not argv[0]:
        raise RefusedError(
            f"A hook is a program and at most {ARGUMENTS_LIMIT - 1} arguments, {LENGTH_LIMIT:,} characters together.",
            "Put what is longer into a script.",
        )
    if any("\0" in each for each in argv):
        raise RefusedError("An argument of a hook has a zero byte in it.")
    return tuple(argv)


def _checked(program: str) -> str:
    if not program.startswith("/") or "\0" in program:
        raise RefusedError("The hook that is on disk cannot be read.", "Set it anew: tether delivery exec.")
    return program
