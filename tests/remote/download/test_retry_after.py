"""Retry-After as seconds or as a date, whatever the box's clock says."""

from __future__ import annotations

from email.message import Message
from pathlib import Path

import pytest
from llamarig.remote.download.hub_client import retry_after

from tests.remote.download.one_file_server import Answer, fetching_from, serving, sha256

# Dates that no box's clock shows.
NOW, THEN = "Thu, 01 Jan 1998 00:00:00 GMT", "Thu, 01 Jan 1998 00:01:30 GMT"


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("120", None, 120),
        (" 0 ", None, 0),
        (THEN, NOW, 90),
        (NOW, THEN, 0),
        (THEN, None, 0),
        ("Thu, 01 Jan 1998 01:01:30 +0100", NOW, 90),
        ("soon", NOW, None),
        ("", NOW, None),
        ("-5", None, None),
        ("\u00b2", None, None),
        ("Thu, 99 Jan 1998 00:00:00 GMT", NOW, None),
        ("Thu, 01 Jan 99999 00:00:00 GMT", NOW, None),
        (THEN, "yesterday", 0),
    ],
)
def test_retry_after_in_seconds(value: str, date: str | None, seconds: float | None) -> None:
    headers = Message()
    headers["Retry-After"] = value
    if date is not None:
        headers["Date"] = date
    assert retry_after(headers) == seconds


def test_without_a_header_there_is_no_wait() -> None:
    assert retry_after(Message()) is None


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_an_unreadable_retry_after_is_ignored(method: str, tmp_path: Path) -> None:
    """Neither the request for the location nor a download thread fails."""
    refused = 0

    def answer(request: Answer) -> None:
        nonlocal refused
        if request.command == method and refused < 3:
            refused += 1
            request.say(429, Retry_After="soon")
        elif request.command == "HEAD":
            request.say(200, ETag=f'"{sha256(content)}"', Content_Length=len(content))
        else:
            request.give(content)

    with serving(answer) as endpoint:
        fetching = fetching_from(endpoint, tmp_path, bytes_per_s=500_000_000, connections=1)
        content = fetching.sources["m.gguf"].read_bytes()
        ended = fetching.run()
    assert ended.code == 0, ended.log
    assert "Error" not in ended.log
    fetching.assert_complete()
