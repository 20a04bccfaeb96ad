"""Models beside chat, with the real llama-server: embeddings, reranking, pictures; an API behind a prefix, over TLS."""

from __future__ import annotations

import json
import ssl
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from llamarig.records.bench_ledger import read_ledger
from llamarig.remote.serve.proof_requests import is_answer, picture_request

from tests.box.deployment import Deployment, Outcome
from tests.box.hub import Hub
from tests.box.local_hub import SEED
from tests.box.rehearse import chat
from tests.box.seed_box import DEPLOY_SECONDS
from tests.box.tiny_model import write_shards
from tests.box.tiny_projector import write_projector

pytestmark = pytest.mark.box

KEY = "sesame-0123456789"
KEY_FILE = "/etc/llamarig/keys/tasks"
EYES = "llamarig/Eyes-GGUF"


@pytest.fixture
def beside(variant: Deployment, deployment: Deployment) -> Iterator[Deployment]:
    """A variant that may have more models; afterwards they are gone and the box is as declared."""
    yield variant
    names = "llamarig-embed llamarig-rank llamarig-eyes llamarig-safe"
    deployment.shell(
        f"systemctl disable -q --now {names} 2>/dev/null; "
        f"cd /etc/systemd/system && rm -f {names.replace(' ', '.service ')}.service; rm -rf /etc/llamarig/keys; "
        "systemctl daemon-reload"
    )
    outcome = deployment.run()
    assert outcome.code == 0, str(outcome)
    assert chat(deployment.address, "As before?")


def add(deployment: Deployment, name: str, port: int, *, repo: str | None = None, **serve: Any) -> str:
    """Declare a model beside the others; return its address."""
    first = deployment.rig["models"][0]
    mmproj = serve.pop("mmproj", None)
    serve = {**first["serve"], "port": deployment.box.port + port, "coexists": True, **serve}
    more = {**first, "name": name, "repo": repo or first["repo"], "mmproj": mmproj, "serve": serve}
    deployment.rig["models"] = [*deployment.rig["models"], more]
    return f"http://127.0.0.1:{serve['port']}{serve.get('api_prefix') or ''}"


def post(url: str, body: dict[str, Any], key: str = "", context: ssl.SSLContext | None = None) -> dict[str, Any]:
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    handlers = [urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)]
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.build_opener(*handlers).open(request, timeout=120) as response:
        answer: dict[str, Any] = json.loads(response.read())
    return answer


def succeeds(outcome: Outcome) -> Outcome:
    assert outcome.code == 0, str(outcome)
    return outcome


def test_embeddings_and_reranking_are_proved_audited_probed_and_timed(beside: Deployment) -> None:
    beside.shell(f"install -d -m 700 /etc/llamarig/keys && (umask 077; echo {KEY} >{KEY_FILE})")
    embed = add(beside, "embed", 12, task="embeddings", pooling="last", api_prefix="/embed/it", api_key_file=KEY_FILE)
    rank = add(beside, "rank", 13, task="rerank")
    succeeds(beside.run())
    vectors = post(f"{embed}/v1/embeddings", {"input": ["a", "b"]}, KEY)["data"]
    assert [len(one["embedding"]) for one in vectors] == [256, 256]
    assert len(post(f"{rank}/v1/rerank", {"query": "a", "documents": ["b", "c"]})["results"]) == 2
    assert beside.run().changed == []
    succeeds(beside.run("--data", "only=llama", script="tasks/audit.py"))

    state = "/run/llamarig_liveness/state.json"
    beside.shell(f"rm -f {state}; systemctl start llamarig_liveness && systemctl start llamarig_liveness", timeout=300)
    probed = {name.split()[0]: one["worked_at"] for name, one in json.loads(beside.shell(f"cat {state}")).items()}
    assert all(probed[f"llamarig-{name}.service"] for name in ("embed", "rank")), probed

    beside.rig["bench_ledger"] = str(beside.directory / "bench.jsonl")
    options = ("--data", "runs=2", "--data", "depth=200")
    succeeds(beside.run(*options, "--data", "model=embed", script="tasks/bench.py"))
    succeeds(beside.run(*options, "--data", "model=rank", script="tasks/bench.py"))
    for entry in read_ledger(beside.rig["bench_ledger"]):
        assert (entry.conditions.prompt_tokens, entry.conditions.generated_tokens, entry.generation) == (200, 0, None)
        assert not {"--api-prefix", "--api-key-file"} & set(entry.flags)


def test_an_embeddings_server_without_pooling_is_not_switched_to(beside: Deployment) -> None:
    add(beside, "embed", 12, task="embeddings")
    outcome = beside.run()
    assert outcome.code != 0
    assert "declare serve.pooling" in " ".join(outcome.output.split()), str(outcome)


def pictures_seen(deployment: Deployment) -> int:
    """Requests that the model with a projector has served since its start: a short one, a long one, a picture."""
    invocation = "$(systemctl show llamarig-eyes -p InvocationID --value)"
    log = f"journalctl --sync; journalctl _SYSTEMD_INVOCATION_ID={invocation} -o cat"
    return int(deployment.shell(f"{log} | grep -c 'processing task'"))


def test_a_projector_is_proved_with_a_picture_also_after_a_rollback(beside: Deployment, hub: Hub) -> None:
    folder = hub.store.root.parent / "eyes-model"
    if not (folder / "mmproj-F32.gguf").exists():
        write_shards(folder / "F16", "Eyes-F16", seed=SEED + 2, experts=2)
        write_projector(folder / "mmproj-F32.gguf", seed=SEED)
    hub.add_repo(EYES, {str(path.relative_to(folder)): path for path in folder.rglob("*.gguf")})
    eyes = add(beside, "eyes", 14, repo=EYES, mmproj="mmproj-F32.gguf")
    succeeds(beside.run())
    picture = picture_request()
    assert pictures_seen(beside) == 3
    assert is_answer([], post(f"{eyes}{picture.path}", picture.body))
    succeeds(beside.run("--dry"))

    beside.rig["models"][1]["serve"]["cache_ram_mib"] = 32
    succeeds(beside.run())
    assert pictures_seen(beside) == 3
    succeeds(beside.run("--data", "model=eyes", script="tasks/rollback.py"))
    assert pictures_seen(beside) == 3
    assert is_answer([], post(f"{eyes}{picture.path}", picture.body))
    pid = "$(systemctl show llamarig-eyes -p MainPID --value)"
    assert "--cache-ram 64" in beside.shell(f"tr '\\0' ' ' </proc/{pid}/cmdline")


def test_a_model_with_a_certificate_is_served_over_tls(beside: Deployment) -> None:
    """Its key can be read by root and by its server alone; a renewed certificate restarts it."""
    directory, name = "/etc/llamarig/keys", "/CN=box.lan"
    make = (
        f"install -d -m 700 {directory}; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes "
        f"-subj {name} -addext subjectAltName=IP:127.0.0.1 -out {directory}/chain.pem -keyout {directory}/key.pem; "
        f"chmod 600 {directory}/key.pem"
    )
    beside.shell(make)
    beside.rig["builds"].append({**beside.rig["builds"][0], "name": "safe", "tls": True})
    files = {"tls_certificate_file": f"{directory}/chain.pem", "tls_key_file": f"{directory}/key.pem"}
    address = add(beside, "safe", 16, **files)
    beside.rig["models"][1]["build"] = "safe"
    succeeds(beside.run(timeout=DEPLOY_SECONDS))
    assert "key.pem" not in beside.shell(
        "tr '\\0' ' ' </proc/$(systemctl show llamarig-safe -p MainPID --value)/cmdline"
    )
    trusted = ssl.create_default_context(cadata=beside.shell(f"cat {directory}/chain.pem"))
    body = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4}
    url = f"{address.replace('http', 'https')}/v1/chat/completions"
    assert is_answer([], post(url, body, context=trusted))
    assert beside.run().changed == []
    succeeds(beside.run("--data", "only=llama", script="tasks/audit.py"))
    beside.shell("rm -f /run/llamarig_liveness/state.json; systemctl start llamarig_liveness")
    assert "llamarig-safe.service" in beside.shell("cat /run/llamarig_liveness/state.json")

    beside.shell(make)
    dry = beside.run("--dry")
    assert "running with other contents of them" in " ".join(dry.output.split()), str(dry)
    succeeds(beside.run())
    renewed = ssl.create_default_context(cadata=beside.shell(f"cat {directory}/chain.pem"))
    assert is_answer([], post(url, body, context=renewed))
