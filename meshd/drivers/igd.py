"""What is said to one router, by UPnP-IGD, in a process of its own: `python -m meshd.drivers.igd`. docs/decisions/0014.

miniupnpc is C and reads what any device of the LAN likes to send, for as long and as much as that likes. So it runs where
it has little memory, no secrets and a deadline, and what it costs is gone with it. drivers/portmap.py starts it.

Arguments: `map` or `unmap`, the URL of the router's description, its address, our port, seconds of lease, and the public
ports to try, or to give back. One line of JSON comes out:

    ["mapped", public address, public port, seconds of lease; 0: for ever]
    ["private", the router's address on its other side]
    ["gone"]                     what was ours is not mapped any more
    ["failed", why]
    ["missing"]                  the library is not installed
"""

import contextlib
import ipaddress
import json
import re
import signal
import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

DEADLINE: Final = 20
"""Seconds after which the process ends by itself, should nobody be left who ends it sooner."""

MEMORY: Final = 64 * 1024 * 1024
"""Bytes of memory that it may take: Python alone takes a fifth, and an answer that needs the rest is no router's."""

NAME: Final = "Tether"
"""What the router's own pages show the mapping as. Letters only: some routers choke on more."""

FOR_EVER: Final = ("OnlyPermanentLeasesSupported", "Invalid Args")
"""Answers to a lease (725; 402 by some) after which it is asked for without an end."""

TAKEN: Final = ("ConflictInMappingEntry", "ConflictWithOtherMechanisms", "Action Failed")
"""Answers (718, 729; 501 by some) after which another public port is tried."""


class Holder(NamedTuple):
    """Who has a public port."""

    host: str
    port: int
    lease: int


def is_public(host: object) -> bool:
    """Whether this is an IPv4 address that the whole internet can send to."""
    try:
        address = ipaddress.IPv4Address(host) if isinstance(host, str) else None
    except ValueError:
        return False
    return address is not None and address.is_global and not address.is_multicast


def converse(task: str, url: str, host: str, port: int, lease: int, publics: Sequence[int]) -> list[Any]:
    """Do one task; the answer as above."""
    try:
        import miniupnpc
    except ImportError:
        return ["missing"]
    _limit_memory()
    igd = miniupnpc.UPnP()
    try:
        control = igd.selectigd(url)
        # The description may name any place for what follows. What answered on the LAN is spoken to, and nobody else; in
        # this form alone, since two readers may take http://one:80\\@other/ for two hosts.
        if not re.fullmatch(rf"http://{re.escape(host)}(:[0-9]{{1,5}})?/[!-~]*", control):
            return ["failed", "its description points at another machine"]
        return _map(igd, port, lease, publics) if task == "map" else _unmap(igd, port, publics)
    except Exception as error:  # the library has no other class, and text that is not UTF-8 comes as ValueError
        return ["failed", str(error)]


def _map(igd: Any, port: int, lease: int, publics: Sequence[int]) -> list[Any]:
    outside = igd.externalipaddress()
    if not is_public(outside):
        return ["private", outside]
    why = "all public ports that were tried are taken"
    for public in publics:
        if _is_others(_holder(igd, public), igd, port):
            continue
        try:
            lease = _add(igd, port, lease, public)
        except Exception as error:
            if str(error) not in TAKEN:
                raise
            why = str(error)
            continue
        holder = _holder(igd, public)
        # Some say yes and leave it to whoever had it before.
        if not _is_others(holder, igd, port):
            return ["mapped", outside, public, min(lease, holder.lease) if holder and holder.lease > 0 else lease]
    return ["failed", why]


def _add(igd: Any, port: int, lease: int, public: int) -> int:
    """Ask for it; returns the lease that it was asked for with."""
    try:
        igd.addportmapping(public, "UDP", igd.lanaddr, port, NAME, "", lease)
    except Exception as error:
        if not lease or str(error) not in FOR_EVER:
            raise
        igd.addportmapping(public, "UDP", igd.lanaddr, port, NAME, "", 0)
        return 0
    return lease


def _unmap(igd: Any, port: int, publics: Sequence[int]) -> list[Any]:
    for public in publics:
        holder = _holder(igd, public)
        # Several are those that a request which was cut short may have got: only what is surely ours goes.
        if (holder is not None or len(publics) == 1) and not _is_others(holder, igd, port):
            with contextlib.suppress(Exception):  # it has gone by itself
                igd.deleteportmapping(public, "UDP", "")
    return ["gone"]


def _holder(igd: Any, public: int) -> Holder | None:
    """Who has this port; None when nobody has, or the router does not tell."""
    try:
        found = igd.getspecificportmapping(public, "UDP")
    except ValueError:
        return Holder("", 0, 0)  # somebody whose name is not UTF-8
    return None if found is None else Holder(found[0], found[1], found[4])


def _is_others(holder: Holder | None, igd: Any, port: int) -> bool:
    """Whether it is surely somebody else's. A few routers give a machine's name in place of its address."""
    if holder is None:
        return False
    named = bool(holder.host) and not holder.host.replace(".", "").isdigit()
    return holder.port != port or not (named or holder.host == igd.lanaddr)


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows; or it is less already
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """The process."""
    if hasattr(signal, "alarm"):
        signal.alarm(DEADLINE)
    task, url, host, port, lease, *publics = sys.argv[1:]
    print(json.dumps(converse(task, url, host, int(port), int(lease), [int(each) for each in publics])))


if __name__ == "__main__":
    main()
