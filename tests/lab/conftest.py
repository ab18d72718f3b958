"""What the lab's tests share. Where a lab cannot be had they are skipped with the reason; in CI that is a failure."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemons import Daemon, all_linked, daemons, join
from tests.lab.matrix import SEEN, text_table
from tests.lab.meeting import Meeting, meeting
from tests.lab.nat import TOOLS, Wan
from tests.lab.network import Host, Lan, why_not
from tests.processes import Programs, new_words, programs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.lab)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of routers, as far as it was made."""
    if SEEN:
        terminalreporter.section("which pairs of routers are joined")
        terminalreporter.write_line(text_table())


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
def wan() -> Iterator[Wan]:
    """An internet of this test's own."""
    need(why_not(*TOOLS))
    with Wan() as made:
        yield made


@pytest.fixture
def servers(wan: Wan, tmp_path: Path) -> Iterator[Meeting]:
    """Two rendezvous servers on it."""
    with meeting(wan, tmp_path) as made:
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


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """`daemon(host)` starts `python -m meshd` there."""
    with daemons(tmp_path) as start:
        yield lambda host, **how: start(host.name, host.prefix, **how)


@pytest.fixture
def mesh(lan: Lan, daemon: Callable[..., Daemon]) -> Callable[..., list[Daemon]]:
    """`mesh("ann", "bob")`: a daemon on a host of each name, in one mesh that the first founded, linked with each other."""

    def make(*names: str) -> list[Daemon]:
        first, *others = made = [daemon(lan.host(name)) for name in names]
        first.tether("init", "--mesh", "home")
        for each in others:
            join(first, each)
        all_linked(*made)
        return made

    return make
