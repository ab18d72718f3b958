"""Telling the service manager how the daemon fares: sd_notify(3), Type=notify-reload of systemd.service(5).

A datagram of lines to the socket that NOTIFY_SOCKET names. Where there is none, nothing is sent: a daemon started by
hand has nobody to tell.
"""

import os
import socket
import time
from typing import Final

ENV_NOTIFY_SOCKET: Final = "NOTIFY_SOCKET"


class Readiness:
    """The service manager's ear. Made once, early: the variable is taken out of the environment, so that no child uses it."""

    def __init__(self) -> None:
        self._address = os.environ.pop(ENV_NOTIFY_SOCKET, "")

    def ready(self, status: str) -> None:
        """All is up; `status` is one line that `systemctl status` shows."""
        self._tell("READY=1", f"STATUS={status}", f"MAINPID={os.getpid()}")

    def reloading(self) -> None:
        """The settings are being read again; `ready` follows."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The end has begun."""
        self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._tell(f"STATUS={text}")

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        # A name that starts with @ is in Linux's abstract space, where the first byte is zero.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as ear:
                # A line is an assignment: a name with a line break in it, which a peer may choose, must not become one.
                ear.sendto("\n".join(" ".join(line.splitlines()) for line in lines).encode(errors="replace"), address)
        except OSError:
            # The manager is gone or deaf: it finds out by itself, and the daemon has work to do.
            return
