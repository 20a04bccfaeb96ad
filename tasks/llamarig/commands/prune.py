"""List what nothing uses any more, and delete what the owner names."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping

from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State
from pyinfra.context import host, state

from llamarig.checks.leftovers import CannotDeleteError, Leftover, chosen, leftovers
from llamarig.declare.rig import Rig
from llamarig.engine.comparison_inputs import read_here
from llamarig.engine.item import Commands
from llamarig.engine.refuse import refuse, report, while_answered
from llamarig.engine.run import ask, conclude
from llamarig.engine.screen import say
from llamarig.engine.shell import run_line
from llamarig.facts.disk_use import DirectorySizes
from llamarig.facts.jobs import RunningJobs
from llamarig.facts.model_store import ModelStore
from llamarig.facts.references import OpenPaths, References
from llamarig.facts.releases import InstalledOrder, Releases
from llamarig.facts.units import Units
from llamarig.items.box_reservation import deletion, on_reserved_box, while_reserved
from llamarig.records.model_lock import LockedModel
from llamarig.render import layout
from llamarig.render.model_paths import GIB


@operation()
@while_answered
def leftovers_deleted(rig: Rig, names: tuple[str, ...], keep: int | None, takeover: bool = False) -> Commands:
    """List every leftover with size and reason; delete those named, never what a unit, a job or a process uses.

    :param keep: how many undeclared releases are kept; host.keep_releases if None
    :param takeover: whether jobs that are in the way of a deletion are stopped
    """
    here = read_here(rig)
    if here.locked is None:
        missing = f"{rig.model_lock} lacks a declared model: run deploy.py first, which adds it"
        yield from refuse(here.lock_problem or missing)
        return
    locked = list(here.locked)
    kept = rig.host.keep_releases if keep is None else keep
    found = _leftovers(rig, locked, kept)
    if state.is_executing:
        for leftover in found:
            say(host, str(leftover))
        free = sum(leftover.size for leftover in found if not leftover.kept_because)
        if found:
            conclude(_this(), f"{free / GIB:.2f} GiB can be freed with --data delete=NAME[,NAME]; nothing was deleted")
        else:
            conclude(_this(), "nothing to prune")
    try:
        wanted = chosen(names, found)
    except CannotDeleteError as error:
        yield from refuse(str(error))
        return
    if not wanted:
        host.noop("nothing is named for deletion")
        return
    touched = deletion()
    yield from on_reserved_box(takeover, _delete, rig, locked, names, kept, touched, touched=touched)


def _this() -> Host:
    return state.inventory.get_host(host.name)


def _delete(
    state: State, host: Host, rig: Rig, locked: list[LockedModel], names: tuple[str, ...], keep: int, touched: str
) -> bool:
    """Delete what is named and, now that no job can begin to use it, still not used."""
    try:
        wanted = chosen(names, _leftovers(rig, locked, keep))
    except CannotDeleteError as error:
        report(host, str(error))
        return False
    for leftover in wanted:
        say(host, f"deleting {leftover.name}, {leftover.size / GIB:.2f} GiB")
        succeeded, output = run_line(while_reserved(touched, f"rm -rf -- {shlex.join(leftover.paths)}"))
        if not succeeded:
            report(host, f"{leftover.name} is not wholly deleted", output.stderr_lines)
            return False
    size = sum(leftover.size for leftover in wanted) / GIB
    conclude(host, f"deleted {', '.join(leftover.name for leftover in wanted)}: {size:.2f} GiB")
    rest = f"find -H {layout.MODELS} -mindepth 1 -type d -empty -delete"
    if any(leftover.name.startswith("units/") for leftover in wanted):
        rest += " && systemctl daemon-reload"
    succeeded, _ = run_line(while_reserved(touched, rest))
    return succeeded


def _leftovers(rig: Rig, locked: list[LockedModel], keep: int) -> list[Leftover]:
    parents = [layout.RELEASES, layout.WORK, layout.CUDA]
    units = ask(Units, health={})
    # Including units of models that are no longer declared: the owner may start them by hand.
    users = {name: "\n".join([unit.text, *unit.arguments]) for name, unit in units.items()}
    users |= {f"the running job {name}": job.text for name, job in ask(RunningJobs).items()}
    # And other units, drop-ins, and presets, which another llama-server may read.
    references = ask(References, parents=[*parents, layout.MODELS])
    starts = _start_records(references, {*units, *(layout.unit_name(model.name) for model in rig.models)})
    for name, text in references.items():
        if not name.startswith(f"{layout.PROOFS}/"):
            users[name] = "\n".join([users.get(name, ""), text])
    users["a running process"] = ask(OpenPaths, parents=[*parents, layout.MODELS])
    directories = ask(DirectorySizes, parents=parents)
    releases = ask(Releases, directories=[path for path in directories if path.startswith(layout.RELEASES)])
    roots = {
        path: str(release.manifest.get("cmake", {}).get("CUDAToolkit_ROOT", ""))
        for path, release in releases.items()
        if release.manifest is not None
    }
    installed = ask(InstalledOrder)
    stored = ask(ModelStore).files
    return leftovers(rig, locked, stored, directories, users, starts, roots, keep, units, installed)


def _start_records(references: Mapping[str, str], units: Collection[str]) -> dict[str, str]:
    """The start records of these units, also the ones before the current: where a failed switch or a rollback ends.

    A record outlives its unit, so that those of a removed one hold nothing.
    """
    found = {}
    for path, text in references.items():
        parent, _, name = path.rpartition("/")
        if parent == layout.PROOFS and f"{name.partition('.service')[0]}.service" in units:
            found[f"start record {name}"] = text
    return found
