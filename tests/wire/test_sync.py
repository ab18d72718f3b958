"""The frames of a sync stream: published bytes, whatever comes in pieces, and whatever else may come."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import RemoteProtocolError
from meshd.model.record import BODY_LIMIT, ENCODED_LIMIT, Log, LogId, write_record
from meshd.wire.constants import Frame
from meshd.wire.framing import HEADER, FrameDecoder
from meshd.wire.sync import (
    AGE_LIMIT,
    BATCH_LIMIT,
    QUESTIONS_LIMIT,
    SPANS_LIMIT,
    SYNC_FRAMES,
    TIPS_IN_FRAME,
    Arrived,
    AskHashes,
    AskRecords,
    Hashes,
    Heads,
    Message,
    Records,
    Span,
    Tip,
    batches,
    decode,
)
from tests.vectors import make_sync

FILE = json.loads(make_sync.PATH.read_text())
CHAINS = st.builds(
    LogId,
    st.binary(min_size=32, max_size=32),
    st.sampled_from(Log),
    st.integers(1, (1 << 32) - 1),
)
NUMBERS = st.integers(1, (1 << 64) - 1)
HASHES = st.binary(min_size=32, max_size=32).filter(any)
TIPS = st.builds(Tip, NUMBERS, HASHES, st.integers(0, (1 << 63) - 1))


def read(data: bytes, piece: int = 1 << 20) -> list[Message]:
    decoder, found = FrameDecoder(SYNC_FRAMES), []
    for start in range(0, len(data), piece):
        decoder.receive(data[start : start + piece])
        while (frame := decoder.next_frame()) is not None:
            found.append(decode(*frame))
    return found


@pytest.mark.parametrize("name", FILE["frames"])
def test_published_frames(name: str) -> None:
    message = make_sync.messages()[name]
    assert message.encode().hex() == FILE["frames"][name]
    assert read(bytes.fromhex(FILE["frames"][name])) == [message]


def test_published_limits() -> None:
    assert {Frame(kind).name: limit for kind, limit in SYNC_FRAMES.items()} == FILE["limits"]


@pytest.mark.parametrize("name", FILE["broken"])
def test_published_broken_frames(name: str) -> None:
    frame, body = FILE["broken"][name]
    with pytest.raises(RemoteProtocolError):
        decode(Frame[frame], bytes.fromhex(body))


def test_frames_byte_by_byte() -> None:
    every = list(make_sync.messages().values())
    assert read(b"".join(message.encode() for message in every), 1) == every


@given(st.sampled_from(Log), st.booleans(), st.lists(st.tuples(CHAINS, st.none() | TIPS), max_size=20))
def test_heads_come_back(log: Log, complete: bool, tips: list[tuple[LogId, Tip | None]]) -> None:
    message = Heads(log, complete, tuple((LogId(chain.author, log, chain.generation), tip) for chain, tip in tips))
    assert read(message.encode()) == [message]


@given(st.integers(1, (1 << 32) - 1), st.lists(st.tuples(CHAINS, NUMBERS, NUMBERS), max_size=20))
def test_questions_come_back(number: int, spans: list[tuple[LogId, int, int]]) -> None:
    message = AskRecords(number, tuple(Span(chain, min(one, two), max(one, two)) for chain, one, two in spans))
    assert read(message.encode()) == [message]


@given(CHAINS, st.lists(st.integers(0, (1 << 64) - 1), min_size=1, max_size=QUESTIONS_LIMIT))
def test_questions_for_hashes_come_back(chain: LogId, numbers: list[int]) -> None:
    message = AskHashes(chain, tuple(numbers))
    assert read(message.encode()) == [message]


@given(st.lists(st.none() | HASHES, min_size=1, max_size=QUESTIONS_LIMIT))
def test_hashes_come_back(hashes: list[bytes | None]) -> None:
    assert read(Hashes(tuple(hashes)).encode()) == [Hashes(tuple(hashes))]


@given(st.sampled_from([Frame(kind) for kind in SYNC_FRAMES]), st.binary(max_size=600))
def test_no_bytes_do_more_than_be_refused(frame: Frame, body: bytes) -> None:
    try:
        message = decode(frame, body)
    except RemoteProtocolError:
        return
    assert message.encode()[HEADER.size :] == body, "two forms of one message"


@given(st.sampled_from(list(FILE["frames"])), st.data())
def test_no_change_of_a_frame_does_more_than_be_refused(name: str, data: st.DataObject) -> None:
    good = bytearray.fromhex(FILE["frames"][name])
    place = data.draw(st.integers(HEADER.size, max(HEADER.size, len(good) - 1)))
    changed = bytes(good[HEADER.size : place]) + data.draw(st.binary(max_size=3)) + bytes(good[place + 1 :])
    with contextlib.suppress(RemoteProtocolError):
        decode(Frame(good[0]), changed)


def test_full_frames_fit_their_limits() -> None:
    chain = LogId(bytes(range(32)), Log.DATA, 1)
    full: list[Message] = [
        Heads(Log.DATA, False, ((chain, Tip(1, bytes([1]) * 32, 1)),) * TIPS_IN_FRAME),
        AskRecords(1, (Span(chain, 1, 2),) * SPANS_LIMIT),
        AskHashes(chain, (1,) * QUESTIONS_LIMIT),
        Hashes((bytes([1]) * 32,) * QUESTIONS_LIMIT),
    ]
    for message in full:
        data = message.encode()
        assert len(data) == HEADER.size + SYNC_FRAMES[data[0]] and read(data) == [message]


def test_the_largest_record_fits_a_batch_and_ages_end_somewhere() -> None:
    largest = write_record(
        make_sync.KEYS,
        mesh=make_sync.MESH,
        log=Log.DATA,
        generation=1,
        previous=None,
        clock=1,
        kind="a" * 32,
        body=bytes(BODY_LIMIT),
    )
    assert len(largest.encode()) <= ENCODED_LIMIT
    message = Records(7, True, (Arrived(largest, AGE_LIMIT + 5),))
    (found,) = read(message.encode())
    assert isinstance(found, Records) and found.records == (Arrived(largest, AGE_LIMIT),)
    pieces = list(batches([Arrived(largest, 0)] * 3 + [Arrived(make_sync.record(1), 0)] * 3))
    assert [len(piece) for piece in pieces] == [1, 1, 1, 3]
    assert all(len(Records(1, True, piece).encode()) <= HEADER.size + BATCH_LIMIT for piece in pieces)
