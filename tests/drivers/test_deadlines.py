"""The heap of deadlines gives what looking at every connection would give."""

from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st

from meshd.drivers.quic_deadlines import Deadlines


@attrs.define(eq=False)
class Due:
    """What the heap knows of a connection."""

    deadline: float = 0.0


steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "drop", "due"]), st.integers(0, 7), st.sampled_from([0.0, 1, 2, 5, 9, float("inf")])
    ),
    max_size=300,
)


@given(steps)
def test_it_gives_what_looking_at_all_of_them_gives(steps: list[tuple[str, int, float]]) -> None:
    heap, all_of_them = Deadlines(), [Due() for _ in range(8)]
    there: dict[Any, float] = {}
    for what, which, when in steps:
        each: Any = all_of_them[which]
        if what == "put":
            each.deadline = when
            heap.put(each)
            there[each] = when
        elif what == "drop":
            heap.drop(each)
            there.pop(each, None)
        else:
            found = heap.due(when)
            assert len(found) == len(set(found)) and set(found) == {one for one, at in there.items() if at <= when}
            for one in found:
                del there[one]
        assert heap.next() == min(there.values(), default=float("inf"))


def test_what_is_outdated_does_not_pile_up() -> None:
    heap: Any = Deadlines()
    one, other = Due(), Due()
    for number in range(10_000):
        one.deadline, other.deadline = 1e6 - number, 1e6 + number
        heap.put(one)
        heap.put(other)
    assert len(heap._heap) < 100
