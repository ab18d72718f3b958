"""What this machine keeps of a mesh's blobs without being asked each time: those addressed to it, and what its policy says."""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from meshd.drivers.blob_files import Collected
from meshd.errors import RefusedError, StoreError, TetherError
from meshd.model.announcement import Held
from meshd.model.handle import BLOB
from meshd.model.identity import NodeId
from meshd.model.record import Log, Record
from meshd.node import content
from meshd.notices import Trouble
from meshd.store.database import Database
from meshd.store.views import Found

if TYPE_CHECKING:
    from meshd.node.mesh import Mesh

AT_ONCE: Final = 32
"""Blobs that are looked for side by side; how many move at once, drivers/fetching.py decides."""

LOOKED_AT: Final = 1024
"""Wanted blobs that are looked at together. Who addresses more than that to us in vain hides later ones."""

LATEST: Final = 128
"""Of what was announced last, so much is looked at first under the policy `all`: it need not wait for its turn behind
thousands whose only holder is away."""

LOOK_PAUSE: Final = 0.5
"""Seconds between two looks, however fast records come: a look reads an index."""

PATIENCE: Final = 20.0
"""Seconds without a byte before a blob makes room for another: nobody who has it is linked."""

LOOK_ANYWAY: Final = 300.0
"""Seconds between two looks in any case: what leaves quarantine is no news."""

AGAIN: Final = 60.0
"""Seconds until what could not be kept is tried again: its holder may be linked then, or there may be room."""

TEND_EVERY: Final = 3600.0
"""Seconds between two looks for blobs that may go."""

GRACE: Final = 3600.0
"""Seconds that a new blob is spared: a `put` announces it only once all of it is here."""


class Keeping:
    """One mesh's. `run` it for as long as the mesh is open."""

    def __init__(self, mesh: "Mesh") -> None:
        self._mesh = mesh
        self._busy: set[bytes] = set()
        self._failed: dict[bytes, float] = {}
        """When a blob that is wanted was last looked for in vain."""
        self._after = b""
        """Under the policy `all`: where the walk over what is not here has come."""
        self._look = trio.Event()
        self.next_news = trio.Event()
        """Set, and replaced, when records have been stored."""

    def news(self, records: Sequence[Record]) -> None:
        """Records have been stored: perhaps one names a blob for us."""
        self.next_news.set()
        self.next_news = trio.Event()
        if any(record.header.log is Log.DATA for record in records):
            self._look.set()

    def look(self) -> None:
        """What is wanted here may have changed by other means: the settings, or the roster."""
        self._look.set()

    async def run(self) -> None:
        """Fetch what is addressed to us, and what the policy wants, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tend)
            while True:
                self._look = trio.Event()
                try:
                    again = await self._begin(nursery)
                except StoreError as error:
                    self._mesh.machine.notify(Trouble(error.what, error.advice, "error"))
                    again = trio.current_time() + AGAIN
                await trio.sleep(LOOK_PAUSE)
                with trio.move_on_at(min(again, trio.current_time() + LOOK_ANYWAY)):
                    await self._look.wait()

    async def collect(self, dry_run: bool) -> Collected:
        """Drop what nothing names any more; then, beyond the size cap, or under the policy `pinned`, what others announced.

        What is pinned stays, and what this machine announced itself: nobody else may have it. Raises RefusedError while
        this machine is out of the mesh: what it announced does not count then, and may do so again.
        """
        mesh, settings = self._mesh, self._mesh.machine.settings
        if not mesh.is_in:
            raise RefusedError("This machine is not in the mesh now: which of its blobs are needed cannot be told.")
        may_go = {blob.digest for blob in (await mesh.blobs.collect(dry_run=True, grace=GRACE)).blobs}
        node = mesh.machine.keys.identity.node
        named = await mesh.storage.read(partial(_announcers, may_go))

        def is_named(digest: bytes) -> bool:
            # What may go only since that was asked has not been looked up: it stays until the next time.
            return digest not in may_go or digest in named

        unnamed = await mesh.blobs.collect(dry_run=dry_run, keep=is_named, grace=GRACE)
        if settings.blob_policy == "pinned":
            cap = 0
        elif settings.blob_cap is not None:
            cap = settings.blob_cap
        else:
            return unnamed
        gone = {blob.digest for blob in unnamed.blobs}

        def stays(digest: bytes) -> bool:
            return digest not in may_go or digest in gone or node in named.get(digest, ())

        others = await mesh.blobs.collect(dry_run=dry_run, keep=stays, cap=cap, grace=GRACE)
        return Collected((*unnamed.blobs, *others.blobs), unnamed.partials)

    async def _tend(self) -> None:
        while True:
            await trio.sleep(TEND_EVERY)
            try:
                if self._mesh.is_in:
                    await self.collect(dry_run=False)
            except RefusedError as error:
                self._mesh.machine.notify(Trouble(error.what, error.advice, "error"))

    async def _begin(self, nursery: trio.Nursery) -> float:
        """Look for as many wanted blobs as there is room for; returns when those that failed are due again."""
        wanted, now = await self._wanted(), trio.current_time()
        self._failed = {digest: when for digest, when in self._failed.items() if digest in wanted}
        # New ones first, then those that failed longest ago: names of what does not exist hold up nothing else for long.
        waiting = sorted(
            (digest for digest in wanted if digest not in self._busy),
            key=lambda digest: self._failed.get(digest, -math.inf),
        )
        for digest in waiting:
            due = self._failed.get(digest, -math.inf) + AGAIN
            if due > now:
                return due
            if len(self._busy) >= AT_ONCE:
                break  # the next that is done looks again
            self._busy.add(digest)
            nursery.start_soon(self._keep, digest, wanted[digest])
        return math.inf

    async def _wanted(self) -> dict[bytes, bool]:
        """Digests to have here, and whether each is addressed to us."""
        mesh, node = self._mesh, self._mesh.machine.keys.identity.node
        if not mesh.is_in:
            return {}
        addressed = await mesh.storage.read(lambda database: database.handles.addressed_to(node, limit=LOOKED_AT))
        wanted = {blob.ref.digest: True for blob in addressed}
        if mesh.machine.settings.blob_policy == "all":
            cap = mesh.machine.settings.blob_cap
            room = math.inf if cap is None else cap - (await mesh.blobs.usage()).usage.size
            for digest, size in await self._absent():
                # What does not fit would be the next to go, and come again, for ever.
                if digest not in wanted and room > 0 and size <= room:
                    wanted[digest] = False
                    room -= size
        return wanted

    async def _absent(self) -> list[tuple[bytes, int]]:
        """Some of what is announced and not here: the latest, and a page of the walk over all of it."""
        after = self._after
        read = self._mesh.storage.read
        latest = await read(lambda database: database.handles.latest_absent(limit=LATEST))
        page = await read(lambda database: database.handles.absent(after=after, limit=LOOKED_AT))
        tried = self._failed.keys() | self._busy
        if all(digest in tried for digest, _ in page):
            # Each of these has had its turn; on with the next page, or from the beginning.
            self._after = page[-1][0] if len(page) == LOOKED_AT else b""
        return [*latest, *page]

    async def _keep(self, digest: bytes, addressed: bool) -> None:
        mesh = self._mesh
        try:
            if addressed:
                await mesh.blobs.pin(digest)  # first: what is pinned is not collected while it comes
            ref, _ = await content.bring_all(mesh, Found(BLOB, digest), wait=PATIENCE)
            if addressed:
                await mesh.journal.append(Held(digest=digest, size=ref.size))
        except TetherError as error:
            is_news = digest not in self._failed
            self._failed[digest] = trio.current_time()
            # That nobody who has it is linked is no trouble, and what is wrong is said once.
            if is_news and isinstance(error, RefusedError) and (addressed or isinstance(error, StoreError)):
                mesh.machine.notify(Trouble(error.what, error.advice, "warning"))
        finally:
            self._busy.discard(digest)
            self._look.set()


def _announcers(digests: Iterable[bytes], database: Database) -> Mapping[bytes, set[NodeId]]:
    """Who announces each of these blobs; those that nobody does are left out."""
    found = {digest: database.handles.announcers(digest) for digest in digests}
    return {digest: nodes for digest, nodes in found.items() if nodes}
