"""Arguments and environment variables of a unit reach the program unchanged, under the box's real systemd."""

from __future__ import annotations

import base64
import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llamarig.declare.unit_syntax import unit_syntax_error
from llamarig.render.escaping import environment, exec_start

from tests.box.deployment import Deployment

pytestmark = pytest.mark.box

UNIT = "escaping-probe.service"
PROBE = "/usr/local/bin/escaping-probe"
OUT = "/run/escaping-probe"
# Characters with a meaning to systemd, to a shell, or to a careless parser.
SPECIAL_CHARACTERS = "$%\\\"'`;#&|*?~!@-:+=,.(){}[]<> \t^/"
SPECIAL_SEQUENCES = [
    "%h",
    "%%",
    "$$",
    "${HOME}",
    "$HOME",
    "\\n",
    "\\x41",
    "\\",
    "\\\\",
    ";",
    "\\;",
    '""',
    "''",
    '\\"',
    "# x",
    "%",
]

# Without what a unit file cannot hold (line breaks, non-characters): tests/render/test_escaping.py tests the refusal.
SAFE = st.characters(exclude_categories=["Cs"]).filter(lambda character: unit_syntax_error(character) is None)
TEXT = st.one_of(
    st.text(st.sampled_from(SPECIAL_CHARACTERS + string.ascii_letters + "äß語🦙"), max_size=30),
    st.lists(st.sampled_from(SPECIAL_SEQUENCES), max_size=8).map("".join),
    st.text(SAFE, max_size=30),
)
VALUE = TEXT.filter(lambda text: unit_syntax_error(text, assignment=True) is None)


@pytest.fixture
def probe(deployment: Deployment) -> Deployment:
    """Install a program that writes the number of its arguments and the arguments themselves, each NUL-terminated."""
    root = deployment.box.root
    (root / PROBE[1:]).write_text(f'#!/bin/sh\nprintf "%s\\0" "$#" "$@" >>{OUT}/arguments\n')
    (root / PROBE[1:]).chmod(0o755)
    return deployment


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    commands=st.lists(st.lists(TEXT, min_size=1, max_size=6), min_size=60, max_size=120),
    values=st.lists(VALUE, min_size=40, max_size=80),
)
def test_a_program_receives_arguments_and_environment_as_declared(
    probe: Deployment, commands: list[list[str]], values: list[str]
) -> None:
    lines = [
        "[Service]",
        "Type=oneshot",
        "RuntimeDirectory=escaping-probe",
        "RuntimeDirectoryPreserve=yes",
        *(f"Environment={environment(f'V{index}', value)}" for index, value in enumerate(values)),
        *(f"ExecStart={exec_start([PROBE, *arguments])}" for arguments in commands),
        f'ExecStart=/bin/sh -c "env -0 >{OUT}/environment"',
    ]
    (probe.box.root / "etc/systemd/system" / UNIT).write_text("\n".join(lines) + "\n")
    probe.shell(f"rm -f {OUT}/*; systemctl daemon-reload; systemctl start {UNIT}")
    received = probe.shell(f"base64 -w0 {OUT}/arguments; echo; base64 -w0 {OUT}/environment").split("\n")
    assert parse_arguments(received[0]) == commands
    assert parse_environment(received[1]) == {f"V{index}": value for index, value in enumerate(values)}


def parse_arguments(encoded: str) -> list[list[str]]:
    words = decode_strings(encoded)
    found = []
    while words:
        count = int(words[0])
        found.append(words[1 : count + 1])
        words = words[count + 1 :]
    return found


def parse_environment(encoded: str) -> dict[str, str]:
    pairs = [item.partition("=") for item in decode_strings(encoded)]
    return {name: value for name, _, value in pairs if name[0] == "V" and name[1:].isdigit()}


def decode_strings(encoded: str) -> list[str]:
    return base64.b64decode(encoded).decode().split("\0")[:-1]
