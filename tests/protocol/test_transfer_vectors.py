"""tests/vectors/transfer.json: the program makes those bytes, reads them, and refuses what is to be refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from meshd.errors import RemoteProtocolError
from meshd.protocol.transfer import AllSent, Content, Failed, Offered, Receiver
from tests.vectors import make_transfer

VECTORS: dict[str, Any] = json.loads((Path(make_transfer.__file__).with_name("transfer.json")).read_text())


def test_the_program_makes_the_published_bytes() -> None:
    assert make_transfer.vectors() == VECTORS


def test_a_receiver_reads_the_published_session() -> None:
    receiver = Receiver()
    session = bytes.fromhex(VECTORS["session_of_the_sender"])
    offer = bytes.fromhex(VECTORS["frames"]["OFFER"])
    receiver.receive_data(offer, 0.0)
    assert isinstance(receiver.next_event(), Offered)
    receiver.accept(0.0)
    receiver.receive_data(session[len(offer) :], 0.0)
    events = []
    while (event := receiver.next_event()) is not None:
        events.append(event)
    assert Content(bytes.fromhex(VECTORS["content"])) in events
    assert events[-1] == AllSent(1, 6)


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda case: case["what"])
def test_what_must_be_refused(case: dict[str, Any]) -> None:
    receiver = Receiver()
    receiver.receive_data(bytes.fromhex(VECTORS["frames"]["OFFER"]), 0.0)
    receiver.accept(0.0)
    for frame in case["frames"]:
        receiver.receive_data(bytes.fromhex(frame), 0.0)
    last = None
    while (event := receiver.next_event()) is not None:
        last = event
    assert isinstance(last, Failed)
    assert isinstance(last.error, RemoteProtocolError)
    assert case["error_says"] in str(last.error)
