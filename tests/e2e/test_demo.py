"""`tether demo`: the whole of it, and what it says and leaves when a daemon fails."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meshd.errors import ConnectionLostError, TimedOutError
from meshd.surfaces import demo

ROOT = Path(__file__).parents[2]


def test_three_daemons_lose_one_and_heal(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "meshd.surfaces.cli", "demo", "--verbose"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), "TETHER_STATE": str(tmp_path / "mine")},
        capture_output=True,
        text=True,
        timeout=demo.ALL_WITHIN + 30,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("OK: three machines") and done.stdout.count("\n") == 1
    assert len(done.stderr.splitlines()) == 6
    assert list(tmp_path.iterdir()) == [], "the demo leaves nothing, and touches no mesh of the user"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is started in place of each daemon; it notes its process id."""
    path = tmp_path / "program"
    path.touch(mode=0o755)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(demo.sys, "executable", str(path))
    monkeypatch.setattr(demo.tempfile, "tempdir", str(tmp_path / "tmp"))
    return path


def test_a_daemon_that_does_not_start_is_quoted(program: Path) -> None:
    program.write_text("#!/bin/sh\necho one >&2; echo no disk here >&2; exit 6\n")
    with pytest.raises(ConnectionLostError, match=r"ann ended by itself. no disk here"):
        demo.demo.main([], standalone_mode=False)
    assert list((program.parent / "tmp").iterdir()) == []


def test_a_daemon_that_never_answers_is_ended(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "STEP_WITHIN", 0.5)
    program.write_text(f"#!/bin/sh\necho $$ > {program.parent}/pid\nexec sleep 1000\n")
    began = time.monotonic()
    with pytest.raises(TimedOutError, match=r"ann: not within 0.5 s"):
        demo.demo.main([], standalone_mode=False)
    assert time.monotonic() - began < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int((program.parent / "pid").read_text()), 0)
