"""The cards: whether their driver and the builds go together, said before an hour of compiling; their power limits."""

from __future__ import annotations

import io

from pyinfra import logger
from pyinfra.api.command import FileUploadCommand, FunctionCommand, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State
from pyinfra.context import host, state

from tasks.facts.gpus import Gpus
from tasks.facts.toolkits import ToolkitVersions
from tasks.facts.unit_files import UnitFile, UnitFiles
from tasks.operations import Commands, closes
from tasks.operations.once import read_once
from tasks.operations.refuse import refuse, report
from tasks.planning import layout
from tasks.planning.checks.gpu import CardsPresent, Driver, PowerLimit, Toolkit
from tasks.planning.gpu_power import PowerLimitError, power_differences, power_limits, service_text
from tasks.planning.gpu_use import of_cuda
from tasks.planning.gpus import Version, declared_toolkits, driver_difference, gpu_differences
from tasks.spec.rig import Rig


def read_toolkits(rig: Rig) -> dict[str, Version]:
    """Versions of the CUDA toolkits that builds declare by their path on the box."""
    paths = declared_toolkits(rig.builds)
    return read_once(ToolkitVersions, paths=paths) if paths else {}


@operation()
@closes(Toolkit, Driver)
def fit_the_builds(rig: Rig) -> Commands:
    """Every CUDA build can be compiled for, and run on, this box's cards. Never a change.

    A box without a usable driver is only told so: it may be building for later.
    """
    present = read_once(Gpus)
    unknown = [build.name for build in rig.builds if build.takes_architectures_of_cards]
    if unknown and present.gpus:
        # The driver came with this very deploy, whose builds were settled when it began.
        yield from refuse("the driver answers now: deploy again, and the builds are made for the cards it shows")
        return
    if unknown:
        yield from refuse(
            f"build {unknown[0]} is to be compiled for this box's cards, but {present.problem}: install the NVIDIA "
            'driver, or declare its architectures, for example ("89-real",)'
        )
        return
    differences = [
        str(difference) for difference in gpu_differences(rig.builds, of_cuda(rig, present), read_toolkits(rig))
    ]
    if differences:
        yield from refuse("build, CUDA toolkit and graphics card do not go together", differences)
        return
    if (difference := driver_difference(present)) is not None and state.is_executing:
        host.log_styled(str(difference), fg="yellow", log_func=logger.warning)
    host.noop("nothing stands between builds and cards")


@operation()
@closes(PowerLimit, CardsPresent, Driver)
def made_ready(rig: Rig) -> Commands:
    """Before any model, CUDA's devices are there and every card has its declared power limit: now and after a boot.

    A card for which none is declared has its default.
    """
    unit = read_once(UnitFiles, names=[layout.GPUS_UNIT]).get(layout.GPUS_UNIT, UnitFile())
    declared = any(card.power_limit_w for card in rig.host.gpus)
    cuda = any(build.backend == "cuda" for build in rig.builds)
    if not (declared or cuda):
        if unit.text:
            yield StringCommand("systemctl", "--quiet", "disable", "--now", layout.GPUS_UNIT)
            yield StringCommand("rm", f"{layout.UNITS}/{layout.GPUS_UNIT}")
            yield StringCommand("systemctl", "daemon-reload")
        else:
            host.noop("no NVIDIA card is declared")
        return
    try:
        limits = power_limits(rig.host.gpus, read_once(Gpus)) if declared else []
    except PowerLimitError as error:
        yield from refuse(str(error))
        return
    text, differences = service_text(limits, cuda), power_differences(limits)
    if unit.text == text and unit.active and unit.enabled and not unit.needs_reload and not differences:
        host.noop("the cards are ready, each with its declared power limit")
        return
    for difference in differences:
        host.log(difference.finding)
    if unit.active and unit.text != text:
        # By the words of the old text: a card that is no longer named gets its default back.
        yield StringCommand("systemctl", "stop", layout.GPUS_UNIT)
    if unit.text != text:
        yield FileUploadCommand(io.StringIO(text), f"{layout.UNITS}/{layout.GPUS_UNIT}")
        yield StringCommand("chmod", "644", f"{layout.UNITS}/{layout.GPUS_UNIT}")
    yield StringCommand("systemctl", "daemon-reload")
    yield StringCommand("systemctl", "--quiet", "enable", layout.GPUS_UNIT)
    yield StringCommand("systemctl", "restart", layout.GPUS_UNIT)
    if declared:
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
            "nvidia-smi has set the power limits and the cards do not have them: see "
            f"`journalctl -u {layout.GPUS_UNIT}`",
            [difference.finding for difference in still],
        )
    return not still
