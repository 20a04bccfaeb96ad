"""The Hub token goes to the declared endpoint and to no other origin, wherever a request is redirected."""

from __future__ import annotations

from pathlib import Path

import pytest
from llamarig.remote.download.hub_client import Hub

from tests.remote.download.one_file_server import Answer, fetching_from, serving, sha256

TOKEN = "hf_fortests"


@pytest.mark.parametrize("bytes_per_s", [None, 50_000_000], ids=["hf_transfer", "rate-limited"])
def test_the_token_is_not_sent_to_the_target_of_a_redirect(
    bytes_per_s: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers HEAD itself, and GET with a redirect to another port: another origin on the same host."""
    (tmp_path / "hub-token").write_text(TOKEN)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    tokens: dict[str, set[str | None]] = {"endpoint": set(), "elsewhere": set()}

    def elsewhere(request: Answer) -> None:
        tokens["elsewhere"].add(request.headers["Authorization"])
        request.give(content)

    with serving(elsewhere) as other:

        def endpoint(request: Answer) -> None:
            tokens["endpoint"].add(request.headers["Authorization"])
            if request.command == "HEAD":
                request.say(200, ETag=f'"{sha256(content)}"', Content_Length=len(content))
            else:
                request.say(302, Location=f"{other}/bytes")

        with serving(endpoint) as home:
            fetching = fetching_from(home, tmp_path, bytes_per_s=bytes_per_s)
            content = fetching.sources["m.gguf"].read_bytes()
            ended = fetching.run()
    assert ended.code == 0, ended.log
    fetching.assert_complete()
    assert tokens == {"endpoint": {f"Bearer {TOKEN}"}, "elsewhere": {None}}


@pytest.mark.parametrize(
    ("url", "sent"),
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
def test_origins_that_get_the_token(url: str, sent: bool) -> None:
    assert ("Authorization" in Hub("https://hub.lan", TOKEN).headers_for(url)) is sent
