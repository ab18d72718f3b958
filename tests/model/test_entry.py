"""Names: what may become a path on a disk, and what two lists of entries have in common."""

import os.path
import unicodedata

import blake3
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meshd.errors import EXIT_REFUSED, UsageError
from meshd.model.entry import (
    MAX_DEPTH,
    MAX_PART_BYTES,
    MAX_PATH_BYTES,
    PROTECTED_NAMES,
    Entry,
    EntryKind,
    ListingDigest,
    UnsafeNameError,
    check_admitted,
    check_entry,
    check_lengths,
    check_path,
    collision_key,
)

# Names near the edge of what is allowed: plain text alone almost never gets there.
edgy = st.text(
    st.sampled_from("aAbB./\\:~ \0\n\x7f\x85\u200d\u202e\u2028\ud800éÉß\u017fKgit1COMconNULnul"), max_size=12
)
parts = st.lists(st.one_of(edgy, st.text(max_size=12), st.sampled_from([".", "..", "", "ok"])), max_size=6).map(tuple)


def is_safe(path: tuple[str, ...], admitted: frozenset[str] = frozenset()) -> bool:
    try:
        check_path(path, admitted)
    except UnsafeNameError:
        return False
    return True


@pytest.mark.parametrize(
    "path",
    [
        ("a",),
        ("a", "B", "c.txt"),
        ("with space", "and.dots..inside"),
        (".hidden", ".gitignore"),
        (".github", "workflows", "test.yml"),
        ("src", "hooks", "useState.ts"),
        ("naïve", "日本語", "👩‍👩‍👧"),
        ("e\u0301",),
        ("console", "auxiliary", "com", "COM10", "lpt.txt"),
        ("git", "gitx~1", "x~1.txt"),
        ("x" * MAX_PART_BYTES,),
        ("a",) * MAX_DEPTH,
        ("é" * 127 + "x",),
        ("x" * 254,) * 16 + ("x" * 15,),
        ("head",),
    ],
)
def test_admits_ordinary_names(path: tuple[str, ...]) -> None:
    check_path(path)


@pytest.mark.parametrize(
    "path",
    [
        (),
        ("",),
        (".",),
        ("..",),
        ("..", "x"),
        ("a", "..", "..", "x"),
        ("/etc", "passwd"),
        ("", "etc"),
        ("a/b",),
        ("a\\b",),
        ("..\\x",),
        ("a\0b",),
        ("a\nb",),
        ("a\x1bb",),
        ("a\x7f",),
        ("a\x9b",),
        ("a\u2028b",),
        ("a\u202etxt.exe",),
        ("a\u200f",),
        ("a\u2066",),
        ("a\udc80",),
        ("CON",),
        ("con.txt",),
        ("Aux",),
        ("nul.tar.gz",),
        ("COM1",),
        ("COM1 ",),
        ("COM1 .txt",),
        ("lpt9",),
        ("com²",),
        ("CONIN$",),
        ("a:b",),
        (".git::$INDEX_ALLOCATION",),
        ("a<b",),
        ('a"b',),
        ("a|b",),
        ("a?b",),
        ("a*b",),
        ("C:",),
        ("a ",),
        ("a.",),
        ("a. .",),
        ("x" * (MAX_PART_BYTES + 1),),
        ("x" * 300,),
        ("é" * 128,),
        ("a",) * (MAX_DEPTH + 1),
        ("x" * 254,) * 16 + ("x" * 17,),
    ],
)
def test_refuses_dangerous_names_with_a_reason(path: tuple[str, ...]) -> None:
    with pytest.raises(UnsafeNameError) as caught:
        check_path(path)
    assert caught.value.what
    assert caught.value.exit_code == EXIT_REFUSED


@pytest.mark.parametrize(
    "name",
    [
        ".git",
        ".GIT",
        ".Git",
        ".g\u200cit",
        ".git\u200d",
        "\ufeff.git",
        ".gi\u2064t",
        ".gi\ufe0ft",
        "git~1",
        "GIT~1",
        "git~2",
        "claude~1",
        "CLAUDE~1.JSO",
        "mcp~1.jso",
        ".\u017fvn",
        ".doc\u212aer",
        ".mcp.json",
        ".EnvRC",
        "LaunchAgents",
    ],
)
@pytest.mark.parametrize("depth", [0, 1, 5])
def test_refuses_protected_names_and_their_look_alikes_at_any_depth(name: str, depth: int) -> None:
    with pytest.raises(UnsafeNameError, match="asked for by name"):
        check_path(("a",) * depth + (name, "hooks", "post-checkout"))


@given(st.sampled_from(sorted(PROTECTED_NAMES)), st.data())
def test_every_protected_name_is_refused_in_any_case_and_admitted_when_asked_for(
    name: str, data: st.DataObject
) -> None:
    mixed = "".join(data.draw(st.sampled_from([letter.lower(), letter.upper()])) for letter in name)
    assert not is_safe(("a", mixed))
    assert is_safe(("a", mixed), check_admitted([name.upper()]))
    others = PROTECTED_NAMES - {name}
    assert not is_safe(("a", mixed), others)


def test_admitting_a_name_lifts_no_other_rule() -> None:
    admitted = check_admitted([".GIT"])
    assert is_safe((".git", "config"), admitted)
    assert not is_safe((".git", ".vscode"), admitted)
    assert not is_safe(("..", ".git"), admitted)


def test_what_may_be_asked_for() -> None:
    assert check_admitted([]) == frozenset()
    assert check_admitted([".Git", ".git", "HEAD", ".g\u200cit"]) == {".git", "head"}
    assert check_admitted(PROTECTED_NAMES) == PROTECTED_NAMES


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        (".gti", "Did you mean .git"),
        ("git", ".git"),
        (".git/", ".git"),
        (".mcp.jsn", ".mcp.json"),
        ("README.md", "Leave it out"),
        ("..", "Leave it out"),
        ("", "Leave it out"),
    ],
)
def test_a_name_that_nobody_protects_is_said_with_what_is_close(name: str, advice: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_admitted([".git", name])
    assert repr(name) in caught.value.what
    assert advice in caught.value.advice


def test_refuses_the_mark_of_a_bare_repository_only_as_a_file() -> None:
    def head(name: str, kind: EntryKind) -> Entry:
        return Entry(("x", name), kind, 0, False, 0)

    for name in ("HEAD", "head", "HE\u200cAD"):
        with pytest.raises(UnsafeNameError, match="asked for by name"):
            check_entry(head(name, EntryKind.FILE))
    check_entry(head("head", EntryKind.DIRECTORY))
    check_entry(head("HEAD", EntryKind.FILE), check_admitted(["Head"]))
    for path in ((".git", "HEAD"), ("x", ".GIT", "logs", "HEAD")):
        check_entry(Entry(path, EntryKind.FILE, 0, False, 0), check_admitted([".git"]))
    with pytest.raises(UnsafeNameError, match="asked for by name"):
        check_entry(head("HEAD", EntryKind.FILE), check_admitted([".git"]))
    with pytest.raises(UnsafeNameError):
        check_entry(head("..", EntryKind.DIRECTORY))


@given(parts)
@example(("..", "..", "etc", "passwd"))
@example(("a", "", "..", "..", "x"))
def test_no_admitted_path_escapes(path: tuple[str, ...]) -> None:
    if not is_safe(path, PROTECTED_NAMES):
        return
    joined = "/".join(path)
    assert os.path.normpath(joined) == joined
    assert not joined.startswith(("/", ".."))
    assert os.path.normpath(os.path.join("/into", joined)).startswith("/into/")  # noqa: PTH118
    assert len(os.fsencode(joined)) <= MAX_PATH_BYTES
    assert joined.isprintable() or all(unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") for c in joined)


@given(parts)
def test_a_path_is_safe_only_if_each_of_its_ancestors_is(path: tuple[str, ...]) -> None:
    if is_safe(path):
        assert all(is_safe(path[:length]) for length in range(1, len(path)))


@given(parts, parts)
def test_lengths_alone_admit_whatever_the_rules_admit(first: tuple[str, ...], second: tuple[str, ...]) -> None:
    if is_safe(first + second):
        check_lengths(first + second)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("B", "b"),
        ("é", "e\u0301"),
        ("É", "e\u0301"),
        ("\u017f", "S"),
        ("Å", "\u212b"),
        ("straße", "STRASSE"),
        ("ΐ", "\u1fd3"),
    ],
)
def test_names_that_some_system_takes_for_one_share_a_key(one: str, other: str) -> None:
    assert collision_key(one) == collision_key(other)


@given(st.text(max_size=20))
def test_the_collision_key_does_not_change_with_case_or_composition(name: str) -> None:
    key = collision_key(name)
    assert collision_key(key) == key
    for form in ("NFC", "NFD"):
        assert collision_key(unicodedata.normalize(form, name)) == key  # type: ignore[arg-type]


def entry(*path: str, kind: EntryKind = EntryKind.FILE, size: int = 1, executable: bool = False) -> Entry:
    return Entry(path, kind, size, executable, 0)


def listing(*added: tuple[Entry, bytes]) -> bytes:
    digest = ListingDigest()
    for item, content in added:
        digest.add(item, content)
    return digest.digest()


def test_the_listing_digest_is_published() -> None:
    """The vector that another implementation can check itself with."""
    added = (
        (entry("d", kind=EntryKind.DIRECTORY, size=0), bytes(32)),
        (entry("d", "é", size=258, executable=True), b"\xff" * 32),
    )
    eight = (8).to_bytes(8, "big")
    long = (32).to_bytes(8, "big")
    by_hand = b"tether tree listing 1\0"
    by_hand += b"\0\0\0\0\0\0\0\x03dir" + b"\0\0\0\0\0\0\0\x01d" + eight + bytes(8)
    by_hand += b"\0\0\0\0\0\0\0\x01\0" + long + bytes(32)
    by_hand += b"\0\0\0\0\0\0\0\x04file" + b"\0\0\0\0\0\0\0\x04d\0\xc3\xa9" + eight + b"\0\0\0\0\0\0\x01\x02"
    by_hand += b"\0\0\0\0\0\0\0\x01\x01" + long + b"\xff" * 32
    assert listing(*added) == blake3.blake3(by_hand).digest()
    assert listing(*added).hex() == "015e9e6c8f88327f8b4f37cf33756596f8be9015a6734b385f17e98a4dc410a8"


def test_no_two_listings_share_a_digest() -> None:
    a = (entry("a"), bytes(32))
    variants = [
        [],
        [a],
        [a, a],
        [(entry("b"), bytes(32))],
        [(entry("a", "b"), bytes(32))],
        [(entry("a/b"), bytes(32))],
        [(entry("a", size=2), bytes(32))],
        [(entry("a", executable=True), bytes(32))],
        [(entry("a", kind=EntryKind.DIRECTORY), bytes(32))],
        [(entry("a"), b"\1" * 32)],
        [a, (entry("b"), bytes(32))],
        [(entry("b"), bytes(32)), a],
    ]
    assert len({listing(*variant) for variant in variants}) == len(variants)
