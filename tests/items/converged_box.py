"""A converged box: the output of each fact's command on it, and the facts parsed from that output."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llamarig import declare as d
from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Difference, Item, Query, Seen, query
from llamarig.engine.package_files import programs, requirements
from llamarig.facts.capacity import Capacity
from llamarig.facts.fact_batch import FactBatch
from llamarig.facts.files import Ownership, Sha256Sums, UserExists
from llamarig.facts.interpreters import Interpreters
from llamarig.facts.machine import MachineState
from llamarig.facts.model_store import ModelStore
from llamarig.facts.releases import Releases
from llamarig.facts.unit_files import UnitFiles
from llamarig.facts.virtual_environments import VirtualEnvironment
from llamarig.items.all_items import ITEMS
from llamarig.items.model_units import ServedModels, unit_query, wanted_units
from llamarig.items.packages import wanted_packages
from llamarig.items.python import SYSTEM_PYTHON
from llamarig.items.releases import release_directories
from llamarig.records.model_lock import LockedFile, LockedModel, ModelLock, lock_key
from llamarig.remote.shared.unit_directives import directives_sha256
from llamarig.render import layout, switch_recovery
from llamarig.render.liveness_probe import SERVICE, TIMER, service_text, timer_text
from llamarig.render.model_paths import record_of, target
from pyinfra.facts.deb import DebPackages
from pyinfra.facts.files import File

HOST = "@fake"
GIB = 1 << 30
FLAGS = (
    *("--model", "--mmproj", "--alias", "--host", "--port", "--api-key-file", "--ctx-size", "--parallel", "--threads"),
    *("--batch-size", "--ubatch-size", "--n-gpu-layers", "--cpu-moe", "--n-cpu-moe", "--tensor-split", "--main-gpu"),
    *("--override-tensor", "--split-mode", "--device", "--cache-type-k", "--cache-type-v", "--flash-attn", "--fit"),
    *("--load-mode", "--mmap", "--no-mmap", "--mlock", "--op-offload", "--no-op-offload", "--metrics", "--jinja"),
    *("--cache-ram", "--no-webui", "--no-ui", "--offline", "--no-slots", "--fit-target", "--fit-ctx", "--kv-unified"),
    *("--threads-batch", "--sleep-idle-seconds", "--swa-checkpoints", "--ctx-checkpoints", "--no-kv-unified"),
)
"""What the release's llama-server lists in its --help, as far as these tests need it."""
SYSCTL_TEXT = "# Written by llamarig: keeps model weights in RAM.\nvm.swappiness = 10\n"
NOW = 1795270000
"""The box's clock, in seconds since 1970."""
FILE_FOUND = "user=root group=root mode=-rwxr-xr-x atime=1795270000 mtime=1795270000 ctime=1795270000 size=1 '{path}'"
"""What pyinfra's own fact of a file prints for one that is there."""


def cpu_rig(*, models: Iterable[str] = ("m",), **fields: Any) -> Rig:
    """Models served by the CPU, from one build."""
    declared = [
        d.model(
            name=name,
            repo="o/r",
            quant="Q6",
            build="cpu",
            serve=d.serve(port=8080 + number, context=4096, coexists=True),
        )
        for number, name in enumerate(models)
    ]
    return Rig.model_validate(d.rig(builds=[d.build(name="cpu", backend="cpu")], models=declared, **fields))


LOCKED_FILE = LockedFile(path="Q6/m-00001-of-00002.gguf", size=10 * GIB, sha256="a" * 64)
SECOND_FILE = LockedFile(path="Q6/m-00002-of-00002.gguf", size=4 * GIB, sha256="b" * 64)
LOCKED = LockedModel(repo="o/r", commit="c" * 40, shards=(LOCKED_FILE, SECOND_FILE))


def write_lock_file(rig: Rig, locked: LockedModel = LOCKED) -> None:
    """Lock every model of the rig to these files."""
    lock = ModelLock(models={lock_key(model): locked for model in rig.models})
    Path(rig.model_lock).write_text(lock.model_dump_json())


def control_machine(rig: Rig, **fields: Any) -> ControlMachine:
    """The control machine's inputs to a comparison, with every model locked."""
    locked = {"locked": [LOCKED] * len(rig.models), "programs": programs(), "requirements": requirements()}
    return ControlMachine(**{**locked, **fields})


@dataclass
class Box:
    """A converged box; change ``outputs`` to make it differ."""

    rig: Rig
    here: ControlMachine
    outputs: dict[Query[Any], str] = field(default_factory=dict)
    """Query -> what its command prints; nothing for those left out."""

    def queries(self) -> list[Query[Any]]:
        """What all items read, in their order."""
        return [each for item in ITEMS for each in item.queries(self.rig, self.here)]

    def value(self, fact_query: Query[Any]) -> Any:
        """A fact, made of what its command prints."""
        fact = fact_query.fact()
        return fact.process(self.outputs[fact_query].splitlines()) if self.outputs.get(fact_query) else fact.default()

    def seen(self, item: Item, **here: Any) -> Seen:
        """What the item's comparison is given."""
        machine = replace(self.here, **here)
        return Seen(
            HOST, machine, {fact_query: self.value(fact_query) for fact_query in item.queries(self.rig, machine)}
        )

    def differences(self, item: Item, **here: Any) -> list[Difference]:
        """The item's comparison. ``here``: changed fields of the control machine."""
        return item.differences(self.rig, self.seen(item, **here))

    def replies(self) -> dict[str, str]:
        """Replies of the fake connector: to the one command that reads all facts, and to each fact alone."""
        each = {fact_command(fact_query): text for fact_query, text in self.outputs.items()}
        return {**batch_reply(self.queries(), self.outputs), **each}


def fact_command(fact_query: Query[Any]) -> str:
    """The command of a fact, as the connector gets it."""
    return str(fact_query.fact().command(**fact_query.arguments))


def batch_reply(queries: Iterable[Query[Any]], outputs: Mapping[Query[Any], str]) -> dict[str, str]:
    """Reply to the one command that reads these facts; each prints what ``outputs`` gives it, or nothing."""
    once = list(dict.fromkeys(queries))
    lines = [f"@@llamarig {number}\n{outputs.get(one, '')}\n\n@@llamarig ok" for number, one in enumerate(once)]
    return {FactBatch().command([(one.fact, one.arguments) for one in once]): "\n".join(lines)}


def converged_box(rig: Rig) -> Box:
    """A Debian box with CPU builds that is as declared."""
    here = control_machine(rig)
    directories = [f"{path}\troot root 755 directory" for path in layout.DIRECTORIES]
    sums = [f"{file.sha256}  {path}" for path, file in here.programs.items()]
    apt = "/usr/bin/apt-get"
    sysctl = hashlib.sha256(SYSCTL_TEXT.encode()).hexdigest()
    box = Box(
        rig,
        here,
        {
            query(MachineState): f"== swappiness\n10\n== at-boot\n# {layout.SYSCTL_FILE}\nvm.swappiness = 10",
            query(Sha256Sums, paths=[layout.SYSCTL_FILE]): f"{sysctl}  {layout.SYSCTL_FILE}",
            query(Ownership, paths=[layout.SYSCTL_FILE]): f"{layout.SYSCTL_FILE}\troot root 644 regular file",
            query(UserExists, user=layout.USER): f"{layout.USER}:x:999:999::{layout.STATE}:/usr/sbin/nologin",
            query(Ownership, paths=list(layout.DIRECTORIES)): "\n".join(directories),
            query(Sha256Sums, paths=list(here.programs)): "\n".join(sums),
            query(File, path=apt): FILE_FOUND.format(path=apt),
            query(DebPackages): "\n".join(f"ii  {name} 1.0 amd64 x" for name in wanted_packages(rig, HOST)["debian"]),
            query(Interpreters, paths=[layout.PYTHON, SYSTEM_PYTHON]): interpreters_output(layout.PYTHON),
            query(VirtualEnvironment, path=layout.HUB_VENV): environment_output(
                here.requirements["hub-requirements.txt"]
            ),
            query(Releases, directories=release_directories(rig)): "\n".join(
                map(release_output, release_directories(rig))
            ),
            query(ModelStore): store_output(here.locked or ()),
            query(UnitFiles, names=[SERVICE, TIMER]): unit_files_output(probe_texts(rig)),
            query(UnitFiles, names=[switch_recovery.SERVICE]): unit_files_output(
                {switch_recovery.SERVICE: switch_recovery.service_text()}
            ),
            query(Capacity): "MemTotal:       65536000 kB\nkernel 6.12.0\ncpus 0-15",
        },
    )
    box.outputs[unit_query(rig)] = units_output(box)
    return box


def interpreters_output(*usable: str) -> str:
    """Pythons of version 3.13 at these paths."""
    return "\n".join(f"path={path}\nversion=3.13\ncomplete=yes" for path in usable)


def environment_output(lock: str) -> str:
    """A virtual environment with every distribution of its lock."""
    pins = re.findall(r"^([A-Za-z0-9][\w.-]*)==([^\s;\\]+)", lock, re.MULTILINE)
    distributions = [f"{name}-{version}.dist-info" for name, version in pins]
    return "\n".join([f"{hashlib.sha256(lock.encode()).hexdigest()}  -", *distributions])


def release_output(directory: str, *, flags: Iterable[str] = FLAGS) -> str:
    """A whole release."""
    files = {"llama-server": {"size": 1}, "llama-fit-params": {"size": 1}}
    manifest = json.dumps({"commit": "0c1e570", "flags": sorted(flags), "files": files})
    return f"release\t{directory}\nmanifest\t{manifest}\n" + "\n".join(f"file\t1\t{name}" for name in files)


def store_output(locked: Iterable[LockedModel]) -> str:
    """A model store with every locked file, each verified."""
    lines = [f"free\t{1 << 50}"]
    for model in locked:
        for inode, file in enumerate(model.files, 7):
            path = target(model, file)
            record = {"size": file.size, "mtime_ns": 5, "inode": inode, "sha256": file.sha256}
            lines.append(f"file\t{file.size}\t{file.size // 512}\t0.000000005\t{inode}\t{path}")
            lines.append(f"record\t{record_of(path)}\t{json.dumps(record)}")
    return "\n".join(dict.fromkeys(lines))


def probe_texts(rig: Rig) -> dict[str, str]:
    """The liveness probe's two units."""
    return {SERVICE: service_text(model.serve.host for model in rig.models), TIMER: timer_text()}


def unit_files_output(texts: Mapping[str, str]) -> str:
    """Units of these texts, in place."""
    return "\n".join(
        f"unit={name}\ntext={_base64(text)}\nActiveState=active\nUnitFileState=enabled\nNeedDaemonReload=no"
        for name, text in texts.items()
    )


def units_output(box: Box) -> str:
    """Every model's unit as it is wanted, answering."""
    blocks = []
    for wanted in wanted_units(box.rig, box.seen(ServedModels())):
        arguments = "\0".join(wanted.arguments) + "\0"
        blocks.append(
            f"unit={wanted.unit}\nFile=1795269800.5\nUptime=900.0\nText={_base64(wanted.text)}\n"
            f"ActiveState=active\nUnitFileState=enabled\nNeedDaemonReload=no\n"
            f"ExecMainStartTimestampMonotonic=800000000\nInvocationID=0a1b\nArguments={_base64(arguments)}\n"
            f"ProvedFile=1795269800.5\nProvedInvocation=0a1b\nProvedInputs={wanted.inputs}\n"
            f"Directives={directives_sha256(wanted.text)}\nHealth=200"
        )
    return "\n".join(blocks)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
