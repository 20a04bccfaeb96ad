"""`llamarig init`: the files of a repository of one's own, what it depends on, and what it refuses."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest
from llamarig import cli
from llamarig.commands import packaged_files
from llamarig.commands.command_line import DATA
from llamarig.commands.init import init
from llamarig.commands.installed_from import UnknownOriginError, origin_of
from llamarig.commands.packaged_files import groups, scripts

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def names(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_an_empty_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init([str(tmp_path / "Our boxes")]) == 0
    made = tmp_path / "Our boxes"
    expected = {"pyproject.toml", "README.md", ".gitignore", "config.py", "inventory/home.py", "group_data/all.py"}
    assert names(made) == {*expected, *DATA}
    project = tomllib.loads((made / "pyproject.toml").read_text())["project"]
    assert project["name"] == "our-boxes"
    assert project["dependencies"] == [f"llamarig @ file://{ROOT}"]
    assert (made / "config.py").read_bytes() == (ROOT / "config.py").read_bytes()
    assert "uv sync" in capsys.readouterr().out


@pytest.mark.parametrize("group", groups())
def test_a_repository_with_an_example(group: str, tmp_path: Path) -> None:
    assert init([str(tmp_path), "--example", group]) == 0
    assert (tmp_path / f"group_data/{group}.py").read_bytes() == (ROOT / f"group_data/{group}.py").read_bytes()
    hosts: dict[str, object] = {}
    exec((tmp_path / "inventory/home.py").read_text(), hosts)
    assert hosts[group] == ["your-box.invalid"]


@pytest.mark.parametrize(
    ("options", "group", "hosts"),
    [
        (["--host", "box.lan"], "boxes", ["box.lan"]),
        (
            ["--host", "you@box.lan", "--host", "root@192.168.1.7"],
            "boxes",
            [("box.lan", {"ssh_user": "you", "_sudo": True}), ("192.168.1.7", {"ssh_user": "root"})],
        ),
        (["--example", "rtx4070", "--host", "box.lan"], "rtx4070", ["box.lan"]),
    ],
)
def test_a_repository_with_hosts(options: list[str], group: str, hosts: list[object], tmp_path: Path) -> None:
    assert init([str(tmp_path), *options]) == 0
    listed: dict[str, object] = {}
    exec((tmp_path / "inventory/home.py").read_text(), listed)
    assert listed[group] == hosts


def test_there_are_four_examples_and_a_script_for_each_command() -> None:
    assert groups() == ["rtx4070", "rtx4090_rtx5070ti", "rtx_16gb", "rx7900xt"]
    assert set(scripts()) == set(DATA)


def test_a_wheel_has_every_file_of_a_repository() -> None:
    """A new command, or a new group, has to be added to pyproject.toml."""
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    files = {*scripts(), "config.py", "group_data/all.py", *(f"group_data/{group}.py" for group in groups())}
    assert built["force-include"] == {name: f"llamarig/template/{name}" for name in files}


def test_a_script_runs_the_packaged_one_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert init([str(tmp_path)]) == 0
    included: list[str] = []
    monkeypatch.setattr("runpy.run_path", included.append)
    for name in ("deploy.py", "tasks/audit.py"):
        source = (tmp_path / name).read_text()
        exec(compile(source, name, "exec"), {"__file__": str(tmp_path / name)})
    assert included == [str(ROOT / "deploy.py"), str(ROOT / "tasks/audit.py")]
    assert packaged_files.packaged("tasks/audit.py") == ROOT / "tasks/audit.py"


@pytest.mark.parametrize("there", ["README.md", "x"])
def test_nothing_is_overwritten(there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / there).write_text("mine")
    assert init([str(tmp_path)]) == 1
    assert names(tmp_path) == {there}
    assert capsys.readouterr().err == f"llamarig init: {tmp_path} is not empty ({there}): name a new directory\n"


def test_a_new_git_repository_is_empty(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    assert init([str(tmp_path)]) == 0


def clone(directory: Path) -> Path:
    files = {
        "inventory/home.py": 'rtx3090 = ["box.lan"]',
        "inventory/models.lock.json": "{}",
        "inventory/plans.json": "{}",
        "inventory/bench.jsonl": "",
        "inventory/rehearsal.py": "",
        "group_data/all.py": "llama_cpp_commit = 'x'",
        "group_data/rtx3090.py": "rig = 1",
        "group_data/rehearsal.py": "",
        "group_data/README.md": "",
        "tasks/llamarig/__init__.py": "",
        "tasks/audit.py": "# edited",
        "deploy.py": (ROOT / "deploy.py").read_text(),
    }
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return directory


def test_the_files_of_an_edited_clone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = clone(tmp_path / "clone"), tmp_path / "boxes"
    assert init([str(new), "--from", str(old)]) == 0
    moved = names(new) - set(DATA) - {"pyproject.toml", "README.md", ".gitignore", "config.py"}
    assert moved == {
        *("inventory/home.py", "inventory/models.lock.json", "inventory/plans.json", "inventory/bench.jsonl"),
        *("group_data/all.py", "group_data/rtx3090.py"),
    }
    assert (new / "inventory/home.py").read_bytes() == (old / "inventory/home.py").read_bytes()
    printed = capsys.readouterr().out
    assert "tasks/audit.py of the clone is edited, and was not taken" in printed
    assert "deploy.py of the clone" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--example", "rtx9090"], "--example rtx9090: there is no such group: choose one of rtx4070, "),
        (["--host", 'x"; import os'], "is no host: write its name or address, or USER@HOST"),
        (["--from", "{here}/nothing"], "nothing: is not a clone of llamarig (it has no inventory/): name the clone"),
    ],
)
def test_a_mistake_is_one_message_and_makes_nothing(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init([str(tmp_path / "new"), *(word.format(here=tmp_path) for word in arguments)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert message in line
    assert not (tmp_path / "new").exists()


def test_a_directory_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert init([str(tmp_path / "file/below")]) == 1
    assert "Not a directory" in capsys.readouterr().err


ORIGINS = {
    "a commit": (
        {
            "url": "https://host/o/llamarig",
            "vcs_info": {"vcs": "git", "commit_id": COMMIT, "requested_revision": "main"},
        },
        f"llamarig @ git+https://host/o/llamarig@{COMMIT}",
    ),
    "a commit over ssh": (
        {"url": "ssh://git@host/o/llamarig", "vcs_info": {"vcs": "git", "commit_id": COMMIT}},
        f"llamarig @ git+ssh://git@host/o/llamarig@{COMMIT}",
    ),
    "an archive": (
        {"url": "https://host/llamarig.tar.gz", "archive_info": {"hashes": {"sha256": "ab"}, "hash": "sha256=ab"}},
        "llamarig @ https://host/llamarig.tar.gz#sha256=ab",
    ),
    "an archive without a hash": (
        {"url": "https://host/llamarig.whl", "archive_info": {}},
        "llamarig @ https://host/llamarig.whl",
    ),
    "a directory": ({"url": "file:///srv/llamarig", "dir_info": {}}, "llamarig @ file:///srv/llamarig"),
    "an editable directory": (
        {"url": "file:///srv/llamarig", "dir_info": {"editable": True}},
        "llamarig @ file:///srv/llamarig",
    ),
    "a directory in a repository": (
        {"url": "https://host/o/r", "subdirectory": "sub", "vcs_info": {"vcs": "git", "commit_id": COMMIT}},
        f"llamarig @ git+https://host/o/r@{COMMIT}#subdirectory=sub",
    ),
}


@pytest.mark.parametrize(("direct_url", "requirement"), ORIGINS.values(), ids=ORIGINS.keys())
def test_what_a_repository_depends_on(direct_url: dict[str, object], requirement: str) -> None:
    assert origin_of(direct_url).requirement == requirement


@pytest.mark.parametrize(
    ("direct_url", "message"),
    [
        ({"url": "https://me:secret@host/r", "vcs_info": {"vcs": "git", "commit_id": COMMIT}}, "holds a login"),
        ({"url": "https://host/r?token=secret", "archive_info": {}}, "holds a token"),
        ({"url": "https://host/r", "vcs_info": {"vcs": "git", "commit_id": "main"}}, "without a commit of git"),
        ({"url": "https://host/r", "vcs_info": {"vcs": "hg", "commit_id": COMMIT}}, "without a commit of git"),
    ],
)
def test_an_origin_that_cannot_be_written_down(direct_url: dict[str, object], message: str) -> None:
    with pytest.raises(UnknownOriginError, match=message) as error:
        origin_of(direct_url)
    assert "secret" not in str(error.value)


def test_a_package_of_an_index_is_no_dependency(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class OfAnIndex:
        """As importlib.metadata describes a package that was installed by its name."""

        def read_text(self, name: str) -> None:
            return None

    monkeypatch.setattr("llamarig.commands.installed_from.distribution", lambda name: OfAnIndex())
    monkeypatch.setattr(sys, "argv", ["llamarig", "init", str(tmp_path / "new")])
    assert cli.main() == 1
    assert "a bare name in a list of dependencies could be anybody's package" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
