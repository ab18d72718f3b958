"""What this machine keeps of a mesh's blobs without being asked each time: those addressed to it, and what its policy says."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from meshd.drivers.blob_files import Collected
from meshd.errors import RefusedError, StoreError, TetherError
from meshd.model.announcement import Held
from meshd.model.handle import BLOB
from meshd.model.identity import NodeId
from meshd.node import content
from meshd.notices import Trouble
from meshd.store.database import Database
from meshd.store.views import Found

if TYPE_CHECKING:
    from meshd.node.mesh import Mesh

ADDRESSED_AT_ONCE: Final = 32
"""Blobs addressed to us that are looked for side by side; how many move at once, drivers/fetching.py decides."""

PAGE: Final = 256
"""Blobs looked at together under the policy `all`."""

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
        self._room = trio.CapacityLimiter(ADDRESSED_AT_ONCE)
        self.next_news = trio.Event()
        """Set, and replaced, when records have been stored."""

    def news(self) -> None:
        """Records have been stored: perhaps one names a blob for us."""
        self.next_news.set()
        self.next_news = trio.Event()

    async def run(self) -> None:
        """Fetch what is addressed to us, and what the policy wants, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tend)
            while True:
                news = self.next_news
                for digest, addressed in (await self._wanted()).items():
                    if digest not in self._busy:
                        self._busy.add(digest)
                        nursery.start_soon(self._keep, digest, addressed)
                await news.wait()

    async def collect(self, dry_run: bool) -> Collected:
        """Drop what nothing names any more; then, beyond the size cap, or under the policy `pinned`, what others announced.

        What is pinned stays, and what this machine announced itself: nobody else may have it.
        """
        mesh, settings = self._mesh, self._mesh.machine.settings
        held = [blob.digest for blob in (await mesh.blobs.collect(dry_run=True, grace=GRACE)).blobs]
        node = mesh.machine.keys.identity.node
        named = await mesh.storage.read(partial(_announcers, held))
        unnamed = await mesh.blobs.collect(dry_run=dry_run, keep=lambda digest: digest in named, grace=GRACE)
        if settings.blob_policy == "pinned":
            cap = 0
        elif settings.blob_cap is not None:
            cap = settings.blob_cap
        else:
            return unnamed
        gone = {blob.digest for blob in unnamed.blobs}

        def stays(digest: bytes) -> bool:
            return digest in gone or node in named.get(digest, ())

        others = await mesh.blobs.collect(dry_run=dry_run, keep=stays, cap=cap, grace=GRACE)
        return Collected((*unnamed.blobs, *others.blobs), unnamed.partials)

    async def _tend(self) -> None:
        while True:
            await trio.sleep(TEND_EVERY)
            await self.collect(dry_run=False)

    async def _wanted(self) -> dict[bytes, bool]:
        """Digests to have here, and whether each is addressed to us."""
        mesh, node = self._mesh, self._mesh.machine.keys.identity.node
        if not mesh.is_in:
            return {}
        addressed = await mesh.storage.read(
            lambda database: database.handles.addressed_to(node, limit=ADDRESSED_AT_ONCE)
        )
        wanted = {blob.ref.digest: True for blob in addressed}
        if mesh.machine.settings.blob_policy == "all":
            announced = await mesh.storage.read(_all_blobs)
            cap = mesh.machine.settings.blob_cap
            room = None if cap is None else cap - (await mesh.blobs.usage()).usage.size
            if room is None or room > 0:
                for digest in (await mesh.blobs.missing(announced))[:ADDRESSED_AT_ONCE]:
                    wanted.setdefault(digest, False)
        return wanted

    async def _keep(self, digest: bytes, addressed: bool) -> None:
        mesh = self._mesh
        try:
            async with self._room:
                if addressed:
                    await mesh.blobs.pin(digest)  # first: what is pinned is not collected while it comes
                ref, _ = await content.bring_all(mesh, Found(BLOB, digest), wait=AGAIN)
                if addressed:
                    await mesh.journal.append(Held(digest=digest, size=ref.size))
        except StoreError as error:
            mesh.machine.notify(Trouble(error.what, error.advice, "error"))
            await trio.sleep(AGAIN)
        except RefusedError as error:
            if addressed:
                mesh.machine.notify(Trouble(error.what, error.advice, "warning"))
            await trio.sleep(AGAIN)
        except TetherError:
            await trio.sleep(AGAIN)  # nobody who has it is linked
        finally:
            self._busy.discard(digest)
            self.news()


def _announcers(digests: Sequence[bytes], database: Database) -> dict[bytes, tuple[NodeId, ...]]:
    """Who announces each of these blobs; those that nobody does are left out."""
    found = {}
    for digest in digests:
        said = [
            database.handles.metadata(each.table, each.digest, now_ms=0)
            for each in database.handles.find(None, digest.hex())
        ]
        nodes = tuple(node for each in said if each is not None for node in each.announcers)
        if nodes:
            found[digest] = nodes
    return found


def _all_blobs(database: Database) -> list[bytes]:
    found: list[bytes] = []
    while page := database.handles.digests_in(BLOB, after=found[-1] if found else b"", limit=PAGE):
        found += page
    return found
