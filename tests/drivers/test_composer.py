"""What stands where the next line goes: screens as tmux gives them, and whether a line may be typed there.

`|` is where the cursor is. Nothing that is not surely an empty prompt may pass.
"""

# ruff: noqa: RUF001  (the signs are those that the programs show)

import pytest

from meshd.drivers.composer import Busy, Composer, find_composer
from meshd.drivers.foreground import Foreground, Program, program_of
from meshd.drivers.screen import Screen, read_rows, text_of

WIDTH, HEIGHT = 80, 24
LINE = "# [mesh] receive hl_messages_0123456789ab"
ESC = "\x1b"
DIM, INVERSE, OFF = f"{ESC}[2m", f"{ESC}[7m", f"{ESC}[0m"
BOLD = f"{ESC}[1m"

BASH = Foreground(Program.SHELL, "bash", by_line=False, echoes=False)
ZSH, FISH = Foreground(Program.SHELL, "zsh", False, False), Foreground(Program.SHELL, "fish", False, False)
DASH = Foreground(Program.SHELL, "dash", by_line=True, echoes=True)
CLAUDE = Foreground(Program.CLAUDE, "claude", False, False)
CODEX = Foreground(Program.CODEX, "codex", False, False)


def screen(capture: str, *, alternate: bool = False, cursor_shown: bool = True, width: int = WIDTH) -> Screen:
    """A screen from a capture in which `|` marks the cursor; without one it is at the left of the last row."""
    x, y = 0, HEIGHT - 1
    lines = capture.split("\n")
    for number, line in enumerate(lines):
        if "|" in line:
            before = read_rows(line.partition("|")[0], width, 1)[0]
            x, y = len(before), number
            lines[number] = line.replace("|", "", 1)
    return Screen(read_rows("\n".join(lines), width, HEIGHT), width, x, y, cursor_shown, alternate)


def judged(capture: str, foreground: Foreground, **more: bool) -> Composer | Busy:
    return find_composer(screen(capture, **more), foreground)


def is_empty(found: Composer | Busy) -> bool:
    return isinstance(found, Composer) and not found.text


class TestShells:
    @pytest.mark.parametrize(
        ("capture", "foreground"),
        [
            ("me@host:~/work$ |", BASH),
            ("bash-5.2$ |", BASH),
            ("$ |", DASH),
            ("# |", DASH),
            ("root@host:/etc# |", BASH),
            (f"{ESC}[01;32mme@host{OFF}:{ESC}[01;34m~{OFF}$ |", BASH),
            ("(venv) me@host:~/work$ |", BASH),
            ("[me@host work]$ |", BASH),
            ("~/work> |", FISH),
            ("host% |", ZSH),
            ("me@host ~ % |", ZSH),
            ("me@host ~/work> |", FISH),
            ("work on main [!?] via v3.11\n❯ |", ZSH),
            ("日本@ホスト:~$ |", BASH),
            ("e\u0301t\u00e9@host:~$ |", BASH),
            ("some output with $ signs\nand > others\nme@host:~$ |\n\n", BASH),
        ],
    )
    def test_an_empty_prompt_is_known(self, capture: str, foreground: Foreground) -> None:
        assert is_empty(judged(capture, foreground)), judged(capture, foreground)

    @pytest.mark.parametrize(
        ("capture", "why"),
        [
            ("me@host:~$ rm -rf build|", "a command"),
            ("me@host:~$ rm -rf build |", "a command with a blank behind it"),
            ("me@host:~$  |", "a blank that somebody typed"),
            ("me@host:~$ |rm -rf build", "a command, the cursor at its beginning"),
            ("me@host:~$ echo a |b", "the cursor in the middle"),
            ("me@host:~$ echo $ |", "a draft that ends like a prompt"),
            ("me@host:~$ cat > |", "a redirection"),
            ("me@host:~$ echo # |", "a comment"),
            ("me@host:~$ for i in a b\n> |", "the second line of a loop"),
            ("me@host:~$ cat <<EOF\n> # |", "a here document"),
            ("me@host ~ % echo 'a\nquote> |", "zsh in a quote"),
            ("me@host ~ % for i in a\nfor> |", "zsh in a loop"),
            ("me@host ~ % echo \\\n> |", "zsh after a backslash"),
            ("me@host:~$ echo a \\\n> b|", "the second line of a command"),
            ("me@host:~$ |\nsecond line of a draft", "more of a draft below"),
            ("(reverse-i-search)`gi': git push|", "a search"),
            ("(reverse-i-search)`': |", "an empty search"),
            ("me@host:~$ |           12:30:59", "a prompt on the right"),
            ("Password: |", "a password"),
            ("Continue? [y/N] |", "a question"),
            ("Overwrite (y/n)? |", "a question"),
            ("work |", "a prompt without a known sign"),
            ("work echo $ |", "such a prompt, and a draft that ends in a sign"),
            ("work echo a$ |", "the same, close to a word"),
            ("~/work cat a > |", "the same, with a place in the prompt"),
            ("~/work echo $ |", "the same"),
            ("cat> |", "a redirection without a prompt"),
            ("|", "nothing"),
            ("mysql> |", "another program's prompt, in a shell's name"),
            (">>> |", "Python's prompt"),
            ("(END)|", "a pager"),
            (": |", "a colon"),
        ],
    )
    def test_what_is_no_empty_prompt_is_not_typed_into(self, capture: str, why: str) -> None:
        for foreground in (BASH, ZSH, FISH, DASH):
            assert not is_empty(judged(capture, foreground)), why

    def test_the_line_is_found_as_it_was_typed(self) -> None:
        assert judged(f"me@host:~$ {LINE}|", BASH) == Composer("me@host:~$ ", LINE, WIDTH - 11 - len(LINE))
        assert judged(f"root@host:~# {LINE}|", BASH) == Composer("root@host:~# ", LINE, WIDTH - 13 - len(LINE))
        found = judged(f"me@host:~$ x{LINE}|", BASH)
        assert isinstance(found, Composer) and found.text == "x" + LINE

    def test_the_terminal_says_more_than_the_screen(self) -> None:
        """`read -p 'me@host:~$ '` looks like a prompt; the kernel knows better."""
        prompt = "me@host:~$ |"
        for by_line, echoes, name in (
            *((True, True, "bash"), (True, False, "bash"), (True, False, "dash"), (False, True, "bash")),
            *((True, True, "zsh"), (True, True, "fish"), (False, True, "sh")),
        ):
            assert isinstance(judged(prompt, Foreground(Program.SHELL, name, by_line, echoes)), Busy), (name, by_line)
        for name in ("vim", "less", "ssh", "python3", "sudo", "mysql", "bash"):
            found = judged(prompt, Foreground(Program.OTHER, name, False, False))
            assert found == Busy(f"{name} is in its foreground")

    def test_the_alternate_screen_and_a_hidden_cursor_are_no_prompt(self) -> None:
        assert isinstance(judged("me@host:~$ |", BASH, alternate=True), Busy)
        assert isinstance(judged("me@host:~$ |", BASH, cursor_shown=False), Busy)


RULE = "─" * 78
BOX = ("╭" + "─" * 76 + "╮", "╰" + "─" * 76 + "╯")
FOOTER = "  ? for shortcuts"


def claude(content: str, *, above: str = "● Done.\n", below: str = FOOTER, sign: str = "❯\u00a0") -> str:
    return f"{above}\n{RULE}\n{sign}{content}\n{RULE}\n{below}"


def boxed(content: str, below: str = FOOTER) -> str:
    return f"> an earlier message\n\n● Done.\n\n{BOX[0]}\n│ > {content}{' ' * 20} │\n{BOX[1]}\n{below}"


class TestClaude:
    """The cursor is one that the program draws: the terminal's is hidden."""

    @pytest.mark.parametrize(
        "capture",
        [
            claude(f"{INVERSE} {OFF}"),
            claude(""),
            claude(f'{INVERSE}T{OFF}{DIM}ry "fix typecheck errors"{OFF}'),
            claude(f'{DIM}Try "edit <filepath> to..."{OFF}'),
            claude(f"{INVERSE} {OFF}", sign="> "),
            claude(f"{INVERSE} {OFF}", below="  ⏵⏵ accept edits on (shift+tab to cycle)\n  opus · ~/work · main"),
            boxed(f"{INVERSE} {OFF}"),
            boxed(f'{INVERSE}T{OFF}{DIM}ry "refactor foo.py"{OFF}'),
            f"● Done.\n\n──── release ────{RULE[:40]}\n❯ {INVERSE} {OFF}\n{RULE}\n{FOOTER}",
        ],
    )
    def test_an_empty_composer_is_known_with_its_hint(self, capture: str) -> None:
        assert is_empty(judged(capture, CLAUDE, cursor_shown=False)), judged(capture, CLAUDE, cursor_shown=False)
        assert is_empty(judged(capture, CLAUDE, cursor_shown=False, alternate=True))

    def test_a_shown_cursor_must_stand_at_its_beginning(self) -> None:
        assert is_empty(judged(claude("|"), CLAUDE))
        assert isinstance(judged(claude(""), CLAUDE), Busy)

    @pytest.mark.parametrize(
        ("capture", "why"),
        [
            (claude(f"fix the te{INVERSE} {OFF}"), "a draft"),
            (claude(f"{INVERSE}f{OFF}ix the test"), "a draft, the cursor at its beginning"),
            (claude(f"{INVERSE}y{OFF}"), "a draft of one letter under the cursor"),
            (claude(f"   {INVERSE} {OFF}"), "a draft of blanks"),
            (claude(f"first line\n  second line{INVERSE} {OFF}"), "a draft of two lines"),
            (claude(f"\n  {INVERSE} {OFF}"), "a draft of two empty lines"),
            (claude(f"/he{DIM}lp{OFF}"), "a command with what may follow"),
            (claude(f"{INVERSE} {OFF}", sign="! "), "a shell command"),
            (claude(f"{INVERSE} {OFF}", sign="# "), "a note for its memory"),
            (claude(f"{INVERSE} {OFF}", above="✻ Thinking… (12s · esc to interrupt)\n"), "it works"),
            (claude(f"{INVERSE} {OFF}", below="  esc to interrupt"), "it works"),
            (claude(f"{INVERSE} {OFF}", below="  -- NORMAL --"), "keys are commands"),
            (boxed(f"fix it{INVERSE} {OFF}"), "a draft in a box"),
            (f"{RULE}\n Do you want to proceed?\n ❯ 1. Yes\n   2. No\n\n Esc to cancel", "an approval"),
            (f"{RULE}\n Bash command\n\n{RULE}\n ❯ 1. Yes\n{RULE}\n Esc to cancel", "an approval between rules"),
            (f"{RULE}\n❯ \n{RULE}\n Type to filter · Enter to select · Esc to cancel", "a list with a filter"),
            (f"{RULE}\n❯ \n{RULE}\n" + "a row\n" * 9, "something long below"),
            ("❯ what I asked before\n\n● Done.", "no composer at all"),
            ("me@host:~$ |", "a shell's prompt"),
            ("", "nothing"),
        ],
    )
    def test_what_is_no_empty_composer_is_not_typed_into(self, capture: str, why: str) -> None:
        assert not is_empty(judged(capture, CLAUDE, cursor_shown=False)), why

    def test_the_line_is_found_as_it_was_typed(self) -> None:
        for capture in (claude(f"{LINE}{INVERSE} {OFF}"), boxed(f"{LINE}{INVERSE} {OFF}"), claude(f"{LINE}|")):
            found = judged(capture, CLAUDE, cursor_shown="|" in capture)
            assert isinstance(found, Composer) and found.text == LINE
        # An older one takes the `#` for itself and shows another sign: that is not the line.
        found = judged(claude(f"[mesh] receive hl_messages_0123456789ab{INVERSE} {OFF}", sign="# "), CLAUDE)
        assert isinstance(found, Busy)

    def test_a_terminal_that_gathers_lines_is_not_its_composers(self) -> None:
        assert isinstance(find_composer(screen(claude("|")), Foreground(Program.CLAUDE, "claude", True, True)), Busy)


def codex(content: str, *, above: str = "• Done.\n", below: str = "  ? for shortcuts      100% context left") -> str:
    return f"{above}\n{BOLD}›{OFF} {content}\n\n{DIM}{below}{OFF}"


class TestCodex:
    @pytest.mark.parametrize(
        "capture",
        [
            codex(f"|{DIM}Ask Codex to do anything{OFF}"),
            codex(f"|{DIM}Explain this codebase{OFF}", below="  gpt-5.1-codex high · ~/work"),
            f"• Done.\n\n▌ |{DIM}Ask Codex to do anything{OFF}\n\n ⏎ send   ⌃J newline",
        ],
    )
    def test_an_empty_composer_is_known_by_its_hint(self, capture: str) -> None:
        assert is_empty(judged(capture, CODEX)), judged(capture, CODEX)

    @pytest.mark.parametrize(
        ("capture", "why"),
        [
            (codex("fix the test|"), "a draft"),
            (codex("|fix the test"), "a draft, the cursor at its beginning"),
            (codex("|"), "no hint: blank lines may stand there"),
            (codex("first|\n  second"), "a draft of two lines"),
            (f"• Done.\n\n▌ first\n▌ |{DIM}x{OFF}\n\n ⏎ send", "a draft of two lines, with a bar"),
            (codex("1. Yes, proceed (y)|\n  2. No"), "an approval"),
            (codex(f"|{DIM}Ask Codex{OFF}", above="• Working (3s • esc to interrupt)\n"), "it works"),
            (codex(f"|{DIM}Ask Codex{OFF}", below="  Press Enter to confirm or Esc to cancel"), "a question"),
            (f"› {DIM}Ask Codex to do anything{OFF}\n\n  |", "the cursor is elsewhere"),
            ("  Would you like to run this?\n\n  1. Yes (y)\n  2. No (n)", "an approval without a sign"),
        ],
    )
    def test_what_is_no_empty_composer_is_not_typed_into(self, capture: str, why: str) -> None:
        assert not is_empty(judged(capture, CODEX)), why

    def test_a_hidden_cursor_is_no_composer(self) -> None:
        assert isinstance(judged(codex(f"|{DIM}Ask Codex{OFF}"), CODEX, cursor_shown=False), Busy)

    def test_the_line_is_found_as_it_was_typed(self) -> None:
        found = judged(codex(f"{LINE}|"), CODEX)
        assert isinstance(found, Composer) and found.text == LINE


class TestPrograms:
    @pytest.mark.parametrize(
        ("words", "program"),
        [
            ("-bash", Program.SHELL),
            ("bash --norc", Program.SHELL),
            ("/bin/bash --rcfile /home/me/rc -i", Program.SHELL),
            ("zsh -i -l", Program.SHELL),
            ("fish", Program.SHELL),
            ("sh", Program.SHELL),
            ("bash -c read", Program.OTHER),
            ("bash -lc read", Program.OTHER),
            ("fish --command=read", Program.OTHER),
            ("bash ./deploy.sh", Program.OTHER),
            ("/bin/sh /usr/bin/which x", Program.OTHER),
            ("bash --rcfile", Program.OTHER),
            ("bash -- x", Program.OTHER),
            ("vim notes", Program.OTHER),
            ("ssh host", Program.OTHER),
            ("", Program.OTHER),
            ("claude --continue", Program.CLAUDE),
            ("/home/me/.local/bin/claude", Program.CLAUDE),
            ("node /home/me/.npm/bin/claude", Program.CLAUDE),
            ("node /usr/lib/node_modules/@anthropic-ai/claude-code/cli.js", Program.CLAUDE),
            ("codex", Program.CODEX),
            ("node /usr/lib/node_modules/@openai/codex/bin/codex.js", Program.CODEX),
            ("node server.js", Program.OTHER),
            ("python3 claude.py", Program.OTHER),
            ("less claude", Program.OTHER),
        ],
    )
    def test_a_command_line_says_what_it_starts(self, words: str, program: Program) -> None:
        assert program_of(words.split()) is program


class TestCells:
    def test_colours_are_not_taken_for_what_dims(self) -> None:
        for sequence in ("38;2;2;2;2", "48;5;2", "38:2::2:2:2", "4:2", "1;38;5;7"):
            (row,) = read_rows(f"{ESC}[{sequence}mx", 10, 1)
            assert not row[0].is_dim and not row[0].is_inverse, sequence
        (row,) = read_rows(f"{ESC}[1;2;7mx{ESC}[22my{ESC}[27mz{ESC}[;2m0{ESC}[mn", 10, 1)
        assert [(cell.is_dim, cell.is_inverse) for cell in row] == [
            *((True, True), (False, True), (False, False), (True, False), (False, False))
        ]

    def test_what_is_no_character_takes_no_column(self) -> None:
        link = f"{ESC}]8;;http://x{ESC}\\x{ESC}]8;;\x07"
        (row,) = read_rows(f"{link}\x0eqx\x0fq{ESC}[?25l{ESC}(Ba\x07\u0301日b", 20, 1)
        assert text_of(row) == "x─│qa\u0301日b" and len(row) == 8

    def test_a_capture_is_cut_to_the_pane(self) -> None:
        rows = read_rows("\n".join(["x" * 500] * 100), 80, 24)
        assert len(rows) == 24 and all(len(row) == 80 for row in rows)
        assert len(read_rows("e" + "\u0301" * 10_000, 80, 24)[0]) == 1

    def test_looks_are_alike_whatever_the_colours(self) -> None:
        assert screen(f"{DIM}a{OFF} $ |").looks_like(screen("a $ |"))
        assert not screen("a $ |").looks_like(screen("a $  |"))
        assert not screen("a $ |").looks_like(screen("b $ |"))
