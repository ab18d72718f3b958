"""The unit of the daemon, and what `tether service` says where no systemd runs."""

import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from meshd.errors import RefusedError
from meshd.surfaces import service

ROOT = Path(__file__).parents[2]


def test_the_unit_of_the_repository_is_the_one_that_is_installed() -> None:
    kept = (ROOT / "systemd" / service.UNIT).read_text(encoding="utf-8")
    assert kept == service.unit("%h/.local/bin/meshd")


def test_a_state_directory_goes_into_the_unit_as_it_is() -> None:
    text = service.unit("/usr/bin/meshd", '/home/ann/a "b" 100%')
    assert 'Environment="TETHER_STATE=/home/ann/a \\"b\\" 100%%"\nExecStart=/usr/bin/meshd\n' in text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
@pytest.mark.parametrize("state", ["", "/home/ann/state of mine"])
def test_systemd_finds_nothing_wrong(tmp_path: Path, state: str) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / service.UNIT).write_text(service.unit('"/usr/bin/true" -m meshd', state), encoding="utf-8")
    (tmp_path / service.UNIT).chmod(0o644)

    def verified() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["systemd-analyze", "--user", "verify", tmp_path / service.UNIT],
            env={"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
        )

    done = verified()
    assert (done.returncode, done.stderr) == (0, "")
    broken = service.unit("/usr/bin/true").replace("RestrictRealtime", "RestrictRealtme")
    (tmp_path / service.UNIT).write_text(broken, encoding="utf-8")
    assert "RestrictRealtme" in verified().stderr  # it would have told


@pytest.mark.parametrize("words", [["install"], ["uninstall"], ["status"], ["logs"]])
def test_without_systemd_it_says_so(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "BOOTED", tmp_path / "none")
    with pytest.raises(RefusedError, match="No systemd runs on this machine"):
        CliRunner().invoke(service.service, words, standalone_mode=False, catch_exceptions=False)


def calls_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int = 0) -> Path:
    """Stand-ins for systemctl and journalctl that note how they are called."""
    log = tmp_path / "calls"
    for name in ("systemctl", "journalctl"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> {log}\nexit {code}\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("TETHER_STATE", raising=False)
    monkeypatch.setattr(service, "BOOTED", tmp_path)
    return log


def test_install_and_uninstall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = calls_of(tmp_path, monkeypatch)
    path = tmp_path / "config" / "systemd" / "user" / "meshd.service"
    runner = CliRunner()
    done = runner.invoke(service.service, ["install", "--state", str(tmp_path / "s")], standalone_mode=False)
    assert done.exception is None and "enable-linger" in done.output
    assert f'Environment="TETHER_STATE={tmp_path}/s"' in path.read_text()
    assert "-m meshd" in path.read_text()
    assert runner.invoke(service.service, ["logs", "-f"], standalone_mode=False).exception is None
    assert runner.invoke(service.service, ["uninstall"], standalone_mode=False).exception is None
    assert not path.exists()
    assert log.read_text().splitlines() == [
        "systemctl --user daemon-reload",
        "systemctl --user enable --now meshd.service",
        "journalctl --user --unit meshd.service --no-pager --follow",
        "systemctl --user disable --now meshd.service",
        "systemctl --user daemon-reload",
    ]
    again = runner.invoke(service.service, ["uninstall"], standalone_mode=False)
    assert isinstance(again.exception, RefusedError)


def test_a_failure_of_systemctl_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls_of(tmp_path, monkeypatch, code=3)
    done = CliRunner().invoke(service.service, ["install"], standalone_mode=False)
    assert isinstance(done.exception, RefusedError) and "failed with 3" in done.exception.what
