"""What one mesh gives to sessions and links: who may talk with us, and what we show of ourselves."""

from collections.abc import Callable, Collection, Sequence

from meshd.model.identity import Identity, Keys, NodeId
from meshd.model.roster import Roster
from meshd.protocol import introduction


class MeshMembership:
    """A `Membership` (drivers/session.py) over the roster as it is at the time of the call.

    `roster` gives that; `secrets` all mesh secrets held, newest first; `blocked` whom the person here blocks; `path` the
    encoded admissions from the founder to us.
    """

    def __init__(
        self,
        keys: Keys,
        roster: Callable[[], Roster],
        secrets: Callable[[], Sequence[bytes]],
        blocked: Callable[[], Collection[NodeId]],
        path: Callable[[], Sequence[bytes]],
    ) -> None:
        self._keys, self._roster, self._secrets, self._blocked, self._path = keys, roster, secrets, blocked, path

    @property
    def mesh(self) -> bytes:
        return self._roster().mesh

    def secrets(self) -> Sequence[bytes]:
        return self._secrets()

    def members(self) -> Sequence[Identity]:
        blocked = self._blocked()
        return [
            member.identity
            for member in self._roster().active()
            if member.node not in blocked and member.signing_key != self._keys.identity.signing_key
        ]

    def by_noise(self, noise_key: bytes) -> Identity | None:
        member = self._roster().by_noise(noise_key)
        if member is None or not member.is_active or member.node in self._blocked():
            return None
        return None if member.signing_key == self._keys.identity.signing_key else member.identity

    def blocks(self, node: NodeId) -> bool:
        return node in self._blocked()

    def introduction(self) -> Sequence[bytes]:
        return self._path()

    def introduced(self, noise_key: bytes, signing_key: bytes, records: Sequence[bytes]) -> Identity | None:
        found = introduction.introduced(self._roster(), noise_key, signing_key, records)
        return None if found is None or found.node in self._blocked() else found
