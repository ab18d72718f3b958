"""The rendezvous server as a real process: what an operator sees of it, and clients over loopback."""

import json
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from meshd.drivers.tls_identity import fingerprint
from meshd.wire.constants import CloseCode
from meshd.wire.rendezvous import Allocate, Enter, Match, Nat, Numbered, Observed, Side, Wait, address_of
from tests.daemons import is_clear
from tests.e2e.rendezvous_kit import Process, ask, clients, processes
from tests.processes import WITHIN, free_port

FINGERPRINT = re.compile("[a-z2-7]{52}")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    with processes(tmp_path) as make:
        yield make


def free_tcp_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


async def meet(server: Process) -> None:
    """One number and one topic, from beginning to end."""
    async with clients() as call:
        ann, ben = await call(server.address), await call(server.address)
        assert fingerprint(ann.connection.certificate) == server.ready["fingerprint"]
        await ann.say(Allocate(1, Nat.UNKNOWN))
        number = (await ann.hear(Numbered, within=WITHIN)).number
        await ben.say(Enter(1, number, Nat.UNKNOWN))
        to_ann, to_ben = await ann.hear(Match, within=WITHIN), await ben.hear(Match, within=WITHIN)
        assert address_of(to_ann).port == ben.endpoint.port and address_of(to_ben).port == ann.endpoint.port
        assert address_of(to_ben) == address_of(await ann.hear(Observed)) and to_ann.nonce == to_ben.nonce
        await ann.say(Wait(2, b"t" * 32, Side.FIRST, b"ann"))
        await ben.say(Wait(2, b"t" * 32, Side.SECOND, b"ben"))
        assert (await ann.hear(Match, within=WITHIN)).card == b"ben"


def test_it_starts_serves_and_ends_when_it_is_told(make: Callable[..., Process]) -> None:
    server = make().start()
    key = server.directory / "state" / "tether-rendezvous" / "key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and [each.name for each in key.parent.iterdir()] == ["key.pem"]
    first = server.ready
    assert first["event"] == "ready" and FINGERPRINT.fullmatch(first["fingerprint"])
    assert first["setting"] == f"127.0.0.1:{first['port']}#{first['fingerprint']}"
    trio.run(meet, server)
    assert server.stop() == 0
    assert "ready" in server.log and "stopping" in server.log and "Traceback" not in server.log
    assert server.run("fingerprint").stdout == first["fingerprint"] + "\n"
    assert json.loads(server.run("fingerprint", "--json").stdout) == {"fingerprint": first["fingerprint"]}

    server.start()
    assert server.ready["fingerprint"] == first["fingerprint"], "a restart has the same key"
    trio.run(meet, server)
    assert server.stop(signal.SIGINT) == 0
    assert "Traceback" not in server.log


def test_clients_hear_of_its_end(make: Callable[..., Process]) -> None:
    server = make().start()

    async def stay() -> int:
        async with clients() as call:
            ann = await call(server.address)
            await ann.say(Allocate(1, Nat.UNKNOWN))
            await ann.hear(Numbered, within=WITHIN)
            assert await trio.to_thread.run_sync(server.stop) == 0
            return int(await ann.is_closed(within=WITHIN))

    assert trio.run(stay) == CloseCode.DONE


def test_the_line_for_people(make: Callable[..., Process]) -> None:
    server = make()
    port = free_port()
    process = subprocess.Popen(
        ["timeout", str(WITHIN), sys.executable, "-m", "rendezvous", "serve", "--port", str(port), "--metrics", "off"],
        env=server.environment,
        cwd=server.directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    process.terminate()
    assert process.wait(WITHIN) == 0
    process.stdout.close()
    found = re.fullmatch(rf"Serving on UDP port {port}\. For clients: TETHER_RENDEZVOUS=HOST:{port}#(\S+)\n", line)
    assert found and FINGERPRINT.fullmatch(found[1])


def test_what_keeps_it_from_starting(make: Callable[..., Process]) -> None:
    server = make().start()
    taken = str(server.ready["port"])
    other = make()
    for arguments, code, said in (
        (("--host", "127.0.0.1", "--port", taken), 6, f"UDP port {taken} is in use"),
        (("--host", "192.0.2.99"), 6, "192.0.2.99"),
        (("--host", "no.such.invalid"), 6, "no.such.invalid"),
        (("--port", "70000"), 2, "70000"),
        (("--clients", "0"), 2, "--clients"),
        (("--metrics", "0.0.0.0:4441"), 2, "no loopback"),
        (("--metrics", "example.org:4441"), 2, "no loopback"),
        (("--metrics", "127.0.0.1:http"), 2, "not a port"),
        (("--nosuch",), 2, "--nosuch"),
    ):
        arguments = arguments if "--metrics" in arguments else (*arguments, "--metrics", "off")
        done = other.run("serve", "--port", "0", *arguments)
        assert done.returncode == code and said in done.stderr and "Traceback" not in done.stderr, done
        assert code == 2 or is_clear(done.stderr), done
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        metrics = f"127.0.0.1:{busy.getsockname()[1]}"
        done = other.run("serve", "--port", "0", "--metrics", metrics)
        assert done.returncode == 6 and metrics in done.stderr and is_clear(done.stderr)
    trio.run(meet, server)  # nothing of this has troubled it


def test_a_key_that_is_wrong_is_refused_and_stays_as_it_is(make: Callable[..., Process], tmp_path: Path) -> None:
    server = make()
    key = tmp_path / "key"
    p384 = subprocess.run(
        ["openssl", "ecparam", "-name", "secp384r1", "-genkey", "-noout"], capture_output=True, check=True
    ).stdout
    for content, mode, said in (
        (b"", 0o600, "no P-256 key"),
        (b"rubbish\n", 0o600, "no P-256 key"),
        (p384, 0o600, "no P-256 key"),
        (b"-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----\n", 0o600, "no P-256 key"),
        (b"rubbish\n", 0o640, "chmod 600"),
        (b"rubbish\n", 0o604, "chmod 600"),
    ):
        key.write_bytes(content)
        key.chmod(mode)
        for command in (("serve", "--port", "0", "--metrics", "off"), ("fingerprint",)):
            done = server.run(*command, "--key", str(key))
            assert done.returncode == 6 and said in done.stderr and is_clear(done.stderr), done
        assert key.read_bytes() == content
    missing = server.run("fingerprint", "--key", str(tmp_path / "none"))
    assert missing.returncode == 6 and "no key" in missing.stderr
    away = server.run("serve", "--port", "0", "--metrics", "off", "--key", "/proc/nowhere/key.pem")
    assert away.returncode == 6 and "cannot be made" in away.stderr and "Traceback" not in away.stderr


def test_under_systemd_the_key_is_in_its_state_directory_and_it_says_when_it_is_ready(
    make: Callable[..., Process], tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "ear"))
        manager.settimeout(WITHIN)
        server = make(STATE_DIRECTORY=str(tmp_path / "var"), NOTIFY_SOCKET=str(tmp_path / "ear")).start()
        assert (tmp_path / "var" / "key.pem").exists()
        ready = manager.recv(4096).decode().splitlines()
        assert "READY=1" in ready and f"MAINPID={server.pid}" in ready
        assert server.stop() == 0
        assert "STOPPING=1" in manager.recv(4096).decode().splitlines()


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_log_has_addresses_at_debug_only(make: Callable[..., Process], form: str) -> None:
    for level, shown in (("info", False), ("debug", True)):
        server = make().start("--log-level", level, "--log-format", form)

        async def visit(server: Process = server) -> int:
            async with clients() as call:
                ann = await call(server.address, "127.77.66.55")
                await ann.say(Allocate(1, Nat.UNKNOWN))
                await ann.hear(Numbered, within=WITHIN)
                await ann.stream.send_all(b"\xff" * 100)
                await ann.is_closed(within=WITHIN)
                return ann.endpoint.port

        port = trio.run(visit)
        assert server.stop() == 0
        assert ("127.77.66.55" in server.log) is shown
        assert (str(port) in server.log) is shown
        assert "Traceback" not in server.log
        if form == "json":
            assert all(json.loads(line)["event"] for line in server.log.splitlines())


def test_health_and_metrics_on_loopback_for_local_names_only(make: Callable[..., Process]) -> None:
    port = free_tcp_port()
    server = make().start(metrics=f"127.0.0.1:{port}")
    url = f"http://127.0.0.1:{port}"

    async def look() -> None:
        async with clients() as call:
            ann, ben = await call(server.address, "127.77.66.55"), await call(server.address)
            await ann.say(Allocate(1, Nat.UNKNOWN), Wait(2, b"t" * 32, Side.FIRST, b""))
            number = (await ann.hear(Numbered, within=WITHIN)).number
            await ben.say(Enter(1, number, Nat.UNKNOWN), Enter(2, 999_999, Nat.UNKNOWN))
            await ben.hear(Match, within=WITHIN)
            await trio.sleep(0.2)
            status, body = await trio.to_thread.run_sync(ask, f"{url}/health")
            assert status == 200 and json.loads(body) == {"status": "ok", "clients": 2}
            status, body = await trio.to_thread.run_sync(ask, f"{url}/metrics")
            figures = dict(line.rsplit(" ", 1) for line in body.splitlines() if not line.startswith("#"))
            assert status == 200
            for name, value in (
                ("clients", 2),
                ("numbers", 1),
                ("waits", 1),
                ("matches_total", 1),
                ("frames_total", 4),
                ('refusals_total{why="no_such_number"}', 1),
                ('refusals_total{why="taken"}', 0),
                ('handshakes_refused_total{why="full"}', 0),
            ):
                assert float(figures[f"rendezvous_{name}"]) == value, name
            assert float(figures["process_resident_memory_bytes"]) > 1e7
            assert float(figures["process_cpu_seconds_total"]) > 0
            assert "127.77.66.55" not in body

    trio.run(look)
    assert ask(f"http://localhost:{port}/health")[0] == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "10.0.0.1", "", "[::"):
        status, body = ask(f"{url}/metrics", Host=host)
        assert status in (400, 421) and "rendezvous_" not in body, host
    assert (
        ask(
            f"{url}/",
        )[0]
        == 404
    )
    with socket.create_connection(("127.0.0.1", port), WITHIN):  # a reader that says nothing does not hold up the end
        assert server.stop() == 0
    assert "Traceback" not in server.log


def test_without_metrics_their_libraries_are_not_loaded() -> None:
    program = "import sys, rendezvous.__main__; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "trio" in loaded and not loaded & {"hypercorn", "starlette", "prometheus_client", "anyio"}


def test_help_teaches(make: Callable[..., Process]) -> None:
    server = make()
    for arguments, said in (
        ((), "docs/server.md"),
        (("serve",), "HOST:4440#FINGERPRINT"),
        (("fingerprint",), "same whatever the server's name"),
    ):
        done = server.run(*arguments, "--help")
        text = " ".join(done.stdout.split())
        assert done.returncode == 0 and said in text and "Exit codes: 0 done" in text
