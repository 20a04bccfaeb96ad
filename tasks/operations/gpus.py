"""The cards, their driver and the builds that are to run on them: said before an hour is spent compiling."""

from __future__ import annotations

from pyinfra import logger
from pyinfra.api.operation import operation
from pyinfra.context import host, state

from tasks.facts.gpus import Gpus
from tasks.facts.toolkits import ToolkitVersions
from tasks.operations import Commands
from tasks.operations.refuse import refuse
from tasks.planning.gpus import declared_toolkits, driver_difference, gpu_differences
from tasks.spec.rig import Rig


@operation()
def fit_the_builds(rig: Rig) -> Commands:
    """Every CUDA build can be compiled for, and run on, this box's cards. Never a change.

    A box without a usable driver is only told so: it may be building for later.
    """
    present = host.get_fact(Gpus)
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
    paths = declared_toolkits(rig.builds)
    toolkits = host.get_fact(ToolkitVersions, paths=paths) if paths else {}
    differences = [str(difference) for difference in gpu_differences(rig.builds, present, toolkits)]
    if differences:
        yield from refuse("build, CUDA toolkit and graphics card do not go together", differences)
        return
    if (difference := driver_difference(present)) is not None and state.is_executing:
        host.log_styled(str(difference), fg="yellow", log_func=logger.warning)
    host.noop("nothing stands between builds and cards")
