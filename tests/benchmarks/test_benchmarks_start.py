"""Run every benchmark with minimal settings, so that code changes do not break them unnoticed. Times are not tested."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine

from tests.__main__ import BENCHMARKS
from tests.benchmarks import audit
from tests.benchmarks.converge import __main__ as converge
from tests.benchmarks.converge.values import (
    CONVERGED,
    WITHOUT_A_TASK,
    mirrored,
    needing_a_task,
    unmirrored,
)
from tests.box.deployment import REPOSITORY_ROOT, Deployment, rehearsal_rig
from tests.box.paths import Rehearsal


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a short path, because the path of a control socket is limited to 108 bytes (unix(7))."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        yield Path(directory)


def test_the_playbook_has_a_task_for_each_item_of_a_deploy(short: Path) -> None:
    rig = Rig.model_validate(rehearsal_rig(Rehearsal(short)))
    here = ControlMachine(locked=[])
    names = [item.name for item in CONVERGED]
    assert unmirrored(names, rig, here) == []
    # No superfluous task, and no exception for an item that does not exist.
    assert mirrored() == set(needing_a_task(rig, here))
    assert set(WITHOUT_A_TASK) <= set(names)


def test_an_operation_without_a_task_is_reported(short: Path) -> None:
    rig = Rig.model_validate(rehearsal_rig(Rehearsal(short)))
    here = ControlMachine(locked=[])
    assert unmirrored(["Programs", "A new operation"], rig, here) == ["A new operation"]
    with_swappiness = rig.model_copy(update={"host": rig.host.model_copy(update={"swappiness": 10})})
    assert unmirrored([item.name for item in CONVERGED], with_swappiness, here) == ["Swappiness"]


@pytest.mark.box
def test_the_comparison_with_ansible_prints_its_table(
    deployment: Deployment, short: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: deployment.shell("apt-get -qq purge python3-apt", timeout=120))
    converge.measure(deployment, short, hosts=[1], runs=1, brief=True)
    output = capsys.readouterr().out
    for row in ("| 1 | llamarig |", "| 1 | Ansible |", "| 1 | **llamarig is** |"):
        assert row in output, output


@pytest.mark.box
def test_the_audit_benchmark_prints_its_table_and_restores_sshds_settings(
    deployment: Deployment, short: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audit.measure(deployment, short, boxes=2, runs=1)
    output = capsys.readouterr().out
    assert "| 2 | audit |" in output, output
    assert deployment.shell("ls /etc/ssh/sshd_config.d") == "00-rehearsal.conf"


@pytest.mark.parametrize(
    ("module", "arguments", "expected"),
    [
        ("download", ("--mib", "8", "--rounds", "1"), "| aria2c |"),
        ("large_download", ("--gib", "0.05", "--files", "2", "--kill-after-s", "0.5"), "MiB moved twice"),
    ],
)
def test_download_benchmarks_print_their_results_and_delete_their_files(
    module: str, arguments: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    directory = tmp_path / "made"
    assert expected in output_of(module, "--directory", str(directory), *arguments)
    assert not directory.exists()


def test_the_benchmark_of_a_front_prints_its_table() -> None:
    output = output_of("front", "--runs", "5", "--streams", "2", "--tokens", "5")
    for row in ("| time to first token", "| throughput", "| memory of the front |"):
        assert row in output, output


@pytest.mark.parametrize("module", ["audit", "converge"])
def test_benchmarks_that_make_a_box_have_a_command_line(module: str) -> None:
    assert "--runs" in output_of(module, "--help")


def test_every_benchmark_is_run_by_these_tests() -> None:
    here = Path(__file__).parent
    programs = {path.stem for path in here.glob("*.py") if "__main__" in path.read_text()} - {Path(__file__).stem}
    programs |= {path.parent.name for path in here.glob("*/__main__.py")}
    assert programs == set(BENCHMARKS)


def output_of(module: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments],
        cwd=REPOSITORY_ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
