"""The Hub token goes to the declared endpoint and to no other origin, whoever sends a request where."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.files.hub_client import Hub
from tests.files.answering import Answer, fetching_from, serving, sha256

TOKEN = "hf_fortests"


@pytest.mark.parametrize("bytes_per_s", [None, 50_000_000], ids=["hf_transfer", "rate-limited"])
def test_an_endpoint_that_sends_the_bytes_request_elsewhere(
    bytes_per_s: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers HEAD itself, and GET with a redirect to another port: another origin, though the host is the same."""
    (tmp_path / "hub-token").write_text(TOKEN)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    told: dict[str, set[str | None]] = {"endpoint": set(), "elsewhere": set()}

    def elsewhere(request: Answer) -> None:
        told["elsewhere"].add(request.headers["Authorization"])
        request.give(content)

    with serving(elsewhere) as other:

        def endpoint(request: Answer) -> None:
            told["endpoint"].add(request.headers["Authorization"])
            if request.command == "HEAD":
                request.say(200, ETag=f'"{sha256(content)}"', Content_Length=len(content))
            else:
                request.say(302, Location=f"{other}/bytes")

        with serving(endpoint) as home:
            fetching = fetching_from(home, tmp_path, bytes_per_s=bytes_per_s)
            content = fetching.sources["m.gguf"].read_bytes()
            ended = fetching.run()
    assert ended.code == 0, ended.log
    fetching.assert_right()
    assert told == {"endpoint": {f"Bearer {TOKEN}"}, "elsewhere": {None}}


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://hub.lan/acme/m", True),
        ("https://hub.lan:443/acme/m", True),
        ("https://HUB.lan/acme/m", True),
        ("http://hub.lan/acme/m", False),
        ("https://hub.lan:8443/acme/m", False),
        ("https://hub.lan.example/acme/m", False),
        ("https://cdn.lan/acme/m", False),
    ],
)
def test_who_is_told_the_token(url: str, told: bool) -> None:
    assert ("Authorization" in Hub("https://hub.lan", TOKEN).headers_for(url)) is told
