"""LLAMA_ARG_ settings in the files of every shell, found by the real command; their values stay where they are."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tasks.facts.strays import LlamaStrays, settings_in_files

NAME = "LLAMA_ARG_CTX_SIZE"


def found(root: Path) -> tuple[str, ...]:
    said = subprocess.run(["sh", "-c", settings_in_files(str(root))], capture_output=True, text=True)
    assert "512" not in said.stdout, "a value may be a key"
    return LlamaStrays().process(["== environment", *said.stdout.splitlines()]).environment


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("etc/environment", f"{NAME}=512"),
        ("etc/profile.d/mine.sh", f"export PATH=$PATH:/opt {NAME}=512"),
        ("etc/systemd/system/x.service.d/a.conf", f"Environment={NAME}=512"),
        ("etc/zsh/zshenv", f"export {NAME}=512"),
        ("root/.zshrc", f"export {NAME}=512"),
        ("home/me/.zshenv", f'{NAME}="512"'),
        ("home/me/.bash_profile", f"export {NAME}=512"),
        ("root/.config/environment.d/x.conf", f"{NAME}=512"),
        ("etc/fish/config.fish", f"set -gx {NAME} 512"),
        ("etc/fish/conf.d/x.fish", f"    set --global --export {NAME} 512"),
        ("home/me/.config/fish/config.fish", f"if true; set -x {NAME} 512; end"),
        ("home/me/.config/fish/config.fish", f"set -g -x -- {NAME} 512"),
        ("root/.config/fish/fish_variables", f"SETUVAR --export {NAME}:512"),
    ],
)
def test_a_setting_is_found_in(tmp_path: Path, file: str, line: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(f"# something\n{line}\n")
    assert found(tmp_path) == (f"{NAME} in {tmp_path / file}",)


@pytest.mark.parametrize("line", [f"# export {NAME}=512", f"set -e {NAME}", f"echo ${NAME}", f"set -l {NAME} 512"])
def test_what_sets_nothing_is_not(tmp_path: Path, line: str) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/.zshrc").write_text(f"{line}\n")
    assert found(tmp_path) == ()
