"""What comes back from operations on links, on what is known, and on the daemon. Conventions: mesh_answers.py."""

from typing import Literal

import attrs

from meshd.tools.mesh_answers import MachineRef


@attrs.frozen
class PeerAddress:
    """An address where a member may be."""

    address: str
    kind: Literal["by hand", "remembered", "learnt", "LAN", "WAN"]
    machine: MachineRef | None
    """None: by hand, and nobody has answered there yet."""

    last_ok_age: float | None
    """Since a session was last confirmed there."""


@attrs.frozen
class PeerAddresses:
    """What this machine would dial."""

    mesh: str
    addresses: tuple[PeerAddress, ...]


@attrs.frozen
class PeerChanged:
    """An address given by hand was noted or forgotten. `changed` is false when that was so already."""

    address: str
    changed: bool


@attrs.frozen
class Ping:
    """How long a member's program took to answer, each time."""

    machine: MachineRef
    path: str
    address: str
    round_trips: tuple[float, ...]


Mapping = Literal["unknown", "one for all", "one for each", "none"]
"""How a router maps a machine (RFC 4787): one address and port for all destinations; another for each, often called
symmetric; none where the machine has that address itself. Unknown until two servers have seen it."""


@attrs.frozen
class ServerPath:
    """One rendezvous server of the settings."""

    server: str
    connected: bool
    observed: str
    """Where it sees this machine; empty while not connected."""

    error: str
    """Why there is no connection; empty when there is one, or none was needed."""


@attrs.frozen
class MemberPath:
    """How one member is reached, or what was tried across the internet."""

    machine: MachineRef
    linked: bool
    path: str
    """As in MachineStatus."""

    address: str
    sought: bool
    """Whether it is looked for by rendezvous now."""

    tried_age: float | None
    """Since the last match with it; None: there was none in this run."""

    server: str
    mapping: Mapping
    """Of its router, as it said."""

    candidates: tuple[str, ...]
    opened: tuple[str, ...]
    """Those from which a punch came."""

    why: str
    """What came of it; empty while it goes on, and when it led to a link."""

    advice: str


@attrs.frozen
class Paths:
    """Of one mesh."""

    mesh: str
    name: str
    port: int
    mapping: Mapping
    mapped: str
    """The address of a port that the router opened for us; empty without one."""

    servers: tuple[ServerPath, ...]
    members: tuple[MemberPath, ...]


@attrs.frozen
class MachineStatus:
    """What this machine last knew of another member. An age that is None means that nothing is known."""

    machine: MachineRef
    linked: bool
    path: str
    """lan, wan, by hand, remembered, learnt, accepted; empty when not linked."""

    address: str
    since: float | None
    """Seconds that the link has stood; None when not linked."""

    seen_age: float | None
    """Since it was last heard; 0 while linked."""

    round_trip: float | None
    round_trip_age: float | None
    they_lack_records: int | None
    """Records that we hold and it did not when it last said. None: it never said."""

    they_lack_bytes: int | None
    we_lack_records: int | None
    we_lack_bytes: int | None
    lag_age: float | None
    """Since it last said what it holds."""

    blocked: bool


@attrs.frozen
class Problem:
    """Something a person should know of now, with what to do about it."""

    what: str
    advice: str
    level: Literal["warning", "error"]


@attrs.frozen
class MeshStatus:
    """One mesh, seen from here."""

    mesh: str
    name: str
    machine: MachineRef
    generation: int
    """Of this machine's own chains; above 1 after a copy or a restore."""

    machines: tuple[MachineStatus, ...]
    """Active members but this one."""

    records: int
    record_bytes: int
    waiting_records: int
    """In quarantine, because their clock is far ahead."""

    blobs: int
    blob_bytes: int
    fetching: int
    """Blobs on their way here."""

    problems: tuple[Problem, ...]


@attrs.frozen
class Status:
    """The daemon and all its meshes."""

    version: str
    pid: int
    node: str
    state: str
    host: str
    port: int
    engine: str
    uptime: float
    lan: bool
    """Whether machines on the local network are looked for."""

    disk_free: int
    disk_floor: int
    disk_age: float
    memory: int
    """Resident bytes of the daemon."""

    meshes: tuple[MeshStatus, ...]
    problems: tuple[Problem, ...]
    """Of the machine as a whole."""


@attrs.frozen
class ViewDigest:
    """One hash over the content of a view: equal on two machines when they show the same."""

    view: str
    digest: str


@attrs.frozen
class Digests:
    """All views of a mesh, in a fixed order."""

    mesh: str
    views: tuple[ViewDigest, ...]


@attrs.frozen
class EventsEnd:
    """All events that were kept have been told."""

    told: int


@attrs.frozen
class BackedUp:
    """One file holds this machine's keys and meshes: a secret, and mode 0600."""

    path: str
    size: int
    meshes: int
    blobs: bool


@attrs.frozen
class Setting:
    """One setting as the daemon uses it. `source` says what decided."""

    key: str
    value: str
    source: Literal["default", "file", "environment", "option"]


@attrs.frozen
class Configuration:
    """All settings, and the file that they were read from, whether or not it exists."""

    path: str
    settings: tuple[Setting, ...]


@attrs.frozen
class Reloaded:
    """Settings that changed. Those in `restart` are used after the next start only."""

    changed: tuple[str, ...]
    restart: tuple[str, ...]


@attrs.frozen
class Stopping:
    """The daemon with this process id closes its links and ends."""

    pid: int
