"""The files of a survey: written where pyinfra reads them, with the names of the owner's groups, and never over one."""

from __future__ import annotations

from pathlib import Path

import pytest
from llamarig.commands.survey_files import Written, owners_groups, taken_names, write_files
from llamarig.survey.destinations import Undeclared
from llamarig.survey.propose import proposal
from pyinfra.api.inventory import Inventory

from tests.survey.hardware import hardware


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def inventory_of(hosts: list[str], **groups: tuple[list[str], dict[str, str]]) -> Inventory:
    return Inventory((hosts, {}), **groups)  # type: ignore[no-untyped-call]  # pyinfra gives it no types


def written(*groups: str, taken: tuple[str, ...] = ()) -> Written:
    found = hardware("rtx3090")
    (one,) = write_files([Undeclared("box.lan", groups, found, proposal(found))], taken)
    return one


def test_the_directory_is_made_and_the_commit_is_that_of_all_py(here: Path) -> None:
    assert written("big").file == "group_data/big.py"
    assert 'd.git_source(commit="' in (here / "group_data/big.py").read_text()
    (here / "group_data/all.py").write_text('llama_cpp_commit = "..."\n')
    written("other")
    assert "from group_data.all import llama_cpp_commit" in (here / "group_data/other.py").read_text()


def test_a_file_that_appears_meanwhile_is_not_written_over(here: Path) -> None:
    (here / "group_data").mkdir()
    (here / "group_data/big.py").write_text("mine")
    problem = written("big").problem
    assert problem == "group_data/big.py cannot be written (File exists): run this where you can write it"
    assert (here / "group_data/big.py").read_text() == "mine"


def test_a_directory_that_is_none_is_one_message(here: Path) -> None:
    (here / "group_data").write_text("")
    assert "group_data/big.py cannot be written (File exists)" in written("big").problem


def test_files_and_groups_with_data_are_taken(here: Path) -> None:
    for place in ("group_data", "inventory/group_data"):
        (here / place).mkdir(parents=True)
    (here / "group_data/one.py").write_text("")
    (here / "inventory/group_data/two.py").write_text("")
    inventory = inventory_of(["box.lan"], three=(["box.lan"], {"ssh_user": "you"}), four=(["box.lan"], {}))
    assert taken_names(inventory, Path("inventory/home.py")) == {"all", "one", "two", "three"}


def test_the_owners_groups_are_those_that_the_inventory_names() -> None:
    inventory = inventory_of(["a", "b"], **{"home": (["a", "b"], {}), "big": (["a"], {}), "@ssh": (["a"], {})})
    a, b = inventory.get_host("a"), inventory.get_host("b")
    assert owners_groups(a, Path("inventory/home.py")) == ("big",)
    assert owners_groups(b, Path("inventory/home.py")) == ("home",), "the file has no other group for it"
