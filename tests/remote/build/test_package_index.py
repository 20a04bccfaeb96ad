"""The archive of a package in the index that pip is configured with: PyPI's JSON, plain HTML, a directory of files."""

from __future__ import annotations

import hashlib
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from llamarig.remote.build.package_index import archive_url, index_url, shown
from llamarig.remote.shared.job_status import JobFailedError

CONTENT = b"an archive"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = "0" * 64
NAME = "llama_cpp_python-0.3.36.tar.gz"
JSON_TYPE = "application/vnd.pypi.simple.v1+json"


class Index:
    """A server of one page, as a mirror or a registry has it."""

    def __init__(self) -> None:
        self.kind, self.page = "text/html", ""
        index = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                is_there = self.path == "/simple/llama-cpp-python/"
                self.send_response(200 if is_there else 404)
                self.send_header("Content-Type", index.kind)
                self.end_headers()
                self.wfile.write(index.page.encode() if is_there else b"")

            def log_message(self, format: str, *args: object) -> None: ...

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/simple"

    def html(self, *links: str) -> None:
        self.kind, self.page = "text/html", "".join(f'<a href="{link}" data-x="1">file</a>\n' for link in links)

    def json(self, *files: Mapping[str, object]) -> None:
        self.kind, self.page = JSON_TYPE, json.dumps({"files": files})


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that has pip, which the environment of these tests may lack."""
    directory = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
    return str(directory / "bin/python")


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    served = Index()
    threading.Thread(target=served.http.serve_forever, daemon=True).start()
    monkeypatch.setenv("PIP_INDEX_URL", served.url)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    yield served
    served.http.shutdown()
    served.http.server_close()


def found(python: str) -> str:
    return archive_url("llama-cpp-python", "0.3.36", SHA256, python)


def test_the_index_is_the_one_that_pip_uses(python: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    assert urlsplit(index_url(python)).scheme == "https", "pip's own default"
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = https://me:sesame@mirror.lan/simple\n")
    assert index_url(python) == "https://me:sesame@mirror.lan/simple"
    monkeypatch.setenv("PIP_INDEX_URL", "http://nearer.lan/simple")
    assert index_url(python) == "http://nearer.lan/simple"


def test_an_archive_is_found_by_its_sha256_in_json(index: Index, python: str) -> None:
    wheel = {"filename": "llama_cpp_python-0.3.36-py3-none-any.whl", "url": "w", "hashes": {"sha256": OTHER}}
    index.json(wheel, {"filename": NAME, "url": f"../../files/{NAME}", "hashes": {"sha256": SHA256}})
    assert found(python) == f"{index.url.removesuffix('/simple')}/files/{NAME}"


def test_an_archive_is_found_by_its_sha256_in_html(index: Index, python: str) -> None:
    index.html(f"https://files.lan/llama-cpp-python-0.3.35.tar.gz#sha256={OTHER}", f"/p/{NAME}#sha256={SHA256}")
    assert found(python) == f"{index.url.removesuffix('/simple')}/p/{NAME}"


@pytest.mark.parametrize("name", [NAME, "llama-cpp-python-0.3.36.tar.gz", "Llama.cpp_python-0.3.36.tar.gz"])
def test_an_index_without_digests_is_searched_by_name(index: Index, python: str, name: str) -> None:
    index.html("llama_cpp_python-0.3.35.tar.gz", name)
    assert found(python).endswith(f"/{name}")


def test_another_sha256_is_refused_before_the_download(index: Index, python: str) -> None:
    index.html(f"{NAME}#sha256={OTHER}")
    with pytest.raises(JobFailedError, match=f"has sha256 {OTHER}, declared {SHA256}: not used"):
        found(python)


def test_an_index_that_lacks_the_version_is_named_without_its_login(
    index: Index, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.html("llama_cpp_python-0.3.35.tar.gz")
    with pytest.raises(JobFailedError, match=r"has no llama_cpp_python-0\.3\.36\.tar\.gz: check package and version"):
        found(python)
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("simple", "elsewhere"))
    with pytest.raises(JobFailedError, match=r"could not be read \(HTTP status 404\)"):
        found(python)
    assert shown("https://me:sesame@mirror.lan/simple") == "https://mirror.lan/simple"


def test_a_directory_of_files_is_an_index(tmp_path: Path, python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llama-cpp-python").mkdir()
    (tmp_path / "llama-cpp-python/index.html").write_text(f'<a href="{NAME}">x</a>')
    monkeypatch.setenv("PIP_INDEX_URL", f"file://{tmp_path}")
    assert found(python) == f"file://{tmp_path}/llama-cpp-python/{NAME}"
