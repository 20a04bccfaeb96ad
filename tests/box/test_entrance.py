"""From an empty directory to a declaration that deploys, with no line of Python written by hand.

The directory is made by `llamarig init`, the box is listed by its name, under which SSH's own configuration knows it,
and the survey writes what it is. nvidia-smi is a stand-in: it answers as two H200s did.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from tests.box import sudo_login
from tests.box.deployment import Deployment
from tests.box.rehearse import chat
from tests.prepared_pyinfra import run_pyinfra

pytestmark = pytest.mark.box

NAME = "entrance"
"""The box's name in ~/.ssh/config."""
PORT = 18
"""Of the model, after the box's own port."""
STAND_IN = Path(__file__).with_name("nvidia_smi_stand_in.py")
PROGRAM = "/usr/local/bin/nvidia-smi"
SURVEY = ("-y", "inventory/home.py", "tasks/survey.py")
_SSH = """\
Host {name}
    HostName {address}
    Port {port}
    IdentityFile {key}
    UserKnownHostsFile {known_hosts}
    User root
"""
# What a survey may not change: files that a deploy writes, packages, users, and what systemd runs.
STATE = (
    "find /etc /opt/llamarig /var/lib/llamarig /usr/local -xdev -type f -newermt '@{since}' "
    "! -path '/etc/sudoers.d/*' ! -path '/etc/group*' ! -path '/etc/passwd*' | sort; "
    "dpkg -l | md5sum; systemctl list-units --no-legend --plain 'llamarig*' | md5sum"
)


@dataclass(frozen=True)
class Repository:
    """The owner's own, and his home with SSH's configuration."""

    directory: Path
    home: Path

    def run(self, *arguments: str) -> tuple[int, list[str]]:
        """Exit status of pyinfra, and what it printed."""
        environment = {**os.environ, "HOME": str(self.home)}
        done = run_pyinfra(*arguments, cwd=self.directory, env=environment, timeout=600)
        return done.returncode, click.unstyle(done.stdout + done.stderr).splitlines()

    def block(self, *arguments: str) -> list[str]:
        """The closing block about the box, its headline first; the run has to succeed."""
        code, lines = self.run(*arguments)
        assert code == 0, "\n".join(lines)
        first = next(number for number, line in enumerate(lines) if line.strip().startswith(f"{NAME}: "))
        return [line.strip() for line in lines[first:]]


@pytest.fixture
def repository(deployment: Deployment, tmp_path: Path) -> Repository:
    """Made by `llamarig init DIR --host entrance`, and nothing of it is edited."""
    box, home = deployment.box, tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    port, address = box.login["ssh_port"], box.login["ssh_hostname"]
    text = _SSH.format(name=NAME, address=address, port=port, key=box.key, known_hosts=box.known_hosts)
    (home / ".ssh/config").write_text(text)
    program = str(Path(sys.executable).with_name("llamarig"))
    made = subprocess.run([program, "init", "boxes", "--host", NAME], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert "tasks/survey.py" in made.stdout
    return Repository(tmp_path / "boxes", home)


@pytest.fixture
def cards(deployment: Deployment) -> Iterator[None]:
    """Two H200 in the box."""
    deployment.write(PROGRAM, STAND_IN.read_text())
    deployment.shell(f"chmod 755 {PROGRAM}")
    yield
    deployment.shell(f"rm -f {PROGRAM} /run/cards.json")


@pytest.mark.usefixtures("cards")
def test_a_box_with_cards_is_surveyed_and_its_declaration_would_deploy(
    repository: Repository, deployment: Deployment
) -> None:
    code, refused = repository.run("inventory/home.py", "deploy.py", "--dry")
    assert code != 0
    assert f"{NAME} is in no group that declares a rig" in "\n".join(refused)
    since = deployment.shell("date +%s")
    before = deployment.shell(STATE.format(since=since))

    headline, machine, *more = repository.block(*SURVEY)
    assert headline == f"{NAME}: 2 x H200 (140 GB): wrote group_data/boxes.py"
    assert machine.startswith("CUDA 13.5, driver 580.159.04; ")
    assert "next: read that file, then deploy.py --dry" in more
    text = (repository.directory / "group_data/boxes.py").read_text()
    assert 'architectures=("90-real",),  # H200' in text
    assert 'd.gpu_card(name="H200", uuid="GPU-4cca22c5-5bea-e393-bf5c-75204854eb28")' in text
    assert deployment.shell(STATE.format(since=since)) == before, "a survey changes nothing on the box"

    code, lines = repository.run("inventory/home.py", "deploy.py", "--dry")
    assert code == 0, "\n".join(lines)
    assert any(line.strip().startswith(f"{NAME}: a deploy would change it:") for line in lines), "\n".join(lines)

    again, *_ = repository.block(*SURVEY)
    assert again == f"{NAME}: 2 x H200 (140 GB): as group_data/boxes.py declares it"
    assert (repository.directory / "group_data/boxes.py").read_text() == text


@pytest.mark.usefixtures("cards")
def test_another_card_is_named_and_the_file_stays(repository: Repository, deployment: Deployment) -> None:
    repository.block(*SURVEY)
    text = (repository.directory / "group_data/boxes.py").read_text()
    deployment.write("/run/cards-drift.json", '{"1": null}')
    try:
        headline, *more = repository.block(*SURVEY)
    finally:
        deployment.shell("rm /run/cards-drift.json")
    assert headline == f"{NAME}: H200 (140 GB): one difference from group_data/boxes.py, which stays as it is"
    assert "GPU-4cca22c5-5bea-e393-bf5c-75204854eb28" in more[0]
    assert (repository.directory / "group_data/boxes.py").read_text() == text


def test_a_box_without_cards_is_surveyed_by_any_user(repository: Repository, deployment: Deployment) -> None:
    sudo_login.allow(deployment)
    config = repository.home / ".ssh/config"
    config.write_text(config.read_text().replace("User root", "User owner"))
    headline, machine, *_ = repository.block(*SURVEY)
    assert headline == f"{NAME}: no graphics card: wrote group_data/boxes.py"
    assert machine.startswith("the processor alone; ")
    text = (repository.directory / "group_data/boxes.py").read_text()
    assert 'backend="cpu"' in text
    config.write_text(config.read_text().replace("User owner", "User root"))
    code, lines = repository.run("inventory/home.py", "deploy.py", "--dry")
    assert code == 0, "\n".join(lines)


@pytest.fixture
def stand_ins(repository: Repository, deployment: Deployment) -> Iterator[Callable[[], None]]:
    """Puts what stands in for GitHub and for the Hub into the file that the survey has written.

    Afterwards the box is the rehearsal's again.
    """
    source, hub = deployment.rig["builds"][0]["source"], deployment.rig["hub"]
    file = repository.directory / "group_data/boxes.py"

    def put() -> None:
        text = file.read_text()
        for old, new in (
            ("d.git_source(commit=llama_cpp_commit)", repr(source)),
            # A container may not set the swappiness of its host.
            ("rig = d.rig(\n", f"rig = d.rig(\n    hub={hub!r},\n    host=d.host_policy(swappiness=None),\n"),
        ):
            assert old in text
            text = text.replace(old, new)
        file.write_text(text)

    yield put
    unit = "llamarig-tiny-qwen3-next.service"
    deployment.shell(f"systemctl disable -q --now {unit}; rm -f /etc/systemd/system/{unit}; systemctl daemon-reload")
    outcome = deployment.run()
    assert outcome.code == 0, str(outcome)
    assert chat(deployment.address, "As before?")


def test_from_an_empty_directory_to_a_model_that_serves(
    repository: Repository, stand_ins: Callable[[], None], deployment: Deployment
) -> None:
    """Nothing is typed but commands, and the line that `choose` prints is pasted where the survey has left room."""
    repository.block(*SURVEY)
    stand_ins()
    chosen = repository.block(
        "-y", "inventory/home.py", "tasks/choose.py", "--data", "repo=llamarig/Tiny-Qwen3-Next-GGUF"
    )
    assert chosen[0].startswith(f"{NAME}: llamarig/Tiny-Qwen3-Next-GGUF: F16 with a context of "), "\n".join(chosen)
    line = next(line for line in chosen if line.startswith("d.model("))
    # Boxes of tests share the ports of this machine.
    port = deployment.box.port + PORT
    line = line.replace("port=8080", f"port={port}")
    file = repository.directory / "group_data/boxes.py"
    file.write_text(file.read_text().replace("    models=[\n", f"    models=[\n        {line}\n"))

    code, lines = repository.run("-y", "inventory/home.py", "deploy.py")
    assert code == 0, "\n".join(lines)
    assert chat(f"http://127.0.0.1:{port}", "Are you there?")
    shown = repository.block("-y", "inventory/home.py", "tasks/status.py")
    assert any(line.startswith("tiny-qwen3-next") and "  answers, " in line for line in shown), "\n".join(shown)
    assert repository.block("inventory/home.py", "deploy.py", "--dry")[0] == f"{NAME}: as declared"


@pytest.fixture
def without_models(variant: Deployment, deployment: Deployment) -> Iterator[Deployment]:
    """The rehearsal's rig as a survey writes one: with a build, and no model yet."""
    variant.rig["models"] = []
    yield variant
    assert deployment.run().code == 0


def test_a_rig_without_models_builds_llama_cpp_and_is_then_as_declared(without_models: Deployment) -> None:
    dry = without_models.run("--dry")
    assert dry.code == 0, str(dry)
    assert "tiny: stopped, no longer declared" in click.unstyle(dry.output)
    outcome = without_models.run()
    assert outcome.code == 0, str(outcome)
    assert without_models.shell("systemctl is-active llamarig-tiny; true") == "inactive"
    again = without_models.run()
    assert (again.code, again.changed) == (0, []), str(again)
    for script, words in {
        "tasks/audit.py": "as declared",
        "tasks/status.py": "no model is declared",
        "tasks/plan.py": "",
        "tasks/bench.py": "this box declares no model, so there is none to time",
        "tasks/switch.py": "which model? write --data model=NAME; this box has none",
        "tasks/lock.py": "no model is declared",
        "tasks/prune.py": "",
        "tasks/rollback.py": "",
        "tasks/survey.py": "no graphics card: as the inventory declares it",
    }.items():
        ended = without_models.run(script=script)
        assert "Traceback" not in ended.output, f"{script}: {ended}"
        assert words in click.unstyle(ended.output), f"{script}: {ended}"
