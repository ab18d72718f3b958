"""Any bytes, at any stage, whole or in pieces: a machine may fail, and nothing else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.protocol.admission import Window
from meshd.protocol.handshake import Role
from meshd.wire.constants import PAIRING_FRAMES, Frame
from meshd.wire.framing import encode_frame
from tests.protocol.back_to_back import Ran, pairing, run

_HONEST = run(pairing(Role.A), pairing(Role.B))
FROM_PEER = {
    Role.A: [encode_frame(*frame) for frame in _HONEST[1].frames],
    Role.B: [encode_frame(*frame) for frame in _HONEST[0].frames],
}

ROLES = st.sampled_from(Role)
PIECES = st.sampled_from([None, 1, 3])
FRAMES = st.builds(encode_frame, st.sampled_from(Frame), st.binary(max_size=2000))
JUNK = st.lists(st.one_of(st.binary(max_size=300), FRAMES), min_size=1, max_size=4).map(b"".join)

slow = settings(deadline=None, max_examples=120)


def at_stage(role: Role, stage: int, window: Window) -> Ran:
    ran = Ran(pairing(role, window=window))
    ran.turn()
    for frame in FROM_PEER[role][:stage]:
        ran.feed(frame)
    return ran


def check(ran: Ran, window: Window) -> None:
    """What holds after any input: nothing leaks out of the counter, and a failed machine is silent."""
    if ran.failed:
        assert ran.machine.data_to_send(2.0) == b""
        assert ran.machine.next_deadline() is None
        assert (window.failed, window.open_tries) == (ran.failed.spent, 0)
    else:
        assert ran.machine.next_deadline() is not None
        assert window.failed == 0


@slow
@given(ROLES, st.integers(0, 4), JUNK, PIECES)
def test_junk_at_any_stage(role: Role, stage: int, junk: bytes, piece: int | None) -> None:
    window = Window()
    ran = at_stage(role, min(stage, len(FROM_PEER[role]) - 1), window)
    assert ran.failed is None
    ran.feed(junk, piece)
    assert ran.paired is None
    check(ran, window)


@slow
@given(ROLES, st.data(), PIECES)
def test_no_changed_bit_goes_through(role: Role, data: st.DataObject, piece: int | None) -> None:
    frames = FROM_PEER[role]
    stage = data.draw(st.integers(0, len(frames) - 1))
    place = data.draw(st.integers(0, len(frames[stage]) - 1))
    changed = bytearray(frames[stage])
    changed[place] ^= 1 << data.draw(st.integers(0, 7))
    window = Window()
    ran = at_stage(role, stage, window)
    ran.feed(bytes(changed), piece)
    for frame in frames[stage + 1 :]:
        ran.feed(frame, piece)
    assert ran.paired is None
    check(ran, window)


@slow
@given(ROLES, st.data())
def test_frames_in_another_order_do_not_pair(role: Role, data: st.DataObject) -> None:
    frames = FROM_PEER[role]
    order = data.draw(st.lists(st.sampled_from(range(len(frames))), max_size=8))
    window = Window()
    ran = Ran(pairing(role, window=window))
    ran.turn()
    for index in order:
        ran.feed(frames[index])
    honest = list(range(len(frames)))
    assert (ran.paired is not None) == (order[: len(frames)] == honest)
    if order != honest:
        check(ran, window)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("kind", PAIRING_FRAMES)
def test_the_longest_frame_of_every_type_at_every_stage(role: Role, kind: Frame) -> None:
    for stage in range(len(FROM_PEER[role])):
        window = Window()
        ran = at_stage(role, stage, window)
        ran.feed(encode_frame(kind, bytes(PAIRING_FRAMES[kind])))
        assert ran.failed is not None
        check(ran, window)


@given(st.binary(max_size=400), st.floats(0, 20))
def test_a_fresh_machine_never_raises_whatever_the_time(junk: bytes, now: float) -> None:
    for role in Role:
        window = Window()
        ran = Ran(pairing(role, window=window))
        ran.feed(junk, now=now)
        ran.machine.on_deadline(20.0)
        ran.turn(20.0)
        assert ran.failed is not None and not ran.failed.spent
        check(ran, window)
