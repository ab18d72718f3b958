"""Bodies of roster records: what is known about who belongs to a mesh. docs/protocol/membership.md.

Sizes are checked as the values are made, so that decoding checks them too.
"""

from typing import Final

import attrs

from meshd.model.bounds import each, number, size
from meshd.model.identity import KEY_SIZE, SIGNATURE_SIZE, Context, Identity, Keys, is_signed
from meshd.model.name import NAME_LIMIT
from meshd.model.record import HASH_SIZE

CUTS_LIMIT: Final = 1024
"""Chains that one revocation may name: two a generation, and a machine has few generations."""

MEMBERS_LIMIT: Final = 1000
"""Machines in one mesh: far beyond a developer's, and small enough to fold in a moment."""

SEALED_LIMIT: Final = 160
"""Most bytes of a mesh secret sealed to one member."""

FORK_LIMIT: Final = 1024
"""Most bytes of one side of a fork proof: a header and its signature."""

COUNTER_LIMIT: Final = (1 << 63) - 1
"""Generations, sequence numbers and secrets are counted up to here."""

REASON_LIMIT: Final = 500
"""Most characters of a reason."""


_KEY = size(KEY_SIZE, KEY_SIZE)
_HASH = size(HASH_SIZE, HASH_SIZE)
_SIGNATURE = size(SIGNATURE_SIZE, SIGNATURE_SIZE)


@attrs.frozen(kw_only=True)
class Found:
    """`roster.found`: the first record of a mesh. Its hash is the mesh id."""

    mesh_name: str = attrs.field(validator=size(0, NAME_LIMIT))
    name: str = attrs.field(validator=size(0, NAME_LIMIT))
    """What the founder's machine is called."""

    noise_key: bytes = attrs.field(validator=_KEY)
    binding: bytes = attrs.field(validator=_SIGNATURE)
    recovery_key: bytes = attrs.field(validator=size(0, KEY_SIZE))
    """Ed25519 public key of the recovery words, or empty."""

    nonce: bytes = attrs.field(validator=_KEY)
    """Random, so that two meshes of one name and founder differ."""


@attrs.frozen(kw_only=True)
class Admit:
    """`roster.admit`: the author takes a machine into the mesh and becomes its parent."""

    signing_key: bytes = attrs.field(validator=_KEY)
    noise_key: bytes = attrs.field(validator=_KEY)
    binding: bytes = attrs.field(validator=_SIGNATURE)
    name: str = attrs.field(validator=size(0, NAME_LIMIT))
    countersignature: bytes = attrs.field(validator=_SIGNATURE)
    """The newcomer's own, over the mesh, the admitter and all of the above: nobody is admitted unasked."""

    @property
    def identity(self) -> Identity:
        return Identity(self.signing_key, self.noise_key, self.binding)

    def is_countersigned(self, mesh: bytes, admitter: bytes) -> bool:
        """Whether the newcomer agreed to just this admission, and its keys belong together."""
        fields = admission_fields(mesh, admitter, self.identity, self.name)
        return self.identity.is_bound() and is_signed(
            self.signing_key, self.countersignature, Context.ADMISSION, *fields
        )


def admission_fields(mesh: bytes, admitter: bytes, newcomer: Identity, name: str) -> tuple[bytes, ...]:
    """What a newcomer signs to be admitted; `admitter` is the Ed25519 public key of who admits."""
    return mesh, admitter, newcomer.signing_key, newcomer.noise_key, newcomer.binding, name.encode()


def countersign(keys: Keys, mesh: bytes, admitter: bytes, name: str) -> Admit:
    """The admission of the machine that holds `keys`, with its consent."""
    me = keys.identity
    signature = keys.sign(Context.ADMISSION, *admission_fields(mesh, admitter, me, name))
    return Admit(
        signing_key=me.signing_key,
        noise_key=me.noise_key,
        binding=me.binding,
        name=name,
        countersignature=signature,
    )


@attrs.frozen
class Cut:
    """The last record of one chain of the revoked that still counts."""

    log: int = attrs.field(validator=number(0, 1))
    generation: int = attrs.field(validator=number(1, COUNTER_LIMIT))
    sequence: int = attrs.field(validator=number(1, COUNTER_LIMIT))
    hash: bytes = attrs.field(validator=_HASH)


@attrs.frozen(kw_only=True)
class Revoke:
    """`roster.revoke`: a machine and both its keys are out for good. Chains that are not named are void as a whole."""

    signing_key: bytes = attrs.field(validator=_KEY)
    cuts: tuple[Cut, ...] = attrs.field(validator=size(0, CUTS_LIMIT))
    keep: tuple[bytes, ...] = attrs.field(validator=each(MEMBERS_LIMIT, _KEY))
    """Signing keys of its children that stay; the others are suspended."""

    reason: str = attrs.field(validator=size(0, REASON_LIMIT))


@attrs.frozen
class Sealed:
    """A mesh secret for one member, sealed to its Noise key (protocol/sealing.py)."""

    signing_key: bytes = attrs.field(validator=_KEY)
    box: bytes = attrs.field(validator=size(0, SEALED_LIMIT))


@attrs.frozen(kw_only=True)
class Secret:
    """`roster.secret`: a new mesh secret, after a revocation or when concurrent ones are brought together."""

    number: int = attrs.field(validator=number(2, COUNTER_LIMIT))
    """One more than the highest that its author knew; the founder's first, which is in no record, is 1."""

    replaces: tuple[bytes, ...] = attrs.field(validator=each(CUTS_LIMIT, _HASH))
    """Hashes of the secret records that it supersedes."""

    sealed: tuple[Sealed, ...] = attrs.field(validator=size(0, MEMBERS_LIMIT))


@attrs.frozen
class Rename:
    """`roster.name`: what the author's machine is called from here on."""

    name: str = attrs.field(validator=size(0, NAME_LIMIT))


@attrs.frozen
class Distrust:
    """`roster.distrust`: the author has blocked a machine on its own. It tells people elsewhere and has no force."""

    signing_key: bytes = attrs.field(validator=_KEY)
    reason: str = attrs.field(validator=size(0, REASON_LIMIT))
    lifted: bool


@attrs.frozen
class Fork:
    """`roster.fork`: two records of one author with one number, each a record's encoding without its body."""

    one: bytes = attrs.field(validator=size(0, FORK_LIMIT))
    other: bytes = attrs.field(validator=size(0, FORK_LIMIT))


Fact = Found | Admit | Revoke | Secret | Rename | Distrust | Fork
