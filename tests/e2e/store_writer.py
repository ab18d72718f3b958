"""A process that writes records until it is killed, and says of each on standard output when it is durable.

    python -m tests.e2e.store_writer DATABASE FIRST_AUTHOR AUTHORS

Each line: author's number, sequence, hash. Several authors write at once, so that commits are shared.
"""

import os
import sys
from pathlib import Path

import trio

from meshd.drivers.storage import Storage, open_storage
from meshd.store.database import Database
from tests.store.kit import Author, value


async def write_on(storage: Storage, number: int) -> None:
    author = Author(number)
    head = await storage.read(lambda database: database.records.head(author.data))
    if head is not None:
        author.heads[author.data] = head
        author.now += head.sequence
    while True:
        sequence = author.heads[author.data].sequence + 1 if author.heads else 1
        body = value({"author": number, "sequence": sequence, "bulk": "x" * (sequence % 7 * 300)}, tags=("t",))
        record = author.say(body)

        def keep(database: Database, record=record, body=body) -> None:
            assert database.records.insert(record, age_ms=0, now_ms=0)
            assert database.handles.fold(record, body)

        await storage.write(keep)
        os.write(1, f"{number} {sequence} {record.hash.hex()}\n".encode())


async def main(path: Path, authors: range) -> None:
    async with open_storage(path) as storage, trio.open_nursery() as nursery:
        for number in authors:
            nursery.start_soon(write_on, storage, number)


if __name__ == "__main__":
    first, count = int(sys.argv[2]), int(sys.argv[3])
    trio.run(main, Path(sys.argv[1]), range(first, first + count))
