import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import UsageError
from meshd.model.address import DEFAULT_PORT, Address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.168.1.20", "192.168.1.20", DEFAULT_PORT),
        ("192.168.1.20:1", "192.168.1.20", 1),
        (" laptop.local:65535\n", "laptop.local", 65_535),
        ("::1", "::1", DEFAULT_PORT),
        ("[::1]", "::1", DEFAULT_PORT),
        ("[::1]:8080", "::1", 8080),
        ("fe80::1%eth0", "fe80::1%eth0", DEFAULT_PORT),
        ("[fe80::1%eth0]:22", "fe80::1%eth0", 22),
        ("2001:db8::1:2", "2001:db8::1:2", DEFAULT_PORT),
        ("laptop:", "laptop", DEFAULT_PORT),
    ],
)
def test_read(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address(host, port)
    assert Address.parse(text, default_port=7) == Address(host, 7 if port == DEFAULT_PORT else port)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", ":80", "[]:80", "[::1", "[::1]80", "a b", "a b:80", "a\t:80"),
        *("host:0", "host:65536", "host:-1", "host:+1", "host:x", "host: 80", "host:1.5", "host:٣", "host:²"),
        "host:" + "9" * 5000,
        *("user@host", "user@host:80", "http://host", "a\\b"),
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Address.parse(text)
    assert caught.value.advice


@pytest.mark.parametrize("host", ["10.0.0.1", "laptop", "::1", "fe80::1%eth0"])
def test_what_is_shown_can_be_read(host: str) -> None:
    address = Address(host, 8080)
    assert Address.parse(str(address)) == address
    assert ("[" in str(address)) == (":" in host)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_usage_error(text: str) -> None:
    try:
        address = Address.parse(text)
    except UsageError:
        return
    assert address.host and 0 < address.port < 65_536
