"""The URL of a server, from the address that it listens on."""

from __future__ import annotations

import pytest
from llamarig.remote.shared.server_url import server_url, url_of


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


@pytest.mark.parametrize(
    ("flags", "url"),
    [
        ("--port 8081", "http://127.0.0.1:8081"),
        ("--host :: --port 8081 --api-prefix /llama", "http://[::1]:8081/llama"),
        ("--ssl-key-file /k --ssl-cert-file /c --port 8081", "https://127.0.0.1:8081"),
    ],
)
def test_the_url_of_a_running_server_is_that_of_its_command_line(flags: str, url: str) -> None:
    assert url_of(["llama-server", *flags.split()]) == url
