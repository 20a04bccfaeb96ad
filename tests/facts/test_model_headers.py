"""Headers of model files."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from llamarig.facts.model_headers import FileHeaders, ModelHeaders
from llamarig.remote.shared.gguf_header import Header, Tensor
from llamarig.render import layout

from tests.box.fetch_run import REPOSITORY_ROOT
from tests.systemd_run_stand_in import search_path


def test_headers_and_lines_without_one() -> None:
    own = {"metadata": {"general.alignment": 32}, "length": 96, "sha256": "0" * 64}
    line = json.dumps({"path": "/m.gguf", "tensors": [["t", [2, 3], "F32", 24]], **own})
    wrong = json.dumps({"path": "/x.gguf", "error": "does not begin with GGUF"})
    expected = Header((Tensor("t", (2, 3), "F32", 24),), {"general.alignment": 32}, 96, "0" * 64)
    found = ModelHeaders().process(["noise", line, wrong])
    assert found == FileHeaders({"/m.gguf": expected}, {"/x.gguf": "does not begin with GGUF"}, "noise")
    assert found.of(["/m.gguf"]) == [expected]
    assert found.problem(["/m.gguf"]) == ""
    assert found.of(["/m.gguf", "/x.gguf"]) is None
    assert found.problem(["/m.gguf", "/x.gguf"]) == "/x.gguf: does not begin with GGUF"
    assert found.problem(["/y.gguf"]) == "/y.gguf: its header was not read (noise)"
    assert FileHeaders().problem(["/y.gguf"]) == "/y.gguf: its header was not read"


def test_a_bad_field_is_named_with_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "PROGRAMS", str(REPOSITORY_ROOT / "tasks"))
    monkeypatch.setattr(layout, "PYTHON", sys.executable)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", search_path(tmp_path / "bin"))
    bad, pipe = tmp_path / "m.gguf", tmp_path / "pipe.gguf"
    bad.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q17sII", 17, b"general.alignment", 4, 3))
    os.mkfifo(pipe)
    paths = [str(bad), str(pipe)]
    command = ["sh", "-c", ModelHeaders().command(paths)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    found = ModelHeaders().process(output.splitlines())
    assert found.headers == {}
    assert found.problem(paths) == f"{bad}: general.alignment is 3, not a power of two from 1 to 65536"
    assert found.problem([str(pipe)]) == f"{pipe}: is no regular file"
