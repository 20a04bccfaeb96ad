"""Who may send a request: names of the Host header, web pages of other sites, and keys."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from llamarig.remote.front.clients import Client, Keys, RefusedClientError, check_host, check_origin, hash_of, key_in
from llamarig.remote.front.settings import FrontKey


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.0.0.1:8080", "[::1]:8080", "192.168.1.5:80", "localhost:8080", "LOCALHOST"),
        *("box", "box:8080", "BOX.lan", "box.local:1", "box.home.arpa.", "llm.example.org:8080"),
    ],
)
def test_names_of_the_box_itself_are_served(host: str) -> None:
    check_host(host, "box.somewhere.net", ("llm.example.org",))


@pytest.mark.parametrize(
    "host",
    [
        *(
            "",
            "evil.example",
            "evil.example:8080",
            "box.evil.example",
            "box.lan.evil.example",
            "localhost.evil.example",
        ),
        *("127.0.0.1.evil.example", "127.0.0.1@evil.example", "evil.example#localhost", "[::1].evil.example", "lan"),
        *("box.somewhere.net", "::1:8080:x", "127.0.0.1:99999999", "2130706433", "llm.example.org.evil.example"),
    ],
)
def test_names_that_may_be_a_strangers_are_refused(host: str) -> None:
    """DNS rebinding: a page's own name suddenly means this box, and its browser takes it for the page's own server."""
    with pytest.raises(RefusedClientError) as refused:
        check_host(host, "box.somewhere.net", ("llm.example.org",))
    assert refused.value.status == 421


@pytest.mark.parametrize(
    ("origin", "found"),
    [(None, None), ("http://box.lan:8080", None), ("https://chat.lan", "https://chat.lan")],
)
def test_own_and_declared_pages_may_call(origin: str | None, found: str | None) -> None:
    assert check_origin(origin, "box.lan:8080", ("https://chat.lan",)) == found


@pytest.mark.parametrize("origin", ["null", "", "http://evil.example", "http://box.lan:8081", "http://chat.lan"])
def test_pages_of_other_sites_may_not(origin: str) -> None:
    with pytest.raises(RefusedClientError) as refused:
        check_origin(origin, "box.lan:8080", ("https://chat.lan",))
    assert refused.value.status == 403


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"Authorization": "Bearer abc"}, "abc"),
        ({"Authorization": "bearer  abc "}, "abc"),
        ({"X-Api-Key": "abc"}, "abc"),
        ({"Authorization": "Basic " + base64.b64encode(b"me:abc").decode()}, "abc"),
        ({"Authorization": "Basic abc"}, None),
        ({"Authorization": "Bearer "}, None),
        ({"Authorization": "abc"}, None),
        ({}, None),
    ],
)
def test_a_key_comes_in_any_of_three_headers(headers: dict[str, str], key: str | None) -> None:
    assert key_in(headers) == key


def keys(directory: Path, **written: tuple[str, ...]) -> Keys:
    for name, each in written.items():
        (directory / name).write_text("# comment\n" + "".join(f"{hash_of(key)}\n" for key in each))
    declared = (FrontKey("laptop"), FrontKey("phone", models=("a",), concurrency=1))
    return Keys(declared, directory, ("a", "b"))


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_key_is_known_by_its_hash_and_has_its_models(tmp_path: Path) -> None:
    found = keys(tmp_path, laptop=("one",), phone=("two",))
    assert found.client(bearer("one"), 0) == Client("laptop", frozenset("ab"))
    assert found.client(bearer("two"), 0) == Client("phone", frozenset("a"))


@pytest.mark.parametrize("headers", [{}, bearer("three"), bearer(hash_of("one")), bearer("\udcff")])
def test_any_other_key_is_refused(tmp_path: Path, headers: dict[str, str]) -> None:
    with pytest.raises(RefusedClientError) as refused:
        keys(tmp_path, laptop=("one",)).client(headers, 0)
    assert refused.value.status == 401


def test_a_declared_key_without_a_file_opens_nothing(tmp_path: Path) -> None:
    (tmp_path / "laptop").write_text("\n")
    for key in ("", " ", "laptop"):
        with pytest.raises(RefusedClientError):
            keys(tmp_path).client(bearer(key), 0)


def test_a_file_of_no_declared_key_opens_nothing(tmp_path: Path) -> None:
    with pytest.raises(RefusedClientError):
        keys(tmp_path, stranger=("three",)).client(bearer("three"), 0)


def test_a_key_is_replaced_without_a_restart(tmp_path: Path) -> None:
    found = keys(tmp_path, laptop=("old",))
    assert found.client(bearer("old"), 0).name == "laptop"
    part = tmp_path / ".part"
    part.write_text(hash_of("old") + "\n" + hash_of("new") + "\n")
    part.replace(tmp_path / "laptop")
    assert [found.client(bearer(key), 2).name for key in ("old", "new")] == ["laptop"] * 2
    (tmp_path / "laptop").write_text(hash_of("new"))
    with pytest.raises(RefusedClientError):
        found.client(bearer("old"), 4)


def test_a_key_has_its_own_limit(tmp_path: Path) -> None:
    found = keys(tmp_path, phone=("two",))
    phone = found.client(bearer("two"), 0)
    found.begin(phone)
    with pytest.raises(RefusedClientError) as refused:
        found.begin(phone)
    assert refused.value.status == 429
    found.end(phone)
    found.begin(phone)


def test_without_declared_keys_none_is_needed(tmp_path: Path) -> None:
    assert Keys((), tmp_path, ("a",)).client({}, 0) == Client()
