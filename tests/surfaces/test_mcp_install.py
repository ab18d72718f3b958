"""`tether mcp install`: what it shows and writes, and that it harms nothing that is there."""

import json
import os
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from meshd.errors import RefusedError, StoreError
from meshd.surfaces import client_files
from tests.surfaces.kit import WITHIN


class Home:
    """A home directory, and a project in it."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.project = directory, directory / "project"
        self.project.mkdir()

    def install(self, *arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TETHER_", "CODEX_"))}
        done = subprocess.run(
            [sys.executable, "-m", "meshd.surfaces.cli", "mcp", "install", *arguments],
            cwd=self.project,
            env={**kept, "HOME": str(self.directory), "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
            capture_output=True,
            text=True,
            timeout=WITHIN,
        )
        assert done.returncode == code, done.stderr
        return done


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


FILES = {"claude": "project/.mcp.json", "codex": ".codex/config.toml", "gemini": ".gemini/settings.json"}


def parsed(client: str, text: str) -> Any:
    found = tomllib.loads(text) if client == "codex" else json.loads(text)
    return found["mcp_servers" if client == "codex" else "mcpServers"]["tether"]


@pytest.mark.parametrize("client", FILES)
def test_it_shows_what_it_would_write(home: Home, client: str) -> None:
    done = home.install(client, "--agent", "reviewer", "--tools", "threads", "--start", "--state", "/some/where")
    found = parsed(client, done.stdout)
    assert found["args"][-3:] == ["--tools", "threads", "--start"]
    assert found["env"] == {"TETHER_AGENT_ID": "reviewer", "TETHER_STATE": "/some/where"}
    assert Path(found["command"]).is_absolute()
    assert "--write" in done.stderr and not (home.directory / FILES[client]).exists()
    given = (client, "--agent", "reviewer", "--tools", "threads", "--start", "--state", "/some/where", "--write")
    assert "Start" in home.install(*given).stdout
    path = home.directory / FILES[client]
    assert parsed(client, path.read_text()) == found
    assert stat.S_IMODE(path.stat().st_mode) == (0o644 if client == "claude" else 0o600)
    assert "nothing to change" in home.install(*given).stdout and not path.with_name(f"{path.name}.bak").exists()


def test_what_it_shows_starts(home: Home) -> None:
    found = parsed("claude", home.install("claude").stdout)
    done = subprocess.run(
        [found["command"], *found["args"], "--version"], capture_output=True, text=True, timeout=WITHIN
    )
    assert done.returncode == 0 and "tether-mcp" in done.stdout
    assert "env" not in found


def test_the_users_own_file_of_claude(home: Home) -> None:
    home.install("claude", "--user", "--write")
    assert parsed("claude", (home.directory / ".claude.json").read_text())
    assert "--user" in home.install("codex", "--user", code=2).stderr


def test_codex_may_have_its_home_elsewhere(home: Home) -> None:
    home.install("codex", "--write", CODEX_HOME=str(home.directory / "elsewhere"))
    assert (home.directory / "elsewhere" / "config.toml").exists()


def test_what_is_in_a_json_file_stays(home: Home) -> None:
    path = home.project / ".mcp.json"
    before = {
        "other": [1, 2.5, "é"],
        "mcpServers": {"else": {"command": "x"}, "tether": {"command": "old", "trust": True, "env": {"MINE": "1"}}},
    }
    text = json.dumps(before, indent=4, ensure_ascii=False)
    path.write_text(text)
    path.chmod(0o640)
    home.install("claude", "--agent", "codex", "--write")
    after = json.loads(path.read_text())
    made = after["mcpServers"].pop("tether")
    assert made["trust"] and made["env"] == {"MINE": "1", "TETHER_AGENT_ID": "codex"} and made["command"] != "old"
    before["mcpServers"].pop("tether")  # type: ignore[attr-defined]
    assert after == before and list(after) == list(before)
    assert '\n    "other"' in path.read_text() and "é" in path.read_text()
    assert path.with_name(".mcp.json.bak").read_text() == text
    assert {stat.S_IMODE(each.stat().st_mode) for each in (path, path.with_name(".mcp.json.bak"))} == {0o640}
    assert sorted(each.name for each in home.project.iterdir()) == [".mcp.json", ".mcp.json.bak"]
    changed = path.read_text()
    assert "nothing to change" in home.install("claude", "--agent", "codex", "--write").stdout
    assert path.read_text() == changed and path.with_name(".mcp.json.bak").read_text() == text


def test_what_is_in_a_toml_file_stays_with_its_comments(home: Home) -> None:
    path = home.directory / ".codex" / "config.toml"
    path.parent.mkdir()
    text = '# mine\nmodel = "x" # why\n\n[mcp_servers.else]\ncommand = "y"\n\n[profiles.a]\nmodel = "z"\n'
    path.write_text(text)
    home.install("codex", "--agent", "codex", "--write")
    after = path.read_text()
    found = tomllib.loads(after)
    assert found["mcp_servers"]["tether"]["env"] == {"TETHER_AGENT_ID": "codex"}
    assert found["mcp_servers"]["else"] == {"command": "y"} and found["profiles"] == {"a": {"model": "z"}}
    assert "# mine" in after and "# why" in after
    home.install("codex", "--agent", "other", "--write")
    assert tomllib.loads(path.read_text())["mcp_servers"]["tether"]["env"] == {"TETHER_AGENT_ID": "other"}
    assert path.with_name("config.toml.bak").read_text() == after


@pytest.mark.parametrize(
    ("client", "text"),
    [
        ("claude", "{"),
        ("claude", "// mine\n{}"),
        ("claude", "[]"),
        ("claude", '{"mcpServers": []}'),
        ("claude", '{"mcpServers": {"tether": 1}}'),
        ("claude", '{"a": 1, "a": 2}'),
        ("claude", "[" * 100_000),
        ("codex", "model = "),
        ("codex", "mcp_servers = 1"),
        ("codex", "a = 1\na = 2"),
    ],
)
def test_a_file_that_cannot_be_understood_stays(home: Home, client: str, text: str) -> None:
    path = home.directory / FILES[client]
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert "Add it by hand" in home.install(client, "--write", code=6).stderr
    assert path.read_text() == text and [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_link_is_followed(tmp_path: Path) -> None:
    kept, link = tmp_path / "dotfiles.json", tmp_path / "settings.json"
    kept.write_text("{}")
    link.symlink_to(kept)
    assert client_files.change(link, 0o600, lambda _: '{"a": 1}')
    assert link.is_symlink() and kept.read_text() == '{"a": 1}' and (tmp_path / "dotfiles.json.bak").read_text() == "{}"


def test_a_file_that_changes_meanwhile_is_left(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("{}")

    def merged(_: str) -> str:
        path.write_text('{"theirs": 1}')
        return "{}\n"

    with pytest.raises(RefusedError, match="changed meanwhile"):
        client_files.change(path, 0o600, merged)
    assert path.read_text() == '{"theirs": 1}'


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises((RefusedError, StoreError)):
        client_files.change(tmp_path, 0o600, lambda text: text + "x")


def test_without_the_extra_it_says_how_to_get_it(home: Home) -> None:
    (home.project / "tomlkit.py").write_text("raise ModuleNotFoundError('tomlkit')")
    root = str(Path(__file__).parents[2])
    done = home.install("claude", code=6, PYTHONPATH=f"{home.project}{os.pathsep}{root}")
    assert "pip install 'tether-mesh[mcp]'" in done.stderr


def test_wrong_words_are_refused(home: Home) -> None:
    assert "no set of tools" in home.install("claude", "--tools", "board", code=2).stderr
    home.install("claude", "--agent", "co dex", code=2)
    home.install("emacs", code=2)
    found = json.loads(home.install("claude", "--json", "--write").stdout)
    assert found["changed"] and found["path"] == str(home.project / ".mcp.json") and found["server"]["command"]
