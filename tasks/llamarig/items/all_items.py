"""All items of a deploy, in order."""

from __future__ import annotations

from llamarig.engine.item import Item
from llamarig.items.abandoned_jobs import NoAbandonedJobs
from llamarig.items.base_system import Directories, Programs, ServiceUser
from llamarig.items.compilers import CompilableToolkits, CompilableToolkitsInstalled
from llamarig.items.cuda_toolkits import CudaToolkits
from llamarig.items.declarations import (
    WorkableDeclarations,
    WorkableDeclarationsFetched,
    WorkableDeclarationsLocked,
)
from llamarig.items.finished_work import FinishedWork
from llamarig.items.front import FrontEnvironment, FrontKeys, FrontService
from llamarig.items.gpu_setup import GpuSetup
from llamarig.items.graphics_cards import SupportedCards
from llamarig.items.key_files import UsableKeyFiles
from llamarig.items.liveness_probe import LivenessProbe
from llamarig.items.model_files import FetchedModels
from llamarig.items.model_lock import LockedModels
from llamarig.items.model_units import ServedModels
from llamarig.items.nvidia_driver import NvidiaDriverInstalled
from llamarig.items.packages import Packages
from llamarig.items.plans import Measurements, ReadablePlanFile, ValidPlans
from llamarig.items.presets import LlamaSwapConfig, ModelPresets
from llamarig.items.python import Python
from llamarig.items.releases import WholeReleases
from llamarig.items.rocm import RocmInstalled
from llamarig.items.shared_releases import PackedReleases, ReceivedReleases, RequestedReleases
from llamarig.items.simulated_gpus import SimulatedGpus
from llamarig.items.swappiness import Swappiness
from llamarig.items.switch_recovery import InterruptedSwitches
from llamarig.items.unit_overrides import NoUnitOverrides
from llamarig.items.virtual_environments import HubClient
from llamarig.items.web_ui_tools import NodeInstalled

ITEMS: tuple[Item, ...] = (
    # First what only the owner can fix, before hours of downloads and builds.
    UsableKeyFiles(),
    ReadablePlanFile(),
    WorkableDeclarations(),
    FrontKeys(),
    NoUnitOverrides(),
    NoAbandonedJobs(),
    Swappiness(),
    GpuSetup(),
    ServiceUser(),
    Directories(),
    Programs(),
    CompilableToolkits(),
    NvidiaDriverInstalled(),
    Packages(),
    Python(),
    NodeInstalled(),
    # Before long work: what an interrupted deploy had stopped must not be down until the builds of this one end.
    InterruptedSwitches(),
    RocmInstalled(),
    CompilableToolkitsInstalled(),
    SupportedCards(),
    HubClient(),
    FrontEnvironment(),
    CudaToolkits(),
    # Builds and downloads run in parallel on the box; FinishedWork waits for both.
    RequestedReleases(),
    WholeReleases(),
    LockedModels(),
    WorkableDeclarationsLocked(),
    FetchedModels(),
    FinishedWork(),
    PackedReleases(),
    ReceivedReleases(),
    SimulatedGpus(),
    # Declared placements come before plans: their RAM use decides how much a plan may pin.
    Measurements(),
    ValidPlans(),
    WorkableDeclarationsFetched(),
    ServedModels(),
    ModelPresets(),
    LlamaSwapConfig(),
    # Its models have to be served before, since they get the keys that it uses.
    FrontService(),
    LivenessProbe(),
)
