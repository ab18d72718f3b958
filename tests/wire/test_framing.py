from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import RemoteProtocolError
from meshd.wire.constants import PAIRING_FRAMES, RECEIVER_FRAMES, SENDER_FRAMES, Frame
from meshd.wire.framing import HEADER, FrameDecoder, encode_frame

FRAMES = st.lists(st.tuples(st.sampled_from(sorted(PAIRING_FRAMES)), st.binary(max_size=33)), max_size=6)

each_direction = pytest.mark.parametrize(
    "limits", [PAIRING_FRAMES, SENDER_FRAMES, RECEIVER_FRAMES], ids=["pairing", "sender", "receiver"]
)


def frames_of(decoder: FrameDecoder) -> list[tuple[Frame, bytes]]:
    frames = []
    while (frame := decoder.next_frame()) is not None:
        frames.append(frame)
    return frames


def test_the_bytes_of_a_frame() -> None:
    assert encode_frame(Frame.PAKE, b"abc").hex() == "0200000003616263"
    assert encode_frame(Frame.SENDER_ABORT, b"").hex() == "2e00000000"


@given(FRAMES, st.data())
def test_however_it_is_cut_the_same_frames(frames, data) -> None:
    stream = b"".join(encode_frame(*frame) for frame in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    decoder = FrameDecoder(PAIRING_FRAMES)
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        decoder.receive(stream[start:end])
        found += frames_of(decoder)
    assert found == frames
    assert decoder.buffered == 0


@given(FRAMES)
def test_byte_by_byte(frames) -> None:
    decoder = FrameDecoder(PAIRING_FRAMES)
    found = []
    for byte in b"".join(encode_frame(*frame) for frame in frames):
        decoder.receive(bytes([byte]))
        found += frames_of(decoder)
    assert found == frames


def test_what_is_left_over_is_counted() -> None:
    decoder = FrameDecoder(PAIRING_FRAMES)
    decoder.receive(encode_frame(Frame.PAKE, b"abc") + b"\x02\x00")
    assert decoder.next_frame() == (Frame.PAKE, b"abc")
    assert decoder.next_frame() is None
    assert decoder.buffered == 2
    decoder.receive(b"\x00\x00\x01")
    assert decoder.next_frame() is None
    assert decoder.buffered == HEADER.size


@each_direction
def test_a_header_is_judged_before_its_body_is_waited_for(limits) -> None:
    for kind in range(256):
        decoder = FrameDecoder(limits)
        limit = limits.get(kind)
        if limit is None:
            decoder.receive(HEADER.pack(kind, 0))
            with pytest.raises(RemoteProtocolError, match="not allowed here"):
                decoder.next_frame()
            continue
        decoder.receive(HEADER.pack(kind, limit))
        assert decoder.next_frame() is None
        decoder.receive(bytes(limit))
        assert decoder.next_frame() == (Frame(kind), bytes(limit))
        decoder.receive(HEADER.pack(kind, limit + 1))
        with pytest.raises(RemoteProtocolError, match="are allowed"):
            decoder.next_frame()


def frame_like(limits: Mapping[int, int]) -> st.SearchStrategy[bytes]:
    """Frames of allowed types, some with a length that is a lie; alone they would hardly ever come out of random bytes."""
    kinds, bodies = st.sampled_from(sorted(limits)), st.binary(max_size=40)
    honest = st.builds(encode_frame, kinds.map(Frame), bodies)
    lengths = st.integers(0, 60) | st.integers(0, 2**32 - 1)
    return honest | st.builds(lambda kind, length, body: HEADER.pack(kind, length) + body, kinds, lengths, bodies)


@each_direction
@given(st.data())
def test_any_bytes_are_frames_or_the_peers_fault(limits, data) -> None:
    """Whole or in pieces alike; and no more is held than one frame that is allowed."""
    junk = b"".join(data.draw(st.lists(st.binary(max_size=60) | frame_like(limits), max_size=5)))
    piece = data.draw(st.integers(1, 30))
    decoder, frames, refused = FrameDecoder(limits), [], False
    for start in range(0, len(junk), piece):
        decoder.receive(junk[start : start + piece])
        try:
            while (frame := decoder.next_frame()) is not None:
                frames.append(frame)
        except RemoteProtocolError:
            refused = True
            break
        assert decoder.buffered <= HEADER.size + max(limits.values())
    taken = b"".join(encode_frame(*frame) for frame in frames)
    assert junk.startswith(taken) and all(len(body) <= limits[kind] for kind, body in frames)
    rest = junk[len(taken) :]
    kind, length = HEADER.unpack(rest[: HEADER.size].ljust(HEADER.size, b"\0"))
    assert refused == (len(rest) >= HEADER.size and length > limits.get(kind, -1))
    assert refused or len(rest) < HEADER.size + length


def test_a_frame_is_a_copy_of_what_came() -> None:
    decoder = FrameDecoder(PAIRING_FRAMES)
    decoder.receive(encode_frame(Frame.PAKE, b"abc"))
    frame = decoder.next_frame()
    decoder.receive(bytes(100))  # the buffer moves on
    assert frame == (Frame.PAKE, b"abc")
    assert isinstance(frame[1], bytes)
