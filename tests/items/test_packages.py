"""Each distribution family's packages, by its own names and its own package manager."""

from __future__ import annotations

import re
from typing import Literal

import pytest
from llamarig import declare as d
from llamarig.declare.rig import Rig
from llamarig.items.packages import FAMILIES, Packages, wanted_packages
from llamarig.render.release import cmake_definitions

from tests.engine.fake_run import OperationFailedError, converged_commands
from tests.items.converged_box import HOST
from tests.items.package_managers import MANAGERS, package_replies


def rig(backend: Literal["cpu", "vulkan"], built_by: str | None = None, *, tls: bool = False) -> Rig:
    serve = d.serve(port=8080, context=4096)
    return Rig.model_validate(
        d.rig(
            builds=[d.build(name="b", backend=backend, built_by=built_by, tls=tls)],
            models=[d.model(name="m", repo="o/r", quant="Q4_K_M", build="b", serve=serve)],
        )
    )


WANTED = wanted_packages(rig("vulkan"), HOST)


def commands(family: str, there: list[str]) -> list[str]:
    return converged_commands([Packages()], rig("vulkan"), package_replies(family, there))


@pytest.mark.parametrize("family", FAMILIES)
def test_missing_packages_are_installed_by_the_familys_own_manager(family: str) -> None:
    there, missing = WANTED[family][2:], WANTED[family][:2]
    (install,) = [command for command in commands(family, there) if re.search(MANAGERS[family][3], command)]
    assert [name for name in WANTED[family] if f" {name}" in install] == missing


@pytest.mark.parametrize("family", FAMILIES)
def test_a_box_with_all_packages_contacts_no_mirror(family: str) -> None:
    sent = commands(family, WANTED[family])
    assert not [command for command in sent if re.search(r"install|-Sy|update", command)]


def test_package_names_are_those_of_the_distribution_family() -> None:
    assert "iproute2" in WANTED["debian"]
    assert {"iproute", "gcc-c++", "vulkan-loader-devel"} <= set(WANTED["fedora"])
    assert "python3-venv" not in WANTED["fedora"]
    names = [name for names in wanted_packages(rig("cpu"), HOST).values() for name in names]
    assert not [name for name in names if "vulkan" in name]


def test_openssl_is_compiled_in_only_for_a_certificate() -> None:
    with_tls = rig("cpu", tls=True)
    wanted = wanted_packages(with_tls, HOST)
    assert "libssl-dev" in wanted["debian"]
    assert "openssl-devel" in wanted["fedora"]
    assert "libssl-dev" not in WANTED["debian"]
    assert cmake_definitions(with_tls.builds[0], ())["LLAMA_OPENSSL"] == "ON"
    assert "libssl-dev" not in wanted_packages(rig("cpu", "other", tls=True), HOST)["debian"]


def test_a_box_that_receives_its_release_gets_no_compiler() -> None:
    wanted = wanted_packages(rig("vulkan", built_by="other"), HOST)
    assert "cmake" not in wanted["debian"]
    assert {"libgomp1", "libvulkan1"} <= set(wanted["debian"])


def test_another_distribution_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(OperationFailedError):
        converged_commands([Packages()], rig("vulkan"))
    assert "this box has neither apt, pacman nor dnf" in caplog.text
