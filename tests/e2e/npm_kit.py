"""What tests need of npm (tests/npm), as `make test` installs it."""

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
MODULES = ROOT / ".venv" / "npm" / "node_modules"


def module(name: str) -> Path:
    """The directory of an npm package. Without it the test is skipped with the reason; where all must run, it fails."""
    found = MODULES / name
    if shutil.which("node") and found.is_dir():
        return found
    why = f"node, or the npm package {name}, is not here: `make test` installs what is in tests/npm"
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)
