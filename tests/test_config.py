"""The daemon's settings: where they come from, what they may be, and that the page lists them all."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd import config
from meshd.config import RULES, Settings, load_settings
from meshd.errors import UsageError

PAGE = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text(encoding="utf-8")


def loaded(path: Path, text: str, **environment: str) -> config.Loaded:
    (path / "config.toml").write_text(text, encoding="utf-8")
    return load_settings(path / "config.toml", environment)


def test_no_file(tmp_path: Path) -> None:
    found = load_settings(tmp_path / "config.toml", {})
    assert found.settings == Settings()
    assert set(found.sources.values()) == {"default"}


def test_file_and_environment(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        'port = 7000\nlan = false\nlan_interfaces = ["127.0.0.1"]\nblob_cap = "1.5 GiB"\nupload_limit = 0\n'
        'blob_policy = "pinned"\nlog_format = "json"\nhost = "192.0.2.7"\nquic_engine = "aioquic"',
        TETHER_PORT="0",
        TETHER_DISK_FLOOR="10MiB",
        TETHER_LOG_LEVEL="",
    )
    assert found.settings == Settings(
        host="192.0.2.7",
        port=0,
        lan=False,
        lan_interfaces=("127.0.0.1",),
        quic_engine="aioquic",
        blob_policy="pinned",
        blob_cap=3 << 29,
        upload_limit=None,
        disk_floor=10 << 20,
        log_format="json",
    )
    assert found.sources["port"] == found.sources["disk_floor"] == "environment"
    assert (found.sources["lan"], found.sources["log_level"]) == ("file", "default")
    shown = {key: value for key, value, _ in found.shown()}
    assert shown["lan"] == "false" and shown["lan_interfaces"] == "127.0.0.1" and shown["upload_limit"] == "-"


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("port", ("-1", "65536", "1.0", "true", '"x"', '"999999"', "[1]")),
        ("host", ("1", '"a\\nb"', f'"{"a" * 256}"')),
        ("lan", ("1", '"maybe"', "[]")),
        ("lan_interfaces", ('["a"]', "[1]", '["::1"]', "7", '["127.0.0.1/8"]')),
        ("rendezvous", ("1", '"a b c/d"', '["a", 1]', '["a#short"]', '["user@host"]', str(["a"] * 33))),
        ("quic_engine", ('"quiche"', "1")),
        ("blob_policy", ('"some"',)),
        ("blob_cap", ("-1", "1.5", '"1 GB"', '"x"', "true", '"99999999999999999999"')),
        ("upload_limit", ('"fast"',)),
        ("disk_floor", ('"-1"',)),
        ("log_level", ('"loud"',)),
        ("log_format", ('"xml"',)),
    ],
)
def test_what_makes_no_sense_is_named(tmp_path: Path, key: str, values: tuple[str, ...]) -> None:
    for value in values:
        with pytest.raises(UsageError, match=key) as caught:
            loaded(tmp_path, f"{key} = {value}")
        assert "config.toml" in caught.value.what and caught.value.advice.startswith("It is ")


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    for text in ("prot = 1", "[blobs]\ncap = 1", '"a\\u0007" = 1'):
        with pytest.raises(UsageError, match="which does not exist") as caught:
            loaded(tmp_path, text)
        assert "\a" not in str(caught.value) and "upload_limit" in caught.value.advice


def test_what_is_wrong_in_the_environment_names_the_variable(tmp_path: Path) -> None:
    for rule in RULES:
        if rule.key != "host":
            with pytest.raises(UsageError, match=rule.env):
                loaded(tmp_path, "", **{rule.env: "?"})


@pytest.mark.parametrize("text", ["port = ", "\x00", "port = 1\nport = 2", "a" * (config.FILE_LIMIT + 1)])
def test_no_settings_at_all(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"config\.toml"):
        loaded(tmp_path, text)


def test_a_file_that_is_no_text_or_no_file(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="is not TOML"):
        load_settings(tmp_path / "config.toml", {})
    with pytest.raises(UsageError, match="cannot be read"):
        load_settings(tmp_path, {})


@given(data=st.binary(max_size=100))
def test_any_file(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data)
    try:
        found = load_settings(path, {})
    except UsageError:
        return
    assert found.path == path


def test_what_changed_and_what_needs_a_new_start(tmp_path: Path) -> None:
    before = loaded(tmp_path, "")
    after = loaded(tmp_path, 'port = 7\nupload_limit = "1 MiB"')
    assert before.changed(after) == (("port", "upload_limit"), ("port",))
    assert after.changed(after) == ((), ())


def test_where_everything_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "TETHER_STATE"):
        monkeypatch.delenv(name, raising=False)
    assert config.state_directory().is_relative_to(tmp_path) and config.state_directory().name == "tether"
    assert config.settings_file().parts[-2:] == ("tether", "config.toml")
    assert config.settings_file().parent != config.state_directory()
    monkeypatch.setenv("TETHER_STATE", "some/where")
    assert config.state_directory() == Path.cwd() / "some" / "where"
    assert config.settings_file() == Path.cwd() / "some" / "where" / "config.toml"
    assert config.state_directory("~/there") == tmp_path / "there"
    assert config.settings_file(tmp_path) == tmp_path / "config.toml"


def test_rules_and_settings_are_of_the_same_keys_and_defaults() -> None:
    assert tuple(rule.key for rule in RULES) == Settings._fields
    for rule in RULES:
        default = getattr(Settings(), rule.key)
        if default not in (None, "", ()):
            assert rule.read(rule.key, default) == default


def test_the_page_lists_every_setting() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.partition("A size is")[0], re.MULTILINE))
    assert list(rows) == [rule.key for rule in RULES]
    for rule in RULES:
        shown = {key: value for key, value, _ in load_settings(Path("/nonexistent"), {}).shown()}[rule.key]
        cells = rows[rule.key].split(" | ")
        assert cells[0] == f"`{rule.env}`" and cells[1] == rule.form
        assert cells[2] == ("reload" if rule.live else "start")
        assert cells[4] == rule.meaning
        assert shown == "-" or cells[3].startswith(f"`{shown}`")
