"""The tiny model: three complete shards, the same bytes every time. Loading it is tested on the box."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from tests.box.tiny_model import only_printable, vocabulary, write_shards


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_shards(tmp_path_factory.mktemp("model"), "tiny-F16", seed=7, experts=2)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_bytes(shards: list[Path], tmp_path: Path) -> None:
    again = write_shards(tmp_path, "tiny-F16", seed=7, experts=2)
    assert [path.name for path in again] == [f"tiny-F16-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert [sha256(path) for path in again] == [sha256(path) for path in shards]
    other = write_shards(tmp_path, "other", seed=8, experts=2)
    assert not {sha256(path) for path in other} & {sha256(path) for path in shards}


def test_the_three_shards_are_complete(shards: list[Path]) -> None:
    names: list[str] = []
    for number, shard in enumerate(shards):
        reader = GGUFReader(shard)
        split = {key: reader.fields[f"split.{key}"].contents() for key in ("no", "count", "tensors.count")}
        assert (split["no"], split["count"]) == (number, 3)
        assert reader.tensors
        names += [tensor.name for tensor in reader.tensors]
        if number == 0:
            assert reader.fields["general.architecture"].contents() == "qwen3next"
            assert reader.fields["qwen3next.context_length"].contents() >= 8192
            total = split["tensors.count"]
    assert len(names) == len(set(names)) == total


@pytest.mark.parametrize("wrong", [{"layers": 3}, {"experts": 1}])
def test_shapes_that_llama_cpp_cannot_load_are_refused(wrong: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least"):
        write_shards(tmp_path, "wrong", seed=1, **wrong)


def test_only_printable_tokens_have_positive_logits() -> None:
    words = vocabulary()
    printable = words.printable()
    head = np.ones((len(words.tokens), 4), dtype=np.float16)
    only_printable(head, printable)
    logits = head @ np.ones(4, dtype=np.float16)
    assert (logits > 0).sum() > 40, "llama-server's default top-k must not reach a token that is not printable"
    assert set(np.flatnonzero(logits)) == set(printable)
    assert words.tokens.index("<|im_end|>") not in printable
