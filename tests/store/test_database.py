"""Opening, the schema's numbers, shared commits, and what goes wrong with files."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from meshd.errors import StoreError
from meshd.store.connection import SQLITE_FLOOR, explained, schema_files
from meshd.store.database import Database
from tests.store.kit import Author, keep, value


def pragma(path: Path, text: str) -> object:
    connection = apsw.Connection(os.fspath(path))
    try:
        return next(connection.execute(text), (None,))[0]
    finally:
        connection.close()


def test_sqlite_is_one_without_the_lost_log() -> None:
    assert tuple(int(part) for part in apsw.sqlite_lib_version().split(".")) >= SQLITE_FLOOR


def test_what_makes_commits_durable_is_set(database: Database) -> None:
    """FULL is 2: the log is flushed before a commit returns."""

    def settings(opened: Database) -> list[object]:
        return [
            opened._connection.pragma(name) for name in ("journal_mode", "synchronous", "foreign_keys", "mmap_size")
        ]

    assert settings(database) == ["wal", 2, 1, 0]


def test_files_are_private(database: Database, tmp_path: Path) -> None:
    keep(database, Author().say(value(1)))
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert found == {"mesh.db": 0o600, "mesh.db-wal": 0o600, "mesh.db-shm": 0o600}


def test_opening_again_finds_everything(tmp_path: Path) -> None:
    author = Author()
    record = author.say(value(1))
    with Database(tmp_path / "mesh.db") as first:
        keep(first, record)
    with Database(tmp_path / "mesh.db") as second:
        assert second.records.by_hash(record.hash) == record
    assert pragma(tmp_path / "mesh.db", "PRAGMA user_version") == len(schema_files())


def test_each_step_of_the_schema_is_taken_once(tmp_path: Path) -> None:
    """From every older schema: one step after another leads to the same tables as all at once."""

    def tables(path: Path) -> object:
        return pragma(
            path, "SELECT group_concat(name || ': ' || sql, '; ') FROM (SELECT * FROM sqlite_schema ORDER BY name)"
        )

    Database(tmp_path / "new.db").close()
    for number in range(1, len(schema_files())):
        old = tmp_path / f"old-{number}.db"
        connection = apsw.Connection(os.fspath(old))
        for step in schema_files()[:number]:
            connection.execute(step.read_text())
        connection.execute(f"PRAGMA user_version = {number}; PRAGMA application_id = {0x74657468}")
        connection.close()
        Database(old).close()
        assert tables(old) == tables(tmp_path / "new.db")


def test_a_newer_schema_is_refused_by_its_number_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    Database(path).close()
    pragma(path, "PRAGMA user_version = 99")
    pragma(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"newer meshd.*schema 99") as raised:
        Database(path)
    assert "Update" in raised.value.advice
    assert path.read_bytes() == before


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    pragma(tmp_path / "unnamed.db", "CREATE TABLE guests (name TEXT)")
    pragma(tmp_path / "named.db", "PRAGMA application_id = 12345")
    for path in tmp_path.glob("*named.db"):
        with pytest.raises(StoreError, match="another program"):
            Database(path)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    path.write_bytes(b"a diary, begun in earnest " * 500)
    with pytest.raises(StoreError, match="is damaged"):
        Database(path)


@pytest.mark.parametrize("stride", [1, 3])
def test_a_damaged_database_is_found_at_start(tmp_path: Path, stride: int) -> None:
    path = tmp_path / "mesh.db"
    with Database(path) as database:
        keep(database, *(author.say(value("x" * 500)) for author in [Author()] for _ in range(200)))
    content = bytearray(path.read_bytes())
    for page in range(4096 * 8, len(content) - 4096, 4096 * stride):
        content[page : page + 64] = b"\xa5" * 64
    path.write_bytes(content)
    with pytest.raises(StoreError, match="is damaged"):
        Database(path)


def test_a_link_in_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    (tmp_path / "mesh.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError):
        Database(tmp_path / "mesh.db")


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"gone/mesh\.db"):
        Database(tmp_path / "gone" / "mesh.db")


class TestCommit:
    def test_jobs_see_each_other_and_end_together(self, database: Database) -> None:
        def count(opened: Database) -> int:
            opened.meta.set("n", str(int(opened.meta.get("n") or b"0") + 1).encode())
            return int(opened.meta.get("n") or b"0")

        assert [each.value for each in database.commit([count] * 5)] == [1, 2, 3, 4, 5]
        assert database.meta.get("n") == b"5"

    def test_a_job_that_fails_undoes_itself_alone(self, database: Database) -> None:
        def put(name: str) -> Callable[[Database], None]:
            return lambda opened: opened.meta.set(name, b"here")

        def fail(opened: Database) -> None:
            opened.meta.set("failed", b"here")
            raise KeyError("on purpose")

        done = database.commit([put("before"), fail, put("after")])
        assert [type(each.error) for each in done] == [type(None), KeyError, type(None)]
        assert database.meta.starting("") == {"after": b"here", "before": b"here"}

    def test_what_ends_the_program_undoes_everything(self, database: Database) -> None:
        def stop(_: Database) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            database.commit([lambda opened: opened.meta.set("before", b""), stop])
        assert database.meta.starting("") == {}
        database.commit([lambda opened: opened.meta.set("after", b"")])
        assert database.meta.starting("") == {"after": b""}

    def test_a_full_disk_fails_all_and_harms_nothing(self, database: Database) -> None:
        """SQLite's own page limit stands in for the disk's end: the same error, and the same recovery."""
        author = Author()
        keep(database, author.say(value("before")))
        connection = database._connection
        used = connection.pragma("page_count")
        connection.pragma("max_page_count", used + 1)
        big = author.say(value("x" * 100_000))
        with pytest.raises(StoreError, match="No space"):
            database.commit(
                [
                    lambda opened: opened.meta.set("shared", b"the same commit"),
                    lambda opened: opened.records.insert(big, age_ms=0, now_ms=0),
                ]
            )
        assert database.meta.get("shared") is None
        assert database.records.heads()[author.data].sequence == 1
        connection.pragma("max_page_count", used + 1000)
        assert keep(database, big) == [True]

    def test_a_commit_that_cannot_be_flushed_fails_all(self, database: Database) -> None:
        """What is checked at the commit itself fails after every job has run."""

        def promise(opened: Database) -> None:
            opened._connection.execute("PRAGMA defer_foreign_keys = 1")
            opened._connection.execute("INSERT INTO held VALUES (12345, 1, 1, x'', x'', 1)")

        with pytest.raises(apsw.ConstraintError):
            database.commit([lambda opened: opened.meta.set("shared", b""), promise])
        assert database.meta.get("shared") is None
        keep(database, Author().say(value(1)))

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (apsw.FullError(), "No space"),
            (apsw.ReadOnlyError("r"), "cannot be written"),
            (apsw.CantOpenError("c"), "cannot be written"),
            (apsw.CorruptError("c"), "is damaged"),
            (apsw.NotADBError("n"), "is damaged"),
            (apsw.BusyError("b"), "Another program"),
            (apsw.IOError("i"), "failed"),
        ],
    )
    def test_what_a_disk_does_is_told_in_words(self, error: apsw.Error, words: str) -> None:
        with pytest.raises(StoreError, match=words) as raised, explained("mesh.db"):
            raise error
        assert raised.value.advice


def test_a_reader_sees_one_state(database: Database, tmp_path: Path) -> None:
    with Database(tmp_path / "mesh.db", read_only=True) as reader:

        def twice(opened: Database) -> tuple[bytes | None, bytes | None]:
            first = opened.meta.get("n")
            database.commit([lambda writer: writer.meta.set("n", b"1")])
            return first, opened.meta.get("n")

        assert reader.look(twice) == (None, None)
        assert reader.look(lambda opened: opened.meta.get("n")) == b"1"


def test_a_reader_cannot_write(database: Database, tmp_path: Path) -> None:
    with (
        Database(tmp_path / "mesh.db", read_only=True) as reader,
        pytest.raises(StoreError),
    ):
        reader.look(lambda opened: opened.meta.set("n", b"1"))
    assert database.meta.get("n") is None


def test_a_copy_is_whole_and_private_enough_to_open(database: Database, tmp_path: Path) -> None:
    author = Author()
    keep(database, *(author.say(value(n)) for n in range(100)))
    with Database(tmp_path / "mesh.db", read_only=True) as reader:
        reader.copy_to(tmp_path / "copy.db")
    with Database(tmp_path / "copy.db") as copy:
        assert copy.records.heads() == database.records.heads()
