"""List what nothing uses any more, and delete what the owner names."""

from __future__ import annotations

from pyinfra.api.command import QuoteString, StringCommand
from pyinfra.api.operation import operation
from pyinfra.context import host, state

from llamarig.checks.leftovers import CannotDeleteError, Leftover, chosen, leftovers
from llamarig.declare.rig import Rig
from llamarig.engine.comparison_inputs import read_here
from llamarig.engine.item import Commands
from llamarig.engine.refuse import refuse
from llamarig.engine.screen import say
from llamarig.facts.disk_use import DirectorySizes
from llamarig.facts.jobs import RunningJobs
from llamarig.facts.model_store import ModelStore
from llamarig.facts.references import OpenPaths, References
from llamarig.facts.releases import Releases
from llamarig.facts.units import Units
from llamarig.records.model_lock import LockedModel
from llamarig.render import layout
from llamarig.render.model_paths import GIB


@operation()
def leftovers_deleted(rig: Rig, names: tuple[str, ...], keep: int | None) -> Commands:
    """List every leftover with size and reason; delete those named, never what a unit, a job or a process uses.

    :param keep: how many undeclared releases are kept; host.keep_releases if None
    """
    here = read_here(rig)
    if here.locked is None:
        missing = f"{rig.model_lock} lacks a declared model: run deploy.py first, which adds it"
        yield from refuse(here.lock_problem or missing)
        return
    locked = list(here.locked)
    found = _leftovers(rig, locked, rig.host.keep_releases if keep is None else keep)
    if state.is_executing:
        for leftover in found:
            say(host, str(leftover))
        free = sum(leftover.size for leftover in found if not leftover.kept_because)
        say(host, f"{free / GIB:.2f} GiB can be freed with --data delete=NAME[,NAME]" if found else "nothing to prune")
    try:
        wanted = chosen(names, found)
    except CannotDeleteError as error:
        yield from refuse(str(error))
        return
    if not wanted:
        host.noop("nothing is named for deletion")
        return
    for leftover in wanted:
        say(host, f"deleting {leftover.name}, {leftover.size / GIB:.2f} GiB")
        yield StringCommand("rm", "-rf", "--", *(QuoteString(path) for path in leftover.paths))
    yield StringCommand(f"find -H {layout.MODELS} -mindepth 1 -type d -empty -delete")


def _leftovers(rig: Rig, locked: list[LockedModel], keep: int) -> list[Leftover]:
    parents = [layout.RELEASES, layout.WORK, layout.CUDA]
    units = host.get_fact(Units, health={})
    # Including units of models that are no longer declared: the owner may start them by hand.
    users = {name: "\n".join([unit.text, *unit.arguments]) for name, unit in units.items()}
    users |= {f"the running job {name}": job.text for name, job in host.get_fact(RunningJobs).items()}
    # And other units, drop-ins, and presets, which another llama-server may read.
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
