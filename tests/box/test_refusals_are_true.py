"""The evidence in tests/refusals/EVIDENCE.md, tried with the pinned llama-server and looked up in its source."""

from __future__ import annotations

import shlex

import pytest

from tests.box.deployment import Deployment
from tests.lints.override_patterns import NOT_CPP, NOT_PYTHON
from tests.refusals.evidence import rows

pytestmark = pytest.mark.box

RUNS = sorted({run for row in rows() for run in row.runs})
SOURCES = sorted({source for row in rows() for source in row.sources})
PORT = 15
# Starts a server on port $2 and prints its log, and after that, if it serves, its slots.
TRY = """
m=$(ls {model}); shift 0
timeout 60 $(ls -d /opt/llamarig/llama.cpp/0c1e57098*/bin/llama-server | head -n 1) --model $m --ctx-size 4096 \\
  --parallel 1 --threads 1 --no-warmup --port {port} {arguments} >/run/tried 2>&1 & p=$!
for i in $(seq 120); do
  kill -0 $p 2>/dev/null || break
  if curl -sf --noproxy '*' http://127.0.0.1:{port}/health >/dev/null; then
    echo; echo SERVES; curl -s --noproxy '*' http://127.0.0.1:{port}/slots; break
  fi
  sleep 0.5
done
kill $p 2>/dev/null; wait $p; cat /run/tried
"""
TINY = "/var/lib/llamarig/models/llamarig/Tiny-*/*/F16/*-00001-of-*.gguf"


def tried(deployment: Deployment, arguments: str, model: str = TINY) -> tuple[bool, str]:
    """Whether llama-server serves with these arguments, and what it printed."""
    port = deployment.box.port + PORT
    words = " ".join(shlex.quote(word) for word in arguments.split()).replace("MODEL", "$m")
    output = deployment.shell(TRY.format(model=model, port=port, arguments=words), timeout=120)
    return "\nSERVES\n" in f"\n{output}", output


@pytest.mark.parametrize(("arguments", "serves", "text"), RUNS, ids=lambda value: str(value)[:60])
def test_what_was_run_is_so(deployment: Deployment, arguments: str, serves: bool, text: str) -> None:
    served, output = tried(deployment, arguments)
    assert (served, text in output) == (serves, True), output


def test_the_lines_of_the_source_are_there(deployment: Deployment) -> None:
    tree = deployment.shell("ls -d /var/lib/llamarig/work/0c1e57098*/source | head -n 1")
    wrong = []
    for path, line, text in SOURCES:
        found = deployment.shell(f"sed -n {line}p {tree}/{path}")
        if text not in found:
            wrong.append(f"{path}:{line}: {found!r} instead of {text!r}")
    assert not wrong, "\n".join(wrong)


def test_an_override_rule_is_read_as_c_plus_plus_reads_it(deployment: Deployment) -> None:
    wrong = []
    for pattern in (*NOT_CPP, *NOT_PYTHON):
        served, output = tried(deployment, f"--override-tensor {pattern}=CPU")
        if served is not (pattern in NOT_PYTHON):
            wrong.append(f"{pattern}: {output[-300:]}")
    assert not wrong, "\n".join(wrong)
