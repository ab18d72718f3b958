from collections.abc import Iterator
from pathlib import Path

import pytest

from meshd.store.database import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "mesh.db") as opened:
        yield opened
