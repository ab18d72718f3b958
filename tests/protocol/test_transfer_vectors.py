"""tests/vectors/transfer.json: the machines say those bytes, read them, and refuse what is to be refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import RemoteProtocolError
from meshd.model.entry import Entry, EntryKind
from meshd.protocol.transfer import (
    Accepted,
    AllSent,
    Began,
    Confirmed,
    Content,
    Ended,
    EntryRefused,
    Failed,
    Offered,
    Receiver,
    Sender,
    SenderState,
)
from meshd.wire.codec import decode_body
from meshd.wire.constants import DIGEST_SIZE, RECEIVER_FRAMES, SENDER_FRAMES, WINDOW, Frame
from meshd.wire.framing import FrameDecoder, encode_frame
from meshd.wire.messages import End, EntryEnd, EntryFailed, EntryHeader, Offer, Pull, RefuseEntry
from tests.vectors import make_transfer

VECTORS: dict[str, Any] = json.loads(make_transfer.FILE.read_text(encoding="utf-8"))
SESSIONS = VECTORS["sessions"]


def frames_in(data: bytes, limits: dict[int, int]) -> list[tuple[Frame, bytes]]:
    decoder = FrameDecoder(limits)
    decoder.receive(data)
    frames = []
    while (frame := decoder.next_frame()) is not None:
        frames.append(frame)
    assert decoder.buffered == 0
    return frames


def bytes_of(turn: dict[str, Any]) -> bytes:
    return b"".join(map(bytes.fromhex, turn["frames"]))


def events_of(machine: Sender | Receiver) -> list[Any]:
    events = []
    while (event := machine.next_event()) is not None:
        events.append(event)
    return events


def say(sender: Sender, kind: Frame, body: bytes) -> None:
    """Have `sender` make this frame, by the command that it stands for."""
    if kind is Frame.ENTRY:
        header = decode_body(EntryHeader, body)
        path, entry_kind = tuple(header.path), EntryKind(header.kind)
        sender.begin(Entry(path, entry_kind, header.size, header.executable, header.modified_ns), 0.0)
    elif kind is Frame.CHUNK:
        sender.content(body[DIGEST_SIZE:], 0.0)
    elif kind is Frame.ENTRY_END:
        sender.end_entry(decode_body(EntryEnd, body).digest, 0.0)
    elif kind is Frame.ENTRY_FAILED:
        sender.fail_entry(decode_body(EntryFailed, body).reason, 0.0)
    else:
        assert kind is Frame.END
        sender.end(0.0)


def sender_of(session: dict[str, Any]) -> tuple[Sender, list[tuple[Frame, bytes]]]:
    """A sender that has offered what the session does, and the frames that it has still to make."""
    data = b"".join(bytes_of(turn) for turn in session["turns"] if turn["from"] == "sender")
    (_, offer), *rest = frames_in(data, SENDER_FRAMES)
    return Sender(decode_body(Offer, offer), 0.0), rest


def test_the_published_bytes_are_what_these_values_come_to() -> None:
    assert make_transfer.vectors() == VECTORS


def test_every_frame_of_a_transfer_has_its_bytes() -> None:
    assert {Frame[name] for name in VECTORS["frames"]} == {*SENDER_FRAMES, *RECEIVER_FRAMES}
    for name, data in VECTORS["frames"].items():
        ((kind, _),) = frames_in(bytes.fromhex(data), SENDER_FRAMES | RECEIVER_FRAMES)
        assert kind is Frame[name]


@pytest.mark.parametrize("piece", [None, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: session["what"])
def test_a_sender_says_its_half_of_a_session(session: dict[str, Any], piece: int | None) -> None:
    sender, _ = sender_of(session)
    events = []
    for number, turn in enumerate(session["turns"]):
        data = bytes_of(turn)
        if turn["from"] == "receiver":
            for start in range(0, len(data), piece or len(data)):
                sender.receive_data(data[start : start + (piece or len(data))], 0.0)
            events += events_of(sender)
            continue
        for frame in frames_in(data, SENDER_FRAMES) if number else []:  # the OFFER is made with the machine
            say(sender, *frame)
        assert sender.data_to_send(0.0) == data
    refusals = [
        EntryRefused(refused.index, refused.reason)
        for turn in session["turns"][1::2]
        for kind, body in frames_in(bytes_of(turn), RECEIVER_FRAMES)
        if kind is Frame.REFUSE_ENTRY and (refused := decode_body(RefuseEntry, body))
    ]
    (_, end) = frames_in(bytes_of(session["turns"][-2]), SENDER_FRAMES)[-1]
    sent = decode_body(End, end)
    assert events == [Accepted(), *refusals, Confirmed(sent.entries, sent.size)]
    assert sender.state is SenderState.DONE


@pytest.mark.parametrize("piece", [None, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: session["what"])
def test_a_receiver_says_its_half_of_a_session(session: dict[str, Any], piece: int | None) -> None:
    receiver, events = Receiver(), []
    for turn, answer in zip(session["turns"][::2], session["turns"][1::2], strict=True):
        data = bytes_of(turn)
        for start in range(0, len(data), piece or len(data)):
            receiver.receive_data(data[start : start + (piece or len(data))], 0.0)
        new = events_of(receiver)
        events += new
        if isinstance(new[-1], Offered):
            receiver.accept(0.0)
        elif isinstance(new[-1], AllSent):
            receiver.stored(new[-1].entries, new[-1].size, 0.0)
        else:
            ((_, refusal),) = frames_in(bytes_of(answer), RECEIVER_FRAMES)
            refused = decode_body(RefuseEntry, refusal)
            assert isinstance(new[-1], Began) and new[-1].index == refused.index
            receiver.refuse_entry(refused.index, refused.reason, 0.0)
        assert receiver.data_to_send(0.0) == bytes_of(answer)
    assert events.count(Content(bytes.fromhex(VECTORS["content"]))) == 1
    assert isinstance(events[-2], Ended) and isinstance(events[-1], AllSent)


def assert_refused(events: list[Any], case: dict[str, Any]) -> None:
    assert isinstance(events[-1], Failed)
    assert isinstance(events[-1].error, RemoteProtocolError)
    assert case["error_says"] in str(events[-1].error)


@pytest.mark.parametrize("case", VECTORS["refused_by_receiver"], ids=lambda case: case["what"])
def test_what_a_receiver_must_refuse(case: dict[str, Any]) -> None:
    receiver = Receiver()
    receiver.receive_data(bytes.fromhex(VECTORS["frames"]["OFFER"]), 0.0)
    receiver.accept(0.0)
    for frame in case["frames"]:
        assert not any(isinstance(event, Failed) for event in events_of(receiver))
        receiver.receive_data(bytes.fromhex(frame), 0.0)
    assert_refused(events_of(receiver), case)


@pytest.mark.parametrize("case", VECTORS["refused_by_sender"], ids=lambda case: case["what"])
def test_what_a_sender_must_refuse(case: dict[str, Any]) -> None:
    sender, to_make = sender_of(SESSIONS[0])
    first, *others = map(bytes.fromhex, case["frames"])
    sender.receive_data(first, 0.0)
    if case["sent"] != "OFFER":
        assert events_of(sender) == [Accepted()]
        kinds = [kind for kind, _ in to_make]
        for frame in to_make[: kinds.index(Frame[case["sent"]]) + 1]:
            say(sender, *frame)
        sender.data_to_send(0.0)
    for frame in others:
        assert not any(isinstance(event, Failed) for event in events_of(sender))
        sender.receive_data(frame, 0.0)
    assert_refused(events_of(sender), case)


# Any bytes for a sender

_OURS = SESSIONS[2]
_ANSWERS = [bytes_of(turn) for turn in _OURS["turns"] if turn["from"] == "receiver"]
_FRAMES = st.sampled_from([*_ANSWERS, *map(bytes.fromhex, VECTORS["frames"].values())])
_GRANTS = st.sampled_from([0, 1, 100, 400, WINDOW, 2 * WINDOW]).map(
    lambda limit: make_transfer.framed(Frame.PULL, Pull(limit))
)
_NO_BODY = st.builds(encode_frame, st.sampled_from([Frame(kind) for kind in RECEIVER_FRAMES]), st.binary(max_size=60))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A frame with some of its bytes changed, left out or put in; its length may then be a lie."""
    frame = bytearray(draw(_FRAMES))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(frame)))
        frame[place : place + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(frame)


@given(
    st.lists(_FRAMES | _GRANTS | _NO_BODY | mutated(), max_size=4), st.integers(0, len(_ANSWERS)), st.integers(1, 40)
)
def test_a_sender_that_is_told_anything_goes_on_or_fails(parts: list[bytes], place: int, piece: int) -> None:
    """It never raises, never sends beyond its grant, and is confirmed only when all has gone out."""
    sender, to_make = sender_of(_OURS)
    whole = b"".join(encode_frame(*frame) for frame in to_make)
    sender.data_to_send(0.0)
    sent, granted, events = b"", 0, []
    told = b"".join([*_ANSWERS[:place], *parts, *_ANSWERS[place:]])
    for start in range(0, len(told), piece):
        sender.receive_data(told[start : start + piece], 0.0)
        events += events_of(sender)
        granted = max(granted, len(sent) + sender.room)
        # More than a driver feeds, which asks `wants_more`: the machine must hold it back.
        while to_make and sender.state in (SenderState.BETWEEN, SenderState.IN_ENTRY):
            say(sender, *to_make.pop(0))
        sent += sender.data_to_send(0.0)
        assert len(sent) <= granted
    failures = [event for event in events if isinstance(event, Failed)]
    assert failures == (events[-1:] if sender.state is SenderState.FAILED else [])
    if any(isinstance(event, Confirmed) for event in events):
        assert sent == whole
    if failures:
        sender.receive_data(make_transfer.PULL, 0.0)
        assert (sender.data_to_send(0.0), sender.next_event(), sender.next_deadline()) == (b"", None, None)
    else:
        assert parts or events[-1] == Confirmed(2, make_transfer.SIZE)
