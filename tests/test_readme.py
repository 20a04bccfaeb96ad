"""The commands of the READMEs work as printed, and what they say of the tree is true."""

from __future__ import annotations

import re
import shlex
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from llamarig import declare
from llamarig.commands.command_line import DATA

from tests.box.deployment import REPOSITORY_ROOT, Deployment
from tests.readme_commands import (
    ADOPT,
    BENCH,
    CHECK,
    CLIENT,
    COMMANDS,
    DESTROY,
    DOCUMENTS,
    HOME,
    INSTALL,
    REHEARSAL,
    ROLLBACK,
    blocks,
)

WORDS = 1300
"""Longest first page; the other READMEs have the rest."""


def test_every_command_of_the_readme_is_run_by_a_test() -> None:
    on_the_box = [command for command in COMMANDS if command.startswith("install -d")]
    run_by_tests = [CHECK, DESTROY, *ROLLBACK, *BENCH, *ADOPT, *HOME, *REHEARSAL, *CLIENT, *INSTALL, *on_the_box]
    assert sorted(COMMANDS) == sorted(run_by_tests)


def test_the_first_page_is_short() -> None:
    assert len(DOCUMENTS["README.md"].split()) <= WORDS


def test_installation_comes_first_in_your_own_boxes() -> None:
    section = DOCUMENTS["README.md"].partition("## Your own boxes")[2]
    assert blocks(section, "sh")[0] == f"{INSTALL[0]}\n"
    assert INSTALL[0].startswith("uv run llamarig init ")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", DOCUMENTS[document]):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (REPOSITORY_ROOT / document).parent / path if path else REPOSITORY_ROOT / document
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file.read_text()), target


def anchors(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_anchors_are_made_as_github_makes_them() -> None:
    text = "# What a deploy warns of\n## tasks/audit.py\n```sh\n# no heading\n```\n### git_source\n"
    assert anchors(text) == {"what-a-deploy-warns-of", "tasksauditpy", "git_source"}


def kinds_of_faults() -> dict[str, list[str]]:
    """Kind -> the files that the table names for it, from tests/ on."""
    table = DOCUMENTS["tests/README.md"].partition("## Kinds of faults")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", table, re.MULTILINE)
    return {kind: re.findall(r"`([\w/.-]+\.(?:py|md))`", where) for kind, where in rows if kind != "kind"}


@pytest.mark.parametrize("kind", kinds_of_faults())
def test_a_kind_of_fault_is_tested_where_the_table_names_it(kind: str) -> None:
    tests = REPOSITORY_ROOT / "tests"
    files = kinds_of_faults()[kind]
    assert [name for name in files if not (tests / name).is_file()] == []
    assert any("def test_" in (tests / name).read_text() for name in files)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_is_named_as_a_program_of_the_tree_is_there(document: str) -> None:
    text = DOCUMENTS[document]
    modules = set(re.findall(r"python3? -m (tests[\w.]*)", text))
    assert [name for name in sorted(modules) if find_spec(name) is None] == []
    targets = re.findall(r"^([\w-]+):", (REPOSITORY_ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make ([\w-]+)", text)) <= set(targets)
    files = re.findall(r"`((?:tasks|tests|group_data|inventory)/[\w./-]+\.(?:py|md|json))`", text)
    made = {"inventory/models.lock.json", "inventory/plans.json", "group_data/rtx3090.py", "group_data/GROUP.py"}
    assert [name for name in files if name not in made and not (REPOSITORY_ROOT / name).is_file()] == []


@pytest.mark.parametrize("command", DATA)
def test_every_option_of_a_command_is_described_with_it(command: str) -> None:
    (section,) = re.findall(
        rf"^## {re.escape(command)}\n(.*?)(?=^## )", DOCUMENTS["tasks/README.md"], re.MULTILINE | re.DOTALL
    )
    assert sorted(re.findall(r"^\| `--data (\w+)=", section, re.MULTILINE)) == sorted(DATA[command])


def test_the_declarations_that_are_shown_are_valid() -> None:
    """Whole blocks, and short ones within a line; an ellipsis stands for what is left out."""
    shown = [text for document in DOCUMENTS.values() for text in (*blocks(document, "python"), *inline(document))]
    names = {"d": declare, "llama_cpp_commit": "0" * 40}
    declared = [text for text in shown if re.search(r"\bd\.\w+\(", text)]
    assert len(declared) > 10
    for text in declared:
        exec(compile(text, "README", "exec"), dict(names))


def inline(document: str) -> list[str]:
    """Code of a constructor within a line: ``host=d.host_policy(...)`` is one of an argument's."""
    found = (re.sub(r"^\w+=(?=d\.)", "", code) for code in re.findall(r"`((?:\w+=)?d\.\w+\([^`\n]*\))`", document))
    return [code for code in found if "..." not in code]


def test_ci_runs_the_first_two_commands_of_the_readme_in_their_order() -> None:
    lines = (REPOSITORY_ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if line.startswith("python3 ")] == COMMANDS[:2] == [REHEARSAL[0], CHECK]
    assert "set -euo pipefail" in lines


@pytest.mark.box
@pytest.mark.parametrize("command", REHEARSAL)
def test_a_rehearsal_command_succeeds(command: str, deployment: Deployment) -> None:
    run(shlex.split(command), deployment)


@pytest.mark.box
@pytest.mark.parametrize("command", HOME)
def test_a_command_for_the_users_boxes_succeeds(command: str, deployment: Deployment) -> None:
    deployment.command("deploy.py")  # writes the inventory
    inventory = str(deployment.directory / "inventory.py")
    command = command.replace("unsloth/Qwen3-30B-A3B-GGUF", deployment.rig["models"][0]["repo"])
    words = shlex.split(command.replace("model=NAME", "model=tiny"))
    run([word.replace("inventory/home.py", inventory) for word in words], deployment)


@pytest.mark.box
def test_the_api_key_command_writes_a_key_that_only_root_can_read(deployment: Deployment) -> None:
    command = next(command for command in COMMANDS if command.startswith("install -d"))
    deployment.shell(f"apt-get install -y -qq openssl >/dev/null; {command}", timeout=120)
    assert deployment.shell("stat -c '%a %U' /etc/llamarig/keys/api") == "600 root"
    assert len(deployment.shell("cat /etc/llamarig/keys/api")) == 64
    deployment.shell("rm -r /etc/llamarig")


def test_the_api_key_command_without_openssl_leaves_no_file(tmp_path: Path) -> None:
    """An empty file would be a key file without a key."""
    command = next(command for command in COMMANDS if command.startswith("install -d"))
    (tmp_path / "bin").mkdir()
    for program in ("install", "sh"):
        (tmp_path / "bin" / program).symlink_to(f"/usr/bin/{program}")
    done = subprocess.run(
        [f"{tmp_path}/bin/sh", "-c", command.replace("/etc/llamarig", str(tmp_path / "etc"))],
        env={"PATH": f"{tmp_path}/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "openssl" in done.stderr
    assert list((tmp_path / "etc/keys").iterdir()) == []


def test_the_api_key_command_on_a_full_disk_leaves_no_empty_key_file(tmp_path: Path) -> None:
    """/dev/full refuses every write as a full disk does."""
    command = next(command for command in COMMANDS if command.startswith("install -d"))
    keys = tmp_path / "etc/keys"
    keys.mkdir(parents=True)
    (keys / "new").symlink_to("/dev/full")
    done = subprocess.run(["sh", "-c", command.replace("/etc/llamarig", str(tmp_path / "etc"))], capture_output=True)
    assert done.returncode != 0
    assert not (keys / "api").exists()


@pytest.mark.box
@pytest.mark.parametrize("command", CLIENT)
def test_a_client_command_gets_an_answer(command: str, deployment: Deployment) -> None:
    local = command.replace("http://box.lan:8080", deployment.address)
    done = subprocess.run(
        ["sh", "-c", local],
        env={"PATH": "/usr/bin:/bin", "KEY": "any", "NO_PROXY": "*"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert '"role":"assistant"' in done.stdout, done.stdout + done.stderr


def test_the_destroy_command_without_a_box_prints_no_traceback(tmp_path: Path) -> None:
    """tests/box/test_machine.py destroys a real box."""
    done = subprocess.run(
        shlex.split(DESTROY),
        cwd=REPOSITORY_ROOT,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LLAMARIG_REHEARSAL_DIR": str(tmp_path / "none")},
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr, done.stderr


def run(words: list[str], deployment: Deployment) -> None:
    done = subprocess.run(
        words, cwd=REPOSITORY_ROOT, env=dict(deployment.environment()), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
