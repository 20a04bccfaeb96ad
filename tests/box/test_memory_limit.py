"""What counts against a model's memory_max_mib, and what happens where it is exceeded: by the real llama-server.

The limit is the kernel's, of a group that tests/box/memory_group.py makes; tests/vm/test_kernel.py shows systemd's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from llamarig.declare.rig import Rig
from llamarig.render.release import release_path

from tests.box.deployment import Deployment, wait_for
from tests.box.hub import Hub
from tests.box.memory_group import started_in_group
from tests.box.rehearse import chat
from tests.placement.loader_shapes import header_of, write

pytestmark = pytest.mark.box

DIRECTORY, REPO = "var/tmp/memory-limit", "acme/Heavy-GGUF"
LOG = f"/{DIRECTORY}/log"
LIMIT_MIB = 512
PORT = 16


def weights_mib(path: Path) -> int:
    return sum(tensor.size for tensor in header_of(path).tensors) >> 20


@pytest.fixture
def model(deployment: Deployment) -> Iterator[Path]:
    """A model whose weights are more than the limit."""
    directory = deployment.box.root / DIRECTORY
    directory.mkdir(parents=True, exist_ok=True)
    path = write(directory, "dense")
    assert weights_mib(path) > LIMIT_MIB
    yield path
    deployment.shell(f"rm -rf /{DIRECTORY}")


def program(deployment: Deployment, name: str) -> str:
    rig = Rig.model_validate(deployment.rig)
    return f"{release_path(rig.builds[0], rig.models)}/bin/{name}"


def wait_for_end(deployment: Deployment, pid: int, *, or_line: str = "$^") -> str:
    """The log of a program that has ended, or written a line."""
    ended = f"grep -q '{or_line}' {LOG} || ! kill -0 {pid} 2>/dev/null"
    wait_for(lambda: deployment.shell(f"{ended}; echo $?") == "0", "the program to end")
    return deployment.shell(f"cat {LOG}")


@pytest.mark.parametrize(("mode", "serves"), [("none", False), ("mlock", False), ("mmap", True)])
def test_weights_that_are_not_mapped_count_against_the_limit(
    mode: str, serves: bool, model: Path, deployment: Deployment
) -> None:
    """The refusal ``memory-max``: the kernel ends such a server while it loads."""
    flags = f"-m /{DIRECTORY}/{model.name} -c 512 -np 1 --no-warmup --load-mode {mode} --port "
    command = f"{program(deployment, 'llama-server')} {flags}{deployment.box.port + PORT}"
    with started_in_group(deployment, command, LOG, LIMIT_MIB, name="weights") as (group, pid):
        output = wait_for_end(deployment, pid, or_line="listening")
        assert ("listening" in output) is serves, output[-1000:]
        assert (group.kills > 0) is not serves
        assert group.peak_mib <= LIMIT_MIB


def test_a_dry_run_fits_into_less_than_the_weights(model: Path, deployment: Deployment) -> None:
    """It allocates none, so that one limit does for dry runs of all models (render/sandboxed_run.py)."""
    flags = f"-m /{DIRECTORY}/{model.name} -c 512 --fit-print on --load-mode none"
    command = f"{program(deployment, 'llama-fit-params')} {flags}"
    with started_in_group(deployment, command, LOG, LIMIT_MIB // 4, name="dry-run") as (group, pid):
        output = wait_for_end(deployment, pid)
        assert f"Host {weights_mib(model)}" in output, output[-1000:]
        assert group.kills == 0


def test_a_deploy_refuses_a_limit_below_the_weights_before_it_fetches_them(
    model: Path, variant: Deployment, hub: Hub
) -> None:
    hub.add_sparse_repo(REPO, {model.name: model})
    tiny = variant.rig["models"][0]
    serve = {**tiny["serve"], "port": variant.box.port + PORT, "coexists": True, "load_mode": "none"}
    heavy = {**tiny, "name": "heavy", "repo": REPO, "quant": None, "files": [model.name], "serve": serve}
    variant.rig["models"] = [tiny, heavy]
    serve["memory_max_mib"] = LIMIT_MIB
    refused = variant.run()
    words = " ".join(refused.output.split())
    assert refused.code == 1, str(refused)
    assert (
        f"MiB of weights loaded in RAM, and memory_max_mib is {LIMIT_MIB}: the kernel would end the server" in words
    ), words
    assert f"raise memory_max_mib above {weights_mib(model)}" in words, words
    assert refused.changed == []
    assert variant.shell(f"ls -d /var/lib/llamarig/models/{REPO} 2>/dev/null; true") == ""
    assert chat(variant.address, "As before?")

    serve["memory_max_mib"] = 2 * weights_mib(model)
    raised = variant.run("--dry")
    assert "the kernel would end the server" not in " ".join(raised.output.split()), str(raised)
