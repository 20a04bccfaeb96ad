"""Take a box back: list what is llamarig's on it, and remove it once the owner says so."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra.api.command import FunctionCommand, QuoteString, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State
from pyinfra.context import host, state

from llamarig.checks.leftovers import CannotDeleteError, Leftover, chosen, stored_models
from llamarig.engine.item import Commands
from llamarig.engine.refuse import refuse, while_answered
from llamarig.engine.run import ask, conclude
from llamarig.engine.screen import say
from llamarig.facts.installation import DIRECTORIES, Installation, Installed
from llamarig.facts.jobs import RunningJob, RunningJobs
from llamarig.facts.model_store import ModelStore
from llamarig.facts.references import OpenPaths, References
from llamarig.render import layout
from llamarig.render.front import USER as FRONT_USER
from llamarig.render.model_paths import GIB

BOX = "box"
"""The name of everything but model files."""
_JOBS = "llamarig-job-*"
_STAY = (
    "packages of the distribution, and a driver with its hold, stay: remove what nothing else needs with its package "
    "manager"
)


@operation()
@while_answered
def box_taken_back(names: tuple[str, ...] = (), takeover: bool = False) -> Commands:
    """List everything; remove what is named, never what somebody else's unit or process uses.

    :param names: BOX, and names of model files
    :param takeover: stop jobs that run
    """
    found, jobs = ask(Installed), ask(RunningJobs)
    of_others = _users(BOX in names)
    models = stored_models(ask(ModelStore).files, of_others)
    if state.is_executing:
        for line in _listing(found, models):
            say(host, line)
        conclude(state.inventory.get_host(host.name), _nothing_removed(found, models))
    try:
        wanted = chosen([name for name in names if name != BOX], models)
    except CannotDeleteError as error:
        yield from refuse(str(error))
        return
    if BOX in names and (reason := _in_the_way(of_others, jobs, takeover=takeover)):
        yield from refuse(reason)
        return
    if not names or (found.is_empty and not wanted):
        host.noop("nothing is named for deletion" if not names else "there is nothing of llamarig's")
        return
    if state.is_executing:
        everything = ["all models and jobs are stopped, and everything but model files is removed"] * (BOX in names)
        for line in [*everything, *(f"deleting {leftover.name}" for leftover in wanted)]:
            say(host, line)
    if BOX in names:
        yield from _remove(found)
    if wanted:
        yield StringCommand("rm", "-f", "--", *(QuoteString(path) for leftover in wanted for path in leftover.paths))
    yield StringCommand(
        f"for d in {layout.MODELS} {layout.STATE}; do test -d $d && "
        "find $d -xdev -depth -type d -empty -delete; done; rmdir /etc/llamarig 2>/dev/null; true"
    )
    yield FunctionCommand(_removed, [BOX in names, tuple(leftover.name for leftover in wanted), models], {})


def _nothing_removed(found: Installation, models: Sequence[Leftover]) -> str:
    """What is there, before anything is removed."""
    if found.is_empty and not models:
        return "nothing of llamarig's is on this box"
    files = sum(leftover.size for leftover in models) / GIB
    size = sum(found.sizes.values()) / GIB
    return f"{size:.2f} GiB of llamarig's, and {files:.2f} GiB of model files; nothing was removed"


def _removed(state: State, host: Host, box: bool, files: Sequence[str], models: Sequence[Leftover]) -> None:
    """Say at the end what is gone, and what has stayed."""
    stay = sum(leftover.size for leftover in models if leftover.name not in files) / GIB
    gone = [*(["everything but model files"] if box else []), *files]
    conclude(host, f"removed {', '.join(gone)}; {stay:.2f} GiB of model files stay")


def _users(without_ours: bool) -> dict[str, str]:
    """Units and processes -> the paths below our directories that they name.

    :param without_ours: leave out our own units, which are removed first
    """
    parents = [layout.RELEASES, layout.CUDA, layout.MODELS]
    references = ask(References, parents=parents)
    found = {
        name: text
        for name, text in references.items()
        if not name.startswith((f"{layout.PROOFS}/", f"{layout.PRESETS}/"))
        and not (without_ours and name.startswith(("llamarig-", "llamarig_")))
    }
    if not without_ours:
        found["a running process"] = ask(OpenPaths, parents=parents)
    return found


def _in_the_way(of_others: dict[str, str], jobs: dict[str, RunningJob], *, takeover: bool) -> str:
    """Why the box cannot be taken back now; empty where it can."""
    if of_others:
        named = ", ".join(sorted(of_others))
        return f"{named} uses files of llamarig's on this box: change or remove it first; nothing was deleted"
    if jobs and not takeover:
        running = ", ".join(f"{name}{job.by_and_since}" for name, job in sorted(jobs.items()))
        return f"jobs run on this box ({running}): wait for their end, or stop them with --data takeover=1"
    return ""


def _listing(found: Installation, models: Sequence[Leftover]) -> list[str]:
    if found.is_empty and not models:
        return ["nothing of llamarig's is on this box"]
    lines = [f"unit {name}: {status}" for name, status in sorted(found.units.items())]
    by_size = sorted(found.sizes.items(), key=lambda row: (-row[1], row[0]))
    lines += [f"{size / GIB:8.2f} GiB  {path}" for path, size in by_size if size >= GIB / 1024]
    small = sum(size for _, size in by_size if size < GIB / 1024)
    lines += [f"{small / GIB:8.2f} GiB  smaller directories of {', '.join(DIRECTORIES)}"] if small else []
    lines += [f"setting {path}" for path in found.settings]
    lines += [f"user {layout.USER}"] if found.has_user else []
    total = sum(found.sizes.values()) / GIB
    if not found.is_empty:
        lines.append(f"all of this, {total:.2f} GiB, is removed with --data delete={BOX}; models are stopped for it")
    lines += [str(leftover) for leftover in models]
    if models:
        lines.append("model files stay unless they are named, as --data delete=box,models/...")
    lines += [f"{path} leads to {target}, whose files stay" for path, target in sorted(found.links.items())]
    lines += [f"{path} is yours, and stays" for path in found.owners]
    return [*lines, _STAY]


def _remove(found: Installation) -> Commands:
    """Stop and remove units first, then files, then the user who owns none of them."""
    yield StringCommand("systemctl", "stop", "--quiet", QuoteString(_JOBS))
    # What starts other units goes before them. A template has no instance to stop.
    timers_first = sorted(found.units, key=lambda name: (not name.endswith((".timer", ".socket")), name))
    if timers_first:
        named = [name for name in timers_first if "@" not in name]
        yield StringCommand("systemctl", "disable", "--quiet", "--now", *named)
        yield StringCommand("rm", "-f", "--", *(f"{layout.UNITS}/{name}" for name in timers_first))
    yield StringCommand("systemctl daemon-reload && systemctl reset-failed 'llamarig[-_]*' 2>/dev/null; true")
    # What is below a link is on a disk that the owner has chosen, and may not be ours alone.
    paths = [path for path in found.sizes if path not in found.links]
    if paths:
        yield StringCommand("rm", "-rf", "--one-file-system", "--", *(QuoteString(path) for path in sorted(paths)))
    if links := sorted(path for path in found.links if path != layout.MODELS):
        yield StringCommand("rm", "-f", "--", *links)
    if found.settings:
        yield StringCommand("rm", "-rf", "--", *found.settings)
    yield StringCommand("rm", "-rf", "--", layout.SECRETS, f"{layout.MODELS}/.partial/.lock")
    yield StringCommand(f"rmdir /opt/llamarig {layout.CACHE} 2>/dev/null; true")
    if layout.FRONT in found.settings:
        yield StringCommand(f"id -u {FRONT_USER} >/dev/null 2>&1 && userdel {FRONT_USER}; true")
    if found.has_user:
        yield StringCommand("userdel", layout.USER)
