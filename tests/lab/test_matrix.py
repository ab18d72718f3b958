"""Every cell of the table of routers (tests/lab/matrix.py) is what was derived for it: neither less nor more is joined."""

from collections.abc import Iterator

import pytest

from tests.lab.conftest import need
from tests.lab.matrix import ROWS, Plays, Row
from tests.lab.nat import TOOLS
from tests.lab.network import why_not


@pytest.fixture(scope="module")
def plays(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plays]:
    """All rows that are to be tested, at the same time."""
    need(why_not(*TOOLS))
    chosen = [item.callspec.params["row"] for item in request.session.items if item.path == request.path]
    with Plays(chosen, tmp_path_factory.mktemp("matrix")) as made:
        yield made


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=row.name, marks=[pytest.mark.soak] if row.minutes else []) for row in ROWS]
)
def test_row(plays: Plays, row: Row) -> None:
    row.check(plays.result(row))
