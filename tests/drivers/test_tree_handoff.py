"""A tree from disk to disk through the transfer driver, over a stream in memory: what only `finish` finds out."""

from pathlib import Path

import trio
from trio.testing import memory_stream_pair

from meshd import status
from meshd.drivers.payload import Report
from meshd.drivers.threads import inline
from meshd.drivers.transfer import Outcome, receive_payload, send_payload
from meshd.drivers.tree_sink import TreeSink
from meshd.drivers.tree_source import TreeSource


class LateSink(TreeSink):
    """A sink beside which a file appears after all has arrived and before it has its names."""

    taken: Path

    def finish(self) -> Report:
        self.taken.write_text("mine")
        return super().finish()


class Open:
    """As much of a connection as a receiver into a tree asks for: none of it."""


async def test_a_late_refusal_reaches_the_sender_before_it_is_told_that_all_is_stored(tmp_path: Path) -> None:
    into, sent = tmp_path / "into", tmp_path / "sent"
    for directory in (into, sent):
        directory.mkdir()
    for name in ("first", "late", "other"):
        (sent / name).write_text(name)
    (into / "first").write_text("mine")
    source = TreeSource([sent / name for name in ("first", "late", "other")])
    sink = LateSink(into)
    sink.taken = into / "late"
    said: dict[str, list[status.Event]] = {"send": [], "receive": []}
    outcomes: dict[str, Outcome] = {}
    near, far = memory_stream_pair()

    async def send() -> None:
        outcomes["send"] = await send_payload(near, source, source.scan(), said["send"].append, inline, 30.0)

    async def receive() -> None:
        outcomes["receive"] = await receive_payload(Open(), far, sink, said["receive"].append, inline)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(receive)
    reason = "a file of that name is already here"
    for side in ("send", "receive"):
        assert (outcomes[side].entries, outcomes[side].size, outcomes[side].refused) == (1, len("other"), 2)
        refused = [(event.path, event.reason) for event in said[side] if isinstance(event, status.EntryRefused)]
        assert refused == [("first", reason), ("late", reason)], side
    assert {path.name: path.read_text() for path in into.iterdir()} == {
        "first": "mine",
        "late": "mine",
        "other": "other",
    }
