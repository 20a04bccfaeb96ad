"""The NVIDIA driver on a real Debian: its facts, and whether Debian's index has the packages a deploy would install.

The box is a container without a card, so packages are only resolved (`apt-get -s`). Whether the module loads or needs a
reboot can only be tested on a box with a GPU.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from llamarig.declare.build import Build
from llamarig.declare.host_policy import NvidiaDriver
from llamarig.facts.nvidia_packages import DriverState, NvidiaPackages
from llamarig.items.driver_steps import DEBIAN_COMPONENTS, next_step, packages, queried_packages, upstream_version

from tests.box import machine
from tests.box.deployment import Deployment

pytestmark = pytest.mark.box

SCRIPT = "tests/box/deploy_toolchains.py"
# Separate package lists and sources for apt, so that the box's own stay unchanged.
APT = "/tmp/nvidia-apt"
OPTIONS = (
    f"-o Dir::State::lists={APT}/lists -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::sourcelist={APT}/debian.list "
    f"-o Dir::Cache={APT}/cache"
)
LISTS = f"""
mkdir -p {APT}/lists/partial {APT}/cache/archives/partial
. /etc/os-release
echo "deb http://deb.debian.org/debian $VERSION_CODENAME main {" ".join(DEBIAN_COMPONENTS)}" >{APT}/debian.list
apt-get {OPTIONS} -qq update
"""


def driver_state(deployment: Deployment, driver: NvidiaDriver, options: str = "") -> DriverState:
    """Read the fact from the box, with additional ``options`` for apt."""
    command = NvidiaPackages().command(queried_packages(driver))
    for program in ("apt-cache", "apt-get"):
        command = command.replace(f"{program} ", f"{program} {options} ")
    return NvidiaPackages().process(deployment.shell(command).splitlines())


def with_a_card(state: DriverState) -> DriverState:
    """The box's state as if it had a card and one of Debian's kernels."""
    return replace(state, container=False, cards=1, kernels=("amd64",))


def test_a_declared_driver_in_a_container_is_refused_without_a_change(variant: Deployment) -> None:
    variant.rig["host"]["nvidia_driver"] = {}
    outcome = variant.run(script=SCRIPT)
    assert outcome.code != 0
    assert "a container runs on its host's driver: declare nvidia_driver for the host" in outcome.output
    assert outcome.changed == []
    assert "Traceback" not in outcome.output


@pytest.mark.parametrize("module", ["open", "proprietary"])
def test_debian_resolves_the_packages_of_the_next_step(deployment: Deployment, module: str) -> None:
    driver = NvidiaDriver.model_validate({"kernel_module": module})
    state = driver_state(deployment, driver)
    assert (state.family, state.release, state.container, state.cards) == ("debian", "trixie", True, 0)
    assert (state.module, state.library, state.parts, state.kernels) == ("", "", frozenset(), ())
    assert "main" in state.components
    assert state.offered == {}, "the driver is not in the components of a fresh Debian"
    assert len(state.boot) == 36
    assert state.load_tried == ""

    build = Build(name="cuda", architectures=("89-real",), cuda_toolkit="/usr")
    first = next_step(driver, with_a_card(state), [build], {"/usr": (12, 4)})
    assert first is not None
    assert first.kind == "components"

    deployment.shell(LISTS, timeout=300)
    enabled = driver_state(deployment, driver, OPTIONS)
    assert enabled.components == {"main", *DEBIAN_COMPONENTS}
    step = next_step(driver, with_a_card(enabled), [build], {"/usr": (12, 4)})
    assert step is not None
    assert step.kind == "install"
    assert step.names == packages(driver, "debian", ("amd64",))
    resolved = deployment.shell(
        f"apt-get {OPTIONS} -s --no-install-recommends install {' '.join(step.names)}", timeout=120
    )
    chosen = dict(re.findall(r"^Inst (\S+) \((\S+)", resolved, re.MULTILINE))
    assert set(step.names) <= chosen.keys()
    # One version of module, firmware and libraries, and no desktop.
    version = upstream_version(enabled.offered["libcuda1"])
    parts = {
        name: upstream_version(of) for name, of in chosen.items() if name in ("firmware-nvidia-gsp", *step.names[:3])
    }
    assert set(parts.values()) == {version}, parts
    assert not [name for name in chosen if name.startswith(("xserver-", "nvidia-settings"))]

    # Debian 13 has driver 550, too old for every CUDA version whose compiler is on PyPI.
    too_new = Build(name="cuda", architectures=("89-real",), cuda_toolkit="13.0")
    refused = next_step(driver, with_a_card(enabled), [too_new], {})
    assert refused is not None
    assert refused.kind == ("refuse" if int(version.split(".")[0]) < 580 else "install")


def test_a_toolkit_missing_at_its_declared_path_is_refused(variant: Deployment) -> None:
    build = {**variant.rig["builds"][0], "name": "cuda", "backend": "cuda", "architectures": ["89-real"]}
    variant.rig["builds"].append({**build, "cuda_toolkit": "/usr/local/cuda-12.9"})
    outcome = variant.run(script=SCRIPT)
    assert outcome.code != 0
    assert "/usr/local/cuda-12.9/bin/nvcc is missing" in outcome.output, str(outcome)
    assert "install the toolkit there, or declare a version from PyPI" in outcome.output
    assert machine.ssh(variant.box, "ls /opt/llamarig/cuda", check=False).returncode != 0 or outcome.changed == []
