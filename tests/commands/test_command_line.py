"""Mistakes on the command line that pyinfra ignores are refused before any host is connected to."""

from __future__ import annotations

import ast
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from llamarig.commands.command_line import DATA

from tests.prepared_pyinfra import PYINFRA, run_pyinfra

REPOSITORY = Path(__file__).resolve().parents[2]


class Box:
    """A listening address that detects connections, and an inventory with it."""

    def __init__(self, directory: Path, listening: socket.socket) -> None:
        self.directory, self._listening = directory, listening
        listening.settimeout(0)
        self.host = f'("127.0.0.1", {{"ssh_port": {listening.getsockname()[1]}, "its_own": 1}})'
        self.inventory = directory / "boxes.py"
        self.inventory.write_text(f"boxes = [{self.host}]\n")

    def run(self, *arguments: str, inventory: str = "", cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
        return run_pyinfra("-y", inventory or self.inventory, *arguments, cwd=cwd)

    def refusal(self, *arguments: str, inventory: str = "", cwd: Path = REPOSITORY) -> str:
        """Run a command that has to be refused before any connection; return its last printed line."""
        return self.refused(*arguments, inventory=inventory, cwd=cwd)[-1]

    def refused(self, *arguments: str, inventory: str = "", cwd: Path = REPOSITORY) -> list[str]:
        """Run a command that has to be refused before any connection; return all printed lines."""
        done = self.run(*arguments, inventory=inventory, cwd=cwd)
        output = click.unstyle(done.stdout + done.stderr)
        assert done.returncode == 1, output
        assert "Traceback" not in output
        assert "Connecting" not in output
        with pytest.raises(BlockingIOError):
            self._listening.accept()
        return output.splitlines()

    def accepts(self, *arguments: str) -> None:
        """Assert that the run gets as far as connecting, which fails because the listener is closed."""
        self._listening.close()
        done = self.run(*arguments)
        assert "Connecting to hosts..." in done.stdout + done.stderr, done.stdout + done.stderr


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield Box(tmp_path, listening)


# Inventory (None: boxes.py as the fixture writes it; a path: of a file that is not there), arguments, words of the
# message.
NO_HOSTS: dict[str, tuple[str | Path | None, tuple[str, ...], tuple[str, ...]]] = {
    "brackets forgotten": (
        'rtx4070 = "box.lan"\n',
        (),
        ("boxes.py:1: rtx4070 is a string: write a list", 'rtx4070 = ["box.lan"]'),
    ),
    "brackets of an unknown group": ('\nmine = "box.lan"\n', (), ("boxes.py: no group", "line 2: mine is a string")),
    "an empty list": ("rtx4070 = []\n", (), ("boxes.py: no group of it lists a host", 'rtx4070 = ["box.lan"]')),
    "a dictionary": (
        'rtx4070 = {"box.lan": {}}\n',
        (),
        ("boxes.py:1: rtx4070 is in curly brackets", 'rtx4070 = ["box.lan"]'),
    ),
    "no such file": (
        Path("inventory/hom.py"),
        (),
        ("inventory/hom.py: there is no such inventory file", "did you mean inventory/home.py?"),
    ),
    "a limit that matches nothing": (
        None,
        ("--limit", "boxs"),
        ("boxes.py: --limit boxs leaves no host", "did you mean boxes?", "hosts (127.0.0.1) or groups (boxes)"),
    ),
    "everything excluded": (None, ("--exclude", "127*"), ("boxes.py: --exclude 127* leaves no host",)),
}


def no_host(box: Box, command: str, shape: str, *more: str) -> None:
    inventory, arguments, words = NO_HOSTS[shape]
    if isinstance(inventory, str):
        box.inventory.write_text(inventory)
    name = str(inventory) if isinstance(inventory, Path) else ""
    message = box.refusal(*command.split(), *arguments, *more, inventory=name)
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("shape", NO_HOSTS)
def test_an_audit_of_no_host_fails_and_replaces_its_earlier_files(box: Box, shape: str) -> None:
    report, metrics = box.directory / "report.json", box.directory / "audit.prom"
    report.write_text('{"status": "clean"}')
    metrics.write_text('llamarig_audit_clean{host="box.lan"} 1\n')
    no_host(box, "tasks/audit.py", shape, "--data", f"json={report}", "--data", f"prometheus={metrics}")
    assert json.loads(report.read_text())["status"] == "could-not-look"
    assert not [line for line in metrics.read_text().splitlines() if line.endswith(" 1")]


# The refusal does not depend on the command. Each command has one of the shapes, and each shape at least one command.
@pytest.mark.parametrize(
    ("command", "shape"), list(zip([name for name in DATA if name != "tasks/audit.py"], NO_HOSTS, strict=False))
)
def test_any_other_command_on_no_host_fails(box: Box, command: str, shape: str) -> None:
    no_host(box, command, shape)


@pytest.mark.parametrize("arguments", ["exec -- true", "tasks/audit.py --dry"])
def test_commands_that_change_nothing_fail_too(box: Box, arguments: str) -> None:
    box.inventory.write_text("boxes = []\n")
    assert "no group of it lists a host" in box.refusal(*arguments.split())


def test_a_run_from_another_directory_fails_too(box: Box) -> None:
    message = box.refusal("--chdir", str(REPOSITORY), "deploy.py", inventory="inventory/hom.py", cwd=box.directory)
    assert "did you mean inventory/home.py?" in message


def test_a_repository_of_the_owners_is_checked_as_the_clone_is(box: Box, tmp_path: Path) -> None:
    for name in ("config.py", "deploy.py"):
        shutil.copy(REPOSITORY / name, tmp_path)
    message = box.refusal("deploy.py", "--data", "depp=1", cwd=tmp_path)
    assert "deploy.py takes no --data depp" in message
    assert "did you mean deep?" in message


@pytest.mark.parametrize(
    ("group", "kind"),
    [
        ('"box.lan"', "a string"),
        ('("box.lan", {"ssh_user": "root"})', "a tuple"),
        ('("one.lan", "two.lan", "three.lan")', "a tuple"),
        ('[["box.lan", {"ssh_user": "root"}]]', "a list of something other than names"),
    ],
)
def test_a_box_is_not_lost_beside_another(box: Box, group: str, kind: str) -> None:
    box.inventory.write_text(f'DOMAIN = "lan"\nboxes = [{box.host}]\nrtx4070 = {group}\n')
    message = box.refusal("deploy.py")
    assert f"boxes.py:3: rtx4070 is {kind}" in message
    assert 'rtx4070 = [("box.lan", {"ssh_user": "root"})]' in message


@pytest.mark.parametrize(
    ("command", "name", "meant"),
    [
        ("deploy.py", "depp", "deep"),
        ("tasks/bench.py", "modl", "model"),
        ("tasks/lock.py", "updat", "update"),
        ("tasks/plan.py", "udpate", "update"),
        ("tasks/prune.py", "delte", "delete"),
        ("tasks/rollback.py", "modle", "model"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_nearest(box: Box, command: str, name: str, meant: str) -> None:
    message = box.refusal(command, "--data", f"{name}=s3cret")
    assert f"{command} takes no --data {name}, so nothing was done (did you mean {meant}?)" in message
    assert "s3cret" not in message


def test_a_refused_audit_writes_the_reason_into_its_files(box: Box) -> None:
    report = box.directory / "report.json"
    message = box.refusal("tasks/audit.py", "--data", "lst=1", "--data", f"json={report}")
    assert "tasks/audit.py takes no --data lst, so nothing was done (did you mean list?)" in message
    (host,) = json.loads(report.read_text())["hosts"]
    assert host["host"] == "127.0.0.1"
    assert host["status"] == "could-not-look"
    assert host["why"].startswith("this run was refused: tasks/audit.py takes no --data lst")


def test_a_misspelt_name_of_pyinfras_own_is_refused(box: Box) -> None:
    output = box.refused("deploy.py", "--data", "ssh_usr=root", "--data", "sudo=1")
    assert "deploy.py takes no --data ssh_usr, so nothing was done (did you mean ssh_user?)" in output[-2]
    assert "deploy.py takes no --data sudo, so nothing was done (did you mean _sudo?)" in output[-1]


def test_a_name_of_other_commands_names_them(box: Box) -> None:
    message = box.refusal("deploy.py", "--data", "update=all")
    assert "deploy.py takes no --data update, so nothing was done: tasks/lock.py and tasks/plan.py do" in message


def test_a_name_without_a_value_is_refused_without_a_traceback(box: Box) -> None:
    assert box.refusal("deploy.py", "--data", "deep") == "--data deep has no value: write --data deep=VALUE"


def test_names_that_are_declared_or_pyinfras_own_are_accepted(box: Box) -> None:
    declared = box.directory / "group_data"
    declared.mkdir()
    (declared / "boxes.py").write_text("of_the_group = 1\n")
    (declared / "all.py").write_text("of_all = 1\n")
    names = ("of_the_group", "of_all", "its_own", "llama_cpp_commit", "ssh_connect_retries", "_retries", "deep", "json")
    box.accepts("deploy.py", "tasks/audit.py", *(word for name in names for word in ("--data", f"{name}=0")))


@pytest.mark.parametrize(
    "arguments", ["exec --data any=1 -- true", "server.shell commands=true --data any=1", "own.py --data a=1"]
)
def test_other_scripts_may_read_names_of_their_own(box: Box, arguments: str) -> None:
    own = box.directory / "own.py"
    own.write_text("")
    box.accepts(*arguments.replace("own.py", str(own)).split())


def test_a_box_in_two_groups_with_a_rig_is_refused(box: Box) -> None:
    box.inventory.write_text(f"rtx4070 = [{box.host}]\nrx7900xt = [{box.host}]\nupstairs = [{box.host}]\n")
    message = box.refusal("deploy.py")
    assert (
        "boxes.py: 127.0.0.1 is in 2 groups that each declare a rig, rtx4070 and rx7900xt: list it under one" in message
    )
    shown = box.run("debug-inventory")
    assert shown.returncode == 0
    assert "rx7900xt" in shown.stdout + shown.stderr


def test_a_box_in_two_groups_with_a_rig_of_its_own_is_accepted(box: Box) -> None:
    own = box.host.replace('"its_own"', '"rig"')
    box.inventory.write_text(
        f'rtx4070 = [{own}, "other.invalid"]\nrx7900xt = [{own}, "other.invalid"]\nupstairs = [{own}]\n'
    )
    box.accepts("deploy.py", "--limit", "upstairs")


def test_debug_inventory_shows_any_inventory(box: Box) -> None:
    box.inventory.write_text('rtx4070 = "box.lan"\n')
    assert box.run("debug-inventory").returncode == 0


# --- mistakes in Python, keys and questions ---------------------------------------------------------------------------


PYTHON_MISTAKES = {
    "a comma forgotten": (
        "rig = [\n    1\n    2\n]\n",
        ("group_data/boxes.py:2: no valid Python: invalid syntax. Perhaps you forgot a comma?",),
    ),
    "a bracket left open": ("rig = d.rig(\n", ("group_data/boxes.py:1: no valid Python: '(' was never closed",)),
    "a name that is not there": (
        "\nrig = dd.rig()\n",
        ("group_data/boxes.py:2: NameError: name 'dd' is not defined in `rig = dd.rig()`",),
    ),
    "a declaration that does not exist": (
        "from llamarig import declare as d\nrig = d.rigg()\n",
        ("boxes.py:2: d.rigg: there is no such declaration (did you mean rig?): write one of rig, build,",),
    ),
}


@pytest.mark.parametrize(("text", "words"), PYTHON_MISTAKES.values(), ids=PYTHON_MISTAKES.keys())
def test_a_mistake_in_python_is_one_message(box: Box, text: str, words: tuple[str, ...]) -> None:
    (box.directory / "group_data").mkdir()
    (box.directory / "group_data/boxes.py").write_text(text.replace("\\n", "\n"))
    message = box.refusal("deploy.py")
    for word in words:
        assert word in message, message


def test_an_inventory_that_is_no_python_is_one_message(box: Box) -> None:
    box.inventory.write_text("boxes = [\n")
    assert "boxes.py:1: no valid Python: '[' was never closed in `boxes = [`" in box.refusal("deploy.py")


KEYS = {
    "missing": ("", "is not there: name an existing private key"),
    "no key at all": ("hello", "is no private key that can be read: name the private key, not the .pub beside it"),
    "with a passphrase": (None, "is encrypted, and there is no terminal to enter its passphrase at: run ssh-agent"),
}


@pytest.mark.parametrize(("content", "words"), KEYS.values(), ids=KEYS.keys())
def test_a_key_that_cannot_be_used_is_one_message(box: Box, content: str | None, words: str) -> None:
    key = box.directory / "id"
    if content is None:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "sesame", "-f", str(key)], check=True)
    elif content:
        key.write_text(content)
    box.inventory.write_text(box.inventory.read_text().replace('"its_own": 1', f'"ssh_key": "{key}"'))
    assert f"127.0.0.1: ssh_key {key} {words}" in box.refusal("deploy.py")


def test_a_question_without_a_terminal_is_one_message(box: Box) -> None:
    done = run_pyinfra(box.inventory, "deploy.py", cwd=REPOSITORY)
    assert done.returncode == 1
    assert "there is no terminal to answer at, so nothing was done: add -y, or --dry" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


# --- what config.py imports -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "imported"), [("deploy.py", False), ("tasks/audit.py", True)])
def test_only_an_audit_imports_its_report_before_the_inventory_is_read(box: Box, command: str, imported: bool) -> None:
    """The report brings all checks and items with it, which no other command needs to read its command line."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", PYINFRA, "-y", str(box.inventory), command, "--limit", "boxs"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "llamarig.commands.command_line" in modules
    heavy = {"llamarig.checks.registry", "llamarig.items.all_items"}
    assert heavy & modules == (heavy if imported else set())


# --- the table of names -----------------------------------------------------------------------------------------------


def test_every_command_is_in_the_table() -> None:
    commands = ["deploy.py"]
    for path in sorted((REPOSITORY / "tasks").glob("*.py")):
        if f"pyinfra -y inventory/home.py tasks/{path.name}" in (ast.get_docstring(ast.parse(path.read_text())) or ""):
            commands.append(f"tasks/{path.name}")
    assert sorted(DATA) == commands


@pytest.mark.parametrize("command", DATA)
def test_the_table_has_the_names_that_a_command_reads(command: str) -> None:
    source = (REPOSITORY / command).read_text()
    modules = re.findall(r"^from llamarig\.commands(?:\.(\w+))? import (\w+)", source, re.MULTILINE)
    package = REPOSITORY / "tasks/llamarig"
    sources = [source, *((package / f"commands/{module or name}.py").read_text() for module, name in modules)]
    read = {name for text in sources for name in _names_read(text)}
    if any("here.deep" in text for text in sources):
        read.add("deep")  # read in engine/comparison_inputs.py
    assert read == set(DATA[command])


def _names_read(source: str) -> Iterator[str]:
    """Of ``host.data.get("deep")``, and of ``_names("only")`` where the function reads the name that it is given."""
    tree = ast.parse(source)
    readers = {"host.data.get"}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.FunctionDef)
            and node.args.args
            and f"host.data.get({node.args.args[0].arg}" in ast.unparse(node)
        ):
            readers.add(node.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in readers and isinstance(node.args[0], ast.Constant):
            yield str(node.args[0].value)
