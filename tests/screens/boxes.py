"""The boxes of the screens: what they answer to pyinfra's connector `@fake`, and the inventory that names them.

The answers are those of a box that is as declared (tests/items/converged_box.py), changed in what the screen is about.
The fake stands in for boxes whose text never changes; what real ones answer is tested in tests/box.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llamarig.commands.audit import queries_of_audit
from llamarig.commands.status import queries_of_status
from llamarig.declare.rig import Hub as HubSettings
from llamarig.declare.rig import Rig
from llamarig.engine.item import Query, query
from llamarig.facts.files import FileSizes, Sha256Sums
from llamarig.facts.installation import Installed
from llamarig.facts.measurements import RequestTimed
from llamarig.facts.plannable_devices import HeldByServers
from llamarig.facts.releases import Releases
from llamarig.facts.server_activity import ServerActivity
from llamarig.facts.server_processes import ServerStarts
from llamarig.facts.start_records import PreviousProofs, Proofs
from llamarig.items.box_for_quants import PROGRAM_PATHS, queries_of_box
from llamarig.items.model_units import unit_query
from llamarig.items.releases import release_directories
from llamarig.remote.shared.unit_directives import directives_sha256

from tests.box.hub import Hub
from tests.box.sparse_models import write_sparse
from tests.items.converged_box import (
    LOCKED_FILE,
    SECOND_FILE,
    Box,
    batch_reply,
    converged_box,
    cpu_rig,
    fact_command,
    write_lock_file,
)
from tests.placement.model_shapes import QWEN3_30B_A3B

UNIT = "llamarig-m.service"
ANSWERS = Path(__file__).parents[1] / "facts/data/answers"
GONE = ("gone", {"ssh_hostname": "127.0.0.1", "ssh_port": 1, "ssh_connect_retries": 0})
"""A host that refuses connections."""
_SERVED = "llamarig-m.service answers; it was away for 41 s"
_LOST = {
    "state": "failed",
    "message": "llamarig-m.service ended while loading (exit 1); llamarig-m.service serves again as before; it was away"
    " for 12 s",
    "lines": ["error loading model: tensor 'blk.7.ffn_up.weight' has wrong shape"],
}


@dataclass(frozen=True)
class Described:
    """A box, and what its jobs come to."""

    box: Box
    switch: Mapping[str, Any]


def clean(rig: Rig) -> Described:
    """As declared; ``m`` has answered requests."""
    box = converged_box(rig)
    activity = {"ready": True, "context": 4096, "slots": 1, "busy": 0}
    speed = {"prompt_per_second": 184.06, "generation_per_second": 68.46}
    box.outputs[query(HeldByServers)] = "MemAvailable:   31457280 kB"
    box.outputs[query(FileSizes, paths=PROGRAM_PATHS)] = "\n".join(f"1000 {path}" for path in PROGRAM_PATHS)
    box.outputs[query(ServerActivity)] = json.dumps({UNIT: {**activity, **speed}})
    box.outputs[query(Sha256Sums, paths=list(box.here.programs))] = "\n".join(
        f"{file.sha256}  {path}" for path, file in box.here.programs.items()
    )
    box.outputs[query(Installed)] = (ANSWERS / "Installed.nspawn_debian13.txt").read_text()
    box.outputs[query(ServerStarts)] = (ANSWERS / "ServerStarts.nspawn_debian13.txt").read_text()
    timing = {"prompt_tokens": 1024, "generated_tokens": 128, "prompt_per_second": 190.5, "generation_per_second": 70.1}
    box.outputs[query(RequestTimed, unit=UNIT, prompt_tokens=0, generated_tokens=128)] = json.dumps(
        {**timing, "alone": True}
    )
    return Described(box, {"state": "done", "message": _SERVED})


def with_own_start(rig: Rig) -> Described:
    """As declared, and a unit of the owner's own runs a llama-server beside it."""
    described = clean(rig)
    of = query(ServerStarts)
    described.box.outputs[of] = described.box.outputs[of].replace("unit=llamarig-tiny.service", "unit=mine.service")
    return described


def drifted(rig: Rig) -> Described:
    """Another context than declared, as before the declaration was changed."""
    model = rig.models[0]
    before = model.model_copy(update={"serve": model.serve.model_copy(update={"context": 8192})})
    described, other = clean(rig), converged_box(rig.model_copy(update={"models": (before, *rig.models[1:])}))
    units = unit_query(rig)
    described.box.outputs[units] = other.outputs[units].replace("Health=200", "Away=41.3\nHealth=200")
    return described


def failing(rig: Rig) -> Described:
    """The same; the switch to what is declared fails."""
    described = drifted(rig)
    return Described(described.box, _LOST)


def switching(rig: Rig) -> Described:
    """The same; the switch to what is declared does not end."""
    running = {"state": "running", "step": "waiting until it answers", "started": 1.0, "step_started": 1.0, "now": 2.0}
    return Described(drifted(rig).box, running)


def stopped(rig: Rig) -> Described:
    """As declared, and a second model is stopped, as the declaration has it."""
    described = clean(rig)
    units = described.box.outputs[unit_query(rig)]
    head, second, rest = units.partition("unit=llamarig-n.service\n")
    rest = rest.replace("ActiveState=active", "ActiveState=inactive", 1).replace("Health=200", "Health=000")
    rest = rest.replace("UnitFileState=enabled", "UnitFileState=disabled", 1)
    rest = "\n".join(line for line in rest.splitlines() if not line.startswith("Arguments="))
    described.box.outputs[unit_query(rig)] = head + second + rest
    return Described(described.box, {"state": "done", "message": "llamarig-n.service answers; it was away for 41 s"})


def stopped_and_failing(rig: Rig) -> Described:
    """The same; the switch to the second model fails."""
    return Described(stopped(rig).box, json.loads(json.dumps(_LOST).replace("-m.service ended", "-n.service ended")))


def with_earlier_start(rig: Rig) -> Described:
    """As declared, and it has answered with another context before."""
    described = clean(rig)
    text = re.findall("Text=(.*)", drifted(rig).box.outputs[unit_query(rig)])[0]
    now = re.findall("Text=(.*)", described.box.outputs[unit_query(rig)])[0]
    for fact, of in ((Proofs, now), (PreviousProofs, text)):
        decoded = base64.b64decode(of).decode()
        job = {"unit": UNIT, "text": decoded, "commit": rig.builds[0].source.commit, "peers": []}
        record = {"text": decoded, "job": job, "proved_at": "2026-11-27 18:02 UTC"}
        described.box.outputs[query(fact)] = f"{UNIT}\t{json.dumps(record)}"
    return described


def with_earlier_start_and_failing(rig: Rig) -> Described:
    """The same; the rollback fails."""
    return Described(with_earlier_start(rig).box, _LOST)


def rolled_back(rig: Rig) -> Described:
    """Rolled back to another context than declared."""
    described = drifted(rig)
    units = described.box.outputs[unit_query(rig)]
    text = base64.b64decode(re.findall("Text=(.*)", units)[0]).decode()
    marker = f"RolledBackAt=2026-11-28 12:00 UTC\nRolledBackTo={directives_sha256(text)}\nHealth=200"
    described.box.outputs[unit_query(rig)] = units.replace("Health=200", marker, 1)
    return described


def without_release(rig: Rig) -> Described:
    """A box that was never deployed to."""
    described = clean(rig)
    described.box.outputs[query(Releases, directories=release_directories(rig))] = ""
    return described


# Of the quants below, the largest first, with the whole vocabulary and with a shorter one.
_HOST_MIB = (31000, 30700, 21100, 20900, 17900, 17700)
_DRY_RUNS = "\n".join(f"run={number}\nHost {mib} 3072 302\nexit=0" for number, mib in enumerate(_HOST_MIB))
REPOSITORY = "acme/Qwen3-30B-A3B-GGUF"
_QUANTS = ("Q8_0", "Q5_K", "Q4_K_M")


@contextmanager
def served_quants(directory: Path) -> Iterator[str]:
    """A stand-in Hub with three quants of a model; its endpoint."""
    directory.mkdir()
    files = [
        write_sparse(directory, f"Qwen3-30B-A3B-{quant}", replace(QWEN3_30B_A3B, quant=quant))[0] for quant in _QUANTS
    ]
    with Hub(directory) as hub:
        hub.add_sparse_repo(REPOSITORY, {file.name: file for file in files})
        # A newer version of what the boxes serve.
        hub.add_sparse_repo("o/r", {LOCKED_FILE.path: files[0], SECOND_FILE.path: files[1]})
        yield hub.endpoint


Kind = Callable[[Rig], Described]


def write_inventory(
    directory: Path, hosts: Mapping[str, Kind | None], models: Iterable[str], endpoint: str = ""
) -> Path:
    """Write an inventory, its lock, and the replies of its boxes.

    :param hosts: name -> kind of box; None for one that cannot be reached
    :param endpoint: of the Hub, where a command asks it
    """
    paths = {"model_lock": "lock.json", "plan_file": "plans.json", "bench_ledger": "ledger.jsonl"}
    rig = cpu_rig(models=models, **{name: str(directory / file) for name, file in paths.items()})
    if endpoint:
        rig = rig.model_copy(update={"hub": HubSettings(endpoint=endpoint)})
    if len(rig.models) > 1:
        alone = [
            one.model_copy(update={"serve": one.serve.model_copy(update={"coexists": False})}) for one in rig.models
        ]
        rig = rig.model_copy(update={"models": tuple(alone)})
    write_lock_file(rig)
    declared = rig.model_dump(mode="json")
    listed: list[tuple[str, dict[str, Any]]] = []
    for name, kind in hosts.items():
        if kind is None:
            listed.append((GONE[0], {**GONE[1], "rig": declared}))
        else:
            replies = _replies(kind(rig), rig)
            fake = {"fake_delay": 0, "fake_delay_jitter": 0, "fake_responses": replies}
            listed.append((f"@fake/{name}", {**fake, "rig": declared}))
    (directory / "hosts.json").write_text(json.dumps(listed))
    inventory = directory / "home.py"
    listing = str(directory / "hosts.json")
    inventory.write_text(f"import json\n\nhome = [(name, data) for name, data in json.load(open({listing!r}))]\n")
    return inventory


def _replies(described: Described, rig: Rig) -> dict[str, str]:
    box = described.box
    active = "\nactive=active" if described.switch["state"] == "running" else ""
    jobs = {
        f"echo job=switch-{model.name}": f"job=switch-{model.name}{active}\nstatus={json.dumps(described.switch)}"
        for model in rig.models
    }
    batches: dict[str, str] = {}
    for of in (queries_of_audit, queries_of_status):
        batches |= batch_reply(of(rig, box.here), box.outputs)
    batches |= batch_reply(queries_of_box(rig), box.outputs) | {"plan.dry_runs": _DRY_RUNS}
    facts = {fact_command(one): text for one, text in _others(box.outputs).items()}
    return {"id -u; id -un": "0\nroot", **jobs, **batches, **box.replies(), **facts}


def _others(outputs: Mapping[Query[Any], str]) -> dict[Query[Any], str]:
    return {one: text for one, text in outputs.items() if text}
