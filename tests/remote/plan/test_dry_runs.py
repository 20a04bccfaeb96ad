"""Batches of dry runs, and the sparse headers that they read; scripts stand in for llama-fit-params."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from llamarig.items.dry_run_box import outputs_of
from llamarig.remote.plan.place_headers import place

ECHOES = """
import os, sys
os.write(2, b"graph: splits = 3 / 2\\n")
os.write(1, f"Host {len(sys.argv)} 5 6 \\n".encode())
sys.exit(int(sys.argv[-1]))
"""


def batch(directory: Path, requests: list[list[str]]) -> str:
    program = directory / "program"
    program.write_text(f"#!{sys.executable}\n{ECHOES}")
    program.chmod(0o755)
    command = [sys.executable, "-B", "-m", "llamarig.remote.plan.dry_runs", "30", str(program)]
    done = subprocess.run(command, input=json.dumps(requests), capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_each_dry_run_has_its_own_output_in_the_order_of_the_requests(tmp_path: Path) -> None:
    found = outputs_of(batch(tmp_path, [["0"], ["a", "7"], *[["a", "b", "0"]] * 20]))
    assert list(found) == list(range(22))
    assert found[0].splitlines() == ["graph: splits = 3 / 2", "Host 2 5 6 ", "exit=0"]
    assert found[1].splitlines() == ["graph: splits = 3 / 2", "Host 3 5 6 ", "exit=7"]
    assert {found[number].splitlines()[1] for number in range(2, 22)} == {"Host 4 5 6 "}


def test_output_of_something_else_is_no_dry_run() -> None:
    assert outputs_of("error: /opt/x is not on the box\n") == {}


def packed(data: bytes, size: int) -> tuple[str, int]:
    return base64.b64encode(zlib.compress(data)).decode(), size


def test_a_header_is_a_sparse_file_of_the_models_size(tmp_path: Path) -> None:
    directory = tmp_path / "headers"
    place(directory, {"0.gguf": packed(b"GGUF header", 60 << 30)})
    (file,) = directory.iterdir()
    assert file.stat().st_size == 60 << 30
    assert file.stat().st_blocks < 100
    assert file.open("rb").read(14) == b"GGUF header\0\0\0"


@pytest.mark.parametrize(
    ("name", "header"), [("../x", packed(b"GGUF", 4)), ("x", packed(bytes(65 << 20), 100 << 20))], ids=("name", "bomb")
)
def test_neither_a_path_nor_a_bomb_is_written(name: str, header: tuple[str, int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no file name|has more than"):
        place(tmp_path / "headers", {name: header})
    assert not (tmp_path / "x").exists()
