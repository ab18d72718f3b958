"""A shell that asks what may follow, in the way that `--help` of the command tells it to."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tether_lite.__main__ import connect, listen

ROOT = Path(__file__).parents[2]

# What the console script `tether-lite` runs, which need not be installed for the tests.
SCRIPT = "import sys; from tether_lite.__main__ import main; sys.argv = ['tether-lite']; main()"


def ask(**environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert not done.stderr
    return done.stdout


def completions(*words: str) -> set[str]:
    """What bash is told may stand in the place of the last of these words."""
    given = "\n".join(("tether-lite", *words))
    answer = ask(_TETHER_LITE_COMPLETE="bash_complete", COMP_WORDS=given, COMP_CWORD=str(len(words)))
    return {line.partition(",")[2] for line in answer.splitlines()}


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash to take it in")
def test_bash_takes_the_script_in() -> None:
    script = ask(_TETHER_LITE_COMPLETE="bash_source")
    told = subprocess.run(
        ["bash", "--norc", "-c", "source /dev/stdin && complete -p tether-lite"],
        input=script,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0 and "_tether_lite_completion tether-lite" in told.stdout, told.stderr


def test_commands_and_options() -> None:
    assert completions("") == {"listen", "connect"}
    for command in (listen, connect):
        names = {name for option in command.params for name in option.opts if name.startswith("--")}
        assert completions(command.name, "--") == names | {"--help"}
    assert completions("listen", "--quic-engine", "q") == {"qh3"}
