"""A program that is run when there is mail, as tests of it set one."""

import os
from pathlib import Path

from meshd.drivers.hooks import Hook, find_hook

HANDLE = "h&l_messages_0123456789ab"
ENV = {"PATH": os.defpath, "TETHER_PASSPHRASE": "seven words", "NOTIFY_SOCKET": "/run/x", "HOME": "/home/me"}


def script(path: Path, text: str) -> Hook:
    program = path / "hook"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o700)
    return find_hook([str(program), "a b", "$HOME; rm -rf ~", "--"])
