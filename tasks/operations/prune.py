"""Telling what nothing uses any more, and deleting what the owner names of it."""

from __future__ import annotations

from pyinfra.api.command import QuoteString, StringCommand
from pyinfra.api.operation import operation
from pyinfra.context import host, state

from tasks.facts.disk_use import DirectorySizes
from tasks.facts.jobs import RunningJobs
from tasks.facts.model_store import ModelStore
from tasks.facts.references import OpenPaths, References
from tasks.facts.releases import Releases
from tasks.facts.units import Units
from tasks.operations import Commands
from tasks.operations.model_lock import locked_or_refused
from tasks.operations.refuse import refuse
from tasks.planning import layout
from tasks.planning.leftovers import CannotDeleteError, Leftover, chosen, leftovers
from tasks.planning.shards import GIB
from tasks.spec.model_lock import LockedModel
from tasks.spec.rig import Rig


@operation()
def leftovers_deleted(rig: Rig, names: tuple[str, ...], keep: int | None) -> Commands:
    """List every leftover with size and reason; delete those named, never what a unit, a job or a process uses.

    :param keep: how many releases no build makes any more may not be deleted; as declared where None
    """
    locked = yield from locked_or_refused(rig)
    if locked is None:
        return
    found = _leftovers(rig, locked, rig.host.keep_releases if keep is None else keep)
    if state.is_executing:
        for leftover in found:
            host.log(str(leftover))
        free = sum(leftover.size for leftover in found if not leftover.stays)
        host.log(
            f"{free / GIB:.2f} GiB could go; delete with --data delete=NAME[,NAME]" if found else "nothing to prune"
        )
    try:
        wanted = chosen(names, found)
    except CannotDeleteError as error:
        yield from refuse(str(error))
        return
    if not wanted:
        host.noop("nothing was named to be deleted")
        return
    for leftover in wanted:
        host.log(f"deleting {leftover.name}, {leftover.size / GIB:.2f} GiB")
        yield StringCommand("rm", "-rf", "--", *(QuoteString(path) for path in leftover.paths))
    yield StringCommand(f"find -H {layout.MODELS} -mindepth 1 -type d -empty -delete")


def _leftovers(rig: Rig, locked: list[LockedModel], keep: int) -> list[Leftover]:
    parents = [layout.RELEASES, layout.WORK, layout.CUDA]
    units = host.get_fact(Units, health={})
    # Also units of models declared no longer: their owner may start them by hand.
    users = {name: "\n".join([unit.text, *unit.arguments]) for name, unit in units.items()}
    users |= {f"the running job {name}": job.text for name, job in host.get_fact(RunningJobs).items()}
    # And units that are none of ours, drop-ins, and presets, which another llama-server may read.
    for name, text in host.get_fact(References, parents=[*parents, layout.MODELS]).items():
        users[name] = "\n".join([users.get(name, ""), text])
    users["a running process"] = host.get_fact(OpenPaths, parents=[*parents, layout.MODELS])
    directories = host.get_fact(DirectorySizes, parents=parents)
    releases = host.get_fact(Releases, directories=[path for path in directories if path.startswith(layout.RELEASES)])
    roots = {
        path: str(release.manifest.get("cmake", {}).get("CUDAToolkit_ROOT", ""))
        for path, release in releases.items()
        if release.manifest is not None
    }
    return leftovers(rig, locked, host.get_fact(ModelStore).files, directories, users, roots, keep)
