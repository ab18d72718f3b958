"""Who may import whom. The table is docs/tour.md's "Who may import whom"; change both, with a decision in docs/decisions.

Every import is found in the source, also inside functions, so nothing has to run. A room without a row fails: a new one
needs a place in the table before it has code.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("meshd", "tether_lite", "rendezvous")


@attrs.frozen
class Room:
    """What a module, or all modules of a package, may import besides itself, `meshd.errors` and the standard library."""

    name: str
    ours: tuple[str, ...]
    """Rooms of this project."""
    libraries: tuple[str, ...]
    why: str
    """Said when something that is not listed is imported."""
    never: dict[str, str] = attrs.field(factory=dict)
    """What must stay away although nothing above says so (the standard library), or deserves a reason of its own."""


NO_CLOCK = "the time is an argument, so that tests hold it"
NO_CHANCE = "entropy is an argument, so that vectors repeat"
NO_WIRES = "sockets and event loops belong to drivers"
NO_DISK = "disk, environment and processes belong to drivers"

SANS_IO = {
    "trio": NO_WIRES,
    "asyncio": NO_WIRES,
    "socket": NO_WIRES,
    "select": NO_WIRES,
    "ssl": NO_WIRES,
    "threading": NO_WIRES,
    "os": NO_DISK,
    "subprocess": NO_DISK,
    "time": NO_CLOCK,
}

TABLE = (
    Room("meshd.errors", (), (), "every room imports errors, so errors import nothing"),
    Room("meshd.status", (), ("attrs",), "status is values that any face can show"),
    Room("meshd.config", (), ("platformdirs",), "settings are read before anything heavy is loaded"),
    Room(
        "meshd.model",
        (),
        ("attrs", "blake3", "rfc8785", "cryptography"),
        "model is pure values: it knows no other room",
        {**SANS_IO, "random": NO_CHANCE, "secrets": NO_CHANCE, "uuid": NO_CHANCE},
    ),
    Room(
        "meshd.wire",
        ("meshd.model",),
        ("attrs", "msgspec"),
        "wire turns bytes into values and back, and knows nothing but values",
        {**SANS_IO, "random": NO_CHANCE, "secrets": NO_CHANCE, "uuid": NO_CHANCE},
    ),
    Room(
        "meshd.protocol",
        ("meshd.wire", "meshd.model"),
        ("attrs", "spake2", "noise", "cryptography", "blake3", "mnemonic"),
        "a machine is told what is held and asked what to do; it reaches for nothing",
        {
            **SANS_IO,
            "random": NO_CHANCE,
            "secrets": NO_CHANCE,
            "uuid": NO_CHANCE,
            "meshd.store": "a machine never asks the store: the driver hands in what is held",
            "meshd.drivers": "drivers run machines, not the other way round",
            "aioquic": "machines speak over any ordered bytes",
            "qh3": "machines speak over any ordered bytes",
        },
    ),
    Room(
        "meshd.store",
        ("meshd.wire", "meshd.model"),
        ("attrs", "apsw", "blake3"),
        "the store keeps and finds; it knows values, and neither peers nor time",
        {
            "meshd.protocol": "a machine never asks the store, nor the store a machine",
            "meshd.drivers": "a driver calls the store, in a thread",
            "trio": "the store is synchronous: drivers/storage.py keeps it off the event loop",
        },
    ),
    Room(
        "meshd.drivers",
        (
            *("meshd.protocol", "meshd.wire", "meshd.model", "meshd.store"),
            *("meshd.status", "meshd.notices", "meshd.config"),
        ),
        ("attrs", "blake3", "cryptography", "trio", "aioquic", "qh3", "zeroconf", "ifaddr", "miniupnpc", "structlog"),
        "drivers carry out what machines decide, for any face",
        {
            "meshd.tools": "tools use drivers' results through their own narrow context",
            "meshd.surfaces": "a driver shows nothing: it reports to a status.Observer",
        },
    ),
    Room(
        "meshd.node",
        (
            *("meshd.drivers", "meshd.protocol", "meshd.store", "meshd.wire", "meshd.model"),
            *("meshd.status", "meshd.notices", "meshd.config", "meshd.tools.context"),  # docs/decisions/0011
        ),
        ("attrs", "trio"),
        "the node composes the parts, for any face, and of tools it knows their context only",
        {
            "meshd.surfaces": "faces are joined to the node in __main__ alone",
        },
    ),
    Room(
        "meshd.tools",
        ("meshd.model", "meshd.status", "meshd.notices"),
        ("attrs", "msgspec"),
        "a tool says what may be asked and answers through its context",
        {
            "meshd.drivers": "through the context only",
            "meshd.protocol": "through the context only",
            "meshd.store": "through the context only",
            "meshd.node": "through the context only",
        },
    ),
    Room(
        "meshd.surfaces",
        ("meshd.tools", "meshd.status", "meshd.notices", "meshd.client", "meshd.config"),
        ("attrs", "click", "msgspec", "rich", "structlog", "trio", "mcp", "mcp_types", "tomlkit"),
        "a face is generated from the registry",
        {
            "meshd.drivers": "faces ask the tools",
            "meshd.protocol": "faces ask the tools",
            "meshd.store": "faces ask the tools",
            "meshd.node": "faces ask the tools",
        },
    ),
    Room("meshd.client", ("meshd.config",), ("trio",), "any program may use the client without the rest", {}),
    Room("meshd.notices", (), ("attrs",), "notices are values", {"trio": "notices are values"}),
    Room(
        "meshd.__main__",
        (
            "meshd.node",
            "meshd.tools",
            "meshd.surfaces",
            "meshd.drivers",
            "meshd.config",
            "meshd.status",
            "meshd.notices",
        ),
        ("attrs", "click", "structlog", "trio"),
        "the one place that joins node, tools and surfaces",
        {},
    ),
    Room(
        "tether_lite",
        (
            "meshd.drivers",
            "meshd.protocol",
            "meshd.wire",
            "meshd.model",
            "meshd.config",
            "meshd.status",
            "meshd.client",
        ),
        ("attrs", "click", "rich", "trio"),
        "tether_lite holds arguments and display only",
        {
            "meshd.store": "the pairing command stores nothing of a meeting",
            "meshd.tools": "tools belong to the daemon",
        },
    ),
    Room(
        "rendezvous.board",
        ("meshd.wire", "meshd.model"),
        ("attrs",),
        "the board decides who meets whom: it is told what happens, and when",
        {**SANS_IO, "random": NO_CHANCE, "secrets": NO_CHANCE, "uuid": NO_CHANCE},
    ),
    Room(
        "rendezvous",
        (
            *("meshd.wire", "meshd.model"),
            *(
                "meshd.drivers.quic",
                "meshd.drivers.quic_door",
                "meshd.drivers.quic_engine",
                "meshd.drivers.tls_identity",
            ),
            *("meshd.drivers.logs", "meshd.drivers.readiness", "meshd.drivers.one_error"),
        ),
        ("attrs", "click", "platformdirs", "structlog", "trio", "hypercorn", "starlette", "prometheus_client"),
        "the server joins clients to its board over QUIC, and holds neither words nor data",
        {
            "meshd.node": "a server is no member of anything",
            "meshd.protocol": "what peers prove to each other is not its business",
            "meshd.store": "it keeps nothing but its key",
        },
    ),
)

SOLE_IMPORTERS = {
    "aioquic": "meshd.drivers.quic_engine",  # docs/decisions/0002: beside quic.py, which stays free of engines
    "qh3": "meshd.drivers.quic_engine",
    "zeroconf": "meshd.drivers.lan",
    "miniupnpc": "meshd.drivers.igd",  # which is a process of its own: no other ever loads it
    "spake2": "meshd.protocol.pairing",
    "noise": "meshd.protocol.handshake",
    "rfc8785": "meshd.model.handle",
    "mcp": "meshd.surfaces.mcp_server",  # of the extra, and a second to load: `tether` and the daemon never do
    "mcp_types": "meshd.surfaces.mcp_server",
    "tomlkit": "meshd.surfaces.client_files",
    "hypercorn": "rendezvous.http",  # loaded only where metrics are asked for
    "starlette": "rendezvous.http",
    "prometheus_client": "rendezvous.http",
    # It would hide an import from this file; the engine is chosen when it is known, and the other is never loaded.
    "importlib": "meshd.drivers.quic_engine",
}
"""Libraries with one importer, so that a better one replaces them in one file."""


def modules() -> dict[str, Path]:
    """Every module of the project, by its full name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(source: str, module: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that `source` imports, wherever it stands."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(base, names, level):
                above = package[: len(package) - level + 1] if level else []
                start = ".".join([*above, *([base] if base else [])])
                for alias in names:
                    # `from meshd import status` imports a module, `from meshd.status import Paired` a name in one.
                    inner = f"{start}.{alias.name}"
                    yield node.lineno, inner if inner in MODULES else start
            case ast.Call(ast.Name("__import__")):
                yield node.lineno, "importlib"


def within(name: str, roof: str) -> bool:
    return name == roof or name.startswith(roof + ".")


def room_of(module: str) -> Room | None:
    return next((room for room in TABLE if within(module, room.name)), None)


def faults(source: str, module: str, is_package: bool = False) -> list[str]:
    """What of `source` breaks the table, a line each."""
    if module in PACKAGES and is_package and not list(imported(source, module, is_package)):
        return []  # a package's bare front door
    room = room_of(module)
    if room is None:
        return [f"{module} has no row in the table of tests/test_layers.py"]
    found = []
    for line, name in imported(source, module, is_package):
        where = f"{module}:{line} imports {name}"
        library = name.partition(".")[0]
        sole = SOLE_IMPORTERS.get(library)
        forbidden = next((why for roof, why in room.never.items() if within(name, roof)), None)
        if forbidden:
            found.append(f"{where}: {forbidden}")
        elif library in PACKAGES:
            allowed = (room.name, "meshd.errors", *room.ours)
            if name not in PACKAGES and not any(within(name, roof) for roof in allowed):
                found.append(f"{where}: {room.why}")
        elif library not in sys.stdlib_module_names and library not in room.libraries:
            found.append(f"{where}: {room.why}")
        if sole and module != sole:
            found.append(f"{where}: {sole} alone does that")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_keep_to_the_table(module: str) -> None:
    path = MODULES[module]
    broken = faults(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
    assert not broken, "\n".join(broken)


def test_quic_moves_bytes_without_protocol_or_store() -> None:
    """drivers/quic.py serves the rendezvous server too, which holds neither words nor data."""
    program = "import sys, meshd.drivers.quic; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "meshd.drivers.quic" in loaded
    assert not [name for name in loaded if within(name, "meshd.protocol") or within(name, "meshd.store")]


def test_the_rendezvous_server_loads_neither_protocol_nor_store() -> None:
    program = "import sys, rendezvous.__main__, rendezvous.http; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "rendezvous.board" in loaded
    never = (
        "meshd.protocol",
        "meshd.store",
        "meshd.node",
        "meshd.tools",
        "apsw",
        "noise",
        "spake2",
        "mnemonic",
        "blake3",
    )
    assert not [name for name in loaded if any(within(name, roof) for roof in never)]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("meshd.model.entry", "import trio"),
        ("meshd.model.entry", "from time import monotonic"),
        ("meshd.model.entry", "import meshd.wire.codec"),
        ("meshd.model.entry", "from meshd import status"),
        ("meshd.model.entry", "from ..wire import codec"),
        ("meshd.wire.codec", "import os.path"),
        ("meshd.wire.codec", "def later():\n    from meshd.protocol import pairing"),
        ("meshd.protocol.transfer", "from meshd.drivers import lan"),
        ("meshd.protocol.transfer", "import secrets"),
        ("meshd.protocol.transfer", "from spake2 import SPAKE2_A"),
        ("meshd.protocol.transfer", "import requests"),
        ("meshd.drivers.quic", "from qh3.quic import connection"),
        ("meshd.drivers.quic", "import importlib"),
        ("meshd.drivers.quic", "__import__('qh3')"),
        ("meshd.drivers.lan", "import tether_lite.words"),
        ("tether_lite.words", "import meshd.store.blobs"),
        ("meshd.errors", "import meshd.status"),
        ("rendezvous.board", "import secrets"),
        ("rendezvous.board", "from rendezvous import app"),
        ("rendezvous.app", "from meshd.protocol import pairing"),
        ("rendezvous.app", "from meshd.drivers import links"),
        ("rendezvous.app", "import starlette"),
        ("meshd.node.node", "import rendezvous.board"),
        ("meshd.tools.agent_tools", "import mcp_types"),
        ("meshd.surfaces.cli", "from mcp.server import lowlevel"),
        ("meshd.surfaces.channel", "import anyio"),
        ("meshd.surfaces.mcp_install", "import tomlkit"),
        ("meshd.attic", "import os"),
    ],
)
def test_what_breaks_the_table_is_seen(module: str, source: str) -> None:
    assert faults(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("meshd.model.entry", "import enum, re\nfrom meshd.errors import RefusedError\nimport blake3"),
        ("meshd.protocol.pairing", "from spake2 import SPAKE2_A\nfrom meshd.wire.codec import decode_body"),
        ("meshd.drivers.lan", "import socket, time, trio, zeroconf\nfrom . import udp\nfrom meshd import status"),
        ("tether_lite.words", "import click\nfrom meshd.protocol import passphrase"),
        ("meshd.surfaces.mcp_server", "import mcp_types\nfrom mcp.server import lowlevel"),
    ],
)
def test_what_the_table_allows_passes(module: str, source: str) -> None:
    assert not faults(source, module)
