"""How soon a connector finds its listener on a LAN where nobody else is, and whether it does after the LAN has changed."""

import time

import pytest

from tests.processes import Run

SOON = 1.0
"""Seconds in which a connector finds its listener, from when both look for each other."""

ANNOUNCED = 4.0
"""Seconds after which a listener has said by itself what it says, and only answers from then on."""


@pytest.fixture
def ends(lan, at):
    """Two hosts: how to start the command on them."""
    return [at(lan.host(name)) for name in ("ann", "bob")]


def assert_found_soon(listener: Run, connector: Run) -> None:
    took = connector.time_of("dialling") - max(listener.time_of("waiting"), connector.time_of("searching"))
    print(f"\nfound after {took:.2f} s")
    assert took < SOON
    connector.exits(0)
    assert listener.exits(0).out == b"found"


@pytest.mark.parametrize("waited", [0.0, ANNOUNCED], ids=["a fresh listener", "one that has waited"])
def test_a_listener_is_found_within_a_second(ends, words, waited):
    """By what it announces, and by what it answers: two ways that fail apart."""
    a, b = ends
    listener = a.listen("--passphrase", words)
    time.sleep(waited)
    assert_found_soon(listener, b.connect("--passphrase", words, stdin=b"found"))


def test_a_connector_that_looks_already_hears_of_it_within_a_second(ends, words):
    a, b = ends
    connector = b.connect("--passphrase", words, stdin=b"found")
    connector.event("searching")
    time.sleep(ANNOUNCED)  # by now it asks seldom: it must hear, not ask
    assert_found_soon(a.listen("--passphrase", words), connector)


@pytest.mark.parametrize("change", ["a cable", "another network"])
def test_a_listener_follows_its_machine(lan, at, words, change):
    """It waits on a machine that gets its first network, or another one, and is found there under its new address."""
    away = "10.78.0"
    ann = lan.lonely_host("ann") if change == "a cable" else lan.host("ann")
    bob = at(lan.host("bob", away))
    listener = at(ann).listen("--passphrase", words)
    time.sleep(ANNOUNCED)
    moved = lan.plug(ann, away) if change == "a cable" else lan.move(ann, away)
    assert moved.address != ann.address
    connector = bob.connect("--passphrase", words, stdin=b"found").exits(0)
    # Until it looks at its addresses again it may answer with the old one, which leads nowhere.
    assert connector.all_of("dialling")[-1]["address"].partition(":")[0] == moved.address
    assert listener.exits(0).out == b"found"
