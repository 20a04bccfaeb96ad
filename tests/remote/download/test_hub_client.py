"""Answers of the Hub or a mirror, and the message for each: what, where, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.box.fetch_run import FetchResult, FetchRun
from tests.remote.download.one_file_server import Answer, fetching_from, serving, sha256

TOKEN = "hf_fortests"


def refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, *, token: bool = True, **headers: str
) -> FetchResult:
    """Run the download with this response to every HEAD request; return its result."""
    (tmp_path / "hub-token").write_text(TOKEN)
    if token:
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with serving(lambda request: request.say(status, **headers)) as endpoint:
        ended = fetching_from(endpoint, tmp_path).run()
    assert ended.code == 1
    assert "Traceback" not in ended.log
    assert TOKEN not in ended.log
    return ended


GATED = "Access to model acme/one-GGUF is restricted."
# What the real Hub sends, as huggingface_hub's hf_raise_for_status reads it.
REFUSALS = [
    (401, True, "", "Invalid credentials in Authorization header", "the token is not valid there (expired, revoked"),
    (401, True, "", 'User Access Token "box" is expired', "'User Access Token \"box\" is expired'"),
    (401, True, "GatedRepo", GATED, "accept the terms on"),
    (401, False, "GatedRepo", GATED, "accept the terms on"),
    (401, False, "", "", "accept the terms on"),
    (403, True, "GatedRepo", GATED, "accept the terms on"),
    (403, True, "", "This token cannot read that", "needs read permission for"),
    (401, False, "RepoNotFound", "Invalid username or password.", "renamed, made private, or access lost"),
    (404, True, "RepoNotFound", "Repository not found", "renamed, made private, or access lost"),
]


@pytest.mark.parametrize(("status", "token", "code", "message", "words"), REFUSALS)
def test_a_refusal_names_its_kind_and_remedy(
    status: int, token: bool, code: str, message: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = refusal(tmp_path, monkeypatch, status, token=token, X_Error_Code=code, X_Error_Message=message)
    assert f"the Hub refuses acme/one-GGUF (HTTP {status}" in ended.message
    assert words in ended.message
    assert "hub.token_env or hub.token_command" in ended.message
    assert ("accept the terms" in words) is ("accept the terms" in ended.message)
    assert "any more" not in ended.message


@pytest.mark.parametrize(
    ("code", "words"), [("EntryNotFound", "m.gguf at"), ("RevisionNotFound", "commit"), ("", "m.gguf at")]
)
def test_a_removed_file_or_revision_is_reported_with_the_remedy(
    code: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = refusal(tmp_path, monkeypatch, 404, X_Error_Code=code).message
    assert f"acme/one-GGUF has no {words}" in message
    assert "any more: see what it has now with tasks/lock.py" in message


def test_the_message_of_a_server_is_cut_to_one_short_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = refusal(tmp_path, monkeypatch, 403, X_Error_Message="no\t\x1b[31m" + "no " * 1000).message
    assert "\x1b" not in message
    assert len(message) < 600


Mirror = Callable[[Answer, bytes], None]


def fetch(tmp_path: Path, mirror: Mirror, path: str = "") -> tuple[FetchResult, FetchRun]:
    with serving(lambda request: mirror(request, content)) as endpoint:
        fetching = fetching_from(endpoint + path, tmp_path)
        content = fetching.sources["m.gguf"].read_bytes()
        return fetching.run(), fetching


@pytest.mark.parametrize("etag", ['"66f0a1b2-300000"', 'W/"5d41402abc4b2a76b9719d911017c592"', None])
def test_a_mirror_without_a_sha256_as_etag_is_accepted_if_the_bytes_are_right(etag: str | None, tmp_path: Path) -> None:
    """nginx makes an ETag of mtime and size; the sha256 of the bytes decides."""

    def mirror(request: Answer, content: bytes) -> None:
        if request.command == "HEAD":
            request.say(200, Content_Length=len(content), **({"ETag": etag} if etag else {}))
        else:
            request.give(content)

    ended, fetching = fetch(tmp_path, mirror)
    assert ended.code == 0, ended.log
    fetching.assert_complete()


def test_a_mirror_with_another_file_is_refused(tmp_path: Path) -> None:
    def other_size(request: Answer, content: bytes) -> None:
        request.say(200, Content_Length=len(content) + 1, ETag='"66f0a1b2-300000"')

    ended, fetching = fetch(tmp_path, other_size)
    size = fetching.job["files"][0]["size"]
    assert f"is not the locked file ({size + 1} bytes, locked {size})" in ended.message

    def other_sha256(request: Answer, content: bytes) -> None:
        request.say(200, Content_Length=len(content), ETag=f'"{"0" * 64}"')

    ended, fetching = fetch(tmp_path / "other", other_sha256)
    assert "is not the locked file (sha256 000000000000..., locked" in ended.message


def test_an_endpoint_that_redirects_every_request_works(tmp_path: Path) -> None:
    """As one that has become https, or has moved."""

    def moved_to(request: Answer, content: bytes) -> None:
        if request.command == "HEAD":
            request.say(200, Content_Length=len(content), ETag=f'"{sha256(content)}"')
        else:
            request.give(content)

    with (
        serving(lambda request: moved_to(request, content)) as there,
        serving(lambda request: request.say(301, Location=there + request.path)) as endpoint,
    ):
        fetching = fetching_from(endpoint, tmp_path)
        content = fetching.sources["m.gguf"].read_bytes()
        ended = fetching.run()
    assert ended.code == 0, ended.log
    fetching.assert_complete()


def test_a_redirect_to_a_host_that_needs_a_token_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda request: request.say(401, X_Error_Code="GatedRepo")) as there:
        ended = refusal(tmp_path, monkeypatch, 308, Location=f"{there}/acme/one-GGUF")
    assert f"redirects requests for acme/one-GGUF to {there}, which answers HTTP 401; no token is sent" in ended.message
    assert "as hub.endpoint" in ended.message


@pytest.mark.parametrize("location", ["file:///etc/hostname", "http://[::1/x", "https://x:port/", "https:"])
def test_a_redirect_to_an_invalid_url_is_reported(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = refusal(tmp_path, monkeypatch, 302, Location=location)
    assert "what is no web address" in ended.message
