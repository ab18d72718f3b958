"""What it takes to declare an operation: once, for the command line, the control socket, shells, and the manual.

These are named tuples and not attrs classes because the command line loads them at each start: attrs would cost it a
fifth of its time.
"""

import enum
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from meshd.errors import UsageError
from meshd.tools.kinds import FLAG, SECRET, Kind

REQUIRED: Final = object()
"""In the place of a default: there is none."""

MANY_LIMIT: Final = 1000
"""Most values of one argument: members of a mesh, children of a tree on one command line."""


class Argument(NamedTuple):
    """One argument of an operation."""

    name: str
    """In Python and JSON; the option is the same with dashes, unless `options` says otherwise."""

    kind: Kind
    meaning: str
    default: Any = REQUIRED
    many: bool = False
    """Any number of values, a tuple; no default needed."""

    positional: bool = False
    options: tuple[str, ...] = ()
    command_default: Any = None
    """What the command line takes when nothing is given, where a program has to say so itself."""

    instead_of: str = ""
    """Another argument without which `command_default` applies."""

    env: str = ""
    """Where the command line looks when nothing is given."""

    programs_only: bool = False
    """Of no use on a command line, where the connection ends with the command."""

    @property
    def is_required(self) -> bool:
        return self.default is REQUIRED and not self.many

    @property
    def is_secret(self) -> bool:
        """The words are not to be seen by `ps`, and are asked for without an echo."""
        return self.kind is SECRET

    def check(self, given: Any) -> Any:
        """The context's value of JSON's. Raises UsageError, naming the argument."""
        try:
            if not self.many:
                return self.default if given is None and not self.is_required else self.kind.check(given)
            if not isinstance(given, list) or len(given) > MANY_LIMIT:
                raise UsageError(f"It is not a list of at most {MANY_LIMIT:,}.")
            return tuple(self.kind.check(each) for each in given)
        except UsageError as error:
            raise UsageError(f"{self.name}: {error.what}", error.advice) from error


class Tells(enum.Enum):
    """What an operation tells before it is done."""

    NOTHING = enum.auto()
    PROGRESS = enum.auto()
    """How far it is: a bar on a terminal, silence in a pipe."""

    NEWS = enum.auto()
    """What the person waits for: a line each."""


class Audience(enum.Enum):
    """Whose operation it is."""

    ALL = enum.auto()
    PEOPLE = enum.auto()
    """Not offered to agents: it decides who belongs to a mesh, or what this machine may do."""


class Example(NamedTuple):
    """A command line, and what it is for."""

    line: str
    purpose: str


def no_event(event: str, fields: Any) -> str | None:
    """Nothing is told."""
    return None


class Operation(NamedTuple):
    """One thing that a person, a program or an agent can ask of the daemon."""

    name: str
    """The method of the context and of the control socket."""

    words: tuple[str, ...]
    """The command: `("peer", "add")`."""

    summary: str
    """One sentence."""

    arguments: tuple[Argument, ...]
    result: str
    """Name of the class in context.py that the context answers with. A name, since the command line loads no such class."""

    show: Callable[[Any], str]
    """What a person sees of the answer; takes anything with its fields."""

    details: str = ""
    """More sentences, for `--help` and the manual."""

    errors: tuple[str, ...] = ()
    """Names of the errors to expect besides UsageError."""

    examples: tuple[Example, ...] = ()
    audience: Audience = Audience.ALL
    tells: Tells = Tells.NOTHING
    show_event: Callable[[str, Any], str | None] = no_event
    """What a person sees of something told: its name, and anything with its fields."""

    dated: bool = False
    """Each thing told is shown with the time when it happened."""

    payload: bool = False
    """The answer's `json`, or the file `path`, is what was asked for: it goes to standard output as it is."""

    asks: str = ""
    """The question put to a person after a dry run showed what would happen; there is an argument `dry_run`."""

    confirms: str = ""
    """The question put to a person before anything is asked of the daemon."""

    paged: str = ""
    """The field with the rows of a page; there are arguments `limit` and `after`, and a field `next`."""

    within: float | None = 60.0
    """Seconds until an answer is overdue; None where it may take as long as it takes."""

    exit_code: Callable[[Any], int] = lambda _: 0
    """For an answer that is no error and not what was hoped for."""

    session: bool = False
    """It matters which connection asks: the context gets that, as `session`."""

    derive: Callable[[Any], Any] | None = None
    """Makes the answer of what the context's method `source` gives."""

    source: str = ""

    @property
    def has_mesh(self) -> bool:
        """Whether `--mesh` chooses where it happens."""
        return any(each.name == "mesh" for each in self.arguments)

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every argument with its value, checked. Raises UsageError."""
        known = {each.name for each in self.arguments}
        for name in given:
            if name not in known:
                takes = ", ".join(sorted(known)) or "none"
                raise UsageError(f"{self.name} has no argument {name!r:.50}.", f"It takes {takes}.")
        found = {}
        for each in self.arguments:
            if each.is_required and each.name not in given:
                raise UsageError(f"{self.name} needs the argument {each.name}.")
            found[each.name] = each.check(given.get(each.name, [] if each.many else None))
        return found

    async def carry_out(self, context: Any, arguments: dict[str, Any]) -> Any:
        """Ask the context, and answer with an instance of the class `result`."""
        answer = await getattr(context, self.source or self.name)(**arguments)
        return self.derive(answer) if self.derive else answer


def flag(name: str, meaning: str, *options: str) -> Argument:
    """An argument that is on or off, and off unless given."""
    return Argument(name, FLAG, meaning, default=False, options=options)
