"""A model whose architecture the source of its build does not know is refused before a byte of it is fetched."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from llamarig.remote.build.source_tree import known_architectures
from llamarig.remote.download.wanted_architectures import check_architectures
from llamarig.remote.shared.job_status import JobFailedError, Progress
from llamarig.remote.shared.jobs import WantedArchitecture

from tests.box.fetch_run import FetchRun, random_file
from tests.box.hub import Hub

COMMIT = "c" * 40
# As in src/llama-arch.cpp of the pinned commit, spaces included.
SOURCE = """static const std::map<llm_arch, const char *> LLM_ARCH_NAMES = {
    { LLM_ARCH_CLIP,             "clip"             }, // dummy, only used by llama-quantize
    { LLM_ARCH_LLAMA,            "llama"            },
    { LLM_ARCH_GPT_OSS,          "gpt-oss"          },
    { LLM_ARCH_EAGLE3,           "eagle3"           },
    { LLM_ARCH_UNKNOWN,          "(unknown)"        },
};
static const std::map<llm_kv, const char *> LLM_KV_NAMES = {
    { LLM_KV_GENERAL_TYPE,                      "general.type"                          },
"""


def source_tree(work: Path) -> None:
    """The source of a build, complete."""
    (work / "source/src").mkdir(parents=True)
    (work / "source/src/llama-arch.cpp").write_text(SOURCE)
    (work / "source.commit").write_text(COMMIT)


def wanted(work: Path, architecture: str) -> WantedArchitecture:
    return WantedArchitecture(model="m", architecture=architecture, commit=COMMIT, work=str(work))


@pytest.fixture
def progress(tmp_path: Path) -> Progress:
    (tmp_path / "job").mkdir()
    return Progress(tmp_path / "job")


def test_the_source_lists_what_it_serves(tmp_path: Path) -> None:
    source_tree(tmp_path)
    assert known_architectures(tmp_path / "source") == ["gpt-oss", "llama"]
    assert known_architectures(tmp_path / "of a fork") == []


def test_a_known_architecture_is_fetched(tmp_path: Path, progress: Progress) -> None:
    source_tree(tmp_path / "work")
    check_architectures([wanted(tmp_path / "work", "gpt-oss")], progress)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (
            "qwen9",
            "model 'm' is of the architecture qwen9, which llama.cpp cccccccccccc does not know: declare a newer "
            "commit, or another model; nothing was fetched",
        ),
        ("clip", "the file of model 'm' is a vision projector by its header (architecture clip), which is loaded with"),
        ("eagle3", "is a draft head by its header (architecture eagle3)"),
    ],
)
def test_another_one_is_refused(architecture: str, message: str, tmp_path: Path, progress: Progress) -> None:
    source_tree(tmp_path / "work")
    with pytest.raises(JobFailedError) as refused:
        check_architectures([wanted(tmp_path / "work", architecture)], progress)
    assert message in str(refused.value)


def test_the_source_of_a_build_that_has_just_begun_is_waited_for(tmp_path: Path, progress: Progress) -> None:
    work = tmp_path / "work"
    work.mkdir()
    build = threading.Timer(0.5, source_tree, [work])
    build.start()
    with pytest.raises(JobFailedError, match="architecture qwen9"):
        check_architectures([wanted(work, "qwen9")], progress)
    build.join()


def test_without_a_source_nothing_is_compared(tmp_path: Path, progress: Progress) -> None:
    began = time.monotonic()
    check_architectures([wanted(tmp_path / "received from another box", "qwen9")], progress)
    assert time.monotonic() - began < 60, "waited for a build that is not under way"
    (tmp_path / "work").mkdir()
    check_architectures([wanted(tmp_path / "work", "qwen9")], progress, patience_s=0.1)


def test_a_job_with_an_unknown_architecture_fetches_nothing(tmp_path: Path) -> None:
    work = tmp_path / "work"
    source_tree(work)
    with Hub(tmp_path) as hub:
        run = FetchRun(hub, tmp_path / "run", "o/r", {"m.gguf": random_file(tmp_path / "source", 1000, seed=1)})
        run.job["wanted"] = [wanted(work, "qwen9").to_json()]
        ended = run.run()
        assert ended.code != 0
        assert "architecture qwen9" in ended.message
        assert run.bytes_sent() == 0
