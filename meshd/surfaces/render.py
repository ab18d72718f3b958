"""What a person, or a program that asked for JSON, sees of a command: answers on stdout, the rest on stderr."""

import json
import sys
import time
from types import SimpleNamespace
from typing import Any

from meshd.client import Told
from meshd.errors import EXIT_CODES, ConnectionLostError, TetherError
from meshd.tools.operation import Operation, Tells
from meshd.tools.text import printable

EXIT_CODES_HELP = "\b\nExit codes:\n" + "\n".join(f"  {code:>3}  {text}" for code, text in EXIT_CODES.items())


LINES = "text"
"""The field, of whatever answer, that may have several lines. Who shows it marks each of them as its sender's."""


def fields_of(value: Any, keep: str = "") -> Any:
    """What JSON gave, as something with fields, every text made harmless but for characters to `keep`: much of it was
    chosen by peers."""
    if isinstance(value, dict):
        return SimpleNamespace(
            **{name: fields_of(each, "\n\t" if name == LINES else "") for name, each in value.items()}
        )
    if isinstance(value, list):
        return tuple(fields_of(each) for each in value)
    return printable(value, keep) if isinstance(value, str) else value


class Screen:
    """Where one command's output goes."""

    def __init__(self, operation: Operation, as_json: bool) -> None:
        self._operation = operation
        self._as_json = as_json
        self._bar: Any = None
        self._task: Any = None

    def told(self, told: Told) -> None:
        """Show something that the operation tells."""
        if self._operation.tells is Tells.PROGRESS:
            self._progress(told)
        elif self._as_json:
            self._line(json.dumps({"event": told.event, **told.fields, "age": told.age, "missed": told.missed}))
        else:
            self._news(told)

    def answer(self, result: Any, *, quiet: bool = False) -> None:
        """Show the answer, on stderr and only as JSON when stdout holds content (`quiet`)."""
        self.close()
        if self._as_json:
            print(json.dumps(result), file=sys.stderr if quiet else sys.stdout, flush=True)
        elif not quiet and (text := self._text(result)):
            self._line(text)

    def exit_code(self, result: Any) -> int:
        """0, or what the operation says of an answer that is not what was hoped for."""
        return self._operation.exit_code(fields_of(result))

    def close(self) -> None:
        """Give the terminal back."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _text(self, result: Any) -> str:
        try:
            return self._operation.show(fields_of(result))
        except AttributeError as error:
            raise ConnectionLostError(
                "The daemon's answer lacks something.", "It is of another version: start it again, or use --json."
            ) from error

    def _news(self, told: Told) -> None:
        text = self._operation.show_event(told.event, fields_of(told.fields))
        if told.missed:
            print(f"({told.missed:,} events were missed: this reader was too slow)", file=sys.stderr, flush=True)
        if text is not None and self._operation.dated:
            text = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(time.time() - told.age))}  {text}"
        if text is not None:
            self._line(text)

    def _progress(self, told: Told) -> None:
        if self._as_json or not sys.stderr.isatty():
            return
        if self._bar is None:
            self._bar, self._task = _bar()
        self._bar.update(self._task, completed=told.fields["done"], total=told.fields["size"])

    def _line(self, text: str) -> None:
        print(text, flush=True)


def error(found: TetherError, as_json: bool) -> None:
    """Say on stderr how the command failed."""
    if as_json:
        said = {"event": "error", "what": found.what, "advice": found.advice, "exit_code": found.exit_code}
        text = json.dumps(said)
    else:
        text = f"Error: {printable(str(found))}"
    print(text, file=sys.stderr, flush=True)


def _bar() -> tuple[Any, Any]:
    # Loaded here: it takes longer than most commands.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    bar.start()
    return bar, bar.add_task("Fetching", total=None)
