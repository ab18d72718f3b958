"""From the group of errors that a nursery raises to the one that a person can act on."""

import contextlib
from collections.abc import Iterator

from meshd.errors import ConnectionLostError, TetherError


@contextlib.contextmanager
def one_error() -> Iterator[None]:
    """Raise the most telling TetherError of a group by itself: a lost connection is mostly what another one led to.

    A group that holds anything else (a cancellation, a fault of this program) goes on as it is.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        ours, others = group.split(TetherError)
        if ours is None or others is not None:
            raise
        found = sorted(_leaves(ours), key=lambda error: isinstance(error, ConnectionLostError))
        raise found[0] from None


def _leaves(group: BaseExceptionGroup[TetherError]) -> Iterator[TetherError]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _leaves(each)
        else:
            yield each
