"""The command `tether` as a real process, against a control server whose context is a fake."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import click
import pytest
import trio

from meshd.errors import EXIT_CODES, NobodyFoundError, RefusedError, TimedOutError
from meshd.notices import BlobProgress, LinkUp
from meshd.surfaces import commands
from meshd.surfaces.cli import LOCAL, cli
from meshd.tools import context as answers
from meshd.tools.operation import Operation
from meshd.tools.registry import OPERATIONS
from tests.processes import Run
from tests.surfaces.kit import FakeContext, serving
from tests.tools.samples import sample

ROOT = Path(__file__).parents[2]
BLOB = "h&l_blob_0123456789ab"
REF = answers.MachineRef("n" * 52, "ben")


def environment(state: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TETHER_")}
    return {**kept, "PYTHONPATH": str(ROOT), "TETHER_STATE": str(state), "TERM": "dumb", **more}


async def tether(state: Path, *arguments: str, stdin: bytes = b"", **more: str) -> "subprocess.CompletedProcess[bytes]":
    """One run to its end, without a terminal."""
    return await trio.run_process(
        [sys.executable, "-m", "meshd.surfaces.cli", *arguments],
        stdin=stdin,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        env=environment(state, **more),
        cwd=state,
        start_new_session=True,
    )


@pytest.fixture
def context() -> FakeContext:
    return FakeContext()


async def test_text_and_json(context: FakeContext, tmp_path: Path) -> None:
    context.answers["tables"] = answers.Tables("m", (answers.TableCount("plans", 1234),))
    async with serving(context, tmp_path):
        text = await tether(tmp_path, "tables")
        as_json = await tether(tmp_path, "--mesh", "home", "tables", "--json")
    assert (text.returncode, text.stderr) == (0, b"")
    assert text.stdout == b"TABLE  HANDLES\nplans  1,234\n"
    assert json.loads(as_json.stdout) == {"mesh": "m", "tables": [{"table": "plans", "handles": 1234}]}
    assert [arguments for _, arguments in context.asked] == [{"mesh": None}, {"mesh": "home"}]


async def test_no_daemon(tmp_path: Path) -> None:
    done = await tether(tmp_path, "status")
    assert done.returncode == 4 and done.stdout == b""
    assert b"No daemon runs on" in done.stderr and b"tether service install" in done.stderr
    as_json = await tether(tmp_path, "status", "--json")
    assert as_json.returncode == 4
    assert json.loads(as_json.stderr)["exit_code"] == 4


@pytest.mark.parametrize(
    ("error", "code"), [(NobodyFoundError("a", "b"), 4), (RefusedError("a", "b"), 6), (TimedOutError("a", "b"), 7)]
)
async def test_errors_and_their_exit_codes(context: FakeContext, tmp_path: Path, error: Exception, code: int) -> None:
    context.answers["digest"] = error
    async with serving(context, tmp_path):
        done = await tether(tmp_path, "digest")
    assert (done.returncode, done.stderr, done.stdout) == (code, b"Error: a b\n", b"")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("status", "--nonsense"),
        ("peer",),
        ("snapshot",),
        ("ping", "a", "--count", "x"),
        ("get", BLOB),
    ],
)
async def test_wrong_usage(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = await tether(tmp_path, *arguments)
    assert done.returncode == 2 and done.stderr and b"Traceback" not in done.stderr


async def test_what_peers_wrote_cannot_reach_the_terminal(context: FakeContext, tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\u202etxt\nError: forged"
    context.answers["members"] = attrs.evolve(
        sample(answers.Members, text=evil), members=(attrs.evolve(sample(answers.MemberInfo, text=evil), depth=0),)
    )
    async with serving(context, tmp_path):
        done = await tether(tmp_path, "members")
    text = done.stdout.decode()
    assert "\x1b" not in text and "\u202e" not in text and len(text.splitlines()) == 2


async def test_a_value_from_standard_input_and_back(context: FakeContext, tmp_path: Path) -> None:
    seen: dict[str, bytes] = {}

    async def collapse(**arguments: Any) -> answers.Collapsed:
        seen["content"] = Path(arguments["path"]).read_bytes()
        seen["mode"] = b"%o" % (Path(arguments["path"]).stat().st_mode & 0o777)
        return answers.Collapsed("h&l_inline_0123456789ab", "h&l_inline_" + "0" * 64, 7, True)

    context.answers["collapse"] = collapse
    async with serving(context, tmp_path):
        done = await tether(tmp_path, "collapse", "--tag", "a", "--tag", "b", "--ttl", "1h", stdin=b'{"a":1}')
    assert (done.returncode, done.stdout) == (0, b"h&l_inline_0123456789ab\n")
    assert seen == {"content": b'{"a":1}', "mode": b"600"}
    assert list((tmp_path / "incoming").iterdir()) == []
    assert context.asked[0][1]["tags"] == ("a", "b") and context.asked[0][1]["ttl"] == 3600


async def test_a_value_given_as_an_option_reads_no_input(context: FakeContext, tmp_path: Path) -> None:
    async with serving(context, tmp_path):
        done = await tether(tmp_path, "collapse", "--value", "[1]", stdin=b"not this")
    assert done.returncode == 0
    assert context.asked[0][1]["json"] == "[1]" and context.asked[0][1]["path"] is None


async def test_resolve_prints_the_value_and_nothing_else(context: FakeContext, tmp_path: Path) -> None:
    raw = '{"a":"\x7f\u202e"}'
    context.answers["resolve"] = answers.Resolved("h", "h", raw, None, ())
    async with serving(context, tmp_path):
        done = await tether(tmp_path, "resolve", "hl_inline_0123456789ab")
    assert (done.returncode, done.stdout.decode()) == (0, raw + "\n")
    assert context.asked[0][1]["handle"] == "h&l_inline_0123456789ab"


async def test_a_large_value_comes_through_a_file_that_goes(context: FakeContext, tmp_path: Path) -> None:
    path = tmp_path / "outgoing" / "value"
    context.answers["resolve"] = answers.Resolved("h", "h", None, str(path), (BLOB,))
    async with serving(context, tmp_path):
        path.write_text("[1,2]")
        done = await tether(tmp_path, "resolve", "hl_inline_0123456789ab")
        assert (done.returncode, done.stdout) == (4, b"[1,2]\n")  # a part of it is missing
        assert not path.exists()
        path.write_text("[1,2]")
        as_json = await tether(tmp_path, "resolve", "hl_inline_0123456789ab", "--json")
        assert json.loads(as_json.stdout) == {
            "handle": "h",
            "full": "h",
            "json": "[1,2]",
            "path": None,
            "missing": [BLOB],
        }


async def test_paths_are_absolute(context: FakeContext, tmp_path: Path) -> None:
    async with serving(context, tmp_path):
        await tether(tmp_path, "put", "a/../file", "--for", "ben")
        await tether(tmp_path, "get", "hl_blob_0123456789ab", "-o", "there")
    assert context.asked[0][1]["path"] == f"{tmp_path}/a/../file"
    assert context.asked[0][1]["machines"] == ("ben",)
    assert context.asked[1][1]["out"] == f"{tmp_path}/there"


async def test_get_to_standard_output(context: FakeContext, tmp_path: Path) -> None:
    async def get(*, out: str, tell: Any, **_: Any) -> answers.Got:
        tell(BlobProgress("m", BLOB, 1, 1, 2, 1))
        Path(out).write_bytes(b"\0content")
        return answers.Got(BLOB, BLOB, out, 8, 1, False, 8, 0.1)

    async def directory(*, out: str, **_: Any) -> answers.Got:
        Path(out).mkdir()
        return answers.Got(BLOB, BLOB, out, 8, 1, True, 8, 0.1)

    context.answers["get"] = get
    async with serving(context, tmp_path):
        done = await tether(tmp_path, "get", BLOB, "-o", "-")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"\0content", b"")
        context.answers["get"] = directory
        refused = await tether(tmp_path, "get", BLOB, "-o", "-")
        assert refused.returncode == 2 and b"standard output takes one file" in refused.stderr
    assert list((tmp_path / "outgoing").iterdir()) == []


async def test_all_pages(context: FakeContext, tmp_path: Path) -> None:
    async def snapshot(*, after: str | None, **_: Any) -> answers.Snapshot:
        at = int(after or 0)
        row = answers.Row(f"h{at}", "f", "{}", ("t",))
        return answers.Snapshot("plans", (row,), str(at + 1) if at < 2 else None)

    context.answers["snapshot"] = snapshot
    async with serving(context, tmp_path):
        text = await tether(tmp_path, "snapshot", "plans")
        as_json = await tether(tmp_path, "snapshot", "plans", "--json")
    assert text.stdout == b"h0  {}  [t]\nh1  {}  [t]\nh2  {}  [t]\n"
    found = json.loads(as_json.stdout)
    assert [each["handle"] for each in found["rows"]] == ["h0", "h1", "h2"] and found["next"] is None


async def test_invite_prints_its_code_at_once(context: FakeContext, tmp_path: Path) -> None:
    shown = trio.Event()

    async def invite(*, tell: Any, **_: Any) -> answers.Invited:
        tell(answers.InviteOpened("7-crystal-clock-tower", 64327, 600.0))
        await shown.wait()
        return answers.Invited("m", "home", REF, "192.0.2.7:1")

    context.answers["invite"] = invite
    async with serving(context, tmp_path):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "meshd.surfaces.cli", "invite", "--json"],
            stdout=subprocess.PIPE,
            env=environment(tmp_path),
            start_new_session=True,
        )
        async with process.stdout:
            first = b""
            while b"\n" not in first:
                first += await process.stdout.receive_some()
            assert json.loads(first)["code"] == "7-crystal-clock-tower"
            shown.set()
            last = b"".join([each async for each in process.stdout])
        assert await process.wait() == 0
    assert json.loads(last)["machine"]["name"] == "ben"


async def test_events(context: FakeContext, tmp_path: Path) -> None:
    async def events(*, tell: Any, **_: Any) -> answers.EventsEnd:
        tell(LinkUp("m", "n", "be\x1bn", "192.0.2.7:1", "LAN"), 5.0)
        return answers.EventsEnd(1)

    context.answers["events"] = events
    async with serving(context, tmp_path):
        text = await tether(tmp_path, "events")
        as_json = await tether(tmp_path, "events", "--json")
    assert text.stdout.decode().endswith("  be\ufffdn is linked at 192.0.2.7:1 (LAN)\n")
    told, end = map(json.loads, as_json.stdout.splitlines())
    assert (told["event"], told["name"], end) == ("link.up", "be\x1bn", {"told": 1}) and told["age"] >= 5


@pytest.mark.parametrize(
    ("arguments", "stdin", "more"),
    [
        (("join", "7", "crystal-clock-tower"), b"", {}),
        (("join",), b"7 crystal-clock-tower\n", {}),
        (("join",), b"", {"TETHER_PASSPHRASE": "7 crystal-clock-tower"}),
    ],
)
async def test_where_the_code_comes_from(
    context: FakeContext, tmp_path: Path, arguments: tuple[str, ...], stdin: bytes, more: dict[str, str]
) -> None:
    async with serving(context, tmp_path):
        done = await tether(tmp_path, *arguments, stdin=stdin, **more)
    assert done.returncode == 0
    assert context.asked[0][1]["code"] == "7 crystal-clock-tower"


async def test_no_words_at_all(context: FakeContext, tmp_path: Path) -> None:
    async with serving(context, tmp_path):
        done = await tether(tmp_path, "join")
    assert done.returncode == 2 and b"The code is missing" in done.stderr and context.asked == []


async def test_words_are_asked_for_on_a_terminal_and_not_shown(context: FakeContext, tmp_path: Path) -> None:
    def typed() -> Run:
        run = Run(
            [sys.executable, "-m", "meshd.surfaces.cli", "recovery", "check"],
            directory=tmp_path,
            environment=environment(tmp_path),
            stdout=tmp_path / "out",
            terminal=True,
        )
        try:
            run.says("Words: ")
            run.type("abandon ability\n")
            return run.exits(3)
        finally:
            run.close()

    context.answers["recovery_check"] = answers.RecoveryChecked("m", "home", False)
    async with serving(context, tmp_path):
        run = await trio.to_thread.run_sync(typed)
    assert "abandon" not in run.text
    assert context.asked[0][1]["words"] == "abandon ability"
    assert b"NOT the recovery words" in run.out


async def test_revoke_shows_what_would_happen_and_asks(context: FakeContext, tmp_path: Path) -> None:
    async def revoke(*, dry_run: bool, **_: Any) -> answers.Revoked:
        return answers.Revoked("m", REF, (answers.MachineRef("c" * 52, "cleo"),), (), dry_run)

    def answered(text: str, code: int) -> Run:
        run = Run(
            [sys.executable, "-m", "meshd.surfaces.cli", "revoke", "ben"],
            directory=tmp_path,
            environment=environment(tmp_path),
            stdout=tmp_path / "out",
            terminal=True,
        )
        try:
            run.says(r"would be revoked(.|\n)*Suspended with it.*cleo(.|\n)*\[y/N\] ")
            run.type(text)
            return run.exits(code)
        finally:
            run.close()

    context.answers["revoke"] = revoke
    async with serving(context, tmp_path):
        await trio.to_thread.run_sync(answered, "n\n", 6)
        assert [arguments["dry_run"] for _, arguments in context.asked] == [True]
        await trio.to_thread.run_sync(answered, "y\n", 0)
        assert [arguments["dry_run"] for _, arguments in context.asked] == [True, True, False]
        context.asked.clear()
        unasked = await tether(tmp_path, "revoke", "ben")
        assert unasked.returncode == 2 and b"--yes" in unasked.stderr
        assert [arguments["dry_run"] for _, arguments in context.asked] == [True]
        meant = await tether(tmp_path, "revoke", "ben", "--keep", "cleo", "--yes")
        assert meant.returncode == 0
        assert context.asked[-1][1] == {
            "mesh": None,
            "machine": "ben",
            "keep": ("cleo",),
            "reason": "",
            "dry_run": False,
        }
        unasked = await tether(tmp_path, "leave")
        assert unasked.returncode == 2 and context.asked[-1][0] == "revoke"


async def test_flags(context: FakeContext, tmp_path: Path) -> None:
    async with serving(context, tmp_path):
        for arguments in (("init",), ("init", "--no-recovery"), ("init", "--mesh", "work", "--recovery")):
            assert (await tether(tmp_path, *arguments)).returncode == 0
    assert [(given["mesh"], given["recovery"]) for _, given in context.asked] == [
        (None, True),
        (None, False),
        ("work", True),
    ]


async def test_an_older_daemon_is_named_as_such(context: FakeContext, tmp_path: Path) -> None:
    context.answers["tables"] = answers.Stopping(1)
    async with serving(context, tmp_path):
        done = await tether(tmp_path, "tables")
    assert done.returncode == 5 and b"of another version" in done.stderr


async def test_imports_that_refuse_something_say_so_by_their_code(context: FakeContext, tmp_path: Path) -> None:
    context.answers["import_table"] = answers.Imported("plans", 2, 1, ("h&l_plans_0123456789ab",))
    async with serving(context, tmp_path):
        done = await tether(tmp_path, "import", "-", stdin=b"{}")
    assert done.returncode == 6 and b"Refused" in done.stdout


async def test_a_reader_that_goes_away(context: FakeContext, tmp_path: Path) -> None:
    context.answers["resolve"] = answers.Resolved("h", "h", "[" + "1," * 100_000 + "1]", None, ())
    async with serving(context, tmp_path):
        done = await trio.run_process(
            f"{sys.executable} -m meshd.surfaces.cli resolve hl_inline_0123456789ab | head -c 1",
            shell=True,
            capture_stdout=True,
            capture_stderr=True,
            env=environment(tmp_path),
        )
    assert (done.stdout, done.stderr) == (b"[", b"")


async def test_the_state_directory_by_option(context: FakeContext, tmp_path: Path) -> None:
    async with serving(context, tmp_path / "one"):
        for arguments in (("--state", str(tmp_path / "one"), "tags"), ("tags", "--state", str(tmp_path / "one"))):
            assert (await tether(tmp_path, *arguments)).returncode == 0
        assert (await tether(tmp_path, "tags")).returncode == 4


def help_of(command: click.Command) -> str:
    with click.Context(command, terminal_width=120, max_content_width=120) as opened:
        return command.get_help(opened)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.name)
def test_help_of_every_command(operation: Operation) -> None:
    found: Any = cli
    for word in operation.words:
        found = found.get_command(click.Context(found), word)
    text = help_of(found)
    flat = " ".join(text.split())
    assert operation.summary in flat
    for each in operation.arguments:
        if each.programs_only:
            assert each.meaning not in flat
        elif each.positional or not each.is_secret:
            assert each.meaning in flat
    assert all(f"{code:>3}  {meaning}" in text for code, meaning in EXIT_CODES.items())
    assert operation.examples[0].line in text


def test_examples_are_command_lines_that_parse() -> None:
    import shlex

    for operation in OPERATIONS:
        for example in operation.examples:
            words = shlex.split(example.line.partition("tether ")[2].split("|")[0].split("<")[0])
            found: Any = commands.command(operation)
            assert tuple(words[: len(operation.words)]) == operation.words
            with found.make_context("tether", words[len(operation.words) :]) as opened:
                assert opened.params is not None


def test_help_names_every_command() -> None:
    text = help_of(cli)
    assert all(f"\n  {operation.words[0]} " in text for operation in OPERATIONS)
    assert all(f"\n  {word} " in text for word in LOCAL)
    for word, (load, summary) in LOCAL.items():
        assert load().name == word and summary.endswith(".")


def completions(*words: str) -> set[str]:
    """What bash is told may stand in the place of the last of these words."""
    given = "\n".join(("tether", *words))
    done = subprocess.run(
        [sys.executable, "-m", "meshd.surfaces.cli"],
        env=environment(ROOT, _TETHER_COMPLETE="bash_complete", COMP_WORDS=given, COMP_CWORD=str(len(words))),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert not done.stderr
    return {line.partition(",")[2] for line in done.stdout.splitlines()}


def test_a_shell_is_told_what_may_follow() -> None:
    assert completions("") == {each.words[0] for each in OPERATIONS} | set(LOCAL)
    assert completions("peer", "") == {"add", "remove", "list"}
    assert {"--mesh", "--dry-run", "--state", "--json", "--help"} <= completions("gc", "--")
    assert "--code" not in completions("join", "--") and "--words" not in completions("recovery", "check", "--")


def test_nothing_heavy_is_loaded_for_a_status() -> None:
    """What each costs is why: trio 60 ms, attrs with its classes 60, cryptography 80, on a machine of today."""
    program = (
        "import sys\nfrom meshd.surfaces import cli\nsys.argv = ['tether', 'status', '--state', '/nowhere']\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    assert end.code == 4\nprint('\\n'.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    heavy = {
        "trio",
        "attrs",
        "attr",
        "msgspec",
        "rich",
        "zeroconf",
        "cryptography",
        "blake3",
        "asyncio",
        "qh3",
        "tomllib",
        "tomlkit",
        "mcp",
        "anyio",
        "pydantic",
    }
    assert not heavy & set(done.stdout.split())
