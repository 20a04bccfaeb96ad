"""What a process in the sandbox of a model's unit can reach on a real box: its files and nothing else.

A container that shares its host's network applies neither IPAddressDeny= nor SocketBindDeny=; tests/vm/test_kernel.py
tests those.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llamarig.declare.build import Build
from llamarig.facts.model_headers import ModelHeaders
from llamarig.render import layout
from llamarig.render.sandboxed_run import dry_run_sandbox, reading_sandbox, sandboxed

from tests.box.deployment import Deployment

pytestmark = pytest.mark.box

UNIT = "llamarig-tiny.service"
PROBE = f"{layout.PROGRAMS}/reach_probe.py"
COMMAND = [layout.PYTHON, "-B", PROBE]
CPU = Build(name="b", backend="cpu")
HARMLESS = {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty", "ptmx")}
IN_MEMORY = {"/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue"}
"""Where a unit may make files: its own /tmp and /var/tmp, and memory shared by processes."""
SECRETS = ("/srv/secret", "/root/secret", "/mnt/secret", f"{layout.MODELS}/other/r/x.gguf", "/etc/llamarig/secret")


@pytest.fixture(scope="module")
def box(converged: Deployment) -> Iterator[Deployment]:
    """The box with the probe among our programs, and files of the owner's that everybody may read."""
    converged.shell(f"cat >{PROBE} <<'END'\n{(Path(__file__).parent / 'reach_probe.py').read_text()}\nEND")
    for path in SECRETS:
        converged.shell(f"mkdir -p {path.rpartition('/')[0]} && echo secret >{path} && chmod 644 {path}")
    yield converged
    converged.shell(
        f"rm -rf {PROBE} {shlex.join(SECRETS)} {layout.MODELS}/other /etc/systemd/system/reach-probe.service"
    )
    converged.shell("systemctl daemon-reload")


def unit_text(box: Deployment) -> str:
    return box.shell(f"cat {layout.UNITS}/{UNIT}")


def probed_in_unit(box: Deployment) -> dict[str, Any]:
    """The report of the probe in place of the server, in the unit as it is on the box."""
    text = re.sub(r"ExecStart=(.*\\\n)*.*", f"ExecStart={shlex.join(COMMAND)}", unit_text(box), count=1)
    text = re.sub(r"^(Type|Restart|ExecStartPre)=.*\n", "", text, flags=re.MULTILINE)
    box.write("/etc/systemd/system/reach-probe.service", text.replace("[Service]", "[Service]\nType=oneshot", 1))
    box.shell("systemctl daemon-reload && systemctl start reach-probe")
    return parsed(box.shell("journalctl -u reach-probe -o cat --no-pager | grep '^{' | tail -n 1"))


def parsed(output: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(output)
    return report


def files_of_the_unit(box: Deployment) -> set[str]:
    """The model's files."""
    return set(re.findall(r"^BindReadOnlyPaths=-(\S+\.gguf)$", unit_text(box), re.MULTILINE))


def outside(files: list[str], *inside: str) -> list[str]:
    """Files that are below none of the paths, and none of what the loader and the clock need."""
    needed = ("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives/", "/run/host/", "/run/systemd/", *inside)
    return [file for file in files if not file.startswith(needed)]


def check(report: dict[str, Any], box: Deployment, *inside: str, calls: tuple[str, ...] = ()) -> None:
    ours = (layout.PROGRAMS, layout.BIN, layout.CPYTHON, *inside)
    assert report["user"] == int(box.shell(f"id -u {layout.USER}"))
    assert outside(report["files"], *ours) == []
    assert not set(SECRETS) & set(report["files"])
    assert set(report["directories"]) <= IN_MEMORY
    assert report["processes"] == []
    assert {device for device in report["devices"] if not device.startswith("/dev/pts/")} <= HARMLESS
    assert report["calls"] == list(calls)


def test_the_probe_finds_what_is_open_without_a_sandbox(box: Deployment) -> None:
    """Shows that the other tests can fail."""
    report = parsed(box.shell(f"{shlex.join(COMMAND)}", timeout=120))
    assert set(SECRETS) <= set(report["files"]) or len(report["files"]) >= 2000
    assert {"D-Bus", "local socket", "netlink socket", "another user"} <= set(report["calls"])
    assert "/etc" in report["directories"]


def test_a_unit_reaches_its_files_and_no_others(box: Deployment) -> None:
    release = re.search(r"^ExecStart=(\S+)/bin/llama-server", unit_text(box), re.MULTILINE)
    assert release
    shards = files_of_the_unit(box)
    report = probed_in_unit(box)
    check(report, box, f"{release[1]}/", *shards)
    assert shards <= set(report["files"])


@pytest.mark.parametrize("kind", ["dry run", "reader of headers"])
def test_what_parses_foreign_files_reaches_the_given_ones_and_no_others(box: Deployment, kind: str) -> None:
    (first, *_) = sorted(files_of_the_unit(box))
    properties = dry_run_sandbox(CPU, "/opt/none", [first]) if kind == "dry run" else reading_sandbox([first])
    report = parsed(box.shell(sandboxed(properties, COMMAND, {}, 120), timeout=120))
    check(report, box, first)
    assert first in report["files"]


def test_nothing_is_left_in_the_empty_root(box: Deployment) -> None:
    assert box.shell(f"find {layout.EMPTY_ROOT} -mindepth 1 -path '*gguf*' -o -mindepth 1 -path '*llama.cpp*'") == ""


def test_headers_of_files_with_odd_names_are_read_and_start_nothing(box: Deployment) -> None:
    """The model lock refuses most of such paths; facts do not rely on it."""
    (first, *_) = sorted(files_of_the_unit(box))
    directory = "/srv/odd names"
    odd = [f"{directory}/x y=@+.gguf", f"{directory}/$(touch PWNED).gguf"]
    box.shell(
        "; ".join(
            [f"mkdir -p {shlex.quote(directory)}", *(f"install -m 644 {first} {shlex.quote(path)}" for path in odd)]
        )
    )
    try:
        output = box.shell(ModelHeaders().command([*odd, "/srv/missing.gguf"]))
        found = ModelHeaders().process(output.splitlines())
        assert set(found.headers) == set(odd)
        assert found.problem(["/srv/missing.gguf"]) == "/srv/missing.gguf: No such file or directory"
        assert box.shell("find / -xdev -name PWNED 2>/dev/null; true") == ""
    finally:
        box.shell(f"rm -r '{directory}'")


def test_a_server_runs_as_the_service_user_in_its_sandbox(box: Deployment) -> None:
    pid = box.shell(f"systemctl show -p MainPID --value {UNIT}")
    assert box.shell(f"cd /proc/{pid}/root && find srv home mnt root -mindepth 1 2>/dev/null; true") == ""
    assert sorted(box.shell(f"ls /proc/{pid}/root/etc").split()) == ["alternatives", "ld.so.cache", "localtime"]
