"""Sender and receiver back to back: every order of the page, every break of it, and the bound on memory."""

import random
from collections.abc import Callable

import attrs
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import LocalProtocolError, RefusedError, RemoteProtocolError
from meshd.model.entry import MAX_ENTRIES, Entry, EntryKind
from meshd.protocol.transfer import (
    ACCEPT_DEADLINE,
    STORE_DEADLINE,
    Accepted,
    AllSent,
    Began,
    Confirmed,
    Content,
    Dropped,
    Ended,
    EntryRefused,
    Failed,
    Offered,
    Receiver,
    Sender,
    SenderState,
)
from meshd.wire.codec import encode_body
from meshd.wire.constants import CHUNK_SIZE, WINDOW, Frame
from meshd.wire.framing import HEADER, encode_frame
from meshd.wire.messages import Abort, End, EntryEnd, EntryHeader, Offer, Pull, RefuseEntry, Stored

OFFER = Offer(stream=False, entries=2, size=10, skipped=0)
FILE = Entry(("a", "b.txt"), EntryKind.FILE, 5, True, 1_700_000_000_000_000_000)


@attrs.define
class Pair:
    """Two machines and what they have said. `step` bounds how many bytes cross at once."""

    sender: Sender = attrs.field(factory=lambda: Sender(OFFER, 0.0))
    receiver: Receiver = attrs.field(factory=Receiver)
    step: int = 1 << 20
    heard: list[object] = attrs.field(factory=list)
    told: list[object] = attrs.field(factory=list)

    def flow(self) -> None:
        """Carry bytes both ways until nothing moves."""
        moved = True
        while moved:
            moved = False
            for source, target, events in (
                (self.sender, self.receiver, self.heard),
                (self.receiver, self.sender, self.told),
            ):
                data = source.data_to_send(0.0)
                for start in range(0, len(data), self.step):
                    target.receive_data(data[start : start + self.step], 0.0)
                while (event := target.next_event()) is not None:
                    events.append(event)
                moved = moved or bool(data)

    def accepted(self) -> "Pair":
        """The pair after OFFER and the first PULL."""
        self.flow()
        self.receiver.accept(0.0)
        self.flow()
        return self


def send_file(sender: Sender, entry: Entry, content: bytes) -> None:
    sender.begin(entry, 0.0)
    if content:
        sender.content(content, 0.0)
    sender.end_entry(blake3(content).digest(), 0.0)


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_a_file_and_a_directory_cross_whole_or_byte_by_byte(step: int) -> None:
    pair = Pair(step=step).accepted()
    directory = Entry(("a",), EntryKind.DIRECTORY, 0, False, 0)
    send_file(pair.sender, directory, b"")
    send_file(pair.sender, FILE, b"hello")
    pair.sender.end(0.0)
    pair.flow()
    pair.receiver.stored(2, 5, 0.0)
    pair.flow()
    empty, full = blake3(b"").digest(), blake3(b"hello").digest()
    assert pair.heard == [
        Offered(OFFER),
        Began(0, directory),
        Ended(empty),
        Began(1, FILE),
        Content(b"hello"),
        Ended(full),
        AllSent(2, 5),
    ]
    assert pair.told == [Accepted(), Confirmed(2, 5)]
    assert pair.sender.state is SenderState.DONE


def test_a_stream_of_unknown_size_is_confirmed_by_what_came() -> None:
    pair = Pair(Sender(Offer(stream=True, entries=1, size=None, skipped=0), 0.0)).accepted()
    send_file(pair.sender, Entry(("stdin",), EntryKind.FILE, None, False, 0), b"x" * 1000)
    pair.sender.end(0.0)
    pair.flow()
    assert pair.heard[-1] == AllSent(1, 1000)


def test_a_refused_entry_ends_early_and_the_rest_goes_on() -> None:
    pair = Pair().accepted()
    pair.sender.begin(FILE, 0.0)
    pair.flow()
    pair.receiver.refuse_entry(0, "it exists", 0.0)
    pair.flow()
    assert pair.told[-1] == EntryRefused(0, "it exists")
    pair.sender.fail_entry("refused", 0.0)
    send_file(pair.sender, attrs.evolve(FILE, path=("c",)), b"other")
    pair.sender.end(0.0)
    pair.flow()
    assert Dropped("refused") in pair.heard
    assert pair.heard[-1] == AllSent(1, 5)
    pair.receiver.refuse_entry(1, "it came to exist meanwhile", 0.0)
    pair.receiver.stored(0, 0, 0.0)
    pair.flow()
    assert pair.told[-2:] == [EntryRefused(1, "it came to exist meanwhile"), Confirmed(0, 0)]


def test_the_sender_never_has_more_under_way_than_was_granted() -> None:
    pair = Pair().accepted()
    pair.sender.begin(attrs.evolve(FILE, size=10 * WINDOW), 0.0)
    sent = len(pair.sender.data_to_send(0.0))
    while pair.sender.wants_more:
        pair.sender.content(bytes(CHUNK_SIZE), 0.0)
        sent += len(pair.sender.data_to_send(0.0))
    assert WINDOW - 2 * CHUNK_SIZE < sent <= WINDOW
    assert pair.sender.data_to_send(0.0) == b""


def test_writing_lets_the_sender_go_on_and_any_size_flows() -> None:
    pair = Pair().accepted()
    pair.sender.begin(attrs.evolve(FILE, size=5 * WINDOW), 0.0)
    received = 0
    for _ in range(100):
        while pair.sender.wants_more and pair.sender.room > 0:
            pair.sender.content(bytes(CHUNK_SIZE), 0.0)
            pair.flow()
        received += sum(len(event.data) for event in pair.heard if isinstance(event, Content))
        pair.heard.clear()
        if received >= 5 * WINDOW:
            break
        pair.receiver.written(0.0)
        pair.flow()
    assert received >= 5 * WINDOW


def test_a_sender_that_exceeds_its_grant_is_ended() -> None:
    receiver = Receiver()
    receiver.receive_data(encode_frame(Frame.OFFER, encode_body(OFFER)), 0.0)
    receiver.accept(0.0)
    receiver.receive_data(entry_frame(size=10 * WINDOW), 0.0)
    data = bytes(CHUNK_SIZE)
    frame = encode_frame(Frame.CHUNK, blake3(data).digest() + data)
    for _ in range(WINDOW // len(frame) + 1):
        receiver.receive_data(frame, 0.0)
    assert "more than it was granted" in str(error_of(receiver))


def test_a_corrupt_chunk_is_noticed_before_anything_is_written() -> None:
    receiver = open_receiver()
    receiver.receive_data(entry_frame(), 0.0)
    receiver.receive_data(encode_frame(Frame.CHUNK, blake3(b"hello").digest() + b"hellO"), 0.0)
    events = drain(receiver)
    assert not any(isinstance(event, Content) for event in events)
    assert isinstance(events[-1], Failed)


def test_a_listing_that_is_not_what_was_sent_is_refused() -> None:
    receiver = open_receiver()
    receiver.receive_data(encode_frame(Frame.END, encode_body(End(0, 0, bytes(32)))), 0.0)
    assert "listing" in str(error_of(receiver))


def test_a_receiver_cannot_confirm_what_was_not_sent() -> None:
    for stored in (Stored(bytes(32), 0, 0), Stored(blake3(b"").digest(), 9, 9)):
        pair = Pair().accepted()
        pair.sender.end(0.0)
        pair.sender.data_to_send(0.0)
        pair.sender.receive_data(encode_frame(Frame.STORED, encode_body(stored)), 0.0)
        assert isinstance(error_of(pair.sender), RemoteProtocolError)


def test_a_receiver_cannot_confirm_before_the_end_has_left() -> None:
    pair = Pair().accepted()
    pair.sender.end(0.0)  # still held: nothing was asked of data_to_send
    honest = Stored(pair.sender._listing.digest(), 0, 0)
    pair.sender.receive_data(encode_frame(Frame.STORED, encode_body(honest)), 0.0)
    assert "before it had all of it" in str(error_of(pair.sender))


@pytest.mark.parametrize("abort", [Sender.abort, Receiver.abort])
def test_an_abort_tells_the_other_side_why(abort: Callable[..., None]) -> None:
    pair = Pair().accepted()
    ours = pair.sender if abort is Sender.abort else pair.receiver
    abort(ours, RefusedError("no space: 4 KiB are free"), 0.0)
    pair.flow()
    events = pair.heard if ours is pair.sender else pair.told
    assert isinstance(events[-1], Failed)
    assert "no space: 4 KiB are free" in str(events[-1].error)
    assert isinstance(events[-1].error, RefusedError)


def test_the_offer_and_the_confirmation_have_deadlines() -> None:
    sender = Sender(OFFER, 100.0)
    assert sender.next_deadline() == 100.0 + ACCEPT_DEADLINE
    sender.on_deadline(100.0 + ACCEPT_DEADLINE - 1)
    assert sender.next_event() is None
    sender.on_deadline(100.0 + ACCEPT_DEADLINE)
    assert "accept" in str(error_of(sender))

    pair = Pair().accepted()
    assert pair.sender.next_deadline() is None
    pair.sender.end(50.0)
    assert pair.sender.next_deadline() == 50.0 + STORE_DEADLINE
    pair.sender.on_deadline(50.0 + STORE_DEADLINE)
    assert "confirm" in str(error_of(pair.sender))


SENDER_FRAMES_OUT_OF_TURN = {
    "entry before the offer": [(Frame.ENTRY, None)],
    "chunk without an entry": [(Frame.OFFER, OFFER), "accept", (Frame.CHUNK, None)],
    "end of an entry that is not open": [(Frame.OFFER, OFFER), "accept", (Frame.ENTRY_END, EntryEnd(bytes(32)))],
    "entry inside an entry": [(Frame.OFFER, OFFER), "accept", (Frame.ENTRY, None), (Frame.ENTRY, None)],
    "end inside an entry": [(Frame.OFFER, OFFER), "accept", (Frame.ENTRY, None), (Frame.END, End(0, 0, bytes(32)))],
    "two offers": [(Frame.OFFER, OFFER), (Frame.OFFER, OFFER)],
    "entry before it was accepted": [(Frame.OFFER, OFFER), (Frame.ENTRY, None)],
    "a receiver's frame": [(Frame.OFFER, OFFER), "accept", (Frame.PULL, Pull(1))],
}


@pytest.mark.parametrize("frames", SENDER_FRAMES_OUT_OF_TURN.values(), ids=SENDER_FRAMES_OUT_OF_TURN)
def test_a_sender_out_of_turn_is_ended(frames: list[object]) -> None:
    receiver = Receiver()
    for frame in frames:
        match frame:
            case "accept":
                receiver.accept(0.0)
            case (Frame.ENTRY, _):
                receiver.receive_data(entry_frame(), 0.0)
            case (Frame.CHUNK, _):
                receiver.receive_data(encode_frame(Frame.CHUNK, blake3(b"x").digest() + b"x"), 0.0)
            case (kind, message):
                receiver.receive_data(encode_frame(kind, encode_body(message)), 0.0)
    assert isinstance(error_of(receiver), RemoteProtocolError)


RECEIVER_FRAMES_OUT_OF_TURN = {
    "stored before the end": [(Frame.PULL, Pull(WINDOW)), (Frame.STORED, Stored(bytes(32), 0, 0))],
    "refusal of what was not sent": [(Frame.PULL, Pull(WINDOW)), (Frame.REFUSE_ENTRY, RefuseEntry(0, "no"))],
    "refusal before the first pull": [(Frame.REFUSE_ENTRY, RefuseEntry(0, "no"))],
    "a grant taken back": [(Frame.PULL, Pull(WINDOW)), (Frame.PULL, Pull(1))],
    "a sender's frame": [(Frame.OFFER, OFFER)],
}


@pytest.mark.parametrize("frames", RECEIVER_FRAMES_OUT_OF_TURN.values(), ids=RECEIVER_FRAMES_OUT_OF_TURN)
def test_a_receiver_out_of_turn_is_ended(frames: list[tuple[Frame, object]]) -> None:
    sender = Sender(OFFER, 0.0)
    for kind, message in frames:
        sender.receive_data(encode_frame(kind, encode_body(message)), 0.0)
    assert isinstance(error_of(sender), RemoteProtocolError)
    assert sender.data_to_send(0.0)[: HEADER.size] != HEADER.pack(Frame.SENDER_ABORT, 0)


def test_our_own_calls_out_of_turn_are_our_fault() -> None:
    sender, receiver = Sender(OFFER, 0.0), Receiver()
    for call in (
        lambda: sender.begin(FILE, 0.0),
        lambda: sender.content(b"x", 0.0),
        lambda: sender.end_entry(bytes(32), 0.0),
        lambda: sender.end(0.0),
        lambda: receiver.accept(0.0),
        lambda: receiver.stored(0, 0, 0.0),
        lambda: receiver.refuse_entry(0, "no", 0.0),
    ):
        with pytest.raises(LocalProtocolError):
            call()
    pair = Pair().accepted()
    pair.sender.begin(FILE, 0.0)
    for size in (0, CHUNK_SIZE + 1):
        with pytest.raises(LocalProtocolError):
            pair.sender.content(bytes(size), 0.0)


def test_the_number_of_entries_is_bounded() -> None:
    receiver = open_receiver()
    receiver._begun = MAX_ENTRIES
    receiver.receive_data(entry_frame(), 0.0)
    assert "entries" in str(error_of(receiver))


@given(st.binary(max_size=300), st.integers(min_value=0, max_value=3))
def test_any_bytes_end_in_an_event_at_most(junk: bytes, stage: int) -> None:
    receiver = Receiver()
    if stage:
        receiver.receive_data(encode_frame(Frame.OFFER, encode_body(OFFER)), 0.0)
        receiver.accept(0.0)
    if stage > 1:
        receiver.receive_data(entry_frame(), 0.0)
    sender = Sender(OFFER, 0.0)
    if stage > 2:
        sender.receive_data(encode_frame(Frame.PULL, encode_body(Pull(WINDOW))), 0.0)
    for machine in (receiver, sender):
        machine.receive_data(junk, 0.0)
        failures = [event for event in drain(machine) if isinstance(event, Failed)]
        assert len(failures) <= 1
        machine.receive_data(junk, 0.0)


@given(st.data())
def test_mutated_sessions_end_in_an_event_at_most(data: st.DataObject) -> None:
    pair = Pair().accepted()
    send_file(pair.sender, FILE, b"hello")
    pair.sender.end(0.0)
    session = bytearray(pair.sender.data_to_send(0.0))
    for _ in range(data.draw(st.integers(1, 4))):
        session[data.draw(st.integers(0, len(session) - 1))] = data.draw(st.integers(0, 255))
    receiver = open_receiver()
    generator = random.Random(data.draw(st.integers(0, 1000)))
    at = 0
    while at < len(session):
        size = generator.randint(1, 40)
        receiver.receive_data(bytes(session[at : at + size]), 0.0)
        at += size
    drain(receiver)


def test_reasons_and_paths_of_any_length_fit_their_frames() -> None:
    pair = Pair().accepted()
    pair.sender.begin(FILE, 0.0)
    pair.flow()
    pair.receiver.refuse_entry(0, "x" * 10_000, 0.0)
    pair.sender.fail_entry("y" * 10_000, 0.0)
    longest = Entry(("p" * 255,) * 16, EntryKind.FILE, (1 << 63) - 1, True, -(1 << 63))
    send_file(pair.sender, longest, b"")
    pair.flow()
    assert pair.told[-1] == EntryRefused(0, "x" * 500)
    assert Dropped("y" * 500) in pair.heard
    assert Began(1, longest) in pair.heard


def entry_frame(size: int = 5) -> bytes:
    header = EntryHeader(path=["f"], kind="file", size=size, executable=False, modified_ns=0)
    return encode_frame(Frame.ENTRY, encode_body(header))


def open_receiver() -> Receiver:
    receiver = Receiver()
    receiver.receive_data(encode_frame(Frame.OFFER, encode_body(OFFER)), 0.0)
    receiver.accept(0.0)
    receiver.data_to_send(0.0)
    drain(receiver)
    return receiver


def drain(machine: Sender | Receiver) -> list[object]:
    events: list[object] = []
    while (event := machine.next_event()) is not None:
        events.append(event)
    return events


def error_of(machine: Sender | Receiver) -> Exception:
    last = drain(machine)[-1]
    assert isinstance(last, Failed)
    return last.error


def test_an_abort_of_the_peer_is_a_refusal_with_its_reason() -> None:
    sender = Sender(OFFER, 0.0)
    sender.receive_data(encode_frame(Frame.RECEIVER_ABORT, encode_body(Abort("not into my stdout"))), 0.0)
    error = error_of(sender)
    assert isinstance(error, RefusedError)
    assert "not into my stdout" in str(error)
