"""`tether restore` starts the daemon's program, which alone can place a backup, and ends as that ends."""

from pathlib import Path

import pytest

from meshd.surfaces import restoring


@pytest.mark.parametrize("code", [0, 6])
def test_it_starts_the_daemon_with_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\nfor each; do echo "$each"; done > {tmp_path}/given; exit {code}\n')
    program.chmod(0o755)
    monkeypatch.setattr(restoring.sys, "executable", str(program))
    monkeypatch.chdir(tmp_path)
    given = ["a backup.tether", "--state", str(tmp_path / "new state")]
    assert restoring.restore.main(given, standalone_mode=False) == code
    assert (tmp_path / "given").read_text().splitlines() == [
        *("-m", "meshd", "--state", str(tmp_path / "new state")),
        *("--restore", str(tmp_path / "a backup.tether")),
    ]
