"""Each family's packages by its own names and its own package manager; installed once, and then no mirror is asked."""

from __future__ import annotations

import re
from typing import Any, Literal

import pytest

from tasks.operations.packages import installed
from tasks.planning.packages import FAMILIES, wanted_packages
from tasks.spec import declare as d
from tasks.spec.rig import Rig
from tests.operations.fake_run import told


def wanted(backend: Literal["cpu", "vulkan"]) -> dict[str, list[str]]:
    serve = d.serve(port=8080, context=4096)
    rig = d.rig(
        builds=[d.build(name="b", backend=backend)],
        models=[d.model(name="m", repo="o/r", quant="Q4_K_M", build="b", serve=serve)],
    )
    return wanted_packages(Rig.model_validate(rig), "box")


WANTED = wanted("vulkan")
# As `stat` answers pyinfra's own fact of a file that is there.
THERE = "user=root group=root mode=-rwxr-xr-x atime=1795270000 mtime=1795270000 ctime=1795270000 size=18752 '{path}'"
MANAGERS = {
    "debian": ("/usr/bin/apt-get", "dpkg -l", "ii  {name} 1.0 amd64 x", "apt-get .*install"),
    "arch": ("/usr/bin/pacman", "pacman -Q", "{name} 1.0-1", "pacman --noconfirm -S "),
    "fedora": ("/usr/bin/dnf", "rpm --queryformat", "{name} 1.0-1", "dnf install"),
}


def box(family: str, names: list[str]) -> dict[Any, Any]:
    """A box of this family with these packages, as far as pyinfra's facts ask."""
    manager, listing, line, _ = MANAGERS[family]
    others = [path for path, *_ in MANAGERS.values() if path != manager]
    return {
        **{re.compile(rf"{path}\b"): "" for path in others},
        re.compile(rf"stat .*{manager}\b"): THERE.format(path=manager),
        listing: [line.format(name=name) for name in names],
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_missing_is_installed_by_the_familys_own_manager(family: str) -> None:
    there, missing = WANTED[family][2:], WANTED[family][:2]
    commands = told((installed, {"wanted": WANTED}), responses=box(family, there))
    (install,) = [command for command in commands if re.search(MANAGERS[family][3], command)]
    assert [name for name in WANTED[family] if f" {name}" in install] == missing


@pytest.mark.parametrize("family", FAMILIES)
def test_with_all_of_them_no_mirror_is_asked(family: str) -> None:
    commands = told((installed, {"wanted": WANTED}), responses=box(family, WANTED[family]))
    assert not [command for command in commands if re.search(r"install|-Sy|update", command)]


def test_the_names_are_the_familys_own() -> None:
    assert "iproute2" in WANTED["debian"]
    assert {"iproute", "gcc-c++", "vulkan-loader-devel"} <= set(WANTED["fedora"])
    assert "python3-venv" not in WANTED["fedora"]
    assert not [name for names in wanted("cpu").values() for name in names if "vulkan" in name]


def test_another_distribution_is_refused() -> None:
    with pytest.raises(AssertionError, match="failed"):
        told((installed, {"wanted": WANTED}))
