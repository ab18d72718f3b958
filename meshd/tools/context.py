"""What an operation may ask of the node: the seam of docs/decisions/0011, with the values that come back.

The node implements `Context`; the registry declares an operation for each method, with the same name and arguments.
Answers are plain: text, numbers, booleans, None, tuples of these, and classes of the four files of answers, so that each
goes through JSON and comes back equal. All of them can be had from here: the node imports this file and no other of tools.

A machine in an argument is a name or at least 4 characters of an id, a mesh likewise; a handle has 12 or 64 digits.

Methods raise TetherError and nothing else: UsageError for what makes no sense, NobodyFoundError for a name, handle or
mesh that is not known, TimedOutError when what was waited for did not happen, RefusedError for limits. Every `mesh` is
None where the person named none: the only mesh is meant, or UsageError names those that there are.
"""

from collections.abc import Callable
from typing import Protocol

from meshd.notices import BlobProgress, Notice, TrySpent
from meshd.tools.daemon_answers import (
    BackedUp,
    Configuration,
    Digests,
    EventsEnd,
    MachineStatus,
    Mapping,
    MemberPath,
    MeshStatus,
    Paths,
    PeerAddress,
    PeerAddresses,
    PeerChanged,
    Ping,
    Problem,
    Reloaded,
    ServerPath,
    Setting,
    Status,
    Stopping,
    ViewDigest,
)
from meshd.tools.handle_answers import (
    VALUE_LIMIT,
    Collapsed,
    Collected,
    CollectedBlob,
    Exported,
    Got,
    Imported,
    Metadata,
    Pinned,
    Put,
    Resolved,
    Row,
    Snapshot,
    TableCount,
    Tables,
    TagCount,
    Tagged,
    Tags,
)
from meshd.tools.mail_answers import (
    AgentInfo,
    AgentRef,
    Agents,
    Answered,
    Attachment,
    Closed,
    Deliveries,
    Delivery,
    Freshness,
    Inbox,
    Line,
    Message,
    Presence,
    Recipient,
    Registered,
    SearchResult,
    Sent,
    SentList,
    State,
    ThreadInfo,
    Threads,
    ThreadView,
    Waited,
    WakeTested,
)
from meshd.tools.mesh_answers import (
    Blocked,
    Founded,
    Invited,
    InviteOpened,
    Joined,
    Left,
    MachineRef,
    MemberInfo,
    Members,
    Meshes,
    MeshSummary,
    RecoveryChecked,
    Renamed,
    Revoked,
)
from meshd.tools.session import Session

__all__ = [
    "AgentInfo",
    "AgentRef",
    "Agents",
    "Answered",
    "Attachment",
    "Closed",
    "Deliveries",
    "Delivery",
    "Freshness",
    "Inbox",
    "Line",
    "Message",
    "Presence",
    "Recipient",
    "Registered",
    "SearchResult",
    "Sent",
    "SentList",
    "Session",
    "State",
    "ThreadInfo",
    "ThreadView",
    "Threads",
    "Waited",
    "WakeTested",
    "BackedUp",
    "Blocked",
    "Collapsed",
    "Collected",
    "CollectedBlob",
    "Configuration",
    "Digests",
    "EventsEnd",
    "Exported",
    "Founded",
    "Got",
    "Imported",
    "InviteOpened",
    "Invited",
    "Joined",
    "Left",
    "MachineRef",
    "MachineStatus",
    "MemberInfo",
    "Members",
    "MeshStatus",
    "MeshSummary",
    "Meshes",
    "Metadata",
    "Mapping",
    "MemberPath",
    "Paths",
    "PeerAddress",
    "PeerAddresses",
    "PeerChanged",
    "Ping",
    "Pinned",
    "Problem",
    "Put",
    "RecoveryChecked",
    "Reloaded",
    "Renamed",
    "Resolved",
    "Revoked",
    "Row",
    "ServerPath",
    "Setting",
    "Snapshot",
    "Status",
    "Stopping",
    "TableCount",
    "Tables",
    "TagCount",
    "Tagged",
    "Tags",
    "VALUE_LIMIT",
    "ViewDigest",
    "Context",
    "TellEvent",
    "TellInvite",
    "TellProgress",
    "Told",
]

Told = Notice | InviteOpened
"""What an operation may tell before it is done."""

TellInvite = Callable[[InviteOpened | TrySpent], None]
TellProgress = Callable[[BlobProgress], None]
TellEvent = Callable[[Notice, float], None]
"""With the age of the notice. All of these take what is told at once and never wait: when whoever listens is slow, the
oldest is dropped and counted."""


class Context(Protocol):
    """What operations may ask of the node. A call that is cancelled leaves nothing half done."""

    async def init(self, *, mesh: str | None, name: str | None, recovery: bool) -> Founded:
        """Found a mesh called `mesh` (None: home), this machine called `name` in it (None: its host name)."""

    async def leave(self, *, mesh: str | None) -> Left: ...

    async def mesh_list(self) -> Meshes: ...

    async def invite(self, *, mesh: str | None, seconds: float, wan: bool, tell: TellInvite) -> Invited:
        """Open a pairing window and admit who comes with its code. Tells InviteOpened first, then each spent try. With
        `wan` the number of the code is a rendezvous server's, and another InviteOpened may follow with another.

        Raises WrongPassphraseError after three, TimedOutError when nobody came; cancelling closes the window.
        """

    async def join(self, *, code: str, peer: str | None, name: str | None, seconds: float, wan: bool) -> Joined:
        """Find the window with this code, on the LAN, at `peer` or across the internet, and be admitted under `name`."""

    async def members(self, *, mesh: str | None) -> Members: ...

    async def revoke(
        self, *, mesh: str | None, machine: str, keep: tuple[str, ...], reason: str, dry_run: bool
    ) -> Revoked: ...

    async def recovery_check(self, *, mesh: str | None, words: str) -> RecoveryChecked: ...

    async def recovery_revoke(
        self, *, mesh: str | None, words: str, machine: str, keep: tuple[str, ...], reason: str, dry_run: bool
    ) -> Revoked:
        """As `revoke`, with the authority of the recovery words."""

    async def block(self, *, mesh: str | None, machine: str, reason: str) -> Blocked: ...

    async def unblock(self, *, mesh: str | None, machine: str) -> Blocked: ...

    async def rename(self, *, mesh: str | None, name: str) -> Renamed: ...

    async def peer_add(self, *, mesh: str | None, address: str) -> PeerChanged: ...

    async def peer_remove(self, *, mesh: str | None, address: str) -> PeerChanged: ...

    async def peer_list(self, *, mesh: str | None) -> PeerAddresses: ...

    async def ping(self, *, mesh: str | None, machine: str, count: int) -> Ping:
        """Raises NobodyFoundError when the machine is not linked, TimedOutError when it does not answer."""

    async def status(self, *, mesh: str | None) -> Status:
        """With no mesh named, all of them. Answers at once, from what is known."""

    async def doctor_paths(self, *, mesh: str | None) -> Paths: ...

    async def digest(self, *, mesh: str | None) -> Digests: ...

    async def events(self, *, mesh: str | None, follow: bool, tell: TellEvent) -> EventsEnd:
        """Tell the last events that are kept in memory, then, with `follow`, each new one until cancelled."""

    async def collapse(
        self, *, mesh: str | None, json: str | None, path: str | None, table: str, tags: tuple[str, ...], ttl: int
    ) -> Collapsed:
        """Exactly one of `json` and `path`, a file of JSON, is given. `ttl` 0 means for ever."""

    async def resolve(self, *, mesh: str | None, handle: str, shallow: bool, wait: float) -> Resolved:
        """A value gives itself; a tree the list of what its children give, or with `shallow` their full handles; a blob
        in a tree its full handle, and alone UsageError. Waits for content that is elsewhere up to `wait`."""

    async def put(
        self,
        *,
        mesh: str | None,
        path: str,
        name: str | None,
        content_type: str | None,
        machines: tuple[str, ...],
        tags: tuple[str, ...],
        ttl: int,
        wait: float,
    ) -> Put:
        """`machines` fetch and pin it at once; up to `wait` this call waits for their word that they hold it."""

    async def get(
        self,
        *,
        mesh: str | None,
        handle: str,
        out: str,
        overwrite: bool,
        accept: tuple[str, ...],
        wait: float,
        tell: TellProgress,
    ) -> Got:
        """Write a blob to the file, or a directory to the directory, `out`. `wait` counts while nothing moves."""

    async def tree(
        self, *, mesh: str | None, handles: tuple[str, ...], tags: tuple[str, ...], ttl: int
    ) -> Collapsed: ...

    async def metadata(self, *, mesh: str | None, handle: str) -> Metadata: ...

    async def tables(self, *, mesh: str | None) -> Tables: ...

    async def snapshot(
        self, *, mesh: str | None, table: str, tag: str | None, limit: int, after: str | None
    ) -> Snapshot: ...

    async def tags(self, *, mesh: str | None) -> Tags: ...

    async def tag(self, *, mesh: str | None, handle: str, add: tuple[str, ...], remove: tuple[str, ...]) -> Tagged: ...

    async def pin(self, *, mesh: str | None, handle: str, wait: float, tell: TellProgress) -> Pinned: ...

    async def unpin(self, *, mesh: str | None, handle: str) -> Pinned: ...

    async def gc(self, *, mesh: str | None, dry_run: bool) -> Collected: ...

    async def export_table(self, *, mesh: str | None, table: str, out: str, overwrite: bool) -> Exported: ...

    async def import_table(self, *, mesh: str | None, path: str) -> Imported: ...

    async def agent_register(
        self,
        *,
        mesh: str | None,
        name: str,
        label: str | None,
        tags: tuple[str, ...],
        capabilities: tuple[str, ...],
        status: str | None,
        bind: bool,
        session: Session,
    ) -> Registered:
        """Raises RefusedError where `bind` meets another connection's name, or a second one for this connection."""

    async def agent_remove(self, *, mesh: str | None, agent: str, session: Session) -> Registered: ...

    async def who(self, *, mesh: str | None, to: str | None) -> Agents: ...

    async def send(
        self,
        *,
        mesh: str | None,
        to: str,
        subject: str,
        text: str,
        sender: str | None,
        attach: tuple[str, ...],
        tags: tuple[str, ...],
        ttl: int,
        ticket: str | None,
        thread: str | None,
        reply_to: str | None,
        key: str | None,
        wait: float,
        session: Session,
    ) -> Sent:
        """Durable when it returns. `sender` None: the session's agent, or `user`; another than the session's is refused.
        So is one that another session is bound to. In `attach` are handles, or paths that are put first."""

    async def sent(
        self,
        *,
        mesh: str | None,
        handle: str | None,
        agent: str | None,
        limit: int,
        after: str | None,
        session: Session,
    ) -> SentList: ...

    async def inbox(
        self,
        *,
        mesh: str | None,
        agent: str | None,
        unread: bool,
        include_closed: bool,
        tag: str | None,
        limit: int,
        after: str | None,
        session: Session,
    ) -> Inbox:
        """`agent` None: the session's, or `user`; a bound session may name no other."""

    async def receive(
        self, *, mesh: str | None, handle: str, agent: str | None, peek: bool, session: Session
    ) -> Message:
        """Raises RefusedError for who is neither its sender nor its reader, NobodyFoundError for one that is not here."""

    async def close(
        self,
        *,
        mesh: str | None,
        handle: str | None,
        ticket: str | None,
        status: str,
        reason: str,
        agent: str | None,
        session: Session,
    ) -> Closed:
        """Exactly one of `handle` and `ticket` is given."""

    async def thread(self, *, mesh: str | None, of: str, agent: str | None, session: Session) -> ThreadView: ...

    async def threads(self, *, mesh: str | None) -> Threads: ...

    async def thread_create(self, *, mesh: str | None, name: str, description: str) -> ThreadInfo: ...

    async def search(
        self, *, mesh: str | None, query: str, agent: str | None, limit: int, session: Session
    ) -> SearchResult: ...

    async def wait(
        self, *, mesh: str | None, agent: str | None, seconds: float, after: str | None, session: Session
    ) -> Waited:
        """Raises TimedOutError when no unread mail came within `seconds`."""

    async def ask(
        self,
        *,
        mesh: str | None,
        to: str,
        subject: str,
        text: str,
        sender: str | None,
        attach: tuple[str, ...],
        seconds: float,
        queue: bool,
        key: str | None,
        session: Session,
    ) -> Answered: ...

    async def delivery_status(self, *, mesh: str | None, agent: str | None) -> Deliveries: ...

    async def delivery_pause(self, *, mesh: str | None, agent: str | None) -> Deliveries: ...

    async def delivery_resume(self, *, mesh: str | None, agent: str | None) -> Deliveries: ...

    async def delivery_test(self, *, mesh: str | None, agent: str, now: bool) -> WakeTested: ...

    async def delivery_tmux(
        self, *, mesh: str | None, agent: str, socket: str | None, pane: str | None
    ) -> Deliveries: ...

    async def delivery_exec(self, *, mesh: str | None, agent: str, argv: tuple[str, ...]) -> Deliveries: ...

    async def delivery_off(self, *, mesh: str | None, agent: str) -> Deliveries: ...

    async def backup(self, *, out: str, blobs: bool, overwrite: bool) -> BackedUp: ...

    async def config(self) -> Configuration: ...

    async def reload(self) -> Reloaded:
        """Read the settings again. A fault in the file is a UsageError, and all stays as it was."""

    async def stop(self) -> Stopping: ...
