"""A peer that breaks the protocol is ended with a reason, and nothing that it sends raises, whole or byte by byte."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.model.record import Log, LogId
from meshd.protocol.replica import HEADS_LIMIT, WINDOW
from meshd.protocol.replication_events import Failed, ReadDue, RecordsArrived, Settled
from meshd.wire.constants import Frame
from meshd.wire.framing import encode_frame
from meshd.wire.sync import (
    SYNC_FRAMES,
    TIPS_IN_FRAME,
    Arrived,
    AskHashes,
    AskRecords,
    Hashes,
    Heads,
    Message,
    More,
    Probe,
    Records,
    Span,
    Tip,
)
from tests.protocol.replication_kit import Member, lab
from tests.vectors import make_sync


class Liar:
    """Speaks on a link to `a` whatever a test wants, in the place of `b`."""

    def __init__(self, *, settled: bool = True, written: int = 0) -> None:
        _, _, members = lab("a", "b")
        self.a, self.b = members["a"], members["b"]
        self.data = LogId(self.a.key, Log.DATA, 1)
        for number in range(written):
            self.a.say("test.note", b"%d" % number + b"." * 2000)
        self.link = self.a.machine.linked(self.b.key, 0.0)
        if settled:
            self.say(Heads(Log.ROSTER, True, ()))
            assert self.a.saw(Settled)

    def say(self, *messages: Message | bytes) -> None:
        for message in messages:
            data = message if isinstance(message, bytes) else message.encode()
            self.a.machine.receive_data(self.link, data, self.a.now)
            self.a.work(self.link)

    @property
    def why(self) -> str:
        """Why the link was ended."""
        return "".join(event.why for event in self.a.events if isinstance(event, Failed))


def theirs(count: int) -> list[Arrived]:
    """Records that `b` has signed."""
    writer = Member(lab("a", "b")[0], "b").begin(lab("a", "b")[2]["b"].records())
    return [Arrived(writer.say("test.note", b"%d" % number), 0) for number in range(count)]


OTHER = LogId(bytes(31) + b"!", Log.DATA, 1)
TIP = Tip(5, bytes([5]) * 32, 100)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([Heads(Log.ROSTER, True, ())], "told twice"),
        ([Records(1, True, ())], "was not asked"),
        ([AskRecords(1, (Span(OTHER, 1, 2),)), AskRecords(1, (Span(OTHER, 1, 2),))], "one number"),
        ([Hashes((None,))], "not asked for"),
        ([Probe(b"12345678", echo=True)], "not sent"),
        ([encode_frame(Frame.CHUNK, b"")], "not allowed here"),
        ([b"\x42\xff\xff\xff\xff"], "are allowed"),
        ([encode_frame(Frame.RECORDS, bytes(3))], "broken RECORDS"),
    ],
)
def test_what_ends_a_link(said: list[Message | bytes], why: str) -> None:
    liar = Liar()
    liar.say(*said)
    assert why in liar.why
    liar.say(Probe(b"12345678", echo=False))
    assert liar.a.machine.data_to_send(liar.link, 1.0) == b"", "who was given up is answered nothing"


@pytest.mark.parametrize(
    "said",
    [
        AskRecords(1, (Span(OTHER, 1, 2),)),
        AskHashes(OTHER, (1,)),
        Records(0, True, (Arrived(make_sync.record(1), 0),)),
    ],
)
def test_data_is_spoken_of_only_after_the_rosters_were_compared(said: Message) -> None:
    liar = Liar(settled=False)
    liar.say(said)
    assert "before the rosters" in liar.why


def test_more_than_was_asked_for() -> None:
    liar = Liar()
    liar.say(Heads(Log.DATA, True, ((LogId(liar.b.key, Log.DATA, 1), Tip(100, TIP.hash, 9)),)))
    record = theirs(1)[0]
    for _ in range(WINDOW + 1):
        liar.a.machine.receive_data(liar.link, Records(1, False, (record,)).encode(), 0.0)
    liar.a.work(liar.link)
    assert "more than it was asked for" in liar.why


def test_more_credit_than_there_is() -> None:
    liar = Liar(written=1000)
    liar.say(AskRecords(1, (Span(liar.data, 1, 1000),)))
    assert len(liar.a.saw(ReadDue)) == WINDOW
    liar.say(More(), More(), More(), More())
    assert not liar.why and len(liar.a.saw(ReadDue)) == WINDOW + 4
    # All credit is used: what is not read is not sent either, whatever is asked.
    assert liar.a.machine.unsent(liar.link) < (WINDOW + 5) * SYNC_FRAMES[Frame.RECORDS]
    lazy = Liar(written=1000)
    number = lazy.a.machine.linked(lazy.b.key, 0.0)
    lazy.a.machine.receive_data(number, Heads(Log.ROSTER, True, ()).encode(), 0.0)
    lazy.a.machine.receive_data(number, AskRecords(1, (Span(lazy.data, 1, 1000),)).encode() + More().encode(), 0.0)
    lazy.a.work(number)
    assert "more than it was owed" in str(lazy.a.events[-1])


def test_a_peer_that_asks_and_asks_gets_one_answer_at_a_time() -> None:
    liar = Liar(written=1000)
    for number in range(1, 50):
        liar.a.machine.receive_data(liar.link, AskRecords(number, (Span(liar.data, 1, 1000),)).encode(), 0.0)
    liar.a.work(liar.link)
    sent = liar.a.machine.unsent(liar.link)
    assert not liar.why and sent < (WINDOW + 1) * SYNC_FRAMES[Frame.RECORDS]


def test_more_hash_questions_than_one_at_a_time() -> None:
    liar = Liar(written=5)
    question = AskHashes(liar.data, (1, 2)).encode()
    liar.say(question, question)
    assert not liar.why
    liar.a.machine.receive_data(liar.link, question + question, 0.0)
    liar.a.work(liar.link)
    assert "twice at a time" in liar.why


def test_more_chains_than_there_can_be() -> None:
    liar = Liar()
    for start in range(0, 2 * HEADS_LIMIT + 1, TIPS_IN_FRAME):
        chains = (LogId(number.to_bytes(32, "big"), Log.DATA, 1) for number in range(start, start + TIPS_IN_FRAME))
        liar.say(Heads(Log.DATA, False, tuple((chain, TIP) for chain in chains)))
    assert "more chains" in liar.why


def test_heads_of_strangers_lead_to_no_question() -> None:
    liar = Liar()
    liar.a.machine.data_to_send(liar.link, 1.0)
    liar.say(Heads(Log.DATA, True, ((OTHER, TIP),)))
    assert liar.a.machine.data_to_send(liar.link, 1.0) == b""


def test_a_push_that_nobody_can_use_is_no_crime() -> None:
    liar = Liar()
    stranger = Arrived(make_sync.record(1), 0)
    future = theirs(3)[2]
    liar.say(Records(0, True, (stranger,)), Records(0, True, (future,)))
    assert not liar.why and len(liar.a.saw(RecordsArrived)) == 2
    assert not any(record.header.log is Log.DATA for record in liar.a.records())


def test_promised_records_that_do_not_come_are_not_asked_for_in_a_circle() -> None:
    liar = Liar()
    promised = Heads(Log.DATA, True, ((LogId(liar.b.key, Log.DATA, 1), TIP),))
    liar.say(promised)
    liar.a.machine.data_to_send(liar.link, 0.0)
    liar.say(Records(1, True, ()))
    assert liar.a.machine.data_to_send(liar.link, 0.1) == b""
    liar.say(Heads(Log.DATA, False, promised.tips))
    assert liar.a.machine.data_to_send(liar.link, 0.2) == b"", "the same promise again"
    liar.a.now = 61.0
    liar.a.machine.on_deadline(61.0)
    assert liar.a.machine.data_to_send(liar.link, 61.0) == AskRecords(2, (Span(promised.tips[0][0], 1, 5),)).encode()


def test_void_records_in_an_answer_end_the_question() -> None:
    """A peer that streams what cannot be stored is not asked for the rest of it."""
    liar = Liar()
    chain = LogId(liar.b.key, Log.DATA, 1)
    liar.say(Heads(Log.DATA, True, ((chain, Tip(100, TIP.hash, 9)),)))
    liar.a.machine.data_to_send(liar.link, 0.0)
    liar.say(Records(1, False, (theirs(3)[2],)))
    assert liar.a.machine.data_to_send(liar.link, 0.0) == AskRecords(2, ()).encode()


FRAMES = [*make_sync.messages().values()]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(FRAMES) | st.binary(max_size=80), max_size=12), st.integers(0, 2**32))
def test_nothing_raises(said: list[Message | bytes], seed: int) -> None:
    chance = random.Random(seed)
    liar = Liar(settled=chance.random() < 0.7, written=2)
    data = b"".join(each if isinstance(each, bytes) else each.encode() for each in said)
    while data:
        count = chance.choice((1, 3, 50, 10_000))
        liar.say(data[:count])
        data = data[count:]
        liar.a.now += chance.choice((0, 0, 1, 30))
        liar.a.machine.on_deadline(liar.a.now)
        liar.a.machine.data_to_send(liar.link, liar.a.now)
