"""Which pairs of routers two machines are joined through: derived by hand, then seen with real processes in the lab.

`python -m tests.lab.matrix` plays every row and writes docs/traversal-matrix.md; tests/lab/test_matrix.py fails where a cell
is not what was derived, either way.

What is expected of two machines behind a router each is `nat.joinable`, whose docstring derives it. Each special row has its
own derivation beside it (`why`), from the same rules and from what each side is told: a pairing command gives nothing but the
address that the server observed, and searches the LAN.
"""

import contextlib
import inspect
import itertools
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import attrs

from tests.daemons import WITHIN, Daemon, daemons, eventually, knows, links
from tests.lab.meeting import Meeting, founded, meeting
from tests.lab.nat import Machine, Nat, Wan, joinable
from tests.lab.network import Host
from tests.processes import Programs, programs

PAIRED_WITHIN = 2.0
"""Seconds from both being registered to paired."""

TOLD_WITHIN = 15.0
"""Seconds after which a person knows that it cannot be, and why: three attempts of 4 s, and the server before them."""

AT_ONCE = 1.0
"""Seconds for a record over a link that stands."""

AGAIN_WITHIN = 30.0
"""Seconds for a link of daemons after an address changed."""

SHORT_BINDING = 30
"""Seconds of the routers that forget soon: a quarter of what RFC 4787 asks for, as many do."""

IDLE = 70.0
"""Seconds without a word from a person: two short bindings, and then some."""

QUICK, SLOW = 2, 8
"""Rows at a time, of those that are over in a moment and of those that mostly wait. Few, since a start takes the machine's
own time, and what comes after it is measured."""

PAYLOAD = b"across"

PAGE = Path(__file__).parents[2] / "docs/traversal-matrix.md"


@attrs.frozen
class Seen:
    """What a row came to. `said`: the reasons that the first and the second side gave, where they were not joined."""

    joined: bool
    seconds: float
    address: str = ""
    """Of the path, as the second side saw it."""

    said: tuple[str, str] = ("", "")


@attrs.frozen
class World:
    """Where a row is played: an internet for all of them, servers, and a directory of the row's own."""

    wan: Wan
    servers: Meeting
    directory: Path
    building: threading.Lock
    """Held while machines are made: rows are played at the same time."""


Play = Callable[[World], Seen]


@attrs.frozen(eq=False)
class Row:
    """One cell. `play` makes its machines and says what it saw; it knows nothing of what is expected."""

    one: str
    other: str
    joined: bool
    why: str
    play: Play
    within: float = PAIRED_WITHIN
    """Seconds that the joining may take."""

    reasons: tuple[str, str] = ("", "")
    """Patterns of what each side says where they are not joined; an empty one asks for nothing."""

    path: str = r"^5\."
    """Pattern of the path's address. All public ones begin like this."""

    minutes: bool = False

    @property
    def name(self) -> str:
        return f"{self.one} / {self.other}"

    @property
    def is_slow(self) -> bool:
        """Whether it mostly waits."""
        return not self.joined or self.within != PAIRED_WITHIN or self.minutes

    def check(self, seen: Seen) -> None:
        """Raises AssertionError where what was seen is not what was derived."""
        assert seen.joined is self.joined, f"{cell(seen.joined)}, against the derivation; they said {seen.said}"
        within = self.within if self.joined else TOLD_WITHIN
        assert seen.seconds < within, f"{cell(seen.joined)} after {seen.seconds:.1f} s"
        if self.joined:
            assert re.search(self.path, seen.address), f"joined over {seen.address}"
        else:
            for pattern, said in zip(self.reasons, seen.said, strict=True):
                assert re.search(pattern, said), f"{pattern!r} was not the reason: {said!r}"


def cell(joined: bool) -> str:
    return "joined" if joined else "not joined"


# How rows are played.

Made = tuple[Machine, Machine]
Happening = tuple[Machine, Machine, Callable[[], object]]


def pair(
    make: Callable[[Wan], Made],
    *,
    before: Callable[[], None] = lambda: None,
    servers: Sequence[str] = (),
    under: Callable[[Host], tuple[str, ...]] = lambda host: host.prefix,
) -> Play:
    """The two pairing commands: a listener on the first machine, a connector on the second with the code that is shown.

    `before` is done between the two; `servers` are others than the usual ones; `under` is what commands run under.
    """

    def play(world: World) -> Seen:
        with world.building:
            machines = make(world.wan)
        far = world.servers.options
        if servers:
            far = ("--wan", *(word for name in servers for word in ("--rendezvous", name)))
        with contextlib.ExitStack() as stack:
            sides = []
            for side, machine in zip(("listener", "connector"), machines, strict=True):
                directory = world.directory / side
                directory.mkdir(parents=True)
                sides.append(stack.enter_context(programs(directory, prefix=under(machine))))
            return meet(*sides, far, before)

    return play


def meet(one: Programs, other: Programs, far: tuple[str, ...], before: Callable[[], None]) -> Seen:
    """What the two commands come to."""
    listener = one.start("listen", "--json", "--port", "64327", *far)
    listener.wait(lambda: listener.all_of("code") or listener.all_of("error"), "code, or end")
    if not listener.all_of("code"):
        listener.exits(4)
        return Seen(False, listener.seconds, said=(listener.error, ""))
    before()
    connector = other.start("connect", "--json", *far, listener.event("code")["code"], stdin=PAYLOAD)
    connector.exits(0, 4)
    began = connector.time_of("searching")
    if connector.code == 0:
        assert listener.exits(0).out == PAYLOAD
        return Seen(True, connector.time_of("paired") - began, connector.event("paired")["address"])
    assert not listener.all_of("paired") and listener.out == b""
    # The listener goes on waiting for others. If a server told it of this one it has something to say, at the same time.
    if "could not be reached at" in connector.error:
        listener.event("warned", within=3, text=lambda text: "could not be reached at" in text)
    said = " ".join(each["text"] for each in listener.all_of("warned"))
    return Seen(False, connector.ended - began, said=(said, connector.error))


def linked(make: Callable[[Wan], Happening], *, idle: float = 0.0, kill: bool = False) -> Play:
    """Two daemons in one mesh, linked through their routers and by servers of their own; then something happens, and a
    record that is written after it has to get there, either way. `make` gives what happens, `idle` is a silence, `kill`
    ends all servers."""

    def play(world: World) -> Seen:
        with own_servers(world) as servers, daemons(world.directory, **servers.environment) as start:
            with world.building:
                first, second, happen = make(world.wan)
            ann, ben = start("ann", first.prefix), start("ben", second.prefix)
            founded(ann, ben)
            say(ann, ben)
            assert links(ben)["ann"]["address"].startswith("5."), links(ben)
            if kill:
                for server in servers.servers:
                    server.kill()
            time.sleep(idle)  # this is what is tested, not a way to wait for something
            happen()
            took = max(say(ann, ben), say(ben, ann))
            return Seen(True, took, links(ben)["ann"]["address"])

    return play


@contextlib.contextmanager
def own_servers(world: World, **how: bool) -> Iterator[Meeting]:
    """Servers of the row's own."""
    with contextlib.ExitStack() as stack:
        with world.building:
            servers = stack.enter_context(meeting(world.wan, world.directory, **how))
        yield servers


def say(writer: Daemon, reader: Daemon, within: float = WITHIN) -> float:
    """Write a record that was never there; seconds until the other has it."""
    began = time.monotonic()
    handle = str(writer.call("collapse", json=f'"{time.time_ns()}"')["full"])
    eventually(lambda: knows(reader, handle), f"{reader.name} has what {writer.name} wrote", within)
    return time.monotonic() - began


# What stands between the two.


def clients(one: Nat, other: Nat, wan: Wan, **how: int) -> Made:
    return wan.client("ann", one, **how), wan.client("ben", other, **how)


def behind(inner: Nat, outer: Nat, other: Nat, wan: Wan) -> Made:
    home = wan.router("home", inner, behind=wan.router("provider", outer))
    return home.host("ann"), wan.client("ben", other)


def one_router(wan: Wan, *, hairpin: bool, multicast: bool = False) -> Made:
    router = wan.router("home", Nat.PORT_RESTRICTED, hairpin=hairpin)
    made = router.host("ann"), router.host("ben")
    for each in made if not multicast else ():
        each.nft(
            """
                table inet quiet {
                    chain in { type filter hook input priority filter; udp dport 5353 drop; }
                    chain out { type filter hook output priority filter; udp dport 5353 drop; }
                }
            """
        )
    return made


def homes(wan: Wan, **of_each: tuple[bool, bool]) -> Made:
    """Two port-restricted routers that differ in something."""
    first, second = (
        wan.router("home", Nat.PORT_RESTRICTED, **{name: values[i] for name, values in of_each.items()}) for i in (0, 1)
    )
    return first.host("ann"), second.host("ben")


def short_lived(wan: Wan) -> Made:
    return clients(Nat.PORT_RESTRICTED, Nat.PORT_RESTRICTED, wan, udp_timeout=SHORT_BINDING)


def nothing_happens(make: Callable[[Wan], Made]) -> Callable[[Wan], Happening]:
    return lambda wan: (*make(wan), lambda: None)


def renumbered(wan: Wan) -> Happening:
    first, second = (wan.router("home", Nat.PORT_RESTRICTED) for _ in range(2))
    return first.host("ann"), second.host("ben"), first.renumber


def v6_on(first: bool) -> Play:
    """One of the two has IPv6; servers have names with addresses of both kinds, as /etc/hosts says there."""

    def play(world: World) -> Seen:
        with own_servers(world, v6=True) as servers:
            names = {f"meet{number}.example": each.machine for number, each in enumerate(servers.servers)}
            hosts = world.directory / "hosts"
            hosts.write_text(
                "".join(f"{address} {name}\n" for name, at in names.items() for address in (at.v6, at.address))
            )

            def under(host: Host) -> tuple[str, ...]:
                # `ip netns exec` has given the command mounts of its own.
                return (*host.prefix, "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts))

            return pair(partial(homes, v6=(first, not first)), servers=tuple(names), under=under)(world)

    return play


# The rows.


def called(nat: Nat) -> str:
    return "public" if nat is Nat.NONE else nat.name.lower().replace("_", "-")


def reasons(one: Nat, other: Nat) -> tuple[str, str]:
    """What the listener and the connector have to say if it cannot be: each of its own router and of the other's."""
    if one is other is Nat.SYMMETRIC:
        return ("Both routers map each destination anew",) * 2
    ours, theirs = (f"{whose} router maps each destination anew" for whose in ("This side's", "The other side's"))
    return (ours, theirs) if one is Nat.SYMMETRIC else (theirs, ours)


def of_kinds(one: Nat, other: Nat) -> Row:
    """Two of the six."""
    expected = joinable(one, other)
    if Nat.SYMMETRIC not in (one, other):
        why = "both mappings are endpoint-independent"
    elif one is other:
        why = "neither knows the other's port"
    else:
        why = (
            "one is symmetric, and the other has no filter by port"
            if expected
            else "one is symmetric, the other filters by port"
        )
    return Row(
        called(one),
        called(other),
        expected,
        why,
        pair(partial(clients, one, other)),
        reasons=("", "") if expected else reasons(one, other),
    )


RESTRICTED = called(Nat.PORT_RESTRICTED)
BLOCKED = "Nothing came through: UDP between the two networks is blocked, or an address was wrong"
UNREACHED = r"No rendezvous server could be reached .*5\.\d+\.0\.2:\d+: .* let UDP out\?"

PAIRS = [of_kinds(*kinds) for kinds in itertools.product(Nat, Nat)]

SPECIAL = [
    Row(
        f"{RESTRICTED} behind {RESTRICTED}",
        RESTRICTED,
        True,
        "the server sees the outer mapping, which is endpoint-independent as the inner one is; what goes to the other's "
        "public port opens both filters",
        pair(partial(behind, Nat.PORT_RESTRICTED, Nat.PORT_RESTRICTED, Nat.PORT_RESTRICTED)),
    ),
    Row(
        f"symmetric behind {RESTRICTED}",
        RESTRICTED,
        False,
        "the inner router takes another port for each destination, and the outer one keeps them apart: one is symmetric, "
        "the other filters by port",
        pair(partial(behind, Nat.SYMMETRIC, Nat.PORT_RESTRICTED, Nat.PORT_RESTRICTED)),
        reasons=reasons(Nat.SYMMETRIC, Nat.PORT_RESTRICTED),
    ),
    Row(
        f"symmetric behind {RESTRICTED}",
        called(Nat.ADDRESS_RESTRICTED),
        True,
        "the same mappings; the other lets in all ports of the outer router's address, once it has sent there",
        pair(partial(behind, Nat.SYMMETRIC, Nat.PORT_RESTRICTED, Nat.ADDRESS_RESTRICTED)),
    ),
    Row(
        f"{RESTRICTED} with hairpin",
        "the same LAN, no multicast",
        True,
        "each is told the router's address with the other's public port, and the router turns what goes there round",
        pair(partial(one_router, hairpin=True)),
    ),
    Row(
        f"{RESTRICTED} without hairpin",
        "the same LAN, no multicast",
        False,
        "the same addresses, and the router drops what goes there from inside; pairing tells no others",
        pair(partial(one_router, hairpin=False)),
        reasons=(BLOCKED, BLOCKED),
    ),
    Row(
        f"{RESTRICTED} without hairpin",
        "the same LAN, multicast",
        True,
        "the connector hears the listener on the LAN, and dials it there",
        pair(partial(one_router, hairpin=False, multicast=True)),
        path=r"^192\.168\.",
    ),
    Row(
        RESTRICTED,
        "UDP blocked",
        False,
        "the connector reaches no server; the listener never hears of it",
        pair(partial(homes, udp=(True, False))),
        reasons=("", UNREACHED),
    ),
    Row(
        "UDP blocked",
        RESTRICTED,
        False,
        "the listener reaches no server and gets no number, so there is none to connect with",
        pair(partial(homes, udp=(False, True))),
        reasons=(UNREACHED, ""),
    ),
    Row(
        f"{RESTRICTED}, and IPv6",
        RESTRICTED,
        True,
        "the servers' names have addresses of both kinds; IPv4 is dialled first, so that both are observed there",
        v6_on(first=True),
    ),
    Row(RESTRICTED, f"{RESTRICTED}, and IPv6", True, "as before", v6_on(first=False)),
    Row(
        f"{RESTRICTED}, forgets after {SHORT_BINDING} s",
        f"the same, {1.5 * SHORT_BINDING:.0f} s later",
        True,
        "the listener pings its server every 15 s, and is still where that said",
        pair(short_lived, before=partial(time.sleep, 1.5 * SHORT_BINDING)),
        minutes=True,
    ),
    Row(
        f"{RESTRICTED}, forgets after {SHORT_BINDING} s",
        f"the same; daemons, silent for {IDLE:.0f} s",
        True,
        "a link is pinged more often than that",
        linked(nothing_happens(short_lived), idle=IDLE),
        within=AT_ONCE,
        minutes=True,
    ),
    Row(
        f"{RESTRICTED}, gets another address",
        f"{RESTRICTED}; daemons that are linked",
        True,
        "the other's filter stops what comes from the new address until it sends there itself; the servers see the new "
        "address, and the two meet anew",
        linked(renumbered),
        within=AGAIN_WITHIN,
    ),
    Row(
        RESTRICTED,
        f"{RESTRICTED}; daemons that are linked, servers killed",
        True,
        "a server has no part in a link",
        linked(nothing_happens(partial(clients, Nat.PORT_RESTRICTED, Nat.PORT_RESTRICTED)), kill=True),
        within=AT_ONCE,
    ),
]

ROWS = [*PAIRS, *SPECIAL]


# All of them.

SEEN: dict[Row, Seen | None] = {}
"""What rows came to in this process, for who shows the table at the end; None for what fell over."""


class Plays:
    """Plays rows, several at a time, while the block runs; `result` waits for one."""

    def __init__(self, rows: Iterable[Row], directory: Path) -> None:
        self._rows, self._directory = list(rows), directory
        self._stack = contextlib.ExitStack()
        self._results: dict[Row, Future[Seen]] = {}

    def __enter__(self) -> "Plays":
        with contextlib.ExitStack() as stack:
            wan, building = stack.enter_context(Wan()), threading.Lock()
            servers = stack.enter_context(meeting(wan, self._directory))
            pools = {slow: ThreadPoolExecutor(most) for slow, most in ((False, QUICK), (True, SLOW))}
            for pool in pools.values():
                stack.callback(pool.shutdown, cancel_futures=True)
            for number, row in sorted(enumerate(self._rows), key=lambda each: not each[1].minutes):
                world = World(wan, servers, self._directory / f"row{number}", building)
                self._results[row] = pools[row.is_slow].submit(row.play, world)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def result(self, row: Row) -> Seen:
        """What it came to. Raises what it failed with."""
        SEEN[row] = None
        SEEN[row] = seen = self._results[row].result()
        return seen


HEAD = ("listener, or first", "connector, or second", "expected", "seen", "s")


def line(row: Row) -> tuple[str, ...]:
    """A row of the table."""
    seen = SEEN[row]
    saw, seconds = ("failed", "") if seen is None else (cell(seen.joined), f"{seen.seconds:.2f}")
    return row.one, row.other, cell(row.joined), saw, seconds


def text_table() -> str:
    """What was seen so far, for a terminal."""
    lines = [HEAD, *map(line, SEEN)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(each, widths, strict=True)).rstrip() for each in lines
    )


PAGE_TEXT = """\
# Which pairs of routers are joined

Made by `python -m tests.lab.matrix`: two machines (network namespaces) behind a real router each (nftables), two
rendezvous servers, and the pairing commands or daemons. "Expected" was derived by hand before; a cell that differs, either
way, fails `make lab` (`tests/lab/test_matrix.py`; what takes minutes, `make soak`). What the machines do:
[traversal](protocol/traversal.md).

The seconds, of the connector: from the start of its search to paired, with all questions to servers (less than {paired:g}
is demanded); where they are not joined to its end, with exit code 4 and the reason (less than {told:g}), which the listener
says as well. Of daemons: until a record that is written then is on the other side. The lab's lines have no delay of
their own.

{kinds}

## The six kinds, either way

Both sides send at the same time, and keep sending. Each knows the other's address and port as a server saw them, guesses no
ports, and answers to where a datagram came from. By RFC 4787's terms:

{derivation}

{pairs}

## Other circumstances

{special}

What is left for those who are not joined is said by the program: [traversal](protocol/traversal.md), "Reasons".
"""


def page() -> str:
    """docs/traversal-matrix.md."""

    def table(rows: Iterable[Row]) -> str:
        lines = [(*HEAD, "why"), ("---",) * (len(HEAD) + 1), *((*line(row), row.why) for row in rows)]
        return "\n".join(f"| {' | '.join(each)} |" for each in lines)

    return PAGE_TEXT.format(
        kinds="\n".join(f"- **{called(nat)}**: {nat.value}." for nat in Nat),
        derivation=(inspect.getdoc(joinable) or "").partition("terms:")[2].strip(),
        pairs=table(PAIRS),
        special=table(SPECIAL),
        paired=PAIRED_WITHIN,
        told=TOLD_WITHIN,
    )


def main() -> int:
    """Play all rows, write the page, and return 1 if one was not as expected."""
    wrong = []
    with tempfile.TemporaryDirectory() as directory, Plays(ROWS, Path(directory)) as plays:
        for row in ROWS:
            try:
                row.check(plays.result(row))
            except AssertionError as error:
                wrong.append(f"{row.name}: {error}")
    PAGE.write_text(page())
    print("\n".join((text_table(), *wrong)))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
