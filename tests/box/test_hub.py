"""The stand-in Hub, tested with the real clients huggingface_hub and hf_transfer."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from huggingface_hub import HfApi, HfFileMetadata, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder

from tests.box.hub import Hub
from tests.box.hub_faults import Fault
from tests.box.tiny_model import write_shards

REPO = "acme/tiny-GGUF"
GATED = "acme/gated-GGUF"
TOKEN = "hf_fortests"
README = b"# tiny\n"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_shards(tmp_path_factory.mktemp("model"), "tiny-F16", seed=7, experts=2)


@pytest.fixture(scope="module")
def files(shards: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    readme = tmp_path_factory.mktemp("repo") / "README.md"
    readme.write_bytes(README)
    return {"README.md": readme, **{f"F16/{shard.name}": shard for shard in shards}}


@pytest.fixture(scope="module")
def served(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with Hub(tmp_path_factory.mktemp("root")) as hub:
        hub.add_repo(REPO, files)
        hub.add_repo(GATED, files, gated_token=TOKEN)
        yield hub


@pytest.fixture
def stand_in(served: Hub) -> Iterator[Hub]:
    served.log.clear()
    yield served
    served.faults.clear()


@pytest.fixture
def commit(api: HfApi) -> str:
    sha = api.model_info(REPO).sha
    assert sha is not None
    return sha


@pytest.fixture
def api(stand_in: Hub) -> HfApi:
    return HfApi(endpoint=stand_in.endpoint, token=False)


@pytest.fixture
def shard(shards: list[Path]) -> Path:
    return shards[1]


def metadata(
    stand_in: Hub, path: str, revision: str = "main", repo: str = REPO, token: str | bool = False
) -> HfFileMetadata:
    return get_hf_file_metadata(hf_hub_url(repo, path, revision=revision, endpoint=stand_in.endpoint), token=token)


class TransferError(Exception):
    """The error that hf_transfer printed."""


def transfer(url: str, target: Path) -> None:
    """Download with hf_transfer in a separate process.

    hf_transfer holds the interpreter lock until it is done, so the hub's threads in this process could not answer it.
    """
    code = "import hf_transfer, sys; hf_transfer.download(*sys.argv[1:], max_files=4, chunk_size=262144)"
    command = [sys.executable, "-c", code, url, str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise TransferError(done.stderr)


def control(stand_in: Hub, method: str, what: str, body: object = None) -> Any:
    request = urllib.request.Request(
        f"{stand_in.endpoint}/_control/{what}", method=method, data=None if body is None else json.dumps(body).encode()
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


# Repositories


def test_model_info_has_commit_sizes_and_sha256(api: HfApi, files: dict[str, Path]) -> None:
    info = api.model_info(REPO, files_metadata=True)
    assert info.sha is not None
    assert len(info.sha) == 40
    assert info.siblings is not None
    assert {sibling.rfilename for sibling in info.siblings} == set(files)
    for sibling in info.siblings:
        assert sibling.size == files[sibling.rfilename].stat().st_size
        if sibling.rfilename.endswith(".gguf"):
            assert sibling.lfs is not None
            assert sibling.lfs.sha256 == sha256(files[sibling.rfilename])
        else:
            assert sibling.lfs is None
    assert api.repo_info(REPO, revision=info.sha).sha == info.sha
    plain = api.model_info(REPO).siblings
    assert plain is not None
    assert all(sibling.lfs is None and sibling.size is None for sibling in plain)


def test_tree_and_paths_info_list_files_and_folders(api: HfApi, files: dict[str, Path], commit: str) -> None:
    assert {type(entry) for entry in api.list_repo_tree(REPO)} == {RepoFile, RepoFolder}
    tree = list(api.list_repo_tree(REPO, recursive=True, expand=True, revision=commit))
    assert {entry.path for entry in tree if isinstance(entry, RepoFile)} == set(files)
    assert all(entry.last_commit is not None and entry.last_commit.oid == commit for entry in tree)
    assert [entry.path for entry in api.list_repo_tree(REPO, "F16")] == sorted(set(files) - {"README.md"})
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree(REPO, "Q8_0"))

    name = next(iter(sorted(set(files) - {"README.md"})))
    shard, folder = api.get_paths_info(REPO, [name, "F16", "absent"])
    assert isinstance(shard, RepoFile)
    assert shard.lfs is not None
    assert (shard.lfs.sha256, shard.size) == (sha256(files[name]), files[name].stat().st_size)
    assert isinstance(folder, RepoFolder)


def test_earlier_revisions_stay_available_when_main_moves(stand_in: Hub, api: HfApi, files: dict[str, Path]) -> None:
    first = stand_in.add_repo("acme/moving", {"m.gguf": files["README.md"]})
    second = stand_in.add_revision("acme/moving", {"m.gguf": files["README.md"], "n.gguf": files["README.md"]})
    side = stand_in.add_revision("acme/moving", {}, branch="refs/pr/1")
    assert stand_in.add_repo("acme/again", {"m.gguf": files["README.md"]}) == first
    assert api.model_info("acme/moving").sha == second
    assert api.model_info("acme/moving", revision=first).sha == first
    assert api.model_info("acme/moving", revision="refs/pr/1").sha == side
    assert metadata(stand_in, "m.gguf", first, "acme/moving").commit_hash == first
    branches = {branch.name: branch.target_commit for branch in api.list_repo_refs("acme/moving").branches}
    assert branches["main"] == second


# Files


def test_resolve_returns_hash_size_and_a_url_on_the_cdn(stand_in: Hub, shard: Path, commit: str) -> None:
    found = metadata(stand_in, f"F16/{shard.name}")
    assert (found.commit_hash, found.etag, found.size) == (commit, sha256(shard), shard.stat().st_size)
    assert found.location.startswith(f"{stand_in.cdn_endpoint}/")
    assert urlsplit(found.location).netloc != urlsplit(stand_in.endpoint).netloc
    assert found.xet_file_data is None


def test_small_files_are_served_by_the_hub_itself(stand_in: Hub, tmp_path: Path, commit: str) -> None:
    found = metadata(stand_in, "README.md")
    assert found.etag == hashlib.sha1(b"blob %d\0" % len(README) + README).hexdigest()
    assert found.location.startswith(f"{stand_in.endpoint}/")
    got = hf_hub_download(
        REPO, "README.md", revision=commit, endpoint=stand_in.endpoint, cache_dir=tmp_path, token=False
    )
    assert Path(got).read_bytes() == README


# Missing and gated files


def test_missing_repository_revision_and_file_raise_different_errors(stand_in: Hub, api: HfApi, commit: str) -> None:
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("acme/absent")
    with pytest.raises(RepositoryNotFoundError):
        metadata(stand_in, "x.gguf", repo="acme/absent")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(REPO, revision="0" * 40)
    with pytest.raises(RevisionNotFoundError):
        metadata(stand_in, "README.md", "absent")
    with pytest.raises(RemoteEntryNotFoundError) as missing:
        metadata(stand_in, "absent.gguf")
    assert missing.value.response.headers["X-Repo-Commit"] == commit


def test_gated_files_need_the_token_which_is_not_sent_to_the_cdn(stand_in: Hub, shard: Path, tmp_path: Path) -> None:
    path = f"F16/{shard.name}"
    with pytest.raises(GatedRepoError) as anonymous:
        metadata(stand_in, path, repo=GATED)
    assert anonymous.value.response.status_code == 401
    with pytest.raises(GatedRepoError) as wrong_token:
        metadata(stand_in, path, repo=GATED, token="hf_another")
    assert wrong_token.value.response.status_code == 403
    assert HfApi(endpoint=stand_in.endpoint, token=False).model_info(GATED).gated == "manual"

    stand_in.log.clear()
    got = hf_hub_download(GATED, path, endpoint=stand_in.endpoint, cache_dir=tmp_path, token=TOKEN)
    assert sha256(Path(got)) == sha256(shard)
    seen = {(request.origin, request.authorization) for request in stand_in.log.requests()}
    assert seen == {("hub", True), ("cdn", False)}


# Downloads


def test_both_clients_download_the_right_bytes(stand_in: Hub, shard: Path, tmp_path: Path) -> None:
    path = f"F16/{shard.name}"
    got = hf_hub_download(REPO, path, endpoint=stand_in.endpoint, cache_dir=tmp_path / "cache", token=False)
    assert sha256(Path(got)) == sha256(shard)

    stand_in.log.clear()
    transfer(metadata(stand_in, path).location, tmp_path / "transferred")
    assert sha256(tmp_path / "transferred") == sha256(shard)
    requested = [request for request in stand_in.log.requests() if request.origin == "cdn"]
    assert requested[0].range == "bytes=0-0"
    assert {request.status for request in requested} == {206}
    assert sum(request.bytes_sent for request in requested[1:]) == shard.stat().st_size


@pytest.mark.parametrize(
    ("requested", "status", "content_range", "part"),
    [
        ("bytes=0-3", 206, "bytes 0-3/{size}", slice(0, 4)),
        ("bytes=100-", 206, "bytes 100-{last}/{size}", slice(100, None)),
        ("bytes=-5", 206, "bytes {tail}-{last}/{size}", slice(-5, None)),
        ("bytes=0-1,4-5", 200, None, slice(None)),
        ("bytes={size}-", 416, "bytes */{size}", slice(0, 0)),
    ],
)
def test_the_cdn_answers_range_requests(
    stand_in: Hub, shard: Path, requested: str, status: int, content_range: str | None, part: slice
) -> None:
    size = shard.stat().st_size
    sizes = {"size": size, "last": size - 1, "tail": size - 5}
    location = metadata(stand_in, f"F16/{shard.name}").location
    request = urllib.request.Request(location, headers={"Range": requested.format(**sizes)})
    try:
        answer = urllib.request.urlopen(request)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        assert answer.status == status
        assert answer.headers["Content-Range"] == (content_range and content_range.format(**sizes))
        assert answer.read() == shard.read_bytes()[part]


def test_signed_urls_expire_and_cannot_be_forged(stand_in: Hub, shard: Path, tmp_path: Path) -> None:
    stand_in.faults.add(Fault(path=f"*/resolve/*/{shard.name}", expire_after_s=0.01, times=1))
    expired = metadata(stand_in, f"F16/{shard.name}").location
    good = metadata(stand_in, f"F16/{shard.name}").location
    time.sleep(0.02)
    for url in (expired, good.replace("Signature=", "Signature=0"), urlsplit(good)._replace(query="").geturl()):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(url)
    with pytest.raises(TransferError, match="403"):
        transfer(expired, tmp_path / "expired")
    transfer(good, tmp_path / "good")


# Faults


def test_a_status_fault_applies_to_the_given_number_of_requests(stand_in: Hub, api: HfApi) -> None:
    stand_in.faults.add(
        Fault(path="/api/models/*", status=500, times=1), Fault(path="*/README.md", status=429, retry_after=7)
    )
    with pytest.raises(HfHubHTTPError, match="500"):
        api.model_info(REPO)
    assert api.model_info(REPO).sha
    for _ in range(2):
        with pytest.raises(HfHubHTTPError, match="429") as limited:
            metadata(stand_in, "README.md")
        assert limited.value.response.headers["Retry-After"] == "7"


def test_a_truncated_body_is_retried_by_huggingface_hub_and_fails_hf_transfer(
    stand_in: Hub, shard: Path, tmp_path: Path
) -> None:
    path, cut = f"F16/{shard.name}", 100_000
    stand_in.faults.add(Fault(origin="cdn", truncate_after_bytes=cut, times=1))
    got = hf_hub_download(REPO, path, endpoint=stand_in.endpoint, cache_dir=tmp_path, token=False)
    assert sha256(Path(got)) == sha256(shard)
    requested = [(request.range, request.bytes_sent) for request in stand_in.log.requests() if request.origin == "cdn"]
    # The client starts again from the beginning: it keeps only whole chunks of 10 MB, and this shard is smaller.
    assert requested == [(None, cut), (None, shard.stat().st_size)]

    stand_in.faults.add(Fault(origin="cdn", truncate_after_bytes=cut))
    with pytest.raises(TransferError, match=r"error decoding response body|end of file"):
        transfer(metadata(stand_in, path).location, tmp_path / "transferred")
    # hf_transfer usually deletes its file, but some runs leave an empty one.
    left = tmp_path / "transferred"
    assert not left.exists() or sha256(left) != sha256(shard)


def test_the_reset_fault_sends_a_tcp_reset(stand_in: Hub, shard: Path) -> None:
    stand_in.faults.add(Fault(origin="cdn", reset_after_bytes=1000))
    url = urlsplit(metadata(stand_in, f"F16/{shard.name}").location)
    assert url.hostname is not None
    with socket.create_connection((url.hostname, url.port or 80)) as connection:
        connection.sendall(f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: cdn\r\n\r\n".encode())
        with pytest.raises(ConnectionResetError):
            b"".join(iter(lambda: connection.recv(65536), b""))


def test_neither_client_notices_a_corrupt_body_of_the_right_size(stand_in: Hub, shard: Path, tmp_path: Path) -> None:
    path = f"F16/{shard.name}"
    stand_in.faults.add(Fault(origin="cdn", path=f"*{shard.name}", corrupt=True))
    got = hf_hub_download(REPO, path, endpoint=stand_in.endpoint, cache_dir=tmp_path, token=False)
    transfer(metadata(stand_in, path).location, tmp_path / "transferred")
    for target in (Path(got), tmp_path / "transferred"):
        assert target.stat().st_size == shard.stat().st_size
        assert sha256(target) != sha256(shard)


def test_an_ignored_range_is_answered_with_the_whole_file(stand_in: Hub, shard: Path, tmp_path: Path) -> None:
    stand_in.faults.add(Fault(origin="cdn", ignore_range=True))
    request = urllib.request.Request(metadata(stand_in, f"F16/{shard.name}").location, headers={"Range": "bytes=5-9"})
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
        assert len(answer.read()) == shard.stat().st_size
    with pytest.raises(TransferError, match="No content length"):
        transfer(metadata(stand_in, f"F16/{shard.name}").location, tmp_path / "transferred")


def test_delay_and_rate_limit_add_up(stand_in: Hub, shard: Path) -> None:
    size = shard.stat().st_size
    location = metadata(stand_in, f"F16/{shard.name}").location
    stand_in.faults.add(Fault(origin="cdn", delay_s=0.2), Fault(origin="cdn", bytes_per_s=4 * size))
    start = time.monotonic()
    with urllib.request.urlopen(location) as answer:
        answer.read()
    # A delay of 0.2 s, then 0.25 s at this rate.
    assert time.monotonic() - start > 0.4


def test_faults_and_log_are_controlled_over_http(stand_in: Hub, api: HfApi) -> None:
    control(
        stand_in, "POST", "faults", [{"path": "/api/models/*", "status": 403, "error_code": "GatedRepo", "times": 3}]
    )
    with pytest.raises(GatedRepoError):
        api.model_info(REPO)
    assert [(fault["status"], fault["left"]) for fault in control(stand_in, "GET", "faults")] == [(403, 2)]
    assert control(stand_in, "DELETE", "faults") == []
    assert api.model_info(REPO).sha
    assert [entry["status"] for entry in control(stand_in, "GET", "log")] == [403, 200]
    assert control(stand_in, "DELETE", "log") == []
    for wrong in ([{"path": "*"}], [{"statsu": 500}], [{"status": 500, "origin": "moon"}], 5):
        with pytest.raises(urllib.error.HTTPError, match="400"):
            control(stand_in, "POST", "faults", wrong)


def test_the_command_line_serves_a_directory_until_it_is_terminated(tmp_path: Path, shard: Path) -> None:
    target = tmp_path / "acme" / "tiny" / "F16" / shard.name
    target.parent.mkdir(parents=True)
    target.symlink_to(shard)
    command = [sys.executable, "-m", "tests.box.serve_hub", "--root", str(tmp_path), "--port", "0", "--cdn-port", "0"]
    here = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=here) as process:
        assert process.stdout is not None
        word, _, ready = process.stdout.readline().partition(" ")
        assert word == "ready"
        endpoint = json.loads(ready)["endpoint"]
        info = HfApi(endpoint=endpoint, token=False).model_info("acme/tiny")
        assert info.sha == json.loads(ready)["repositories"]["acme/tiny"]
        process.terminate()
        assert process.wait(timeout=5) == 0
