"""The machine's keys on disk, and the generation under which it writes records.

A copy of the keys elsewhere, or of an older state here, must not go on in the same chains: two records with one number
are a fork, and a fork of two first records ends the author for good (docs/protocol/membership.md). So beside the key
file lies a mark, BLAKE3 over machine-id and the key file's device and inode, that no copy of the file fits; a state with
another mark, or without one, opens a new generation before it writes anything. Generations leap by a random step:
two copies that find out about each other at the same time would otherwise both open the next one, and fork there.
"""

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs
from blake3 import blake3

from meshd.drivers.state import StateDirectory, flush_names, write_new, write_private
from meshd.errors import RefusedError, StoreError
from meshd.model.identity import KEY_SIZE, Keys

LEAP_LIMIT: Final = 1 << 16
"""Most that a generation leaps: one in 65,536 for two copies to choose alike, and a hundred thousand leaps in 32 bits."""

GENERATION_LIMIT: Final = (1 << 32) - 1
"""A record's header has 32 bits for it."""

_KEY_WORDS: Final = "tether identity 1"
_MACHINE_ID: Final = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_SMALL: Final = 4096


@attrs.define(eq=False)
class KeyState:
    """The keys and the generation, as loaded. `next_generation` alone changes it."""

    keys: Keys
    generation: int
    """From 1. What this run writes under, unless a peer or the store knows of a later one."""

    copied: bool
    """The state was copied or restored: `generation` is a new one, and the person is to be told."""

    _path: Path
    _mark: bytes
    _entropy: Callable[[int], bytes]

    def next_generation(self, above: int = 0) -> int:
        """Open a generation above the present one and above `above`; durable before this returns. Raises StoreError."""
        step = 1 + int.from_bytes(self._entropy(4), "big") % LEAP_LIMIT
        following = max(self.generation, above) + step
        if following > GENERATION_LIMIT:
            raise RefusedError(
                "This machine's generations are used up.", "Give it new keys: begin a new state directory."
            )
        _write_generation(self._path, following, self._mark)
        self.generation = following
        return following


def load_or_create(
    state: StateDirectory,
    *,
    entropy: Callable[[int], bytes] = secrets.token_bytes,
    machine_id: bytes | None = None,
) -> KeyState:
    """The keys of this machine, made at the first run; a new generation where the state is a copy.

    Blocking: a few small reads, and at the first run two flushed files. `machine_id`: this system's, unless a test says
    otherwise. Raises RefusedError for a key file that others may read, StoreError for a broken or missing one.
    """
    machine = _read_machine_id() if machine_id is None else machine_id
    path = state.identity
    try:
        if not os.path.lexists(path):
            return _create(state, entropy, machine)
        keys, mark = _load(path, machine)
        found = _read_generation(state.generation)
    except OSError as error:
        raise StoreError(f"{path} cannot be used: {error.strerror}.", "Look at the disk and its rights.") from error
    generation, known_mark = found or (1, b"")
    loaded = KeyState(keys, generation, known_mark != mark, state.generation, mark, entropy)
    if loaded.copied:
        loaded.next_generation()
    return loaded


def read_keys(text: bytes) -> Keys:
    """The keys in a key file's content. Raises ValueError."""
    words, signing, noise = text.decode("ascii").splitlines()
    if words != _KEY_WORDS or len(signing) != 2 * KEY_SIZE or len(noise) != 2 * KEY_SIZE:
        raise ValueError("not a key file")
    return Keys(bytes.fromhex(signing), bytes.fromhex(noise))


def unmarked_generation(floor: int) -> bytes:
    """The generation file of a restored state: no key file fits its mark, so the next start leaps above `floor`."""
    return _generation_file(floor, bytes(KEY_SIZE))


def _create(state: StateDirectory, entropy: Callable[[int], bytes], machine: bytes) -> KeyState:
    if state.mesh_directories():
        raise StoreError(
            f"{state.identity} is gone, but meshes of its machine are here.",
            "Put the key file back, or begin anew with another --state directory.",
        )
    keys = Keys.generate(entropy)
    fresh = state.identity.with_name("identity.new")
    write_new(fresh, f"{_KEY_WORDS}\n{keys.signing_private.hex()}\n{keys.noise_private.hex()}\n".encode())
    # The mark first: a file keeps its inode when it is renamed, and a crash in between leaves no key file to misjudge.
    mark = _mark_of(fresh.stat(), machine)
    _write_generation(state.generation, 1, mark)
    fresh.replace(state.identity)
    flush_names(state.path)
    return KeyState(keys, 1, False, state.generation, mark, entropy)


def _load(path: Path, machine: bytes) -> tuple[Keys, bytes]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        text = os.read(fd, _SMALL)
    finally:
        os.close(fd)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise RefusedError(f"{path} holds private keys, and others may read it.", f"Run: chmod 600 {path}")
    try:
        return read_keys(text), _mark_of(status, machine)
    except ValueError as error:
        raise StoreError(f"{path} is not a key file, or a damaged one.", "Restore it from a backup.") from error


def _mark_of(status: os.stat_result, machine: bytes) -> bytes:
    return blake3(b"\n".join((machine, b"%d" % status.st_dev, b"%d" % status.st_ino))).digest()


def _write_generation(path: Path, generation: int, mark: bytes) -> None:
    try:
        write_private(path, _generation_file(generation, mark))
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}.", "Look at the disk and its rights.") from error


def _generation_file(generation: int, mark: bytes) -> bytes:
    return f"{generation}\n{mark.hex()}\n".encode()


def _read_generation(path: Path) -> tuple[int, bytes] | None:
    """Generation and mark; None where the file is missing or broken, which counts as a copy."""
    try:
        generation, mark = path.read_bytes()[:_SMALL].decode("ascii").splitlines()
        found = int(generation), bytes.fromhex(mark)
    except (FileNotFoundError, ValueError):
        return None
    return found if 1 <= found[0] <= GENERATION_LIMIT else None


def _read_machine_id() -> bytes:
    for path in _MACHINE_ID:
        if path.is_file():
            return path.read_bytes().strip()
    return b""
