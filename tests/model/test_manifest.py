"""Manifests of directories: one form, and nothing else is read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import RefusedError
from meshd.model import manifest
from meshd.model.announcement import BlobRef
from meshd.model.chunks import CHUNK
from meshd.model.handle import canonical
from meshd.model.manifest import Item, Manifest, file_item

DIGEST, LIST = b"\x01" * 32, b"\x02" * 32
names = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1, max_size=8)
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
small_files = st.builds(Item, paths, st.just(DIGEST), st.integers(0, CHUNK), st.booleans())
large_files = st.builds(Item, paths, st.just(DIGEST), st.integers(CHUNK + 1, 1 << 38), st.booleans(), st.just(LIST))
items = st.lists(small_files | large_files | st.builds(Item, paths), max_size=12, unique_by=lambda item: item.parts)

PLAIN = Manifest.of([Item("b"), Item("b/x", DIGEST, 5), Item("a", DIGEST, 2 * CHUNK, True, LIST)])


@given(items)
def test_what_is_written_is_read(some: list[Item]) -> None:
    made = Manifest.of(some)
    assert Manifest.decode(made.encode()) == made


@given(items)
def test_the_bytes_are_rfc_8785(some: list[Item]) -> None:
    data = Manifest.of(some).encode()
    assert canonical(json.loads(data)) == data


@given(items, st.randoms())
def test_order_of_the_walk_does_not_matter(some: list[Item], random: object) -> None:
    mixed = list(some)
    random.shuffle(mixed)
    assert Manifest.of(mixed).encode() == Manifest.of(some).encode()


def test_the_form() -> None:
    assert PLAIN.encode().decode() == (
        '{"entries":['
        f'{{"digest":"{DIGEST.hex()}","executable":true,"list":"{LIST.hex()}","path":"a","size":2097152}},'
        '{"directory":true,"path":"b"},'
        f'{{"digest":"{DIGEST.hex()}","executable":false,"path":"b/x","size":5}}'
        '],"tether":"directory/1"}'
    )
    assert PLAIN.total == 2 * CHUNK + 5


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("directory/1", "directory/2"),
        ('"size":5', '"size":5.0'),
        ('"size":5', '"size":-5'),
        ('"size":5', '"size":05'),
        ('"size":5', '"size":true'),
        ('"size":5', '"size":1e0'),
        ('"size":5', '"size":2097153'),
        ('"size":2097152', '"size":7'),
        ('"executable":false', '"executable":0'),
        ('"directory":true', '"directory":false'),
        ('"path":"b/x"', '"path":"b/x","path":"b/x"'),
        ('"path":"b/x"', '"path":"b/x","extra":1'),
        ('"path":"b/x"', '"path":""'),
        ('"path":"b/x"', '"path":7'),
        ('"path":"b/x"', '"path":"A"'),
        ('"path":"b/x"', '"path":"b"'),
        ('"path":"b/x"', '"path":"\\ud800"'),
        (DIGEST.hex(), DIGEST.hex().replace("01", "0A", 1)),
        (DIGEST.hex(), DIGEST.hex()[2:]),
        ('{"entries"', ' {"entries"'),
        ("[", "[["),
        ("]", ""),
    ],
)
def test_any_other_form_is_refused(old: str, new: str) -> None:
    data = PLAIN.encode().decode()
    assert old in data
    with pytest.raises(RefusedError):
        Manifest.decode(data.replace(old, new).encode("utf-8", "surrogatepass"))


@given(st.binary(max_size=200) | st.sampled_from([b"[]", b"null", b"7", b'{"entries":7}', b"[" * 100_000, b"9" * 5000]))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(RefusedError):
        Manifest.decode(data)


@given(st.integers(0, 400), st.binary(min_size=1, max_size=3))
def test_a_change_is_refused_or_another_manifest(at: int, junk: bytes) -> None:
    data = bytearray(PLAIN.encode())
    data[at : at + len(junk)] = junk
    try:
        read = Manifest.decode(bytes(data))
    except RefusedError:
        return
    assert read.encode() == bytes(data)


def test_too_long_is_refused_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    data = PLAIN.encode()
    monkeypatch.setattr(manifest, "MANIFEST_LIMIT", len(data) - 1)
    with pytest.raises(RefusedError, match="allowed"):
        PLAIN.encode()
    with pytest.raises(RefusedError, match="allowed"):
        Manifest.decode(data)


@pytest.mark.parametrize("size", [0, 1, CHUNK])
def test_one_chunk_needs_no_list(size: int) -> None:
    item = file_item("f", BlobRef(digest=DIGEST, size=size, list_digest=LIST), False)
    assert item.list_digest is None
    assert item.ref.size == size
    assert item.ref.list_digest != LIST


def test_several_chunks_carry_their_list() -> None:
    ref = BlobRef(digest=DIGEST, size=CHUNK + 1, list_digest=LIST)
    assert file_item("f", ref, True).ref == ref
