"""`tether demo --keep`: one line of success, and what its three daemons left, which is in order."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.daemons import ROOT


def test_it_prints_one_line_and_keeps_what_it_made(tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(tmp_path),
        "TETHER_STATE": str(tmp_path / "own"),  # the person's, which the demo leaves alone
    }
    command = [sys.executable, "-m", "meshd.surfaces.cli", "demo", "--keep"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"OK: .* in [0-9.]+ s\.\n", done.stdout), done.stdout
    print(done.stdout)
    (kept,) = tmp_path.iterdir()
    assert str(kept) in done.stderr and done.stderr.count("\n") == 1
    assert {path.name for path in kept.iterdir() if path.is_dir()} == {"ann", "ben", "cleo"}
    for log in kept.glob("*.log"):
        assert "Traceback" not in log.read_text()
