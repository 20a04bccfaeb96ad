"""The quants of a repository on the stand-in Hub: which there are, what their headers cost, and what a cache spares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from llamarig import declare as d
from llamarig.declare.model import Model
from llamarig.engine.hub_headers import fetch_headers
from llamarig.engine.hub_quants import HubRepositories, Repository
from llamarig.engine.hub_token import HubError
from llamarig.placement.model_layers import layer_weights
from llamarig.records.hub_quants import model_name, quants_of
from llamarig.records.model_lock import LockedFile
from llamarig.remote.shared.gguf_header import combined_header, read_header

from tests.box.hub import Hub
from tests.box.hub_faults import Fault
from tests.box.sparse_models import write_sparse
from tests.engine.test_hub_headers import first_keys
from tests.placement.model_shapes import QWEN3_30B_A3B

TOKEN = "hf_fortests"
REPO, GATED = "acme/Qwen3-30B-A3B-GGUF", "acme/gated-GGUF"
COMMIT = "c" * 40


def model(repo: str = REPO) -> Model:
    return d.model(name="m", repo=repo, quant="any", build="cpu", serve=d.serve(port=8080, context=32768))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("sparse")
    written = {
        quant: write_sparse(
            directory, f"m-{quant}", replace(QWEN3_30B_A3B, quant=quant), shards=shards, tokens=quant != "Q5_K"
        )
        for quant, shards in (("Q4_K_M", 1), ("Q5_K", 1), ("Q8_0", 3))
    }
    found = {f"{quant}/{file.name}": file for quant, each in written.items() for file in each}
    projector = first_keys(directory / "projector.gguf", "clip")
    return {**found, "mmproj-F16.gguf": projector, "vision-F16.gguf": projector}


@pytest.fixture
def served(files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with Hub(tmp_path) as hub:
        hub.add_sparse_repo(REPO, files)
        hub.add_sparse_repo(GATED, files, gated_token=TOKEN)
        yield hub


def read(hub: Hub, repo: str = REPO, token: str | None = None, only: tuple[str, ...] = ()) -> Repository:
    return HubRepositories().read(model(repo), hub.endpoint, token, only)


def bodies(hub: Hub) -> list[dict[str, object]]:
    return [entry for entry in hub.log.as_json() if entry["origin"] == "cdn"]


def test_headers_cost_a_few_megabytes_once(served: Hub, files: dict[str, Path]) -> None:
    first = read(served)
    usable = [header for header in first.headers if not header.problem]
    assert [header.quant.label for header in usable] == ["Q8_0", "Q5_K", "Q4_K_M"]
    assert [len(header.quant.locked.shards) for header in usable] == [3, 1, 1]
    assert first.quants.left_out == ("mmproj-F16.gguf: vision projector",)
    (projector,) = [header for header in first.headers if header.problem]
    assert projector.problem == "is no model but a file that is loaded with one, by its header: vision projector"
    assert all(entry["status"] == 206 for entry in bodies(served))
    assert 0 < first.fetched < 20 << 20 < sum(header.quant.size for header in usable)

    served.log.clear()
    again = read(served)
    assert [header.data for header in again.headers] == [header.data for header in first.headers]
    # Only what is no model is asked for again.
    assert again.fetched == projector.fetched
    assert {str(entry["path"]).rpartition("/")[2] for entry in bodies(served)} == {"vision-F16.gguf"}


def test_a_header_without_words_has_the_same_tensors(served: Hub) -> None:
    """Of all shards, in one file. What dry runs make of it is tested in tests/box/test_choose.py."""
    for header in read(served).headers:
        if not header.problem:
            whole = combined_header(fetch_headers(model(), header.quant.locked, served.endpoint, None).headers)
            assert layer_weights(header.header) == layer_weights(whole)
            kept = {key: value for key, value in whole.metadata.items() if not key.startswith(("tokenizer.", "split."))}
            assert kept.items() <= header.header.metadata.items()
            data, size = header.shortened(1, 512)
            short = read_header(data, size)
            assert short.tensors[0].shape == (2048, -(-151936 // 512))
            assert len(header.data) < 200_000


def test_a_damaged_cache_is_fetched_again(served: Hub, tmp_path: Path) -> None:
    first = read(served, only=("Q4_K_M",))
    (cached,) = (tmp_path / "cache/llamarig/hub-headers").glob("*.gguf")
    cached.write_bytes(cached.read_bytes()[:-5] + b"wrong")
    again = read(served, only=("Q4_K_M",))
    assert again.fetched == first.fetched
    assert again.headers[0].data == first.headers[0].data


def test_another_commit_is_another_header(served: Hub, files: dict[str, Path]) -> None:
    read(served, only=("Q4_K_M",))
    served.add_sparse_repo("acme/other", {"x-Q4_K_M.gguf": files["Q4_K_M/m-Q4_K_M.gguf"]})
    assert read(served, "acme/other").fetched


@pytest.mark.parametrize(
    ("repo", "words"),
    [
        ("acme/misspelt", "has no repository acme/misspelt, or hides it: check its spelling"),
        (GATED, f"{GATED} is gated: accept its terms on"),
        ("acme/none", "acme/none has no GGUF file of a model; it has mmproj-F16.gguf: vision projector: name a"),
    ],
)
def test_a_repository_without_models_is_one_message(repo: str, words: str, served: Hub, files: dict[str, Path]) -> None:
    served.add_sparse_repo("acme/none", {"mmproj-F16.gguf": files["mmproj-F16.gguf"]})
    with pytest.raises(HubError) as refused:
        read(served, repo)
    assert words in str(refused.value)
    # Of a gated repository, two headers are tried and not all.
    assert sum("resolve" in str(entry["path"]) for entry in served.log.as_json()) <= 2
    if repo == GATED:
        assert read(served, repo, TOKEN).headers


def test_an_unknown_quant_is_told_with_those_there_are(served: Hub) -> None:
    with pytest.raises(HubError, match=r"has no quant Q6_K: it has Q8_0, Q5_K, Q4_K_M, vision-F16|F16"):
        read(served, only=("Q6_K",))


def test_one_file_that_cannot_be_read_is_a_row_of_its_own(served: Hub) -> None:
    served.faults.add(Fault(path="*Q5_K*", origin="hub", status=404, error_code="EntryNotFound"))
    problems = {header.quant.label: header.problem for header in read(served).headers}
    assert "Q5_K" in problems
    assert problems["Q5_K"]
    assert not problems["Q8_0"]


def test_boxes_of_one_run_share_what_was_read(served: Hub) -> None:
    repositories = HubRepositories()
    first = repositories.read(model(), served.endpoint, None)
    assert repositories.read(model(), served.endpoint, None) is first


# --- grouping ---------------------------------------------------------------------------------------------------------


def grouped(*paths: str) -> dict[str, dict[str, str | tuple[str, ...]]]:
    locked = {path: LockedFile(path=path, size=1, sha256="a" * 64) for path in paths}
    return {quant.label: quant.selection for quant in quants_of("a/b", COMMIT, paths, locked).quants}


def test_a_quant_is_declared_by_its_name_where_that_selects_it() -> None:
    assert grouped("UD-Q4_K_XL/m-00001-of-00002.gguf", "UD-Q4_K_XL/m-00002-of-00002.gguf", "m-Q4_K_XL.gguf") == {
        "UD-Q4_K_XL": {"quant": "UD-Q4_K_XL"},
        "Q4_K_XL": {"quant": "Q4_K_XL"},
    }


def test_two_models_of_one_quant_are_declared_by_their_files() -> None:
    assert grouped("a-Q4_K_M.gguf", "b-Q4_K_M.gguf", "plain.gguf") == {
        "a-Q4_K_M": {"files": ("a-Q4_K_M.gguf",)},
        "b-Q4_K_M": {"files": ("b-Q4_K_M.gguf",)},
        "plain": {"files": ("plain.gguf",)},
    }


def test_incomplete_sets_and_files_without_a_sha256_are_left_out() -> None:
    found = quants_of("a/b", COMMIT, ["m-Q4-00001-of-00002.gguf", "n-Q8_0.gguf", "imatrix.gguf"], {})
    assert found.quants == ()
    assert found.left_out == (
        "imatrix.gguf: importance matrix",
        "the shard set m-Q4 is incomplete, missing m-Q4-00002-of-00002.gguf",
        "n-Q8_0.gguf: the Hub has no sha256 of it",
    )


@pytest.mark.parametrize(
    ("repo", "taken", "name"),
    [
        ("unsloth/Qwen3-30B-A3B-GGUF", (), "qwen3-30b-a3b"),
        ("a/Llama_3.1.gguf", (), "llama-3-1"),
        ("a/x-GGUF", ("x", "x-2"), "x-3"),
        ("a/---", (), "model"),
        (f"a/{'y' * 90}", (), "y" * 57),
    ],
)
def test_a_name_is_made_of_the_repositorys(repo: str, taken: tuple[str, ...], name: str) -> None:
    assert model_name(repo, taken) == name
