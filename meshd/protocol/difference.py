"""Where two copies of one chain begin to differ, found by hashes: docs/protocol/records.md, "Forks".

Records name their predecessors, so two copies that are equal at one number are equal before it, and two that differ
differ ever after. That makes it a search: 32 questions at a time, six round trips for a billion records.
"""

from collections.abc import Sequence

from meshd.wire.sync import QUESTIONS_LIMIT


class Search:
    """A search between `same` (0: the empty chain) and `different`, the first number known to differ."""

    def __init__(self, different: int) -> None:
        self._same = 0
        self._different = different

    @property
    def found(self) -> int | None:
        """The first number at which the copies differ, once nothing lies between."""
        return self._different if self._different == self._same + 1 else None

    def questions(self) -> tuple[int, ...]:
        """Which hashes to compare next: evenly spread over what is left, at most QUESTIONS_LIMIT."""
        between = self._different - self._same - 1
        count = min(between, QUESTIONS_LIMIT)
        return tuple(self._same + (between + 1) * step // (count + 1) for step in range(1, count + 1))

    def narrow(self, questions: Sequence[int], ours: Sequence[bytes | None], theirs: Sequence[bytes | None]) -> bool:
        """Take the answers to `questions`. False when one is missing: then there is nothing to be found here."""
        for number, mine, other in zip(questions, ours, theirs, strict=True):
            if mine is None or other is None:
                return False
            if mine != other:
                self._different = number
                break
            self._same = number
        return True
