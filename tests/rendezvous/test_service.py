"""The unit for systemd, as packagers and operators copy it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from meshd.errors import EXIT_REFUSED, EXIT_USAGE

UNIT = Path(__file__).parents[2] / "systemd" / "rendezvous.service"


def verified(directory: Path, text: str) -> "subprocess.CompletedProcess[str]":
    unit = directory / UNIT.name
    unit.write_text(text, encoding="utf-8")
    unit.chmod(0o644)
    return subprocess.run(
        ["systemd-analyze", "verify", unit],
        env={"PATH": "/usr/bin:/bin", "HOME": str(directory)},
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    text = re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/usr/bin/true", UNIT.read_text(encoding="utf-8"))
    done = verified(tmp_path, text)
    assert done.returncode == 0 and UNIT.name not in done.stderr, done.stderr
    assert "RestrictRealtme" in verified(tmp_path, text.replace("RestrictRealtime", "RestrictRealtme")).stderr


def test_it_keeps_its_key_alone_and_gives_up_where_trying_again_is_in_vain() -> None:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    for line in ("Type=notify", "DynamicUser=yes", "StateDirectory=tether-rendezvous", "CapabilityBoundingSet="):
        assert line in lines
    assert f"RestartPreventExitStatus={EXIT_USAGE} {EXIT_REFUSED}" in lines
