"""Which uv and which CPython a box gets, and the words where there is none."""

from __future__ import annotations

import re

import pytest

from tasks.planning.interpreter import (
    RELEASES,
    UV_VERSION,
    UV_WHEELS,
    Interpreter,
    install_command,
    not_to_be_had,
)
from tests.__main__ import UV_VERSION as OUR_UV


@pytest.mark.parametrize(
    ("interpreter", "usable"),
    [
        (Interpreter((3, 9), complete=True), True),
        (Interpreter((3, 14), complete=True), True),
        (Interpreter((3, 8), complete=True), False),
        (Interpreter((2, 7), complete=True), False),
        (Interpreter((3, 13), complete=False), False),
        (Interpreter(), False),
    ],
)
def test_usable(interpreter: Interpreter, usable: bool) -> None:
    assert interpreter.is_usable is usable


def test_every_wheel_is_pinned_and_of_one_version() -> None:
    assert UV_VERSION == OUR_UV
    for processor, wheel in UV_WHEELS.items():
        assert re.fullmatch(r"[0-9a-f]{64}", wheel.sha256)
        assert f"/uv-{UV_VERSION}-" in wheel.url
        assert f"_{processor}." in wheel.url


def test_a_mirror_is_asked_when_one_is_declared() -> None:
    assert "--mirror 'https://lan/pythons' 3.13." in install_command("https://lan/pythons")
    assert "--mirror" not in install_command(None)


def test_the_refusal_says_what_where_and_what_to_do() -> None:
    said = not_to_be_had(Interpreter((3, 8), complete=True), RELEASES)
    assert "/usr/bin/python3 is Python 3.8, " in said
    assert "3.9 or newer" in said
    assert "host_policy(python_mirror=" in said
    assert "no Python that runs" in not_to_be_had(Interpreter(), RELEASES)
