#!/usr/bin/env python3
"""For `notify` of Codex: when a turn has ended and there is unread mail, shows the person a desktop notice with the number.

Codex gives it one JSON object as its last argument, and cannot be answered. No text of a message is shown.
"""

import json
import os
import re
import subprocess
import sys

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def main() -> None:
    agent = os.environ.get("TETHER_AGENT_ID", "")
    try:
        event = json.loads(sys.argv[-1])
        if event["type"] != "agent-turn-complete" or not NAME.fullmatch(agent):
            return
        command = ["tether", "inbox", "--for", agent, "--unread", "--json"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=True)
        count = int(json.loads(done.stdout)["unread"])
        if count > 0:
            notice = ["notify-send", "--", "Mesh", f"{count} unread for {agent}"]
            subprocess.run(notice, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return  # no daemon, no desktop: a notice less


if __name__ == "__main__":
    main()
