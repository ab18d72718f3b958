"""Others on the same LAN with words of their own do not confuse a connector, and it does not try them all."""

import pytest

from tests.processes import new_words


def tried(connector) -> set[str]:
    return {event["address"].partition(":")[0] for event in connector.all_of("dialling")}


@pytest.fixture
def crowd(lan, at):
    """`crowd(count)`: that many hosts, each with a listener that waits for a passphrase of its own."""

    def make(count: int):
        hosts = [lan.host(f"other{number}") for number in range(count)]
        runs = [at(host).start("listen", "--json", "--passphrase", new_words()) for host in hosts]
        for run in runs:
            run.event("waiting")
        return runs

    return make


def test_a_passphrase_among_two_others(lan, at, words, crowd):
    """At most two wrong ones are tried, one at a time, and their windows stay open."""
    others = crowd(2)
    listener = at(lan.host("ann")).listen("--passphrase", words)
    connector = at(lan.host("bob")).connect("--passphrase", words, stdin=b"found").exits(0)
    assert listener.exits(0).out == b"found"
    assert len(connector.all_of("try_spent")) == sum(len(run.all_of("try_spent")) for run in others) <= 2
    assert all(run.code is None for run in others)


def test_a_code_among_others(lan, at, crowd):
    """Its number says who is meant: nobody else is dialled, codes and passphrases alike."""
    others = crowd(2)
    coded = at(lan.host("coded")).listen(environment={"TETHER_PASSPHRASE": "998-zoo-zone-zero"})
    ann = lan.host("ann")
    listener = at(ann).listen(environment={"TETHER_PASSPHRASE": "997-zoo-zone-zero"})
    connector = at(lan.host("bob")).connect("997 zoo zone zero", stdin=b"found").exits(0)
    assert listener.exits(0).out == b"found"
    assert tried(connector) == {ann.address} and not connector.all_of("try_spent")
    assert not any(run.all_of("try_spent") for run in (*others, coded))


def test_too_many_to_try(lan, at, words, crowd):
    """Four who are all wrong: three tries, the fourth is left alone, and the message names them and what helps."""
    others = crowd(4)
    bob = at(lan.host("bob"))
    connector = bob.connect("--passphrase", words, stdin=b"lost").exits(4)
    assert len(connector.all_of("try_spent")) == len(tried(connector)) == 3
    assert sum(len(run.all_of("try_spent")) for run in others) == 3
    assert "10.77.0." in connector.error and "--peer HOST:PORT" in connector.error
    listed = connector.error.count("10.77.0.")
    assert listed == 4, "all that could be meant are listed"


def test_a_connector_that_comes_first(lan, at, words):
    """It waits, within its time-out, for a listener that nobody has started yet."""
    bob = at(lan.host("bob")).connect("--passphrase", words, stdin=b"early")
    bob.event("searching")
    listener = at(lan.host("ann")).listen("--passphrase", words)
    bob.exits(0)
    assert listener.exits(0).out == b"early"
    assert listener.ended - listener.started < 10, "an announcement is heard, not asked for again"
