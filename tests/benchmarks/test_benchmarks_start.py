"""Every benchmark is started for a moment, so that none falls behind the tree; nothing is asserted about time."""

from __future__ import annotations

import ast
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks import audit
from tests.benchmarks.converge import __main__ as converge
from tests.benchmarks.converge.values import WITHOUT_A_TASK, mirrored, unmirrored
from tests.box.deployment import REPOSITORY_ROOT, Deployment

ROOMS = ("host", "toolchain", "llama_cpp", "models", "services")
"""Of deploy.py, in tasks/."""


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a short name: a control socket's path has to fit in 108 bytes (unix(7))."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        yield Path(directory)


def declared(source: str) -> tuple[list[str], list[str]]:
    """The operations of a room, as pyinfra reports them: those of every box, and those of some."""
    always, sometimes = list[str](), list[str]()
    for function in ast.parse(source).body:
        if not isinstance(function, ast.FunctionDef):
            continue
        rooms = [each.args[0] for each in function.decorator_list if isinstance(each, ast.Call)]
        for statement in function.body:
            for call in (node for node in ast.walk(statement) if isinstance(node, ast.Call)):
                for keyword in call.keywords:
                    if keyword.arg == "name" and rooms and isinstance(keyword.value, ast.Constant):
                        name = f"{ast.literal_eval(rooms[0])} | {ast.literal_eval(keyword.value)}"
                        (always if isinstance(statement, ast.Expr) else sometimes).append(name)
    return always, sometimes


def test_the_playbook_stands_for_what_a_deploy_does() -> None:
    rooms = [declared((REPOSITORY_ROOT / "tasks" / f"{room}.py").read_text()) for room in ROOMS]
    always = [name for room, _ in rooms for name in room]
    assert len(always) >= 15
    assert unmirrored(always) == []
    assert (mirrored() | set(WITHOUT_A_TASK)) - {*always, *(name for _, room in rooms for name in room)} == set()


def test_an_operation_that_a_room_gains_is_seen() -> None:
    room = '@deploy("Host")\ndef host():\n    a.b(name="One")\n    if x:\n        a.b(name="Two")\n'
    assert declared(room) == (["Host | One"], ["Host | Two"])
    assert unmirrored(["Host | One", "Host | Programs"]) == ["Host | One"]


@pytest.mark.box
def test_the_comparison_with_ansible(
    deployment: Deployment, short: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: deployment.shell("apt-get -qq purge python3-apt", timeout=120))
    converge.measure(deployment, short, hosts=[1], runs=1)
    said = capsys.readouterr().out
    for row in ("| 1 | llamarig |", "| 1 | Ansible |", "| 1 | **llamarig is** |"):
        assert row in said, said


@pytest.mark.box
def test_the_audit_of_many(deployment: Deployment, short: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audit.measure(deployment, short, boxes=2, runs=1)
    said = capsys.readouterr().out
    assert "| 2 | audit |" in said, said
    assert deployment.shell("ls /etc/ssh/sshd_config.d") == "00-rehearsal.conf"


@pytest.mark.parametrize(
    ("module", "arguments", "says"),
    [
        ("download", ("--mib", "8", "--rounds", "1"), "| aria2c |"),
        ("large_download", ("--gib", "0.05", "--files", "2", "--kill-after-s", "0.5"), "MiB moved twice"),
    ],
)
def test_downloads(module: str, arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    directory = tmp_path / "made"
    assert says in output_of(module, "--directory", str(directory), *arguments)
    assert not directory.exists()


@pytest.mark.parametrize("module", ["audit", "converge"])
def test_those_that_make_a_box_have_a_command_line(module: str) -> None:
    assert "--runs" in output_of(module, "--help")


def test_no_benchmark_is_left_out() -> None:
    here = Path(__file__).parent
    programs = {path.stem for path in here.glob("*.py") if "__main__" in path.read_text()} - {Path(__file__).stem}
    programs |= {path.parent.name for path in here.glob("*/__main__.py")}
    assert programs == {"audit", "converge", "download", "large_download"}


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
