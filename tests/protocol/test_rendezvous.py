"""A client's side of the talk with a rendezvous server: what is asked, what is heard, and what a server may not say."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import LocalProtocolError
from meshd.model.address import Address
from meshd.protocol.rendezvous import (
    ASKED_LIMIT,
    Crowded,
    Denied,
    Failed,
    Given,
    Matched,
    RendezvousClient,
    Seen,
)
from meshd.wire.constants import Frame
from meshd.wire.framing import FrameDecoder, encode_frame
from meshd.wire.rendezvous import (
    CLIENT_FRAMES,
    Allocate,
    Enter,
    Free,
    Leave,
    Match,
    Nat,
    Numbered,
    Observed,
    Refusal,
    Refused,
    Side,
    Third,
    Wait,
    decode_client,
    encode,
)
from tests.vectors.make_rendezvous import FILE, MESSAGES, vectors

NONCE = b"n" * 16


def said(client: RendezvousClient) -> list[Any]:
    decoder = FrameDecoder(CLIENT_FRAMES)
    decoder.receive(client.data_to_send())
    found = []
    while (frame := decoder.next_frame()) is not None:
        found.append(decode_client(*frame))
    return found


def heard(client: RendezvousClient, *messages: Any) -> list[Any]:
    client.receive_data(b"".join(encode(each) for each in messages))
    found = []
    while (event := client.next_event()) is not None:
        found.append(event)
    return found


def match(ref: int, card: bytes = b"") -> Match:
    return Match(ref, "203.0.113.9", 4001, NONCE, 30, Nat.ONE_FOR_ALL, card)


def matched(ref: int, card: bytes = b"") -> Matched:
    return Matched(ref, Address("203.0.113.9", 4001), NONCE, 0.03, Nat.ONE_FOR_ALL, card)


def test_vectors_are_what_makes_them() -> None:
    assert json.loads(Path(FILE).read_text()) == vectors()
    assert len(vectors()["frames"]) == len(MESSAGES) == 10


def test_a_window_gets_a_number_and_one_peer_after_the_other() -> None:
    client = RendezvousClient()
    ref = client.allocate(Nat.UNKNOWN)
    assert said(client) == [Allocate(ref, Nat.UNKNOWN)]
    assert heard(client, Observed("5.0.0.1", 9), Numbered(ref, 47, 900)) == [
        Seen(Address("5.0.0.1", 9)),
        Given(ref, 47, 900),
    ]
    assert heard(client, match(ref), Third(ref)) == [matched(ref), Crowded(ref)]
    client.free(ref)
    assert said(client) == [Free(ref)]
    assert heard(client, match(ref)) == [matched(ref)], "the number goes on"
    client.leave(ref)
    client.leave(ref)
    assert said(client) == [Leave(ref)]
    assert heard(client, match(ref)) == [], "it was under way"


def test_who_enters_is_matched_or_refused() -> None:
    client = RendezvousClient()
    first, second = client.enter(7, Nat.NONE), client.enter(8, Nat.NONE)
    assert said(client) == [Enter(first, 7, Nat.NONE), Enter(second, 8, Nat.NONE)]
    assert heard(client, Refused(first, Refusal.NO_SUCH_NUMBER, 0), match(second)) == [
        Denied(first, Refusal.NO_SUCH_NUMBER, 0),
        matched(second),
    ]
    assert not client.is_asked(first) and client.is_asked(second)
    client.free(second)
    assert said(client) == [], "only who allocated may"


def test_a_wait_is_renewed_and_over_once_matched() -> None:
    client = RendezvousClient()
    ref = client.wait(bytes(32), Side.FIRST, b"card")
    assert client.wait(bytes(32), Side.FIRST, b"card 2", ref) == ref
    assert said(client) == [Wait(ref, bytes(32), Side.FIRST, b"card"), Wait(ref, bytes(32), Side.FIRST, b"card 2")]
    assert heard(client, match(ref, b"theirs")) == [matched(ref, b"theirs")]
    again = client.wait(bytes(32), Side.FIRST, b"card", ref)
    assert again != ref


def test_no_more_is_asked_than_a_server_takes() -> None:
    client = RendezvousClient()
    refs = [client.wait(bytes(32), Side.FIRST, b"") for _ in range(ASKED_LIMIT)]
    with pytest.raises(LocalProtocolError):
        client.allocate(Nat.UNKNOWN)
    client.leave(refs[0])
    client.allocate(Nat.UNKNOWN)


@pytest.mark.parametrize(
    "message", [Numbered(1, 5, 5), Numbered(9, 5, 5), match(9), Refused(9, Refusal.TAKEN, 1), Third(9)]
)
def test_what_was_not_asked_ends_it(message: Any) -> None:
    client = RendezvousClient()
    client.enter(3, Nat.UNKNOWN)
    (event,) = heard(client, message)
    assert isinstance(event, Failed)
    assert heard(client, Observed("5.0.0.1", 9)) == []


@pytest.mark.parametrize("broken", [b"\x01", encode_frame(Frame.MATCH, b"\xc1"), encode_frame(Frame.OBSERVED, b"")])
def test_what_is_no_message_ends_it(broken: bytes) -> None:
    client = RendezvousClient()
    client.receive_data(broken + b"\0" * 8)
    assert isinstance(client.next_event(), Failed)


@given(st.binary(max_size=300))
def test_no_bytes_raise(data: bytes) -> None:
    client = RendezvousClient()
    client.allocate(Nat.UNKNOWN)
    for byte in data:
        client.receive_data(bytes([byte]))
