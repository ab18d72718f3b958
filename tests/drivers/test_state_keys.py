"""The key file, the mark beside it, and generations that two copies do not share."""

import itertools
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshd.drivers import keys as keys_module
from meshd.drivers.keys import GENERATION_LIMIT, LEAP_LIMIT, KeyState, load_or_create, read_keys
from meshd.drivers.state import StateDirectory
from meshd.errors import RefusedError, StoreError

HERE, ELSEWHERE = b"this machine", b"another machine"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDirectory]:
    with StateDirectory.open(tmp_path / "s") as opened:
        yield opened


def load(state: StateDirectory, machine: bytes = HERE) -> KeyState:
    return load_or_create(state, machine_id=machine)


def test_the_first_run_makes_keys_and_the_next_finds_them(state: StateDirectory) -> None:
    first = load(state)
    assert (first.generation, first.copied) == (1, False)
    again = load(state)
    assert again.keys.identity == first.keys.identity
    assert (again.generation, again.copied) == (1, False)
    for path in (state.identity, state.generation):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {each.name for each in state.path.iterdir() if each.is_file()} == {"identity", "generation", "meshd.lock"}


def test_a_generation_lasts(state: StateDirectory) -> None:
    keys = load(state)
    opened = keys.next_generation()
    assert 1 < opened <= 1 + LEAP_LIMIT
    assert keys.generation == opened
    assert load(state).generation == opened
    assert keys.next_generation(above=opened + 5) > opened + 5


def test_a_copy_elsewhere_opens_a_new_generation(state: StateDirectory, tmp_path: Path) -> None:
    first = load(state)
    shutil.copytree(state.path, tmp_path / "copy", copy_function=shutil.copy2)
    with StateDirectory.open(tmp_path / "copy") as copy:
        found = load(copy, ELSEWHERE)
        assert found.copied and found.generation > first.generation
        assert found.keys.identity == first.keys.identity
        again = load(copy, ELSEWHERE)
        assert (again.generation, again.copied) == (found.generation, False), "told once"


def test_a_copy_on_the_same_machine_is_a_copy(state: StateDirectory, tmp_path: Path) -> None:
    load(state)
    shutil.copytree(state.path, tmp_path / "copy")
    with StateDirectory.open(tmp_path / "copy") as copy:
        assert load(copy).copied


def test_the_same_disk_in_another_machine_is_a_copy(state: StateDirectory) -> None:
    load(state)
    assert load(state, ELSEWHERE).copied


@pytest.mark.parametrize("content", [None, b"", b"one\n00\n", b"1\nxyz\n", b"0\n" + b"00" * 32, b"\xff\n\n", b"1\n"])
def test_without_a_readable_mark_it_is_a_copy(state: StateDirectory, content: bytes | None) -> None:
    load(state)
    if content is None:
        state.generation.unlink()
    else:
        state.generation.write_bytes(content)
    found = load(state)
    assert found.copied and found.generation > 1


def test_two_copies_that_wake_together_choose_apart() -> None:
    """With a counter that goes up by one, both would open generation 2, and their first records would be a fork."""
    leaps = {int.from_bytes(bytes((0, 0, high, low)), "big") % LEAP_LIMIT for high in range(256) for low in (0, 7)}
    assert len(leaps) == 512


def test_generations_end_with_a_word(state: StateDirectory) -> None:
    with pytest.raises(RefusedError, match="used up"):
        load(state).next_generation(above=GENERATION_LIMIT)


class TestCrashes:
    """The first run, cut off after each step that lasts: the next run makes keys, or finds them and suspects nothing."""

    @pytest.mark.parametrize("step", range(4))
    def test_at_the_first_run(self, state: StateDirectory, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
        count = itertools.count()

        def until(function: Callable[..., object]) -> Callable[..., object]:
            def cut(*arguments: object) -> object:
                if next(count) == step:
                    raise KeyboardInterrupt
                return function(*arguments)

            return cut

        monkeypatch.setattr(keys_module, "write_new", until(keys_module.write_new))
        monkeypatch.setattr(keys_module, "write_private", until(keys_module.write_private))
        monkeypatch.setattr(Path, "replace", until(Path.replace))
        with pytest.raises(KeyboardInterrupt):
            load(state)
        monkeypatch.undo()
        assert not load(state).copied
        assert not load(state).copied


def test_keys_that_others_may_read_are_refused(state: StateDirectory) -> None:
    load(state)
    state.identity.chmod(0o640)
    with pytest.raises(RefusedError, match="chmod 600"):
        load(state)


def test_a_link_in_place_of_the_keys_is_not_followed(state: StateDirectory, tmp_path: Path) -> None:
    load(state)
    state.identity.rename(tmp_path / "elsewhere")
    state.identity.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError):
        load(state)


def test_lost_keys_are_not_replaced_under_a_mesh(state: StateDirectory) -> None:
    load(state)
    state.mesh(bytes(32)).database.touch()
    state.identity.unlink()
    with pytest.raises(StoreError, match="is gone"):
        load(state)


def test_every_damage_to_the_key_file_is_seen_or_changes_nothing_it_says(state: StateDirectory) -> None:
    load(state)
    content = state.identity.read_bytes()
    for length in range(len(content) - 1):
        with pytest.raises(ValueError):
            read_keys(content[:length])
    for place in range(len("tether identity 1")):
        with pytest.raises(ValueError):
            read_keys(content[:place] + b"?" + content[place + 1 :])
    state.identity.write_bytes(b"")
    with pytest.raises(StoreError, match="not a key file"):
        load(state)


def test_nothing_shows_the_keys(state: StateDirectory) -> None:
    keys = load(state)
    assert keys.keys.signing_private.hex() not in repr(keys)
    assert repr(keys.keys.signing_private) not in repr(keys)
    assert repr(keys.keys.noise_private) not in repr(keys)
