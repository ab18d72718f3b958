"""What the documents say about the command is what it does."""

import re
from pathlib import Path

import attrs
import click
import pytest

from meshd import config, status
from meshd.errors import EXIT_CODES
from meshd.protocol.passphrase import parse_code
from tether_lite.__main__ import cli, connect, listen

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
MANUAL = (ROOT / "docs" / "tether_lite.md").read_text(encoding="utf-8")

every_command = pytest.mark.parametrize("command", [cli, listen, connect], ids=lambda command: command.name)
every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def test_the_table_of_exit_codes() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Exit codes")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", text, re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == EXIT_CODES


def help_of(command: click.Command) -> str:
    with click.Context(command, terminal_width=120, max_content_width=120) as context:
        return command.get_help(context)


@every_command
def test_help_has_the_exit_codes(command: click.Command) -> None:
    rows = re.findall(r"^ +(\d+)  (.+)$", help_of(command).partition("Exit codes:\n")[2], re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == EXIT_CODES


def test_help_and_manual_have_the_default_time_outs() -> None:
    for command, seconds in ((listen, 600), (connect, 30)):
        assert re.search(rf"--timeout SECONDS .*?\[default:\s+{seconds}(\.0)?;", help_of(command), re.DOTALL)
        assert f"`{command.name}` {seconds}" in row_of("--timeout")


def test_help_and_manual_say_the_same_of_quiet() -> None:
    (quiet,) = (option for option in listen.params if "--quiet" in option.opts)
    assert quiet.help in row_of("--quiet")


def row_of(option: str) -> str:
    """What the manual's table says of an option."""
    return re.search(rf"^\| `{option}\b.*$", MANUAL, re.MULTILINE)[0]


@every_command
def test_every_option_is_in_the_manual(command: click.Command) -> None:
    with click.Context(command, help_option_names=["-h", "--help"]) as context:
        options = [name for option in command.get_params(context) for name in option.opts if name.startswith("-")]
    assert "--help" in options
    assert [option for option in options if f"`{option}" not in MANUAL] == []


def test_the_manual_has_no_option_that_is_none() -> None:
    known = {name for command in (listen, connect) for option in command.params for name in option.opts} | {"--help"}
    assert set(re.findall(r"^\| `(--[a-z-]+)", MANUAL, re.MULTILINE)) <= known


def test_every_event_is_in_the_manual() -> None:
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| ((?:`[a-z_]+`[^|]*)+) \|", MANUAL, re.MULTILINE))
    for event in status.Event.__args__:
        name = re.sub("(?<!^)(?=[A-Z])", "_", event.__name__).lower()
        assert re.findall(r"`([a-z_]+)`", rows[name]) == [field.name for field in attrs.fields(event)]


def test_every_environment_variable_is_in_the_manual() -> None:
    for name in (config.ENV_PASSPHRASE, config.ENV_QUIC_ENGINE, config.ENV_LAN_INTERFACES):
        assert f"| `{name}` |" in MANUAL


@every_document
def test_every_code_is_one(document: Path) -> None:
    """Somebody who tries an example must not be told that it has a wrong word."""
    for code in re.findall(r"\b[1-9][0-9]{0,2}(?:-[a-z]{3,8}){3,}\b", document.read_text(encoding="utf-8")):
        parse_code(code)


@every_document
def test_every_link_and_path_leads_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s#]+)", text) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []
    paths = re.findall(r"`((?:meshd|rendezvous|tether_lite|tests|docs|examples|systemd)/[\w./-]*)`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
