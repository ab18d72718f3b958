"""What the end-to-end tests share: the command on loopback, and words of each test's own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemons import Daemon, daemons
from tests.processes import Programs, new_words, programs


@pytest.fixture
def tether(tmp_path: Path) -> Iterator[Programs]:
    """Starts `python -m tether_lite`, multicast on loopback only, and ends what is left."""
    directory = tmp_path / "run"
    directory.mkdir()
    with programs(directory, TETHER_LAN_INTERFACES="127.0.0.1") as made:
        yield made


@pytest.fixture
def words() -> str:
    return new_words()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Starts daemons, multicast on loopback only, and ends them; the disk that tests run on may be nearly full."""
    with daemons(tmp_path, TETHER_DISK_FLOOR="0") as starting:
        yield starting
