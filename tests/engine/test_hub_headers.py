"""Headers of full-size models by HTTP Range from the stand-in Hub: the right bytes and few of them, or a refusal."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter
from llamarig import declare as d
from llamarig.declare.model import Model
from llamarig.engine import hub_headers
from llamarig.engine.hub_headers import MOST_BYTES, fetch_headers, with_architecture
from llamarig.engine.hub_resolver import resolve
from llamarig.engine.hub_token import HubError
from llamarig.records.model_lock import LockedModel
from llamarig.remote.shared.gguf_header import digest_of, read_header

from tests.box.hub import Hub
from tests.box.hub_faults import Fault
from tests.box.sparse_models import put_value, write_sparse
from tests.placement.model_shapes import GPT_OSS_120B, QWEN3_CODER_NEXT

TOKEN = "hf_fortests"
REPO, GATED = "acme/m-GGUF", "acme/gated-GGUF"


def model(repo: str = REPO, **fields: Any) -> Model:
    selection = fields or {"quant": "q6"}
    return d.model(name="m", repo=repo, build="cpu", serve=d.serve(port=8080, context=4096), **selection)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("sparse")
    return {
        file.name: file
        for name, shape, shards in (("q6", QWEN3_CODER_NEXT, 3), ("oss", GPT_OSS_120B, 1))
        for file in write_sparse(directory, name, shape, shards=shards, tokens=True)
    }


@pytest.fixture
def served(files: dict[str, Path], tmp_path: Path) -> Iterator[Hub]:
    with Hub(tmp_path) as hub:
        hub.add_sparse_repo(REPO, files)
        hub.add_sparse_repo(GATED, files, gated_token=TOKEN)
        yield hub


def locked(hub: Hub, quant: str = "q6", repo: str = REPO) -> LockedModel:
    return resolve(model(repo, quant=quant), hub.endpoint, TOKEN if repo == GATED else None)


def sent_by(hub: Hub, at_least: int) -> int:
    """Bytes sent by the CDN. Waits, because the stand-in counts a response shortly after the client has read it."""
    until = time.monotonic() + 10
    while True:
        sent = sum(int(entry["bytes_sent"]) for entry in hub.log.as_json() if entry["origin"] == "cdn")
        if sent >= at_least:
            return sent
        assert time.monotonic() < until, f"{sent} bytes were counted"
        time.sleep(0.01)


@pytest.mark.parametrize(("quant", "shards"), [("q6", 3), ("oss", 1)])
def test_headers_of_60_gb_cost_a_few_megabytes(quant: str, shards: int, served: Hub, files: dict[str, Path]) -> None:
    lock = locked(served, quant)
    assert sum(shard.size for shard in lock.shards) > 60 * 2**30
    assert len(lock.shards) == shards
    served.log.clear()
    fetched = fetch_headers(model(), lock, served.endpoint, None)
    for shard, header, data in zip(lock.shards, fetched.headers, fetched.data, strict=True):
        with files[shard.path].open("rb") as file:
            assert file.read(len(data)) == data
        assert read_header(data) == header
    # The client stops reading after the requested bytes; the stand-in counts what it has sent.
    sent = sent_by(served, fetched.fetched)
    assert fetched.fetched == sent
    own = sum(len(data) for data in fetched.data)
    assert own <= sent <= own + (3 << 20) + (64 << 10) * (shards - 1)
    # The digest is of every shard, in their order.
    assert digest_of(fetched.headers) != digest_of(fetched.headers[:-1])
    assert (digest_of(fetched.headers) == digest_of(fetched.headers[::-1])) == (shards == 1)


def test_the_token_is_sent_to_the_hub_only(served: Hub) -> None:
    lock = locked(served, repo=GATED)
    served.log.clear()
    fetch_headers(model(GATED), lock, served.endpoint, TOKEN)
    log = served.log.as_json()
    assert {(entry["origin"], entry["authorization"]) for entry in log} == {("hub", True), ("cdn", False)}
    with pytest.raises(HubError, match=f"model 'm': {GATED} is gated: accept its terms"):
        fetch_headers(model(GATED), lock, served.endpoint, None)


def test_the_architecture_is_read_from_the_beginning_of_the_first_shard(served: Hub) -> None:
    lock = locked(served)
    served.log.clear()
    assert with_architecture(model(), lock, served.endpoint, None).architecture == "qwen3next"
    assert sent_by(served, 1) <= 16 << 10


@pytest.mark.parametrize("fault", [Fault(origin="cdn", ignore_range=True), Fault(origin="cdn", status=403)])
def test_a_hub_that_does_not_send_the_architecture_locks_the_model_without_it(fault: Fault, served: Hub) -> None:
    lock = locked(served)
    served.faults.add(fault)
    assert with_architecture(model(), lock, served.endpoint, None) == lock


def first_keys(path: Path, architecture: str, values: Mapping[str, int | str] | None = None, tensors: int = 40) -> Path:
    """Write the header of a file without data, with so many tensors."""
    writer = GGUFWriter(path, architecture)
    for key, value in (values or {}).items():
        put_value(writer, key, value)
    for number in range(tensors):
        writer.add_tensor(f"blk.{number}.x", np.zeros(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("architecture", "values", "kind"),
    [
        ("clip", {}, "a vision projector"),
        ("eagle3", {}, "a draft head"),
        ("gemma4-assistant", {}, "a draft head"),
        ("llama", {"general.type": "adapter"}, "a LoRA adapter"),
        ("", {"general.type": "imatrix"}, "an importance matrix"),
        ("qwen35", {"qwen35.block_count": 41, "qwen35.nextn_predict_layers": 1}, "a draft head"),
    ],
)
def test_a_file_that_is_loaded_with_a_model_is_not_locked_as_one(
    architecture: str, values: dict[str, int | str], kind: str, tmp_path: Path
) -> None:
    """Its name tells nothing: its header does, before anything is fetched."""
    with Hub(tmp_path) as hub:
        hub.add_sparse_repo("acme/x", {"x-q6.gguf": first_keys(tmp_path / "x.gguf", architecture, values)})
        with pytest.raises(HubError) as refused:
            with_architecture(model(), locked(hub, repo="acme/x"), hub.endpoint, None)
    assert f"the file of model 'm' is {kind} by its header (acme/x: x-q6.gguf), which is loaded" in str(refused.value)


@pytest.mark.parametrize(
    ("architecture", "values"),
    [
        ("qwen35", {"qwen35.block_count": 11, "qwen35.nextn_predict_layers": 1}),
        ("qwen35", {"qwen35.block_count": 41, "qwen35.nextn_predict_layers": 1, "split.count": 3}),
        ("llama", {"general.type": "model", "llama.block_count": 30}),
    ],
)
def test_a_model_with_layers_of_multi_token_prediction_or_in_shards_is_one(
    architecture: str, values: dict[str, int | str], tmp_path: Path
) -> None:
    with Hub(tmp_path) as hub:
        hub.add_sparse_repo("acme/x", {"x-q6.gguf": first_keys(tmp_path / "x.gguf", architecture, values)})
        found = with_architecture(model(), locked(hub, repo="acme/x"), hub.endpoint, None)
    assert found.architecture == architecture


class EndlessError(BaseHTTPRequestHandler):
    """Answers every request with an error whose text does not end."""

    sent = 0

    def do_GET(self) -> None:
        self.send_response(403)
        self.send_header("X-Error-Message", "not for you")
        self.end_headers()
        try:
            while self.sent < 1 << 30:
                EndlessError.sent += self.wfile.write(b"no " * 20_000)
        except OSError:  # the client has hung up
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


def test_of_an_error_little_is_read(served: Hub) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), EndlessError) as http:
        threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
        with pytest.raises(HubError, match="403"):
            fetch_headers(model(), locked(served), f"http://127.0.0.1:{http.server_address[1]}", None)
        http.shutdown()
    assert EndlessError.sent < 64 << 20


class SlowBody(BaseHTTPRequestHandler):
    """Answers every request with a byte now and then."""

    status = 206
    size = 0

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Range", f"bytes 0-99999/{self.size}")
        self.send_header("Content-Length", "100000")
        self.end_headers()
        try:
            for _ in range(200):
                self.wfile.write(b".")
                time.sleep(0.05)
        except OSError:  # the client has hung up
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@pytest.mark.parametrize(("status", "message"), [(206, r"has sent \d+ of 262144 bytes in 1 s"), (403, "HTTP 403")])
def test_a_hub_that_sends_a_byte_now_and_then_is_given_up(
    status: int, message: str, served: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = locked(served)
    monkeypatch.setattr(hub_headers, "_REQUEST_S", 1.0)
    monkeypatch.setattr(SlowBody, "status", status)
    monkeypatch.setattr(SlowBody, "size", lock.shards[0].size)
    with ThreadingHTTPServer(("127.0.0.1", 0), SlowBody) as http:
        threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
        began = time.monotonic()
        with pytest.raises(HubError, match=message):
            fetch_headers(model(), lock, f"http://127.0.0.1:{http.server_address[1]}", None)
        assert time.monotonic() - began < 5, "the whole body takes 10 s"
        http.shutdown()


REFUSALS = {
    "the whole file in place of a part": (
        Fault(origin="cdn", ignore_range=True),
        r"q6-00001-of-00003.gguf: http://\S+ does not serve ranges of files \(HTTP 200\)",
    ),
    "a connection that ends early": (
        Fault(origin="cdn", truncate_after_bytes=1000),
        r"cannot be reached \(\w+\) 3 times",
    ),
}


@pytest.mark.parametrize(("fault", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_fault_is_one_error_and_few_bytes_are_sent(fault: Fault, message: str, served: Hub) -> None:
    lock = locked(served)
    served.log.clear()
    served.faults.add(fault)
    with pytest.raises(HubError, match=message):
        fetch_headers(model(), lock, served.endpoint, None)
    sent = sum(entry["bytes_sent"] for entry in served.log.as_json() if entry["origin"] == "cdn")
    assert sent <= MOST_BYTES


def test_a_lost_connection_is_tried_again(served: Hub) -> None:
    lock = locked(served)
    served.faults.add(Fault(origin="cdn", truncate_after_bytes=1000, times=1))
    assert len(fetch_headers(model(), lock, served.endpoint, None).headers) == 3


@pytest.mark.parametrize("field", ["size", "sha256"])
def test_a_file_that_is_not_the_locked_one_is_refused(field: str, served: Hub) -> None:
    lock = locked(served)
    other = {"size": lock.shards[0].size + 1, "sha256": "0" * 64}[field]
    first = lock.shards[0].model_copy(update={field: other})
    changed = lock.model_copy(update={"shards": (first, *lock.shards[1:])})
    with pytest.raises(HubError, match=r"the model lock .*: the file was replaced there; run tasks/lock.py"):
        fetch_headers(model(), changed, served.endpoint, None)


def _served_alone(hub: Hub, path: Path) -> LockedModel:
    hub.add_sparse_repo("acme/x-GGUF", {"x.gguf": path})
    return resolve(model("acme/x-GGUF", files=["x.gguf"]), hub.endpoint, None)


def test_a_header_without_end_stops_at_64_mib(served: Hub, tmp_path: Path) -> None:
    endless = tmp_path / "x.gguf"
    # One key, a list of 2^32 texts of no length each: zeros as far as the file goes.
    endless.write_bytes(
        b"GGUF"
        + bytes.fromhex(
            "03000000 0000000000000000 0100000000000000 0100000000000000 6109000000 08000000 0000000001000000"
        )
    )
    with endless.open("r+b") as file:
        file.truncate(64 * 2**30)
    lock = _served_alone(served, endless)
    served.log.clear()
    with pytest.raises(HubError, match="its header is longer than 64 MiB"):
        fetch_headers(model("acme/x-GGUF"), lock, served.endpoint, None)
    assert sum(entry["bytes_sent"] for entry in served.log.as_json() if entry["origin"] == "cdn") <= MOST_BYTES


@pytest.mark.parametrize(("mebibytes", "shards"), [(15.05, 2), (10.4, 14), (31, 1)])
def test_a_long_vocabulary_leaves_room_for_the_headers_of_later_shards(
    mebibytes: float, shards: int, served: Hub, tmp_path: Path
) -> None:
    """15.05 MiB as in Gemma 4, 10.4 MiB as in Command R: the limit is for each file."""
    writer = GGUFWriter(tmp_path / "gem-BF16.gguf", "gemma4", split_max_tensors=2 if shards > 1 else 0)
    writer.add_string("tokenizer.chat_template", "x" * int(mebibytes * 2**20))
    for number in range(2 * shards):
        writer.add_tensor_info(f"blk.{number}.x.weight", (256, 256), np.dtype(np.float32), 1 << 18)
    written = writer.format_shard_names(tmp_path / "gem-BF16.gguf")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    for file in written:
        os.truncate(file, 1 << 30)
    served.add_sparse_repo("acme/gem-GGUF", {file.name: file for file in written})
    lock = resolve(model("acme/gem-GGUF", quant="BF16"), served.endpoint, None)
    assert len(lock.shards) == shards
    fetched = fetch_headers(model("acme/gem-GGUF"), lock, served.endpoint, None)
    assert sum(len(header.tensors) for header in fetched.headers) == 2 * shards
    assert fetched.fetched <= mebibytes * 2**20 + (4 << 20) + (64 << 10) * (shards - 1)


def test_another_file_is_refused_after_its_first_piece(served: Hub, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"PK\3\4" + bytes(20 << 20))
    lock = _served_alone(served, tmp_path / "x.gguf")
    served.log.clear()
    with pytest.raises(
        HubError, match=r"x-GGUF at \w{12}, x.gguf is not a GGUF file that llama.cpp reads: does not begin"
    ):
        fetch_headers(model("acme/x-GGUF"), lock, served.endpoint, None)
    assert sent_by(served, 256 << 10) == 256 << 10


def test_tensors_that_the_file_cannot_hold_are_refused(served: Hub, files: dict[str, Path], tmp_path: Path) -> None:
    short = tmp_path / "x.gguf"
    with files["oss.gguf"].open("rb") as file:
        short.write_bytes(file.read(8 << 20))
    lock = _served_alone(served, short)
    with pytest.raises(HubError, match=r"its tensors take 6\d{10} bytes, the file has 8388608: declare another file"):
        fetch_headers(model("acme/x-GGUF"), lock, served.endpoint, None)
