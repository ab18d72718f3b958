"""500 handoffs of 256 KiB over bad networks, the engine pair chosen by seed: docs/protocol/transfer.md, "Silence".

A seed fixes what the network does to the n-th datagram of each direction. The engines' own randomness (keys, connection
ids) and trio's order of tasks are not seeded, so a rerun of a failing seed may pass: the seed narrows the search.
"""

import pytest

from tests.sim.handoffs import Result, run_handoff

SIZE = 256 * 1024
BATCH = 50

FAULTS = {"delay": 0.01, "jitter": 0.02, "duplicate": 0.02, "reorder": 0.05}


def _run(seeds: range, loss_of: dict[int, float]) -> list[Result]:
    results = []
    for seed in seeds:
        result = run_handoff(seed, SIZE, loss=loss_of[seed % len(loss_of)], **FAULTS)
        result.check()
        results.append(result)
    return results


@pytest.mark.parametrize("first", range(0, 400, BATCH))
def test_up_to_a_tenth_lost_all_complete(first: int) -> None:
    # Five is coprime to the four engine pairs: each pair meets each loss.
    loss_of = {0: 0.0, 1: 0.02, 2: 0.05, 3: 0.08, 4: 0.10}
    failed = [result for result in _run(range(first, first + BATCH), loss_of) if not result.complete]
    assert not failed


def test_at_three_tenths_lost_nearly_all_complete_and_the_rest_say_why() -> None:
    # One test, since the share is over all hundred; it runs beside the others.
    results = _run(range(1000, 1100), {0: 0.3})
    failed = [
        (result.seed, result.engines, result.sender, result.receiver) for result in results if not result.complete
    ]
    print(f"{len(results) - len(failed)} of {len(results)} complete; the rest: {failed}")
    assert len(failed) <= len(results) * 5 // 100, failed
