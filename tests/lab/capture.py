"""What crosses the bridge, kept to be searched for what nobody on the way may read."""

import contextlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.lab.network import BRIDGE, Lan


@contextlib.contextmanager
def capture(lan: Lan, path: Path) -> Iterator[None]:
    """Everything that crosses the bridge, written to `path` as it comes."""
    command = [
        *lan.switch.prefix,
        "tcpdump",
        "-i",
        BRIDGE,
        "--immediate-mode",
        "-U",
        "-s",
        "0",
        "-B",
        "131072",
        "-w",
        str(path),
    ]
    process = subprocess.Popen([*command, "-Z", "root"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        assert any("listening on" in line for line in process.stderr), "it stopped before it listened"
        yield
    finally:
        process.terminate()
        lost = process.stderr.read()
        process.wait(20)
        process.stderr.close()
    assert re.search(r"\b0 packets dropped by kernel", lost), lost


def forms(text: str | bytes) -> list[bytes]:
    """How a text may stand in a packet; no distinction is made between cases."""
    if isinstance(text, bytes):
        return [text.lower()]
    return [text.lower().encode(coding) for coding in ("utf-8", "utf-16-le", "utf-16-be")]
