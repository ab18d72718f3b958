"""What a service manager is told, and the lines that it collects."""

import io
import json
import os
import socket
import sys
from pathlib import Path

import pytest
import structlog

from meshd.drivers import logs
from meshd.drivers.readiness import ENV_NOTIFY_SOCKET, Readiness
from meshd.notices import LinkUp, RecordsStored, Trouble


@pytest.fixture(autouse=True)
def _plain_logs() -> object:
    yield
    structlog.reset_defaults()


class TestReadiness:
    def test_states_are_told_and_the_variable_is_for_nobody_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
            ear.bind(str(tmp_path / "ear"))
            ear.settimeout(5)
            monkeypatch.setenv(ENV_NOTIFY_SOCKET, str(tmp_path / "ear"))
            readiness = Readiness()
            assert ENV_NOTIFY_SOCKET not in os.environ
            readiness.ready("in home\nSTOPPING=1\rMAINPID=1")
            assert ear.recv(4096).decode().split("\n") == [
                "READY=1",
                "STATUS=in home STOPPING=1 MAINPID=1",
                f"MAINPID={os.getpid()}",
            ], "a name cannot say anything else to the manager"
            readiness.reloading()
            assert ear.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            readiness.stopping()
            assert ear.recv(4096) == b"STOPPING=1"
        readiness.status("whose ear is gone")

    def test_without_a_manager_nobody_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(ENV_NOTIFY_SOCKET, raising=False)
        Readiness().ready("all is well")


class TestLogs:
    def test_a_line_holds_its_fields_and_names_are_harmless(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        logs.configure("json", "info")
        logs.log_notice(LinkUp("m", "n", "ben\x1b[2J", "127.0.0.1:1", "LAN"))
        logs.log_notice(RecordsStored("m", "n", 1, True))
        logs.log_notice(Trouble("What.", "Advice.", "error"))
        up, trouble = [json.loads(line) for line in sys.stderr.getvalue().splitlines()]
        assert (up["event"], up["level"]) == ("link.up", "info") and "\x1b" not in up["name"]
        assert (trouble["event"], trouble["level"], trouble["what"]) == ("trouble", "error", "What.")

    def test_a_log_that_nobody_reads_any_more_ends_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        read, write = os.pipe()
        os.close(read)
        with os.fdopen(write, "w") as broken:
            monkeypatch.setattr(sys, "stderr", broken)
            logs.configure("text", "info")
            logs.log_notice(Trouble("What.", "Advice.", "error"))
            monkeypatch.undo()
            with pytest.raises(BrokenPipeError):
                broken.write("what the log did not raise")
                broken.flush()
            os.dup2(os.open(os.devnull, os.O_WRONLY), broken.fileno())
