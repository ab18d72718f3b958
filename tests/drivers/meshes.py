"""Machines on a simulated network that belong to small meshes, for tests of sessions and joining."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from meshd.drivers.link import Link, PathKind
from meshd.drivers.quic import Connection, Endpoint, open_endpoint
from meshd.drivers.reception import Answer, Reception, answer_members
from meshd.drivers.session import dial_session
from meshd.model.address import Address
from meshd.model.identity import Identity, Keys, NodeId
from meshd.protocol.introduction import introduced
from tests.drivers.pairs import IDENTITY, engine
from tests.protocol.back_to_back import fixed_bytes
from tests.protocol.joining_kit import Mesh
from tests.sim.network import Host


@attrs.define
class Belonging:
    """One machine's view of a mesh (drivers/session.py, `Membership`): the records of `seen`, less whom it blocks."""

    own: Keys
    seen: Mesh
    known_secrets: list[bytes] = attrs.field(factory=lambda: [fixed_bytes("mesh secret")])
    blocked: set[NodeId] = attrs.field(factory=set)
    is_silent: bool = False
    """Shows no introduction."""

    @property
    def mesh(self) -> bytes:
        return self.seen.id

    def secrets(self) -> Sequence[bytes]:
        return self.known_secrets

    def members(self) -> Sequence[Identity]:
        active = [member.identity for member in self.seen.roster().active()]
        return [each for each in active if each.node not in self.blocked and each != self.own.identity]

    def by_noise(self, noise_key: bytes) -> Identity | None:
        return next((each for each in self.members() if each.noise_key == noise_key), None)

    def blocks(self, node: NodeId) -> bool:
        return node in self.blocked

    def introduction(self) -> Sequence[bytes]:
        path = self.seen.roster().introduction(self.own.identity.signing_key)
        return [] if self.is_silent else [record.encode() for record in self.seen.records if record.hash in path]

    def introduced(self, noise_key: bytes, signing_key: bytes, records: Sequence[bytes]) -> Identity | None:
        return introduced(self.seen.roster(), noise_key, signing_key, records)


@attrs.define
class Machine:
    """A host with its keys, an endpoint, a reception, and the links that it answered."""

    host: Host
    keys: Keys
    endpoint: Endpoint
    reception: Reception
    memberships: list[Belonging]
    links: list[Link] = attrs.field(factory=list)

    @property
    def address(self) -> Address:
        return Address(self.host.address, self.endpoint.port)

    async def connect(self, other: "Machine") -> Connection:
        return await self.endpoint.dial(other.address, timeout=5)

    async def dial(
        self, other: "Machine", *, is_linked: Callable[[NodeId], bool] = lambda node: False, mesh: int = 0
    ) -> Link:
        """A session with another machine."""
        connection = await self.connect(other)
        return await dial_session(
            connection, self.keys, self.memberships[mesh], is_linked=is_linked, path=PathKind.BY_HAND
        )


@asynccontextmanager
async def machine(
    host: Host, keys: Keys, *memberships: Belonging, used: str = "qh3", answers: bool = True
) -> AsyncIterator[Machine]:
    """A machine that runs until the block ends. Without `answers` it takes whoever comes for somebody who pairs."""
    with host:
        async with open_endpoint(engine=engine(used), identity=IDENTITY, accept=True) as endpoint:
            made = Machine(host, keys, endpoint, None, list(memberships))
            answer: Answer | None = answer_members(keys, lambda: made.memberships, made.links.append)
            made.reception = Reception(endpoint, lambda error: None, answer if answers else None)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(made.reception.run)
                yield made
                nursery.cancel_scope.cancel()
