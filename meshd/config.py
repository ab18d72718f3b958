"""Settings: those that come from the environment, and the daemon's, from its file too. Options come before them."""

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from meshd.errors import UsageError

ENV_PASSPHRASE: Final = "TETHER_PASSPHRASE"  # noqa: S105  a name, no secret
"""The passphrase or code, for scripts: unlike an argument it is not shown by `ps` to other users."""

ENV_AGENT: Final = "TETHER_AGENT_ID"
"""Which agent of this machine a program is."""

ENV_QUIC_ENGINE: Final = "TETHER_QUIC_ENGINE"
"""`qh3` or `aioquic`; otherwise qh3 where it is installed."""

ENV_LAN_INTERFACES: Final = "TETHER_LAN_INTERFACES"
"""IPv4 addresses of this machine, separated by commas or spaces, that multicast DNS is limited to."""

ENV_RENDEZVOUS: Final = "TETHER_RENDEZVOUS"
"""Rendezvous servers, HOST:PORT each, separated by commas or spaces. None is built in."""

EngineName = Literal["aioquic", "qh3"]

ENGINES: Final[tuple[EngineName, ...]] = ("aioquic", "qh3")


def quic_engine(option: str | None) -> EngineName | None:
    """The engine that was asked for, or None for the default. Raises UsageError for an unknown name."""
    name = option or os.environ.get(ENV_QUIC_ENGINE) or None
    for known in ENGINES:
        if name == known:
            return known
    if name is None:
        return None
    raise UsageError(f"{name!r} is not a QUIC engine.", f"Use one of {', '.join(ENGINES)} ({ENV_QUIC_ENGINE}).")


def lan_interfaces(options: tuple[str, ...]) -> tuple[str, ...]:
    """The addresses that were asked for, unchecked; none means all."""
    return options or tuple(os.environ.get(ENV_LAN_INTERFACES, "").replace(",", " ").split())


def rendezvous(options: tuple[str, ...]) -> tuple[str, ...]:
    """The servers that were asked for, unchecked: by option, else by the environment, else by the daemon's settings.

    Raises UsageError when none is named, and for settings that cannot be read.
    """
    found = _names(options) or load_settings(settings_file()).settings.rendezvous
    if not found:
        raise UsageError(
            "No rendezvous server is named, and none is built in.",
            f"Give --rendezvous HOST:PORT, set {ENV_RENDEZVOUS}, or put rendezvous into the settings.",
        )
    return found


def _names(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(" ".join(texts).replace(",", " ").split())


# The daemon's settings

ENV_STATE: Final = "TETHER_STATE"
"""The state directory, of the daemon and of whoever speaks to it."""

FILE_LIMIT: Final = 1 << 16
"""Most bytes of a settings file: more is another file put in its place by mistake."""

SERVERS_LIMIT: Final = 32
"""Most rendezvous servers of a list: two are asked at a time, and more than this many is another file's list."""

KIB: Final = 1024
UNITS: Final = {"": 1, "B": 1, "KiB": KIB, "MiB": KIB**2, "GiB": KIB**3, "TiB": KIB**4}

BlobPolicy = Literal["all", "pinned", "on-demand"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]
Source = Literal["default", "file", "environment"]


class Settings(NamedTuple):
    """What the person at this machine decides about its daemon. docs/configuration.md."""

    host: str = ""
    port: int | None = None
    lan: bool = True
    lan_interfaces: tuple[str, ...] = ()
    rendezvous: tuple[str, ...] = ()
    port_mapping: bool = True
    quic_engine: EngineName | None = None
    blob_policy: BlobPolicy = "on-demand"
    blob_cap: int | None = None
    upload_limit: int | None = None
    disk_floor: int = KIB**3
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"


class Rule(NamedTuple):
    """How one setting is given. `read` takes what TOML or the environment holds and raises UsageError."""

    key: str
    env: str
    read: Callable[[str, object], Any]
    live: bool
    """Whether a reload is enough; otherwise it is used at the next start."""

    form: str
    """What may be given, for people."""

    meaning: str


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > 255:
        raise _wrong(key, value, "a text of at most 255 characters")
    return value


def _port(key: str, value: object) -> int:
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 6 else value
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 65_536:
        raise _wrong(key, value, "a port, 1 to 65535, or 0 for any that is free")
    return number


def _switch(key: str, value: object) -> bool:
    words = {"1": True, "true": True, "on": True, "yes": True, "0": False, "false": False, "off": False, "no": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise _wrong(key, value, "true or false")


def _interfaces(key: str, value: object) -> tuple[str, ...]:
    found = value.replace(",", " ").split() if isinstance(value, str) else value
    try:
        if isinstance(found, list) and len(found) <= 64:
            return tuple(str(ipaddress.IPv4Address(each if isinstance(each, str) else "")) for each in found)
    except ValueError:
        pass  # said below
    raise _wrong(key, value, "a list of IPv4 addresses of this machine")


_SERVER: Final = re.compile(r"[A-Za-z0-9_.:\[\]-]{1,262}(#[A-Za-z2-7]{52})?")


def _servers(key: str, value: object) -> tuple[str, ...]:
    found = _names((value,)) if isinstance(value, str) else value
    if isinstance(found, list | tuple) and len(found) <= SERVERS_LIMIT:
        texts = tuple(each for each in found if isinstance(each, str) and _SERVER.fullmatch(each))
        if len(texts) == len(found):
            return texts  # and model/server.py reads each
    raise _wrong(key, value, f"a list of at most {SERVERS_LIMIT} servers, HOST:PORT each")


def _choice(*choices: str) -> Callable[[str, object], str]:
    def read(key: str, value: object) -> str:
        if value not in choices:
            raise _wrong(key, value, f"one of {', '.join(choices)}")
        return str(value)

    return read


def _size(key: str, value: object) -> int:
    form = "a number of bytes, such as 1048576 or 1 MiB"
    if isinstance(value, str):
        found = re.fullmatch(r"([0-9]{1,15})(?:\.([0-9]{1,3}))? ?([KMGT]iB|B)?", value.strip())
        if found is None:
            raise _wrong(key, value, form)
        whole, part, unit = found.groups()
        value = int(float(f"{whole}.{part or 0}") * UNITS[unit or ""])
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 60:
        raise _wrong(key, value, form)
    return value


def _limit(key: str, value: object) -> int | None:
    return _size(key, value) or None


def _wrong(key: str, value: object, form: str) -> UsageError:
    return UsageError(f"The setting {key} cannot be {value!r:.100}.", f"It is {form}.")


RULES: Final = (
    Rule(
        "host", "TETHER_HOST", _text, False, "an address", "Listen on this address only; empty: on all, IPv4 and IPv6."
    ),
    Rule("port", "TETHER_PORT", _port, False, "0 to 65535", "UDP port; 0: any. Unless given 64327, or a free one."),
    Rule("lan", "TETHER_LAN", _switch, False, "true, false", "Find members on the local network and be found there."),
    Rule(
        "lan_interfaces",
        ENV_LAN_INTERFACES,
        _interfaces,
        False,
        "a list of IPv4 addresses",
        "Do that on the interfaces with these addresses only; empty: on all.",
    ),
    Rule(
        "rendezvous",
        ENV_RENDEZVOUS,
        _servers,
        False,
        "a list of HOST:PORT, each perhaps with #FINGERPRINT",
        "Servers by which members find each other across the internet, and which give numbers to `--wan`; empty: none.",
    ),
    Rule(
        "port_mapping",
        "TETHER_PORT_MAPPING",
        _switch,
        False,
        "true, false",
        "Where there are rendezvous servers: ask the router, by UPnP, to let members in at the daemon's port.",
    ),
    Rule(
        "quic_engine",
        ENV_QUIC_ENGINE,
        _choice(*ENGINES),
        False,
        ", ".join(ENGINES),
        "The QUIC engine. Unless given qh3 where it is installed.",
    ),
    Rule(
        "blob_policy",
        "TETHER_BLOB_POLICY",
        _choice("all", "pinned", "on-demand"),
        True,
        "all, pinned, on-demand",
        "Which blobs come here by themselves and stay: all that are announced; those that are pinned or meant for this "
        "machine; or those and what is asked for, until the space is needed.",
    ),
    Rule(
        "blob_cap",
        "TETHER_BLOB_CAP",
        _limit,
        True,
        "a size; 0: no limit",
        "Most bytes that blobs may take here. What is neither pinned nor needed goes first, the oldest before.",
    ),
    Rule(
        "upload_limit",
        "TETHER_UPLOAD_LIMIT",
        _limit,
        True,
        "a size; 0: no limit",
        "Most bytes of blobs a second given to all other machines together.",
    ),
    Rule(
        "disk_floor",
        "TETHER_DISK_FLOOR",
        _size,
        True,
        "a size",
        "Free space on the disk that blobs leave alone.",
    ),
    Rule(
        "log_level",
        "TETHER_LOG_LEVEL",
        _choice("debug", "info", "warning", "error"),
        True,
        "debug, info, warning, error",
        "What is logged: this and worse.",
    ),
    Rule(
        "log_format",
        "TETHER_LOG_FORMAT",
        _choice("text", "json"),
        True,
        "text, json",
        "How a line of the log is written.",
    ),
)


class Loaded(NamedTuple):
    """Settings, where each came from, and the file that was looked at."""

    settings: Settings
    sources: Mapping[str, Source]
    path: Path

    def shown(self) -> list[tuple[str, str, Source]]:
        """Key, value as text, and source, in the order of the documentation."""
        values = self.settings._asdict()
        return [(rule.key, _shown(rule, values[rule.key]), self.sources[rule.key]) for rule in RULES]

    def changed(self, newer: "Loaded") -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Keys whose values differ in `newer`, and those of them that need a new start."""
        before, after = self.settings._asdict(), newer.settings._asdict()
        differ = [rule for rule in RULES if before[rule.key] != after[rule.key]]
        return tuple(rule.key for rule in differ), tuple(rule.key for rule in differ if not rule.live)


def state_directory(option: Path | str | None = None) -> Path:
    """Where the daemon keeps everything: what was asked for, else TETHER_STATE, else the user's own, made absolute."""
    chosen = str(option) if option else os.environ.get(ENV_STATE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs  # 10 ms that a command with TETHER_STATE need not spend

    return Path(platformdirs.user_state_dir("tether"))


def settings_file(option: Path | str | None = None) -> Path:
    """The settings' file: inside a state directory that was asked for, else in the user's folder for configuration."""
    if option or os.environ.get(ENV_STATE):
        return state_directory(option) / "config.toml"
    import platformdirs

    return Path(platformdirs.user_config_dir("tether")) / "config.toml"


def load_settings(path: Path, environment: Mapping[str, str] | None = None) -> Loaded:
    """Settings from the environment, else from the file (which need not exist), else as they come.

    Raises UsageError for an unknown key, a value that makes no sense, and a file that cannot be read.
    """
    environment = os.environ if environment is None else environment
    given = _file(path)
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for rule in RULES:
        sources[rule.key] = "default"
        if rule.key in given:
            values[rule.key], sources[rule.key] = rule.read(f"{rule.key} in {path}", given[rule.key]), "file"
        if environment.get(rule.env):
            values[rule.key], sources[rule.key] = rule.read(rule.env, environment[rule.env]), "environment"
    return Loaded(Settings(**values), sources, path)


def _file(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"The settings in {path} cannot be read: {error.strerror}.") from error
    if len(data) > FILE_LIMIT:
        raise UsageError(f"{path} is longer than {FILE_LIMIT:,} bytes.", "Is it really a file of settings?")
    import tomllib  # the daemon's business, not that of a command

    try:
        given: dict[str, object] = tomllib.loads(data.decode())
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise UsageError(f"{path} is not TOML: {error}.") from error
    except RecursionError as error:
        raise UsageError(f"{path} is nested too deeply.") from error
    keys = [rule.key for rule in RULES]
    for key in given:
        if key not in keys:
            raise UsageError(
                f"{path} has the setting {key!r:.100}, which does not exist.", f"There are {', '.join(keys)}."
            )
    return given


def _shown(rule: Rule, value: Any) -> str:
    if value in (None, "", ()):
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ", ".join(value)
    if value and rule.read in (_size, _limit):
        unit = next(unit for unit, length in reversed(UNITS.items()) if value % length == 0)
        return f"{value // UNITS[unit]} {unit}"
    return str(value)
