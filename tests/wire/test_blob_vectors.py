"""tests/vectors/blobs.json: the code says those bytes, reads them, and refuses what is to be refused."""

import json
from typing import Any

import msgspec
import pytest
from blake3 import blake3

from meshd.errors import RefusedError, RemoteProtocolError
from meshd.model.announcement import BlobRef
from meshd.model.chunks import reference
from meshd.model.manifest import Item, Manifest, file_item
from meshd.wire import fetch
from meshd.wire.constants import Frame
from meshd.wire.fetch import Absence
from meshd.wire.framing import FrameDecoder
from tests.vectors import make_blobs
from tests.vectors.make_blobs import MIB, D, E

VECTORS: dict[str, Any] = json.loads(make_blobs.FILE.read_text(encoding="utf-8"))
REQUESTS = {
    "LOOKUP": fetch.Lookup(1, D),
    "WANT_LIST": fetch.WantList(2, D, 32768),
    "WANT": fetch.Want(3, D, 7),
    "WANT_SMALL": fetch.WantSmall(4, (D, E)),
}
ANSWERS = {
    "HOLDS": fetch.Holds(1, 8 * MIB, E),
    "LIST": fetch.List(2, D + E),
    "BLOB_CHUNK": fetch.Chunk(3, b"some bytes"),
    "SMALL": fetch.Small(4, (b"content", Absence.DAMAGED)),
    "NOT_SERVED": fetch.NotServed(5, Absence.ABSENT),
}


def one_frame(data: bytes, limits: dict[int, int]) -> tuple[Frame, bytes]:
    decoder = FrameDecoder(limits)
    decoder.receive(data)
    frame = decoder.next_frame()
    assert frame is not None
    return frame


def same(ours: bytes, theirs: bytes) -> bool:
    """One frame twice; the order of a MessagePack map's keys means nothing."""
    decode = msgspec.msgpack.decode
    return ours[:5] == theirs[:5] and decode(ours[5:]) == decode(theirs[5:])


def test_the_file_is_what_its_maker_writes() -> None:
    assert json.loads(json.dumps(make_blobs.VECTORS)) == VECTORS


@pytest.mark.parametrize("vector", VECTORS["lists"], ids=lambda vector: str(vector["size"]))
def test_lists(vector: dict[str, Any]) -> None:
    ref, chunks = reference(blake3(b"tether blob").digest(vector["size"]))
    assert (ref.digest.hex(), chunks.digests.hex()) == (vector["digest"], vector["list"])
    assert ref.list_digest.hex() == vector["list_digest"]


def test_the_manifest() -> None:
    large = BlobRef(digest=E, size=MIB + 1, list_digest=D)
    small = BlobRef(digest=D, size=12, list_digest=E)
    made = Manifest.of([file_item("données.bin", large, False), file_item("bin/run", small, True), Item("bin")])
    data = VECTORS["manifest"]["json"].encode()
    assert made.encode() == data
    assert Manifest.decode(data) == made
    assert blake3(data).hexdigest() == VECTORS["manifest"]["digest"]


@pytest.mark.parametrize("name", VECTORS["manifests_refused"])
def test_manifests_that_are_refused(name: str) -> None:
    with pytest.raises(RefusedError):
        Manifest.decode(VECTORS["manifests_refused"][name].encode())


@pytest.mark.parametrize("name", REQUESTS)
def test_requests(name: str) -> None:
    data = bytes.fromhex(VECTORS["requests"][name])
    assert same(fetch.encode(REQUESTS[name]), data)
    assert fetch.decode_request(*one_frame(data, fetch.REQUEST_FRAMES)) == REQUESTS[name]


@pytest.mark.parametrize("name", ANSWERS)
def test_answers(name: str) -> None:
    data = bytes.fromhex(VECTORS["answers"][name])
    answer = ANSWERS[name]
    if isinstance(answer, fetch.Chunk):
        assert fetch.raw_head(Frame.BLOB_CHUNK, answer.number, len(answer.data)) + bytes(answer.data) == data
    elif isinstance(answer, fetch.List):
        assert fetch.raw_head(Frame.LIST, answer.number, len(answer.digests)) + answer.digests == data
    else:
        assert same(fetch.encode(answer), data)
    assert fetch.decode_answer(*one_frame(data, fetch.ANSWER_FRAMES)) == answer


@pytest.mark.parametrize("name", VECTORS["requests_refused"])
def test_requests_that_are_refused(name: str) -> None:
    with pytest.raises(RemoteProtocolError):
        fetch.decode_request(*one_frame(bytes.fromhex(VECTORS["requests_refused"][name]), fetch.REQUEST_FRAMES))


@pytest.mark.parametrize("name", VECTORS["answers_refused"])
def test_answers_that_are_refused(name: str) -> None:
    with pytest.raises(RemoteProtocolError):
        fetch.decode_answer(*one_frame(bytes.fromhex(VECTORS["answers_refused"][name]), fetch.ANSWER_FRAMES))
