"""What the Hub or a mirror answers, and the one message it becomes: what, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.box.fetching import Ended, Fetching
from tests.files.answering import Answer, fetching_from, serving, sha256

TOKEN = "hf_fortests"


def refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, *, token: bool = True, **headers: str
) -> Ended:
    """How the program ends where every question about the file is answered like that."""
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


@pytest.mark.parametrize(("status", "token", "code", "said", "words"), REFUSALS)
def test_a_refusal_says_which_it_is(
    status: int, token: bool, code: str, said: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = refusal(tmp_path, monkeypatch, status, token=token, X_Error_Code=code, X_Error_Message=said)
    assert f"the Hub refuses acme/one-GGUF (HTTP {status}" in ended.message
    assert words in ended.message
    assert "hub.token_env or hub.token_command" in ended.message
    assert ("accept the terms" in words) is ("accept the terms" in ended.message)
    assert "any more" not in ended.message


@pytest.mark.parametrize(
    ("code", "words"), [("EntryNotFound", "m.gguf at"), ("RevisionNotFound", "commit"), ("", "m.gguf at")]
)
def test_what_is_gone(code: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = refusal(tmp_path, monkeypatch, 404, X_Error_Code=code).message
    assert f"acme/one-GGUF has no {words}" in message
    assert "any more: see what it has now with tasks/lock.py" in message


def test_a_server_s_words_stay_one_short_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = refusal(tmp_path, monkeypatch, 403, X_Error_Message="no\t\x1b[31m" + "no " * 1000).message
    assert "\x1b" not in message
    assert len(message) < 600


Mirror = Callable[[Answer, bytes], None]


def fetch(tmp_path: Path, mirror: Mirror, path: str = "") -> tuple[Ended, Fetching]:
    with serving(lambda request: mirror(request, content)) as endpoint:
        fetching = fetching_from(endpoint + path, tmp_path)
        content = fetching.sources["m.gguf"].read_bytes()
        return fetching.run(), fetching


@pytest.mark.parametrize("etag", ['"66f0a1b2-300000"', 'W/"5d41402abc4b2a76b9719d911017c592"', None])
def test_a_plain_mirror_whose_etag_is_no_sha256(etag: str | None, tmp_path: Path) -> None:
    """nginx names a file by mtime and size; what it holds, the sha256 of the bytes decides."""

    def mirror(request: Answer, content: bytes) -> None:
        if request.command == "HEAD":
            request.say(200, Content_Length=len(content), **({"ETag": etag} if etag else {}))
        else:
            request.give(content)

    ended, fetching = fetch(tmp_path, mirror)
    assert ended.code == 0, ended.log
    fetching.assert_right()


def test_a_plain_mirror_with_another_file(tmp_path: Path) -> None:
    def other_size(request: Answer, content: bytes) -> None:
        request.say(200, Content_Length=len(content) + 1, ETag='"66f0a1b2-300000"')

    ended, fetching = fetch(tmp_path, other_size)
    size = fetching.job["files"][0]["size"]
    assert f"is not the locked file ({size + 1} bytes, locked {size})" in ended.message

    def other_sha256(request: Answer, content: bytes) -> None:
        request.say(200, Content_Length=len(content), ETag=f'"{"0" * 64}"')

    ended, fetching = fetch(tmp_path / "other", other_sha256)
    assert "is not the locked file (sha256 000000000000..., locked" in ended.message


def test_an_endpoint_that_sends_all_requests_to_another_address(tmp_path: Path) -> None:
    """As one does that has become https, or has moved."""

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
    fetching.assert_right()


def test_an_endpoint_that_sends_requests_to_where_a_token_would_be_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(lambda request: request.say(401, X_Error_Code="GatedRepo")) as there:
        ended = refusal(tmp_path, monkeypatch, 308, Location=f"{there}/acme/one-GGUF")
    assert f"sends requests for acme/one-GGUF on to {there}, which answers HTTP 401; no token is sent" in ended.message
    assert "as hub.endpoint" in ended.message


@pytest.mark.parametrize("location", ["file:///etc/hostname", "http://[::1/x", "https://x:port/", "https:"])
def test_an_endpoint_that_points_to_nowhere(location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = refusal(tmp_path, monkeypatch, 302, Location=location)
    assert "what is no web address" in ended.message
