"""From an operation to a command: its arguments as click knows them, and one run of it."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from meshd.client import Client
from meshd.surfaces import asking, passing, render
from meshd.tools.kinds import ATTACHMENT, FLAG, INPUT, MAIL_TEXT, MAIL_TEXT_LIMIT, OUTPUT, Kind
from meshd.tools.operation import Argument, Operation
from meshd.tools.text import printable

Answers = dict[str, Any]


def _type(kind: Kind) -> Any:
    """What click reads the text with; a shell then completes files where a path goes."""
    return click.Path(allow_dash=True) if kind in (INPUT, OUTPUT, ATTACHMENT) else kind.parse


def common_options() -> list[click.Parameter]:
    """The options of every command and of `tether` itself."""
    return [
        click.Option(
            ["--state"],
            metavar="DIR",
            type=click.Path(file_okay=False),
            help="The daemon's state directory. [env: TETHER_STATE]",
        ),
        click.Option(["--json", "as_json"], is_flag=True, help="Print JSON, errors too."),
    ]


def command(operation: Operation) -> click.Command:
    """The command for an operation."""
    # Words that are not even positional have no place on a command line: they are asked for.
    parameters = [
        _parameter(each)
        for each in operation.arguments
        if (each.positional or not each.is_secret) and not each.programs_only
    ]
    if operation.asks or operation.confirms:
        parameters.append(click.Option(["--yes"], is_flag=True, help="Do not ask."))
    name = operation.words[-1]
    return click.Command(
        name,
        params=[*parameters, *common_options()],
        callback=lambda **given: run(operation, given),
        help=_help(operation),
        short_help=operation.summary,
        epilog=render.EXIT_CODES_HELP,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _parameter(argument: Argument) -> click.Parameter:
    if argument.positional:
        optional = argument.is_secret or argument.command_default is not None
        metavar = f"{_place(argument)}{'...' if argument.many else ''}"
        return click.Argument(
            [argument.name],
            type=_type(argument.kind),
            nargs=-1 if argument.many or argument.is_secret else 1,
            required=not optional,
            metavar=f"[{metavar}]" if optional else metavar,
        )
    options = argument.options or (f"--{argument.name.replace('_', '-')}",)
    if argument.kind is FLAG:
        return click.Option([*options, argument.name], is_flag=True, default=None, help=argument.meaning)
    default = argument.default
    shown = f" [default: {default:g}]" if isinstance(default, int | float) and default else ""
    shown = f" [default: {default}]" if isinstance(default, str) and default else shown
    return click.Option(
        [*options, argument.name],
        type=_type(argument.kind),
        metavar=argument.kind.name,
        multiple=argument.many,
        required=argument.is_required,
        help=argument.meaning + shown,
    )


def _place(argument: Argument) -> str:
    """What a positional argument is called: words by what they are for, all else by its kind."""
    return argument.name.upper() if argument.is_secret else argument.kind.name


def _help(operation: Operation) -> str:
    parts = [operation.summary, operation.details] if operation.details else [operation.summary]
    positional = [each for each in operation.arguments if each.positional]
    if positional:
        width = max(len(_place(each)) for each in positional)
        lines = [f"  {_place(each):<{width}}  {each.meaning}" for each in positional]
        parts.append("\n".join(["\b", "Arguments:", *lines]))
    if operation.examples:
        lines = [f"  {each.line:<44}  {each.purpose}" for each in operation.examples]
        parts.append("\n".join(["\b", "Examples:", *lines]))
    return "\n\n".join(parts)


def run(operation: Operation, given: Mapping[str, Any]) -> int:
    """Carry out one command and return its exit code. Raises TetherError."""
    options = {**(click.get_current_context().obj or {}), **{name: each for name, each in given.items() if each}}
    screen = render.Screen(operation, bool(options.get("as_json")))
    with contextlib.ExitStack() as until_done, Client(options.get("state")) as client:
        client.connect()
        until_done.callback(screen.close)
        arguments = {}
        for each in operation.arguments:
            arguments[each.name] = _given(each, given, options, client.state, until_done)
        if operation.confirms and not options.get("yes"):
            asking.confirm(operation.confirms)
        if operation.asks and not options.get("yes") and not arguments["dry_run"]:
            preview = client.call(operation.name, **{**arguments, "dry_run": True})
            print(operation.show(render.fields_of(preview)), file=sys.stderr, flush=True)
            asking.confirm(operation.asks)

        def call(**more: Any) -> Answers:
            answer: Answers = client.call(
                operation.name, tell=screen.told, within=operation.within, **{**arguments, **more}
            )
            return answer

        result = _whole(operation, call) if operation.paged and options.get("as_json") else call()
        if operation.payload:
            _pay_out(result, bool(options.get("as_json")))
            return screen.exit_code(result)
        screen.answer(result, quiet=_fills_stdout(operation, given))
        while operation.paged and result["next"]:
            result = call(after=result["next"])
            screen.answer(result)
        return screen.exit_code(result)


def _given(
    argument: Argument, given: Mapping[str, Any], options: Mapping[str, Any], state: Path, until: contextlib.ExitStack
) -> Any:
    value = given.get(argument.name)
    if argument.is_secret:
        return asking.secret(argument, value or ())
    if argument.name == "mesh":
        value = value or options.get("mesh")
    if argument.many:
        return [passing.attached(each) if argument.kind is ATTACHMENT else each for each in value or ()]
    if value is None and argument.env:
        value = os.environ.get(argument.env) or None
    if value is None and argument.command_default is not None and not given.get(argument.instead_of):
        value = argument.command_default
    if value is None or (value == "" and argument.command_default == ""):
        return None
    if argument.kind is MAIL_TEXT and value == passing.PIPE:
        return passing.text_of_stdin(MAIL_TEXT_LIMIT)
    if argument.kind is INPUT:
        return until.enter_context(passing.laid_down(state)) if value == passing.PIPE else passing.absolute(value)
    if argument.kind is OUTPUT:
        return until.enter_context(passing.picked_up(state)) if value == passing.PIPE else passing.absolute(value)
    return value


def _fills_stdout(operation: Operation, given: Mapping[str, Any]) -> bool:
    return any(each.kind is OUTPUT and given.get(each.name) == passing.PIPE for each in operation.arguments)


def _whole(operation: Operation, call: Callable[..., Answers]) -> Answers:
    """All pages as one: a program that reads JSON wants one value."""
    result = call()
    after = result["next"]
    while after:
        page = call(after=after)
        result[operation.paged] += page[operation.paged]
        after = page["next"]
    return {**result, "next": None}


@contextlib.contextmanager
def _content(result: Answers) -> Iterator[Path | None]:
    path = Path(result["path"]) if result["path"] else None
    try:
        yield path
    finally:
        if path is not None:
            path.unlink(missing_ok=True)


def _pay_out(result: Answers, as_json: bool) -> None:
    """Write the answer's own content to standard output, byte for byte unless a terminal would obey it."""
    with _content(result) as path:
        if as_json:
            import json

            text = path.read_text(encoding="utf-8") if path else result["json"]
            print(json.dumps({**result, "json": text, "path": None}), flush=True)
        elif path and not sys.stdout.isatty():
            passing.to_stdout(path)
            print(flush=True)
        else:
            text = path.read_text(encoding="utf-8") if path else result["json"]
            data = printable(text) if sys.stdout.isatty() else text
            sys.stdout.buffer.write(data.encode() + b"\n")
            sys.stdout.buffer.flush()
