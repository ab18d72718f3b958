"""Every program in examples/ works as it stands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = sorted(path for path in (ROOT / "examples").iterdir() if path.is_file())
RUN_WITH = {".py": [sys.executable], ".sh": ["sh"]}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example(example: Path) -> None:
    done = subprocess.run(
        [*RUN_WITH[example.suffix], str(example)],
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable, "TETHER_LAN_INTERFACES": "127.0.0.1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 1, done.stdout
    assert not done.stderr, done.stderr


def test_there_are_examples() -> None:
    assert ROOT / "examples" / "demo.py" in EXAMPLES
