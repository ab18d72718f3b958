"""One file or directory of a tree on its way between two machines, and the rules its name must obey.

Names come from a hostile peer. `check_path` is the only gate between such a name and a disk: it knows nothing of any
disk, so that its answer is the same on every system, and it refuses what is dangerous on any of them (a tree received
on Linux is often copied on to a Mac or a Windows machine).

Sources: protocol.md section 9 (trees); Microsoft, "Naming Files, Paths, and Namespaces"; CVE-2014-9390 (names that
HFS+ and NTFS take for `.git`); Unicode 15, section 3.13, D145 (caseless match of canonical equivalents).
"""

import difflib
import enum
import re
import unicodedata
from collections.abc import Iterable

import attrs
import blake3

from meshd.errors import RefusedError, UsageError
from meshd.model.text import is_showable

MAX_DEPTH = 64
"""Parts in a path. The deepest trees that people keep (node_modules of old) stay under 40; a bound keeps the walk of
one path, and the open directories of a removal, small whatever a peer sends."""

MAX_PART_BYTES = 255
"""Bytes of UTF-8 in one part: NAME_MAX of ext4, XFS, APFS and the rest."""

MAX_PATH_BYTES = 4_096
"""Bytes of UTF-8 in a whole path, separators included: PATH_MAX of Linux, beyond which programs cannot open it."""

MAX_ENTRIES = 500_000
"""Entries in one transfer, on either side: six Linux kernel trees. Each costs the receiving side half a kilobyte of
memory, 0.9 with the longest names: 450 MB is what a peer may make us spend, and it has to send a third of that."""

# Configuration and hooks that run at the next command in the tree.
_VERSION_CONTROL = ".git .gitconfig .githooks .husky .hg .hgrc .svn .bzr .jj"
# Tools that agents start, their permissions and hooks.
_AGENTS = (
    ".claude .claude.json .mcp.json mcp.json .codex .agents .gemini .cursor .windsurf .aider.conf.yml .continue "
    ".opencode opencode.json .roo .cline .goose .junie .kiro .qwen .amazonq .crush"
)
# Tasks and settings that run when a folder or a file in it is opened.
_EDITORS = (
    ".vscode .idea .fleet .zed .devcontainer .devcontainer.json .vim .vimrc .gvimrc .exrc .nvimrc .nvim.lua .emacs "
    ".emacs.d .dir-locals.el .dir-locals-2.el"
)
# What is read at login, by a new shell or terminal, or on entering a directory.
_SHELLS = (
    ".envrc .mise.toml mise.toml .bashrc .bash_profile .bash_login .bash_logout .bash_aliases .profile .zshrc .zshenv "
    ".zprofile .zlogin .zlogout .kshrc .cshrc .tcshrc .login .logout .inputrc .xonshrc .xinitrc .xprofile .xsession "
    ".xsessionrc .pam_environment .tmux.conf .screenrc .config .local launchagents"
)
# What debuggers and interpreters read in the working directory.
_DEBUGGERS = ".gdbinit .lldbinit .pdbrc .rprofile .irbrc .pryrc .ipython"
# Keys, whom to trust, and the programs that hand keys out.
_KEYS = ".ssh .rhosts .shosts .gnupg .aws .kube .docker"

PROTECTED_NAMES = frozenset(" ".join((_VERSION_CONTROL, _AGENTS, _EDITORS, _SHELLS, _DEBUGGERS, _KEYS)).split())
"""Names refused at any depth unless the person receiving asked for them.

The rule: whatever makes a version control system, an agent, an editor, a shell, a debugger or a login run something,
or trust something, merely because it is there. What is left out on purpose, directories called `hooks` among it, is in
docs/decisions/0007-protected-names.md.
"""

_BARE_REPOSITORY_MARK = "head"
_RESERVED_CHARACTERS = re.compile(r'[<>:"|?*]')
_RESERVED_STEMS = frozenset(
    [
        "CON",
        "PRN",
        "AUX",
        "NUL",
        "CONIN$",
        "CONOUT$",
        *(f"{port}{n}" for port in ("COM", "LPT") for n in "0123456789¹²³"),
    ]
)
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]")
_SHORT_NAME = re.compile(r"([^.~]{1,6})~[0-9]{1,6}(?:\.([^.]{0,3}))?")


class EntryKind(enum.Enum):
    """What an entry is. There are no links and no devices: a tree on the wire cannot say them."""

    FILE = "file"
    DIRECTORY = "dir"


@attrs.frozen
class Entry:
    """A file or directory as its sender declares it; nothing in it has been checked.

    `path` is relative, one string a part. `size` is in bytes, 0 for a directory, and None only for a stream (a pipe)
    whose end nobody knows yet. `modified_ns` is in nanoseconds since 1970-01-01 UTC and may be negative.
    """

    path: tuple[str, ...]
    kind: EntryKind
    size: int | None
    executable: bool
    modified_ns: int


class UnsafeNameError(RefusedError):
    """A path that this side would not write. `what` is the reason, without the path (which may be unfit to show)."""


class ListingDigest:
    """BLAKE3-256 of a list of entries with their contents: two sides that agree on it hold the same files.

    Each entry is five fields, each with its length before it (8 bytes, big-endian), so that no two lists give the same
    bytes: kind, path joined with NUL, size (8 bytes, big-endian), executable (one byte), content digest. The time of
    change is left out: file systems round it.
    """

    def __init__(self) -> None:
        self._hash = blake3.blake3(b"tether tree listing 1\x00")

    def add(self, entry: Entry, content_digest: bytes) -> None:
        """Append one entry and the BLAKE3-256 of its content (of b"" for a directory).

        A stream is added with the size that it turned out to have.
        """
        assert entry.size is not None
        for field in (
            entry.kind.value.encode(),
            "\0".join(entry.path).encode("utf-8", "surrogatepass"),
            entry.size.to_bytes(8, "big"),
            bytes([entry.executable]),
            content_digest,
        ):
            self._hash.update(len(field).to_bytes(8, "big") + field)

    def digest(self) -> bytes:
        """The 32 bytes over all that was added so far."""
        return self._hash.digest()


def collision_key(name: str) -> str:
    """What `name` is to a file system that ignores case and composition; two siblings may not share it."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def check_lengths(parts: tuple[str, ...]) -> None:
    """Raise UnsafeNameError when `parts` are too many or too long; a sender asks this before it offers a path."""
    if len(parts) > MAX_DEPTH:
        raise UnsafeNameError(f"its path is more than {MAX_DEPTH} parts deep")
    sizes = [len(part.encode("utf-8", "surrogatepass")) for part in parts]
    if max(sizes, default=0) > MAX_PART_BYTES:
        raise UnsafeNameError(f"a part of its path is longer than {MAX_PART_BYTES} bytes")
    if sum(sizes) + len(sizes) - 1 > MAX_PATH_BYTES:
        raise UnsafeNameError(f"its path is longer than {MAX_PATH_BYTES} bytes")


def check_path(parts: tuple[str, ...], admitted: frozenset[str] = frozenset()) -> None:
    """Raise UnsafeNameError unless `parts` is a relative path that is safe to create on any system.

    `admitted` are protected names that the person receiving asked for, as `check_admitted` gives them.
    """
    if not parts:
        raise UnsafeNameError("its path is empty")
    check_lengths(parts)
    for part in parts:
        _check_part(part)
        protected = _protected_name(part)
        if protected is not None and protected not in admitted:
            raise UnsafeNameError(
                f"{protected} configures programs that trust it; it is taken only when asked for by name"
            )


def check_entry(entry: Entry, admitted: frozenset[str] = frozenset()) -> None:
    """Raise UnsafeNameError when `check_path` would, or when the entry marks its directory as a bare repository.

    Git takes any directory with a file HEAD beside `objects` and `refs` for a repository, and runs what the `config`
    there says. No ordinary tree has a file of just that name; a directory called `head` is common and harmless.
    """
    check_path(entry.path, admitted)
    is_mark = entry.kind is EntryKind.FILE and _bare(entry.path[-1]) == _BARE_REPOSITORY_MARK
    if is_mark and not admits_repository(entry.path, admitted):
        raise UnsafeNameError(
            "HEAD makes its directory a repository whose hooks run; it is taken only when asked for by name"
        )


def admits_repository(path: tuple[str, ...], admitted: frozenset[str]) -> bool:
    """Whether a repository was asked for where `path` goes: HEAD by its name, or the `.git` that it leads through."""
    return _BARE_REPOSITORY_MARK in admitted or (
        ".git" in admitted and any(_protected_name(part) == ".git" for part in path[:-1])
    )


def check_admitted(names: Iterable[str]) -> frozenset[str]:
    """The names that a person asked for, in any case, as `check_path` and `check_entry` know them.

    Raises UsageError for one that is not protected: a typing error would else refuse what the person wanted.
    """
    admitted = {_bare(name): name for name in names}
    protected = PROTECTED_NAMES | {_BARE_REPOSITORY_MARK}
    for bare, name in admitted.items():
        if bare not in protected:
            close = difflib.get_close_matches(bare, sorted(protected))
            advice = f"Did you mean {' or '.join(close)}?" if close else "Leave it out: any other name is taken anyway."
            raise UsageError(f"{name!r} is no name that has to be asked for.", advice)
    return frozenset(admitted)


def _check_part(part: str) -> None:
    if part in ("", ".", ".."):
        raise UnsafeNameError("a part of its path is empty, '.' or '..'")
    if "/" in part or "\\" in part:
        raise UnsafeNameError("a part of its path holds a slash or a backslash")
    if not is_showable(part):
        raise UnsafeNameError("its name holds a control character, or one that turns the direction of writing")
    if _RESERVED_CHARACTERS.search(part):
        raise UnsafeNameError('its name holds one of <>:"|?*, which other systems reserve')
    if part[-1] in " .":
        raise UnsafeNameError("its name ends with a space or a dot, which other systems drop")
    # Windows finds the device before the first dot, and drops spaces there: "COM1 .txt" opens the port.
    if part.partition(".")[0].rstrip(" ").upper() in _RESERVED_STEMS:
        raise UnsafeNameError("its name is a device on other systems")


def _bare(name: str) -> str:
    """The collision key without what HFS+ ignores or nobody can see; such characters are allowed elsewhere (emoji)."""
    if name.isascii():
        return name.lower()
    visible = "".join(character for character in name if unicodedata.category(character) != "Cf")
    return collision_key(_INVISIBLE.sub("", visible))


def _protected_name(part: str) -> str | None:
    """The protected name that some file system takes `part` for, or None."""
    bare = _bare(part)
    if bare in PROTECTED_NAMES:
        return bare
    short = _SHORT_NAME.fullmatch(bare)
    return _SHORT_NAMES.get((short[1], short[2] or "")) if short else None


def _short_name(name: str) -> tuple[str, str]:
    """Stem and extension of the 8.3 name that NTFS and FAT make up: `.git` is also `git~1`."""
    parts = name.lstrip(".").split(".")
    extension = parts.pop() if len(parts) > 1 else ""
    return "".join(parts)[:6], extension[:3]


_SHORT_NAMES = {_short_name(name): name for name in sorted(PROTECTED_NAMES)}
