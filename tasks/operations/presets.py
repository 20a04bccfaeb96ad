"""The models of one build as a preset file for llama-server's router mode."""

from __future__ import annotations

import hashlib
import io

from pyinfra.api.operation import operation
from pyinfra.context import host
from pyinfra.operations import files

from tasks.facts.files import Sha256Sums
from tasks.operations import Commands, closes
from tasks.operations.load_modes import read_load_modes
from tasks.operations.lock_file import LockError, locked_models
from tasks.operations.long_work import read_releases
from tasks.operations.once import read_once
from tasks.operations.plan_file import PlanError
from tasks.operations.refuse import refuse
from tasks.operations.serving import read_units
from tasks.planning import layout
from tasks.planning.build_flags import FlagRefusedError
from tasks.planning.checks.llama_cpp import ModelLock, ReleasesWhole
from tasks.planning.flags import server_arguments
from tasks.planning.pinned_weights import with_load_mode
from tasks.planning.presets import PresetError, preset_text
from tasks.planning.release import release_path
from tasks.planning.shards import model_files
from tasks.spec.rig import Rig


def preset_path(build: str) -> str:
    """Where the presets of a build lie."""
    return f"{layout.PRESETS}/{build}.ini"


@operation()
@closes(ModelLock, ReleasesWhole)
def written(rig: Rig) -> Commands:
    """The file says what the units say, in the flags of the same release."""
    try:
        locked = locked_models(rig)
    except LockError:
        locked = None
    build = next(build for build in rig.builds if build.name == rig.presets)
    release = read_releases(rig).get(release_path(build, rig.models))
    if locked is None or release is None or release.manifest is None:
        # What serves the models has said so in full, or will; on a fresh box neither is there yet.
        yield from refuse("the presets need a whole release and a model lock")
        return
    try:
        modes, _ = read_load_modes(rig, read_releases(rig), locked, read_units(rig))
        served = [with_load_mode(rig, model, modes[model.name].mode) for model in rig.models]
        text = preset_text(
            [
                (model, server_arguments(model, model_files(lock), release.flags))
                for model, lock in zip(served, locked, strict=True)
                if model.build == build.name
            ],
            rig.default_model.name,
        )
    except (PresetError, PlanError, FlagRefusedError) as error:
        yield from refuse(str(error))
        return
    path = preset_path(build.name)
    if read_once(Sha256Sums, paths=[path]).get(path) == hashlib.sha256(text.encode()).hexdigest():
        host.noop(f"{path} is as declared")
        return
    yield from files.directory._inner(path=layout.PRESETS, user="root", group="root", mode="755")
    yield from files.put._inner(src=io.StringIO(text), dest=path, mode="644")
