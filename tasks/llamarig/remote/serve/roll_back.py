"""Undoes an unfinished switch: restores the unit files and what starts at boot, and starts what served before.

Every step is tried whatever became of the one before: a model that serves again matters more than a file that could not
be written.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from llamarig.remote.serve import model_units
from llamarig.remote.serve.first_start import remove_verbose_log
from llamarig.remote.serve.model_units import (
    log_of,
    set_identity,
    set_start_at_boot,
    state_of,
    stop,
    systemctl,
    wait_until_healthy,
)
from llamarig.remote.serve.port_in_use import await_left_connections, could_not_bind
from llamarig.remote.serve.switch_journal import (
    FileBefore,
    Journal,
    copy_of,
    delete_journal,
    is_committed,
)
from llamarig.remote.shared.durable import replace_file
from llamarig.remote.shared.job_status import Progress

_LEAST_LOAD_TIMEOUT_S = 900
"""Seconds to wait at least for the restored models to load."""


def roll_back(directory: Path, journal: Journal, progress: Progress, *, began: float | None) -> str:
    """Restore what served, wait until it answers, and describe the result.

    :param directory: where the journal is
    :param began: monotonic time when what served was stopped, None where nothing was stopped yet
    """
    progress.must_write = False  # a full disk may be the reason for the failure
    progress.step("restoring what served before")
    trouble, started, down = _restore(directory, journal, restart=began is not None)
    timeout = max(_LEAST_LOAD_TIMEOUT_S, journal.load_timeout_s)
    silent = [name for name in started if not wait_until_healthy(name, timeout, progress)]
    # Connections of the server that has failed may have kept an older build from binding the port; they may have ended
    # meanwhile.
    unbound = [name for name in silent if could_not_bind(log_of(name))]
    if silent and (await_left_connections(journal.port, progress) or unbound):
        for name in silent:
            systemctl("reset-failed", name)
            systemctl("restart", "--no-block", name)
        silent = [name for name in silent if not wait_until_healthy(name, timeout, progress)]
    down += silent
    away = f"; it was away for {time.monotonic() - began:.0f} s" if began is not None else ""
    return _result(directory, journal, trouble, started, down, f" serves again as before{away}")


def roll_back_now(directory: Path, journal: Journal) -> str:
    """Restore what served without waiting for answers, for a program that may be killed. Describe the result."""
    trouble, started, down = _restore(directory, journal, restart=False)
    return _result(directory, journal, trouble, started, down, ", which served before, was started again")


def roll_back_at_boot(directory: Path, journal: Journal) -> str:
    """Restore the unit files and what starts at boot, before systemd starts the models. Describe the result."""
    trouble = _restore_units(journal)
    for one in journal.units:
        # Not waited for: systemd starts models only after the unit that runs this program has ended.
        systemctl("start" if one.enabled else "stop", "--no-block", one.unit)
    if not trouble:
        delete_journal(directory, journal)
    return "; ".join(trouble) or f"an interrupted switch of {journal.unit} was undone"


def _restore(directory: Path, journal: Journal, *, restart: bool) -> tuple[list[str], list[str], list[str]]:
    """Return what went wrong, the units that serve or were started, and those that do not start.

    :param restart: also where all that served seems to serve still
    """
    if is_committed(directory, journal):
        return [], [], []
    untouched = all(map(_is_restored, journal.files)) and all(_is_active(name) for name in journal.served)
    stopped = stop(journal.unit) if restart or not untouched else True
    trouble = _restore_units(journal) + ([] if stopped else [f"{journal.unit} does not stop (systemctl stop failed)"])
    # Without its old file the unit would start what has just failed.
    wanted = [name for name in journal.served if name != journal.unit or _is_restored(journal.files[0])]
    down = [name for name in journal.served if name not in wanted]
    for name in wanted:
        systemctl("reset-failed", name)
    # A start ends when the model answers, which the caller may wait for.
    started = [name for name in wanted if systemctl("start", "--no-block", name) == 0]
    return trouble, started, down + [name for name in wanted if name not in started]


def _is_active(unit: str) -> bool:
    return state_of(unit)["ActiveState"] in ("active", "activating")


def _restore_units(journal: Journal) -> list[str]:
    """Restore the unit files and what is enabled; return what went wrong."""
    # Before its file is gone: systemctl may refuse to disable a unit without one.
    trouble = [set_start_at_boot(one.unit, False) for one in journal.units if not one.enabled]
    with contextlib.suppress(OSError):
        remove_verbose_log(journal.unit)
    trouble += map(_restore_file, journal.files)
    if systemctl("daemon-reload"):
        # What served is started all the same: systemd may run the text it read before, which is better than no server.
        trouble.append(f"systemd did not reload {journal.unit} (systemctl daemon-reload failed)")
    trouble += [set_start_at_boot(one.unit, True) for one in journal.units if one.enabled]
    return [one for one in trouble if one]


def _restore_file(before: FileBefore) -> str:
    file, copy = model_units.UNITS / before.unit, copy_of(before.unit)
    try:
        if before.text is None:
            file.unlink(missing_ok=True)
        elif not _is_restored(before):
            if copy.exists():
                copy.replace(file)
            else:
                replace_file(file, before.text, mode=0o644)
                set_identity(file, before.identity)
    except OSError as error:
        return f"the old unit file of {before.unit} could not be restored ({error.strerror}: {error.filename})"
    return ""


def _is_restored(before: FileBefore) -> bool:
    """Whether the unit file is the old one."""
    try:
        return (model_units.UNITS / before.unit).read_text() == before.text
    except OSError:
        return False


def _result(
    directory: Path, journal: Journal, trouble: list[str], started: list[str], down: list[str], ending: str
) -> str:
    if is_committed(directory, journal):
        delete_journal(directory, journal)
        return f"{journal.unit} had already been switched and serves"
    running = [name for name in started if name not in down]
    if trouble and running:
        trouble.append(f"{', '.join(running)} was started again")
    if down:
        trouble.append(f"{', '.join(down)}, which served before, does not start either: see `journalctl -u {down[0]}`")
    if trouble:
        return "; ".join(trouble)
    delete_journal(directory, journal)
    return f"{', '.join(started)}{ending}" if started else "nothing served before, nothing serves now"
