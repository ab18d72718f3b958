"""Frames of fetching: both ways, bounds, and junk."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import RemoteProtocolError
from meshd.model.chunks import CHUNK
from meshd.wire import fetch
from meshd.wire.codec import encode_body
from meshd.wire.constants import Frame
from meshd.wire.fetch import Absence, Chunk, Holds, List, Lookup, NotServed, Small, Want, WantList, WantSmall
from meshd.wire.framing import HEADER, FrameDecoder

D = b"d" * 32
REQUESTS = [Lookup(0, D), WantList(1, D, 32768), Want(2**32 - 1, D, 262_143), WantSmall(3, (D,) * 256)]
ANSWERS = [
    Holds(0, 1 << 38, D),
    Small(1, (b"x" * 65536, Absence.ABSENT, b"", Absence.LARGE)),
    NotServed(2, Absence.DAMAGED),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: type(each).__name__)
def test_requests_come_out_as_they_went_in(request_: fetch.Request) -> None:
    decoder = FrameDecoder(fetch.REQUEST_FRAMES)
    for byte in fetch.encode(request_):
        decoder.receive(bytes([byte]))
    frame = decoder.next_frame()
    assert frame is not None
    assert fetch.decode_request(*frame) == request_


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda each: type(each).__name__)
def test_answers_come_out_as_they_went_in(answer: Holds | Small | NotServed) -> None:
    decoder = FrameDecoder(fetch.ANSWER_FRAMES)
    decoder.receive(fetch.encode(answer))
    frame = decoder.next_frame()
    assert frame is not None
    assert fetch.decode_answer(*frame) == answer


@pytest.mark.parametrize(("kind", "made"), [(Frame.BLOB_CHUNK, Chunk), (Frame.LIST, List)])
def test_raw_bytes_follow_their_number(kind: Frame, made: type) -> None:
    decoder = FrameDecoder(fetch.ANSWER_FRAMES)
    decoder.receive(fetch.raw_head(kind, 77, 64) + D + D)
    frame = decoder.next_frame()
    assert frame is not None
    assert fetch.decode_answer(*frame) == made(77, D + D)


def test_the_longest_small_answer_fits_its_frame() -> None:
    most = fetch.SMALL_BYTES // fetch.SMALL_SIZE
    found = (b"x" * fetch.SMALL_SIZE,) * most + (b"",) * (fetch.SMALL_COUNT - most - 1) + (b"x" * fetch.SMALL_SIZE,)
    assert len(fetch.encode(Small(2**32 - 1, found))) - HEADER.size <= fetch.ANSWER_FRAMES[Frame.SMALL]
    for request in REQUESTS:
        frame = fetch.encode(request)
        assert len(frame) - HEADER.size <= fetch.REQUEST_FRAMES[frame[0]]


@pytest.mark.parametrize(
    ("frame", "body"),
    [
        (Frame.LOOKUP, {"number": -1, "digest": D}),
        (Frame.LOOKUP, {"number": 2**32, "digest": D}),
        (Frame.LOOKUP, {"number": 0, "digest": D[:-1]}),
        (Frame.LOOKUP, {"number": 0}),
        (Frame.WANT, {"number": 0, "digest": D, "index": 262_144}),
        (Frame.WANT, {"number": 0, "digest": D, "index": -1}),
        (Frame.WANT_LIST, {"number": 0, "digest": D, "first": "0"}),
        (Frame.WANT_SMALL, {"number": 0, "digests": []}),
        (Frame.WANT_SMALL, {"number": 0, "digests": [D] * 257}),
        (Frame.WANT_SMALL, {"number": 0, "digests": [D[1:]]}),
    ],
)
def test_requests_out_of_bounds(frame: Frame, body: dict[str, object]) -> None:
    with pytest.raises(RemoteProtocolError):
        fetch.decode_request(frame, encode_body(body))


@pytest.mark.parametrize(
    ("frame", "body"),
    [
        (Frame.HOLDS, {"number": 0, "size": (1 << 38) + 1, "list_digest": D}),
        (Frame.HOLDS, {"number": 0, "size": -1, "list_digest": D}),
        (Frame.SMALL, {"number": 0, "found": []}),
        (Frame.SMALL, {"number": 0, "found": [3]}),
        (Frame.SMALL, {"number": 0, "found": ["absent"]}),
        (Frame.SMALL, {"number": 0, "found": [b"x" * 65537]}),
        (Frame.NOT_SERVED, {"number": 0, "why": 3}),
    ],
)
def test_answers_out_of_bounds(frame: Frame, body: dict[str, object]) -> None:
    with pytest.raises(RemoteProtocolError):
        fetch.decode_answer(frame, encode_body(body))


@pytest.mark.parametrize("length", [0, 3, 4])
@pytest.mark.parametrize("frame", [Frame.LIST, Frame.BLOB_CHUNK])
def test_raw_answers_hold_something(frame: Frame, length: int) -> None:
    with pytest.raises(RemoteProtocolError):
        fetch.decode_answer(frame, bytes(length))


@given(st.sampled_from(sorted(fetch.REQUEST_FRAMES)), st.binary(max_size=200))
def test_junk_requests(frame: int, body: bytes) -> None:
    try:
        fetch.decode_request(Frame(frame), body)
    except RemoteProtocolError:
        return
    assert body


@given(st.sampled_from(sorted(fetch.ANSWER_FRAMES)), st.binary(max_size=200))
def test_junk_answers(frame: int, body: bytes) -> None:
    try:
        fetch.decode_answer(Frame(frame), body)
    except RemoteProtocolError:
        return
    assert body


@pytest.mark.parametrize("frame", [Frame.LOOKUP, Frame.WANT, Frame.WANT_SMALL, Frame.WANT_LIST])
def test_a_long_request_is_refused_by_its_header(frame: Frame) -> None:
    decoder = FrameDecoder(fetch.REQUEST_FRAMES)
    decoder.receive(HEADER.pack(frame, CHUNK))
    with pytest.raises(RemoteProtocolError):
        decoder.next_frame()
