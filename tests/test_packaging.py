"""The distribution declares what its code imports: nothing that merely happens to be there, nothing that nobody needs."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from meshd import config

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OURS = {"meshd", "rendezvous", "tether_lite", "tests"}


def names(requirements: list[str]) -> set[str]:
    """The distributions that these requirements name, spelled in the one way (PEP 503)."""
    return {normal(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def modules_imported_in(*rooms: str) -> dict[str, Path]:
    """Each top-level module that is neither ours nor Python's, with a file that imports it, be it inside a function."""
    found = {}
    for path in (path for room in rooms for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                imported = [node.module]
            found |= {name.partition(".")[0]: path for name in imported}
    # The engines are imported by name, each when it is chosen.
    found |= dict.fromkeys(config.ENGINES, ROOT / "meshd" / "drivers" / "quic_engine.py")
    return {name: path for name, path in found.items() if name not in OURS | sys.stdlib_module_names}


def distributions_of(modules: dict[str, Path]) -> dict[str, Path]:
    """The distribution that each of these modules comes from; a module that is not installed stands under its own name."""
    installed = packages_distributions()
    return {normal(name): path for module, path in modules.items() for name in installed.get(module, [module])}


DECLARED = names(PROJECT["dependencies"])
FOR_MCP = names(PROJECT["optional-dependencies"]["mcp"])
"""The extra of one program; tests/test_layers.py says who may import it."""

FOR_TESTS = names(PROJECT["optional-dependencies"]["test"])


@pytest.mark.parametrize(
    ("rooms", "declared"),
    [
        (("meshd", "rendezvous", "tether_lite"), DECLARED | FOR_MCP),
        (("tests", "examples"), DECLARED | FOR_MCP | FOR_TESTS),
    ],
    ids=["program", "tests"],
)
def test_what_is_imported_is_declared(rooms: tuple[str, ...], declared: set[str]) -> None:
    imported = distributions_of(modules_imported_in(*rooms))
    assert {name: str(path.relative_to(ROOT)) for name, path in imported.items() if name not in declared} == {}


def test_what_is_declared_is_imported() -> None:
    assert (DECLARED | FOR_MCP) - set(
        distributions_of(modules_imported_in("meshd", "rendezvous", "tether_lite"))
    ) == set()


def test_no_other_package_is_shipped_than_those_that_are_looked_at() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert set(tools["hatch"]["build"]["targets"]["wheel"]["packages"]) == packages == OURS - {"tests"}


def test_the_console_scripts_lead_somewhere() -> None:
    for target in PROJECT["scripts"].values():
        module, _, name = target.partition(":")
        tree = ast.parse((ROOT / module.replace(".", "/")).with_suffix(".py").read_bytes())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
