"""A header with a shortened vocabulary is valid GGUF and otherwise describes the same model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from llamarig.remote.plan.model_headers import read_whole_header
from llamarig.remote.plan.short_vocabulary import prepare
from llamarig.remote.shared.gguf_header import Header

from tests.box.sparse_models import write_sparse
from tests.placement.model_shapes import SHAPES

VOCABULARY_TENSORS = ("token_embd.weight", "output.weight")


def header_of(path: Path) -> Header:
    return read_whole_header(path)[1]


@pytest.mark.parametrize(
    ("name", "shards", "tokens"),
    [("qwen3-coder-next-q6", 1, False), ("qwen3-coder-next-q6", 3, True), ("gpt-oss-120b", 1, False)],
)
def test_only_the_vocabulary_is_shorter(tmp_path: Path, name: str, shards: int, tokens: bool) -> None:
    shape = SHAPES[name]
    files = write_sparse(tmp_path / "real", name, shape, shards=shards, tokens=tokens)
    prepare(tmp_path / "short", 1, 2048, files)
    rows = -(-shape.vocabulary // 2048)
    for file in files:
        real, short = header_of(file), header_of(tmp_path / "short" / file.name)
        assert [tensor.name for tensor in short.tensors] == [tensor.name for tensor in real.tensors]
        for before, after in zip(real.tensors, short.tensors, strict=True):
            if before.name in VOCABULARY_TENSORS:
                assert after.shape == (before.shape[0], rows)
            else:
                assert after == before
        kept = {key: value for key, value in real.metadata.items() if not key.startswith("tokenizer.")}
        kept.pop(f"{shape.architecture}.vocab_size", None)
        assert kept.items() <= short.metadata.items()
    first = header_of(tmp_path / "short" / files[0].name)
    assert first.metadata["tokenizer.ggml.model"] == "none"
    assert first.metadata[f"{shape.architecture}.vocab_size"] == rows


def test_the_copies_have_the_size_of_their_tensors_and_are_sparse(tmp_path: Path) -> None:
    files = write_sparse(tmp_path / "real", "m", SHAPES["qwen3-coder-next-q6"], shards=3)
    prepare(tmp_path / "short", 4, 512, files)
    for file in files:
        copy = tmp_path / "short" / file.name
        assert copy.stat().st_size >= header_of(copy).least_file_size
        assert copy.stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model", b"GGUF\x03\x00\x00\x00" + b"\xff" * 64])
def test_a_file_that_is_not_gguf_is_reported_in_one_line(tmp_path: Path, content: bytes) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(content)
    command = [sys.executable, "-B", "-m", "llamarig.remote.plan.short_vocabulary", str(tmp_path / "short"), "1", "512"]
    done = subprocess.run([*command, str(broken)], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("error: ")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    missing = subprocess.run([*command, "/nowhere"], capture_output=True, text=True, check=True, timeout=60)
    assert missing.stdout == "error: /nowhere: No such file or directory\n"
