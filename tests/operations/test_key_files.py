"""A deploy looks at API key files before anything else, mends whose they are, and refuses what holds no key."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tasks.operations import once
from tasks.operations.key_files import key_files_usable
from tasks.planning.key_files import key_paths
from tasks.spec import declare as d
from tasks.spec.rig import Rig
from tests.operations.fake_run import run_of

PATH = "/etc/llamarig/keys/api"
USABLE = ("bom=0", "cr=0", "usable=1")


@pytest.fixture(autouse=True)
def nothing_read_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "_READ", {})


def rig(*paths: str | None) -> Rig:
    models = [
        d.model(
            name=f"m{number}",
            repo="o/r",
            quant="Q4",
            build="cpu",
            serve=d.serve(port=8080 + number, context=4096, api_key_file=path),
        )
        for number, path in enumerate(paths)
    ]
    return Rig.model_validate(d.rig(builds=[d.build(name="cpu", backend="cpu")], models=models))


def told(of: Rig, *lines: str) -> list[str]:
    """What the box is told beside the question."""
    call: tuple[Any, dict[str, Any]] = (key_files_usable, {"name": "API key files", "rig": of})
    with run_of(call, responses={"stat -L": "\n".join(lines)}) as (_, commands):
        return [command for command in commands if re.match("chown|chmod", command)]


@pytest.mark.parametrize(
    ("stat", "mended"),
    [
        ("root 600 65 regular file", False),
        ("root 400 65 regular file", False),
        ("root 640 65 regular file", True),
        ("root 700 65 regular file", True),
        ("anna 600 65 regular file", True),
    ],
)
def test_owner_and_mode_are_mended(stat: str, mended: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="pyinfra")
    said = told(rig(PATH), f"key={PATH}", f"stat={stat}", *USABLE)
    assert said == ([f"chown root:root {PATH}", f"chmod 600 {PATH}"] if mended else [])
    owner, mode = stat.split()[:2]
    assert (f"api_key_file {PATH}: is {owner}'s with mode {mode}" in caplog.text) == mended


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ((), "is not there"),
        (("stat=root 600 0 regular empty file", "bom=0", "cr=0", "usable=0"), "is empty"),
        (("stat=root 600 9 regular file", "bom=0", "cr=0", "usable=0"), "has no usable line"),
        (("stat=root 600 9 regular file", "bom=1", "cr=0", "usable=1"), "byte order mark"),
        (("stat=anna 644 9 regular file", "bom=0", "cr=1", "usable=0"), "carriage returns"),
        (("stat=root 700 9 directory",), "is no regular file"),
    ],
)
def test_what_holds_no_key_is_refused_in_words(
    lines: tuple[str, ...], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(AssertionError, match="failed"):
        told(rig(PATH), f"key={PATH}", *lines)
    (message,) = [record.getMessage() for record in caplog.records if "nothing was changed" in record.getMessage()]
    for words in ("@fake", f"api_key_file {PATH} ", why, "one key a line", f">{PATH})`", "mode 600"):
        assert words in message


def test_each_file_is_looked_at_once() -> None:
    assert key_paths(rig(PATH, None, "/other", PATH)) == [PATH, "/other"]
