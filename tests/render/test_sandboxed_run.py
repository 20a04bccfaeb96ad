"""Programs that parse untrusted files run as the service user, in the sandbox of a unit, without a network."""

from __future__ import annotations

import shlex

import pytest
from llamarig.declare.build import Build
from llamarig.facts.model_headers import ModelHeaders
from llamarig.facts.plannable_devices import PlannableDevices
from llamarig.placement.dry_run import dry_run_command, short_vocabulary_command
from llamarig.render.sandbox import sandbox_lines
from llamarig.render.sandboxed_run import dry_run_sandbox, reading_sandbox

CUDA = Build(name="b", backend="cuda", architectures=("89-real",), cuda_toolkit="13.5")
SANDBOX = dry_run_sandbox(CUDA, "/opt/r", ["/srv/a b.gguf"])
COMMANDS = {
    "a dry run": dry_run_command("/opt/r", ["--model", "/srv/a b.gguf"], {"HOME": "/tmp"}, SANDBOX),
    "a list of devices": PlannableDevices().command("/opt/r", {"HOME": "/tmp"}, SANDBOX),
    "the headers of files": ModelHeaders().command(["/srv/a b.gguf"]),
    "a shorter vocabulary": short_vocabulary_command("/var/lib/x", 1, 512, ["/srv/a b.gguf"]),
}


def properties(command: str) -> list[str]:
    words = shlex.split(command)
    assert words[0] == "systemd-run"
    return [word.removeprefix("--property=") for word in words[: words.index("--")] if word.startswith("--property=")]


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_nothing_foreign_is_parsed_by_root_or_with_a_network(command: str) -> None:
    found = properties(command)
    assert {"User=llamarig", "IPAddressDeny=any", "NoNewPrivileges=yes", "CapabilityBoundingSet="} <= set(found)
    assert not any(line.startswith("IPAddressAllow") for line in found)
    assert [line for line in found if line.startswith("MemoryMax=")]
    assert [line for line in found if line.startswith("RuntimeMaxSec=")]
    assert {"--wait", "--pipe", "--collect"} <= set(shlex.split(command))


def test_a_dry_run_has_the_sandbox_of_the_unit() -> None:
    unit = [line for line in sandbox_lines(CUDA, "/opt/r", ["/srv/a b.gguf"]) if not line.startswith("#")]
    assert SANDBOX[: len(unit)] == unit
    assert 'BindReadOnlyPaths="-/srv/a b.gguf"' in unit


def test_our_readers_see_no_release_and_no_device() -> None:
    found = reading_sandbox(["/srv/m.gguf"], ["/var/lib/x"])
    assert {"PrivateDevices=yes", "PrivateNetwork=yes", "BindPaths=/var/lib/x"} <= set(found)
    assert not any("llama.cpp" in line or "DeviceAllow" in line for line in found)


def test_what_root_sees_is_asked_for_by_name_alone() -> None:
    assert PlannableDevices().command("/opt/r", {"A": "b c"}, None).startswith("env 'A=b c' timeout 60 /opt/r/bin/")
