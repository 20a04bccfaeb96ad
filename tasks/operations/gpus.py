"""The cards: whether their driver and the builds go together, said before an hour of compiling; their power limits."""

from __future__ import annotations

import io

from pyinfra import logger
from pyinfra.api.command import FileUploadCommand, FunctionCommand, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State
from pyinfra.context import host, state

from tasks.facts.gpus import Gpus, ToolkitVersions
from tasks.facts.unit_files import UnitFile, UnitFiles
from tasks.operations import Commands, closes
from tasks.operations.once import read_once
from tasks.operations.refuse import refuse, report
from tasks.planning import layout
from tasks.planning.checks.gpu import CardsPresent, Driver, PowerLimit, Toolkit
from tasks.planning.gpu_power import SERVICE, PowerLimitError, power_differences, power_limits, service_text
from tasks.planning.gpus import gpu_differences
from tasks.spec.rig import Rig


def read_toolkits(rig: Rig) -> dict[str, str]:
    """Versions of the CUDA toolkits that builds declare by their path on the box."""
    paths = sorted({path for build in rig.builds if (path := build.cuda_toolkit or "").startswith("/")})
    return host.get_fact(ToolkitVersions, paths=paths) if paths else {}


@operation()
@closes(Toolkit, Driver)
def fit_the_builds(rig: Rig) -> Commands:
    """Every CUDA build can be compiled for, and run on, this box's cards. Never a change.

    A box without a usable driver is only told so: it may be building for later.
    """
    present = read_once(Gpus)
    unknown = [build.name for build in rig.builds if build.takes_architectures_of_cards]
    if unknown:
        yield from refuse(
            f"build {unknown[0]} is to be compiled for this box's cards, but {present.problem}: install the NVIDIA "
            'driver, or declare its architectures, for example ("89-real",)'
        )
        return
    differences = [str(difference) for difference in gpu_differences(rig.builds, present, read_toolkits(rig))]
    if present.problem:
        if state.is_executing:
            for line in differences:
                host.log_styled(line, fg="yellow", log_func=logger.warning)
    elif differences:
        yield from refuse("build and graphics card do not go together", differences)
        return
    host.noop("nothing stands between builds and cards")


@operation()
@closes(PowerLimit, CardsPresent)
def power_limited(rig: Rig) -> Commands:
    """Every card has its declared power limit, now and after a boot; the driver's default where none is declared."""
    unit = read_once(UnitFiles, names=[SERVICE]).get(SERVICE, UnitFile())
    if not any(card.power_limit_w for card in rig.host.gpus):
        if unit.text:
            host.log("no power limit is declared any more: the cards get their defaults back")
            yield StringCommand("systemctl", "--quiet", "disable", "--now", SERVICE)
            yield StringCommand("rm", f"{layout.UNITS}/{SERVICE}")
            yield StringCommand("systemctl", "daemon-reload")
        else:
            host.noop("no power limit is declared")
        return
    try:
        limits = power_limits(rig.host.gpus, read_once(Gpus))
    except PowerLimitError as error:
        yield from refuse(str(error))
        return
    text, differences = service_text(limits), power_differences(limits)
    if unit.text == text and unit.active and unit.enabled and not unit.needs_reload and not differences:
        host.noop("every card has its declared power limit")
        return
    for difference in differences:
        host.log(difference.finding)
    if unit.text != text:
        yield FileUploadCommand(io.StringIO(text), f"{layout.UNITS}/{SERVICE}")
        yield StringCommand("chmod", "644", f"{layout.UNITS}/{SERVICE}")
    yield StringCommand("systemctl", "daemon-reload")
    yield StringCommand("systemctl", "--quiet", "enable", SERVICE)
    yield StringCommand("systemctl", "restart", SERVICE)
    yield FunctionCommand(_read_back, [rig], {})


def _read_back(state: State, host: Host, rig: Rig) -> bool:
    """nvidia-smi may accept a limit that the card then does not take."""
    try:
        still = power_differences(power_limits(rig.host.gpus, read_once(Gpus, fresh=True)))
    except PowerLimitError as error:
        report(host, str(error))
        return False
    if still:
        report(
            host,
            f"nvidia-smi has set the power limits and the cards do not have them: see `journalctl -u {SERVICE}`",
            [difference.finding for difference in still],
        )
    return not still
