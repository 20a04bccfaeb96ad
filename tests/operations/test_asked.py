"""What a deploy's operations ask an unchanged box is all in the one command of an audit.

Boxes without cards are counted over SSH (tests/box/test_audit.py, test_plan.py). Here are those that cannot be: with
cards, and of other families. pyinfra's own @fake connector plays them.
"""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api.operation import operation
from pyinfra.facts.deb import DebPackages
from pyinfra.facts.files import File
from pyinfra.facts.pacman import PacmanPackages
from pyinfra.facts.rpm import RpmPackages

from tasks.operations import (
    Commands,
    audit,
    compilers,
    cuda_toolkit,
    driver,
    gpus,
    interpreter,
    key_files,
    memory,
    packages,
    rocm,
)
from tasks.operations.audit import Options, everything_asked
from tasks.operations.long_work import release_directories
from tasks.operations.serving import read_units
from tasks.planning import layout
from tasks.planning.key_files import key_paths
from tasks.planning.packages import FAMILIES, wanted_packages
from tasks.spec import declare as d
from tasks.spec.rig import Rig
from tests.operations.fake_run import told
from tests.operations.test_packages import MANAGERS, THERE

CARD = (Path(__file__).parents[1] / "facts/data/gpu/h200_two_idle.txt").read_text()
B: dict[str, Any] = importlib.import_module("group_data.rtx4070").rig
SYSCTL = "# Written by llamarig: keeps model weights in RAM.\nvm.swappiness = 0\n"
FACTS_OF = {"debian": DebPackages, "arch": PacmanPackages, "fedora": RpmPackages}


pytestmark = pytest.mark.usefixtures("audit_of_its_own")


@operation()
def asked_at_once(rig: Rig) -> Commands:
    """As tasks/audit.py asks, before the deploy's operations."""
    audit.asked_at_once(rig, Options(), {})
    yield from ()


@operation()
def units_read(rig: Rig) -> Commands:
    """As the serving operation reads them."""
    read_units(rig)
    yield from ()


def asked_beside(rig: Rig, answers: dict[str, str], *operations: tuple[Any, dict[str, Any]]) -> list[str]:
    """Commands that these operations need beside the one; each is only asked whether it would change the box.

    :param answers: a fact, with its first argument behind it -> what the box says to it
    """
    said = []
    for number, (fact, arguments) in enumerate(everything_asked(rig, Options(), {})):
        name = " ".join([fact.__name__, *(str(value) for value in arguments.values())])
        said.append(f"@@llamarig {number}\n{answers.get(name, '')}\n\n@@llamarig ok")
    calls = [(function, {**arguments, "_if": lambda: False}) for function, arguments in operations]
    commands = told((asked_at_once, {"rig": rig}), *calls, responses={"@@llamarig": "\n".join(said)})
    return [command for command in commands if not command.startswith("echo '@@llamarig 0'")]


def test_a_box_with_cards() -> None:
    rig = Rig.model_validate({**B, "host": {**B["host"], "nvidia_driver": d.nvidia_driver()}})
    assert rig.host.nvidia_driver is not None
    (release,) = release_directories(rig)
    text = hashlib.sha256(SYSCTL.encode()).hexdigest()
    answers = {
        f"Sha256Sums {[layout.SYSCTL_FILE]}": f"{text}  {layout.SYSCTL_FILE}",
        f"Ownership {[layout.SYSCTL_FILE]}": f"{layout.SYSCTL_FILE}\troot root 644 regular file",
        "MachineState": f"== swappiness\n0\n== at-boot\n# {layout.SYSCTL_FILE}\nvm.swappiness = 0",
        "Gpus": CARD,
        f"Releases {[release]}": f'release\t{release}\nmanifest\t{{"commit": "", "flags": [], "files": {{}}}}',
    }
    (key_file,) = key_paths(rig)
    answers[f"KeyFiles {[key_file]}"] = f"key={key_file}\nstat=root 600 65 regular file\nbom=0\ncr=0\nusable=1"
    operations: list[tuple[Any, dict[str, Any]]] = [
        (key_files.key_files_usable, {"rig": rig}),
        (memory.swappiness_set, {"value": 0}),
        (gpus.made_ready, {"rig": rig}),
        (driver.installed, {"rig": rig, "driver": rig.host.nvidia_driver}),
        (interpreter.linked, {"rig": rig}),
        (gpus.fit_the_builds, {"rig": rig}),
        (compilers.suit_the_toolkits, {"rig": rig}),
        (cuda_toolkit.linked, {"version": rig.builds[0].cuda_toolkit}),
        (units_read, {"rig": rig}),
    ]
    assert asked_beside(rig, answers, *operations) == []
    # Another value is another box: pyinfra's own operation then looks for itself.
    assert asked_beside(rig, answers, (memory.swappiness_set, {"value": 1})) != []


def test_toolkits_by_path_and_rocm() -> None:
    serve = d.serve(port=8080, context=4096)
    build = d.build(name="own", cuda_toolkit="/usr", architectures=("89-real",))
    other = d.build(name="hip", backend="hip", architectures=("gfx1100",))
    models = [d.model(name=name, repo="o/r", quant="Q4_K_M", build=name, serve=serve) for name in ("own", "hip")]
    rig = Rig.model_validate(d.rig(builds=[build, other], models=models))
    operations: list[tuple[Any, dict[str, Any]]] = [
        (gpus.fit_the_builds, {"rig": rig}),
        (rocm.installed, {"wanted": {"debian": [], "arch": [], "fedora": []}}),
    ]
    there = {"RocmFound": "== own\n7.1.0-20", "Gpus": CARD, "ToolkitVersions ['/usr']": "== /usr\nrelease 12.8,"}
    assert asked_beside(rig, there, *operations) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_the_packages_of_every_family(family: str) -> None:
    rig = Rig.model_validate(B)
    manager, _, line, _ = MANAGERS[family]
    wanted = wanted_packages(rig, "box")
    answers = {
        f"{File.__name__} {manager}": THERE.format(path=manager),
        FACTS_OF[family].__name__: "\n".join(line.format(name=name) for name in wanted[family]),
    }
    assert asked_beside(rig, answers, (packages.installed, {"wanted": wanted})) == []
