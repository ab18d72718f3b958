"""Three wrong tries close a window, however they come; none of them brings a byte to stdout."""

import os
import time

from meshd.drivers.pipe import StreamSource
from tests.e2e.strangers import connect_all, settings
from tests.processes import port_of


def test_three_wrong_tries_and_a_right_one_too_late(tether, words):
    listener = tether.listen("--passphrase", words)
    for number in (1, 2, 3):
        connector = tether.connect("--passphrase", f"{words}!", to=listener, stdin=b"wrong")
        connector.event("dialling")
        dialled = time.monotonic()
        assert connector.exits(3).ended - dialled < 3
        assert "Wrong words, or someone between you" in connector.error
        spent = listener.event("try_spent", failed=number)
        assert spent["remaining"] == 3 - number and "127.0.0.1" in spent["why"]
    assert "3 tries with these words have failed" in listener.exits(3).error
    late = tether.connect("--passphrase", words, "--timeout", "2", to=port_of(listener), stdin=b"right").exits(4)
    assert not late.all_of("paired")
    assert listener.out == b"" and len(listener.all_of("try_spent")) == 3


def test_two_wrong_tries_and_a_right_one(tether, words):
    """Seen as a person sees it, who gave neither --json nor --quiet."""
    listener = tether.start("listen", "--passphrase", words)
    port = int(listener.says(r"UDP port (\d+)")[1])
    for left in ("2 left", "1 left"):
        tether.connect("--passphrase", "no idea", to=port, stdin=b"wrong").exits(3)
        listener.says(f"failed, {left}: Wrong words")
    tether.connect("--passphrase", words, to=port, stdin=b"right").exits(0)
    assert listener.exits(0).out == b"right"


def test_twenty_at_once_spend_three_tries(tether, words):
    """Each from an address of its own, at the same moment: exactly three learn that their words are wrong."""
    listener = tether.listen("--passphrase", words)
    nothing = os.open(os.devnull, os.O_RDONLY)
    guesses = [
        settings(f"guess {number}", port_of(listener), host=f"127.0.1.{number}", timeout=6.0) for number in range(1, 21)
    ]
    endings = connect_all(guesses, lambda: StreamSource(nothing))
    os.close(nothing)
    assert sorted(ending.code for ending in endings) == [3] * 3 + [4] * 17
    assert [event["failed"] for event in listener.exits(3).all_of("try_spent")] == [1, 2, 3]
    assert listener.out == b""
