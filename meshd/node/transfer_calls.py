"""Tables in files, and back: what is read is hashed again, whoever wrote the file.

A file is JSON by the line: first what it is, then a line a handle. Nothing in it is believed but the content itself.
"""

import json
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

import trio

from meshd.errors import RefusedError, UsageError
from meshd.model.announcement import INLINE_LIMIT, Value
from meshd.model.handle import BLOB, TREE, Handle, canonical, check_table, digest_of, parse_json
from meshd.node import questions
from meshd.node.calls import Calls
from meshd.node.handle_calls import JSON_LIMIT, SNAPSHOT_LIMIT, check_tags, value_of
from meshd.store.views import Found
from meshd.tools.context import Exported, Imported

FORMAT: Final = "tether export 1"
WAIT: Final = 10.0
"""Seconds without a byte before a value that is elsewhere is given up: the export then fails, and says which."""

TOGETHER: Final = 200
"""Values that are imported with one commit, if they are not many bytes."""

PAGE_BYTES: Final = 8 << 20
"""Bytes of values in memory at a time."""


class TransferCalls(Calls):
    """Export and import."""

    async def export_table(self, *, mesh: str | None, table: str, out: str, overwrite: bool) -> Exported:
        chosen = self.mesh(mesh)
        if table in (BLOB, TREE):
            raise UsageError(f"The table {table} holds no values.", "Write blobs with tether get.")
        check_table(table)
        path, offload = Path(out), self.node.machine.offload
        writing = await offload(partial(_Writing, path, overwrite))
        try:
            await offload(partial(writing.line, {"format": FORMAT, "table": table}))
            after, count = b"", 0
            while entries := await chosen.storage.read(
                partial(questions.page, table, after, SNAPSHOT_LIMIT, PAGE_BYTES)
            ):
                for entry in entries:
                    data = await value_of(chosen, Found(table, entry.digest), WAIT)
                    tags = await chosen.storage.read(partial(questions.tags, Found(table, entry.digest)))
                    await offload(partial(writing.row, str(Handle.of(table, entry.digest)), data, tags))
                    count += 1
                after = entries[-1].digest
            size = await offload(writing.finish)
        finally:
            with trio.CancelScope(shield=True):  # else half an export stays behind because somebody lost patience
                await offload(writing.close)
        return Exported(table, out, count, size)

    async def import_table(self, *, mesh: str | None, path: str) -> Imported:
        chosen, offload = self.mesh(mesh), self.node.machine.offload
        reading = await offload(partial(_Reading, Path(path)))
        count, new, refused = 0, 0, list[str]()
        try:
            table = check_table(reading.table)
            while lines := await offload(partial(reading.lines, TOGETHER)):
                wanted: dict[bytes, Value] = {}
                for line in lines:
                    handle = Handle.parse(str(line.get("handle", "")))
                    data = await offload(partial(canonical, line.get("value")))
                    digest = digest_of(data)
                    if handle.table != table or not digest.hex().startswith(handle.digits):
                        refused.append(str(handle))
                        continue
                    tags = line.get("tags", [])
                    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
                        raise UsageError(f"The tags of {handle} are not a list of texts.")
                    blob = None if len(data) <= INLINE_LIMIT else await chosen.blobs.add_bytes(data)
                    wanted[digest] = Value(
                        table=table, json=None if blob else data, blob=blob, tags=check_tags(tuple(tags))
                    )
                count += len(wanted)
                here = await chosen.storage.read(partial(questions.values, table, list(wanted)))
                bodies = [value for digest, value in wanted.items() if digest not in here]
                if bodies:
                    await chosen.journal.append(*bodies)
                new += len(bodies)
        finally:
            reading.close()
        if refused and not count:
            raise RefusedError(f"No handle in {path} fits its content.", "The file was changed, or made by a fault.")
        return Imported(table, count, new, tuple(refused))


class _Writing:
    """A new file under a hidden name until it is whole."""

    def __init__(self, path: Path, overwrite: bool) -> None:
        if path.exists() and not overwrite:
            raise UsageError(f"{path} exists.", "Name another file, or say --overwrite.")
        self._path, self._part = path, path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            self._file: IO[bytes] = self._part.open("xb")
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}.") from error

    def line(self, value: object) -> None:
        self._write(_dump(value))

    def row(self, handle: str, data: bytes, tags: Sequence[str]) -> None:
        """`data` is JSON already."""
        self._write(b'{"handle":%b,"value":%b,"tags":%b}' % (_dump(handle), data, _dump(list(tags))))

    def _write(self, line: bytes) -> None:
        try:
            self._file.write(line + b"\n")
        except OSError as error:
            raise RefusedError(f"{self._path} cannot be written: {error.strerror}.") from error

    def finish(self) -> int:
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            size = self._file.tell()
            self._part.replace(self._path)
        except OSError as error:
            raise RefusedError(f"{self._path} cannot be written: {error.strerror}.") from error
        return size

    def close(self) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


class _Reading:
    """A file of lines; each is bounded."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        try:
            self._file: IO[bytes] = path.open("rb")
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
        try:
            head = next(self._parsed(), {})
            if head.get("format") != FORMAT:
                raise UsageError(f"{path} is no export of a table.")
        except UsageError:
            self._file.close()
            raise
        self.table = str(head.get("table", ""))

    def lines(self, most: int) -> list[dict[str, Any]]:
        """The next ones: at most `most`, and no more than PAGE_BYTES of them, but one at least."""
        found, end = [], self._read + PAGE_BYTES
        for line in self._parsed():
            found.append(line)
            if len(found) == most or self._read >= end:
                break
        return found

    def close(self) -> None:
        self._file.close()

    def _parsed(self) -> Iterator[dict[str, Any]]:
        while line := self._file.readline(JSON_LIMIT + 1):
            if len(line) > JSON_LIMIT:
                raise UsageError(f"{self._path} has a line of more than {JSON_LIMIT:,} bytes.")
            self._read += len(line)
            try:
                value = parse_json(line)
            except UsageError as error:
                raise UsageError(f"{self._path} has a line that cannot be read. {error.what}", error.advice) from error
            if not isinstance(value, dict):
                raise UsageError(f"{self._path} has a line that is no JSON object.")
            yield value
