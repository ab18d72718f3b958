"""Mail that a test makes, for what tells of it."""

from collections.abc import Sequence

import attrs
import trio


@attrs.frozen
class Letter:
    hash: bytes
    handle: str


class FakeMail:
    """Mail that a test makes."""

    def __init__(self) -> None:
        self.changed = trio.Event()
        self.boxes: dict[str, list[bytes]] = {"codex": []}
        self.noted: list[tuple[str, tuple[bytes, ...]]] = []
        self.fault: Exception | None = None

    def arrive(self, agent: str, *letters: bytes) -> None:
        self.boxes.setdefault(agent, []).extend(letters)
        self.change()

    def read(self, agent: str, *letters: bytes) -> None:
        self.boxes[agent] = [each for each in self.boxes[agent] if each not in letters]
        self.change()

    def change(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def local_agents(self) -> list[str]:
        await trio.lowlevel.checkpoint()
        return list(self.boxes)

    async def unread(self, agent: str) -> list[Letter]:
        await trio.lowlevel.checkpoint()
        return [Letter(each, f"h&l_messages_{each.hex()[:12]}") for each in self.boxes.get(agent, [])]

    async def note_notified(self, agent: str, letters: Sequence[bytes]) -> None:
        await trio.lowlevel.checkpoint()
        if self.fault is not None:
            raise self.fault
        self.noted.append((agent, tuple(letters)))
