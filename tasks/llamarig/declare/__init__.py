"""Constructors for group_data: each validates what it is given at once, and rig() returns plain data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from pydantic import ValidationError

from llamarig.declare.base import Declaration, constructor, declarations
from llamarig.declare.build import Build, GitSource, SdistSource
from llamarig.declare.front import Front, FrontAlias, FrontKey, behind_front
from llamarig.declare.host_policy import GpuCard, HostPolicy, NvidiaDriver
from llamarig.declare.mistakes import explain, near
from llamarig.declare.model import Model
from llamarig.declare.placement import AllOnGpu, Auto, CpuMoe, CpuOnly, Fit, Layers, Override
from llamarig.declare.rig import Hub, Rig
from llamarig.declare.serve import Serve
from llamarig.declare.serve.sampling import Sampling
from llamarig.declare.serve.speculation import Speculation
from llamarig.declare.simulated_gpu import SimulatedGpu
from llamarig.declare.upgrade_gate import UpgradeGate
from llamarig.declare.workload import Workload

P = ParamSpec("P")
D = TypeVar("D", bound=Declaration)


class DeclarationError(SystemExit):
    """An invalid declaration. Ends the run with its message, before any connection and without a traceback."""


def _caller() -> str:
    """``file:line`` of the declaration, relative to the working directory where it is below it."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    if frame is None:
        return "(unknown place)"
    path = Path(frame.f_code.co_filename)
    root = Path.cwd()
    shown = path.resolve().relative_to(root) if path.resolve().is_relative_to(root) else path
    return f"{shown}:{frame.f_lineno}"


def _constructor(cls: Callable[P, D]) -> Callable[P, D]:
    of = cast("type[Declaration]", cls)
    kind = constructor(of)

    def construct(*args: P.args, **kwargs: P.kwargs) -> D:
        if args:
            raise DeclarationError(f"{_caller()}: {kind}: a positional argument: write {kind}(field=value, ...)")
        try:
            return cls(*args, **kwargs)
        except ValidationError as error:
            name = kwargs.get("name")
            declared = f"{kind} {name!r}" if name else kind
            raise DeclarationError(explain(error, of, declared, _caller())) from None

    construct.__doc__ = cls.__doc__
    return construct


build = _constructor(Build)
git_source = _constructor(GitSource)
sdist_source = _constructor(SdistSource)
model = _constructor(Model)
serve = _constructor(Serve)
sampling = _constructor(Sampling)
speculation = _constructor(Speculation)
workload = _constructor(Workload)
front = _constructor(Front)
front_alias = _constructor(FrontAlias)
front_key = _constructor(FrontKey)
host_policy = _constructor(HostPolicy)
gpu_card = _constructor(GpuCard)
nvidia_driver = _constructor(NvidiaDriver)
simulated_gpu = _constructor(SimulatedGpu)
upgrade_gate = _constructor(UpgradeGate)
hub = _constructor(Hub)
all_on_gpu = _constructor(AllOnGpu)
auto = _constructor(Auto)
cpu_only = _constructor(CpuOnly)
layers = _constructor(Layers)
cpu_moe = _constructor(CpuMoe)
fit = _constructor(Fit)
override = _constructor(Override)
_rig = _constructor(Rig)


def rig(
    *,
    builds: Sequence[Build] = (),
    models: Sequence[Model] | None = None,
    default: str | None = None,
    presets: str | None = None,
    llama_swap: bool = False,
    front: Front | None = None,
    host: HostPolicy | None = None,
    hub: Hub | None = None,
    model_lock: str = "inventory/models.lock.json",
    bench_ledger: str = "inventory/bench.jsonl",
    plan_file: str = "inventory/plans.json",
    **unknown: Any,
) -> dict[str, Any]:
    """Return the declaration of a box as plain data, for pyinfra's host data.

    :raises DeclarationError: naming file, line, field, value and remedy
    """
    if models is None and not unknown:
        raise DeclarationError(
            f"{_caller()}: rig: models is missing: write models=[d.model(...)], or models=[] for a box that only "
            "builds llama.cpp"
        )
    listed = () if models is None else models
    for name, value in (("builds", builds), ("models", listed)):
        if not isinstance(value, (list, tuple)):
            raise DeclarationError(f"{_caller()}: rig: {name} is no list: write {name}=[d.{name[:-1]}(...)]")
    declared = _rig(
        builds=tuple(builds),
        models=tuple(listed) if front is None else behind_front(listed),
        default=default,
        presets=presets,
        llama_swap=llama_swap,
        front=front,
        host=host or HostPolicy(),
        hub=hub or Hub(),
        model_lock=model_lock,
        bench_ledger=bench_ledger,
        plan_file=plan_file,
        **unknown,
    )
    return declared.to_json()


def __getattr__(name: str) -> Any:
    """Refuse ``d.modle(...)`` with the nearest constructor."""
    if name.startswith("_"):
        raise AttributeError(name)
    constructors = [constructor(one) for one in declarations(Rig)]
    raise DeclarationError(
        f"{_caller()}: d.{name}: there is no such declaration{near(name, constructors)}: write one of "
        f"{', '.join(constructors)}"
    )
