"""One fixed line typed into a tmux pane that its owner registered from inside: docs/protocol/mail.md, "Wake".

What can be wrong is looked for before each key, and in doubt there is none. The pane must be the same pane of the same
server, with the same first process; in no mode, where keys are commands of tmux; not synchronised with others, which would
all get the line; and its program must wait for a line in which nothing stands (composer.py), at two looks. The condition goes
along with the keys: tmux itself checks it in the same step, so that nothing comes between. Then the line must stand there as
it was typed; only then Enter is pressed, and once.

All commands are argument lists, and each has a deadline. Nothing of a screen leaves this file.
"""

import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs
import trio

from meshd.drivers.command import run_command
from meshd.drivers.composer import Busy, Composer, find_composer
from meshd.drivers.foreground import look_at_foreground
from meshd.drivers.hooks import typed_handle
from meshd.drivers.screen import Screen, read_rows
from meshd.errors import RefusedError
from meshd.protocol.nudging import Outcome

LINE: Final = "# [mesh] receive "
"""What is typed, with a handle behind it: nothing else of any message. To a shell it is a comment."""

BETWEEN_LOOKS: Final = 0.3
"""Seconds between the two looks: whoever types touches a key several times a second, and a spinner turns as often."""

BEFORE_ENTER: Final = 0.3
"""Seconds from the line to Enter at least: a program that gets both at once takes them for a paste, with a line break."""

STANDS_WITHIN: Final = 1.5
"""Seconds until the line must stand in the composer."""

TAKEN_WITHIN: Final = 1.5
"""Seconds until it must have gone from there after Enter."""

LOOK_EVERY: Final = 0.05

COMMAND_WITHIN: Final = 3.0
"""Seconds for one command of tmux, which answers in milliseconds unless its server hangs."""

OUTPUT_LIMIT: Final = 1 << 20
"""Bytes of one answer: a screen of 500 by 200 columns in which each has its own colour."""

SIDE_LIMIT: Final = 2000
"""Columns and rows of a pane that is looked at."""

_PANE = re.compile(r"%[0-9]{1,9}")
_TMUX = re.compile(r"(?P<socket>/.+),(?P<server>[0-9]{1,9}),[0-9]{1,9}", re.DOTALL)

_STATE: Final = (
    *("pid", "pane_id", "pane_pid", "pane_dead", "pane_in_mode", "pane_input_off", "pane_synchronized"),
    *("alternate_on", "cursor_flag", "cursor_x", "cursor_y", "pane_width", "pane_height", "pane_tty"),
)
_GUARDED: Final = (*_STATE[:7], "cursor_x", "cursor_y")
"""What tmux checks itself in the step in which it types."""

_REFUSED: Final = "changed"


@attrs.frozen
class Pane:
    """A pane as it was registered."""

    socket: str
    server: int
    """Process id of the tmux server."""

    pane: str
    """`%7`."""

    process: int
    """Process id of the pane's first process: a pane that was started anew is another one."""

    def to_json(self) -> dict[str, object]:
        """For the database."""
        return {"socket": self.socket, "server": self.server, "pane": self.pane, "process": self.process}

    @classmethod
    def from_json(cls, found: object) -> "Pane":
        """What `to_json` made. Raises RefusedError for anything else: a disk may hold what it likes."""
        if isinstance(found, dict):
            socket, server, pane, process = (found.get(each) for each in ("socket", "server", "pane", "process"))
            if (
                (isinstance(socket, str) and socket.startswith("/") and "\0" not in socket)
                and (isinstance(server, int) and server > 1 and isinstance(process, int) and process > 1)
                and (isinstance(pane, str) and _PANE.fullmatch(pane))
            ):
                return cls(socket, server, pane, process)
        raise RefusedError("The pane that is on disk cannot be read.", "Register it anew: tether delivery tmux.")


@attrs.frozen
class _Look:
    """A pane at one moment: what tmux says of it, and its screen."""

    state: dict[str, str]
    screen: Screen


async def register_pane(tmux: str | None, pane: str | None) -> Pane:
    """The pane that a person means, by TMUX and TMUX_PANE of a program in it; TMUX may be the socket's path alone.

    Raises RefusedError for what is no pane of a tmux server of this user.
    """
    inside = "Run this in the pane that is meant."
    if not tmux or not pane:
        raise RefusedError("There is no tmux here: TMUX and TMUX_PANE are not both set.", inside)
    found = _TMUX.fullmatch(tmux)
    socket, server = (found["socket"], int(found["server"])) if found else (tmux, None)
    if not _PANE.fullmatch(pane) or not socket.startswith("/") or "\0" in socket:
        raise RefusedError("TMUX or TMUX_PANE is not what tmux sets.", inside)
    if shutil.which("tmux") is None:
        raise RefusedError("The daemon finds no program tmux.", "Install it, or start the daemon with another PATH.")
    look = await _look(Pane(socket, server or 0, pane, 0))
    if isinstance(look, Busy):
        raise RefusedError(f"The pane cannot be registered: {look.why}.", inside)
    if server not in (None, int(look.state["pid"])):
        raise RefusedError("At that socket is another tmux server than TMUX names.", inside)
    return Pane(socket, int(look.state["pid"]), pane, int(look.state["pane_pid"]))


async def look_at_pane(pane: Pane) -> Outcome:
    """Whether a line would be typed now, from the same two looks; `told` is whether it would."""
    found = await _look_twice(pane)
    return Outcome(False, found.why) if isinstance(found, Busy) else Outcome(True, "its composer is empty")


async def tell_pane(pane: Pane, handle: str, *, is_wanted: Callable[[], bool] = lambda: True) -> Outcome:
    """Type the line with this handle, and Enter. `is_wanted` is asked once more before the first key.

    Raises RefusedError for what is no handle. Cancelled, it types nothing, or brings the line to its end.
    """
    line = LINE + typed_handle(handle)
    found = await _look_twice(pane)
    if isinstance(found, Busy):
        return Outcome(False, found.why)
    look, composer = found
    if composer.room <= len(line):
        return Outcome(False, "the pane is too narrow for the line")
    if not is_wanted():
        return Outcome(False, "it is read or paused by now")
    # A line without its Enter would be a draft for ever. All waits in there have deadlines.
    outcome = Outcome(False, "")
    with trio.CancelScope(shield=True):
        outcome = await _type(pane, look, composer, line)
    return outcome


async def _type(pane: Pane, look: _Look, composer: Composer, line: str) -> Outcome:
    # The handle has been checked sign by sign, and the rest is a constant: within these quotes tmux changes nothing.
    if not await _send(pane, look, f"-l -- '{line}'"):
        return Outcome(False, "the pane changed before a key was pressed")
    began = trio.current_time()
    standing: _Look | Busy = Busy("")
    while trio.current_time() < began + STANDS_WITHIN:
        await trio.sleep(LOOK_EVERY if isinstance(standing, Busy) else BEFORE_ENTER - (trio.current_time() - began))
        standing = await _standing(pane, composer.prompt, line)
        if isinstance(standing, _Look) and trio.current_time() >= began + BEFORE_ENTER:
            break
    if isinstance(standing, Busy) or not await _send(pane, standing, "Enter"):
        return Outcome(False, "the line does not stand there as it was typed, so Enter was not pressed")
    pressed = trio.current_time()
    while trio.current_time() < pressed + TAKEN_WITHIN:
        await trio.sleep(LOOK_EVERY)
        if isinstance(await _standing(pane, composer.prompt, line), Busy):
            return Outcome(True, "typed")
    return Outcome(False, "typed, but Enter was not taken")


async def _standing(pane: Pane, prompt: str, line: str) -> _Look | Busy:
    """The pane, if exactly the line stands in its composer."""
    look = await _look(pane)
    if isinstance(look, Busy):
        return look
    composer = await _composer(look)
    if isinstance(composer, Busy):
        return composer
    return look if (composer.prompt, composer.text) == (prompt, line) else Busy("something else stands there")


async def _look_twice(pane: Pane) -> tuple[_Look, Composer] | Busy:
    """The pane and its empty composer, if that is the same at two looks."""
    first = await _look(pane)
    if isinstance(first, Busy):
        return first
    composer = await _composer(first)
    if isinstance(composer, Busy):
        return composer
    if composer.text:
        return Busy("a draft stands there")
    await trio.sleep(BETWEEN_LOOKS)
    second = await _look(pane)
    if isinstance(second, Busy):
        return second
    again = await _composer(second)
    if again != composer or not first.screen.looks_like(second.screen):
        return Busy("something moves there")
    return second, composer


async def _composer(look: _Look) -> Composer | Busy:
    try:
        foreground = await look_at_foreground(int(look.state["pane_pid"]), look.state["pane_tty"])
    except (OSError, ValueError, IndexError):
        return Busy("its foreground cannot be known")
    return find_composer(look.screen, foreground)


async def _look(pane: Pane) -> _Look | Busy:
    """What the pane shows. `server` 0 and `process` 0 are not compared: they are not known yet."""
    if why := _owner_fault(pane.socket):
        return Busy(why)
    form = "\t".join(f"#{{{each}}}" for each in _STATE)
    answer = await _tmux(
        *(pane.socket, "display-message", "-p", "-t", pane.pane, form, ";"),
        *("capture-pane", "-p", "-e", "-N", "-t", pane.pane),
    )
    if answer is None:
        return Busy("tmux does not answer for it: it may be closed")
    head, _, capture = answer.partition("\n")
    values = head.split("\t")
    if len(values) != len(_STATE):
        return Busy("tmux answers in no known form")
    state = dict(zip(_STATE, values, strict=True))
    numbers = [state[each] for each in _STATE if each not in ("pane_id", "pane_tty")]
    if not all(each.isascii() and each.isdigit() and len(each) < 10 for each in numbers):
        return Busy("tmux answers in no known form")
    if pane.server not in (0, int(state["pid"])):
        return Busy("it is another tmux server's")
    if state["pane_id"] != pane.pane or pane.process not in (0, int(state["pane_pid"])):
        return Busy("it is another pane than was registered")
    for name, why in _NOT_NOW.items():
        if state[name] != "0":
            return Busy(why)
    width, height = int(state["pane_width"]), int(state["pane_height"])
    if not (0 < width <= SIDE_LIMIT and 0 < height <= SIDE_LIMIT):
        return Busy("its size makes no sense")
    screen = Screen(
        read_rows(capture, width, height),
        width,
        int(state["cursor_x"]),
        int(state["cursor_y"]),
        state["cursor_flag"] == "1",
        state["alternate_on"] == "1",
    )
    return _Look(state, screen)


_NOT_NOW: Final = {
    "pane_dead": "its program has ended",
    "pane_in_mode": "it is in a mode of tmux, such as copy mode",
    "pane_input_off": "its input is switched off",
    "pane_synchronized": "what is typed there goes to other panes as well",
}


async def _send(pane: Pane, look: _Look, keys: str) -> bool:
    """Send keys if, in the same step of tmux, all is as at that look; whether it was. `keys` holds nothing from outside."""
    form = "/".join(f"#{{{each}}}" for each in _GUARDED)
    wanted = "/".join(look.state[each] for each in _GUARDED)
    answer = await _tmux(
        *(pane.socket, "if-shell", "-F", "-t", pane.pane, f"#{{==:{form},{wanted}}}"),
        *(f"send-keys -t {pane.pane} {keys}", f"display-message -p {_REFUSED}"),
    )
    return answer == ""


async def _tmux(socket: str, *arguments: str) -> str | None:
    """One command's output; None where it failed, or took too long."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    try:
        # -u: whatever the locale of a service is, text comes as UTF-8. None of these commands starts a server.
        ended = await run_command(
            ["tmux", "-u", "-f", os.devnull, "-S", socket, *arguments],
            environment=environment,
            within=COMMAND_WITHIN,
            limit=OUTPUT_LIMIT,
        )
    except (OSError, ValueError):
        return None
    return ended.output.decode(errors="replace") if ended.code == 0 else None


def _owner_fault(socket: str) -> str:
    """Why this is no socket to speak to; empty for no reason. Another user's server could say anything of its panes."""
    try:
        found = Path(socket).stat()
    except (OSError, ValueError):
        return "its tmux server is gone"
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.getuid():
        return "that is no tmux server of this user"
    return ""
