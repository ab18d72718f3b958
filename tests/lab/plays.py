"""How a row of the table of routers is played: the pairing commands or daemons between two machines, and what they came to.

A play makes its machines, and knows nothing of what is expected (tests/lab/matrix.py).
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from tests.daemons import WITHIN, Daemon, daemons, eventually, knows, links
from tests.lab.meeting import Meeting, founded, meeting
from tests.lab.nat import Machine, Nat, Router, Wan
from tests.lab.network import Host
from tests.processes import Programs, programs

PAYLOAD = b"across"


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


Made = tuple[Machine, Machine]


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


def linked(make: Callable[[Wan], Made], *, silence: float = 0.0, kill: bool = False) -> Play:
    """Two daemons that are linked through their routers: a record has to pass either way, after a silence, or when all
    servers were killed."""

    def play(world: World) -> Seen:
        with world.building:
            machines = make(world.wan)
        with members(world, *machines) as (servers, (ann, ben)):
            say(ann, ben)
            for server in servers.servers if kill else ():
                server.kill()
            time.sleep(silence)  # this is what is tested, not a way to wait for something
            took = max(say(ann, ben), say(ben, ann))
            return Seen(True, took, links(ben)["ann"]["address"])

    return play


def moved(*which: int) -> Play:
    """Two daemons that are linked through port-restricted routers, of which these get another address."""

    def play(world: World) -> Seen:
        with world.building:
            routers = [world.wan.router("home", Nat.PORT_RESTRICTED) for _ in range(2)]
            machines = [router.host(name) for router, name in zip(routers, ("ann", "ben"), strict=True)]
        with members(world, *machines) as (servers, (ann, ben)):
            say(ann, ben)
            for number in which:
                routers[number].renumber()
            began = time.monotonic()
            say(ann, ben)
            say(ben, ann)
            took = time.monotonic() - began
            paths = []
            for me, other, here, there in ((ann, "ben", *routers), (ben, "ann", *reversed(routers))):
                check_paths(me, servers, here)
                path = path_to(me, other)
                assert path["linked"] and path["address"].startswith(f"{there.address}:")
                # Of the last match. With two servers there may have been two, and another one may have led to the link.
                assert path["server"] in [each.name for each in servers.servers]
                assert path["candidates"] and path["tried_age"] is not None
                assert path["address"] in me.tether("doctor", "paths").out
                paths.append(path["path"])
            # Who moved alone may dial where the other still is: punches have opened that way as well.
            assert sorted(paths) in (["accepted", "wan"], ["accepted", "remembered"])
            assert "wan" in paths or len(which) == 1
            return Seen(True, took, path_to(ben, "ann")["address"])

    return play


def check_paths(me: Daemon, servers: Meeting, router: Router) -> None:
    """`tether doctor paths` has each server, and where that sees this machine: at its router, from anywhere."""
    told, shown = me.json("doctor", "paths"), me.tether("doctor", "paths").out
    assert {each["server"] for each in told["servers"]} == {each.name for each in servers.servers}
    assert {each["observed"].rpartition(":")[0] for each in told["servers"]} == {router.address}
    assert told["mapping"] == "one for all"
    assert all(each["server"] in shown and each["observed"] in shown for each in told["servers"])


def by_a_third(one: Nat, other: Nat) -> Play:
    """Two daemons that cannot be joined, and a public one in their mesh: `tether doctor paths` says why on both sides, and
    records go by the third."""

    def play(world: World) -> Seen:
        with world.building:
            machines = world.wan.public("cleo"), world.wan.client("ann", one), world.wan.client("ben", other)
        with members(world, *machines) as (_, (_, ann, ben)):
            began = time.monotonic()
            said = [
                eventually(lambda me=me, to=to: path_to(me, to)["why"], f"{me.name} says why")
                for me, to in ((ann, "ben"), (ben, "ann"))
            ]
            took = time.monotonic() - began
            for me, to in ((ann, "ben"), (ben, "ann")):
                path = path_to(me, to)
                assert not path["linked"] and "--peer" in path["advice"]
                assert path["why"] in me.tether("doctor", "paths").out
            say(ann, ben)
            say(ben, ann)
            joined = {"ben" in links(ann), "ann" in links(ben)} != {False}
            assert "cleo" in links(ann) and "cleo" in links(ben)
            return Seen(joined, took, said=(said[0], said[1]))

    return play


@contextlib.contextmanager
def members(world: World, *machines: Machine) -> Iterator[tuple[Meeting, list[Daemon]]]:
    """A mesh of daemons on these machines, and servers of the row's own. The first is linked with all others."""
    with own_servers(world) as servers, daemons(world.directory, **servers.environment) as start:
        these = [start(machine.name, machine.prefix) for machine in machines]
        founded(*these)
        yield servers, these


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


def path_to(daemon: Daemon, other: str) -> dict[str, Any]:
    """What `tether doctor paths` tells of the way to a member."""
    return next(each for each in daemon.json("doctor", "paths")["members"] if each["machine"]["name"] == other)
