"""The sandbox of units: what is bound into it, whom it talks to, and how systemd-analyze rates it."""

from __future__ import annotations

import ipaddress
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from llamarig.declare.build import Build
from llamarig.declare.serve import Serve
from llamarig.declare.serve.endpoint import PRIVATE_NETWORKS
from llamarig.items.wanted_unit import Wanted, wanted_unit
from llamarig.render.sandbox import network_lines, sandbox_lines, unseen
from llamarig.render.server_arguments import ModelFiles

from tests.items.converged_box import cpu_rig
from tests.render.golden_units import GOLDEN, PINNED, units

CPU = Build(name="b", backend="cpu")
CUDA = Build(name="b", backend="cuda", architectures=("89-real",), cuda_toolkit="13.5")
VULKAN = Build(name="b", backend="vulkan")
HIP = Build(name="b", backend="hip", architectures=("gfx1100",))
MOST_ON_LOOPBACK, MOST_BEYOND = 1.5, 1.7
"""systemd-analyze's exposure level, from 0 to 10. A server has to open an IP socket, and a GPU to be reached."""


def values(lines: list[str], directive: str) -> list[str]:
    return [line.partition("=")[2] for line in lines if line.startswith(f"{directive}=")]


def bound(lines: list[str]) -> set[str]:
    return {path.lstrip("-") for value in values(lines, "BindReadOnlyPaths") for path in value.split()}


def serve(**fields: Any) -> Serve:
    return Serve(**{"port": 8080, "context": 4096, "api_key_file": "/k", **fields})


def test_a_unit_sees_its_own_files_and_no_others() -> None:
    seen = bound(sandbox_lines(CPU, "/opt/llamarig/llama.cpp/r", ["/srv/m.gguf"]))
    system = {"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"}
    files = {"/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime"}
    helpers = {"/opt/llamarig/lib", "/opt/llamarig/bin", "/opt/llamarig/cpython"}
    assert seen == system | files | helpers | {"/opt/llamarig/llama.cpp/r", "/srv/m.gguf"}


def test_a_backend_sees_what_its_libraries_need() -> None:
    cpu = bound(sandbox_lines(CPU, "/r", []))
    assert bound(sandbox_lines(CUDA, "/r", [])) - cpu == {"/opt/llamarig/cuda/13.5"}
    own_toolkit = CUDA.model_copy(update={"cuda_toolkit": "/opt/cuda"})
    assert bound(sandbox_lines(own_toolkit, "/r", [])) - cpu == {"/opt/cuda"}
    in_usr = CUDA.model_copy(update={"cuda_toolkit": "/usr/local/cuda-12.9"})
    assert bound(sandbox_lines(in_usr, "/r", [])) == cpu
    assert bound(sandbox_lines(VULKAN, "/r", [])) - cpu == {"/etc/vulkan"}
    assert bound(sandbox_lines(HIP, "/r", [])) - cpu == {"/opt"}


def test_every_shard_the_projector_the_draft_the_key_and_declared_paths_are_bound() -> None:
    rig = cpu_rig()
    model = rig.models[0]
    fields = {"api_key_file": "/etc/llamarig/keys/api", "readable_paths": ("/srv/lora",)}
    declared = model.model_copy(update={"serve": model.serve.model_copy(update=fields)})
    files = ModelFiles("/m/a b-1.gguf", mmproj="/m/p.gguf", draft="/m/d.gguf", other_shards=("/m/a b-2.gguf",))
    wanted = wanted_unit(rig, declared, release="/r", flags=PINNED, files=files, inputs="", model_bytes=1, running=True)
    paths = values(wanted.text.splitlines(), "BindReadOnlyPaths")[1:]
    assert paths == [
        '"-/m/a b-1.gguf"',
        '"-/m/a b-2.gguf"',
        *("-/m/p.gguf", "-/m/d.gguf", "-/etc/llamarig/keys/api", "-/srv/lora"),
    ]


def test_what_is_bound_leaves_no_name_in_the_empty_root() -> None:
    """systemd makes mount points where they are missing: in memory, below each directory of the top."""
    lines = sandbox_lines(CUDA, "/opt/r", ["/srv/models/m.gguf", "/data/lora"])
    (in_memory,) = values(lines, "TemporaryFileSystem")
    assert set(in_memory.split()) == {"/data:ro", "/etc:ro", "/opt:ro", "/srv:ro", "/var:ro"}


def test_only_cuda_opens_netlink_and_no_cpu_server_a_local_socket() -> None:
    families = {build.backend: values(sandbox_lines(build, "/r", []), "RestrictAddressFamilies")[0] for build in ALL}
    assert [backend for backend, text in families.items() if "AF_NETLINK" in text] == ["cuda"]
    assert "AF_UNIX" not in families["cpu"]


ALL = (CPU, CUDA, VULKAN, HIP)


@pytest.mark.parametrize("build", ALL, ids=lambda build: build.backend)
def test_no_unit_may_trace_processes(build: Build) -> None:
    denied = " ".join(value for value in values(sandbox_lines(build, "/r", []), "SystemCallFilter") if value[0] == "~")
    assert "@debug" in denied


def test_a_server_on_loopback_talks_to_the_box_alone() -> None:
    lines = network_lines(serve())
    assert values(lines, "IPAddressDeny") == ["any"]
    assert values(lines, "IPAddressAllow") == ["localhost"]


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({"host": "0.0.0.0"}, ["localhost", " ".join(PRIVATE_NETWORKS)]),
        ({"host": "203.0.113.5"}, ["localhost", " ".join(("203.0.113.5", *PRIVATE_NETWORKS))]),
        ({"host": "::", "clients": ("2001:db8:1::/64",)}, ["localhost", "2001:db8:1::/64"]),
        ({"host": "0.0.0.0", "clients": ()}, ["localhost"]),
    ],
)
def test_a_server_beyond_loopback_talks_to_its_clients(fields: dict[str, Any], allowed: list[str]) -> None:
    lines = network_lines(serve(**fields))
    assert values(lines, "IPAddressDeny") == ["any"]
    assert values(lines, "IPAddressAllow") == allowed


def test_private_networks_are_those_of_no_internet_address() -> None:
    networks = [ipaddress.ip_network(network) for network in PRIVATE_NETWORKS]
    assert not any(network.is_global for network in networks)
    for home in ("192.168.1.7", "10.1.2.3", "172.17.0.2", "100.100.1.1", "fd00::7", "fe80::1", "169.254.3.4"):
        assert any(ipaddress.ip_address(home) in network for network in networks), home


@pytest.mark.parametrize(
    ("word", "is_unseen"),
    [
        ("/srv/lora.gguf", True),
        ("/usr/share/x", False),
        ("/usr2/x", True),
        ("/etc/passwd", True),
        ("/tmp/slots", False),
        ("/data/lora/a.gguf", False),
        ("lora.gguf", False),
    ],
)
def test_paths_that_a_server_would_not_find(word: str, is_unseen: bool) -> None:
    assert unseen(CPU, ("/data/lora",), [word]) == ([word] if is_unseen else [])


def rating(text: str, directory: Path) -> float:
    """The exposure level that systemd-analyze gives the unit file.

    Rated without DefaultDependencies=no, with which it leaves out settings that units of an early boot cannot have,
    as if these had none of them.
    """
    unit = directory / "llamarig-m.service"
    unit.write_text(text.replace("DefaultDependencies=no\n", ""))
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d)", done.stdout)
    assert found, done.stderr
    return float(found[1])


@pytest.mark.parametrize(("name", "wanted"), [pytest.param(*each, id=each[0]) for each in units()])
def test_exposure_of_every_profile(name: str, wanted: Wanted, tmp_path: Path) -> None:
    most = MOST_ON_LOOPBACK if wanted.model.serve.host == "127.0.0.1" else MOST_BEYOND
    assert rating((GOLDEN / f"{name}.service").read_text(), tmp_path) <= most


def test_a_cpu_unit_is_exposed_less(tmp_path: Path) -> None:
    rig = cpu_rig()
    wanted = wanted_unit(
        rig,
        rig.models[0],
        release="/r",
        flags=PINNED,
        files=ModelFiles("/m.gguf"),
        inputs="",
        model_bytes=1,
        running=True,
    )
    assert rating(wanted.text, tmp_path) < MOST_ON_LOOPBACK
