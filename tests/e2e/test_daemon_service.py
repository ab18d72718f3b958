"""The daemon and who runs it: settings, a service manager, reloading, stopping."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.daemons import WITHIN, Daemon, all_linked, eventually, join
from tests.e2e.daemon_kit import Start, another, founded, refused, resolves


def test_settings_that_make_no_sense(start: Start) -> None:
    ann = founded(start)
    handle = ann.tether("collapse", "--value", '"kept"').out
    ann.stop()
    config = ann.state / "config.toml"
    for text, said in (
        ("port = 70000\n", "port"),
        ("colour = 'red'\n", "colour"),
        ("upload_limit = 'fast'\n", "upload_limit"),
        ("port = \n", "TOML"),
    ):
        config.write_text(text)
        assert said in refused(ann, 2)
    config.unlink()
    config.mkdir()
    assert str(config) in refused(ann, 2)
    config.rmdir()
    assert "TETHER_PORT" in refused(another(ann, "wrong", TETHER_PORT="many"), 2)
    assert "192.0.2.99" in refused(another(ann, "away", TETHER_HOST="192.0.2.99"), 6)
    assert "no.such.invalid" in refused(another(ann, "unknown", TETHER_HOST="no.such.invalid"), 6)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as taken:
        taken.bind(("::", 0))
        port = str(taken.getsockname()[1])
        assert port in refused(another(ann, "taken", TETHER_PORT=port), 6)
    ann.start()
    assert resolves(ann, handle, '"kept"')
    wrong = subprocess.run(
        [sys.executable, "-m", "meshd", "--nosuch"],
        env=ann.environment,
        cwd=ann.directory,
        capture_output=True,
        text=True,
    )
    assert wrong.returncode == 2 and "--nosuch" in wrong.stderr


# With a service manager


@contextlib.contextmanager
def ear(daemon: Daemon) -> Iterator[Callable[[], str]]:
    """A service manager's socket, and a function that gives the next message there."""
    path = daemon.directory / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(WITHIN)
        daemon.environment["NOTIFY_SOCKET"] = str(path)
        yield lambda: manager.recv(4096).decode()


def test_a_service_manager_hears_of_ready_reloading_and_stopping(start: Start, tmp_path: Path) -> None:
    made = Daemon("ann", tmp_path, TETHER_LAN_INTERFACES="127.0.0.1")
    with ear(made) as message:
        command = [sys.executable, "-m", "meshd"]
        with made.log_path.open("wb") as log:
            process = subprocess.Popen(command, env=made.environment, cwd=made.directory, stdout=log, stderr=log)
        made.process = process
        try:
            ready = message().splitlines()
            assert "READY=1" in ready and f"MAINPID={process.pid}" in ready
            assert any(line.startswith("STATUS=") and "in no mesh yet" in line for line in ready)
            assert made.json("config")["settings"], "ready means that it answers"

            process.send_signal(signal.SIGHUP)
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            reloading = message().splitlines()
            assert "RELOADING=1" in reloading
            (stamp,) = [line.partition("=")[2] for line in reloading if line.startswith("MONOTONIC_USEC=")]
            assert abs(int(stamp) - before) < 10_000_000
            assert "READY=1" in message().splitlines()

            process.send_signal(signal.SIGTERM)
            assert "STOPPING=1" in message().splitlines()
            assert process.wait(WITHIN) == 0
        finally:
            made.close()


def test_a_reload_takes_a_new_upload_limit_and_keeps_the_old_one_when_the_file_is_wrong(start: Start) -> None:
    ann, ben = founded(start), start("ben")
    join(ann, ben)
    config = ann.state / "config.toml"

    def limit() -> str:
        return str({each["key"]: each["value"] for each in ann.json("config")["settings"]}["upload_limit"])

    assert limit() == "-" and "Nothing changed" in ann.tether("reload").out
    config.write_text('upload_limit = "1 MiB"\nport = 5000\n')
    ann.signal(signal.SIGHUP)
    eventually(lambda: limit() == "1 MiB", "the daemon has read its settings")
    (ann.directory / "big").write_bytes(os.urandom(4 << 20))
    handle = ann.tether("put", "big").out
    got = ben.json("get", handle, "-o", "copy")
    print(f"4 MiB at a limit of 1 MiB/s: {got['seconds']:.1f} s")
    assert got["seconds"] > 1.5, "the limit holds"

    config.write_text('upload_limit = "fast"\n')
    assert "upload_limit" in ann.fails(2, "reload")
    ann.signal(signal.SIGHUP)
    eventually(lambda: "reload.failed" in ann.log, "the log says it")
    assert limit() == "1 MiB", "a file that is wrong changes nothing"
    config.write_text('upload_limit = "0"\nport = 5001\n')
    told = ann.json("reload")
    assert told == {"changed": ["port", "upload_limit"], "restart": ["port"]}
    (ann.directory / "big2").write_bytes(os.urandom(4 << 20))
    again = ben.json("get", ann.tether("put", "big2").out, "-o", "copy2")
    assert again["seconds"] < got["seconds"]


def test_it_stops_in_order_when_asked_by_a_signal_or_by_the_command(start: Start) -> None:
    ann, ben = founded(start), start("ben")
    join(ann, ben)
    all_linked(ann, ben)
    following = ann.begin("events", "--follow")
    assert following.stdout is not None and following.stdout.readline(), "it follows by now"
    began = time.monotonic()
    assert ann.stop() == 0
    print(f"stopped in {time.monotonic() - began:.2f} s with a link and a follower")
    assert time.monotonic() - began < 12
    following.communicate(timeout=WITHIN)
    assert following.returncode == 5, "who followed is told that it is over"
    assert not (ann.state / "control.sock").exists()
    eventually(lambda: "ann is not linked any more" in ben.tether("events").out, "ben hears of it", within=10)
    ann.fails(4, "status")
    ann.start()
    assert "stopping" in ann.tether("stop").out
    assert ann.process is not None and ann.process.wait(WITHIN) == 0
    ann.start()
    ann.signal(signal.SIGINT)
    assert ann.process.wait(WITHIN) == 0
    assert "Traceback" not in ann.log + ben.log
