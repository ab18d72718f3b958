"""What the lab's tests share. Where a lab cannot be had they are skipped with the reason; in CI that is a failure."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.network import Host, Lan, why_not
from tests.processes import Programs, new_words, programs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.lab)


def need(reason: str | None) -> None:
    """Skip for this reason, if there is one."""
    if reason is not None and os.environ.get("CI"):
        pytest.fail(f"the lab cannot run here: {reason}")
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def _possible() -> str | None:
    return why_not()


@pytest.fixture
def lan(_possible: str | None) -> Iterator[Lan]:
    """A LAN of this test's own."""
    need(_possible)
    with Lan() as made:
        yield made


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Callable[[Host], Programs]]:
    """`at(host)` starts `python -m tether_lite` there, in a directory of the host's."""
    with contextlib.ExitStack() as stack:
        made: dict[str, Programs] = {}

        def programs_at(host: Host) -> Programs:
            if host.name not in made:
                directory = tmp_path / host.name
                directory.mkdir()
                made[host.name] = stack.enter_context(programs(directory, prefix=host.prefix))
            return made[host.name]

        yield programs_at


@pytest.fixture
def words() -> str:
    return new_words()
