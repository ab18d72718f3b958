"""Where the words come from, and what is refused before anything is sent."""

import re
import secrets
import unicodedata

import pytest

from tests.processes import free_port, port_of


def test_one_passphrase_typed_in_three_ways(tether):
    """Decomposed in a file, full-width in the environment, composed on the command line: one passphrase."""
    words = f"Ångström café {secrets.token_hex(4)}"
    full_width = "".join(chr(ord(each) + 0xFEE0) if "!" <= each <= "~" else each for each in words)
    file = tether.directory / "words"
    file.write_text(unicodedata.normalize("NFD", words) + "\nnot this line\n")
    file.chmod(0o600)
    assert len({words, full_width, unicodedata.normalize("NFD", words)}) == 3
    listener = tether.listen("--passphrase-file", file)
    tether.connect(to=listener, environment={"TETHER_PASSPHRASE": f"  {full_width} "}, stdin=b"one").exits(0)
    listener.exits(0)
    assert listener.out == b"one" and not listener.all_of("warned")

    listener = tether.listen("--passphrase", full_width)
    tether.connect("--passphrase", words, to=listener, stdin=b"two").exits(0)
    assert listener.exits(0).out == b"two"


def test_a_passphrase_file_that_others_can_read_is_named(tether, words):
    file = tether.directory / "words"
    file.write_text(words)
    file.chmod(0o644)
    assert "chmod 600" in tether.listen("--passphrase-file", file).event("warned")["text"]


REFUSED = {
    "no number": (["connect", "crystal-clock-tower"], {}, "begins with its number"),
    "unknown word": (["connect", "7-crystal-clokc-tower"], {}, "clock"),
    "too few words": (["connect", "7-crystal-clock"], {}, "at least 3 words"),
    "empty": (["listen", "--passphrase", "  "], {}, "passphrase is empty"),
    "empty in the environment": (["listen"], {"TETHER_PASSPHRASE": ""}, "passphrase is empty"),
    "too long": (["listen", "--passphrase", "x" * 1025], {}, "1,024"),
    "no file": (["listen", "--passphrase-file", "nowhere"], {}, "Cannot read the passphrase file nowhere"),
    "two ways": (["connect", "7-crystal-clock-tower", "--passphrase", "x y"], {}, "more than one way"),
    "nobody to ask": (["connect"], {}, "no terminal to ask on"),
    "an interface of somebody else": (["listen", "--interface", "192.0.2.1"], {}, "no address 192.0.2.1"),
    "an engine that is none": (["listen", "--quic-engine", "quiche"], {}, "is not one of 'aioquic', 'qh3'"),
    "two peers": (["connect", "--passphrase", "x y", "--peer", "::1", "--host", "::1"], {}, "say the same"),
    "no peer's port": (["connect", "--passphrase", "x y", "--peer", "::1", "--port", "9"], {}, "--port needs --host"),
    "a port that is none": (["connect", "--passphrase", "x y", "--peer", "127.0.0.1:99999"], {}, "not a port"),
    "no such option": (["listen", "--nonsense"], {}, "No such option"),
    "a port that is no number": (
        ["connect", "--passphrase", "x y", "--port", "ten"],
        {},
        "'ten' is not a valid integer",
    ),
    "a name that nobody obeys": (["listen", "--into", ".", "--accept", "notes.txt"], {}, "notes.txt"),
    "overwrite what": (["listen", "--passphrase", "x y", "--overwrite"], {}, "--into DIR"),
    "nothing to send": (["listen", "--passphrase", "x y", "--send", "nowhere"], {}, "nowhere"),
}


def test_refused_before_anything_is_sent(tether):
    """Each with exit code 2 and a line that says what to do; all at once, for they wait for nothing."""
    runs = {
        case: tether.start(*arguments, "--json", environment=environment)
        for case, (arguments, environment, _) in REFUSED.items()
    }
    for case, run in runs.items():
        run.exits(2)
        assert REFUSED[case][2] in run.error, case
        assert not run.all_of("searching") and run.out == b""


def test_a_usage_error_is_one_line_too(tether):
    run = tether.start("connect", "--port", "ten").exits(2)
    assert re.fullmatch(r"Error: .*--port.* Try python -m tether_lite connect --help\.\n", run.text)


def test_a_word_that_is_no_word_costs_no_try(tether):
    listener = tether.listen()
    code = listener.event("code")["code"]
    for _ in range(2):
        tether.connect(f"{code[:-1]}#", to=listener, stdin=b"oops").exits(2)
    tether.connect(code, to=listener, stdin=b"right").exits(0)
    assert listener.exits(0).out == b"right" and not listener.all_of("try_spent")


def test_nobody_there(tether, words):
    """Four who wait in vain, each as long as it was told to, and the message names what helps."""
    listener = tether.listen("--timeout", "1")
    unheard = tether.connect("999-zoo-zoo-zoo", "--timeout", "1")
    nobody = tether.connect("--passphrase", words, "--timeout", "1", to=free_port())
    no_name = tether.start("connect", "--json", "--passphrase", words, "--timeout", "1", "--peer", "tether.invalid")
    assert "--peer HOST:PORT" in listener.exits(4).error
    assert "--peer HOST:PORT" in unheard.exits(4).error and "number 999" in unheard.error
    assert "Nobody answered at 127.0.0.1" in nobody.exits(4).error and "firewall" in nobody.error
    no_name.exits(4)


def test_without_json_an_error_is_one_line(tether, words):
    run = tether.start("connect", "--passphrase", words, "--timeout", "1", "--peer", f"127.0.0.1:{free_port()}")
    run.exits(4)
    assert [line.partition(":")[0] for line in run.text.splitlines()] == [
        "Looking for a listener with this passphrase, for up to 1 s.",
        "Error",
    ]


def test_both_want_the_same(tether, words):
    for given, what in (([], "Both sides wait to receive"), (["--send", __file__], "Both sides want to send")):
        listener = tether.listen("--passphrase", words, *given)
        other = ["--into", "-"] if not given else []
        connector = tether.connect("--passphrase", words, *other, to=listener, stdin=b"x").exits(6)
        listener.exits(6)
        assert what in listener.error and what in connector.error


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("missing/below", "missing does not exist"),
        ("file", "'file' is a file"),
        ("/proc", "/proc cannot be written to"),
    ],
    ids=["missing", "file", "proc"],
)
def test_a_directory_that_cannot_receive(tether, words, where, says):
    (tether.directory / "file").write_text("I am here")
    run = tether.start("listen", "--json", "--passphrase", words, "--into", where).exits(2)
    assert says in run.error


def test_a_taken_port(tether, words):
    first = tether.listen("--passphrase", words, "--port", str(free_port()))
    taken = tether.start("listen", "--json", "--port", str(port_of(first))).exits(2)
    assert "--port" in taken.error and str(port_of(first)) in taken.error


def test_the_default_port_and_a_free_one_when_it_is_taken(tether, words):
    """Which of the two gets it is not said: other tests listen too. The two never share one, and both are printed."""
    listeners = [tether.start("listen", "--json", "--passphrase", words) for _ in range(2)]
    ports = {port_of(listener) for listener in listeners}
    assert len(ports) == 2
    for listener in listeners:
        tether.connect("--passphrase", words, to=listener, stdin=b"here").exits(0)
        assert listener.exits(0).out == b"here"
