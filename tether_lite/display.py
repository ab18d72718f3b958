"""What a person, or a program that asked for JSON, sees of a run. Everything goes to stderr: stdout is payload."""

import json
import os
import sys
from typing import Final, Protocol

import attrs

from meshd import status
from meshd.model.text import harmless

PROGRAM: Final = "python -m tether_lite"
CONNECT: Final = f"{PROGRAM} connect"
CONNECT_WAN: Final = f"{CONNECT} --wan"
UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
VERBS: Final = {"send": "Sent", "receive": "Received"}


def size_text(size: float) -> str:
    """Bytes for people: 999 B, 1.5 MiB."""
    for unit in UNITS:
        if size < 1024 or unit == UNITS[-1]:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("the last unit takes all")


def count_text(count: int, noun: str) -> str:
    """1 entry, 2 entries."""
    return (
        f"{count:,} {noun}"
        if count == 1
        else f"{count:,} {noun[:-1]}ies"
        if noun.endswith("y")
        else f"{count:,} {noun}s"
    )


def say(line: str) -> None:
    """One line on stderr, at once. When nobody can read it any more, that is no reason to lose a payload."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        # What is still in the buffer would fail again when the interpreter ends, and cost the exit code.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)


class Display(Protocol):
    """Shows a run. `event` is a status.Observer."""

    def event(self, event: status.Event) -> None: ...
    def code(self, code: str, command: str = CONNECT) -> None: ...
    def token(self, number: int) -> None: ...
    def words(self, words: tuple[str, ...]) -> None: ...
    def error(self, what: str, advice: str, exit_code: int) -> None: ...
    def close(self) -> None: ...


class JsonDisplay:
    """One JSON object a line."""

    def event(self, event: status.Event) -> None:
        """`{"event": "waiting", …}`: the class's name and its fields."""
        name = "".join(f"_{each.lower()}" if each.isupper() else each for each in type(event).__name__).lstrip("_")
        self._print({"event": name, **attrs.asdict(event)})

    def code(self, code: str, command: str = CONNECT) -> None:
        """The one place where the words are printed: whoever runs the listener has to pass them on."""
        self._print({"event": "code", "code": code})

    def token(self, number: int) -> None:
        """The event `numbered` has said it."""

    def words(self, words: tuple[str, ...]) -> None:
        """The transcript words to compare."""
        self._print({"event": "words", "words": words})

    def error(self, what: str, advice: str, exit_code: int) -> None:
        """How the run failed."""
        self._print({"event": "error", "what": what, "advice": advice, "exit_code": exit_code})

    def close(self) -> None:
        """Nothing is held."""

    def _print(self, value: dict[str, object]) -> None:
        say(json.dumps(value))


class PlainDisplay:
    """Lines for a person, or for a log; no bar."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet

    def event(self, event: status.Event) -> None:
        """Print what matters; with `quiet` only what went wrong."""
        match event:
            case status.Warned(text):
                self.line(f"Note: {text}")
            case status.LeftOut(path, reason, failed):
                self.line(f"{'Cannot send' if failed else 'Not sent'}: {harmless(path)} ({harmless(reason)})")
            case status.TrySpent(failed, remaining, why):
                left = "none is left" if remaining == 0 else f"{remaining} left"
                self.line(f"Try {failed} failed, {left}: {why.rstrip('.')}.")
            case status.EntryRefused(_, path, reason):
                self.line(f"Refused: {harmless(path)} ({harmless(reason)})")
            case _ if not self._quiet:
                self._news(event)

    def _news(self, event: status.Event) -> None:
        match event:
            case status.Waiting(port, number, seconds):
                way = "the passphrase" if number is None else f"code number {number}"
                self.line(f"Waiting {seconds:g} s for somebody with {way}, on UDP port {port}.")
            case status.Numbered(_, server):
                self.line(f"The number is from the rendezvous server {server}.")
            case status.Searching(number, seconds):
                whom = "a listener with this passphrase" if number is None else f"listener number {number}"
                self.line(f"Looking for {whom}, for up to {seconds:g} s.")
            case status.Paired(label, address):
                self.line(f"Paired with {harmless(label) or 'a machine without a name'} at {address}.")
            case status.Joined(mesh, machine, by):
                self.line(f"{harmless(machine)} is in the mesh {harmless(mesh)}, by the word of {harmless(by)}.")
            case status.Finished(direction, entries, size, refused, seconds):
                rate = f", {size_text(size / seconds)}/s" if seconds >= 0.1 else ""
                less = f"; {count_text(refused, 'entry')} refused" if refused else ""
                sure = "stored and confirmed by the other side" if direction == "send" else "verified"
                what = count_text(entries, "entry")
                self.line(f"{VERBS[direction]} {what}, {size_text(size)} in {seconds:.1f} s{rate}: {sure}{less}.")

    def code(self, code: str, command: str = CONNECT) -> None:
        """Shown even when quiet: without it nobody can come. `command` is what takes it on the other machine."""
        self.line(f"Code: {code}")
        if not self._quiet:
            self.line(f"On the other machine: {command} {code}")

    def token(self, number: int) -> None:
        """The number of a window with a chosen passphrase. Shown even when quiet."""
        self.line(f"Number: {number}")
        if not self._quiet:
            self.line(f"On the other machine, with the passphrase: {CONNECT_WAN} --token {number}")

    def words(self, words: tuple[str, ...]) -> None:
        """Shown even when quiet: they were asked for."""
        self.line(f"Both screens must show: {' '.join(words)}")

    def error(self, what: str, advice: str, exit_code: int) -> None:
        """One line: what, and what to do."""
        self.line(f"Error: {harmless(what)} {advice}".rstrip())

    def line(self, text: str) -> None:
        """One line on stderr, at once."""
        say(text)

    def close(self) -> None:
        """Nothing is held."""


class TerminalDisplay(PlainDisplay):
    """PlainDisplay with a progress bar for each direction; needs a terminal on stderr."""

    def __init__(self) -> None:
        super().__init__(quiet=False)
        # Imported here: it takes a tenth of a second that a pipe need not wait.
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TaskID,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def event(self, event: status.Event) -> None:
        """Bars for what moves, lines for the rest."""
        match event:
            case status.Started(direction, _, size):
                self._progress.start()
                self._tasks[direction] = self._progress.add_task(
                    "Sending" if direction == "send" else "Receiving", total=size
                )
            case status.Progress(direction, _, size):
                self._progress.update(self._tasks[direction], completed=size)
            case status.Finished(direction):
                self._progress.remove_task(self._tasks.pop(direction))
                if not self._tasks:
                    self._progress.stop()
                super().event(event)
            case _:
                super().event(event)

    def line(self, text: str) -> None:
        """One line above the bars."""
        self._console.print(text, soft_wrap=True)

    def close(self) -> None:
        """Give the terminal back."""
        self._progress.stop()


def choose(quiet: bool, as_json: bool) -> Display:
    """JSON when asked for, bars on a terminal, else lines."""
    if as_json:
        return JsonDisplay()
    if quiet or not sys.stderr.isatty():
        return PlainDisplay(quiet)
    return TerminalDisplay()
