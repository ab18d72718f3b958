"""What a roster is made of and what comes out of it, as values. The rules are in authority.py, the face in roster.py."""

import enum

import attrs

from meshd.model.facts import Fact, Sealed
from meshd.model.identity import Identity, NodeId
from meshd.model.record import Log, LogId, Record


@attrs.frozen
class RosterRecord:
    """One record of a roster log, authentic and of this mesh: its decoder and `Record.is_authentic` saw to that.

    What a program does not know the type of, it leaves out.
    """

    hash: bytes
    author: bytes
    """Ed25519 public key: a member's, or that of the recovery words."""

    generation: int
    sequence: int
    fact: Fact

    @classmethod
    def of(cls, record: Record, fact: Fact) -> "RosterRecord":
        """`fact` is what the body of `record` says."""
        header = record.header
        return cls(record.hash, header.author, header.generation, header.sequence, fact)

    @property
    def chain(self) -> LogId:
        return LogId(self.author, Log.ROSTER, self.generation)

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands among its author's: a later one is greater."""
        return self.generation, self.sequence


class Standing(enum.Enum):
    """What a machine is to the mesh."""

    ACTIVE = "active"
    REVOKED = "revoked"
    """Out for good."""

    SUSPENDED = "suspended"
    """Whoever it came in by was revoked, and it was not kept. It is nobody's peer until it is kept or admitted anew."""


@attrs.frozen(kw_only=True)
class Member:
    """A machine that was admitted, whatever became of it."""

    identity: Identity
    name: str
    """What it calls itself, else what it was admitted as."""

    standing: Standing
    parent: bytes | None
    """Signing key of the machine whose admission counts; None for the founder."""

    depth: int
    """Steps from the founder, which has 0."""

    admission: bytes
    """Hash of the admission that counts; for the founder, of the founding record."""

    revocation: bytes | None = None
    """Hash of the revocation that counts."""

    revoked_by: bytes | None = None
    """Who wrote that: the recovery key, one above, or the machine itself."""

    reason: str = ""

    @property
    def signing_key(self) -> bytes:
        return self.identity.signing_key

    @property
    def node(self) -> NodeId:
        return self.identity.node

    @property
    def is_active(self) -> bool:
        return self.standing is Standing.ACTIVE


@attrs.frozen(kw_only=True)
class MeshSecret:
    """A `roster.secret` that counts. Author, generation and sequence are what its boxes are bound to."""

    hash: bytes
    number: int
    author: bytes
    generation: int
    sequence: int
    sealed: tuple[Sealed, ...]

    def box_for(self, signing_key: bytes) -> bytes | None:
        """The box of one member, if it got one."""
        return next((each.box for each in self.sealed if each.signing_key == signing_key), None)


@attrs.frozen(kw_only=True)
class ForkedChain:
    """An author gave one number twice: from there on the chain does not count."""

    chain: LogId
    sequence: int
    """The first number that is known to be double."""

    carried: bool
    """Whether a record that counts holds the proof. If not, a member that holds it writes it again: who comes later is
    given no void records, and would not learn of it."""


@attrs.frozen(kw_only=True)
class Clash:
    """An admission that was refused because its Noise key belongs to another machine already."""

    admission: bytes
    """Hash of the refused admission."""

    admitter: bytes
    """Signing key of who wrote it."""

    newcomer: bytes
    """Signing key of who would have come in by it."""

    holder: bytes
    """Signing key of the machine that has the Noise key."""
