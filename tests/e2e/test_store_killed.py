"""kill -9 at any moment: what was acknowledged is there, once, in chains that verify, and views agree with it."""

import random
import subprocess
import sys
import time
from pathlib import Path

from meshd.store.database import Database
from meshd.wire.bodies import decode
from tests.store.kit import Author, fresh

ROOT = Path(__file__).parents[2]
ROUNDS = 12
AUTHORS = 5


def run_and_kill(path: Path, chance: random.Random) -> list[tuple[int, int, str]]:
    """Let the writer go on until a random number of acknowledgements and a moment more; what it acknowledged."""
    command = [sys.executable, "-m", "tests.e2e.store_writer", str(path), "1", str(AUTHORS)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        lines = []
        try:
            for _ in range(chance.choice((0, 1, 10, 100, 500))):
                lines.append(writer.stdout.readline())
            time.sleep(chance.random() * 0.05)
        finally:
            writer.kill()
        lines += writer.stdout.readlines()
    assert writer.returncode == -9
    return [(int(line.split()[0]), int(line.split()[1]), line.split()[2].decode()) for line in lines if line.strip()]


def test_a_writer_killed_at_random_moments_keeps_its_word(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    path = tmp_path / "mesh.db"
    acknowledged: list[tuple[int, int, str]] = []
    for _ in range(ROUNDS):
        acknowledged += run_and_kill(path, chance)
        with Database(path) as database:  # opening checks the file
            for number, sequence, digest in acknowledged:
                stored = database.records.hash_at(Author(number).data, sequence)
                assert stored is not None and stored.hex() == digest
    assert len(acknowledged) == len(set(acknowledged)) > 100
    check_chains_and_views(path)


def check_chains_and_views(path: Path) -> None:
    """Every chain is whole and signed, and the views are what folding all of it anew gives."""
    with Database(path) as database, fresh() as anew:
        for chain, head in database.records.heads().items():
            found = database.records.range(chain, 1, most=head.sequence, most_bytes=1 << 40, now_ms=0)
            assert len(found) == head.sequence and found[-1].record.head == head
            previous = bytes(32)
            for stored in found:
                assert stored.record.header.previous == previous and stored.record.is_authentic()
                previous = stored.record.hash

            def refold(opened: Database, found=found) -> None:
                for stored in found:
                    opened.records.insert(stored.record, age_ms=0, now_ms=0)
                    opened.handles.fold(stored.record, decode(stored.record))

            assert anew.commit([refold])[0].error is None
        assert anew.digests() == database.digests()
