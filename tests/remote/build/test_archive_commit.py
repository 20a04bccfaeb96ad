"""The commit that a source archive says it is of, held against the declaration."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from llamarig.remote.build.archive_commit import check_commit, commit_of
from llamarig.remote.shared.job_status import JobFailedError
from llamarig.remote.shared.jobs import Source

COMMIT, OTHER = "0c1e57098bba43ac29e6e3b677cdceebdd22334f", "4df29be4f4c3673f428170fda944a5b19f743bb8"
TOP = "llama_cpp_python-0.3.36"
INSIDE = "vendor/llama.cpp"
# The shape of llama-cpp-python's: the newest release first, some with several commits.
CHANGES = f"""# Changelog

## [Unreleased]

- feat: update llama.cpp to ggml-org/llama.cpp@ffffffff

## [0.3.36]

- feat: update llama.cpp to ggml-org/llama.cpp@{COMMIT[:9]}
- feat: update llama.cpp to ggml-org/llama.cpp@eeeeeeee

## [0.3.35]

- feat: update llama.cpp to ggml-org/llama.cpp@{OTHER[:9]}
"""


def packed(directory: Path, files: dict[str, str], top: str = TOP) -> Path:
    path = directory / "archive.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, text in {f"{INSIDE}/CMakeLists.txt": "", **files}.items():
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


def source(commit: str = COMMIT) -> Source:
    return Source("sdist", None, commit, "0" * 64, INSIDE, "llama-cpp-python", "0.3.36")


HEAD = f".git/modules/{INSIDE}/HEAD"


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({HEAD: f"{COMMIT}\n", "CHANGELOG.md": CHANGES.replace(COMMIT[:9], OTHER[:9])}, COMMIT),
        ({HEAD: "ref: refs/heads/master\n", "CHANGELOG.md": CHANGES}, COMMIT[:9]),
        ({"CHANGELOG.md": CHANGES}, COMMIT[:9]),
        ({"CHANGELOG.md": "# Changelog\n"}, ""),
        ({}, ""),
    ],
    ids=["the submodule's HEAD", "a HEAD of a branch", "the changelog", "a changelog without it", "nothing"],
)
def test_what_an_archive_says_of_its_commit(files: dict[str, str], found: str, tmp_path: Path) -> None:
    assert commit_of(packed(tmp_path, files), INSIDE) == found


def test_an_archive_made_by_git_has_its_commit_in_a_comment(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (tmp_path / "CMakeLists.txt").write_text("")
    subprocess.run([*git, "add", "CMakeLists.txt"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "first"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    archive = tmp_path / "archive.tar.gz"
    subprocess.run([*git, "archive", "--prefix=llama.cpp/", "-o", str(archive), "HEAD"], check=True)
    assert commit_of(archive, "") == commit


def test_a_wrong_declared_commit_is_refused(tmp_path: Path) -> None:
    archive = packed(tmp_path, {HEAD: f"{COMMIT}\n"})
    assert check_commit(source(), archive) == ""
    with pytest.raises(JobFailedError, match=f"the archive is of llama.cpp {COMMIT}, declared {OTHER}: declare the"):
        check_commit(source(OTHER), archive)


def test_an_archive_that_does_not_say_it_is_remarked(tmp_path: Path) -> None:
    assert "does not say which commit it is of" in check_commit(source(), packed(tmp_path, {}))
