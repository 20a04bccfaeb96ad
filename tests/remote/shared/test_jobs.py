"""Jobs keep the JSON text that earlier versions wrote: it identifies running work, and installed boxes keep it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llamarig.engine.jobs import job_text
from llamarig.remote.shared.jobs import (
    BuildJob,
    FetchJob,
    JobStatus,
    PackJob,
    ReceiveJob,
    SimulationJob,
    StartRecord,
    SwitchJob,
)
from llamarig.remote.shared.record import Record, RecordError

GIT = {"kind": "git", "url": "https://github.com/ggml-org/llama.cpp", "commit": "b" * 40}
SDIST = {
    "kind": "sdist",
    "url": "https://example.org/x.tar.gz",
    "commit": "b" * 40,
    "sha256": "a" * 64,
    "subdirectory": "",
}
BUILD = {
    "release": "/opt/llamarig/llama.cpp/b-1",
    "work": "/var/lib/llamarig/work/b-1",
    "cache": "/var/cache/llamarig",
    "source": GIT,
    "backend": "cuda",
    "cmake": {"GGML_CUDA": "ON"},
    "targets": ["llama-server", "llama-bench"],
}
FETCH: dict[str, Any] = {
    "endpoint": "https://huggingface.co",
    "proxy": None,
    "bytes_per_s": 2500000,
    "group": "llamarig",
    "files_at_a_time": 4,
    "connections": 24,
    "chunk": 4194304,
    "patience_s": 60,
    "backoff_s": 2,
    "give_up_after_s": 1800,
    "refetch_bytes": 1073741824,
    "files": [
        {
            "repo": "o/r",
            "commit": "c" * 40,
            "path": "m.gguf",
            "size": 5,
            "sha256": "d" * 64,
            "target": "/var/lib/llamarig/models/o/r/c/m.gguf",
            "partial": "/var/lib/llamarig/models/.partial/d",
            "same": ["/var/lib/llamarig/models/o/r/e/m.gguf"],
        }
    ],
}
SWITCH: dict[str, Any] = {
    "unit": "llamarig-m.service",
    "text": "[Service]\nExecStart=/x\n",
    "check": ["/x/llama-server", "--help"],
    "peers": ["llamarig-old.service"],
    "retired": ["llamarig-old.service"],
    "start": True,
    "enable": False,
    "port": 8080,
    "load_timeout_s": 600,
    "needs_gpu": True,
    "environment": {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
    "model_bytes": 1 << 36,
    "commit": "b" * 40,
    "context_per_slot": 8192,
    "api_key_file": None,
    "proof": "/var/lib/llamarig/proofs/llamarig-m.service.json",
    "plan": None,
    "pinned_mib": None,
}
PLAN = {
    "predicted_mib": {"CUDA0": 23279},
    "margins_mib": {"CUDA0": 1284},
    "tolerance_mib": 64,
    "most_back_offs": 3,
    "rungs": [
        {
            "what": "11 whole layers",
            "placement": {"kind": "layers", "gpu": [11], "split": [31]},
            "frees_mib": {"CUDA0": 1260},
            "text": "[Service]\nExecStart=/y\n",
            "check": ["/x/llama-server", "--help"],
        }
    ],
}
BACKED_OFF = {
    "of": "e" * 64,
    "what": "11 whole layers",
    "placement": {"kind": "layers", "gpu": [11]},
    "reason": "CUDA0 lacks 153 MiB",
    "missing_mib": {"CUDA0": 153},
}
JOBS: list[tuple[type[Record], dict[str, Any]]] = [
    (BuildJob, BUILD),
    (BuildJob, {**BUILD, "source": SDIST}),
    (PackJob, {"release": "/r", "archive": "/a"}),
    (ReceiveJob, {"archive": "/a", "sha256": "a" * 64, "release": "/r", "builder": "big"}),
    (SimulationJob, {"directory": "/d", "work": "/w", "cache": "/c", "source": GIT, "release": "/r"}),
    (FetchJob, FETCH),
    (FetchJob, {**FETCH, "backoff_s": 0.5, "bytes_per_s": None}),
    (SwitchJob, SWITCH),
    (SwitchJob, {**SWITCH, "plan": PLAN, "pinned_mib": 1024, "api_key_file": "/etc/llamarig/key"}),
    (SwitchJob, {**SWITCH, "backed_off": BACKED_OFF}),
]


@pytest.mark.parametrize(("kind", "written"), JOBS)
def test_the_text_of_a_job_is_the_one_that_earlier_versions_wrote(kind: type[Record], written: dict[str, Any]) -> None:
    assert job_text(kind.from_json(written)) == json.dumps(written, indent=1, sort_keys=True) + "\n"


@pytest.mark.parametrize(("kind", "written"), JOBS)
def test_a_job_with_an_unknown_or_a_missing_key_is_rejected(kind: type[Record], written: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match=f"{kind.__name__}: unknown more: another version of llamarig wrote it"):
        kind.from_json({**written, "more": 1})
    for key in written.keys() - {"backed_off"}:
        with pytest.raises(RecordError, match=f"{kind.__name__}: missing {key}: another version"):
            kind.from_json({name: value for name, value in written.items() if name != key})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"port": "8080"}, "SwitchJob.port: expected int, found '8080'"),
        ({"port": True}, "SwitchJob.port: expected int, found True"),
        ({"start": 1}, "SwitchJob.start: expected bool, found 1"),
        ({"peers": "x"}, "SwitchJob.peers: expected a list, found 'x'"),
        ({"check": [1]}, "SwitchJob.check[0]: expected str, found 1"),
        ({"environment": {"A": 1}}, "SwitchJob.environment['A']: expected str, found 1"),
        ({"plan": []}, "SwitchJob.plan: expected an object, found []"),
        ({"plan": {**PLAN, "rungs": [{}]}}, "SwitchJob.plan.rungs[0]: missing what, placement, frees_mib, text, check"),
    ],
)
def test_a_value_of_another_type_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError) as failure:
        SwitchJob.from_json({**SWITCH, **change})
    assert message in str(failure.value)


RECORD: dict[str, Any] = {
    "text": SWITCH["text"],
    "job": SWITCH,
    "text_sha256": "f" * 64,
    "proved_at": "2026-11-21T19:00:00Z",
    "build_info": "b8149-0c1e5709",
    "n_ctx": 8192,
    "tokens_per_second": 41.5,
}


def test_a_start_record_of_an_earlier_version_is_read() -> None:
    """Versions before pinned weights wrote no ``pinned_mib``; a later one may write more keys."""
    earlier = {key: value for key, value in SWITCH.items() if key != "pinned_mib"}
    record = StartRecord.from_stored({**RECORD, "job": {**earlier, "new": 1}, "more": {}})
    assert record == StartRecord.from_json(RECORD)
    assert record.job.pinned_mib is None


def test_a_start_record_keeps_what_a_planned_start_took_and_its_step_down() -> None:
    planned = {**RECORD, "took_mib": {"CUDA0": 23279.5}, "backed_off": BACKED_OFF}
    assert StartRecord.from_json(planned).to_json() == planned
    # facts/units.py and facts/start_records.py search the file for these.
    text = json.dumps(StartRecord.from_json(planned).to_json())
    assert f'"text_sha256": "{"f" * 64}"' in text
    assert '"backed_off": {' in text
    assert '"backed_off"' not in json.dumps(StartRecord.from_json(RECORD).to_json())


@pytest.mark.parametrize("stored", [None, [], 5, {}, {"job": 3, "text": [], "took_mib": [], "backed_off": "x"}])
def test_a_damaged_start_record_is_read_as_an_empty_one(stored: object) -> None:
    record = StartRecord.from_stored(stored)
    assert (record.text, record.job.unit, record.job.peers, record.took_mib, record.backed_off) == (
        "",
        "",
        (),
        None,
        None,
    )


def test_unreadable_parts_of_a_running_download_are_left_out() -> None:
    job = FetchJob.from_stored({**FETCH, "files": [3, *FETCH["files"], {"repo": "o/x", "size": "large"}], "chunk": []})
    assert [(file.repo, file.size) for file in job.files] == [("o/r", 5), ("o/x", 0)]
    assert job.chunk == 0


def test_the_status_of_another_version_is_read() -> None:
    status = JobStatus.from_stored({"state": "failed", "message": "m", "lines": ["a", 1], "done": "x", "more": 1})
    assert status == JobStatus(state="failed", message="m", lines=("a",))
