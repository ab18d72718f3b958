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
import traceback
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import attrs

from tests.lab.meeting import meeting
from tests.lab.nat import Nat, Wan, joinable
from tests.lab.network import Host
from tests.lab.plays import Made, Play, Seen, World, by_a_third, linked, moved, own_servers, pair

PAIRED_WITHIN = 2.0
"""Seconds from both being registered to paired."""

TOLD_WITHIN = 15.0
"""Seconds after which a person knows that it cannot be, and why: three attempts of 4 s, and the server before them."""

AT_ONCE = 1.0
"""Seconds for a record over a link that stands."""

AGAIN_WITHIN = 30.0
"""Seconds for a link of daemons after an address changed."""

LATE = 40.0
"""Seconds until members know: a match, the attempts, and the silence before they look."""

SHORT_BINDING = 30
"""Seconds of the routers that forget soon: a quarter of what RFC 4787 asks for, as many do."""

IDLE = 70.0
"""Seconds without a word from a person: two short bindings, and then some."""

QUICK, SLOW = 2, 8
"""Rows at a time, of those that are over in a moment and of those that mostly wait. Few, since a start takes the machine's
own time, and what comes after it is measured."""

PAGE = Path(__file__).parents[2] / "docs/traversal-matrix.md"


@attrs.frozen(eq=False)
class Row:
    """One cell. `play` makes its machines and says what it saw; it knows nothing of what is expected."""

    one: str
    other: str
    joined: bool
    why: str
    play: Play
    within: float = attrs.field(default=attrs.Factory(lambda row: PAIRED_WITHIN if row.joined else TOLD_WITHIN, True))
    """Seconds that it may take."""

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
        return self.within != PAIRED_WITHIN or self.minutes

    def check(self, seen: Seen) -> None:
        """Raises AssertionError where what was seen is not what was derived."""
        assert seen.joined is self.joined, f"{cell(seen.joined)}, against the derivation; they said {seen.said}"
        assert seen.seconds < self.within, f"{cell(seen.joined)} after {seen.seconds:.1f} s"
        if self.joined:
            assert re.search(self.path, seen.address), f"joined over {seen.address}"
        else:
            for pattern, said in zip(self.reasons, seen.said, strict=True):
                assert re.search(pattern, said), f"{pattern!r} was not the reason: {said!r}"


def cell(joined: bool) -> str:
    return "joined" if joined else "not joined"


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
        linked(short_lived, silence=IDLE),
        within=AT_ONCE,
        minutes=True,
    ),
    Row(
        f"{RESTRICTED}, gets another address",
        f"{RESTRICTED}; daemons that are linked",
        True,
        "the other's filter stops what comes from the new address until it sends there itself; the servers see the new "
        "address, and the two meet anew",
        moved(0),
        within=AGAIN_WITHIN,
    ),
    Row(
        f"{RESTRICTED}, gets another address",
        "the same, at once; daemons that are linked",
        True,
        "neither knows where the other is; the servers see both new addresses",
        moved(0, 1),
        within=AGAIN_WITHIN,
    ),
    Row(
        RESTRICTED,
        f"{RESTRICTED}; daemons that are linked, servers killed",
        True,
        "a server has no part in a link",
        linked(partial(clients, Nat.PORT_RESTRICTED, Nat.PORT_RESTRICTED), kill=True),
        within=AT_ONCE,
    ),
    Row(
        "symmetric",
        f"{RESTRICTED}; daemons, and a public one",
        False,
        "one is symmetric, the other filters by port; records go by the third",
        by_a_third(Nat.SYMMETRIC, Nat.PORT_RESTRICTED),
        within=LATE,
        reasons=reasons(Nat.SYMMETRIC, Nat.PORT_RESTRICTED),
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
            # What takes longest first.
            for number, row in sorted(enumerate(self._rows), key=lambda each: (not each[1].minutes, -each[1].within)):
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
way, fails `make lab`, or `make soak` where it takes minutes (`tests/lab/test_matrix.py`). What the machines do:
[traversal](protocol/traversal.md).

The seconds, of the connector: from the start of its search to paired, with all questions to servers (less than {paired:g}
is demanded); where they are not joined to its end, with exit code 4 and the reason (less than {told:g}), which the listener
says as well. Of daemons: until a record that is written then is on the other side (less than {again:g}, and 1 where the
link stands), or until both say why they are not linked (less than {late:g}). The lab's lines have no delay of their own.

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
        again=AGAIN_WITHIN,
        late=LATE,
    )


def main() -> int:
    """Play all rows, write the page, and return 1 if one was not as expected."""
    wrong = []
    with tempfile.TemporaryDirectory() as directory, Plays(ROWS, Path(directory)) as plays:
        for row in ROWS:
            try:
                row.check(plays.result(row))
            except AssertionError as error:
                *_, last = traceback.extract_tb(error.__traceback__)
                wrong.append(f"{row.name}: {error} ({last.name}: {last.line})")
    PAGE.write_text(page())
    print("\n".join((text_table(), *wrong)))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
