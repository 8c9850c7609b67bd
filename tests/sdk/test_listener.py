"""The platform's port, and who may reach it."""

from __future__ import annotations

import pytest

from jiffy.contract.errors import Unavailable
from jiffy.listener import listen, loopback, url_of


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1"])
def test_loopback(host: str) -> None:
    assert loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_reachable_from_outside(host: str) -> None:
    assert not loopback(host)


def test_a_port_in_use_is_named() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(Unavailable, match=f"port {port} on 127.0.0.1 is in use; choose another with --port"):
            listen("127.0.0.1", port)


def test_an_address_of_another_machine() -> None:
    with pytest.raises(Unavailable, match=r"can't listen on 192\.0\.2\.1"):
        listen("192.0.2.1", 0)
    with pytest.raises(Unavailable, match="no address of this machine"):
        listen("no.such.host.invalid", 0)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (("127.0.0.1", 8080), "http://127.0.0.1:8080"),
        (("0.0.0.0", 80), "http://127.0.0.1:80"),
        (("::", 8080, 0, 0), "http://[::1]:8080"),
    ],
)
def test_urls(address: tuple[object, ...], url: str) -> None:
    assert url_of(address) == url
