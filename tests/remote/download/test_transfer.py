"""Messages about a download contain no signed URL: with one, anyone can download the file for an hour."""

from __future__ import annotations

import pytest
from llamarig.remote.download.transfer import without_signature

URL = "https://cdn.example/a/b.gguf"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"{URL}?Signature=sesame", URL),
        ("HTTPS://cdn.example/x?Signature=sesame: timed out", "HTTPS://cdn.example/x: timed out"),
        (f"error for url ({URL}?a=b&Signature=sesame): connection closed", f"error for url ({URL}): connection closed"),
        (f"got '{URL}?Signature=sesame', expected 206", f"got '{URL}', expected 206"),
        (f"{URL}?name=a file.gguf&Signature=sesame was refused", f"{URL} was refused"),
        (f"{URL}?name=a very long file.gguf&x=(1)&Signature=sesame", URL),
        (f"{URL}#Signature=sesame ended", f"{URL} ended"),
        (f"{URL}?Signature=sesame\nanother line = {URL}?Signature=sesame", f"{URL}\nanother line = {URL}"),
        (f"no query: {URL}, and x=1", f"no query: {URL}, and x=1"),
        ("is it? a=b", "is it? a=b"),
    ],
)
def test_the_query_is_removed_and_the_rest_stays(text: str, shown: str) -> None:
    assert without_signature(text) == shown


@pytest.mark.parametrize("first", [f"http://a.example/x?Signature=sesame then {URL}?Signature=sesame"])
def test_of_two_urls_neither_query_is_left(first: str) -> None:
    assert "sesame" not in without_signature(first)
