"""Many small blobs: whom to ask for which."""

from hypothesis import given
from hypothesis import strategies as st

from meshd.model.identity import NodeId
from meshd.protocol.gathering import AT_ONCE, Gather, Outcome
from meshd.protocol.holder import SILENCE
from meshd.wire.fetch import SMALL_BYTES, SMALL_COUNT

A, B = NodeId(b"a" * 32), NodeId(b"b" * 32)
RIGHT, WRONG, NOT_THERE = Outcome.RIGHT, Outcome.WRONG, Outcome.NOT_THERE


def blobs(count: int, size: int = 100) -> list[tuple[bytes, int]]:
    return [(number.to_bytes(32, "big"), size) for number in range(count)]


def gather(wanted: list[tuple[bytes, int]], *nodes: NodeId) -> Gather:
    machine = Gather(wanted)
    for node in nodes:
        machine.add_holder(node, 0.0)
    return machine


def requests(machine: Gather, full: tuple[NodeId, ...] = ()) -> list[tuple[NodeId, tuple[bytes, ...]]]:
    found = []
    while (request := machine.next_request(full, 0.0)) is not None:
        found.append(request)
    return found


def test_requests_are_as_long_as_an_answer_may_be() -> None:
    many = requests(gather(blobs(2000), A))
    assert [len(digests) for _, digests in many] == [SMALL_COUNT] * AT_ONCE
    large = requests(gather(blobs(100, 64 * 1024), A))
    assert [len(digests) for _, digests in large] == [SMALL_BYTES // (64 * 1024)] * AT_ONCE


def test_holders_share_the_work_and_none_is_asked_twice() -> None:
    machine = gather(blobs(600), A, B)
    first = requests(machine)
    assert {node for node, _ in first} == {A, B}
    assert len({digest for _, digests in first for digest in digests}) == 600


def test_right_ones_are_done_and_the_rest_of_a_short_answer_is_asked_again() -> None:
    machine = gather(blobs(10), A)
    ((_, digests),) = requests(machine)
    machine.answered(A, digests, [RIGHT] * 4, 1.0)
    ((_, again),) = requests(machine)
    assert again == digests[4:]
    machine.answered(A, again, [RIGHT] * 6, 2.0)
    assert machine.is_over
    assert machine.left == []


def test_what_one_has_not_is_asked_of_the_other() -> None:
    machine = gather(blobs(3), A)
    ((_, digests),) = requests(machine)
    machine.answered(A, digests, [NOT_THERE, RIGHT, NOT_THERE], 1.0)
    assert requests(machine) == []
    assert machine.is_over
    machine.add_holder(B, 2.0)
    assert not machine.is_over
    assert requests(machine) == [(B, (digests[0], digests[2]))]
    machine.answered(B, (digests[0], digests[2]), [RIGHT, NOT_THERE], 3.0)
    assert machine.is_over or not requests(machine)
    assert machine.is_over
    assert machine.left == [digests[2]]


def test_a_lost_holder_owes_nothing() -> None:
    machine = gather(blobs(5), A)
    ((_, digests),) = requests(machine)
    machine.drop_holder(A, 1.0)
    assert machine.is_over
    machine.answered(A, digests, [RIGHT] * 5, 2.0)  # it was being checked meanwhile
    assert machine.left == []


def test_a_silent_holder_is_given_up() -> None:
    machine = gather(blobs(5), A)
    requests(machine)
    deadline = machine.next_deadline()
    assert deadline == SILENCE
    machine.heard(A, 20.0)
    machine.on_deadline(SILENCE)
    assert not machine.is_over
    machine.on_deadline(20.0 + SILENCE)
    assert machine.is_over
    assert machine.next_deadline() is None


def test_full_holders_wait() -> None:
    machine = gather(blobs(5), A)
    assert requests(machine, full=(A,)) == []
    assert not machine.is_over


@given(st.integers(0, 700), st.randoms(use_true_random=False), st.booleans())
def test_it_ends_with_what_anybody_has(count: int, chance: object, second: bool) -> None:
    wanted = blobs(count, 5000)
    has = {node: {digest for digest, _ in wanted if chance.random() < 0.7} for node in (A, B)}
    nodes = (A, B) if second else (A,)
    machine = gather(wanted, *nodes)
    steps = 0
    while not machine.is_over:
        for node, digests in requests(machine):
            length = chance.randint(1, len(digests))
            outcomes = [RIGHT if digest in has[node] else NOT_THERE for digest in digests[:length]]
            machine.answered(node, digests, outcomes, 0.0)
        steps += 1
        assert steps < 3000
    anybody = set().union(*(has[node] for node in nodes))
    assert set(machine.left) == {digest for digest, _ in wanted} - anybody
