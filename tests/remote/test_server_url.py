"""The URL of a server, from the address that it listens on."""

from __future__ import annotations

import pytest
from llamarig.remote.shared.server_url import server_url


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("192.0.2.7", "http://192.0.2.7:8080"),
        ("0.0.0.0", "http://127.0.0.1:8080"),
        ("::", "http://[::1]:8080"),
        ("2001:db8::7", "http://[2001:db8::7]:8080"),
    ],
)
def test_a_server_on_every_address_is_reached_over_loopback(host: str, url: str) -> None:
    assert server_url(host, 8080) == url
