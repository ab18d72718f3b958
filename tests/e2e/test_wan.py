"""The commands with a rendezvous server, as real processes over loopback. Routers between them: tests/lab."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons import all_linked, eventually
from tests.e2e.daemon_kit import Start, collapsed, founded, has
from tests.e2e.rendezvous_kit import Process
from tests.processes import Programs, free_port, new_words


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path / "server").start()
    yield process
    process.close()


def at(server: Process) -> str:
    return f"127.0.0.1:{server.ready['port']}"


def test_a_code_of_the_servers_hands_over(tether: Programs, server: Process) -> None:
    listener = tether.listen("--wan", "--rendezvous", at(server))
    code = listener.event("code")["code"]
    numbered = listener.event("numbered")
    assert code.partition("-")[0] == str(numbered["number"]) and numbered["server"] == at(server)
    connector = tether.connect("--wan", "--relay-url", at(server), code, stdin=b"hello")
    assert connector.exits(0).all_of("finished") and listener.exits(0).out == b"hello"


def test_with_a_passphrase_of_ones_own_the_number_is_told_apart(tether: Programs, server: Process) -> None:
    words = new_words()
    chosen = {"TETHER_PASSPHRASE": words, "TETHER_RENDEZVOUS": at(server)}
    listener = tether.listen("--wan", environment=chosen)
    number = listener.event("numbered")["number"]
    assert not listener.all_of("code")
    refused = tether.connect("--wan", environment=chosen, stdin=b"x").exits(2)
    assert "--token" in refused.error
    connector = tether.connect(
        "--wan", "--token", str(number), "--local-addr", "127.0.0.1", environment=chosen, stdin=b"hi"
    )
    connector.exits(0)
    assert listener.exits(0).out == b"hi"


def test_a_pinned_server_is_taken_and_another_is_not(tether: Programs, server: Process) -> None:
    """The wrong one is asked for a number that nobody announces: a listener on the LAN would be met all the same."""
    listener = tether.listen("--wan", "--rendezvous", f"{at(server)}#{server.ready['fingerprint']}")
    number, words = listener.event("code")["code"].split("-", 1)
    another = f"{int(number) + 1}-{words}"
    wrong = tether.connect("--wan", "--rendezvous", f"{at(server)}#{'a' * 52}", another, stdin=b"x")
    assert "another key" in wrong.exits(4).error


def test_no_server_and_no_such_server_are_said(tether: Programs) -> None:
    for command in ("listen", "connect"):
        code = () if command == "listen" else ("7-crystal-clock-tower",)
        none = tether.start(command, "--json", "--wan", *code, stdin=b"")
        assert "none is built in" in none.exits(2).error
        nowhere = f"127.0.0.1:{free_port()}"
        down = tether.start(command, "--json", "--wan", "--rendezvous", nowhere, *code, stdin=b"")
        assert nowhere in down.exits(4).error and "UDP out" in down.error and down.seconds < 20
    for wrong in (("--rendezvous", "user@host"), ("--rendezvous", "host#short"), ("--token", "0")):
        tether.start("connect", "--json", "--wan", *wrong, "7-crystal-clock-tower", stdin=b"").exits(2)
    for alone in (("--rendezvous", "host"), ("--token", "5")):
        assert "--wan" in tether.start("connect", "--json", *alone, "7-crystal-clock-tower", stdin=b"").exits(2).error


def test_a_machine_joins_by_the_servers_number_and_is_found_again(start: Start, server: Process) -> None:
    """mDNS is off: whatever they know of each other, they have from the server and from their own pairing."""
    wan = {"TETHER_RENDEZVOUS": at(server), "TETHER_LAN": "0"}
    ann, ben = founded(start, **wan), start("ben", **wan)
    inviting = ann.begin("invite", "--wan", "--json")
    assert inviting.stdout is not None
    opened = json.loads(inviting.stdout.readline())
    assert opened["wan"]
    ben.tether("join", "--wan", "--name", "ben", stdin=opened["code"].encode())
    assert inviting.wait(40) == 0
    all_linked(ann, ben)
    handle = collapsed(ben, "across")
    eventually(lambda: has(ann, handle), "ann has it")
    paths = ann.json("doctor", "paths")
    assert [each["server"] for each in paths["servers"]] == [at(server)] and paths["members"][0]["linked"]
    assert "): linked (" in ann.tether("doctor", "paths").out

    ben.stop()
    eventually(lambda: not ann.json("doctor", "paths")["members"][0]["linked"], "the link is gone")
    eventually(lambda: ann.json("doctor", "paths")["members"][0]["sought"], "ann looks for ben")
    (seen,) = ann.json("doctor", "paths")["servers"]
    assert seen["connected"] and seen["observed"].startswith("127.0.0.1:")
    server.stop()
    eventually(lambda: ann.json("doctor", "paths")["servers"][0]["error"], "the server is missed", within=60)
    shown = ann.tether("doctor", "paths").out
    assert "): not linked, looked for by rendezvous" in shown


def test_without_a_server_invitations_stay_here(start: Start) -> None:
    ann = founded(start, TETHER_LAN="0")
    assert "none is built in" in ann.fails(2, "invite", "--wan")
    assert "none is built in" in ann.fails(2, "join", "--wan", stdin=b"7-crystal-clock-tower")
    assert "No rendezvous server" in ann.tether("doctor", "paths").out or not ann.json("doctor", "paths")["members"]
