"""Directories as blobs: a manifest names each file by its digest. docs/protocol/blobs.md, "Directories".

A manifest has one form only: RFC 8785 JSON, entries in the order of their paths' parts. Equal directories have equal
manifests, hence one handle and one copy, and a manifest in any other form is refused.

What a manifest names is not safe for a disk because it is here: drivers/tree_sink.py checks every path as it writes.
"""

import itertools
import json
import re
from typing import Final

import attrs

from meshd.errors import RefusedError
from meshd.model.announcement import BLOB_LIMIT, BlobRef
from meshd.model.bounds import number, optional, size
from meshd.model.chunks import CHUNK, DIGEST, ChunkList
from meshd.model.entry import MAX_PATH_BYTES

CONTENT_TYPE: Final = "application/vnd.tether.directory+json"
"""The content type of a manifest in the record that announces it."""

FORMAT: Final = "directory/1"

MANIFEST_LIMIT: Final = 16 << 20
"""Most bytes of a manifest, some 80,000 files: all of it is parsed in memory, at six times its size."""

_HEX = re.compile(r"[0-9a-f]{64}")
_DIGEST = size(DIGEST, DIGEST)


@attrs.frozen
class Item:
    """A file (`digest` is there) or a directory. `path` has `/` between its parts; sizes in bytes."""

    path: str = attrs.field(validator=size(1, MAX_PATH_BYTES))
    digest: bytes | None = attrs.field(default=None, validator=optional(_DIGEST))
    size: int = attrs.field(default=0, validator=number(0, BLOB_LIMIT))
    executable: bool = False
    list_digest: bytes | None = attrs.field(default=None, validator=optional(_DIGEST))
    """BLAKE3 of the file's chunk list; absent where the file is one chunk, whose list is its digest."""

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.path.split("/"))

    @property
    def ref(self) -> BlobRef:
        """The blob that a file is."""
        assert self.digest is not None
        chunks = self.list_digest or ChunkList.of_one(self.digest, self.size).digest
        return BlobRef(digest=self.digest, size=self.size, list_digest=chunks)


@attrs.frozen
class Manifest:
    """The content of one directory, its own name left out."""

    items: tuple[Item, ...]

    @classmethod
    def of(cls, items: list[Item]) -> "Manifest":
        """These items in the order that a manifest has."""
        return cls(tuple(sorted(items, key=lambda item: item.parts)))

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(item.size for item in self.items)

    def encode(self) -> bytes:
        """The manifest's bytes. Raises RefusedError for more than MANIFEST_LIMIT."""
        data = _dump({"entries": [_value(item) for item in self.items], "tether": FORMAT})
        if len(data) > MANIFEST_LIMIT:
            raise RefusedError(
                f"The directory's list takes {len(data):,} bytes; {MANIFEST_LIMIT:,} are allowed.",
                "Pack it into one file (tar), or store parts of it.",
            )
        return data

    @classmethod
    def decode(cls, data: bytes) -> "Manifest":
        """Raises RefusedError for anything that `encode` would not have written, which a member may have."""
        if len(data) > MANIFEST_LIMIT:
            raise RefusedError(f"This directory's list takes {len(data):,} bytes; {MANIFEST_LIMIT:,} are allowed.")
        try:
            value = json.loads(data)
            manifest = cls(tuple(_item(entry) for entry in value["entries"]))
            # One comparison refuses whatever is not the one form: unknown and doubled keys, other spellings.
            if _dump({"entries": [_value(item) for item in manifest.items], "tether": FORMAT}) != data:
                raise ValueError("it is not in canonical form")
        # A surrogate that JSON escapes and UTF-8 cannot say is a UnicodeEncodeError, hence a ValueError.
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RefusedError(f"This is not the list of a directory: {error}.") from error
        parts = [item.parts for item in manifest.items]
        if any(one >= other for one, other in itertools.pairwise(parts)):
            raise RefusedError(
                "This is not the list of a directory: its entries are out of order, or one is there twice."
            )
        return manifest


def file_item(path: str, ref: BlobRef, executable: bool) -> Item:
    """The item of a file whose content is the blob `ref`."""
    from_list = ref.list_digest if ref.size > CHUNK else None
    return Item(path, ref.digest, ref.size, executable, from_list)


def _dump(value: object) -> bytes:
    """RFC 8785 for this format: its keys are ASCII and its numbers integers below 2^53, where Python writes the same.

    A test holds it against the library, which takes minutes for the longest manifest.
    """
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def _value(item: Item) -> dict[str, object]:
    if item.digest is None:
        return {"directory": True, "path": item.path}
    value: dict[str, object] = {
        "digest": item.digest.hex(),
        "executable": item.executable,
        "path": item.path,
        "size": item.size,
    }
    if item.list_digest is not None:
        value["list"] = item.list_digest.hex()
    return value


def _item(value: dict[str, object]) -> Item:
    path = value["path"]
    if not isinstance(path, str):
        raise TypeError("a path is no text")
    if "directory" in value:
        return Item(path)
    length, executable = value["size"], value["executable"]
    if type(length) is not int or type(executable) is not bool:
        raise TypeError("a size or a mode has another type")
    many = length > CHUNK
    if many != ("list" in value):
        raise ValueError("a file of several chunks has a list, and no other has")
    return Item(path, _digest(value["digest"]), length, executable, _digest(value["list"]) if many else None)


def _digest(value: object) -> bytes:
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise ValueError("a digest is not 64 hexadecimal digits")
    return bytes.fromhex(value)
