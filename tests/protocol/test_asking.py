"""Both ends of a stream of requests for blobs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import RemoteProtocolError
from meshd.model.chunks import CHUNK
from meshd.protocol.asking import LINK_OUTSTANDING, Answered, Answering, Asking
from meshd.wire.constants import Frame
from meshd.wire.fetch import Absence, Chunk, Holds, List, Lookup, NotServed, Small, Want, encode, raw_head

D, E = b"d" * 32, b"e" * 32
CHUNK_ZERO = raw_head(Frame.BLOB_CHUNK, 0, 3) + b"abc"
LIST_ZERO = raw_head(Frame.LIST, 0, 32) + D


def asked(how: str) -> Asking:
    asking = Asking()
    {
        "lookup": lambda: asking.lookup(D),
        "list": lambda: asking.want_list(D, 0),
        "want": lambda: asking.want(D, 5),
        "small": lambda: asking.want_small((D, E)),
    }[how]()
    return asking


FITTING = [
    ("lookup", encode(Holds(0, 9, E))),
    ("lookup", encode(NotServed(0, Absence.ABSENT))),
    ("list", LIST_ZERO),
    ("list", encode(NotServed(0, Absence.DAMAGED))),
    ("want", CHUNK_ZERO),
    ("want", encode(NotServed(0, Absence.DAMAGED))),
    ("small", encode(Small(0, (b"x", 0)))),
    ("small", encode(Small(0, (b"x",)))),
]


@pytest.mark.parametrize(("how", "data"), FITTING)
def test_an_answer_comes_out_beside_its_request(how: str, data: bytes) -> None:
    asking = asked(how)
    for byte in data[:-1]:
        asking.receive_data(bytes([byte]), 0.0)
        assert asking.next_event() is None
    asking.receive_data(data[-1:], 0.0)
    answered = asking.next_event()
    assert isinstance(answered, Answered)
    assert answered.request.number == answered.answer.number == 0
    assert asking.next_event() is None
    with pytest.raises(RemoteProtocolError, match="nobody asked"):
        asking.receive_data(data, 0.0)


@pytest.mark.parametrize("how", ["lookup", "list", "want", "small"])
@pytest.mark.parametrize("data", [data for _, data in FITTING] + [encode(Small(0, (b"x", 0, 0)))])
def test_an_answer_that_does_not_fit_ends_the_link(how: str, data: bytes) -> None:
    if (how, data) in FITTING or (how != "small" and data[0] == Frame.NOT_SERVED):
        return
    with pytest.raises(RemoteProtocolError):
        asked(how).receive_data(data, 0.0)


def test_answers_may_come_in_any_order() -> None:
    asking = Asking()
    asking.lookup(D)
    asking.want(E, 1)
    asking.receive_data(raw_head(Frame.BLOB_CHUNK, 1, 1) + b"x" + encode(Holds(0, 1, E)), 0.0)
    first, second = asking.next_event(), asking.next_event()
    assert first is not None
    assert second is not None
    assert (type(first.answer), type(second.answer)) == (Chunk, Holds)


def test_it_is_full_before_the_streams_reader_is() -> None:
    asking = Asking()
    count = 0
    while not asking.is_full:
        asking.want(D, count)
        count += 1
    assert count == LINK_OUTSTANDING // CHUNK
    assert asking.awaited == {D}
    asking.receive_data(raw_head(Frame.BLOB_CHUNK, 0, 1) + b"x", 0.0)
    assert not asking.is_full


def test_lookups_do_not_fill_it() -> None:
    asking = Asking()
    for _ in range(1000):
        asking.lookup(D)
    assert not asking.is_full


def test_back_to_back() -> None:
    asking, answering = Asking(), Answering()
    asking.lookup(D)
    asking.want_list(D, 32768)
    asking.want(E, 7)
    asking.want_small((D, E))
    data = asking.data_to_send(0.0)
    assert asking.data_to_send(0.0) == b""
    seen = []
    for byte in data:
        answering.receive_data(bytes([byte]), 0.0)
        while (request := answering.next_request()) is not None:
            seen.append(request)
    assert [request.number for request in seen] == [0, 1, 2, 3]
    assert seen[0] == Lookup(0, D)
    assert seen[2] == Want(2, E, 7)


def test_a_list_is_not_a_view_of_what_came() -> None:
    asking = asked("list")
    asking.receive_data(LIST_ZERO, 0.0)
    answered = asking.next_event()
    assert answered is not None
    assert answered.answer == List(0, D)


@given(st.binary(max_size=300))
def test_junk_to_an_asker(data: bytes) -> None:
    asking = asked("want")
    try:
        asking.receive_data(data, 0.0)
    except RemoteProtocolError:
        return
    assert asking.next_event() is None or data[0] in (Frame.BLOB_CHUNK, Frame.NOT_SERVED)


@given(st.binary(max_size=300))
def test_junk_to_a_holder(data: bytes) -> None:
    answering = Answering()
    answering.receive_data(data, 0.0)
    try:
        request = answering.next_request()
    except RemoteProtocolError:
        return
    assert request is None or data[0] in range(Frame.LOOKUP, Frame.WANT_SMALL + 1)
